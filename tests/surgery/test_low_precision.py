from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Surgery
from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.surgery.low_precision import LowPrecision
from holdfast.weights.swa import SWA


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


EXAMPLE = (torch.linspace(-1, 1, 72).view(2, 1, 6, 6),)
DATA = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(16) % 3


def train(low: LowPrecision, steps: int = 5, optimiser: str = "sgd") -> tuple[nn.Module, torch.optim.Optimizer]:
    model = low.apply(network(), EXAMPLE)
    kinds: dict[str, Any] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01),
        "plain": lambda p: torch.optim.SGD(p, lr=0.05),
    }
    stepper = low.attach(kinds[optimiser](model.parameters()))
    go_on(model, stepper, steps)
    return model, stepper


def go_on(model: nn.Module, stepper: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        stepper.zero_grad()
        nn.functional.cross_entropy(model(DATA), LABELS).backward()
        stepper.step()


def is_representable(x: Tensor, bits: int, blocks: Any = "first") -> bool:
    """Whether every block is integers of ``bits`` times one power of two."""
    rows = x.flatten(1) if x.dim() > 1 and blocks == "first" else x.reshape(1, -1)
    return all(_fits(row.double(), bits) for row in rows)


def _fits(row: Tensor, bits: int) -> bool:
    top = torch.frexp(row.abs().max()).exponent - 1
    limit = 2.0 ** (bits - 1)
    # The most negative number has no positive twin: alone at the top, it stands one exponent lower.
    scaled = [torch.ldexp(row, bits - 2 - exponent) for exponent in (top, top - 1)]
    return any(torch.equal(s, s.round()) and bool(((s >= -limit) & (s < limit)).all()) for s in scaled)


def test_it_is_a_surgery() -> None:
    assert isinstance(LowPrecision(), Surgery)


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "plain"])
def test_weights_and_momentum_are_representable_after_every_step(bits: int, optimiser: str) -> None:
    model, stepper = train(LowPrecision(bits=bits), optimiser=optimiser)
    assert all(is_representable(parameter.detach(), bits) for parameter in model.parameters())
    for state in stepper.state.values():
        for name in ("momentum_buffer", "exp_avg"):
            if isinstance(state.get(name), Tensor):
                assert is_representable(state[name], bits)


def test_inputs_errors_and_gradients_of_layers_are_representable() -> None:
    low = LowPrecision(bits=6)
    model = low.apply(network(), EXAMPLE)
    seen: dict[str, Tensor] = {}
    model[4].register_forward_pre_hook(lambda _, inputs: seen.update(activation=inputs[0].detach()))
    model[1].register_full_backward_hook(lambda _, inputs, outputs: seen.update(error=outputs[0].detach()))
    stepper = low.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    nn.functional.cross_entropy(model(DATA), LABELS).backward()
    stepper.step()
    assert is_representable(seen["activation"], 6, "tensor")
    assert is_representable(model[0].weight.grad, 6)
    assert seen["error"].abs().sum() > 0


def test_errors_are_rounded_on_the_way_back() -> None:
    low = LowPrecision(bits=4, rounding="nearest", bits_of={"activation": 32, "weight": 32})
    model = low.apply(nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False)), (torch.zeros(1, 3),))
    model[1].weight.data = torch.tensor([[1.0, 0.3, 0.01]])
    x = torch.ones(1, 3)
    model(x).sum().backward()
    # The error at the first layer's output is the second layer's weights, rounded to 4 bits in one block.
    assert torch.equal(model[0].weight.grad[:, 0], torch.tensor([1.0, 0.25, 0.0]))


def test_the_error_of_the_loss_is_rounded_only_on_demand() -> None:
    for demanded in (False, True):
        low = LowPrecision(bits=4, rounding="nearest", round_logits_error=demanded, bits_of={"activation": 32})
        model = low.apply(nn.Linear(1, 3, bias=False), (torch.zeros(1, 1),))
        (model(torch.ones(1, 1)) * torch.tensor([1.0, 0.3, 0.01])).sum().backward()
        rounded = torch.tensor([1.0, 0.25, 0.0]) if demanded else torch.tensor([1.0, 0.3, 0.01])
        torch.testing.assert_close(model.weight.grad[:, 0], rounded)


