"""Layer criticality: how much worse a model gets when some of its layers are reset, rounded or otherwise changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Batch, Better, Outputs
from holdfast.core.errors import InputError, NonFiniteError
from holdfast.surgery.owned import Layer, swapped
from holdfast.surgery.prefix import Prefix, agrees
from holdfast.surgery.tapped import evaluating
from holdfast.weights.exam import looks_quantile, remaining_slack
from holdfast.weights.tree import State

__all__ = ["Change", "Finding", "Questions", "reset", "sweep"]

Judge = Callable[[Outputs, Outputs, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One alteration of some layers.

    Args:
        kind: what is done, e.g. ``"reinit 0"`` or ``"fp16"``.
        layer: to which layer, or a name for several.
        modules: dotted names of the modules whose outputs may differ.
        entered: gives a context in which the model is changed, and after which it is the same bits.
    """

    kind: str
    layer: str
    modules: frozenset[str]
    entered: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What every changed model is asked.

    Args:
        model: the model; it is asked in eval mode and without gradients.
        size: number of samples.
        batch: ``indices int64 (m,) -> batch``.
        forward: ``(model, batch) -> outputs``.
        judge: ``(outputs, outputs of the unchanged model, batch) -> {name: float (m,)}``; the first name decides, NaN
            marks samples to which it does not apply.
        better: direction of the first name's values.
        block: samples at a time; early decisions fall between blocks. Default 256.
        seed: of the order in which samples are asked; data sorted by class would bias an early decision.
    """

    model: nn.Module
    size: int
    batch: Callable[[Tensor], Batch]
    forward: Callable[[nn.Module, Batch], Outputs]
    judge: Judge
    better: Better = "higher"
    block: int = 256
    seed: int = 0

    def order(self) -> Tensor:
        """Indices int64 (size,) in the order asked."""
        return torch.randperm(self.size, generator=torch.Generator().manual_seed(self.seed))


@dataclass(kw_only=True)
class Finding:
    """What became of a changed model.

    Args:
        change: the change.
        values: by name, float64 (n,) in the order asked.
        reference: the same of the unchanged model.
        damage: mean of the first name's values, how much worse than unchanged; positive is worse.
        error: standard error of ``damage``, 0 when every sample was asked.
        critical: the damage exceeds the tolerance.
    """

    change: Change
    values: dict[str, np.ndarray] = field(default_factory=dict)
    reference: dict[str, np.ndarray] = field(default_factory=dict)
    damage: float = math.nan
    error: float = math.nan
    critical: bool = False

    @property
    def asked(self) -> int:
        """Samples asked."""
        return len(next(iter(self.values.values()), ()))


def reset(model: nn.Module, layers: Sequence[Layer], state: State, *, kind: str, name: str = "") -> Change:
    """The change that gives some layers the weights and biases of another state; buffers stay as they are.

    Args:
        model: the model.
        layers: one, or several to be reset jointly.
        state: a checkpoint, or fresh draws.
        kind: see `Change`.
        name: for several layers; default their names joined by ``+``.

    Raises:
        InputError: the state lacks one of the layers' parameters.
    """
    parameters = [name for layer in layers for name in layer.parameters]
    if missing := [name for name in parameters if name not in state]:
        raise InputError(f"the state has no {missing[0]!r}", where=kind, fix="give a checkpoint of this architecture")
    tensors = {name: state[name] for name in parameters}
    return Change(
        kind=kind, layer=name or "+".join(layer.name for layer in layers),
        modules=frozenset(module for layer in layers for module in layer.modules),
        entered=lambda: swapped(model, tensors),
    )  # fmt: skip


def sweep(questions: Questions, changes: Iterable[Change], *, tolerance: float, risk: float = 0.01,
          cached: bool = True) -> list[Finding]:  # fmt: skip
    """Ask the unchanged model and every changed one, each only as far as its verdict needs.

    ``damage = +-(mean(changed) - mean(unchanged))`` on the same samples; *critical* where it exceeds ``tolerance``
    (Zhang, Bengio and Singer 2022: *critical* against *robust* layers). After ``m`` of ``N`` samples the final damage
    lies within ``d_m +- z s_m sqrt(1/m - 1/N)``; a change whose interval lies on one side of the tolerance is asked no
    further. Calls before the first changed layer are computed once for all changes, see `Prefix`; where a trial on
    two samples shows that this would change a bit, the change is run in full.

    Args:
        questions: samples and what is asked.
        changes: what is done to the model; several draws of one kind are several changes.
        tolerance: in the unit of the first judged name.
        risk: chance that a verdict differs from that on all samples; 0 asks every sample. Default 0.01.
        cached: serve what comes before the first changed layer. Default True.

    Raises:
        InputError: no samples.
        NonFiniteError: a value of the unchanged model is infinite.
    """
    if questions.size < 1:
        raise InputError("no samples to ask", where="criticality")
    findings = [Finding(change=change) for change in changes]
    with evaluating(questions.model), torch.no_grad():
        served = _Served(questions, [finding.change for finding in findings], cached=cached)
        open_findings = findings
        for indices in torch.split(questions.order(), questions.block):
            open_findings = _block(questions, served, open_findings, indices, tolerance, risk)
            if not open_findings:
                break
    return findings


class _Served:
    """Where each change begins, and forwards that begin there."""

    def __init__(self, questions: Questions, changes: Sequence[Change], *, cached: bool) -> None:
        self._questions = questions
        two = questions.batch(questions.order()[:2])
        self._prefix = Prefix(questions.model, lambda: questions.forward(questions.model, two))
        # Recorded again: by now it is known which outputs need copies.
        self.unchanged(two)
        self._first = {id(change): self._begin(change, two) if cached else 0 for change in changes}

    def _begin(self, change: Change, two: Batch) -> int:
        first = self._prefix.first_call(change.modules)
        with change.entered():
            return first if agrees(self._prefix, lambda: self._forward(two), first) else 0

    def _forward(self, batch: Batch) -> Outputs:
        return self._questions.forward(self._questions.model, batch)

    def unchanged(self, batch: Batch) -> Outputs:
        """Outputs of the model as it is; what `changed` serves from."""
        return self._prefix.record(lambda: self._forward(batch))

    def changed(self, change: Change, batch: Batch) -> Outputs:
        """Outputs of the changed model on the same batch."""
        with change.entered():
            if self._first[id(change)] == 0:
                return self._forward(batch)
            return self._prefix.replay(lambda: self._forward(batch), self._first[id(change)])


def _block(questions: Questions, served: _Served, findings: Sequence[Finding], indices: Tensor, tolerance: float,
           risk: float) -> list[Finding]:  # fmt: skip
    """Ask one block and return the findings that are still open."""
    batch = questions.batch(indices)
    unchanged = served.unchanged(batch)
    reference = _arrays(questions.judge(unchanged, unchanged, batch))
    if np.isinf(next(iter(reference.values()))).any():
        raise NonFiniteError("a value of the unchanged model is infinite", where="criticality",
                             fix="look at the weights and the data first")  # fmt: skip
    still_open = []
    for finding in findings:
        values = _arrays(questions.judge(served.changed(finding.change, batch), unchanged, batch))
        finding.values = _joined(finding.values, values)
        finding.reference = _joined(finding.reference, reference)
        if not _decide(finding, questions, tolerance, risk):
            still_open.append(finding)
    return still_open


def _decide(finding: Finding, questions: Questions, tolerance: float, risk: float) -> bool:
    """Bring a finding up to date; whether its verdict is final."""
    values, reference = (next(iter(part.values())) for part in (finding.values, finding.reference))
    asked, sign = len(values), 1.0 if questions.better == "higher" else -1.0
    gaps = sign * (reference - values)
    gaps = gaps[~np.isnan(gaps)]  # samples to which the metric does not apply
    if not len(gaps) or np.isinf(gaps).any():
        # Nothing is defined any more, or everything is lost: broken, whatever the tolerance.
        finding.damage, finding.error, finding.critical = (math.inf if len(gaps) else math.nan), 0.0, True
        return asked == questions.size or (risk > 0 and len(gaps) > 0)
    spread = float(gaps.std(ddof=1)) if len(gaps) > 1 else 0.0
    finding.damage = float(gaps.mean())
    finding.error = remaining_slack(spread, asked, questions.size, 1.0)
    finding.critical = finding.damage > tolerance
    z = looks_quantile(math.ceil(questions.size / questions.block), risk)
    slack = remaining_slack(spread, asked, questions.size, z)
    return asked == questions.size or (spread > 0 and abs(finding.damage - tolerance) > slack)


def _arrays(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().double().cpu().numpy() for name, value in values.items()}


def _joined(before: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([before[name], value]) if before else value for name, value in new.items()}
