"""Adversarial curve: how do the task's metrics fall as the budget of an attack grows?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Attack, Batch, Measurement, Outputs, Subject
from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.probes.aimed import ZERO_SHARE, aimed
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import batch_size, by_pieces

__all__ = ["Adversarial"]

PIECE = 64


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """The task's per-sample metrics, and the share of broken samples, under attacks of growing budget.

    Attacks are crafted on the eager fp32 model against the task's loss. Other subjects are shown the same inputs;
    their rows carry the flag ``transferred``. If a one-step attack breaks more than an iterated one of the same
    budget, the iterated rows carry ``gradient_masking``.

    Args:
        attacks: plug-ins of ``attacks/``, e.g. ``fgsm`` or ``{"pgd": {"steps": 20}}``; their ``eps`` is replaced.
        eps: budgets in units of the leaf.
        split: which split; ``report`` unless the attack is used to choose.
        samples: how many samples, spread evenly over the split.
        replay: further subjects (``backend:precision``) to show the attacked inputs.
        tap: attack an inner tensor instead, see `holdfast.probes.robust_accuracy.RobustAccuracy`; no replay then.
        seed: of random starts.

    Raises:
        InputError: a tap together with ``replay``.
    """

    attacks: tuple[Any, ...] = ("fgsm", "pgd")
    eps: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    split: str = "report"
    samples: int = 128
    replay: tuple[str, ...] = ()
    tap: str = ""
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})

    def __post_init__(self) -> None:
        if self.tap and self.replay:
            raise InputError("an attacked layer cannot be shown to other subjects", where="probe adversarial",
                             fix="leave out replay, or tap")  # fmt: skip

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per attack, budget, subject and metric."""
        batch = bench.spread(self.split, bench.preprocessing[0], limit=self.samples)
        replayed = [s for s in bench.subjects if s.name in self.replay] if self.replay else []
        harm: dict[tuple[str, float], float] = {}
        for attack in (build("attack", spec) for spec in self.attacks):
            for eps in self.eps:
                found = self._attacked(bench, replace(attack, eps=eps), batch)
                name, flags = type(attack).__name__.lower(), found.flags
                harm[name, eps] = found.harm
                if name != "fgsm" and harm.get(("fgsm", eps), float("-inf")) > harm[name, eps] * 1.02:
                    flags = (*flags, "gradient_masking")
                condition = f"{name}{f' at {self.tap}' if self.tap else ''} eps={eps:g}"
                yield from self._rows(bench, bench.eager, condition, found.batch, found.outputs, flags)
                for subject in replayed:
                    outputs = bench.run(subject, found.batch)
                    yield from self._rows(bench, subject, condition, found.batch, outputs, (*flags, "transferred"))

    def _attacked(self, bench: Bench, attack: Attack, batch: Batch) -> _Attacked:
        """The whole batch attacked, piece by piece."""

        def piece(start: int, part: Batch) -> tuple[Batch, Outputs, float, int]:
            target = aimed(bench, part, tap=self.tap, leave=False, who="adversarial")
            seen: dict[str, Tensor] = {}
            crafted = target.crafted(attack, bench, self.seed + start, seen)
            with torch.no_grad():
                outputs = target.aim.outputs(crafted)
                harm = float(target.aim.value(outputs).sum())
            shown = part if self.tap else bench.task.space.replace(part, crafted)
            return shown, outputs, harm, int(seen.get("zero_gradient", 0))

        parts, outputs, harm, zeros = zip(*by_pieces(batch, min(PIECE, bench.piece), piece), strict=True)
        n = batch_size(batch)
        return _Attacked(batch=_joined(parts), outputs=_joined(outputs), harm=sum(harm) / n,
                         flags=("zero_gradient",) if sum(zeros) > ZERO_SHARE * n else ())  # fmt: skip

    def _rows(self, bench: Bench, subject: Subject, condition: str, batch: Batch, outputs: Outputs,
              flags: tuple[str, ...]) -> Iterator[Measurement]:  # fmt: skip
        asked = [(m.name, m.unit, m.better, bench.values(m, (outputs,), batch)) for m in bench.metrics("sample")]
        if bench.task.failed is not None:
            broken = bench.task.failed(outputs, batch).double()
            asked.append(("failed", "1", "lower", (broken, bench.groups(batch))))
        for metric, unit, better, (values, groups) in asked:
            yield bench.measurement(
                probe="adversarial", subject=subject, preprocessing=bench.preprocessing[0], split=self.split,
                condition=condition, metric=metric, unit=unit, better=better, values=values, groups=groups, flags=flags,
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Attacked:
    """The attacked batch (the clean one where a tap is attacked), the eager outputs, their mean error and flags."""

    batch: Batch
    outputs: Outputs
    harm: float
    flags: tuple[str, ...]


def _joined(parts: Sequence[Any]) -> Any:
    return tree_map(lambda *tensors: torch.cat(tensors), *parts)
