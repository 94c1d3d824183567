"""Laziness measures on networks for which the answer is known, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.errors import InputError, NoEffectError
from holdfast.surgery.laziness import flip_rates, kernel_drift, linear_cka, linearisation_error, neural_tangent_kernel


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 32), activation(), nn.Linear(32, 2)).double().eval()


def start_of(model: nn.Module, scale: float = 0.3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        name: value + scale * torch.randn(value.shape, generator=g, dtype=torch.float64)
        for name, value in model.state_dict().items()
    }


X = torch.randn(12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def run(model) -> Tensor:
    return model(X)


def test_a_linear_model_is_its_linearisation() -> None:
    model = nn.Linear(5, 2).double()
    errors, moves = linearisation_error(model, start_of(model), run)
    assert float(errors.max()) < 1e-12
    assert float(moves.min()) > 0.01


def test_the_linearisation_is_that_of_finite_differences() -> None:
    model = network(nn.Tanh)
    start = start_of(model)
    end = {name: value.clone() for name, value in model.state_dict().items()}
    step = 1e-5

    def at(share: float) -> Tensor:
        model.load_state_dict({name: start[name] + share * (end[name] - start[name]) for name in end})
        with torch.no_grad():
            return model(X)

    linear = at(0) + (at(step) - at(-step)) / (2 * step)
    expected = (at(1) - linear).norm(dim=1), (at(1) - at(0)).norm(dim=1)
    model.load_state_dict(end)
    found = linearisation_error(model, start, run)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


def test_flips_are_signs_that_changed() -> None:
    model = network()
    start = start_of(model)
    before = X @ start["0.weight"].T + start["0.bias"] > 0
    after = model[0](X) > 0
    found = flip_rates(model, start, run)
    assert list(found) == ["1"]
    torch.testing.assert_close(found["1"], (before != after).double().mean(1))
    bare = nn.Sequential(model[0], model[2])  # no activation modules: outputs of all layers but the last
    renamed = {"0.weight": start["0.weight"], "0.bias": start["0.bias"]}
    torch.testing.assert_close(flip_rates(bare, renamed, run)["0"], found["1"])


def test_the_kernel_is_the_gram_matrix_of_the_gradients() -> None:
    model = network(nn.Tanh)
    rows = []
    for x in X:
        for k in range(2):
            model.zero_grad()
            model(x)[k].backward()
            rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    jacobian = torch.stack(rows).view(12, 2, -1)
    expected = torch.einsum("ikp,jkp->ij", jacobian, jacobian) / 2
    torch.testing.assert_close(neural_tangent_kernel(model, run), expected)


def test_many_outputs_give_an_estimate_of_the_same_kernel() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 40).double()
    exact = X @ X.T + 1  # each output's gradient is the input and one
    torch.testing.assert_close(neural_tangent_kernel(model, run), exact)


def test_alignment() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(8, 5, generator=g, dtype=torch.float64)
    k = a @ a.T
    centring = torch.eye(8, dtype=torch.float64) - 1 / 8
    b = torch.randn(8, 3, generator=g, dtype=torch.float64)
    left, right = centring @ k @ centring, centring @ (b @ b.T) @ centring
    assert linear_cka(k, k) == pytest.approx(1)
    assert linear_cka(k, 3 * k + 7) == pytest.approx(1)
    assert linear_cka(k, b @ b.T) == pytest.approx(float((left * right).sum() / left.norm() / right.norm()))


def test_a_linear_model_keeps_its_kernel_and_a_network_that_moved_does_not() -> None:
    linear, net = nn.Linear(5, 2).double(), network()
    assert kernel_drift(linear, start_of(linear), run) == pytest.approx(0, abs=1e-12)
    near, far = (kernel_drift(net, start_of(net, scale), run) for scale in (0.01, 1.0))
    assert 0 <= near < 0.02 < far


def test_what_says_nothing_is_refused() -> None:
    model = network()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(NoEffectError, match="did not move"):
        linearisation_error(model, own, run)
    with pytest.raises(InputError, match="none of the model's parameters"):
        linearisation_error(model, {"other": torch.zeros(1)}, run)
    with pytest.raises(NoEffectError, match="no hidden units"):
        flip_rates(nn.Sequential(nn.Linear(5, 2).double()), {"0.bias": torch.zeros(2).double()}, run)


def test_a_kernel_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.surgery.laziness.KERNEL_ENTRIES", 1000)
    with pytest.raises(InputError, match="use at most"):
        neural_tangent_kernel(network(), run)


def test_the_model_is_the_same_bits() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = start_of(model)
    linearisation_error(model, start, run)
    flip_rates(model, start, run)
    kernel_drift(model, start, run)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
