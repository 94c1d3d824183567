from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf, first_tensor, get_leaf, mapped, with_leaf

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NORMALISED = Leaf(mean=MEAN, std=STD)
Pair = namedtuple("Pair", "image label")


def test_budgets_are_counted_in_units_of_the_sensor() -> None:
    x = torch.zeros(2, 3, 4, 4)
    assert Leaf().budget(2.0, x) == pytest.approx(2 / 255)
    assert Leaf(unit=1 / 1023).budget(2.0, x) == pytest.approx(2 / 1023)
    torch.testing.assert_close(NORMALISED.budget(1.0, x).flatten(), 1 / 255 / torch.tensor(STD))


def test_each_sample_may_have_its_own_budget() -> None:
    budget = NORMALISED.budget(torch.tensor([1.0, 2.0]), torch.zeros(2, 3, 4, 4))
    assert budget.shape == (2, 3, 1, 1)
    torch.testing.assert_close(budget[1], 2 * budget[0])


def test_clipping_keeps_the_physical_range() -> None:
    x = torch.linspace(-9, 9, 96).view(2, 3, 4, 4)
    physical = NORMALISED.clip(x) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert physical.min().item() == pytest.approx(0, abs=1e-6)
    assert physical.max().item() == pytest.approx(1, abs=1e-6)
    inside = torch.rand(2, 3, 4, 4)
    assert torch.equal(Leaf().clip(inside), inside)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 3, 2, 2), 1.2), r"1.2 .. 1.2 leave the declared range"),
        (torch.full((1, 3, 2, 2), -0.1), r"leave the declared range"),
        (torch.full((1, 3, 2, 2), float("nan")), "holds NaN or infinite"),
        (torch.full((1, 3, 2, 2), float("inf")), "holds NaN or infinite"),
        (torch.zeros(1, 3, 2, 2, dtype=torch.uint8), r"dtype torch.uint8 cannot be perturbed \(convert it to float\)"),
    ],
)
def test_input_outside_the_declared_range_is_refused(x: torch.Tensor, message: str) -> None:
    space = InputSpace({"image": Leaf()})
    with pytest.raises(InputError, match=f"split 'train', leaf 'image': .*{message}|.*{message}"):
        space.check({"image": x}, where="split 'train'")


def test_input_inside_the_declared_range_is_accepted() -> None:
    Leaf().check(torch.tensor([[0.0, 1.0]]), where="x")
    Leaf().check(torch.tensor([[-1e-4, 1.0001]]), where="rounding")
    NORMALISED.check(NORMALISED.clip(torch.randn(2, 3, 4, 4)), where="x")


# --- nests ----------------------------------------------------------------------------------------------

keys = st.text("abc", min_size=1, max_size=2)
nests = st.recursive(
    st.integers(),
    lambda inner: st.dictionaries(keys, inner, min_size=1) | st.lists(inner, min_size=1, max_size=3)
    | st.tuples(inner, inner) | st.builds(Pair, inner, inner),
)  # fmt: skip


def paths(node: Any) -> list[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    below = [(str(key), rest) for key, inner in items for rest in paths(inner)]
    return [f"{key}.{rest}".rstrip(".") for key, rest in below] or [""]


@given(nests.filter(lambda nest: not isinstance(nest, int)), st.data())
def test_a_replaced_leaf_is_the_only_change(nest: Any, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(paths(nest)))
    before, marker = repr(nest), object()
    changed = with_leaf(nest, path, marker)
    assert get_leaf(changed, path) is marker
    assert type(changed) is type(nest)
    assert repr(nest) == before
    assert with_leaf(changed, path, get_leaf(nest, path)) == nest


@pytest.mark.parametrize(
    ("batch", "message"),
    [({"img": 1}, r"keys \['img'\]"), ((1, 2), "2 positions"), (3, "int"), ({"image": [1]}, r"keys \['image'\]")],
)
def test_a_missing_leaf_lists_what_is_there(batch: Any, message: str) -> None:
    path = "image.3" if batch == {"image": [1]} else "image"
    with pytest.raises(InputError, match=f"no leaf '{path}' in a batch with {message}"):
        get_leaf(batch, path)


def test_a_space_reads_and_replaces_its_leaves() -> None:
    space = InputSpace({"0": Leaf(), "1.far": Leaf()})
    batch = (1, {"far": 2, "near": 3})
    assert space.values(batch) == {"0": 1, "1.far": 2}
    assert space.replace(batch, {"1.far": 5}) == (1, {"far": 5, "near": 3})


def test_the_first_tensor_is_found_in_any_nest_and_its_absence_is_said() -> None:
    x = torch.zeros(3)
    for batch in (x, (x, 1), {"id": "a", "image": x}, [{"boxes": []}, Pair("name", (None, x))]):
        assert first_tensor(batch) is x
    with pytest.raises(InputError, match=r"no tensor in a batch with keys \['id'\] \(collate it to tensors\)"):
        first_tensor({"id": "a"})


def test_a_mapped_nest_keeps_its_form_and_what_is_no_tensor() -> None:
    nest = {"pair": Pair(torch.ones(2), "name"), "list": [torch.ones(1), (3, torch.zeros(1))]}
    found = mapped(nest, lambda x: x + 1)
    assert isinstance(found["pair"], Pair)
    assert found["pair"].image.tolist() == [2.0, 2.0]
    assert found["pair"].label == "name"
    assert (found["list"][0].item(), found["list"][1][0], found["list"][1][1].item()) == (2.0, 3, 1.0)
    assert isinstance(found["list"][1], tuple)