def test_roles_may_be_left_in_full_precision() -> None:
    roles = ("weight", "activation", "error", "gradient", "momentum", "accumulator")
    low = LowPrecision(bits_of=dict.fromkeys(roles, 32))
    model, _ = train(low)
    plain = network()
    stepper = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    go_on(plain, stepper, 5)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_wide_accumulator_keeps_what_narrow_weights_lose() -> None:
    low = LowPrecision(bits=4, rounding="nearest", bits_of={"accumulator": 24, "gradient": 24, "momentum": 24})
    model, stepper = train(low, steps=4)
    for parameter in model.parameters():
        accumulator = stepper.state[parameter]["accumulator"]
        assert is_representable(parameter.detach(), 4)
        assert is_representable(accumulator, 24)
    assert any(not torch.equal(p, stepper.state[p]["accumulator"]) for p in model.parameters())


def test_small_updates_survive_stochastic_rounding_only() -> None:
    def moved(rounding: Any) -> float:
        torch.manual_seed(0)
        low = LowPrecision(number="fixed", bits=8, fraction_bits=4, rounding=rounding, bits_of={"gradient": 32})
        weight = nn.Parameter(torch.zeros(2000))
        stepper = low.attach(torch.optim.SGD([weight], lr=1e-3))
        for _ in range(10):
            weight.grad = -torch.ones(2000)
            stepper.step()
        return float(weight.detach().mean())

    assert moved("nearest") == 0.0
    assert moved("stochastic") == pytest.approx(0.01, abs=0.003)


def test_the_average_gets_below_the_grid() -> None:
    torch.manual_seed(0)
    target = 2 * torch.rand(500) - 1
    point = nn.ParameterList([nn.Parameter(torch.zeros(500))])
    low = LowPrecision(number="fixed", bits=6, fraction_bits=3, bits_of={"gradient": 32})
    stepper = low.attach(torch.optim.SGD(point.parameters(), lr=0.1))
    swa = SWA(start_step=100).start(point)
    for _ in range(3100):
        point[0].grad = point[0].detach() - target + torch.randn(500)
        stepper.step()
        swa.update(point)
    floor = 4.0**-3 / 12
    assert float((swa.weights()["0"] - target).square().mean()) < floor / 2
    assert float((point[0].detach() - target).square().mean()) > 10 * floor


def test_evaluation_is_deterministic_and_training_draws() -> None:
    model = LowPrecision(bits=5).apply(network(), EXAMPLE)
    assert not torch.equal(model(DATA), model(DATA))
    model.eval()
    assert torch.equal(model(DATA), model(DATA))


def test_the_same_seed_gives_the_same_bits() -> None:
    first, _ = train(LowPrecision())
    again, _ = train(LowPrecision())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_it_resumes_to_the_same_bits() -> None:
    low = LowPrecision(bits=6, bits_of={"accumulator": 12})
    model, stepper = train(low, steps=3)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimiser": stepper.state_dict()}, file)
    torch.manual_seed(9)
    go_on(model, stepper, 3)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = low.apply(network(), EXAMPLE)
    resumed.load_state_dict(saved["model"])
    other = low.attach(torch.optim.SGD(resumed.parameters(), lr=0.05, momentum=0.9))
    other.load_state_dict(saved["optimiser"])
    torch.manual_seed(9)
    go_on(resumed, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_strip_leaves_an_ordinary_model_with_the_same_weights() -> None:
    low = LowPrecision()
    model, _ = train(low)
    plain = network()
    plain.load_state_dict(model.state_dict())
    assert low.strip(model) is model
    assert torch.equal(low.strip(model).eval()(DATA), plain.eval()(DATA))


def test_the_average_of_its_iterates_is_in_high_precision() -> None:
    low = LowPrecision(bits=4)
    model = low.apply(network(), EXAMPLE)
    stepper = low.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    swa = SWA().start(model)
    for _ in range(7):
        go_on(model, stepper, 1)
        swa.update(model)
    weights = swa.weights()["4.weight"]
    assert is_representable(model[4].weight.detach(), 4)
    assert not is_representable(weights, 4)


def test_what_cannot_be_done_is_refused() -> None:
    model = LowPrecision().apply(network(), EXAMPLE)
    with pytest.raises(ClashError, match="already"):
        LowPrecision().apply(model, EXAMPLE)
    with pytest.raises(NoEffectError):
        LowPrecision().apply(nn.ReLU(), EXAMPLE)
    with pytest.raises(InputError, match="activation"):
        LowPrecision(bits_of={"activations": 4})
    with pytest.raises(InputError):
        LowPrecision(bits=40)
