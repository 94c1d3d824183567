"""What a long probe has found so far, on disk, so that a killed one goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from holdfast.core.store import atomic_path

__all__ = ["Unfinished"]


class Unfinished:
    """Arrays by name that outlive the process; the file's name has to say everything that they depend on.

    Args:
        path: an npz file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._arrays: dict[str, np.ndarray] = {}
        if path is not None and path.exists():
            with np.load(path, allow_pickle=False) as archive:
                self._arrays = {name: archive[name] for name in archive.files}

    def __getitem__(self, name: str) -> np.ndarray | None:
        return self._arrays.get(name)

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        self._arrays[name] = array
        if self._path is not None:
            with atomic_path(self._path) as temporary:
                np.savez(temporary, allow_pickle=False, **self._arrays)

    def forget(self) -> None:
        """The probe has finished: its rows hold everything."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
