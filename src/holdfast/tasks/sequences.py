"""What curves over ordered frames do: jitter from frame to frame, sway in a band, answer to the truth."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["band_rms", "correlation", "jitter", "responsiveness"]


def jitter(curves: Tensor) -> Tensor:
    """Standard deviation of the second difference ``x[t-1] - 2 x[t] + x[t+1]``, shape ().

    Args:
        curves: float (T,), one value a frame, or (T, K); then the root mean square over the K curves. NaN comes back
            for fewer than three frames.
    """
    bend = curves.diff(n=2, dim=0)
    return (bend - bend.mean(dim=0)).square().mean().sqrt()


def band_rms(curves: Tensor, *, rate_hz: float, low_hz: float = 0.3, high_hz: float = 2.0) -> Tensor:
    """Root mean square of the part of a curve between two frequencies, in the curve's unit, shape ().

    ``sqrt(sum_{low <= f_k <= high} 2 |X_k|^2 / (T sum w^2))`` with ``X`` the Fourier transform of the curve less its
    straight line, under a Hann window ``w`` that keeps slower parts from leaking into the band. A sine of amplitude
    A well inside the band gives ``A / sqrt(2)``. A vehicle's sway lies between 0.3 and 2 Hz.

    Args:
        curves: float (T,), one value a frame, or (T, K); then the root mean square over the K curves. NaN comes back
            for sequences shorter than one period of ``low_hz``; they should last several.
        rate_hz: frames a second.
        low_hz: lower end of the band, included.
        high_hz: upper end of the band, included.
    """
    frames = len(curves)
    if frames * low_hz < rate_hz:
        return curves.new_tensor(torch.nan)
    window = torch.hann_window(frames, dtype=torch.float64)
    level = _level(curves.double().reshape(frames, -1))
    power = torch.fft.rfft(window[:, None] * level, dim=0).abs().square() * 2 / (frames * window.square().sum())
    frequency_hz = torch.fft.rfftfreq(frames, 1 / rate_hz, dtype=torch.float64)
    in_band: Tensor = power[(frequency_hz >= low_hz) & (frequency_hz <= high_hz)]
    return in_band.sum(dim=0).mean().sqrt()


def responsiveness(curves: Tensor, truth: Tensor) -> Tensor:
    """How much of the true motion is followed, ``1 - |1 - slope|``, shape ().

    ``slope`` is that of the regression of curves on truth, both less their means. 1 follows exactly; 0 stands still,
    or moves twice as far. A stiff model has no jitter and no sway, but no use either.

    Args:
        curves: float (T,) or (T, K).
        truth: of the same shape.
    """
    moved = truth.double() - truth.double().mean(dim=0)
    slope: Tensor = (moved * curves.double()).sum() / moved.square().sum()
    return 1 - (1 - slope).abs()


def correlation(curves: Tensor, truth: Tensor) -> Tensor:
    """Pearson's correlation with the truth, shape (); curves float (T,) or (T, K), of the same shape as the truth."""
    x, t = (v.double() - v.double().mean(dim=0) for v in (curves, truth))
    return (x * t).sum() / (x.square().sum() * t.square().sum()).sqrt()


def _level(curves: Tensor) -> Tensor:
    """Curves (T, K) less their least-squares straight lines."""
    time = torch.arange(len(curves), dtype=curves.dtype)[:, None] - (len(curves) - 1) / 2
    return curves - curves.mean(dim=0) - time * (time * curves).sum(dim=0) / time.square().sum()
