"""Learning-rate schedules that go with weight averaging, as factors for `torch.optim.lr_scheduler.LambdaLR`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from holdfast.core.errors import InputError

__all__ = ["CyclicSchedule", "SWASchedule"]


@dataclass(frozen=True, kw_only=True)
class SWASchedule:
    """Full rate for half of ``start_step``, linearly down to ``final`` at nine tenths of it, constant from there on.

    Izmailov et al. 2018, section 3.2 and the authors' schedule.

    Args:
        start_step: step at which averaging starts; the same as in `SWA`.
        final: the learning rate while averaging, as a share of the first. Default 0.1; published between 0.1
            (CIFAR-10) and 0.5 (CIFAR-100): large enough for the iterates to travel.

    Raises:
        InputError: a start below 1, or a share that is not positive.

    Example:
        >>> schedule = LambdaLR(optimizer, SWASchedule(start_step=3000, final=0.1))
    """

    start_step: int = 1
    final: float = 0.1

    def __post_init__(self) -> None:
        if self.start_step < 1 or self.final <= 0:
            raise InputError(f"start_step {self.start_step}, final {self.final}", where="SWASchedule",
                             fix="both must be positive")  # fmt: skip

    def __call__(self, step: int) -> float:
        """The factor of the base learning rate at a step."""
        t = step / self.start_step
        if t <= 0.5:
            return 1.0
        return self.final if t > 0.9 else 1.0 + (self.final - 1.0) * (t - 0.5) / 0.4


@dataclass(frozen=True, kw_only=True)
class CyclicSchedule:
    """Cycles from the full rate down to ``final``; average at the end of each (``SWA(every_steps=cycle_steps)``).

    ``linear`` is the cyclic form of Izmailov et al. 2018, equation 2; ``cosine`` with ``final=0.01`` and one epoch a
    cycle is the recipe of Zhang et al. 2020 for detectors: restart from the best checkpoint, 12 cycles, average.

    Args:
        cycle_steps: steps of one cycle. Default 100; usually the steps of one epoch.
        final: rate at the end of a cycle, as a share of the first. Default 0.01.
        shape: ``linear`` or ``cosine``.
        start_step: steps at the full rate before the first cycle. Default 0.

    Raises:
        InputError: a cycle below 1 step, a negative start, or a share that is not positive.
    """

    cycle_steps: int = 100
    final: float = 0.01
    shape: Literal["linear", "cosine"] = "cosine"
    start_step: int = 0

    def __post_init__(self) -> None:
        if self.cycle_steps < 1 or self.start_step < 0 or self.final <= 0 or self.shape not in ("linear", "cosine"):
            raise InputError(f"{self}", where="CyclicSchedule",
                             fix="cycle_steps and final are positive, shape is linear or cosine")  # fmt: skip

    def __call__(self, step: int) -> float:
        """The factor of the base learning rate at a step; the last step of a cycle has ``final``."""
        if step < self.start_step:
            return 1.0
        t = (step - self.start_step) % self.cycle_steps / max(1, self.cycle_steps - 1)
        fall = t if self.shape == "linear" else 0.5 * (1 - math.cos(math.pi * t))
        return 1.0 + (self.final - 1.0) * fall
