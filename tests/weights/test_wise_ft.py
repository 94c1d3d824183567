from __future__ import annotations

import pytest
import torch
from weights_zoo import Zoo, network

from holdfast.core.errors import InputError
from holdfast.weights.fisher import diagonal_fisher
from holdfast.weights.wise_ft import split_heads, walk_path


def test_an_interior_alpha_serves_both_domains_best(zoo: Zoo) -> None:
    domains = {"turned": zoo.exam(), "upright": zoo.exam(zoo.upright)}
    path = walk_path(zoo.base, zoo.tuned[3], domains)
    assert [point.alpha for point in path.points] == pytest.approx([k / 10 for k in range(11)])
    assert 0.0 < path.best < 1.0
    assert path.gain > 0.0
    assert path.points[0].scores["upright"] > path.points[-1].scores["upright"]
    assert path.points[0].scores["turned"] < path.points[-1].scores["turned"]
    assert all(0.0 < error < 0.02 for error in path.points[5].errors.values())


def test_the_ends_are_bit_exact(zoo: Zoo) -> None:
    for alpha, end in ((0.0, zoo.base), (1.0, zoo.tuned[0])):
        state = walk_path(zoo.base, zoo.tuned[0], {"turned": zoo.exam()}, alphas=[alpha]).state
        assert all(torch.equal(state[name], end[name]) for name in end)
        assert list(state) == list(end)


def test_named_heads_stay_as_fine_tuned(zoo: Zoo) -> None:
    path = walk_path(zoo.base, zoo.tuned[0], {"turned": zoo.exam()}, alphas=[0.5], heads=("4.",))
    assert path.heads == ("4.weight", "4.bias")
    assert torch.equal(path.state["4.weight"], zoo.tuned[0]["4.weight"])
    assert not torch.equal(path.state["0.weight"], zoo.tuned[0]["0.weight"])


def test_new_and_reshaped_heads_are_found(zoo: Zoo) -> None:
    other = {name: value for name, value in zoo.base.items() if name != "4.bias"}
    other["4.weight"] = torch.zeros(1000, 48)
    body, head = split_heads(other, zoo.tuned[0])
    assert list(head) == ["4.weight", "4.bias"]
    assert list(body) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    path = walk_path(other, zoo.tuned[0], {"turned": zoo.exam()}, alphas=[0.0, 1.0])
    assert path.heads == ("4.weight", "4.bias")


def test_fisher_values_bend_the_path_but_not_its_ends(zoo: Zoo) -> None:
    fishers = []
    for state in (zoo.base, zoo.tuned[0]):
        model = network()
        model.load_state_dict(state)
        fishers.append(diagonal_fisher(model, zoo.held_out.inputs.split(32), samples=32))
    both = [
        walk_path(zoo.base, zoo.tuned[0], {"t": zoo.exam()}, alphas=[0.5], fishers=f) for f in (None, tuple(fishers))
    ]
    assert not torch.allclose(both[0].state["0.weight"], both[1].state["0.weight"])
    end = walk_path(zoo.base, zoo.tuned[0], {"t": zoo.exam()}, alphas=[1.0], fishers=tuple(fishers))
    assert torch.equal(end.state["0.weight"], zoo.tuned[0]["0.weight"])


def test_losses_and_scores_may_stand_side_by_side(zoo: Zoo) -> None:
    path = walk_path(zoo.base, zoo.tuned[0], {"loss": zoo.exam(loss=True)})
    scores = {point.alpha: point.scores["loss"] for point in path.points}
    assert scores[path.best] == min(scores.values())
    assert path.better == {"loss": "lower"}


def test_without_both_ends_no_gain_is_claimed(zoo: Zoo) -> None:
    path = walk_path(zoo.base, zoo.tuned[0], {"t": zoo.exam()}, alphas=[0.4])
    assert path.gain != path.gain


def test_what_has_no_path_is_refused(zoo: Zoo) -> None:
    exam = {"t": zoo.exam()}
    with pytest.raises(InputError, match="0 domains"):
        walk_path(zoo.base, zoo.tuned[0], {})
    with pytest.raises(InputError, match="no entry starts with 'head'"):
        walk_path(zoo.base, zoo.tuned[0], exam, heads=("head",))
    with pytest.raises(InputError, match="no entry in common"):
        walk_path({"x": torch.zeros(1)}, zoo.tuned[0], exam)
