"""What the attacking probes share: which samples, which tensor of them is attacked, and the doubts about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map

from holdfast.attacks.aim import UNBOUNDED, Aim, at_inputs, at_tap
from holdfast.attacks.pgd import PGD
from holdfast.attacks.seal import perturb
from holdfast.core.contracts import Attack, Batch
from holdfast.core.errors import InputError
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import by_pieces

__all__ = ["ZERO_SHARE", "Aimed", "aimed", "doubts", "first"]

ZERO_SHARE = 0.05
"""Share of samples without a gradient from which an attack is doubted."""

WATCHED, STEPS, SLACK = 32, (2, 10, 40), 1.02
"""Samples, steps and tolerance with which the loss is watched as an attack gets longer."""


@dataclass(frozen=True, kw_only=True)
class Aimed:
    """A batch with what is attacked of it.

    Args:
        aim: the error, for `holdfast.attacks.seal.perturb`.
        x: the leaves by path, or zeros of the shape of a tap.
        leaf: the declarations of ``x``.
    """

    aim: Aim
    x: Any
    leaf: Any

    def take(self, rows: Tensor) -> Aimed:
        """Some of the samples, int64 (n,)."""
        return replace(self, aim=self.aim.take(rows), x=tree_map(lambda t: t[rows], self.x))

    def crafted(self, attack: Attack, bench: Bench, seed: int, seen: dict[str, Tensor] | None = None) -> Any:
        """``x`` as the attack leaves it; ``seen`` receives what `perturb` reports."""
        device = next(leaf for leaf in (self.x.values() if isinstance(self.x, dict) else [self.x])).device
        generator = Generator(device).manual_seed(seed)  # on the device: a draw must not wait for it
        return perturb(attack, self.aim, self.x, self.leaf, generator, bench.model, report=seen)

    @torch.no_grad()
    def broken(self, x: Any) -> Tensor:
        """Which samples ``x`` breaks, bool (B,), as the model itself has it."""
        aim = replace(self.aim, engine=None)
        broken = aim.broken(x, aim.outputs(x))
        assert broken is not None
        return broken


def first(batch: Batch, count: int) -> Batch:
    """The first samples of a batch."""
    return tree_map(lambda t: t[:count], batch)


def aimed(bench: Bench, batch: Batch, *, tap: str = "", leave: bool = True, who: str) -> Aimed:
    """The perturbable leaves of a batch, or a tap of the model.

    Args:
        bench: the bench.
        batch: of model inputs.
        tap: a layer to attack instead of the inputs, see `holdfast.attacks.aim.at_tap`.
        leave: samples that break leave the batch.
        who: names the probe in errors.

    Raises:
        InputError: values outside the declared range, nothing to attack, a task that does not say what failing is.
    """
    task = bench.task
    if leave and task.failed is None:
        raise InputError("the task does not say what counts as broken", where=f"probe {who}",
                         fix="give the task `failed`, or use the probe adversarial")  # fmt: skip
    task.space.check(batch, where=f"probe {who}")
    if tap:
        aim, x = at_tap(task, bench.model, batch, tap, leave=leave)
        return Aimed(aim=aim, x=x, leaf=UNBOUNDED)
    if not task.space.leaves:
        raise InputError("the task declares no leaf to attack", where=f"probe {who}", fix="name a layer as `tap`")
    return Aimed(aim=at_inputs(task, bench.model, batch, leave=leave), x=task.space.values(batch),
                 leaf=dict(task.space.leaves))  # fmt: skip


# --- doubts ---------------------------------------------------------------------------------------------


def doubts(bench: Bench, batch: Batch, make: Callable[[Batch], Aimed], eps: float, norm: str,
           seed: int) -> set[str]:  # fmt: skip
    """Flags of a model that attacks by gradient may not be able to judge, from a few passes on a few samples."""
    few = first(batch, WATCHED)
    return set().union(*by_pieces(few, WATCHED, lambda _, part: _doubts(bench, make(part), eps, norm, seed)))


def _doubts(bench: Bench, target: Aimed, eps: float, norm: str, seed: int) -> set[str]:
    found = {
        "random_outputs": _random(target),
        "probabilities": _probabilities(target),
        "gradient_masking": eps > 0 and _falls(bench, target, eps, norm, seed),
    }
    return {flag for flag, raised in found.items() if raised}


@torch.no_grad()
def _random(target: Aimed) -> bool:
    """Whether the same inputs give another error the second time."""
    first, second = (target.aim(target.x) for _ in range(2))
    return not torch.allclose(first, second, rtol=1e-5, atol=1e-7, equal_nan=True)


@torch.no_grad()
def _probabilities(target: Aimed) -> bool:
    """Whether a classifier's outputs have been through a softmax, which flattens the gradient of every loss."""
    outputs = target.aim.outputs(target.x)
    if target.aim.labels is None or not isinstance(outputs, Tensor) or outputs.ndim != 2:
        return False
    sums = outputs.sum(1)
    return bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3)


def _falls(bench: Bench, target: Aimed, eps: float, norm: str, seed: int) -> bool:
    """Whether more steps do less harm."""
    kept = replace(target, aim=replace(target.aim, failed=None))
    harm = []
    for steps in STEPS:
        attack = PGD(eps=eps, steps=steps, norm="l2" if norm == "l2" else "linf")
        crafted = kept.crafted(attack, bench, seed)
        with torch.no_grad():
            harm.append(float(kept.aim(crafted).mean()))
    return any(later * SLACK < earlier for earlier, later in pairwise(harm))
