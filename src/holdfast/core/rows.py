"""Rows: the frozen, tidy records that selection, gates and reports read, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from holdfast.core.errors import InputError

__all__ = ["Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured number with everything needed to compare it.

    Args:
        study, recipe, init_seed, order_seed, weights: which trained weights; ``weights`` is ``last``, ``ema``, ...
        preprocessing: name of the pipeline that fed the subject.
        backend, precision, executed: which back-end, the precision requested and the one that really executed.
        probe, condition, split: which question, its setting (``"eps=1"``) and the data it was asked on.
        metric, unit, better: what was measured; ``better`` is ``lower``, ``higher`` or ``neither``.
        value: mean over samples (or over sequences).
        n: samples that entered ``value``; ``groups``: independent groups among them.
        flags: reasons for doubt, each documented in ``docs/flags.md``.
        samples: key of the per-sample values beside the rows, empty when there are none.
        cell: key of the cell that made the row; ``provenance``: key of the environment record.
    """

    study: str
    recipe: str
    init_seed: int
    order_seed: int
    weights: str
    preprocessing: str
    backend: str
    precision: str
    executed: str
    probe: str
    condition: str
    split: str
    metric: str
    unit: str
    better: str
    value: float
    n: int
    groups: int
    flags: tuple[str, ...] = ()
    samples: str = ""
    cell: str = ""
    provenance: str = ""

    @property
    def subject(self) -> str:
        """``backend:precision``, as in a study file."""
        return f"{self.backend}:{self.precision}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; NaN and infinities become strings."""
        record = asdict(self)
        if not math.isfinite(self.value):
            record["value"] = repr(self.value)
        record["flags"] = list(self.flags)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Row:
        """The row of a dictionary made by `to_json`.

        Raises:
            InputError: when a field is missing or unknown.
        """
        known = {f.name for f in fields(cls)}
        if odd := set(record) ^ known:
            raise InputError(
                f"fields {sorted(odd)} missing or unknown",
                where="row",
                fix="was it written by another version?",
            )
        values = dict(record)
        values["value"] = float(values["value"])
        values["flags"] = tuple(values["flags"])
        return cls(**values)
