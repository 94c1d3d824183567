"""The corruptions of ImageNet-C, slowly, one image uint8 (H, W, C) at a time, from their definitions; NumPy draws."""

from __future__ import annotations

import colorsys
import heapq
import io
import math
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from scenes import scene
from scipy import ndimage

whole = lru_cache(maxsize=16)(scene)


def photo(seed, height, width):
    """A corner of a made-up picture, uint8 (height, width, 3)."""
    return whole(seed)[:height, :width].copy()


class LegacyDraws:
    """The draws of one sample as NumPy's global generator of old gives them, for a batch of one."""

    def __init__(self, seed):
        self.rng = np.random.RandomState(seed)

    def __len__(self):
        return 1

    def normal(self, *shape):
        return self._image(shape, lambda s: self.rng.normal(size=s))

    def uniform(self, low, high, *shape):
        return self._image(shape, lambda s: self.rng.uniform(low, high, size=s))

    def integers(self, low, high, *shape):
        return torch.from_numpy(np.asarray(self.rng.randint(low, high, size=shape)))[None]

    def poisson(self, rate):
        counts = self.rng.poisson(rate[0].permute(1, 2, 0).numpy().astype(np.float64))
        return torch.from_numpy(counts).permute(2, 0, 1)[None].float()

    @staticmethod
    def _image(shape, draw):
        """Channels are drawn last, as they stand in an array of pixels."""
        order = (*shape[1:], shape[0]) if len(shape) == 3 else shape
        found = torch.from_numpy(np.asarray(draw(order)))
        return (found.permute(2, 0, 1) if len(shape) == 3 else found).float()[None]


def gaussian_noise(x, c, rng):
    return x + 255 * rng.normal(size=x.shape, scale=c)


def shot_noise(x, c, rng):
    return rng.poisson(x / 255 * c) / c * 255


def impulse_noise(x, c, rng):
    draw = rng.uniform(size=x.shape)  # one draw says whether a value is hit, and by what: the same distribution as two
    return np.where(draw <= c / 2, 255, np.where(draw <= c, 0, x))


def speckle_noise(x, c, rng):
    return x + x * rng.normal(size=x.shape, scale=c)


def blur(x, sigma, truncate=4.0, mode="nearest"):
    if sigma == 0:
        return x
    sigmas = (sigma, sigma, 0)[: x.ndim]
    return ndimage.gaussian_filter(x, sigmas, mode=mode, truncate=truncate)


def gaussian_blur(x, c, rng):
    return blur(x / 255, c) * 255


def glass_blur(x, c, rng):
    sigma, reach, rounds = c
    x = np.uint8(blur(x / 255, sigma) * 255)
    height, width = x.shape[:2]
    for _ in range(rounds):
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                dx, dy = rng.randint(-reach, reach, size=2)
                x[h, w] = x[h + dy, w + dx]  # what the published exchange of two views amounts to
    return blur(x / 255, sigma) * 255


