"""Latest weight averaging: the mean of the last few checkpoints of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.weights.shadow import Shadow, check_settings
from holdfast.weights.tree import mean

__all__ = ["LAWA", "RunningLAWA"]


@dataclass(frozen=True, kw_only=True)
class LAWA:
    """The equally weighted mean of the last ``count`` iterates, taken ``every_steps`` updates apart.

    Forgets what lies further back, so it follows a run from its first epoch on; holds ``count`` copies of the
    weights. Kaddour 2022.

    Args:
        count: iterates averaged. Default 6; published 6 to 10.
        every_steps: updates from one iterate to the next. Default 1, for a caller who updates once an epoch; with
            an update after every step, the steps of one epoch.

    Raises:
        InputError: a count or a spacing below 1.
    """

    count: int = 6
    every_steps: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.every_steps < 1:
            raise InputError(f"count {self.count}, every_steps {self.every_steps}", where="LAWA",
                             fix="both are at least 1")  # fmt: skip

    def start(self, model: nn.Module) -> RunningLAWA:
        """Begin to observe ``model``, wrapped or not."""
        return RunningLAWA(self, model)


class RunningLAWA:
    """The state of a `LAWA`: the last iterates, each in the dtype in which it is averaged."""

    def __init__(self, settings: LAWA, model: nn.Module) -> None:
        self._settings = settings
        self._shadow = Shadow(model)
        self._updates = 0
        self._iterates: deque[dict[str, Tensor]] = deque(maxlen=settings.count)

    def update(self, model: nn.Module) -> None:
        """Observe the model after an optimiser step."""
        self._updates += 1
        if self._updates % self._settings.every_steps == 0:
            self._shadow.pull(model, 1.0)
            self._iterates.append(self._shadow.state_dict())

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict, in the model's dtypes.

        Raises:
            NoEffectError: when no iterate was taken yet.
        """
        if not self._iterates:
            raise NoEffectError(f"no iterate was taken in {self._updates} updates", where="LAWA",
                                fix=f"every_steps is {self._settings.every_steps}")  # fmt: skip
        # Counters come from the latest iterate, which mean() takes from the first.
        return self._shadow.weights(mean(list(reversed(self._iterates))))

    def record(self) -> dict[str, Any]:
        """What this average is, for a file's metadata."""
        return {"average": "lawa", **asdict(self._settings), "iterates": len(self._iterates), **self._shadow.record()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume to the same bits; opens with ``weights_only=True``."""
        return {
            "settings": asdict(self._settings),
            "updates": self._updates,
            "iterates": [{name: tensor.clone() for name, tensor in state.items()} for state in self._iterates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            InputError: settings that differ from the saved ones, or another architecture.
        """
        check_settings(state["settings"], asdict(self._settings), where="LAWA")
        self._iterates.clear()
        for iterate in state["iterates"]:
            self._shadow.load_state_dict(iterate)
            self._iterates.append(self._shadow.state_dict())
        self._updates = state["updates"]
