"""Served forwards give the bits of full ones, on networks whose calls are not a chain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from holdfast.surgery.owned import owned_layers, swapped
from holdfast.surgery.prefix import Prefix, agrees


class Skips(nn.Module):
    """Additions in place, activations in place, a projection beside the main branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.a = nn.Conv2d(6, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.project = nn.Conv2d(6, 8, 1)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.b(self.act(self.a(x)))
        y += self.project(x)
        return self.head(self.act(y).mean((2, 3)))


class Shared(nn.Module):
    """One layer called three times, and one whose weight is used without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.shared = nn.Linear(4, 4)
        self.silent = nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(torch.tanh(self.first(x)))
        x = nn.functional.linear(x, self.silent.weight)
        return self.last(self.shared(torch.tanh(self.shared(x))))


CASES = {
    "chain": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), (5, 4)),
    "skips": (Skips, (5, 3, 8, 8)),
    "shared": (Shared, (5, 4)),
    "transformer": (lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False), (5, 6, 8)),
    "pre-norm": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), (5, 6, 8)),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, shape = CASES[request.param]
    torch.manual_seed(0)
    return build().eval(), torch.randn(*shape)


@torch.no_grad()
def test_a_served_forward_gives_the_bits_of_a_full_one(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    prefix = Prefix(model, lambda: model(x))
    prefix.record(lambda: model(x))
    served = 0
    for layer in owned_layers(model).values():
        other = {name: torch.randn_like(value) for name, value in model.named_parameters() if name in layer.parameters}
        first = prefix.first_call(layer.modules)
        with swapped(model, other):
            full = model(x)
            if agrees(prefix, lambda: model(x), first):
                served += first > 0
            assert torch.equal(full, model(x))
        assert torch.equal(prefix.replay(lambda: model(x), first), model(x))
    assert served > 0 or isinstance(model, nn.TransformerEncoderLayer)


@torch.no_grad()
def test_a_served_forward_runs_nothing_that_came_before() -> None:
    build, shape = CASES["chain"]
    model, x = build().eval(), torch.randn(*shape)
    prefix = Prefix(model, lambda: model(x))
    calls: list[str] = []
    # Below the level at which calls are served: the function that a linear layer ends in.
    original = nn.functional.linear
    try:
        nn.functional.linear = lambda *given: calls.append("linear") or original(*given)
        prefix.replay(lambda: model(x), prefix.first_call(["4"]))
        assert len(calls) == 1
        prefix.replay(lambda: model(x), prefix.first_call(["0"]))
        assert len(calls) == 4
    finally:
        nn.functional.linear = original


@torch.no_grad()
def test_where_a_weight_is_used_without_a_call_the_trial_says_so() -> None:
    build, shape = CASES["shared"]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(*shape)
    prefix = Prefix(model, lambda: model(x))
    assert prefix.first_call(["silent"]) == 0  # never called: nothing is served
    with swapped(model, {"shared.weight": torch.eye(4)}):
        assert agrees(prefix, lambda: model(x), prefix.first_call(["shared"]))
        assert not agrees(prefix, lambda: model(x), prefix.first_call(["last"]))


@torch.no_grad()
def test_the_model_is_as_before(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    before = [sorted(module.__dict__) for module in model.modules()]
    prefix = Prefix(model, lambda: model(x))
    prefix.replay(lambda: model(x), 2)
    assert [sorted(module.__dict__) for module in model.modules()] == before
