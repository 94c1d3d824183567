"""Pairs of recorded tensors whose cause is known: single faults, compositions, and none of the catalogue."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from faults import FAULTS, MARGIN, Fault, Side, record
from PIL import Image

SETS = {
    "tusimple": "lane_tusimple_samples/images/*.jpg", "culane": "lane_culane_samples/*.jpg",
    "camvid_train": "driving_camvid/train/images/*", "udacity": "road_udacity/*.jpg",
    "camvid_val": "driving_camvid/val/images/*", "rc_track": "rc_track/images/*", "robocar": "lane_robocar/images/*",
}  # fmt: skip
TUNING = ("tusimple", "culane", "camvid_train")
TEST = ("udacity", "camvid_val", "rc_track")
SHORTEST = 300
COARSE = {"int8", "bfloat16", "uint8"}
FINE = {"rounding", "divisor"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two recorded tensors and the truth about them."""

    source: str
    truth: tuple[Fault, ...]
    scale: float
    training: np.ndarray
    vehicle: np.ndarray
    kind: str


def frames(data: Path, name: str) -> list[np.ndarray]:
    """Pictures of a set, uint8 (H, W, 3), cut to an even height and width."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(data.glob(SETS[name]))]
    return [picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2] for picture in pictures]


def singles(pictures: dict[str, list[np.ndarray]], repeats: int, rng: np.random.Generator) -> Iterator[Case]:
    """Every fault ``repeats`` times over the sets in turn; a pair below the fault's minimum strength is drawn again."""
    for fault in FAULTS:
        for repeat in range(repeats):
            source = list(pictures)[repeat % len(pictures)]
            for _ in range(12):
                frame = draw_frame(pictures[source], rng)
                if case := compose(source, frame, (fault,), rng, "single"):
                    yield case
                    break


def compositions(pictures: dict[str, list[np.ndarray]], count: int, rng: np.random.Generator) -> Iterator[Case]:
    """Two or three faults of different families that do not contradict each other, each above its minimum alone."""
    made = 0
    while made < count:
        source = list(pictures)[made % len(pictures)]
        chosen = tuple(FAULTS[i] for i in rng.choice(len(FAULTS), int(rng.integers(2, 4)), replace=False))
        if len({fault.family for fault in chosen}) < len(chosen) or contradictory(chosen):
            continue
        if case := compose(source, draw_frame(pictures[source], rng), chosen, rng, "composition"):
            made += 1
            yield case


