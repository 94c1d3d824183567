"""Breaking strength: from which budget on does an attack break each sample?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.attacks.samples import per_sample_length
from holdfast.attacks.strength import Bracket, narrowed
from holdfast.core.contracts import Attack, Batch, Measurement
from holdfast.core.discover import build
from holdfast.core.errors import InputError
from holdfast.probes.aimed import Aimed, aimed, doubts
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import by_pieces
from holdfast.probes.unfinished import Unfinished

__all__ = ["BreakingStrength"]


@dataclass(frozen=True, kw_only=True)
class BreakingStrength:
    """The smallest budget at which an attack breaks each sample, by bisection; for any task that says what failing is.

    ``breaking_strength`` is 0 where a sample fails without an attack. Samples that hold at the largest budget count
    with it, and the row says so (``held``). All samples are attacked together, each with its own budget, and leave the
    batch once broken.

    Args:
        attack: a plug-in of ``attacks/`` with its options; ``eps`` is replaced. Default ``apgd``.
        steps: of the default attack. Default 50.
        largest: largest budget, in units of the leaf. Default 32.
        rounds: attacks on each sample, at most; the answer is within ``largest / 2^(rounds - 1)``. Default 9.
        split: which split; ``report`` unless the attack is used to choose.
        samples: how many samples, spread evenly over the split.
        tap: attack an inner tensor instead, see `holdfast.probes.robust_accuracy.RobustAccuracy`.
        piece: samples attacked together; halved where the memory does not suffice.
        seed: of random starts.
    """

    attack: Any = None
    steps: int = 50
    largest: float = 32.0
    rounds: int = 9
    split: str = "report"
    samples: int = 128
    tap: str = ""
    piece: int = 256
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds {self.rounds}", where="probe breaking_strength", fix="give at least 1")

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """One row."""
        attack = build("attack", self.attack or {"apgd": {"steps": self.steps}})
        batch = bench.spread(self.split, bench.preprocessing[0], limit=self.samples)
        unfinished = Unfinished(bench.scratch)
        brackets = by_pieces(
            batch, self.piece, lambda start, part: self._bisected(bench, part, attack, unfinished, start)
        )
        values, held = (torch.cat([getattr(b, name) for b in brackets]) for name in ("value", "held"))
        flags = doubts(bench, batch, lambda part: self._aimed(bench, part), self.largest, attack.norm, self.seed)
        flags |= {"held"} if held.any() else set()
        where = f" at {self.tap}" if self.tap else ""
        yield bench.measurement(
            probe="breaking_strength", subject=bench.eager, preprocessing=bench.preprocessing[0], split=self.split,
            condition=f"{type(attack).__name__.lower()} {attack.norm}{where} up to {self.largest:g}",
            metric="breaking_strength", unit="budget units", better="higher", values=values,
            groups=bench.groups(batch), flags=sorted(flags),
        )  # fmt: skip
        unfinished.forget()

    def _bisected(self, bench: Bench, batch: Batch, attack: Attack, unfinished: Unfinished, start: int) -> Bracket:
        """The bracket of a piece of the samples after all rounds, resumed from what is on disk."""
        target = self._aimed(bench, batch)
        bracket = Bracket.opened(target.broken(target.x), self.largest)
        name = f"{start}+{len(bracket.low)}"
        kept = unfinished[name]
        if kept is not None:
            low, high = torch.from_numpy(kept[:2])
            bracket = replace(bracket, low=low, high=high, rounds=int(kept[2, 0]))
        while bracket.rounds < self.rounds:
            bracket = narrowed(bracket, lambda rows, eps: self._attacked(bench, target.take(rows), attack, eps))
            rounds = torch.full_like(bracket.low, bracket.rounds)
            unfinished[name] = torch.stack([bracket.low, bracket.high, rounds]).numpy()
        return bracket

    def _aimed(self, bench: Bench, batch: Batch) -> Aimed:
        return aimed(bench, batch, tap=self.tap, who="breaking_strength")

    def _attacked(self, bench: Bench, target: Aimed, attack: Attack, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Which samples break with their own budgets, and how much of it is used."""
        crafted = target.crafted(replace(attack, eps=eps.float()), bench, self.seed)  # type: ignore[type-var]  # attacks are dataclasses
        return target.broken(crafted), _used(target, crafted, attack.norm)


def _used(target: Aimed, crafted: Any, norm: Any) -> Tensor:
    """Budget that a perturbation uses, in units, (B,)."""
    paths = list(target.x) if isinstance(target.x, dict) else [None]
    lengths = []
    for path in paths:
        x, z, leaf = (nest if path is None else nest[path] for nest in (target.x, crafted, target.leaf))
        lengths.append(per_sample_length((z.double() - x.double()) / leaf.budget(1.0, x.double()), norm))
    together = torch.stack(lengths)
    return together.amax(0) if norm == "linf" else together.norm(dim=0)
