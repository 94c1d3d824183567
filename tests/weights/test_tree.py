from __future__ import annotations

import math

import pytest
import torch
from averages_twin import equal_mean
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights import tree


class Everything(nn.Module):
    """One entry of every class: parameter, float buffer, boolean, statistics, counter, tie, non-persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("scale", torch.full((3,), 2.0))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("cache", torch.zeros(2), persistent=False)


def random_state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(3, 2, generator=generator).to(dtype),
        "norm.running_mean": torch.randn(3, generator=generator).to(dtype),
        "norm.num_batches_tracked": torch.tensor(seed),
    }


def test_every_entry_of_a_model_gets_its_class() -> None:
    found = {entry.name: (entry.kind, entry.tied_to) for entry in tree.entries(Everything())}
    assert found == {
        "scale": ("buffer", None),
        "mask": ("integer", None),
        "encoder.weight": ("parameter", None),
        "encoder.bias": ("parameter", None),
        "norm.weight": ("parameter", None),
        "norm.bias": ("parameter", None),
        "norm.running_mean": ("batchnorm", None),
        "norm.running_var": ("batchnorm", None),
        "norm.num_batches_tracked": ("integer", None),
        "decoder.weight": ("parameter", "encoder.weight"),
        "decoder.bias": ("parameter", None),
    }


def test_a_state_without_its_model_is_described_by_names_dtypes_and_shared_memory() -> None:
    model = Everything()
    counts = tree.count_kinds(tree.describe_state(model.state_dict()))
    assert counts == {"parameter": 6, "integer": 2, "batchnorm": 2, "tied": 1}
    assert tree.count_kinds(tree.entries(model)) == {**counts, "parameter": 5, "buffer": 1}


def test_empty_entries_are_not_taken_for_ties() -> None:
    state = {"a": torch.zeros(0), "b": torch.zeros(0)}
    assert [entry.tied_to for entry in tree.describe_state(state)] == [None, None]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # raised by torch.compile's own imports
def test_unwrap_looks_through_compile() -> None:
    model = nn.Linear(2, 2)
    assert tree.unwrap(torch.compile(model)) is model
    assert tree.unwrap(model) is model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_mean_equals_the_twin(dtype: torch.dtype) -> None:
    states = [random_state(seed, dtype) for seed in range(5)]
    mean, twin = tree.mean(states), equal_mean(states)
    for name in ("weight", "norm.running_mean"):
        assert mean[name].dtype == dtype
        torch.testing.assert_close(mean[name], twin[name], rtol=4 * torch.finfo(dtype).eps, atol=1e-16)


@given(st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=30)
def test_lerp_stays_between_its_ends_and_meets_them(alpha: float) -> None:
    start, end = random_state(0), random_state(1)
    middle = tree.lerp(start, end, alpha)["weight"]
    low, high = torch.minimum(start["weight"], end["weight"]), torch.maximum(start["weight"], end["weight"])
    assert bool(((middle >= low) & (middle <= high)).all())
    assert torch.equal(tree.lerp(start, end, 0.0)["weight"], start["weight"])
    assert torch.equal(tree.lerp(start, end, 1.0)["weight"], end["weight"])


@given(st.permutations(range(4)))
@settings(deadline=None, max_examples=20)
def test_the_mean_does_not_depend_on_the_order(order: list[int]) -> None:
    states = [random_state(seed) for seed in range(4)]
    shuffled = tree.mean([states[k] for k in order])
    torch.testing.assert_close(shuffled["weight"], tree.mean(states)["weight"], rtol=2e-7, atol=1e-7)


def test_integers_come_from_the_heaviest_state_and_are_never_averaged() -> None:
    combined = tree.combine([random_state(3), random_state(5), random_state(8)], [0.2, 0.5, 0.3])
    assert combined["norm.num_batches_tracked"].dtype == torch.int64
    assert int(combined["norm.num_batches_tracked"]) == 5


def test_ties_survive_only_where_every_state_has_them() -> None:
    tied, shared = {}, torch.randn(3)
    tied["a"] = tied["b"] = shared
    assert (both := tree.mean([tied, tied]))["a"] is both["b"]
    loose = {"a": torch.zeros(3), "b": torch.ones(3)}
    mixed = tree.mean([tied, loose])
    torch.testing.assert_close(mixed["b"] - mixed["a"], torch.full((3,), 0.5))


def test_results_share_no_memory_with_what_they_were_made_from() -> None:
    state = random_state(0)
    copy = tree.mean([state])
    copy["weight"].zero_()
    assert bool((state["weight"] != 0).any())


def test_different_architectures_are_refused_with_a_table() -> None:
    other = random_state(1) | {"head.bias": torch.zeros(2)}
    other["weight"] = other["weight"].double()
    with pytest.raises(InputError) as caught:
        tree.check_alike({"a.pt": random_state(0), "b.pt": other})
    message = str(caught.value)
    assert "2 entries differ" in message
    assert "weight: float32 (3, 2) in a.pt, float64 (3, 2) in b.pt" in message
    assert "head.bias: missing in a.pt, float32 (2,) in b.pt" in message


def test_coefficients_must_match_the_states() -> None:
    with pytest.raises(InputError, match="1 states with 2 coefficients"):
        tree.combine([random_state(0)], [0.5, 0.5])
    with pytest.raises(InputError, match="0 states"):
        tree.mean([])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64])
def test_non_finite_entries_are_refused_by_name(bad: float, dtype: torch.dtype) -> None:
    state = {"fine": torch.ones(4), "broken": torch.tensor([1.0, bad]).to(dtype), "count": torch.tensor(1)}
    with pytest.raises(InputError, match=r"b\.pt: NaN or infinite values in broken "):
        tree.check_finite(state, where="b.pt")


def test_large_finite_values_are_not_refused() -> None:
    big = torch.full((4,), 6e4, dtype=torch.float16)  # their sum overflows
    tree.check_finite({"big": big, "eight": torch.ones(2).to(torch.float8_e4m3fn)}, where="a.pt")


def test_distance_leaves_statistics_and_counters_out() -> None:
    left, right = random_state(0), random_state(1)
    expected = float((left["weight"] - right["weight"]).double().norm())
    assert tree.distance(left, right) == pytest.approx(expected, rel=1e-6)
    assert tree.distance(left, left) == 0.0
