"""What can be seen before any search: memory layout, number formats, letterbox borders, and the rough displacement."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.explain_drift.cause import Cause
from holdfast.explain_drift.causes.displacement import Displacement
from holdfast.explain_drift.causes.rounding import Rounding
from holdfast.explain_drift.causes.storage import Storage
from holdfast.explain_drift.domain import Domain, guess_domain
from holdfast.explain_drift.tensors import Borders, Recorded, find_borders, likeness, whole_shift

__all__ = ["Fact", "Structure", "examine"]

REACH_PX = 24


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A difference that is certain, since it stands in the arrays themselves."""

    family: str
    name: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Two pictures in one form, ready to be searched.

    Args:
        before, observed: float32 (C, H, W) in grey levels of ``domain``, without borders.
        domain: normalisation of the training side.
        facts: what was found.
        given: causes that the search starts from.
        fills: value of the borders on both sides (C,), where both have borders.
        aligned: whole pixels of the rough displacement.
        whole: for each side, whether it holds at most 256 distinct values a channel, as whole grey levels do.
    """

    before: Tensor
    observed: Tensor
    domain: Domain
    facts: tuple[Fact, ...]
    given: tuple[Cause, ...]
    fills: tuple[Tensor, Tensor] | None
    aligned: tuple[int, int]
    whole: tuple[bool, bool]


def examine(training: Recorded, vehicle: Recorded, domain: Domain | None = None) -> Structure:
    """Bring both sides to one form; ``domain`` overrides the guess of the training side's normalisation.

    Raises:
        InputError: the pictures differ in size or channels.
    """
    facts: list[Fact] = []
    if training.layout != vehicle.layout:
        facts.append(_layout(f"{training.layout} on the training side, {vehicle.layout} on the vehicle"))
    recorded, reading = _reread(training.planes, vehicle)
    if reading:
        facts.append(_layout(f"the vehicle's {reading}"))
    if training.planes.shape != recorded.shape:
        raise InputError(
            f"{tuple(training.planes.shape)} on the training side, {tuple(recorded.shape)} on the vehicle",
            where="explain-drift", fix="record both tensors at the network's input",
        )  # fmt: skip
    domain = domain or guess_domain(training.planes)
    observed_in, mixed = _domain_of_observed(training.planes, recorded, domain)
    facts += mixed
    before, observed = domain.levels(training.planes.double()), observed_in.levels(recorded.double())
    storage = None if mixed else _storage(training.planes, recorded, domain)
    before, observed, borders = _without_borders(before, observed)
    if borders and (borders[0].top, borders[0].left) != (borders[1].top, borders[1].left):
        down, right = borders[1].top - borders[0].top, borders[1].left - borders[0].left
        facts.append(_letterbox("letterbox_split", f"picture {down:+d} px down, {right:+d} px right in its borders"))
    aligned = whole_shift(before, observed, reach_px=REACH_PX)
    moved = Displacement(dy_px=float(aligned[0]), dx_px=float(aligned[1])) if aligned != (0, 0) else None
    whole = (_whole(training.planes), _whole(recorded))
    if storage and storage.kind == "int8":
        whole = (whole[0], whole[0])  # the 8-bit grid hides whether grey levels were whole before
    return Structure(
        before=before.float(), observed=observed.float(), domain=domain, facts=tuple(facts),
        given=tuple(cause for cause in (moved, _rounding(whole), storage) if cause is not None),
        fills=(borders[0].fill, borders[1].fill) if borders else None, aligned=aligned,
        whole=whole,
    )  # fmt: skip


def _whole(stored: Tensor) -> bool:
    """Whether a channel has no more distinct values than bytes have; few pixels cannot tell and count as bytes."""
    return len(_distinct(stored[0])) <= 256


def _rounding(whole: tuple[bool, bool]) -> Rounding | None:
    """A side that keeps fractions shows it by the number of its values."""
    if whole[0] == whole[1]:
        return None
    if whole[0]:
        return Rounding(vehicle="fractions", training="rounds")
    return Rounding(vehicle="rounds", training="fractions")


def _layout(detail: str) -> Fact:
    return Fact(family="layout", name="memory_layout", detail=detail)


def _letterbox(name: str, detail: str) -> Fact:
    return Fact(family="letterbox", name=name, detail=detail)


def _reread(training: Tensor, vehicle: Recorded) -> tuple[Tensor, str]:
    """The vehicle's planes, re-read from memory where another reading looks far more like the training side."""
    best, name = vehicle.planes, ""
    likest = likeness(training, best) if training.shape == best.shape else -1.0
    if likest > 0.8:
        return best, name
    for reading, planes in vehicle.readings().items():
        if planes.shape == training.shape and (like := likeness(training, planes)) > max(likest + 0.3, 0.6):
            best, name, likest = planes, reading, like
    return best, name


