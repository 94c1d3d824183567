"""Scores of ingredients that were measured before: a second soup of the same files need not measure them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from holdfast.core.errors import InputError
from holdfast.core.store import atomic_path
from holdfast.weights import files
from holdfast.weights.opened import sha256

__all__ = ["Scores"]


class Scores:
    """A JSON file of scores by what was asked and by the contents of the weight file.

    Args:
        path: the file, which need not exist yet; None keeps nothing.
        exam: what was asked; scores of another exam are not used.

    Raises:
        InputError: the file holds something else.
    """

    def __init__(self, path: Path | None, exam: str) -> None:
        self._path, self._exam = path, exam
        self._known: dict[str, dict[str, float]] = {}
        if path is not None and path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                self._known = {name: {k: float(v) for k, v in scores.items()} for name, scores in stored.items()}
            except (ValueError, TypeError, AttributeError) as error:
                raise InputError(f"holds no scores: {error}", where=str(path), fix="name another file") from None

    def of(self, weights: Path) -> float | None:
        """The score of a weight file, if it is known."""
        if self._path is None:
            return None
        return self._known.get(self._exam, {}).get(sha256(files.locate(weights)))

    def keep(self, found: Mapping[Path, float]) -> None:
        """Remember the scores of weight files."""
        if self._path is None:
            return
        scores = {sha256(files.locate(weights)): score for weights, score in found.items()}
        self._known[self._exam] = {**self._known.get(self._exam, {}), **scores}
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
