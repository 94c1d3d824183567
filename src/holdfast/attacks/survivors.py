"""Survivors: samples of a batch that an attack has not broken yet, so that no pass is spent on the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from holdfast.attacks.aim import Aim
from holdfast.attacks.geometry import Ball
from holdfast.attacks.samples import by_sample
from holdfast.attacks.seal import gradient_of
from holdfast.core.contracts import Batch
from holdfast.core.errors import InputError

__all__ = ["State", "Survivors"]

State: TypeAlias = dict[str, Tensor]
"""What an attack carries from step to step, each tensor with one entry per surviving sample (and run, see `aim_at`)."""

CPU_STEPS, DEVICE_STEPS = 1, 8
"""Looks between two departures. A count of survivors waits for the device, so it is taken rarely there."""
ROOM = 1 << 18
"""Numbers, of what is attacked and of its batch, that runs side by side may add up to: in small batches little of a
step's time is arithmetic."""


class Survivors:
    """The samples that an attack still works on, and the strongest points found so far.

    A sample leaves with the point that broke it when the aim says what broken means; without that all stay, and each
    gets the point of highest value that was offered. Draws are made for all samples, so that nobody's fate depends
    on who has left.

    Args:
        loss: an `Aim`, or a plain loss ``z -> Tensor (B,)``, of which all samples stay.
        ball: around all samples.
        wait: looks between two departures; None (default): 1 on a CPU, 8 elsewhere.

    Attributes:
        aim: for the survivors.
        ball: around the survivors.
        rows: their places in the batch, int64 (n,).
    """

    def __init__(self, loss: Callable[[Tensor], Tensor], ball: Ball, *, wait: int | None = None) -> None:
        self.aim = loss if isinstance(loss, Aim) else _plain(loss)
        self.ball = self._whole = ball
        self.rows = torch.arange(len(ball.x), device=ball.x.device)
        self._found: Tensor | None = None
        self._value = torch.full((len(ball.x),), -torch.inf, device=ball.x.device)
        self._wait = wait or (CPU_STEPS if ball.x.device.type == "cpu" else DEVICE_STEPS)
        self._looks, self._broken = 0, torch.zeros_like(self.rows, dtype=torch.bool)
        self._room = _numbers_of_samples(self.aim.batch, ball.x)

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def found(self) -> Tensor:
        """For every sample of the batch what broke it, or the strongest point so far; at first the clean sample."""
        if self._found is None:
            self._found = self._whole.x.clone()
        return self._found

    def among(self, drawn: Tensor) -> Tensor:
        """The survivors' part of something drawn for all samples."""
        return drawn if len(self) == len(drawn) else drawn[self.rows]

    @property
    def abreast(self) -> int:
        """How many runs fit side by side, 1 where the batch is not of samples alone; whoever has left."""
        return 1 if self._room is None else max(ROOM // max(self._room, 1), 1)

    @property
    def numbers(self) -> int:
        """How many numbers the survivors and their part of the batch are."""
        return (self._room or 0) * len(self) // max(len(self._whole.x), 1)

    @property
    def looks_ahead(self) -> bool:
        """Whether several steps of one sample may be asked at once: departures cost nothing, samples stand alone."""
        return self._wait == 1 and self._room is not None

    def aim_at(self, targets: Tensor) -> None:
        """Begin a run towards each class of ``targets``, int64 (B, runs), side by side until `end_run`.

        From here on aim, ball, points, values and state have ``runs * n`` entries: the survivors once for each run. A
        sample that one of them breaks leaves all of them. Normalisation in training mode sees all runs.
        """
        own = self.among(targets)
        if own.shape[1] > 1:
            self._take(torch.arange(len(self), device=self.rows.device).repeat(own.shape[1]))
        self.aim = replace(self.aim, targets=own.T.flatten(), runs=own.shape[1])

    def climb(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Value by entry or (), its gradient with respect to ``z``, and which ones ``z`` breaks, from one forward.

        Raises:
            NoEffectError: the value does not depend on ``z``.
        """
        z = z.detach().requires_grad_()
        outputs = self.aim.outputs(z)
        value = self.aim.value(outputs)
        gradient = gradient_of(value, z)
        return value.detach(), gradient, self.aim.broken(z, outputs)

    @torch.no_grad()
    def look(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Value by entry at ``z`` and which ones it breaks, from one forward without a gradient."""
        outputs = self.aim.outputs(z)
        return self.aim.value(outputs), self.aim.broken(z, outputs)

    def leave(self, z: Tensor, broken: Tensor | None, state: State) -> State:
        """Let the samples go that ``z`` breaks; returns the state of those that stay.

        Where a count waits for the device, broken samples are only marked and go together after some looks.
        """
        if broken is None:
            return state
        self._looks += 1
        return state if self._wait == 1 and not bool(broken.any()) else self._marked(z, broken, state)

    @torch.no_grad()
    def _marked(self, z: Tensor, broken: Tensor, state: State) -> State:
        z, broken = self._of_one_run(z, broken)
        if self._wait == 1:
            self.found[self.rows[broken]] = z[broken].to(self.found.dtype)
        else:
            fresh = by_sample(broken & ~self._broken, z)
            self.found[self.rows] = torch.where(fresh, z, self.found[self.rows])
        self._broken = self._broken | broken
        return state if self._looks % self._wait else self._depart(state)

    def _of_one_run(self, z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The points of each survivor's run of the highest value (the first of several), and their values, (n,)."""
        if self.aim.runs == 1:
            return z, value
        of_each = torch.where(value.isnan(), -torch.inf, value).view(self.aim.runs, len(self))  # NaN is nobody's best
        run = of_each.argmax(0)
        chosen = run * len(self) + torch.arange(len(self), device=run.device)
        return z[chosen], value[chosen]

    def _depart(self, state: State) -> State:
        stay = (~self._broken).nonzero().squeeze(1)
        if len(stay) == len(self):
            return state
        runs = torch.arange(self.aim.runs, device=stay.device)[:, None]
        entries = (runs * len(self) + stay).flatten()
        self._take(entries)
        self.rows, self._broken = self.rows[stay], self._broken[stay]
        return {name: value[entries] for name, value in state.items()}

    @torch.no_grad()
    def offer(self, z: Tensor, value: Tensor) -> None:
        """Keep the points ``z`` of the survivors where their value is the highest so far."""
        if value.shape != (self.aim.runs * len(self),):
            raise InputError(f"one loss per sample is needed, got shape {tuple(value.shape)}", where="attack",
                             fix="return a tensor (B,) from the loss")  # fmt: skip
        z, value = self._of_one_run(z, value)
        better = (value > self._value[self.rows]) & ~self._broken
        self.found[self.rows] = torch.where(by_sample(better, z), z, self.found[self.rows])
        self._value[self.rows] = torch.where(better, value.to(self._value), self._value[self.rows])

    def settle(self, z: Tensor) -> None:
        """Keep the points ``z`` of the survivors, of one run, whatever their value."""
        assert self.aim.runs == 1
        if self._found is None and len(self) == len(self._whole.x):
            self._found = z
        else:
            kept = by_sample(self._broken, z)
            self.found[self.rows] = torch.where(kept, self.found[self.rows], z)

    def end_run(self) -> None:
        """Let marked samples go before the next run begins, and be there once again."""
        self._depart({})
        if self.aim.runs > 1:
            self._take(torch.arange(len(self), device=self.rows.device))
            self.aim = replace(self.aim, runs=1)

    def _take(self, entries: Tensor) -> None:
        self.aim, self.ball = self.aim.take(entries), self.ball.take(entries)


def _numbers_of_samples(batch: Batch, x: Tensor) -> int | None:
    """How many numbers ``x`` and its batch are; None where a tensor of the batch has not one entry for each sample."""
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    if any(tensor.ndim == 0 or len(tensor) != len(x) for tensor in tensors):
        return None
    return x.numel() + sum(tensor.numel() for tensor in tensors)


def _plain(loss: Callable[[Tensor], Tensor]) -> Aim:
    return Aim(forward=lambda z, _: loss(z), batch=None, error=lambda value, _: value)
