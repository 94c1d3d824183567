"""What curves over ordered frames do: jitter from frame to frame, sway in a band, flips, answer to the truth."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["band_rms", "correlation", "delay_frames", "flicker", "flip_rate", "jitter", "jump_rate", "responsiveness"]


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


def jump_rate(curves: Tensor, threshold: float) -> Tensor:
    """Share of frames in which a curve moves by more than ``threshold`` from the frame before, shape ().

    Args:
        curves: float (T,), one value a frame, or (T, K); a frame counts when any of the K curves moves. NaN comes back
            for fewer than two frames.
        threshold: in the curve's unit.
    """
    if len(curves) < 2:
        return curves.new_tensor(torch.nan)
    moved: Tensor = curves.double().diff(dim=0).abs().reshape(len(curves) - 1, -1).amax(dim=1) > threshold
    return moved.double().mean()


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


def flicker(curves: Tensor) -> Tensor:
    """Root mean square distance of each frame from the median of itself and its neighbours, shape ().

    ``sqrt(mean_t (x_t - median(x_{t-1}, x_t, x_{t+1}))^2)``: what jumps out for one frame and comes back. Steady
    motion, and a step that stays, count nothing.

    Args:
        curves: float (T,) or (T, K); NaN comes back for fewer than three frames.
    """
    neighbours = torch.stack([curves[:-2], curves[1:-1], curves[2:]])
    return (curves[1:-1] - neighbours.median(dim=0).values).double().square().mean().sqrt()


def flip_rate(decisions: Tensor) -> Tensor:
    """Share of frames whose decision differs from that of the frame before, shape ().

    The flip probability of Hendrycks and Dietterich (2019, section 4.2) on one sequence. Where the truth changes, too,
    compare with the truth's own flip rate.

    Args:
        decisions: int64 (T,); NaN comes back for a single frame.
    """
    return (decisions[1:] != decisions[:-1]).double().mean()


def delay_frames(curves: Tensor, truth: Tensor, *, most: int = 20) -> Tensor:
    """By how many frames the curve comes after the truth, shape (); negative where it comes before.

    The lag at which curve and shifted truth correlate best, each taken over the frames they share, refined by a
    parabola through the best lag and its neighbours. Smoothing buys stability with delay: this is its price.

    Args:
        curves: float (T,) or (T, K).
        truth: of the same shape; NaN comes back where it does not move, or where the curve does not.
        most: largest lag to try, at most a third of the sequence. Default 20.
    """
    most = min(most, len(curves) // 3)
    found = torch.stack([_correlation_at(curves, truth, lag) for lag in range(-most, most + 1)])
    if bool(found.isnan().any()) or most < 1:
        return found.new_tensor(torch.nan)
    best = int(found.argmax())
    if best in (0, len(found) - 1):
        return found.new_tensor(float(best - most))
    left, middle, right = found[best - 1 : best + 2].tolist()
    bend = left - 2 * middle + right
    return found.new_tensor(best - most + (0.5 * (left - right) / bend if bend else 0.0))


def _correlation_at(curves: Tensor, truth: Tensor, lag: int) -> Tensor:
    """Correlation of ``curves[t]`` with ``truth[t - lag]``."""
    frames = len(curves)
    late, early = slice(max(0, lag), frames + min(0, lag)), slice(max(0, -lag), frames - max(0, lag))
    return correlation(curves[late], truth[early])


def _level(curves: Tensor) -> Tensor:
    """Curves (T, K) less their least-squares straight lines."""
    time = torch.arange(len(curves), dtype=curves.dtype)[:, None] - (len(curves) - 1) / 2
    return curves - curves.mean(dim=0) - time * (time * curves).sum(dim=0) / time.square().sum()
