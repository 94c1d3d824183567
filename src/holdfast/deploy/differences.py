"""What has happened to the weights of a layer: rounded, permuted, another epsilon, other statistics, or others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from holdfast.deploy.layers import Layer, Norm, near

__all__ = ["Change", "Kind", "layer_change"]

Floats = NDArray[np.float64]
Kind: TypeAlias = Literal[
    "attribute", "batchnorm", "channels", "constant", "epsilon", "other_weights", "resize", "rounded_weights", "weights"
]
"""Classes of causes; see `holdfast.deploy.blame`."""

_CLOSE = 3e-6
_BITS = range(2, 17)
_TIES = 0.003


@dataclass(frozen=True, kw_only=True)
class Change:
    """What has happened to a layer.

    Args:
        kind: see `Kind`.
        node: where: the layer, or its normalisation.
        detail: what, in words.
    """

    kind: Kind
    node: str
    detail: str


def layer_change(ours: Layer, theirs: Layer) -> Change | None:
    """Why ``theirs`` computes something else than ``ours``; None where it does not.

    Tried in this order: a normalisation that differs by itself, weights rounded to a format or grid, channels in
    another order, outputs scaled as another epsilon or other statistics would, and any other difference.
    """
    (weight, bias), (other, other_bias) = ours.folded, theirs.folded
    if near(weight, other) and _near_bias(bias, other_bias, weight):
        return None
    if ours.norm is not None and theirs.norm is not None:
        if near(ours.weight, theirs.weight) and _near_bias(ours.bias, theirs.bias, ours.weight):
            return _norm_change(ours.norm, theirs.norm)
        return _weight_change(theirs.node, [(ours.weight, theirs.weight)])
    pairs = [(weight, other)]
    if ours.norm is not None and (scale := ours.norm.scale).all():
        pairs.append((ours.weight, other / scale.reshape(-1, *[1] * (other.ndim - 1))))
    found = _weight_change(theirs.node, pairs)
    if found.kind == "weights" and ours.norm is not None:
        return _folded_norm_change(ours, ours.norm, theirs) or found
    return found


def _near_bias(ours: Floats, theirs: Floats, weight: Floats) -> bool:
    allowed = _CLOSE * max(np.abs(ours).max(initial=0.0), np.abs(weight).max(initial=0.0))
    return bool((np.abs(ours - theirs) <= allowed).all())


# --- normalisation --------------------------------------------------------------------------------------


def _norm_change(ours: Norm, theirs: Norm) -> Change:
    if not (near(ours.gamma, theirs.gamma, 1e-5) and near(ours.beta, theirs.beta, 1e-5)):
        return Change(kind="weights", node=theirs.node, detail=f"scale and shift are not those of {ours.node}")
    if near(ours.mean, theirs.mean, 1e-5) and near(ours.var, theirs.var, 1e-5):
        return Change(kind="epsilon", node=theirs.node, detail=f"epsilon {theirs.eps:.3g}, trained with {ours.eps:.3g}")
    return Change(kind="batchnorm", node=theirs.node, detail=_stale(ours))


def _stale(ours: Norm) -> str:
    return f"the running mean and variance are not those of {ours.node}"


def _folded_norm_change(ours: Layer, norm: Norm, theirs: Layer) -> Change | None:
    """Outputs that are scaled and shifted, their weights otherwise the same: it comes from the normalisation."""
    weight, bias = ours.folded
    other, other_bias = theirs.folded
    ratio = _row_ratio(weight, other)
    if ratio is None:
        return None
    # Another epsilon scales every output by sqrt((v + e) / (v + e')), with one and the same e'.
    with np.errstate(divide="ignore", invalid="ignore"):
        candidates = (norm.var + norm.eps) / ratio**2 - norm.var
    # Where the variance is small, epsilon matters most and is known best.
    eps = float(candidates[np.argmin(norm.var)])
    if eps > 0:
        expected = np.sqrt((norm.var + norm.eps) / (norm.var + eps))
        shifted = norm.beta + expected * (bias - norm.beta)
        scaled = weight * expected.reshape(-1, *[1] * (weight.ndim - 1))
        if near(scaled, other, 1e-5) and _near_bias(shifted, other_bias, 3 * weight):
            detail = f"as folded from {norm.node} with epsilon {eps:.3g} instead of {norm.eps:.3g}"
            return Change(kind="epsilon", node=theirs.node, detail=detail)
    return Change(kind="batchnorm", node=theirs.node, detail=f"outputs are scaled and shifted: {_stale(norm)}")


def _row_ratio(weight: Floats, other: Floats) -> Floats | None:
    """The factor of each output by which ``other`` is ``weight``, if that is all; undecided for single numbers."""
    rows, others = weight.reshape(len(weight), -1), other.reshape(len(other), -1)
    squares = (rows**2).sum(axis=1)
    if rows.shape[1] < 4 or not squares.all():
        return None
    ratio: Floats = (rows * others).sum(axis=1) / squares
    return ratio if near(ratio[:, None] * rows, others, 1e-5) and (ratio > 0).all() else None


# --- weights --------------------------------------------------------------------------------------------


def _weight_change(node: str, pairs: list[tuple[Floats, Floats]]) -> Change:
    """The first explanation that holds for one of the pairs: as folded, or as they were before."""
    for weight, other in pairs:
        for words, rounded in _roundings(weight):
            if _mostly(rounded, other) and not near(weight, other, _CLOSE):
                return Change(kind="rounded_weights", node=node, detail=f"weights are rounded to {words}")
        for words, axis in (("input", 1), ("output", 0)):
            if (order := _order(weight, other, axis)) is not None:
                return Change(kind="channels", node=node, detail=f"{words} channels are in the order {order}")
    difference = float(np.abs(pairs[0][0] - pairs[0][1]).max()) if pairs[0][0].shape == pairs[0][1].shape else np.inf
    return Change(kind="weights", node=node, detail=f"weights differ by up to {difference:.3g}")


def _mostly(rounded: Floats, other: Floats) -> bool:
    """Whether all but a few agree: where folding differed in the last digit, a tie may have been rounded otherwise."""
    if rounded.shape != other.shape:
        return False
    off = np.abs(rounded - other) > _CLOSE * np.abs(rounded).max(initial=0.0)
    return bool(off.mean() <= _TIES)


def _roundings(weight: Floats) -> Iterator[tuple[str, Floats]]:
    """Weights as the usual roundings leave them, finest first, so that the first that fits is the one."""
    names = {10: "fp16 or tf32 (10 bits)", 7: "bf16 (7 bits)", 3: "fp8 (3 bits)"}
    for bits in reversed(_BITS):
        yield names.get(bits, f"{bits} bits of mantissa"), _mantissa(weight, bits)
        for words, axis in (("per tensor", None), ("per output", tuple(range(1, weight.ndim)))):
            step = np.abs(weight).max(axis=axis, keepdims=True) / (2 ** (bits - 1) - 1)
            if step.all():
                yield f"int{bits} {words}", np.round(weight / step) * step
    for digits in range(6, 0, -1):
        yield f"{digits} decimals", np.round(weight, digits)


def _mantissa(values: Floats, bits: int) -> Floats:
    """Rounded to nearest even with ``bits`` bits after the leading one."""
    fraction, exponent = np.frexp(values)
    rounded: Floats = np.ldexp(np.round(fraction * 2.0 ** (bits + 1)), exponent - bits - 1)
    return rounded


def _order(weight: Floats, other: Floats, axis: int) -> list[int] | None:
    """The permutation along an axis that turns one into the other, if there is one that is not the identity."""
    if weight.ndim <= axis or weight.shape != other.shape or weight.shape[axis] < 2:
        return None
    ours, theirs = (np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1) for w in (weight, other))
    allowed = _CLOSE * np.abs(ours).max(initial=0.0)
    order: list[int] = []
    for row in theirs:
        i = int(np.abs(ours - row).max(axis=1).argmin())
        if np.abs(ours[i] - row).max() > allowed:
            return None
        order.append(i)
    return order if sorted(order) == list(range(len(ours))) and order != sorted(order) else None
