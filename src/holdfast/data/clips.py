"""A folder of recorded clips, each a named sequence of camera frames without ground truth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from holdfast.core.errors import InputError
from holdfast.data.samples import Samples
from holdfast.data.sources import images_in, read_images

__all__ = ["VIDEOS", "read_clips"]

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
LEAST_FRAMES = 3


def read_clips(folder: Path, leaf: str) -> dict[str, Callable[[], Samples]]:
    """The clips of a folder by name, each read when it is asked for.

    A clip is a sub-folder of images, in the order of their names; a video, for which OpenCV must be installed; or an
    ``npz`` of columns (T, ...) by name. Frames should come as often a second as those of the task's own sequences.

    Args:
        folder: where they are.
        leaf: name of the image in a batch.

    Returns:
        Functions that give a dataset of frames in order: column ``leaf`` uint8 (T, 3, H, W), and ``frame`` int64 (T,).

    Raises:
        InputError: no such folder, no clip in it, or two of the same name.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix="give a folder that holds one clip or more")
    clips: dict[str, Callable[[], Samples]] = {}
    for path in sorted(folder.iterdir()):
        reader = _reader(path)
        if reader is None:
            continue
        if path.stem in clips:
            raise InputError(f"two clips are called {path.stem!r}", where=str(folder), fix="rename one")
        clips[path.stem] = partial(_read, reader, path, leaf)
    if not clips:
        raise InputError(
            "holds no clip",
            where=str(folder),
            fix="a clip is a folder of images, an npz file or a video",
        )
    return clips


def _reader(path: Path) -> Callable[[Path, str], dict[str, np.ndarray]] | None:
    if path.name.startswith("."):
        return None
    if path.is_dir():
        return lambda folder, leaf: {leaf: read_images(images_in(folder))}
    if path.suffix.lower() == ".npz":
        return lambda file, leaf: _columns(file, leaf)
    return (lambda file, leaf: {leaf: _video(file)}) if path.suffix.lower() in VIDEOS else None


def _read(reader: Callable[[Path, str], dict[str, np.ndarray]], path: Path, leaf: str) -> Samples:
    columns = reader(path, leaf)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or lengths[leaf] < LEAST_FRAMES:
        raise InputError(f"columns of {lengths} frames", where=str(path), fix=f"at least {LEAST_FRAMES}, all alike")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(column)) for name, column in columns.items()}
    return Samples(**{"frame": torch.arange(lengths[leaf]), **tensors})


def _columns(path: Path, leaf: str) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in as many ways as there are bytes
        raise InputError(f"is no readable npz archive: {error}", where=str(path)) from None
    if leaf not in columns or any(column.ndim == 0 for column in columns.values()):
        raise InputError(f"holds {sorted(columns)}, no column {leaf!r} of frames", where=str(path))
    return columns


def _video(path: Path) -> np.ndarray:
    """All frames uint8 (T, 3, H, W), RGB."""
    try:
        import cv2
    except ImportError:
        raise InputError(
            "a video needs OpenCV", where=str(path),
            fix="pip install opencv-python-headless, or give the clip as a folder of images",
        ) from None  # fmt: skip
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            break
        frames.append(frame[:, :, ::-1].transpose(2, 0, 1))
    capture.release()
    if not frames:
        raise InputError("no frame can be decoded", where=str(path), fix="give the clip as a folder of images")
    return np.stack(frames)
