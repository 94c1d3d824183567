"""Renders road scenes: the ground as a sum of layers, each a coverage times a colour, and a sensor behind it."""

from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from holdfast.data.road import DASH_M, DASH_PERIOD_M, LINE_WIDTH_M, LINES, SHADOW_PERIOD_M, Camera, Scene

__all__ = ["render"]

SEAM_WIDTH_M = 0.05
TEXEL_M, TEXELS = 0.06, 512
NOISE_VALUES = 1 << 22
CAR_WIDTH_M, CAR_HEIGHT_M = 1.8, 1.45
SOFT_M = 0.3
CHUNK = 4  # keeps the layers of a chunk in the cache and below the size that malloc maps afresh each time


def render(scene: Scene, camera: Camera) -> Tensor:
    """Sensor frames of a batch of scenes: uint8 (B, 3, H, W).

    Each row shows the ground at the distance of its centre. Across a row, stripes are covered exactly (a pixel is
    mixed by the share of its width that the stripe covers), and along the road dashes are, so that no aliasing of
    the renderer can be mistaken for aliasing of a resizer.
    """
    frames = torch.empty(len(scene), 3, camera.height_px, camera.width_px, dtype=torch.uint8)
    for start in range(0, len(scene), CHUNK):
        part = slice(start, start + CHUNK)
        frames[part] = _render(scene[part], camera)
    return frames


def _render(scene: Scene, camera: Camera) -> Tensor:
    first = math.ceil(camera.horizon_px)
    image = torch.empty(len(scene), 3, camera.height_px, camera.width_px)
    image[:, :, :first] = _sky(scene, first)
    image[:, :, first:] = _ground(scene, camera, first)
    image *= scene.light[:, None, None, None]
    _add_car(image, scene, camera)
    return _sense(image, scene)


def _sky(scene: Scene, rows: int) -> Tensor:
    """Brighter towards the horizon, with a dark belt of trees on it."""
    height = torch.linspace(0, 1, rows)
    fade = 0.75 + 0.25 * height
    belt = ((height - 0.86) / 0.04).clamp(0, 1)
    colour = scene.sky[..., None] * (fade * (1 - belt)) + 0.5 * scene.verge[..., None] * belt
    return colour[..., None]


def _ground(scene: Scene, camera: Camera, first: int) -> Tensor:
    edges = torch.arange(first, camera.height_px + 1, dtype=torch.float32)
    reach = camera.focal_px * camera.height_m
    distance = reach / (edges[:-1] + 0.5 - camera.horizon_px)
    far, near = reach / (edges[:-1] - camera.horizon_px).clamp(min=0.25), reach / (edges[1:] - camera.horizon_px)
    layers = _stripes(scene, camera, distance, near, far)
    way = scene.travelled_m[:, None] + distance
    pixel_m = distance / camera.focal_px
    across = (torch.arange(camera.width_px) + 0.5 - camera.width_px / 2) * pixel_m[:, None]
    across = across - scene.centre_m(distance)[..., None]
    layers[:, -1] = _texture(across, way, pixel_m, far - near)
    ground = (_colours(scene).mT @ layers.flatten(2)).view(len(scene), 3, len(distance), camera.width_px)
    ground += scene.verge[..., None, None]
    ground *= _shadow(scene, across, way, far - near)[:, None]
    return ground


