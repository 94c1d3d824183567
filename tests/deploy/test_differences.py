"""Every way in which a layer may have been changed is told from the others, folded or not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from holdfast.deploy.differences import layer_change
from holdfast.deploy.layers import Layer, Norm, match_layers, near

_seeds = st.integers(0, 2**32 - 1)


def _layer(seed: int, *, shape: tuple[int, ...] = (6, 4, 3, 3), normed: bool = True) -> Layer:
    draw = np.random.default_rng(seed)
    weight = draw.normal(size=shape).astype(np.float32).astype(np.float64)
    norm = Norm(node="bn", gamma=draw.uniform(0.5, 1.5, shape[0]), beta=draw.normal(size=shape[0]),
                mean=draw.normal(size=shape[0]), var=draw.uniform(0.05, 2, shape[0]), eps=1e-5)  # fmt: skip
    bias = draw.normal(size=shape[0])
    return Layer(node="conv", op_type="Conv", constant="w", weight=weight, bias=bias, norm=norm if normed else None)


def _folded(layer: Layer) -> Layer:
    """As an exporter folds and stores it: fp32."""
    weight, bias = (value.astype(np.float32).astype(np.float64) for value in layer.folded)
    return replace(layer, weight=weight, bias=bias, norm=None)


def _kind(ours: Layer, theirs: Layer) -> str | None:
    change = layer_change(ours, theirs)
    return change.kind if change else None


@given(_seeds)
def test_folding_is_no_change(seed: int) -> None:
    layer = _layer(seed)
    assert _kind(layer, layer) is None
    assert _kind(layer, _folded(layer)) is None


def _half(weight: np.ndarray) -> np.ndarray:
    return weight.astype(np.float16).astype(np.float64)


def _int8(weight: np.ndarray) -> np.ndarray:
    step = np.abs(weight).max() / 127
    return np.round(weight / step) * step


def _int4_per_output(weight: np.ndarray) -> np.ndarray:
    step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 7
    return np.round(weight / step) * step


@pytest.mark.parametrize(("change", "words"), [(_half, "fp16"), (_int8, "int8 per tensor"),
                                              (_int4_per_output, "int4 per output"),
                                              (lambda w: np.round(w, 2), "2 decimals")])  # fmt: skip
@pytest.mark.parametrize("fold", [_folded, lambda layer: layer])
def test_rounded_weights_are_named_with_their_format(change, words: str, fold) -> None:
    layer = _layer(0)
    found = layer_change(layer, fold(replace(layer, weight=change(layer.weight))))
    assert found.kind == "rounded_weights"
    assert words in found.detail


@given(_seeds, st.sampled_from([1e-3, 1e-4, 1e-2, 1e-6]))
def test_another_epsilon_is_told_from_other_statistics(seed: int, eps: float) -> None:
    layer = _layer(seed)
    assert layer.norm is not None
    # Beside large variances alone, so small a change scales weights by less than the finest rounding that is named.
    assume(eps > 1e-5 or layer.norm.var.min() < 0.2)
    changed = replace(layer, norm=replace(layer.norm, eps=eps))
    assert _kind(layer, changed) == "epsilon"
    found = layer_change(layer, _folded(changed))
    assert found is not None
    assert found.kind == "epsilon"
    draw = np.random.default_rng(seed)
    stale = replace(layer, norm=replace(layer.norm, mean=layer.norm.mean + 0.3 * draw.normal(size=6),
                                        var=layer.norm.var * draw.uniform(0.5, 2, 6)))  # fmt: skip
    assert _kind(layer, stale) == _kind(layer, _folded(stale)) == "batchnorm"


@given(_seeds, st.permutations(range(4)))
def test_channels_in_another_order_are_named(seed: int, order: list[int]) -> None:
    layer = _layer(seed)
    changed = replace(layer, weight=layer.weight[:, order])
    expected = None if order == sorted(order) else "channels"
    assert _kind(layer, changed) == _kind(layer, _folded(changed)) == expected


@given(_seeds)
def test_anything_else_is_other_weights(seed: int) -> None:
    layer = _layer(seed)
    noise = np.random.default_rng(seed + 1).normal(size=layer.weight.shape)
    for fold in (_folded, lambda same: same):
        assert _kind(layer, fold(replace(layer, weight=layer.weight + 0.01 * noise))) == "weights"


def test_layers_are_matched_by_name_then_by_content_then_by_order() -> None:
    a, b, c = (replace(_layer(seed), node=name, constant=name) for seed, name in enumerate("abc"))
    theirs = [
        replace(c, node="1", constant="x"),
        replace(a, node="2", constant="b"),
        replace(b, node="3", constant="y"),
    ]
    pairs = {ours.node: other.node for ours, other in match_layers([a, b, c], theirs)}
    assert pairs == {"a": "3", "b": "2", "c": "1"}  # b by its name, c by its weights, a by what is left


def test_nearness_is_measured_by_the_largest_weight_of_each_output() -> None:
    weight = np.array([[1.0, 1e-3], [1e-3, 1e-3]])
    assert near(weight, weight + np.array([[5e-7, 5e-7], [5e-10, 0]]))
    assert not near(weight, weight + np.array([[0, 0], [5e-7, 0]]))
    assert not near(weight, weight[:1])
