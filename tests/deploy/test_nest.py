from __future__ import annotations

import json
from collections import OrderedDict, namedtuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import BackendError
from holdfast.deploy.nest import Record, flatten, map_tensors, unflatten

_leaves = st.one_of(st.none(), st.integers(0, 9).map(lambda i: torch.full((2,), i)))
_nests = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    ),
    max_leaves=8,
)


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@given(_nests)
def test_what_was_flattened_comes_back(nest: object) -> None:
    tensors, layout = flatten(nest)
    assert _same(unflatten(tensors, json.loads(json.dumps(layout))), nest)


def test_named_tuples_keep_their_names() -> None:
    point = namedtuple("Point", ["x", "y"])(torch.ones(1), torch.zeros(1))
    back = unflatten(*flatten(point))
    assert back.x == 1
    assert back.y == 0


def test_other_mappings_give_attributes_too() -> None:
    back = unflatten(*flatten(OrderedDict(logits=torch.ones(1))))
    assert isinstance(back, Record)
    assert back.logits is back["logits"]
    with pytest.raises(AttributeError, match="loss"):
        _ = back.loss


def test_map_changes_every_tensor() -> None:
    assert map_tensors(lambda x: x + 1, {"a": [torch.zeros(1)], "b": None}) == {"a": [torch.ones(1)], "b": None}


def test_an_output_that_is_no_tensor_is_named() -> None:
    with pytest.raises(BackendError, match=r"outputs\.boxes\.1: float among the outputs"):
        flatten({"boxes": [torch.ones(1), 0.5]})
