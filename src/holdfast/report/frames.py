"""Frames with lines drawn over them: the picture inside the page, the lines as vectors on top."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from holdfast.core.contracts import Picture
from holdfast.core.errors import InputError
from holdfast.report.inputs import ReportInput, Show
from holdfast.select.table import Candidate

__all__ = ["Frame", "FramePair", "frame", "worst_frames"]

ROLES = ("truth", "reference", "deployed")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One drawn frame.

    Args:
        who: the candidate.
        caption: caption of the picture.
        width: of the image in pixels.
        height: of the image in pixels.
        source: the image as a ``data:`` address.
        lines: role and ``x,y x,y ...`` of each polyline, truth first so that others lie on top.
        alt: what is seen, in words.
    """

    who: str
    caption: str
    width: int
    height: int
    source: str
    lines: tuple[tuple[str, str], ...]
    alt: str


@dataclass(frozen=True, kw_only=True)
class FramePair:
    """The same frame by each candidate shown."""

    frames: tuple[Frame, ...]


def worst_frames(report: ReportInput) -> list[FramePair]:
    """Frames grouped by position: before and after stand side by side."""
    drawn = [[frame(picture, show) for picture in show.pictures] for show in report.shows]
    longest = max((len(frames) for frames in drawn), default=0)
    return [FramePair(frames=tuple(frames[i] for frames in drawn if i < len(frames))) for i in range(longest)]


def frame(picture: Picture, show: Show) -> Frame:
    """Prepare a picture for the page.

    Raises:
        InputError: the image is not uint8 of shape (H, W, 3).
    """
    image = np.asarray(picture.image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image {image.dtype} {image.shape}", where="picture", fix="give uint8 of shape (H, W, 3)")
    who = Candidate(show.recipe, show.weights).name
    seen = sorted(picture.lines, key=_depth)
    return Frame(
        who=who, caption=picture.caption, width=image.shape[1], height=image.shape[0], source=_data_address(image),
        lines=tuple(_lines(picture)), alt=f"{who}, {picture.caption or 'a frame'}; lines: {', '.join(seen) or 'none'}",
    )  # fmt: skip


def _lines(picture: Picture) -> Iterator[tuple[str, str]]:
    for role in sorted(picture.lines, key=_depth):
        for line in picture.lines[role]:
            points = np.asarray(line, dtype=float).reshape(-1, 2)
            points = points[np.isfinite(points).all(axis=1)]
            if len(points):
                yield role, " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _depth(role: str) -> tuple[int, str]:
    return (ROLES.index(role) if role in ROLES else len(ROLES)), role


def _data_address(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
