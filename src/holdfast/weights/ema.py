"""Exponential moving average of the weights, with warm-up and an fp32 shadow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.weights.shadow import Shadow, check_settings

__all__ = ["EMA", "RunningEMA"]


@dataclass(frozen=True, kw_only=True)
class EMA:
    """``average <- d_t average + (1 - d_t) theta`` after every optimiser step, ``d_t = min(decay, (1+t) / (10+t))``.

    The warm-up keeps the first weights from dominating the first ``1 / (1 - decay)`` steps. With ``debias`` the
    initial weights do not count at all: the average is divided by ``1 - d_1 ... d_t`` (Kingma & Ba 2015, section 3),
    computed as a running mean so that it is defined from the first update on.

    Args:
        decay: share kept per step. Default 0.999; 0.99 for runs of a few hundred steps, 0.9999 for very long ones.
        warmup: let the decay grow as ``(1+t) / (10+t)``. Default on.
        debias: leave the initial weights out. Default off; of use without warm-up.

    Raises:
        InputError: a decay outside [0, 1).

    Example:
        >>> ema = EMA(decay=0.999).start(model)
        >>> for batch in loader:
        ...     train_step(model, batch)
        ...     ema.update(model)
        >>> model.load_state_dict(ema.weights())
    """

    decay: float = 0.999
    warmup: bool = True
    debias: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise InputError(f"decay {self.decay} is outside [0, 1)", where="EMA", fix="0.999 is a good start")

    def decay_at(self, updates: int) -> float:
        """The share kept by the update that follows ``updates`` earlier ones."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    def start(self, model: nn.Module) -> RunningEMA:
        """Begin to observe ``model``, wrapped or not, from its present weights."""
        return RunningEMA(self, model)


class RunningEMA:
    """The state of an `EMA`: the shadow, the number of updates and the share of the initial weights left."""

    def __init__(self, settings: EMA, model: nn.Module) -> None:
        self._settings = settings
        self._shadow = Shadow(model)
        self._updates = 0
        self._initial_share = 1.0

    def update(self, model: nn.Module) -> None:
        """Observe the model after an optimiser step."""
        decay = self._settings.decay_at(self._updates)
        self._updates += 1
        self._initial_share *= decay
        share = (1.0 - decay) / (1.0 - self._initial_share) if self._settings.debias else 1.0 - decay
        self._shadow.pull(model, share)

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict, in the model's dtypes."""
        return self._shadow.weights()

    def record(self) -> dict[str, Any]:
        """What this average is, for a file's metadata."""
        return {"average": "ema", **asdict(self._settings), "updates": self._updates, **self._shadow.record()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume to the same bits; opens with ``weights_only=True``."""
        return {
            "settings": asdict(self._settings),
            "updates": self._updates,
            "initial_share": self._initial_share,
            "shadow": self._shadow.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            InputError: settings that differ from the saved ones, or another architecture.
        """
        check_settings(state["settings"], asdict(self._settings), where="EMA")
        self._shadow.load_state_dict(state["shadow"])
        self._updates, self._initial_share = state["updates"], state["initial_share"]
