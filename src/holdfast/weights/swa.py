"""Stochastic weight averaging: the equally weighted mean of the iterates of a late, high learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.weights.shadow import Shadow, check_settings

__all__ = ["SWA", "RunningSWA"]


@dataclass(frozen=True, kw_only=True)
class SWA:
    """``average <- average + (theta - average) / (n + 1)`` over every so many iterates of the late run.

    Averages what `update` shows it: call it after every optimiser step, or only where an iterate shall count, such
    as the end of an epoch or of a learning-rate cycle (see `holdfast.weights.schedule`). SWA does not replace
    learning-rate decay, and a model with BatchNorm needs its statistics estimated anew
    (`holdfast.weights.batchnorm`). Izmailov et al. 2018, algorithm 1.

    Args:
        start_step: updates to let pass before the first iterate counts. Default 0; three quarters of the run.
        every_steps: updates from one averaged iterate to the next. Default 1; the steps of one epoch or cycle.

    Raises:
        InputError: a negative start, or a spacing below 1.

    Example:
        >>> swa = SWA(start_step=3 * steps // 4, every_steps=steps_per_epoch).start(model)
        >>> for batch in loader:
        ...     train_step(model, batch)
        ...     swa.update(model)
    """

    start_step: int = 0
    every_steps: int = 1

    def __post_init__(self) -> None:
        if self.start_step < 0 or self.every_steps < 1:
            raise InputError(f"start_step {self.start_step}, every_steps {self.every_steps}", where="SWA",
                             fix="start_step is at least 0, every_steps at least 1")  # fmt: skip

    def counts(self, step: int) -> bool:
        """Whether the iterate after ``step`` earlier updates is averaged: the last of each ``every_steps``."""
        late = step + 1 - self.start_step
        return late > 0 and late % self.every_steps == 0

    def start(self, model: nn.Module) -> RunningSWA:
        """Begin to observe ``model``, wrapped or not."""
        return RunningSWA(self, model)


class RunningSWA:
    """The state of an `SWA`: the shadow, the updates seen and the iterates averaged."""

    def __init__(self, settings: SWA, model: nn.Module) -> None:
        self._settings = settings
        self._shadow = Shadow(model)
        self._updates = 0
        self._iterates = 0

    def update(self, model: nn.Module) -> None:
        """Observe the model after an optimiser step."""
        if self._settings.counts(self._updates):
            self._shadow.pull(model, 1.0 / (self._iterates + 1))
            self._iterates += 1
        self._updates += 1

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict, in the model's dtypes.

        Raises:
            NoEffectError: when no iterate has counted yet.
        """
        if not self._iterates:
            raise NoEffectError(f"no iterate was averaged in {self._updates} updates", where="SWA",
                                fix=f"start_step is {self._settings.start_step}, every_steps is "
                                    f"{self._settings.every_steps}")  # fmt: skip
        return self._shadow.weights()

    def record(self) -> dict[str, Any]:
        """What this average is, for a file's metadata."""
        return {"average": "swa", **asdict(self._settings), "iterates": self._iterates, **self._shadow.record()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume to the same bits; opens with ``weights_only=True``."""
        return {
            "settings": asdict(self._settings),
            "updates": self._updates,
            "iterates": self._iterates,
            "shadow": self._shadow.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            InputError: settings that differ from the saved ones, or another architecture.
        """
        check_settings(state["settings"], asdict(self._settings), where="SWA")
        self._shadow.load_state_dict(state["shadow"])
        self._updates, self._iterates = state["updates"], state["iterates"]
