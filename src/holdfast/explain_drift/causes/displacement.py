"""The same picture a little elsewhere: crop offset, letterbox split, sub-pixel shift, half-pixel convention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from holdfast.explain_drift.cause import Leaves, Pair, Tiles, filtered

__all__ = ["Displacement"]

SNAP_PX = 0.04


@dataclass(frozen=True, kw_only=True)
class Displacement:
    """The vehicle's pixel ``(y, x)`` holds what training has at ``(y + dy + zy (y - cy), x + dx + zx (x - cx))``.

    Args:
        dy_px, dx_px: displacement at the centre of the picture.
        zy, zx: its growth per pixel from the centre, as other corner conventions of a resize cause it.
        kernel: how values between pixels are taken.
    """

    family: ClassVar[str] = "displacement"
    stage: ClassVar[int] = 4
    dy_px: float = 0.0
    dx_px: float = 0.0
    zy: float = 0.0
    zx: float = 0.0
    kernel: Literal["linear", "cubic", "sinc"] = "linear"

    @property
    def whole(self) -> bool:
        """Whether it moves by whole pixels, which needs no interpolation."""
        return not (self.zy or self.zx) and self.dy_px == round(self.dy_px) and self.dx_px == round(self.dx_px)

    @property
    def name(self) -> str:
        """What kind of displacement its size speaks for."""
        if self.zy or self.zx:
            return "corner_convention"
        return "crop_offset" if self.whole else "subpixel_shift"

    @property
    def detail(self) -> str:
        """Rows down and columns right, in pixels."""
        text = f"content displaced by {self.dy_px:+.2f} px down, {self.dx_px:+.2f} px right"
        if self.zy or self.zx:
            text += f", growing by {1e3 * self.zy:+.2f} and {1e3 * self.zx:+.2f} px per 1000 px"
        return text

    @property
    def cost(self) -> float:
        """Forgiving errors that follow the detail explains much; a zoom is one more thing to believe."""
        return 0.2 if self.whole else 0.5 if self.zy or self.zx else 0.4

    @property
    def leaves(self) -> Leaves:
        """Values between pixels depend on a kernel nobody told us."""
        return "nothing" if self.whole else "detail"

    @property
    def hides(self) -> tuple[str, ...]:
        """Interpolation between pixels is a filter too."""
        return () if self.whole else ("resize_kernel",)

    def apply(self, tiles: Tiles) -> Tensor:
        """The picture taken at the displaced places."""
        return self._sample(tiles, 1.0)

    def undo(self, tiles: Tiles) -> Tensor:
        """The picture taken at the places displaced the other way."""
        return self._sample(tiles, -1.0)

    def _sample(self, tiles: Tiles, sign: float) -> Tensor:
        down, right = self.dy_px - tiles.aligned[0], self.dx_px - tiles.aligned[1]
        if self.zy or self.zx:
            return _warp(tiles, sign * down, sign * right, sign * self.zy, sign * self.zx)
        return _moved(tiles.pixels, sign * down, sign * right, self.kernel)

    @classmethod
    def propose(cls, pair: Pair) -> list[Displacement]:
        """A translation and a translation with zoom, fitted to luma by Gauss-Newton, with every kernel."""
        found: list[Displacement] = []
        top, left = pair.before.aligned
        source, target = (_thinned(tiles) for tiles in (pair.before, pair.after))
        dy, dx, _, _ = _fit(source, target, (0.0, 0.0, 0.0, 0.0), zoom=False)
        moved = cls(dy_px=_snap(dy + top), dx_px=_snap(dx + left))
        if not moved.whole:
            linear_dy, linear_dx = _fit_linear(source, target, dy, dx)
            found.append(cls(dy_px=_snap(linear_dy + top), dx_px=_snap(linear_dx + left)))
            found += [replace(moved, kernel=kernel) for kernel in ("cubic", "sinc")]
        elif (moved.dy_px, moved.dx_px) != (0.0, 0.0):
            found.append(moved)
        dy, dx, zy, zx = _fit(source, target, (dy, dx, 0.0, 0.0), zoom=True)
        if 0.05 < max(abs(zy) * source.size[0], abs(zx) * source.size[1]) / 2 < 4:
            found.append(cls(dy_px=_snap(dy + top), dx_px=_snap(dx + left), zy=zy, zx=zx))
        return found


def _snap(distance: float) -> float:
    whole = float(round(distance))
    return whole if abs(distance - whole) < SNAP_PX else distance


def _thinned(tiles: Tiles) -> Tiles:
    """The luma of every other piece: plenty for a fit of four numbers."""
    step = 2 if len(tiles.pixels) > 2 else 1
    return replace(tiles, pixels=tiles.pixels[::step].mean(1, keepdim=True), origin=tiles.origin[::step])


def _fit(source: Tiles, target: Tiles, start: tuple[float, ...], *, zoom: bool) -> tuple[float, float, float, float]:
    """Least squares of ``target = gain source(moved) + offset``, linearised and repeated."""
    source, wanted = source.with_pixels(_smooth(source.pixels)), _smooth(target.pixels)[..., 4:-4, 4:-4].flatten()
    rows, columns = (place[:, None] for place in source.places())
    state = torch.tensor(start, dtype=torch.float64)
    for _ in range(3):
        dy, dx, zy, zx = state.tolist()
        moved = _warp(source, dy, dx, zy, zx) if zoom else _moved(source.pixels, dy, dx, "linear")
        gy = (moved[..., 2:, 1:-1] - moved[..., :-2, 1:-1]) / 2
        gx = (moved[..., 1:-1, 2:] - moved[..., 1:-1, :-2]) / 2
        parts = [torch.ones_like(gy), moved[..., 1:-1, 1:-1], gy, gx]
        if zoom:
            parts += [gy * rows[..., 1:-1, :], gx * columns[..., :, 1:-1]]
        solution = _least_squares(torch.stack([part[..., 3:-3, 3:-3].flatten() for part in parts]), wanted)
        gain = float(solution[1])
        if abs(gain) < 0.05:
            break
        step = solution[2:] / gain
        state[: len(step)] += step.clamp(-1, 1)
    dy, dx, zy, zx = state.clamp(-4, 4).tolist()
    return dy, dx, zy, zx


def _least_squares(design: Tensor, wanted: Tensor) -> Tensor:
    """Weights (n,) float64 of the rows of ``design`` (n, N) that come nearest to ``wanted`` (N,)."""
    normal = (design @ design.T).double()
    normal += torch.diag(normal.diagonal() * 1e-7 + 1e-9)
    weights: Tensor = torch.linalg.solve(normal, (design @ wanted).double())
    return weights


def _fit_linear(source: Tiles, target: Tiles, dy: float, dx: float) -> tuple[float, float]:
    """The translation for which bilinear sampling itself fits best: it is linear in the weights of its four taps."""
    top, left = math.floor(dy), math.floor(dx)
    corners = [(top + i, left + j) for i in (0, 1) for j in (0, 1)]
    taps = [torch.roll(source.pixels, (-y, -x), (2, 3))[..., 6:-6, 6:-6].flatten() for y, x in corners]
    design = torch.stack([*taps, torch.ones_like(taps[0])])
    weights = _least_squares(design, target.pixels[..., 6:-6, 6:-6].flatten())[:4]
    weights = weights / weights.sum()
    return top + float(weights[2:].sum()), left + float(weights[1::2].sum())


def _smooth(luma: Tensor) -> Tensor:
    padded = functional.pad(luma, (1, 1, 1, 1), mode="replicate")
    return filtered(padded, [[a * b / 16 for b in (1, 2, 1)] for a in (1, 2, 1)])


def _moved(pixels: Tensor, dy: float, dx: float, kernel: str) -> Tensor:
    return _shift(_shift(pixels, dy, kernel, axis=-2), dx, kernel, axis=-1)


def _shift(pixels: Tensor, distance: float, kernel: str, axis: int) -> Tensor:
    """Take pixels ``distance`` further on along an axis, edges repeated."""
    if distance == 0:
        return pixels
    first, extent = math.floor(distance), pixels.shape[axis]
    taps = _taps(distance - first, kernel)
    before, behind = max(0, -first - min(taps)), max(0, first + max(taps))
    edges = (before, behind, 0, 0) if axis == -1 else (0, 0, before, behind)
    padded = functional.pad(pixels, edges, mode="replicate")
    total = torch.zeros_like(pixels)
    for tap, weight in taps.items():
        if weight:
            total.add_(padded.narrow(axis, before + first + tap, extent), alpha=weight)
    return total


def _taps(t: float, kernel: str) -> dict[int, float]:
    """Weights of the neighbours of a place ``t`` of the way from pixel 0 to pixel 1: linear, Catmull-Rom, Lanczos-3."""
    if kernel == "linear":
        return {0: 1 - t, 1: t}
    if kernel == "cubic":
        return {
            -1: -0.5 * t + t**2 - 0.5 * t**3, 0: 1 - 2.5 * t**2 + 1.5 * t**3,
            1: 0.5 * t + 2 * t**2 - 1.5 * t**3, 2: -0.5 * t**2 + 0.5 * t**3,
        }  # fmt: skip
    weights = {tap: _sinc(t - tap) * _sinc((t - tap) / 3) for tap in range(-2, 4)}
    return {tap: weight / sum(weights.values()) for tap, weight in weights.items()}


def _sinc(x: float) -> float:
    return math.sin(math.pi * x) / (math.pi * x) if x else 1.0


def _warp(tiles: Tiles, dy: float, dx: float, zy: float, zx: float) -> Tensor:
    """Bilinear sampling at displaced places, edges repeated."""
    height, width = tiles.pixels.shape[-2:]
    rows, columns = tiles.places()
    y = torch.arange(height)[None, :, None] + dy + zy * rows
    x = torch.arange(width)[None, None, :] + dx + zx * columns
    grid = tiles.pixels.new_empty(len(rows), height, width, 2)
    grid[..., 0], grid[..., 1] = x * 2 / max(width - 1, 1) - 1, y * 2 / max(height - 1, 1) - 1
    return functional.grid_sample(tiles.pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)
