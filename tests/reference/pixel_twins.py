"""Resizing, colour and rendering one pixel at a time, in plain Python numbers."""

from __future__ import annotations

import math

import numpy as np


def half_pixel(index: int, n: int, m: int) -> float:
    """Centre of output pixel ``index`` of ``m`` in input pixels of ``n``, cut off at the border centres."""
    return min(max((index + 0.5) * n / m - 0.5, 0.0), n - 1.0)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear without antialiasing of one channel (H, W)."""
    out = np.zeros(size)
    for i, j in np.ndindex(size):
        y, x = half_pixel(i, image.shape[0], size[0]), half_pixel(j, image.shape[1], size[1])
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        v, u = y - top, x - left
        upper = float(image[top, left]) * (1 - u) + float(image[top, right]) * u
        lower = float(image[bottom, left]) * (1 - u) + float(image[bottom, right]) * u
        out[i, j] = upper * (1 - v) + lower * v
    return out


def integer_bilinear(image: np.ndarray, size: tuple[int, int], bits: int) -> np.ndarray:
    """The same in whole numbers: weights of ``bits`` fraction bits, one rounding at the end."""
    one = 1 << bits
    out = np.zeros(size)
    for i, j in np.ndindex(size):
        y, x = half_pixel(i, image.shape[0], size[0]), half_pixel(j, image.shape[1], size[1])
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        v, u = round((y - top) * one), round((x - left) * one)
        total = int(image[top, left]) * (one - u) * (one - v) + int(image[top, right]) * u * (one - v)
        total += int(image[bottom, left]) * (one - u) * v + int(image[bottom, right]) * u * v
        out[i, j] = (total + (1 << (2 * bits - 1))) // (1 << (2 * bits))
    return out


def area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mean over the exact footprint of every output pixel of one channel (H, W)."""
    scale_y, scale_x = image.shape[0] / size[0], image.shape[1] / size[1]
    out = np.zeros(size)
    for i, j in np.ndindex(size):
        total = 0.0
        for y, x in np.ndindex(image.shape):
            tall = min(y + 1, (i + 1) * scale_y) - max(y, i * scale_y)
            wide = min(x + 1, (j + 1) * scale_x) - max(x, j * scale_x)
            total += float(image[y, x]) * max(tall, 0.0) * max(wide, 0.0)
        out[i, j] = total / (scale_y * scale_x)
    return out


def nv12(image: np.ndarray, kr: float, kb: float, *, limited: bool) -> np.ndarray:
    """Round trip of one RGB image (3, H, W) of whole grey levels; chroma repeated on the way back."""
    kg = 1 - kr - kb
    luma_gain, chroma_gain, black = (219 / 255, 224 / 255, 16) if limited else (1.0, 1.0, 0)
    _, height, width = image.shape
    luma = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        r, g, b = image[:, y, x]
        luma[y, x] = _byte(black + luma_gain * (kr * r + kg * g + kb * b))
    out = np.zeros(image.shape)
    for y, x in np.ndindex(height // 2, width // 2):
        r, g, b = image[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean(axis=(1, 2))
        grey = kr * r + kg * g + kb * b
        cb = _byte(128 + chroma_gain * (b - grey) / (2 * (1 - kb)))
        cr = _byte(128 + chroma_gain * (r - grey) / (2 * (1 - kr)))
        for row, column in np.ndindex(2, 2):
            at = (2 * y + row, 2 * x + column)
            value = (luma[at] - black) / luma_gain
            red = value + 2 * (1 - kr) * (cr - 128) / chroma_gain
            blue = value + 2 * (1 - kb) * (cb - 128) / chroma_gain
            green = (value - kr * red - kb * blue) / kg
            out[(slice(None), *at)] = [_byte(red), _byte(green), _byte(blue)]
    return out


def _byte(value: float) -> float:
    return min(max(float(np.round(value)), 0.0), 255.0)


def stripe_cover(left: float, right: float, pixels: int) -> list[float]:
    """Share of each pixel ``[i, i+1)`` that lies between ``left`` and ``right``."""
    return [max(0.0, min(i + 1, right) - max(i, left)) for i in range(pixels)]


def painted_share(near: float, far: float, phase: float, dash: float, period: float, steps: int = 20000) -> float:
    """Share of the stretch ``near..far`` that a dashed line paints, by counting."""
    way = near + (np.arange(steps) + 0.5) * (far - near) / steps
    return float(np.mean((way + phase) % period < dash))