def _domain_of_observed(training: Tensor, vehicle: Tensor, domain: Domain) -> tuple[Domain, list[Fact]]:
    """Bytes on one side only are a fact, and each side is then read in its own units."""
    if training.is_floating_point() == vehicle.is_floating_point():
        return domain, []
    side, other = ("training side", "vehicle") if vehicle.is_floating_point() else ("vehicle", "training side")
    fact = Fact(family="dtype", name="stored_as_uint8", detail=f"the {side} holds bytes, the {other} floats")
    return guess_domain(vehicle), [fact]


def _without_borders(before: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, tuple[Borders, Borders] | None]:
    """Both pictures without borders, when both have some and the pictures inside have one size."""
    a, b = find_borders(before), find_borders(observed)
    if a is None or b is None or a.cut(before).shape != b.cut(observed).shape:
        return before, observed, None
    return a.cut(before), b.cut(observed), (a, b)


# --- number formats -------------------------------------------------------------------------------------


def _storage(training: Tensor, vehicle: Tensor, domain: Domain) -> Storage | None:
    """The narrower format in which every value of the vehicle, but not of the training side, is exact."""
    if not vehicle.is_floating_point():
        return None
    gain, offset = domain.affine(vehicle.shape[0])
    plain = Storage(gain=tuple(gain.tolist()), offset=tuple(offset.tolist()))
    for kind in () if _evenly_spaced(vehicle[0]) else (torch.bfloat16, torch.float16):
        if _exact(vehicle, kind) and not _exact(training, kind):
            return replace(plain, kind="bfloat16" if kind is torch.bfloat16 else "float16")
    step = _grid_step(vehicle)
    if step is not None and _grid_step(training) is None:
        return replace(plain, kind="int8", step=step)
    return None


def _exact(values: Tensor, dtype: torch.dtype) -> bool:
    return bool((values.to(dtype).double() == values.double()).all())


def _evenly_spaced(values: Tensor) -> bool:
    """Whether the values are whole numbers in disguise, such as bytes divided by 256, exact in many formats."""
    distinct = _distinct(values.double())
    if len(distinct) > 1024 or len(distinct) < 3:
        return False
    step = (distinct[1:] - distinct[:-1]).min()
    whole = (distinct - distinct[0]) / step
    return bool(((whole - whole.round()).abs() < 1e-3).all()) and float(whole[-1]) < 256


def _distinct(values: Tensor) -> Tensor:
    """The values that occur, in order; NumPy need not sort all of them for it, which takes torch ten times as long."""
    return torch.from_numpy(np.unique(values.numpy()))


def _grid_step(values: Tensor) -> float | None:
    """Spacing of a symmetric 8-bit grid, zero included, that holds all values and that they fill to its end."""
    distinct = _distinct(values.double())
    if not 8 <= len(distinct) <= 256:
        return None
    step = float(distinct.abs().max()) / 127
    whole = distinct / step
    return step if bool(((whole - whole.round()).abs() < 1e-3).all()) else None
