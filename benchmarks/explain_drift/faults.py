"""A camera frame as two recorders would hand it to a network: written in NumPy and Pillow, apart from the catalogue.

`record` runs one side of the comparison; a fault is a change of the vehicle's `Side`. Faults act where they act on a
vehicle: tone, colour and chroma at sensor size, the crop in sensor pixels, the rest at network size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

MATRICES = {"601": (0.299, 0.114), "709": (0.2126, 0.0722)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NONE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MARGIN = 16


@dataclass(frozen=True, kw_only=True)
class Side:
    """Everything one recorder does to a frame, in this order."""

    gamma: float = 1.0
    encode: tuple[str, str] | None = None
    decode: tuple[str, str] | None = None
    chroma: tuple[str, str] | None = None
    crop: tuple[int, int] = (0, 0)
    scale: float = 1.0
    kernel: str = "bilinear_aa"
    shift: tuple[float, float] = (0.0, 0.0)
    rounding: str = "round"
    pad: tuple[int, int, float] | None = None
    order: str = "rgb"
    divisor: float = 255.0
    mean: tuple[float, ...] = NONE[0]
    std: tuple[float, ...] = NONE[1]
    unit: float = 1.0
    layout: str = "chw"
    dtype: str = "float32"


def record(frame: np.ndarray, side: Side) -> np.ndarray:
    """The network input that this side makes of a frame, uint8 (H, W, 3)."""
    image = frame.astype(np.float64)
    if side.gamma != 1:
        image = np.rint(255 * (image / 255) ** side.gamma)
    if side.encode:
        image = camera_link(image, side.encode, side.decode or side.encode, side.chroma)
    top, left = MARGIN + side.crop[0], MARGIN + side.crop[1]
    image = image[top : top + frame.shape[0] - 2 * MARGIN, left : left + frame.shape[1] - 2 * MARGIN]
    size = (round(image.shape[0] * side.scale), round(image.shape[1] * side.scale))
    if side.scale != 1:
        image = resize(image, size, side.kernel)
    image = subpixel(image, side.shift)
    image = {"round": np.rint, "truncate": np.floor, "none": lambda v: v}[side.rounding](image)
    image = image if side.rounding == "none" else image.clip(0, 255)
    if side.pad:
        above, below, fill = side.pad
        image = np.pad(image, ((above, below), (0, 0), (0, 0)), constant_values=fill)
    image = image[..., ::-1] if side.order == "bgr" else image
    image = (image / side.divisor - np.array(side.mean)) / np.array(side.std) * side.unit
    image = {"chw": lambda v: v.transpose(2, 0, 1), "hwc": lambda v: v, "buffer": buffer}[side.layout](image)
    return store(np.ascontiguousarray(image), side.dtype)


def buffer(image: np.ndarray) -> np.ndarray:
    """Interleaved memory declared as planes: the values of (H, W, 3) read as (3, H, W)."""
    height, width, channels = image.shape
    return np.ascontiguousarray(image).reshape(channels, height, width)


def store(image: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "uint8":
        return np.rint(image).clip(0, 255).astype(np.uint8)
    if dtype == "bfloat16":
        bits = image.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    if dtype == "int8":
        step = np.abs(image).max() / 127
        return (np.rint(image / step) * step).astype(np.float32)
    return image.astype(dtype)


# --- colour ---------------------------------------------------------------------------------------------


def camera_link(
    rgb: np.ndarray, encode: tuple[str, str], decode: tuple[str, str], chroma: tuple[str, str] | None
) -> np.ndarray:
    """8-bit RGB -> YCbCr -> RGB with the two ends' matrix and range, chroma at half resolution where asked."""
    y, cb, cr = to_ycbcr(rgb, *encode)
    if chroma:
        cb, cr = (upsample(np.rint(subsample(plane, chroma[0])), chroma[1], plane.shape) for plane in (cb, cr))
    return np.rint(to_rgb(np.rint(y), np.rint(cb), np.rint(cr), *decode)).clip(0, 255)