def disk(radius, sigma):
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    place = np.arange(-reach, reach + 1)
    hard = np.array([[float(i * i + j * j <= radius**2) for j in place] for i in place])
    tap = np.arange(-(taps // 2), taps // 2 + 1)
    weights = np.exp(-(tap**2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        hard = ndimage.correlate1d(hard, weights, axis=axis, mode="mirror")
    return hard / np.array([[float(i * i + j * j <= radius**2) for j in place] for i in place]).sum()


def defocus_blur(x, c, rng):
    channels = [ndimage.correlate(x[..., k] / 255, disk(*c), mode="mirror") for k in range(x.shape[2])]
    return np.stack(channels, axis=-1) * 255


def motion_blurred(x, radius, sigma, angle):
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    total = np.zeros(x.shape)
    height, width = x.shape[:2]
    for i, weight in enumerate(weights):
        right = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        rows, columns = (
            np.clip(np.arange(height) + down, 0, height - 1),
            np.clip(np.arange(width) + right, 0, width - 1),
        )
        total += weight / sum(weights) * x[rows][:, columns]
    return np.floor(total + 0.5)


def motion_blur(x, c, rng):
    return motion_blurred(x.astype(float), *c, rng.uniform(-45, 45))


def zoomed(x, factor):
    """Square or not: each side keeps its middle, grows, and is trimmed centrally."""
    kept = [math.ceil(n / factor) for n in x.shape[:2]]
    first = [(n - m) // 2 for n, m in zip(x.shape, kept, strict=False)]
    middle = x[first[0] : first[0] + kept[0], first[1] : first[1] + kept[1]]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    first = [(m - n) // 2 for n, m in zip(x.shape[:2], large.shape[:2], strict=True)]
    return large[first[0] : first[0] + x.shape[0], first[1] : first[1] + x.shape[1]]


def zoom_blur(x, c, rng):
    factors = np.arange(1, *c)
    x = x / 255
    return 255 * (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def plasma(side, decay, rng):
    n = 2 ** math.ceil(math.log2(side))
    cloud, step, wobble = np.zeros((n, n)), n, 100.0

    def fill(row, column, neighbours):
        noise = wobble * rng.uniform(-wobble, wobble, (n // step, n // step))
        for i in range(n // step):
            for j in range(n // step):
                y, x = i * step + row, j * step + column
                mean = sum(cloud[(y + dy) % n, (x + dx) % n] for dy, dx in neighbours) / 4
                cloud[y, x] = mean + noise[i, j]

    while step >= 2:
        half = step // 2
        fill(half, half, [(-half, -half), (-half, half), (half, -half), (half, half)])
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        fill(0, half, cross)
        fill(half, 0, cross)
        step, wobble = half, wobble / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def fog(x, c, rng):
    x = x / 255
    height, width = x.shape[:2]
    cloud = plasma(max(height, width), c[1], rng)[:height, :width, None]
    return 255 * (x + c[0] * cloud) * x.max() / (x.max() + c[0])


def snow(x, c, rng):
    mean, deviation, zoom, threshold, radius, sigma, share = c
    flakes = zoomed(rng.normal(size=(*x.shape[:2], 1), loc=mean, scale=deviation), zoom)
    flakes = np.where(flakes < threshold, 0, flakes)
    flakes = np.floor(np.clip(flakes, 0, 1) * 255)
    flakes = motion_blurred(flakes, radius, sigma, rng.uniform(-135, -45)) / 255
    x = x / 255
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = share * x + (1 - share) * np.maximum(x, grey * 1.5 + 0.5)
    return 255 * (x + flakes + np.rot90(flakes, k=2))


def by_pixel(x, change):
    flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in (x / 255).reshape(-1, 3)]
    return np.array(flat).reshape(x.shape) * 255


def brightness(x, c, rng):
    return by_pixel(x, lambda h, s, v: (h, s, min(v + c, 1.0)))


def saturate(x, c, rng):
    return by_pixel(x, lambda h, s, v: (h, min(max(s * c[0] + c[1], 0.0), 1.0), v))


def contrast(x, c, rng):
    mean = x.mean(axis=(0, 1), keepdims=True)
    return mean + c * (x - mean)


def elastic_transform(x, c, rng, unit=244 / 224):
    height, width = x.shape[:2]
    strength, smoothness, corner = (share * unit * min(height, width) for share in c)
    centre, reach = np.array([height // 2, width // 2], float), min(height, width) // 3
    before = np.array([centre + reach, [centre[0] + reach, centre[1] - reach], centre - reach])
    after = before + rng.uniform(-corner, corner, size=(3, 2))
    back = np.linalg.solve(np.hstack([after, np.ones((3, 1))]), before)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    source = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    planes = [ndimage.map_coordinates(x[..., k] / 255, [source[..., 1], source[..., 0]], order=1, mode="mirror")
              for k in range(x.shape[2])]  # fmt: skip
    right, down = (
        blur(rng.uniform(-1, 1, size=(height, width)), smoothness, truncate=3, mode="reflect") * strength
        for _ in range(2)
    )
    found = [ndimage.map_coordinates(p, [rows + down, columns + right], order=1, mode="reflect") for p in planes]
    return 255 * np.stack(found, axis=-1)


def pixelate(x, c, rng):
    height, width = x.shape[:2]
    small = Image.fromarray(x).resize((int(width * c), int(height * c)), Image.Resampling.BOX)
    return np.array(small.resize((width, height), Image.Resampling.BOX)).astype(float)


def jpeg_compression(x, c, rng):
    file = io.BytesIO()
    Image.fromarray(x).save(file, "JPEG", quality=c)
    return np.array(Image.open(file)).astype(float)


# --- spatter --------------------------------------------------------------------------------------------


def canny(image, low=50, high=150):
    """OpenCV's: 3x3 Sobel, |dx| + |dy|, crests in one of four directions, weak edges that hang on strong ones."""
    wide = np.pad(image.astype(int), 1, mode="edge")
    height, width = image.shape
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    dx = np.array([[int((wide[i : i + 3, j : j + 3] * sobel).sum()) for j in range(width)] for i in range(height)])
    dy = np.array([[int((wide[i : i + 3, j : j + 3] * sobel.T).sum()) for j in range(width)] for i in range(height)])
    size = np.pad(np.abs(dx) + np.abs(dy), 1)
    crest = np.zeros(image.shape, bool)
    for i in range(height):
        for j in range(width):
            here = size[i + 1, j + 1]
            if here <= low:
                continue
            flat = abs(int(dx[i, j])) * 13573
            steep = abs(int(dy[i, j])) << 15
            if steep < flat:
                crest[i, j] = here > size[i + 1, j] and here >= size[i + 1, j + 2]
            elif steep > flat + (abs(int(dx[i, j])) << 16):
                crest[i, j] = here > size[i, j + 1] and here >= size[i + 2, j + 1]
            else:
                side = -1 if (dx[i, j] < 0) != (dy[i, j] < 0) else 1
                crest[i, j] = here > size[i, j + 1 - side] and here > size[i + 2, j + 1 + side]
    pending = [(i, j) for i in range(height) for j in range(width) if crest[i, j] and size[i + 1, j + 1] > high]
    found = np.zeros(image.shape, bool)
    while pending:
        i, j = pending.pop()
        if not found[i, j]:
            found[i, j] = True
            near = ((i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1))
            pending += [(y, x) for y, x in near if 0 <= y < height and 0 <= x < width and crest[y, x]]
    return found


def distance_to(places, end=20.0):
    """Shortest ways on the grid with steps of 1, 1.4 and 2.1969 px (Dijkstra)."""
    height, width = places.shape
    steps = [(i, j, {1: 1.0, 2: 1.4, 5: 2.1969}[i * i + j * j]) for i in range(-2, 3) for j in range(-2, 3)
             if i * i + j * j in (1, 2, 5)]  # fmt: skip
    found = np.full(places.shape, np.inf)
    found[places] = 0
    queue = [(0.0, int(i), int(j)) for i, j in np.argwhere(places)]
    heapq.heapify(queue)
    while queue:
        far, i, j = heapq.heappop(queue)
        if far > found[i, j] or far > end:
            continue
        for di, dj, length in steps:
            y, x = i + di, j + dj
            if 0 <= y < height and 0 <= x < width and far + length < found[y, x]:
                found[y, x] = far + length
                heapq.heappush(queue, (far + length, y, x))
    return np.minimum(found, end)


def equalised(levels):
    counts = np.bincount(levels.astype(int).ravel(), minlength=256)
    least = int(levels.min())
    if counts[least] == levels.size:
        return levels
    scale = np.float32(255.0 / (levels.size - counts[least]))
    table = [round(float(np.float32(counts[least + 1 : k + 1].sum()) * scale)) if k > least else 0 for k in range(256)]
    return np.array(table)[levels.astype(int)]


def mean3(x):
    return ndimage.uniform_filter(x.astype(float), 3, mode="mirror")


def rim_light(drops):
    level = equalised(np.floor(mean3(distance_to(canny(drops))) + 1e-9))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    embossed = np.clip(ndimage.correlate(level.astype(int), relief, mode="mirror"), 0, 255)
    return np.round(mean3(embossed))


def spatter(x, c, rng):
    mean, deviation, sigma, threshold, strength, mud = c
    drops = blur(rng.normal(size=x.shape[:2], loc=mean, scale=deviation), sigma)
    drops = np.where(drops < threshold, 0, drops)
    x = x / 255
    if mud:
        cover = blur((drops > threshold).astype(np.float32), strength)
        cover = np.where(cover < 0.8, 0, cover)[..., None]
        return 255 * (x * (1 - cover) + cover * np.array([63, 42, 20]) / 255)
    drops = np.floor(np.clip(drops * 255, 0, 255))
    light = drops * rim_light(drops)
    light = strength * light / light.max()
    return 255 * (x + light[..., None] * np.array([175, 238, 238]) / 255)
