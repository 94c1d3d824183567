"""Roads without anything that hides their lines, so that what is painted can be measured in the picture."""

from __future__ import annotations

from dataclasses import replace

import torch

from holdfast.data.road import Scene, draw_frames


def bare(scene: Scene) -> Scene:
    """White solid lines on even asphalt: no texture, noise, seam, shadow or car."""
    nothing = torch.zeros_like(scene.light)
    return replace(
        scene,
        paint=torch.full_like(scene.paint, 250.0),
        asphalt=torch.full_like(scene.asphalt, 50.0),
        verge=torch.full_like(scene.verge, 50.0),
        light=nothing + 1,
        dashed=torch.zeros_like(scene.dashed),
        seam_darkness=torch.zeros_like(scene.seam_darkness),
        shadow_light=nothing + 1,
        car_m=nothing + torch.inf,
        grain=nothing,
        noise=nothing,
    )


def bare_frames(n: int) -> Scene:
    return bare(draw_frames([(7, i) for i in range(n)]))


def centroid(row: torch.Tensor, about: float, reach: float, ground: float = 50.0) -> float:
    """Centre of what is brighter than the ground within ``reach`` pixels of ``about``, in pixel edges."""
    first, last = max(0, round(about - reach)), min(len(row), round(about + reach))
    weight = row[first:last].double() - ground
    place = torch.arange(first, last) + 0.5
    return float((weight * place).sum() / weight.sum())


def middle(row: torch.Tensor, about: float, reach: float, ground: float = 50.0, paint: float = 250.0) -> float:
    """Middle between the two edges of a stripe, each read from how much of its pixel is covered, in pixel edges."""
    first = round(about - reach)
    cover = (row[first : round(about + reach)].double() - ground) / (paint - ground)
    left, right = int(cover.nonzero()[0]), int(cover.nonzero()[-1])
    assert right > left, "a stripe inside a single pixel does not show where its edges are"
    return first + (left + 1 - float(cover[left]) + right + float(cover[right])) / 2
