from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from holdfast.deploy.reverse_rules import reverse_rules

aten = torch.ops.aten


@settings(deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), size=st.tuples(st.integers(5, 14), st.integers(5, 14)),
    inputs=st.sampled_from([3, 8]), dilation=st.integers(1, 2), groups=st.sampled_from([1, 1, 2]),
)  # fmt: skip
def test_a_convolution_says_its_gradient_for_every_geometry(kernel, stride, padding, size, inputs, dilation, groups):
    inputs -= inputs % groups
    if any(dilation * (k - 1) + 1 > n + 2 * p for k, n, p in zip(kernel, size, padding, strict=True)):
        return
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, inputs, *size, generator=draws, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, inputs // groups, *kernel, generator=draws, dtype=torch.float64)
    y = torch.conv2d(x, weight, None, stride, padding, dilation, groups)
    gradient = torch.randn(y.shape, generator=draws, dtype=torch.float64)
    (expected,) = torch.autograd.grad(y, x, gradient)
    geometry = ([stride] * 2, list(padding), [dilation] * 2, False, [0, 0], groups)
    rule = reverse_rules()[aten.convolution_backward.default]
    found, *others = rule(gradient, x.detach(), weight, None, *geometry, [True, False, False])
    torch.testing.assert_close(found, expected)
    assert others == [None, None]


def test_a_transposed_convolution_and_another_number_of_dimensions():
    rule = reverse_rules()[aten.convolution_backward.default]
    for dimensions, transposed in ((1, False), (3, False), (2, True)):
        x = torch.randn(2, 3, *[7] * dimensions, dtype=torch.float64, requires_grad=True)
        shape = (3, 4) if transposed else (4, 3)
        weight = torch.randn(*shape, *[3] * dimensions, dtype=torch.float64)
        geometry = ([2] * dimensions, [1] * dimensions, [1] * dimensions, transposed, [0] * dimensions, 1)
        y = aten.convolution(x, weight, None, *geometry)
        gradient = torch.randn_like(y)
        (expected,) = torch.autograd.grad(y, x, gradient)
        torch.testing.assert_close(
            rule(gradient, x.detach(), weight, None, *geometry, [True, False, False])[0], expected
        )


@pytest.mark.parametrize("function", [
    torch.relu, nn.Threshold(0.3, 0.0), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.GELU(),
    nn.Softmax(1),
])  # fmt: skip
def test_a_traced_way_back_is_the_way_back(function):
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    ones = torch.randn_like(function(x))

    def back(x, cotangent):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x, cotangent)[0]

    traced = make_fx(back, reverse_rules())(x, ones)
    torch.testing.assert_close(traced(x, ones), back(x, ones))
    left = {str(node.target) for node in traced.graph.nodes if "backward" in str(node.target)}
    assert left == set()
