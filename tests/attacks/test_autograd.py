from __future__ import annotations

import pytest
import torch
from torch import Tensor

from holdfast.attacks import autograd
from holdfast.attacks.autograd import accumulate, gradients, weighted_mean


class Sub(Tensor):
    """A tensor of somebody else's kind, for which torch's own functions have to be asked."""


@pytest.fixture(params=["engine", "public", "subclass"])
def kind(request, monkeypatch):
    if request.param == "public":
        monkeypatch.setattr(autograd, "_run", None)  # as in a torch that does not have it
    elif request.param == "subclass":
        enter = autograd._run

        def for_plain_tensors_only(outputs, *rest, **options):
            assert all(type(y) is Tensor for y in outputs)
            return enter(outputs, *rest, **options)

        monkeypatch.setattr(autograd, "_run", for_plain_tensors_only)
    return request.param


def graph(kind):
    torch.manual_seed(0)
    a, b, unused = (torch.rand(4, 3).requires_grad_() for _ in range(3))
    outputs = [(a * b).sum(1), a.exp().sum()]
    outputs = [y.as_subclass(Sub) for y in outputs] if kind == "subclass" else outputs
    return outputs, [a, b, unused], [torch.rand(4), torch.tensor(0.5)]


def test_gradients_are_those_of_torch(kind):
    outputs, inputs, given = graph(kind)
    expected = torch.autograd.grad(outputs, inputs, given, allow_unused=True)
    outputs, inputs, given = graph(kind)
    found = gradients(outputs, inputs, given)
    assert found[2] is None
    assert all(torch.equal(f, e) for f, e in zip(found[:2], expected[:2], strict=True))
    assert all(x.grad is None for x in inputs)


def test_accumulates_like_torch_and_takes_leaves_as_outputs(kind):
    outputs, inputs, given = graph(kind)
    torch.autograd.backward(outputs, given)
    expected = [x.grad for x in inputs]
    outputs, inputs, given = graph(kind)
    for x in inputs:
        x.grad = torch.ones_like(x)
    accumulate([*outputs, inputs[0], inputs[2]], [*given, 2 * torch.ones(4, 3), 3 * torch.ones(4, 3)])
    torch.testing.assert_close([x.grad for x in inputs], [3 + expected[0], 1 + expected[1], torch.full((4, 3), 4.0)])


@pytest.mark.parametrize("loss", [torch.rand(5), torch.rand(()), torch.rand(2, 3), torch.rand(5).half(), torch.ones(0)])
def test_the_weighted_mean_and_its_gradient(loss):
    loss = loss.requires_grad_()
    value, share = weighted_mean(loss, 0.3)
    assert not value.requires_grad
    if loss.numel():
        expected = 0.3 * loss.mean()
        torch.testing.assert_close(value, expected.detach())
        torch.testing.assert_close(share, torch.autograd.grad(expected, loss)[0])
    else:
        assert value.isnan()
        assert share.shape == (0,)