def sized(fault: Fault, frame: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A fault on a frame resized so that the tensors are 640 x 384 (416 with borders)."""
    scale = max(fault.scales)
    width, height = (round(side / scale) + 2 * MARGIN for side in (640, 384))
    resized = np.asarray(Image.fromarray(frame).resize((width, height)))
    training, vehicle = fault.draw(rng, Side(scale=scale))
    return record(resized, training), record(resized, vehicle)


def contradictory(chosen: Sequence[Fault]) -> bool:
    """A format of steps of a grey level and more hides finer faults; bytes are recorded before they are normalised."""
    names, families = {fault.name for fault in chosen}, {fault.family for fault in chosen}
    return bool(names & COARSE and families & FINE) or ("uint8" in names and "normalisation" in families)


def compose(
    source: str, frame: np.ndarray, chosen: Sequence[Fault], rng: np.random.Generator, kind: str
) -> Case | None:
    """A pair with all faults at once; None where they do not go together or one is too weak on this frame."""
    scales = set(chosen[0].scales).intersection(*(fault.scales for fault in chosen[1:]))
    if min(frame.shape[:2]) < SHORTEST and 1.0 in scales:
        scales = {1.0}
    if not scales:
        return None
    base = Side(scale=float(rng.choice(sorted(scales))))
    training: dict[str, Any] = {}
    vehicle: dict[str, Any] = {}
    for fault in chosen:
        sides = fault.draw(rng, base)
        if strength(frame, *sides) < fault.minimum:
            return None
        for merged, side in ((training, sides[0]), (vehicle, sides[1])):
            new = {
                f.name: getattr(side, f.name) for f in fields(Side) if getattr(side, f.name) != getattr(base, f.name)
            }
            if any(merged.get(name, value) != value for name, value in new.items()):
                return None
            merged.update(new)
    return Case(
        source=source, truth=tuple(chosen), scale=base.scale, kind=kind,
        training=record(frame, replace(base, **training)), vehicle=record(frame, replace(base, **vehicle)),
    )  # fmt: skip


def strength(frame: np.ndarray, training: Side, vehicle: Side) -> float:
    """Mean absolute difference in grey levels of the training side; infinite where the arrays differ in shape."""
    a, b = (record(frame, side).astype(np.float64) for side in (training, vehicle))
    if a.shape != b.shape:
        return np.inf
    return float((np.abs(a - b) * 255 * np.array(training.std)[:, None, None]).mean())


def draw_frame(pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return pictures[int(rng.integers(len(pictures)))]


# --- with the raw frame ---------------------------------------------------------------------------------

KERNELS = {
    "bilinear": "INTER_LINEAR", "bicubic_aa": "bicubic with antialiasing", "bicubic": "INTER_CUBIC",
    "area": "INTER_AREA", "lanczos_aa": "LANCZOS", "nearest_exact": "nearest, centre", "asymmetric": "asymmetric",
    "corners": "aligned corners", "bilinear_aa": "so does the vehicle",
}  # fmt: skip
"""What the explanation must say of the vehicle's kernel; training shrinks with ``bilinear_aa``."""


def with_raw(
    pictures: dict[str, list[np.ndarray]], repeats: int, rng: np.random.Generator
) -> Iterator[tuple[str, str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """(kind, source, kernel, training, vehicle, raw frame): the frame of the pair, and that of the nearest moment.

    ``raw`` has the right frame; ``raw_unlisted`` too, but training shrinks with a kernel that has no name here;
    ``raw_other`` has the most similar other frame of the set, which is a neighbour where the set is a recording.
    """
    for source, frames_of in pictures.items():
        for kernel in KERNELS:
            for repeat in range(repeats):
                index = int(rng.integers(len(frames_of)))
                frame, scale = frames_of[index], 0.4
                side = Side(scale=scale)
                pair = record(frame, side), record(frame, replace(side, kernel=kernel))
                yield "raw", source, kernel, *pair, inner(frame)
                if kernel == "bilinear":
                    odd = record(frame, replace(side, kernel="hamming_aa")), pair[1]
                    yield "raw_unlisted", source, kernel, *odd, inner(frame)
                if repeat < 3:
                    yield "raw_other", source, kernel, *pair, inner(most_similar(frames_of, index))


def inner(frame: np.ndarray) -> np.ndarray:
    return frame[MARGIN:-MARGIN, MARGIN:-MARGIN]


def most_similar(frames_of: Sequence[np.ndarray], index: int) -> np.ndarray:
    """The other frame with the smallest mean absolute difference."""
    here = frames_of[index].astype(np.int16)
    others = [
        f for i, f in enumerate(frames_of) if i != index and f.shape == here.shape and not np.array_equal(f, here)
    ]
    return min(others, key=lambda f: float(np.abs(f.astype(np.int16) - here).mean()))


# --- none of the catalogue ------------------------------------------------------------------------------


def strangers(
    pictures: dict[str, list[np.ndarray]], repeats: int, rng: np.random.Generator
) -> Iterator[tuple[str, Case]]:
    """Pairs that no entry of the catalogue explains, by what was done to the vehicle's frame."""
    for name, change in CHANGES.items():
        for repeat in range(repeats):
            source = list(pictures)[repeat % len(pictures)]
            frame = draw_frame(pictures[source], rng)
            other = change(frame, pictures[source], rng)
            side = Side()
            yield (
                name,
                Case(
                    source=source,
                    truth=(),
                    scale=1.0,
                    kind="none",
                    training=record(frame, side),
                    vehicle=record(other, side),
                ),
            )


def _other_frame(frame: np.ndarray, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    alike = [p for p in pictures if p.shape == frame.shape and not np.array_equal(p, frame)]
    return alike[int(rng.integers(len(alike)))] if alike else frame[:, ::-1]


def _noise(frame: np.ndarray, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return _bytes(frame + rng.normal(0, rng.uniform(2, 10), frame.shape))


def _jpeg(frame: np.ndarray, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "JPEG", quality=int(rng.integers(40, 91)), subsampling=0)
    return np.asarray(Image.open(stream))


def _occlusion(frame: np.ndarray, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    other = _other_frame(frame, pictures, rng).copy()
    height, width = frame.shape[:2]
    top, left = rng.integers(MARGIN, height // 3), rng.integers(MARGIN, width // 3)
    patched = frame.copy()
    box = slice(top, top + height // 2), slice(left, left + width // 3)
    patched[box] = other[::-1, ::-1][box]
    return patched


def _rotation(frame: np.ndarray, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    angle = float(rng.choice([-1, 1]) * rng.uniform(1, 4))
    return np.asarray(Image.fromarray(frame).rotate(angle, Image.Resampling.BILINEAR))


def _shadow(frame: np.ndarray, pictures: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    height, width = frame.shape[:2]
    y, x = np.mgrid[:height, :width]
    centre, spread = rng.uniform(0.2, 0.8, 2) * (height, width), 0.25 * min(height, width)
    light = 1 - 0.5 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * spread**2))
    return _bytes(frame * light[..., None])


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(image).clip(0, 255).astype(np.uint8)


CHANGES = {
    "other_frame": _other_frame, "noise": _noise, "jpeg_444": _jpeg, "occlusion": _occlusion, "rotation": _rotation,
    "shadow": _shadow,
}  # fmt: skip
