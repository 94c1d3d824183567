"""Slow readable twins of `holdfast.tasks.sequences`: sums written out as in the equations."""

from __future__ import annotations

import cmath
import math

import numpy as np


def band_rms(curve: np.ndarray, rate_hz: float, low_hz: float, high_hz: float) -> float:
    frames = len(curve)
    time = np.arange(frames)
    level = curve - np.polyval(np.polyfit(time, curve, 1), time)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * t / frames) for t in range(frames)]
    total = 0.0
    for k in range(1, frames // 2 + 1):
        if low_hz <= k * rate_hz / frames <= high_hz:
            x = sum(window[t] * level[t] * cmath.exp(-2j * math.pi * k * t / frames) for t in range(frames))
            total += 2 * abs(x) ** 2
    return math.sqrt(total / (frames * sum(w * w for w in window)))


def jitter(curve: np.ndarray) -> float:
    return float(np.std([curve[t - 1] - 2 * curve[t] + curve[t + 1] for t in range(1, len(curve) - 1)]))
