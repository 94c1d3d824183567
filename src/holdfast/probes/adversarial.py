"""Adversarial curve: how do the task's metrics fall as the budget of an attack grows?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Attack, Batch, Measurement, Outputs, Subject
from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.probes.bench import Bench, batch_size

__all__ = ["Adversarial"]


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
        seed: of random starts.
    """

    attacks: tuple[Any, ...] = ("fgsm", "pgd")
    eps: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    split: str = "report"
    samples: int = 128
    replay: tuple[str, ...] = ()
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row per attack, budget, subject and metric."""
        batch = self._batch(bench)
        subjects = [bench.eager, *(s for s in bench.subjects if s.name in self.replay)]
        harm: dict[tuple[str, float], float] = {}
        for attack in (build("attack", spec) for spec in self.attacks):
            for eps in self.eps:
                attacked, flags = _attacked(bench, replace(attack, eps=eps), batch, self.seed)
                name = type(attack).__name__.lower()
                harm[name, eps] = _mean_loss(bench, attacked)
                if name != "fgsm" and harm.get(("fgsm", eps), float("-inf")) > harm[name, eps] * 1.02:
                    flags = (*flags, "gradient_masking")
                for subject in subjects:
                    transferred = () if subject is subjects[0] else ("transferred",)
                    outputs = bench.run(subject, attacked)
                    yield from self._rows(bench, subject, f"{name} eps={eps:g}", attacked, outputs, flags + transferred)

    def _batch(self, bench: Bench) -> Batch:
        table = bench.table(self.split, bench.preprocessing[0])
        if table is None:
            raise InputError(f"no split {self.split!r}", where="probe adversarial", fix="name a split the task has")
        count = min(self.samples, len(table))
        return table.batch(torch.linspace(0, len(table) - 1, count).long())

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


def _attacked(bench: Bench, attack: Attack, batch: Batch, seed: int, size: int = 64) -> tuple[Batch, tuple[str, ...]]:
    """The batch with its perturbable leaves attacked jointly, and the flags raised on the way."""
    space, pieces, zeros, n = bench.task.space, [], 0, batch_size(batch)
    for start in range(0, n, size):
        part = tree_map(lambda t, a=start: t[a : a + size], batch)
        seen: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(seed + start)
        crafted = perturb(attack, partial(_loss_at, bench, part), space.values(part), space.leaves, generator,
                          bench.model, report=seen)  # fmt: skip
        zeros += int(seen.get("zero_gradient", 0))
        pieces.append(space.replace(part, crafted))
    flags = ("zero_gradient",) if zeros > n // 20 else ()
    return tree_map(lambda *parts: torch.cat(parts), *pieces), flags


def _loss_at(bench: Bench, batch: Batch, values: Mapping[str, Tensor]) -> Tensor:
    attacked = bench.task.space.replace(batch, values)
    return bench.task.loss(bench.task.forward(bench.model, attacked), attacked)


def _mean_loss(bench: Bench, batch: Batch) -> float:
    with torch.no_grad():
        return float(bench.task.loss(bench.run(bench.eager, batch), batch).mean())
