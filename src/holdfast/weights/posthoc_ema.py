"""Post-hoc EMA: two power-function averages are stored while training, any width is solved for afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from holdfast.core.errors import InputError
from holdfast.weights.shadow import Shadow, check_settings
from holdfast.weights.tree import combine

__all__ = ["PostHocEMA", "Profile", "RunningPostHocEMA", "power_of_width", "solve_profile"]

_WIDEST = 1.0 / math.sqrt(12.0)
"""Relative width of the flat profile, ``gamma = 0``: the equal mean of all iterates."""


@dataclass(frozen=True)
class Profile:
    """The weighting ``p(tau) = (gamma + 1) tau^gamma / step^(gamma + 1)`` of the iterates on ``[0, step]``.

    Args:
        width: relative standard deviation of the profile, which fixes ``gamma``; see `power_of_width`.
        step: update at which the average was taken.
    """

    width: float
    step: int


def power_of_width(width: float) -> float:
    """The power ``gamma`` whose profile has the relative standard deviation ``width``.

    ``width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`` (Karras et al. 2024, equation 9), solved for its largest
    real root.

    Raises:
        InputError: a width outside (0, 0.2886], where the power would be negative.
    """
    if not 0.0 < width <= _WIDEST + 1e-12:
        raise InputError(f"width {width} is outside (0, {_WIDEST:.4f}]", where="post-hoc EMA",
                         fix="0.05 to 0.2 are usual: the share of the run that the average looks back")  # fmt: skip
    inverse = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(roots[np.abs(roots.imag) < 1e-9].real.max()))


def solve_profile(stored: Sequence[Profile], target: Profile) -> list[float]:
    """Coefficients of the stored profiles whose sum comes closest to ``target``.

    Minimises ``|| sum_i c_i p_i - p ||`` in L2 under ``sum_i c_i = 1``, so that weights which never moved stay as
    they are (Karras et al. 2024, section 3.2; the constraint is ours).

    Args:
        stored: profiles of the snapshots.
        target: width and step wanted; the step should not lie beyond the last snapshot.

    Returns:
        One coefficient a snapshot; some may be negative.

    Raises:
        InputError: no snapshot, or a target beyond the last one.
    """
    if not stored or target.step > max(profile.step for profile in stored):
        raise InputError(f"step {target.step} lies beyond the {len(stored)} snapshots", where="post-hoc EMA",
                         fix="ask for the step of a snapshot")  # fmt: skip
    n = len(stored)
    gammas = np.array([power_of_width(profile.width) for profile in (*stored, target)])
    steps = np.array([float(profile.step) for profile in (*stored, target)])
    products = _products(gammas, steps)
    system, right = np.ones((n + 1, n + 1)), np.ones(n + 1)
    system[:n, :n], system[n, n], right[:n] = products[:n, :n], 0.0, products[:n, n]
    # Near-identical profiles make the system singular; the smallest solution is as good as any.
    return [float(c) for c in np.linalg.lstsq(system, right, rcond=1e-12)[0][:n]]


def _products(gammas: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """``integral p_a p_b = (ga+1)(gb+1) / (ga+gb+1) * m^(ga+gb+1) / (ta^(ga+1) tb^(gb+1))``, ``m = min(ta, tb)``."""
    g, t = gammas + 1.0, np.minimum.outer(steps, steps)
    shares = (t / steps[:, None]) ** g[:, None] * (t / steps[None, :]) ** g[None, :]
    return np.asarray(np.multiply.outer(g, g) / (np.add.outer(g, g) - 1.0) * shares / t)


@dataclass(frozen=True, kw_only=True)
class PostHocEMA:
    """``average <- beta_t average + (1 - beta_t) theta`` with ``beta_t = (1 - 1/t)^(gamma + 1)``, for two powers.

    Both averages are kept as snapshots every ``every_steps`` updates; `RunningPostHocEMA.at` then gives the average
    of any width at any step. Memory grows by two copies of the weights a snapshot. Karras et al. 2024, equations 7
    to 10.

    Args:
        width: relative standard deviation of the profile that `weights` gives. Default 0.1.
        stored_widths: of the two profiles that are stored. Default 0.05 and 0.1.
        every_steps: updates between snapshots. Default 1000; a few dozen snapshots a run.

    Raises:
        InputError: a width outside (0, 0.2886], equal widths, or a spacing below 1.
    """

    width: float = 0.1
    stored_widths: tuple[float, float] = (0.05, 0.1)
    every_steps: int = 1000

    def __post_init__(self) -> None:
        for width in (self.width, *self.stored_widths):
            power_of_width(width)
        if self.every_steps < 1 or len(set(self.stored_widths)) != 2:
            raise InputError(f"every_steps {self.every_steps}, stored_widths {self.stored_widths}",
                             where="post-hoc EMA", fix="two different widths, at least one update apart")  # fmt: skip

    def start(self, model: nn.Module) -> RunningPostHocEMA:
        """Begin to observe ``model``, wrapped or not."""
        return RunningPostHocEMA(self, model)


class RunningPostHocEMA:
    """The state of a `PostHocEMA`: two shadows and the snapshots taken so far."""

    def __init__(self, settings: PostHocEMA, model: nn.Module) -> None:
        self._settings = settings
        self._powers = [power_of_width(width) for width in settings.stored_widths]
        self._shadows = [Shadow(model) for _ in settings.stored_widths]
        self._updates = 0
        self._snapshots: list[tuple[Profile, dict[str, Tensor]]] = []

    def update(self, model: nn.Module) -> None:
        """Observe the model after an optimiser step."""
        self._updates += 1
        for power, shadow in zip(self._powers, self._shadows, strict=True):
            shadow.pull(model, 1.0 - (1.0 - 1.0 / self._updates) ** (power + 1.0))
        if self._updates % self._settings.every_steps == 0:
            self._snapshots += self._present()

    def _present(self) -> list[tuple[Profile, dict[str, Tensor]]]:
        widths = self._settings.stored_widths
        pairs = zip(widths, self._shadows, strict=True)
        return [(Profile(width, max(1, self._updates)), shadow.state_dict()) for width, shadow in pairs]

    def snapshots(self) -> list[tuple[dict[str, Tensor], dict[str, Any]]]:
        """The stored averages in fp32 or wider with their metadata, for `holdfast.weights.files.save`.

        ``holdfast average SNAPSHOT... --method posthoc-ema --width 0.07`` solves for any width later.
        """
        ties = self._shadows[0].ties()
        return [
            ({**state, **{alias: state[name] for alias, name in ties.items()}}, _told(profile))
            for profile, state in self._snapshots
        ]

    def at(self, width: float, step: int | None = None) -> dict[str, Tensor]:
        """The average of a width at a step (default: now), in the model's dtypes.

        Raises:
            InputError: a width outside (0, 0.2886] or a step beyond the last update.
        """
        snapshots = list(self._snapshots)
        if not snapshots or snapshots[-1][0].step < self._updates:
            snapshots += self._present()
        target = Profile(width, max(1, self._updates) if step is None else step)
        coefficients = solve_profile([profile for profile, _ in snapshots], target)
        return self._shadows[0].weights(combine([state for _, state in snapshots], coefficients))

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict of the configured width, in the model's dtypes."""
        return self.at(self._settings.width)

    def record(self) -> dict[str, Any]:
        """What this average is, for a file's metadata."""
        facts = {"updates": self._updates, "snapshots": len(self._snapshots)}
        return {"average": "posthoc_ema", **asdict(self._settings), **facts, **self._shadows[0].record()}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume to the same bits; opens with ``weights_only=True``."""
        return {
            "settings": _plain(self._settings),
            "updates": self._updates,
            "shadows": [shadow.state_dict() for shadow in self._shadows],
            "snapshots": [{"width": p.width, "step": p.step, "state": dict(s)} for p, s in self._snapshots],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume.

        Raises:
            InputError: settings that differ from the saved ones, or another architecture.
        """
        check_settings(state["settings"], _plain(self._settings), where="post-hoc EMA")
        for shadow, saved in zip(self._shadows, state["shadows"], strict=True):
            shadow.load_state_dict(saved)
        self._snapshots = [(Profile(s["width"], s["step"]), dict(s["state"])) for s in state["snapshots"]]
        self._updates = state["updates"]


def _told(profile: Profile) -> dict[str, Any]:
    return {"average": "posthoc_ema snapshot", "width": profile.width, "step": profile.step}


def _plain(settings: PostHocEMA) -> dict[str, Any]:
    return {**asdict(settings), "stored_widths": list(settings.stored_widths)}
