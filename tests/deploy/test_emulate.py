from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rounding_twin import round_one
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.errors import InputError
from holdfast.deploy.emulate import PRECISIONS, Rounding, round_to, rounded_copy

_floats = st.floats(width=32, allow_nan=False)


@given(st.lists(_floats, min_size=1, max_size=20), st.sampled_from(["fp16", "bf16"]))
def test_rounding_is_the_definition(values: list[float], precision: str) -> None:
    got = round_to(torch.tensor(values), precision).tolist()
    assert got == [round_one(value, precision) for value in values]


@given(
    st.lists(
        st.floats(width=32, min_value=-(2.0**126), max_value=2.0**126, allow_subnormal=False), min_size=1, max_size=20
    )
)
def test_tf32_is_the_definition(values: list[float]) -> None:
    assert round_to(torch.tensor(values), "tf32").tolist() == [round_one(value, "tf32") for value in values]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_rounding_twice_is_rounding_once(precision: str) -> None:
    x = torch.randn(1000) * torch.logspace(-30, 30, 1000)
    once = round_to(x, precision)
    assert torch.equal(round_to(once, precision), once)
    assert not torch.equal(once, x)


def test_non_finite_values_stay_and_fp16_overflows() -> None:
    x = torch.tensor([math.inf, -math.inf, math.nan, 65519.0, 65520.0, 2.0**-26])
    for precision in PRECISIONS:
        assert str(round_to(x, precision)[:3].tolist()) == "[inf, -inf, nan]"
    assert round_to(x, "fp16")[3:].tolist() == [65504.0, math.inf, 0.0]


def test_unknown_precision_lists_the_known() -> None:
    with pytest.raises(InputError, match="fp16, fp16_accumulate, bf16, tf32"):
        Rounding("fp8")


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * 1.1,
        lambda x: torch.exp(x),
        lambda x: functional.conv2d(x, torch.ones(2, 3, 2, 2)),
        lambda x: x @ x.transpose(2, 3),
        lambda x: functional.layer_norm(x, (4, 4)),
        lambda x: x.softmax(-1),
        lambda x: functional.interpolate(x, scale_factor=0.7, mode="bilinear"),
        lambda x: torch.linspace(0, 1, 7),
        lambda x: x.sum(),
        lambda x: x.std(dim=1),
        lambda x: x.sort()[0] * 1.1,
        lambda x: torch.stack(torch.split(x * 1.1, 1)),
    ],
)
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_output_is_representable(operation, precision: str) -> None:
    x = round_to(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), precision)
    with torch.no_grad(), Rounding(precision):
        y = operation(x)
    assert torch.equal(round_to(y, precision), y)


def test_one_operation_is_rounded_once() -> None:
    x = round_to(torch.randn(64, 64), "fp16")
    with torch.no_grad(), Rounding("fp16"):
        product = x @ x
    assert torch.equal(product, (x @ x).half().float())


def test_operations_in_place_round_what_they_write() -> None:
    x = torch.zeros(3)
    with torch.no_grad(), Rounding("fp16"):
        x.add_(0.1).mul_(3.0)
        torch.mul(x, 1.7, out=(y := torch.empty(3)))
    first = torch.tensor(0.1).half().float()
    assert torch.equal(x, (first * 3).half().float().expand(3))
    assert torch.equal(y, (x * 1.7).half().float())


def test_views_and_what_they_show_are_left_alone() -> None:
    x = torch.full((2, 6), 0.1)
    kept = x.clone()
    with torch.no_grad(), Rounding("fp16"):
        views = [
            x.view(3, 4),
            x.T,
            x[:, 1:],
            x.reshape(12),
            x.expand(5, 2, 6),
            x.unsqueeze(0),
            x.detach(),
            x.split(3, 1),
        ]
        views += [x.T.reshape(12), x.contiguous(), x.narrow(0, 0, 1), x.flatten(), x.movedim(0, 1), x.unfold(1, 2, 2)]
    assert torch.equal(x, kept)
    assert len(views) == 14


@pytest.mark.parametrize("precision", PRECISIONS)
def test_integers_and_doubles_are_not_touched(precision: str) -> None:
    with torch.no_grad(), Rounding(precision):
        assert torch.arange(1000)[777] == 777
        assert torch.tensor(0.1, dtype=torch.float64) * 3 == 0.1 * 3
        tenth = torch.full((1, 1), 0.1, dtype=torch.float64)
        assert tenth @ tenth == 0.1 * 0.1


class _Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), 0.1))
        self.register_buffer("mean", torch.full((2,), 0.1))
        self.register_buffer("count", torch.tensor(70001))
        self.offset = torch.full((2,), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.mean + self.offset


def test_the_copy_is_rounded_everywhere_and_the_model_is_not() -> None:
    model = _Parts()
    copy = rounded_copy(model, "fp16")
    low = torch.full((2,), 0.1).half().float()
    assert all(torch.equal(x, low) for x in (copy.weight, copy.mean, copy.offset))
    assert copy.count == 70001
    assert model.weight[0] == model.mean[0] == model.offset[0] == torch.tensor(0.1)


def test_tf32_rounds_factors_alone() -> None:
    g = torch.Generator().manual_seed(0)
    a, b, bias = torch.randn(8, 8, generator=g), torch.randn(8, 8, generator=g), torch.randn(8, generator=g)
    with torch.no_grad(), Rounding("tf32"):
        product, total, shifted = torch.addmm(bias, a, b), a + bias, functional.linear(a, b, bias)
    ra, rb = round_to(a, "tf32"), round_to(b, "tf32")
    assert torch.equal(product, torch.addmm(bias, ra, rb))
    assert torch.equal(total, a + bias)
    assert torch.equal(shifted, functional.linear(ra, rb, bias))
    image, kernel = torch.randn(1, 2, 5, 5, generator=g), torch.randn(3, 2, 3, 3, generator=g)
    with torch.no_grad(), Rounding("tf32"):
        convolved = functional.conv2d(image, kernel)
    torch.testing.assert_close(convolved, functional.conv2d(round_to(image, "tf32"), round_to(kernel, "tf32")))
    assert not torch.equal(convolved, functional.conv2d(image, kernel))


def test_overflow_is_infinite_as_on_hardware() -> None:
    x = round_to(torch.full((4,), 300.0), "fp16")
    with torch.no_grad(), Rounding("fp16"):
        assert torch.isinf(x * x).all()
        assert functional.layer_norm(x + torch.arange(4.0), (4,)).isfinite().all()  # one kernel with statistics in fp32


def test_emulation_is_as_far_from_the_truth_as_real_half() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 8)
    )
    x = torch.rand(16, 3, 12, 12)
    with torch.no_grad():
        truth = model.double()(x.double())
        model.float()
        emulated, rounded = rounded_copy(model, "fp16"), round_to(x, "fp16")
        with Rounding("fp16"):
            ours = emulated(rounded)
        real = model.half()(x.half())
    error_ours, error_real = ours - truth, real - truth
    ratio_db = 10 * math.log10(error_ours.square().sum() / error_real.square().sum())
    assert abs(ratio_db) < 1.0
    assert torch.corrcoef(torch.stack([error_ours.flatten(), error_real.flatten()]))[0, 1] > 0.8
