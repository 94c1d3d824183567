from __future__ import annotations

import half_sums_twin as twin
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from holdfast.deploy.emulate import Rounding, round_to


def _draw(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/8, whose products and short sums are exact in fp32 in any order."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 65, shape, generator=draw) / 8


def _low(operation, *tensors: Tensor, precision: str = "fp16_accumulate") -> Tensor:
    with torch.no_grad(), Rounding(precision):
        return operation(*tensors)


@pytest.mark.parametrize(
    ("channels", "outputs", "stride", "padding", "dilation", "groups"),
    [(20, 3, 1, 1, 1, 1), (6, 4, 2, 0, 2, 2), (5, 5, 1, 2, 1, 5)],
)
def test_a_convolution_is_the_definition(channels, outputs, stride, padding, dilation, groups) -> None:
    x, weight = _draw(channels, 6, 7), _draw(outputs, channels // groups, 3, 3, seed=1)
    given = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    want = torch.from_numpy(twin.convolution(x.numpy(), weight.numpy(), **given)).float()
    assert torch.equal(_low(lambda: functional.conv2d(x[None], weight, **given))[0], want)
    assert torch.equal(_low(lambda: functional.conv2d(x, weight, **given)), want)


def test_a_transposed_convolution_is_the_definition() -> None:
    x, weight = _draw(20, 3, 4), _draw(20, 2, 3, 3, seed=1)
    given = {"stride": 2, "padding": 1, "output_padding": 1}
    want = torch.from_numpy(twin.transposed(x.numpy(), weight.numpy(), **given)).float()
    assert torch.equal(_low(lambda: functional.conv_transpose2d(x[None], weight, **given))[0], want)


def test_a_product_of_matrices_is_the_definition_and_the_bias_comes_last() -> None:
    a, b, bias = _draw(2, 50), _draw(3, 50, seed=1), _draw(3, seed=2)
    sums = [[twin.dot([list(zip(row, column, strict=True))]) for column in b.tolist()] for row in a.tolist()]
    assert torch.equal(_low(functional.linear, a, b), torch.tensor(sums))
    assert torch.equal(_low(functional.linear, a, b, bias), round_to(torch.tensor(sums) + bias, "fp16"))
    assert torch.equal(_low(torch.bmm, a[None], b.T[None])[0], torch.tensor(sums))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: functional.conv1d(x[:, :, 0], _draw(4, 6, 3), _draw(4), padding=1),
        lambda x: functional.conv3d(x[:, None], _draw(2, 1, 3, 3, 3), _draw(2), stride=(1, 2, 1)),
        lambda x: functional.conv_transpose2d(x, _draw(6, 4, 4, 3), stride=(2, 3), groups=2, dilation=(1, 2)),
        lambda x: torch.baddbmm(_draw(6, 1, 5), x[0], _draw(6, 7, 5), beta=2, alpha=0.5),
        lambda x: functional.scaled_dot_product_attention(x, x / 8, x, is_causal=True),
        lambda x: functional.scaled_dot_product_attention(x, x / 8, x, attn_mask=_draw(8, 8) > 0, scale=0.1),
    ],
)
def test_every_form_is_the_operation_but_for_rounding(operation) -> None:
    x = _draw(2, 6, 8, 7)
    exact, low = operation(x), _low(operation, x)
    assert low.shape == exact.shape
    torch.testing.assert_close(low, exact, rtol=4e-3, atol=4e-3 * float(exact.abs().max()))


def test_small_terms_are_lost_beside_a_large_sum() -> None:
    a = torch.cat([torch.full((1, 16), 128.0), torch.full((1, 4096), 0.25)], 1)
    ones = torch.ones(4112, 1)
    assert _low(torch.mm, a, ones, precision="fp16") == 3072
    assert _low(torch.mm, a, ones) == 3072  # 4 a chunk still counts beside 2048
    assert _low(torch.mm, torch.cat([16 * a[:, :16], a[:, 16:]], 1), ones) == 32768  # and is lost beside 32768
