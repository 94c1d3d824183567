"""Scenes with a varying number of coloured squares, discs and diamonds on noisy ground, and their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["KINDS", "MOST", "NET_PX", "SENSOR_PX", "Scenes"]

SENSOR_PX, NET_PX = 160, 64
KINDS = ("square", "disc", "diamond")
MOST = 5
"""Objects in a scene, at most; boxes are padded to so many."""


class Scenes:
    """Sensor frames uint8 (3, 160, 160) with boxes in pixels of the network's input; scene ``i`` depends on the key.

    Samples hold ``image``, ``boxes`` float (5, 4) as left, top, right, bottom, ``kinds`` int64 (5,) and ``counts``
    float (5,), 1 where there is an object. Some scenes are empty.

    Args:
        key: of all draws.
        count: scenes.
    """

    def __init__(self, key: int, count: int) -> None:
        self._key, self._count = key, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[0] for name, column in _batch(self._key, [index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        drawn = _batch(self._key, indices)
        return [{name: column[i] for name, column in drawn.items()} for i in range(len(indices))]


def _batch(key: int, indices: Sequence[int]) -> dict[str, Tensor]:
    draws = [_draw(torch.Generator().manual_seed(key * 1_000_003 + index)) for index in indices]
    scene = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
    noise = scene["noise"]
    image = scene["ground"] + 10.0 * noise
    for k in range(MOST):
        inside = (
            _shape(scene["kinds"][:, k], scene["boxes"][:, k] * (SENSOR_PX / NET_PX))
            * scene["counts"][:, k, None, None]
        )
        image = torch.lerp(image, scene["colours"][:, k] + 6.0 * noise, inside[:, None])
    return {"image": image.round().clamp(0, 255).to(torch.uint8),
            **{name: scene[name] for name in ("boxes", "kinds", "counts")}}  # fmt: skip


def _draw(g: torch.Generator) -> dict[str, Tensor]:
    """One scene: later objects cover earlier ones, so centres keep a distance."""
    n = int(torch.randint(0, MOST + 1, (), generator=g))
    size = 8.0 + 14.0 * torch.rand(MOST, 1, generator=g) * (0.8 + 0.4 * torch.rand(MOST, 2, generator=g))
    centres = _apart(g, size)
    return {
        "boxes": torch.cat([centres - size / 2, centres + size / 2], dim=1),
        "kinds": torch.randint(len(KINDS), (MOST,), generator=g),
        "counts": (torch.arange(MOST) < n).float(),
        "ground": 60.0 + 60.0 * torch.rand(3, 1, 1, generator=g),
        "noise": torch.randn(3, SENSOR_PX, SENSOR_PX, generator=g),
        "colours": 255.0 * torch.rand(MOST, 3, 1, 1, generator=g),
    }


def _apart(g: torch.Generator, size: Tensor) -> Tensor:
    """Centres that keep their objects inside, each the farthest from the earlier ones of eight draws."""
    margin = size / 2 + 1.0
    chosen: list[Tensor] = []
    for k in range(len(size)):
        tries = margin[k] + (NET_PX - 2 * margin[k]) * torch.rand(8, 2, generator=g)
        gaps = torch.stack([(tries - other).norm(dim=1) for other in chosen]).amin(0) if chosen else torch.zeros(8)
        chosen.append(tries[gaps.argmax()])
    return torch.stack(chosen)


def _shape(kinds: Tensor, boxes: Tensor) -> Tensor:
    """Share of each pixel inside the object, float (B, H, W), with soft edges of one pixel."""
    pixels = torch.arange(SENSOR_PX) + 0.5
    x = pixels[None, None, :] - (boxes[:, 0] + boxes[:, 2])[:, None, None] / 2
    y = pixels[None, :, None] - (boxes[:, 1] + boxes[:, 3])[:, None, None] / 2
    half_x, half_y = ((boxes[:, i + 2] - boxes[:, i])[:, None, None] / 2 for i in (0, 1))
    u, v = (x / half_x).abs(), (y / half_y).abs()
    radius = torch.stack([torch.maximum(u, v), torch.hypot(u, v), u + v])[kinds, torch.arange(len(kinds))]
    return (0.5 + (1.0 - radius) * torch.minimum(half_x, half_y)).clamp(0.0, 1.0)
