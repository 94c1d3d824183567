"""Changes of images with a strength for each sample: the operations of AugMix and TrivialAugment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample

__all__ = ["ENHANCING", "GEOMETRIC", "PHOTOMETRIC", "apply_each"]

# Every operation takes images float (B, C, H, W) in 0..1 and strengths float (B,) in -1..1, and clips its result.
# Negative strengths mean the other direction where there is one.


def autocontrast(image: Tensor, strength: Tensor) -> Tensor:
    """Stretch each channel to 0..1; a channel of one value stays."""
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    flat = (high == low).to(image)
    return (image - low * (1 - flat)) / (high - low + flat)


def equalize(image: Tensor, strength: Tensor) -> Tensor:
    """Spread the 256 grey levels of each channel so that all are about equally frequent."""
    levels = (image * 255).round().long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, device=image.device, dtype=torch.long)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    last = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step == 0, torch.arange(256, device=image.device), table)
    return (table.gather(2, levels).to(image) / 255).view_as(image)


def posterize(image: Tensor, strength: Tensor) -> Tensor:
    """Keep the upper 4 bits, or fewer the stronger: ``4 - floor(4 |strength|)``, at least one."""
    bits = (4 - (4 * strength.abs()).floor()).clamp(min=1)
    width = _wide(2 ** (8 - bits))
    return ((image * 255).round() / width).floor() * width / 255


def solarize(image: Tensor, strength: Tensor) -> Tensor:
    """Invert what is brighter than ``1 - |strength|``."""
    bright = (image >= 1 - _wide(strength.abs())).to(image)
    return image + bright * (1 - 2 * image)


def brightness(image: Tensor, strength: Tensor) -> Tensor:
    """Scale by ``1 + 0.9 strength``."""
    return (image * (1 + 0.9 * _wide(strength))).clamp(0, 1)


def contrast(image: Tensor, strength: Tensor) -> Tensor:
    """Scale the distance to the mean grey by ``1 + 0.9 strength``."""
    return _blend(_grey(image).mean((1, 2, 3), keepdim=True), image, strength)


def colour(image: Tensor, strength: Tensor) -> Tensor:
    """Scale the distance to the grey image by ``1 + 0.9 strength``."""
    return _blend(_grey(image), image, strength)


def sharpness(image: Tensor, strength: Tensor) -> Tensor:
    """Scale the distance to a smoothed image by ``1 + 0.9 strength``; the border stays."""
    kernel = torch.ones(3, 3, device=image.device, dtype=image.dtype)
    kernel[1, 1] = 5.0
    kernel = (kernel / 13.0).expand(image.shape[1], 1, 3, 3)
    smooth = image.clone()
    smooth[:, :, 1:-1, 1:-1] = conv2d(image, kernel, groups=image.shape[1])
    return _blend(smooth, image, strength)


def rotate(image: Tensor, strength: Tensor) -> Tensor:
    """Turn by ``30 strength`` degrees about the centre; black comes in from outside, as in all that moves pixels."""
    angle = torch.deg2rad(30 * strength)
    cos, sin, ratio = angle.cos(), angle.sin(), image.shape[2] / image.shape[3]
    zero = torch.zeros_like(cos)
    return _warp(image, [[cos, -sin * ratio, zero], [sin / ratio, cos, zero]])


def shear_x(image: Tensor, strength: Tensor) -> Tensor:
    """Shear along x by ``0.3 strength``."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(image, [[one, 0.3 * strength * (image.shape[2] / image.shape[3]), zero], [zero, one, zero]])


def shear_y(image: Tensor, strength: Tensor) -> Tensor:
    """Shear along y by ``0.3 strength``."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(image, [[one, zero, zero], [0.3 * strength * (image.shape[3] / image.shape[2]), one, zero]])


def translate_x(image: Tensor, strength: Tensor) -> Tensor:
    """Move along x by ``strength / 3`` of the width."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(image, [[one, zero, 2 * strength / 3], [zero, one, zero]])


def translate_y(image: Tensor, strength: Tensor) -> Tensor:
    """Move along y by ``strength / 3`` of the height."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(image, [[one, zero, zero], [zero, one, 2 * strength / 3]])


Op = Callable[[Tensor, Tensor], Tensor]
PHOTOMETRIC: Mapping[str, Op] = {
    "autocontrast": autocontrast, "equalize": equalize, "posterize": posterize, "solarize": solarize,
}  # fmt: skip
"""Leave every pixel where it is."""
ENHANCING: Mapping[str, Op] = {
    "brightness": brightness, "contrast": contrast, "colour": colour, "sharpness": sharpness,
}  # fmt: skip
"""Photometric, too, but kin to common corruptions: training with them flatters a test on those."""
GEOMETRIC: Mapping[str, Op] = {
    "rotate": rotate, "shear_x": shear_x, "shear_y": shear_y, "translate_x": translate_x, "translate_y": translate_y,
}  # fmt: skip
"""Move pixels."""


def apply_each(image: Tensor, ops: Mapping[str, Op], choice: Tensor, strength: Tensor) -> Tensor:
    """Apply to each sample the operation it chose.

    Args:
        image: float (B, C, H, W) in 0..1.
        ops: operations by name.
        choice: int64 (B,) on the CPU, index into ``ops``; a negative one leaves the sample alone.
        strength: float (B,) in -1..1.
    """
    changed = image.clone()
    for k, op in enumerate(ops.values()):
        chosen = (choice == k).nonzero()[:, 0].to(image.device)
        if len(chosen):
            changed[chosen] = op(image[chosen], strength[chosen].to(image))
    return changed


def _wide(x: Tensor) -> Tensor:
    return x.view(-1, 1, 1, 1)


def _blend(other: Tensor, image: Tensor, strength: Tensor) -> Tensor:
    return (other + (1 + 0.9 * _wide(strength)) * (image - other)).clamp(0, 1)


def _grey(image: Tensor) -> Tensor:
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    weights = image.new_empty(3)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        weights[channel].fill_(weight)
    return (image * weights.view(1, 3, 1, 1)).sum(1, keepdim=True)


def _warp(image: Tensor, rows: list[list[Tensor]]) -> Tensor:
    """Sample the image at ``A (x, y, 1)``, in coordinates that run from -1 to 1 over each side."""
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)
    grid = affine_grid(matrix.to(image), list(image.shape), align_corners=False)
    return grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