def _stripes(scene: Scene, camera: Camera, distance: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """Coverage of road, lines and seams, (B, K, rows, W); the last layer is left empty for the texture."""
    number = torch.arange(LINES) - (LINES - 1) / 2
    lane = scene.lane_width_m[:, None]
    verges = scene.shoulder_m * torch.tensor([-1.0, 1.0])
    centre = torch.cat((verges.mean(1, keepdim=True), lane * number, scene.seam_m), dim=1)
    width = torch.full_like(centre, LINE_WIDTH_M)
    width[:, :1] = lane * (LINES - 1) + scene.shoulder_m.sum(1, keepdim=True)
    width[:, 1 + LINES :] = SEAM_WIDTH_M
    lateral = centre[..., None] + scene.centre_m(distance)[:, None]
    left = camera.column(lateral - width[..., None] / 2, distance)
    right = camera.column(lateral + width[..., None] / 2, distance)
    columns = torch.arange(camera.width_px, dtype=torch.float32)
    layers = torch.empty(*left.shape[:1], left.shape[1] + 1, len(distance), camera.width_px)
    for k, layer in enumerate(layers[:, :-1].unbind(1)):
        torch.sub(right[:, k, :, None], columns, out=layer).clamp_(0, 1)
        layer -= (left[:, k, :, None] - columns).clamp_(0, 1)
    layers[:, 1 : 1 + LINES] *= _dash_share(scene, near, far)[..., None]
    return layers


def _colours(scene: Scene) -> Tensor:
    """What each layer adds where it covers all, (B, K, 3): lines and seams lie on asphalt, asphalt on the verge."""
    asphalt, grey = scene.asphalt[:, None], torch.ones(3)
    seams, texture = -scene.seam_darkness[..., None] * grey, scene.grain[:, None, None] * grey
    return torch.cat((asphalt - scene.verge[:, None], scene.paint - asphalt, seams, texture), dim=1)


def _dash_share(scene: Scene, near: Tensor, far: Tensor) -> Tensor:
    """Share of each row's stretch of road, ``near..far``, on which each line is painted: (B, 4, rows)."""
    way = scene.travelled_m[:, None, None] + scene.dash_phase_m[..., None]
    painted = (_painted_before(way + far) - _painted_before(way + near)) / (far - near)
    return torch.where(scene.dashed[..., None] > 0, painted, 1.0)


def _painted_before(way: Tensor) -> Tensor:
    """Metres of paint between 0 and ``way`` on a dashed line."""
    whole = (way / DASH_PERIOD_M).floor()
    return whole * DASH_M + (way - whole * DASH_PERIOD_M).clamp(max=DASH_M)


@functools.cache
def _grain() -> Tensor:
    return torch.randn(TEXELS * TEXELS, generator=torch.Generator().manual_seed(20))


def _texture(across: Tensor, way: Tensor, width: Tensor, length: Tensor) -> Tensor:
    """Grain of the ground, of deviation 1, fixed to the road: weaker by sqrt(n) where a pixel averages n texels."""
    column = (across / TEXEL_M + TEXELS * TEXELS).int() & (TEXELS - 1)
    row = (way / TEXEL_M).int() & (TEXELS - 1)
    grain = _grain().index_select(0, (row[..., None] * TEXELS + column).flatten()).view(across.shape)
    texels = (width / TEXEL_M).clamp(min=1) * (length / TEXEL_M).clamp(min=1)
    return grain.mul_(texels.rsqrt()[:, None])


def _shadow(scene: Scene, across: Tensor, way: Tensor, length: Tensor) -> Tensor:
    """Light that reaches the ground, (B, rows, W); the edge is soft, at least over a row's own stretch of road."""
    start, extent, slant, light = (
        v[:, None, None] for v in (scene.shadow_m, scene.shadow_length_m, scene.shadow_slant, scene.shadow_light)
    )
    soft = (SOFT_M + length)[:, None]
    inside = (across * slant).add_(way[..., None] - start).remainder_(SHADOW_PERIOD_M)
    dark = (extent - inside).div_(soft).clamp_(0, 1).mul_(inside.div_(soft).clamp_(0, 1))
    return dark.mul_(light - 1).add_(1)


def _add_car(image: Tensor, scene: Scene, camera: Camera) -> None:
    """Draw the back of the lead car, exactly covered, with a darker upper half and its shadow on the road."""
    distance = scene.car_m.clamp(max=1e6)
    centre = scene.offset_m + scene.heading * distance + 0.5 * scene.curvature_per_m * distance**2
    centre = centre + scene.car_lane * scene.lane_width_m
    left, right = (camera.column(centre + side * CAR_WIDTH_M / 2, distance) for side in (-1, 1))
    columns = _cover(left, right, camera.width_px)
    heights = (CAR_HEIGHT_M, 0.8, 0.25, 0.0)
    rows = [camera.horizon_px + camera.focal_px * (camera.height_m - h) / distance for h in heights]
    covers = [_cover(top, bottom, camera.height_px) for top, bottom in itertools.pairwise(rows)]
    present = scene.car_m.isfinite().float()[:, None]
    shade = present * sum(cover * part for cover, part in zip(covers, (0.45, 1.0, 0.15), strict=True))
    seen = slice(max(0, int(rows[0].min())), int(rows[-1].max()) + 1)
    clear = 1 - (present * sum(covers))[:, None, seen, None] * columns[:, None, None, :]
    colour = (scene.car_colour * scene.light[:, None])[..., None, None]
    image[:, :, seen] *= clear
    image[:, :, seen] += colour * (shade[:, None, seen, None] * columns[:, None, None, :])


def _cover(start: Tensor, end: Tensor, pixels: int) -> Tensor:
    """Share of each pixel inside ``start..end``: (B, pixels)."""
    edge = torch.arange(pixels, dtype=torch.float32)
    return (end[:, None] - edge).clamp(0, 1) - (start[:, None] - edge).clamp(0, 1)


def _sense(image: Tensor, scene: Scene) -> Tensor:
    """Add each frame's own sensor noise, a stretch of a long table that begins at its seed, and digitise."""
    size = image[0].numel()
    table = _noise(size)
    for frame, seed, sigma in zip(image, scene.noise_seed.tolist(), scene.noise.tolist(), strict=True):
        start = seed % (len(table) - size)
        frame.add_(table[start : start + size].view_as(frame), alpha=sigma)
    return image.round_().clamp_(0, 255).byte()


@functools.cache
def _noise(at_least: int) -> Tensor:
    """Standard normal values: drawing them for every frame would take a third of the renderer's time."""
    return torch.randn(NOISE_VALUES + at_least, generator=torch.Generator().manual_seed(21))