def to_ycbcr(rgb: np.ndarray, matrix: str, span: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kr, kb = MATRICES[matrix]
    r, g, b = np.moveaxis(rgb, -1, 0)
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    if span == "full":
        return y, (cb + 128).clip(0, 255), (cr + 128).clip(0, 255)
    return y * 219 / 255 + 16, cb * 224 / 255 + 128, cr * 224 / 255 + 128


def to_rgb(y: np.ndarray, cb: np.ndarray, cr: np.ndarray, matrix: str, span: str) -> np.ndarray:
    kr, kb = MATRICES[matrix]
    if span == "limited":
        y, cb, cr = (y - 16) * 255 / 219, (cb - 128) * 255 / 224 + 128, (cr - 128) * 255 / 224 + 128
    r = y + (2 - 2 * kr) * (cr - 128)
    b = y + (2 - 2 * kb) * (cb - 128)
    return np.stack((r, (y - kr * r - kb * b) / (1 - kr - kb), b), axis=-1)


def subsample(plane: np.ndarray, kind: str) -> np.ndarray:
    if kind == "drop":
        return plane[::2, ::2]
    rows = (plane[::2] + plane[1::2]) / 2
    if kind == "box":
        return (rows[:, ::2] + rows[:, 1::2]) / 2
    padded = np.pad(rows, ((0, 0), (1, 1)), mode="edge")
    return (padded[:, :-2:2] + 2 * padded[:, 1:-1:2] + padded[:, 2::2]) / 4


def upsample(plane: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """``nearest`` repeats; ``centred`` and ``left`` interpolate from the places where those sitings put samples."""
    if kind == "nearest":
        return plane.repeat(2, 0).repeat(2, 1)
    rows = (np.arange(shape[0]) - 0.5) / 2
    columns = np.arange(shape[1]) / 2 if kind == "left" else (np.arange(shape[1]) - 0.5) / 2
    return interpolate(interpolate(plane, rows, 0), columns, 1)


# --- geometry -------------------------------------------------------------------------------------------


def interpolate(image: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Linear interpolation along an axis at fractional places, edges repeated."""
    places = places.clip(0, image.shape[axis] - 1)
    first = np.floor(places).astype(int)
    second = np.minimum(first + 1, image.shape[axis] - 1)
    shape = [1] * image.ndim
    shape[axis] = -1
    weight = (places - first).reshape(shape)
    return image.take(first, axis) * (1 - weight) + image.take(second, axis) * weight


def subpixel(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    for axis, distance in enumerate(shift):
        if distance:
            image = interpolate(image, np.arange(image.shape[axis]) + distance, axis)
    return image


PILLOW = {
    "bilinear_aa": Image.Resampling.BILINEAR,
    "bicubic_aa": Image.Resampling.BICUBIC,
    "lanczos_aa": Image.Resampling.LANCZOS,
    "hamming_aa": Image.Resampling.HAMMING,
}


def resize(image: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    """Resize float (H, W, 3); Pillow for the antialiasing kernels, its float mode so that rounding is ours."""
    if kernel in PILLOW:
        planes = [
            np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size[::-1], PILLOW[kernel]))
            for plane in np.moveaxis(image, -1, 0)
        ]
        return np.stack(planes, axis=-1).clip(0, 255).astype(np.float64)
    for axis, (old, new) in enumerate(zip(image.shape[:2], size, strict=True)):
        image = along(image, old, new, kernel, axis)
    return image.clip(0, 255)


def along(image: np.ndarray, old: int, new: int, kernel: str, axis: int) -> np.ndarray:
    index = np.arange(new)
    centres = (index + 0.5) * old / new - 0.5
    if kernel == "nearest_exact":
        return image.take(np.floor((index + 0.5) * old / new).astype(int), axis)
    if kernel == "area":
        return area(image, old, new, axis)
    if kernel == "bicubic":
        return cubic(image, centres, axis)
    places = {"bilinear": centres, "asymmetric": index * old / new, "corners": index * (old - 1) / (new - 1)}[kernel]
    return interpolate(image, places, axis)


def area(image: np.ndarray, old: int, new: int, axis: int) -> np.ndarray:
    """Means over exact footprints, from differences of the running sum."""
    edges = np.arange(new + 1) * (old / new)
    total = np.concatenate((np.zeros_like(image.take([0], axis)), image.cumsum(axis)), axis)
    return np.diff(interpolate(total, edges, axis), axis=axis) * (new / old)


def cubic(image: np.ndarray, places: np.ndarray, axis: int, a: float = -0.75) -> np.ndarray:
    first = np.floor(places).astype(int)
    shape = [1] * image.ndim
    shape[axis] = -1
    total = np.zeros(1)
    for tap in range(-1, 3):
        distance = np.abs(places - first - tap)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, far).reshape(shape)
        total = total + weight * image.take((first + tap).clip(0, image.shape[axis] - 1), axis)
    return total


# --- the faults -----------------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, Side], tuple[Side, Side]]


@dataclass(frozen=True)
class Fault:
    """A way for the vehicle to differ: ``draw`` turns a common side into (training, vehicle).

    ``minimum`` is the mean absolute difference in grey levels below which a pair is drawn again.
    """

    name: str
    family: str
    minimum: float
    draw: Draw
    scales: tuple[float, ...] = (1.0, 0.5, 0.4)


def vehicle(**settings: Any) -> Draw:
    return lambda rng, side: (side, replace(side, **settings))


def both(training: dict[str, Any], other: dict[str, Any]) -> Draw:
    return lambda rng, side: (replace(side, **training), replace(side, **{**training, **other}))


def either(rng: np.random.Generator, low: float, high: float) -> float:
    """A number of random sign, ``low <= |number| <= high``."""
    return float(rng.choice([-1, 1]) * rng.uniform(low, high))


def _gamma(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    return side, replace(side, gamma=float(np.exp(either(rng, np.log(1.03), np.log(1.3)))))


def _crop(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    # Whole network pixels: a crop of part of one is a sub-pixel shift by another name.
    step = round(1 / side.scale) if side.scale in (1.0, 0.5) else 5
    far = max(step, int(12 // step) * step)
    dy, dx = (int(v) * step for v in rng.integers(-far // step, far // step + 1, 2))
    return side, replace(side, crop=(dy, dx) if dy or dx else (step, 0))


def _subpixel(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    return side, replace(side, shift=(either(rng, 0.0, 0.9), either(rng, 0.1, 0.9)))


def _crop_before_resize(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    return side, replace(side, crop=(int(rng.choice([-1, 0, 1])), int(rng.choice([-1, 1]))))


def _constants(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    mean = tuple(float(v) for v in rng.uniform(0.3, 0.6, 3))
    std = tuple(float(v) for v in rng.uniform(0.15, 0.6, 3))
    return side, replace(side, mean=mean, std=std)


def _pad_split(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    above, below, move = 12, 20, int(rng.integers(1, 9))
    return replace(side, pad=(above, below, 114.0)), replace(side, pad=(above + move, below - move, 114.0))


def _pad_fill(rng: np.random.Generator, side: Side) -> tuple[Side, Side]:
    return replace(side, pad=(16, 16, 114.0)), replace(side, pad=(16, 16, float(rng.choice([0.0, 128.0, 255.0]))))


LIMITED, FULL, WIDE = ("601", "limited"), ("601", "full"), ("709", "limited")
UNSCALED, SHRUNK = (1.0,), (0.5, 0.4)
UNEVEN = (0.4,)  # at 0.5 these kernels, or grids, coincide with others


def chroma(down: str, up: str) -> Draw:
    return vehicle(encode=LIMITED, chroma=(down, up))


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Draw:
    return both({"mean": IMAGENET[0], "std": IMAGENET[1]}, {"mean": mean, "std": std})


GRID = {"kernel": "bilinear"}
LEFT = {"encode": LIMITED, "chroma": ("left", "left")}

FAULTS: tuple[Fault, ...] = (
    Fault("bgr", "channel_order", 2.0, vehicle(order="bgr")),
    Fault("601_as_709", "colour_matrix", 0.7, vehicle(encode=LIMITED, decode=WIDE)),
    Fault("709_as_601", "colour_matrix", 0.7, vehicle(encode=WIDE, decode=LIMITED)),
    Fault("limited_as_full", "colour_range", 2.0, vehicle(encode=LIMITED, decode=FULL)),
    Fault("full_as_limited", "colour_range", 2.0, vehicle(encode=FULL, decode=LIMITED)),
    Fault("420_nearest", "chroma", 0.5, chroma("box", "nearest"), UNSCALED),
    Fault("420_centred", "chroma", 0.5, chroma("box", "centred"), UNSCALED),
    Fault("420_left", "chroma", 0.5, chroma("left", "left"), UNSCALED),
    Fault("420_drop", "chroma", 0.5, chroma("drop", "nearest"), UNSCALED),
    Fault("siting", "chroma", 0.3, both(LEFT, {"chroma": ("left", "centred")}), UNSCALED),
    Fault("no_antialias", "resize_kernel", 0.5, vehicle(kernel="bilinear"), SHRUNK),
    Fault("area", "resize_kernel", 0.5, vehicle(kernel="area"), SHRUNK),
    Fault("bicubic_aa", "resize_kernel", 0.5, vehicle(kernel="bicubic_aa"), SHRUNK),
    Fault("bicubic", "resize_kernel", 0.5, vehicle(kernel="bicubic"), SHRUNK),
    Fault("nearest", "resize_kernel", 0.5, vehicle(kernel="nearest_exact"), UNEVEN),
    Fault("asymmetric_grid", "displacement", 0.5, both(GRID, {"kernel": "asymmetric"}), UNEVEN),
    Fault("align_corners", "displacement", 0.5, both(GRID, {"kernel": "corners"}), UNEVEN),
    Fault("crop", "displacement", 0.5, _crop),
    Fault("crop_before_resize", "displacement", 0.5, _crop_before_resize, SHRUNK),
    Fault("subpixel", "displacement", 0.3, _subpixel),
    Fault("pad_split", "letterbox", 0.5, _pad_split),
    Fault("pad_fill", "letterbox", 0.5, _pad_fill),
    Fault("gamma", "gamma", 0.7, _gamma),
    Fault("missing_normalisation", "normalisation", 2.0, normalised(*NONE)),
    Fault("other_normalisation", "normalisation", 2.0, normalised(*HALF)),
    Fault("bgr_constants", "normalisation", 1.0, normalised(IMAGENET[0][::-1], IMAGENET[1][::-1])),
    Fault("unlisted_constants", "normalisation", 2.0, _constants),
    Fault("levels_0_255", "normalisation", 2.0, vehicle(divisor=1.0)),
    Fault("divide_by_256", "divisor", 0.15, vehicle(divisor=256.0)),
    Fault("truncation", "rounding", 0.3, vehicle(rounding="truncate"), SHRUNK),
    Fault("no_rounding", "rounding", 0.15, vehicle(rounding="none"), SHRUNK),
    Fault("rounding", "rounding", 0.15, both({"rounding": "none"}, {"rounding": "round"}), SHRUNK),
    Fault("hwc", "layout", 0.0, vehicle(layout="hwc")),
    Fault("buffer", "layout", 0.0, vehicle(layout="buffer")),
    Fault("uint8", "dtype", 0.0, vehicle(divisor=1.0, dtype="uint8")),
    Fault("float16", "dtype", 0.0, vehicle(dtype="float16")),
    Fault("bfloat16", "dtype", 0.0, vehicle(dtype="bfloat16")),
    Fault("int8", "dtype", 0.0, vehicle(dtype="int8")),
)
