"""The sweep against its naive twin: the same values, and the same verdicts where it stops early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError, NonFiniteError
from holdfast.surgery.criticality import Questions, reset, sweep
from holdfast.surgery.owned import owned_layers, swapped

N = 700


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, dict[str, Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = network(), torch.randn(N, 6)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0.5).long()
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    model.zero_grad()
    return model.eval(), initial, x, y


def questions(model: nn.Module, x: Tensor, y: Tensor, **changes: Any) -> Questions:
    return Questions(**{
        "model": model, "size": len(x), "batch": lambda i: (x[i], y[i]), "forward": lambda m, b: m(b[0]),
        "judge": lambda o, r, b: {"right": (o.argmax(1) == b[1]).double(), "moved": (o - r).norm(dim=1)},
        "block": 100, **changes,
    })  # fmt: skip


def naive(model: nn.Module, tensors: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    with torch.no_grad(), swapped(model, tensors):
        return float((model(x).argmax(1) == y).double().mean())


def test_values_are_those_of_the_naive_sweep(trained: Any) -> None:
    model, initial, x, y = trained
    layers = owned_layers(model).values()
    found = sweep(questions(model, x, y), [reset(model, [layer], initial, kind="reinit 0") for layer in layers],
                  tolerance=0.05, risk=0.0)  # fmt: skip
    base = naive(model, {}, x, y)
    assert base > 0.9
    for finding, layer in zip(found, layers, strict=True):
        expected = naive(model, {name: initial[name] for name in layer.parameters}, x, y)
        assert finding.asked == N
        assert finding.values["right"].mean() == pytest.approx(expected, abs=1e-12)
        assert finding.damage == pytest.approx(base - expected, abs=1e-12)
        assert finding.critical == (base - expected > 0.05)
        assert finding.error == 0
        assert finding.change.layer == layer.name
    assert {finding.critical for finding in found} == {True}


def test_cached_and_plain_sweeps_give_the_same_bits(trained: Any) -> None:
    model, initial, x, y = trained
    changes = [reset(model, [layer], initial, kind="k") for layer in owned_layers(model).values()]
    cached, plain = (sweep(questions(model, x, y), changes, tolerance=0.05, cached=c) for c in (True, False))
    for a, b in zip(cached, plain, strict=True):
        assert all(np.array_equal(a.values[name], b.values[name]) for name in ("right", "moved"))


def test_early_verdicts_are_those_of_the_whole_and_cost_less(trained: Any) -> None:
    model, _, x, y = trained
    torch.manual_seed(1)
    changes = []
    for scale in (0.0, 0.01, 0.05, 0.2, 1.0):  # from harmless to fatal
        for layer in owned_layers(model).values():
            state = {n: p + scale * p.std() * torch.randn_like(p) for n, p in model.state_dict().items()}
            changes.append(reset(model, [layer], state, kind=f"noise {scale}"))
    whole = sweep(questions(model, x, y), changes, tolerance=0.05, risk=0.0)
    early = sweep(questions(model, x, y), changes, tolerance=0.05, risk=0.01)
    assert [f.critical for f in early] == [f.critical for f in whole]
    assert {f.critical for f in whole} == {True, False}
    assert sum(f.asked for f in early) < 0.7 * sum(f.asked for f in whole)
    for finding in early:
        assert all(len(values) == finding.asked for values in finding.values.values())


def test_an_unchanged_layer_is_robust_and_several_can_be_reset_together(trained: Any) -> None:
    model, initial, x, y = trained
    layers = list(owned_layers(model).values())
    own = {name: value.clone() for name, value in model.state_dict().items()}
    same = reset(model, [layers[0]], own, kind="same")
    joint = reset(model, layers[:2], initial, kind="reinit 0")
    found = sweep(questions(model, x, y), [same, joint], tolerance=0.01, risk=0.0)
    assert found[0].damage == 0
    assert not found[0].critical
    assert joint.layer == "0+2"
    assert found[1].values["right"].mean() == pytest.approx(
        naive(model, {n: initial[n] for layer in layers[:2] for n in layer.parameters}, x, y)
    )


def test_a_model_that_breaks_is_critical_and_samples_that_do_not_count_are_left_out(trained: Any) -> None:
    model, initial, x, y = trained
    first = owned_layers(model)["0"]
    broken = reset(model, [first], {n: torch.full_like(initial[n], torch.nan) for n in initial}, kind="nan")

    def judge(o: Tensor, r: Tensor, b: Any) -> dict[str, Tensor]:
        return {"error": torch.where(b[1] == 0, torch.nan, (o - r).norm(dim=1))}

    asked = questions(model, x, y, judge=judge, better="lower")
    fine = reset(model, [first], initial, kind="fine")
    found = sweep(asked, [broken, fine], tolerance=1e9, risk=0.0)
    assert [f.critical for f in found] == [True, False]
    assert found[1].damage == pytest.approx(np.nanmean(found[1].values["error"]))


def test_what_cannot_be_asked_is_refused(trained: Any) -> None:
    model, initial, x, y = trained
    layer = owned_layers(model)["0"]
    with pytest.raises(InputError, match=r"no '0.weight'"):
        reset(model, [layer], {}, kind="reinit 0")
    change = reset(model, [layer], initial, kind="reinit 0")
    with pytest.raises(InputError, match="no samples"):
        sweep(questions(model, x[:0], y[:0]), [change], tolerance=0.1)
    with pytest.raises(NonFiniteError, match="unchanged model"):
        sweep(questions(model, x, y, judge=lambda o, r, b: {"e": torch.full((len(o),), torch.inf)}), [change],
              tolerance=0.1)  # fmt: skip


def test_the_model_is_the_same_bits_and_in_its_own_mode(trained: Any) -> None:
    model, initial, x, y = trained
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    rng = torch.get_rng_state()
    sweep(questions(model, x, y), [reset(model, [owned_layers(model)["2"]], initial, kind="k")], tolerance=0.1)
    assert model.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
