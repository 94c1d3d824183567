"""Rows of a benchmark that no study file expresses: kept seed by seed, so that an interrupted run goes on.

    tally = Tally(Path(__file__).parent)
    for seed in tally.missing(range(5)):
        tally.add(seed, "swa", "accuracy", values, better="higher")
        tally.keep()

`benchmarks/summary.py` turns the rows into tables.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.core.fingerprint import environment
from holdfast.core.rows import Row
from holdfast.core.store import atomic_path

__all__ = ["Tally"]


class Tally:
    """The rows of one benchmark, in ``rows.jsonl.gz`` of its folder, and where they were measured.

    Args:
        folder: of the benchmark; its name is the study's.
        part: rows of another part of the study stand in ``rows-PART.jsonl.gz``.
    """

    def __init__(self, folder: Path, part: str = "") -> None:
        self._study, name = folder.name, f"rows-{part}" if part else "rows"
        self._rows_at, self._about_at = folder / f"{name}.jsonl.gz", folder / f"{name}.provenance.json"
        kept = gzip.decompress(self._rows_at.read_bytes()).decode().splitlines() if self._rows_at.exists() else []
        self.rows = [Row.from_json(json.loads(line)) for line in kept]
        known = json.loads(self._about_at.read_text()) if self._about_at.exists() else {}
        self._about: dict[str, Any] = {**known, str(len(known)): environment()}

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """Seeds that have no rows yet."""
        return [seed for seed in seeds if seed not in {row.init_seed for row in self.rows}]

    def add(
        self, seed: int, recipe: str, metric: str, values: Any, *, weights: str = "last", pipeline: str = "train",
        subject: str = "eager:fp32", executed: str = "", split: str = "report", probe: str = "deployment",
        condition: str = "", unit: str = "1", better: str = "higher", n: int = 0,
    ) -> None:  # fmt: skip
        """One row: the mean of ``values``, one a sample; NaN samples are left out. ``n``: samples of a set's value."""
        array = np.atleast_1d(np.asarray(values, dtype=np.float64))
        defined = array[~np.isnan(array)]
        count = n or len(defined)
        backend, _, precision = subject.partition(":")
        self.rows.append(Row(
            study=self._study, recipe=recipe, init_seed=seed, order_seed=seed, weights=weights,
            preprocessing=pipeline, backend=backend, precision=precision, executed=executed or precision,
            probe=probe, condition=condition, split=split, metric=metric, unit=unit, better=better,
            value=float(defined.mean()) if len(defined) else float("nan"), n=count, groups=count,
            provenance=max(self._about, key=int),
        ))  # fmt: skip

    def keep(self) -> None:
        """Write what is there."""
        lines = "".join(json.dumps(row.to_json()) + "\n" for row in self.rows)
        with atomic_path(self._rows_at) as path:
            path.write_bytes(gzip.compress(lines.encode(), mtime=0))
        with atomic_path(self._about_at) as path:
            path.write_text(json.dumps(self._about, indent=1) + "\n")
