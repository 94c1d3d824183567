"""What a curve over ordered frames does: jitter from frame to frame, sway in a band, answer to the truth."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["band_rms", "correlation", "jitter", "slope"]


def jitter(curve: Tensor) -> Tensor:
    """Standard deviation of the second difference ``x[t-1] - 2 x[t] + x[t+1]``, shape ().

    Args:
        curve: float (T,), one value a frame. NaN comes back for fewer than three frames.
    """
    bend = curve.diff(n=2)
    return (bend - bend.mean()).square().mean().sqrt()


def band_rms(curve: Tensor, *, rate_hz: float, low_hz: float = 0.3, high_hz: float = 2.0) -> Tensor:
    """Root mean square of the part of a curve between two frequencies, in the curve's unit, shape ().

    ``sqrt(sum_{low <= f_k <= high} 2 |X_k|^2 / (T sum w^2))`` with ``X`` the Fourier transform of the curve less its
    straight line, under a Hann window ``w``. A vehicle's sway lies between 0.3 and 2 Hz.

    Args:
        curve: float (T,), one value a frame. NaN comes back where the sequence is too short to hold the band.
        rate_hz: frames a second.
        low_hz: lower end of the band, included.
        high_hz: upper end of the band, included.
    """
    frames = len(curve)
    frequency = torch.fft.rfftfreq(frames, 1 / rate_hz, dtype=torch.float64)
    inside = (frequency >= low_hz) & (frequency <= high_hz) & (frequency > 0) & (frequency < rate_hz / 2)
    if not bool(inside.any()) or frames * low_hz < rate_hz:
        return curve.new_tensor(torch.nan)
    window = torch.hann_window(frames, periodic=False, dtype=torch.float64)
    power = torch.fft.rfft(_level(curve.double()) * window).abs().square()
    mean_square: Tensor = 2 * power[inside].sum() / (frames * window.square().sum())
    return mean_square.sqrt()


def slope(curve: Tensor, truth: Tensor) -> Tensor:
    """Least-squares slope of a curve on the truth, ``cov / var(truth)``, shape (): 1 follows it, 0 ignores it."""
    t = truth.double() - truth.double().mean()
    return (t * curve.double()).sum() / t.square().sum()


def correlation(curve: Tensor, truth: Tensor) -> Tensor:
    """Pearson's correlation of a curve with the truth, shape ()."""
    x, t = (v.double() - v.double().mean() for v in (curve, truth))
    return (x * t).sum() / (x.square().sum() * t.square().sum()).sqrt()


def _level(curve: Tensor) -> Tensor:
    """The curve less its least-squares straight line."""
    time = torch.arange(len(curve), dtype=curve.dtype) - (len(curve) - 1) / 2
    return curve - curve.mean() - time * (time * curve).sum() / time.square().sum()
