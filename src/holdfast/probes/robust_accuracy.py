"""Robust accuracy: which share of the samples does no attack of an ensemble break, and can that be trusted?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from holdfast.core.contracts import Attack, Batch, Measurement, Outputs
from holdfast.core.discover import build
from holdfast.core.errors import BackendError, InputError
from holdfast.probes.aimed import ZERO_SHARE, Aimed, aimed, doubts, first
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import batch_size, by_pieces

__all__ = ["RobustAccuracy"]

SURVIVED, CLEAN = -2, -1
Engine: TypeAlias = Callable[[Any, Batch], Outputs]
WORTH = 1_000_000
"""Forwards of a sample from which a translation is worth its seconds for a small convolutional network."""
BLIND_SHARE = 0.01
"""Share of samples that an attack without gradients may add before those with gradients are doubted."""


@dataclass(frozen=True, kw_only=True)
class RobustAccuracy:
    """The share of samples that fail under the strongest of several attacks, one row per budget, and who broke them.

    Each attack sees only what the ones before it left over. ``failed`` counts what fails without an attack, too;
    ``broken_by_X`` what attack X added. Doubts become flags: ``zero_gradient``, ``gradient_masking`` (more steps do
    less harm, or an attack without gradients breaks what those with gradients left over), ``random_outputs``,
    ``probabilities``. Inputs outside the declared range are refused.

    Args:
        attacks: plug-ins of ``attacks/`` in their order; their ``eps`` and ``norm`` are replaced. Default:
            ``autoattack``, the standard ensemble, for four classes and more; ``apgd``, ``fab``, ``square`` for fewer;
            ``apgd`` and ``pgd`` with three starts for any other task. Rows name what was run.
        steps: of the default attacks. Default 100; with fewer it is not the standard.
        queries: of Square among the default attacks. Default 5000; with fewer it is not the standard.
        eps: budgets in units of the leaf.
        norm: ``"linf"`` (default) or ``"l2"``.
        split: which split; ``report`` unless the attack is used to choose.
        samples: how many samples, spread evenly over the split. Default 256; published numbers use 1000 and more.
        tap: attack what is added to an inner tensor instead, e.g. ``embedding``: the output of that layer, or with
            ``:input`` its first input. Its unit is 1.
        engine: what attacks find their way with; what breaks a sample is decided by the model itself in any case.
            ``"eager"``: the model. ``"onnxruntime"``: its translation with gradients, which halves the time of small
            models on a CPU and takes some seconds to make. ``"auto"`` (default): that, where it can be had and there is
            enough to do on a CPU.
        piece: samples attacked together; halved where the memory does not suffice.
        seed: of random starts.

    Papers: Croce, Hein, ICML 2020; for the doubts, Carlini et al., "On evaluating adversarial robustness", 2019.
    """

    attacks: tuple[Any, ...] = ()
    steps: int = 100
    queries: int = 5000
    eps: tuple[float, ...] = (8.0,)
    norm: Literal["linf", "l2"] = "linf"
    split: str = "report"
    samples: int = 256
    tap: str = ""
    engine: Literal["auto", "eager", "onnxruntime"] = "auto"
    piece: int = 256
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per budget for all attacks together, and one for each of them."""
        batch = bench.spread(self.split, bench.preprocessing[0], limit=self.samples)
        specs = self.attacks or self._default(bench, batch)
        engine = self._engine(bench, batch, self._members(specs, 0.0))
        for eps in self.eps:
            members = self._members(specs, eps)
            parts = by_pieces(batch, self.piece, partial(self._attacked, bench, members, engine))
            verdict = torch.cat([part for part, _ in parts])
            zeros = sum(count for _, count in parts)
            flags = self._flags(bench, batch, members, eps, verdict, zeros)
            yield from self._rows(bench, batch, eps, specs, list(members), verdict, flags)

    def _default(self, bench: Bench, batch: Batch) -> tuple[Any, ...]:
        """What suits the task."""
        steps, queries = {"steps": self.steps}, {"queries": self.queries}
        if bench.task.labels is None:
            return {"apgd": steps}, {"pgd": {**steps, "restarts": 3}}
        with torch.no_grad():
            logits = bench.task.forward(bench.model, first(batch, 2))
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] < 4:
            return {"apgd": {**steps, "loss": "ce"}}, {"fab": steps}, {"square": queries}
        standard = (self.steps, self.queries) == (100, 5000)
        return ("autoattack" if standard else {"autoattack": {**steps, **queries}},)

    def _members(self, specs: tuple[Any, ...], eps: float) -> dict[str, Attack]:
        """The attacks by name; an ensemble gives its own."""
        members: dict[str, Attack] = {}
        for spec in specs:
            attack = replace(build("attack", spec), eps=eps, norm=self.norm)
            for member in attack.members() if hasattr(attack, "members") else [attack]:
                name = type(member).__name__.lower()
                members[name if name not in members else f"{name}_{len(members)}"] = member
        return members

    def _attacked(self, bench: Bench, members: dict[str, Attack], engine: Engine | None, _: int,
                  batch: Batch) -> tuple[Tensor, int]:  # fmt: skip
        """By sample which attack broke it, and how many samples had no gradient."""
        target = self._target(bench, batch)
        if engine is not None:
            target = replace(target, aim=replace(target.aim, engine=engine))
        verdict = torch.full((batch_size(batch),), SURVIVED)
        verdict[target.broken(target.x).cpu()] = CLEAN
        zeros = -1
        for index, attack in enumerate(members.values()):
            rows = (verdict == SURVIVED).nonzero().squeeze(1)
            if not len(rows):
                break
            part, seen = target.take(rows), dict[str, Tensor]()
            crafted = part.crafted(attack, bench, self.seed, seen)
            verdict[rows[part.broken(crafted).cpu()]] = index
            if zeros < 0 and "zero_gradient" in seen:
                zeros = int(seen["zero_gradient"])
        return verdict, max(zeros, 0)

    def _target(self, bench: Bench, batch: Batch) -> Aimed:
        return aimed(bench, batch, tap=self.tap, who="robust_accuracy")

    def _engine(self, bench: Bench, batch: Batch, members: dict[str, Attack]) -> Engine | None:
        """A faster stand-in for the model, or None."""
        if self.engine == "eager":
            return None
        samples, inputs = batch_size(batch), bench.task.inputs(first(batch, 2))
        if self.engine == "auto":
            forwards = samples * sum(attack.passes()[0] for attack in members.values())
            if self.tap or samples < 2 or forwards < WORTH or inputs[0].device.type != "cpu":
                return None
        elif self.tap:
            raise InputError("an inner tensor can only be attacked in the eager model", where="probe robust_accuracy",
                             fix="leave out `tap`, or say engine: eager")  # fmt: skip
        from holdfast.deploy.differentiable import Differentiable  # loads the tracer and ONNX, which take seconds

        try:
            run = Differentiable(bench.model, inputs, threads=torch.get_num_threads())
        except BackendError:
            if self.engine == "auto":
                return None
            raise
        task = bench.task
        return lambda values, part: task.forward(run, task.space.replace(part, values))

    def _flags(self, bench: Bench, batch: Batch, members: dict[str, Attack], eps: float, verdict: Tensor,
               zeros: int) -> tuple[str, ...]:  # fmt: skip
        found = doubts(bench, batch, lambda part: self._target(bench, part), eps, self.norm, self.seed)
        attacked = int((verdict != CLEAN).sum())
        if zeros > ZERO_SHARE * attacked:
            found.add("zero_gradient")
        blind = [index for index, attack in enumerate(members.values()) if not attack.passes()[1]]
        added = sum(int((verdict == index).sum()) for index in blind)
        if 0 < len(blind) < len(members) and added > max(1, BLIND_SHARE * attacked):
            found.add("gradient_masking")
        return tuple(sorted(found))

    def _rows(self, bench: Bench, batch: Batch, eps: float, specs: tuple[Any, ...], names: list[str],
              verdict: Tensor, flags: tuple[str, ...]) -> Iterator[Measurement]:  # fmt: skip
        groups = bench.groups(batch)
        by_metric = {"failed": verdict != SURVIVED}
        by_metric |= {f"broken_by_{name}": verdict == index for index, name in enumerate(names) if len(names) > 1}
        label = "+".join(_said(spec) for spec in specs)
        where = f" at {self.tap}" if self.tap else ""
        for metric, values in by_metric.items():
            yield bench.measurement(
                probe="robust_accuracy", subject=bench.eager, preprocessing=bench.preprocessing[0], split=self.split,
                condition=f"{label} {self.norm}{where} eps={eps:g}", metric=metric, unit="1", better="lower",
                values=values.double(), groups=groups, flags=flags,
            )  # fmt: skip


def _said(spec: Any) -> str:
    """An attack as it is named in rows; an ensemble that is not the standard says so."""
    if isinstance(spec, str):
        return spec
    name, options = next(iter(spec.items()))
    odd = "".join(f" {key}={value}" for key, value in (options or {}).items()) if name == "autoattack" else ""
    return f"{name}{odd}"
