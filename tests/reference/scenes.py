"""Made-up pictures with edges, texture and colour: preprocessing differences show on them as on photographs."""

from __future__ import annotations

import numpy as np


def scene(seed: int = 0, height: int = 232, width: int = 336) -> np.ndarray:
    """Overlapping coloured discs and boxes of all sizes on a gradient, with fine texture; uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([60 + 120 * y / height, 90 + 60 * x / width, 150 - 90 * y / height], axis=-1)
    for _ in range(160):
        colour = rng.uniform(15, 240, 3)
        cy, cx, size = rng.uniform(0, height), rng.uniform(0, width), 3 + 40 * rng.random() ** 3
        if rng.random() < 0.5:
            inside = (y - cy) ** 2 + (x - cx) ** 2 < size**2
        else:
            inside = (abs(y - cy) < size) & (abs(x - cx) < size * rng.uniform(0.1, 1))
        if inside.any():  # a thin box may lie between the pixels
            image[inside] = colour + 0.3 * (image[inside] - image[inside].mean(0))
    texture = rng.normal(0, 4, (height, width, 1)) + 5 * np.sin(x * 1.7 + 0.6 * y)[..., None]
    return np.rint(image + texture).clip(2, 253).astype(np.uint8)
