"""SAM, ASAM and AWP as two backward passes that move the weights by hand and put them back."""

from __future__ import annotations

import torch


def _moved_gradient(net, loss, delta):
    """Leaves on ``net`` the gradient at the weights plus ``delta``; the loss there."""
    with torch.no_grad():
        for p, d in zip(net.parameters(), delta, strict=True):
            p += d
    for p in net.parameters():
        p.grad = None
    value = loss()
    value.backward()
    with torch.no_grad():
        for p, d in zip(net.parameters(), delta, strict=True):
            p -= d
    return value


def sam(net, loss, rho, adaptive=False, eta=0.01):
    for p in net.parameters():
        p.grad = None
    loss().backward()
    scale = [p.detach().abs() + eta if adaptive else torch.ones_like(p) for p in net.parameters()]
    norm = torch.sqrt(sum((t * p.grad).pow(2).sum() for t, p in zip(scale, net.parameters(), strict=True)))
    delta = [rho * t * t * p.grad / norm for t, p in zip(scale, net.parameters(), strict=True)]
    return _moved_gradient(net, loss, delta)


def awp(net, loss, gamma):
    for p in net.parameters():
        p.grad = None
    loss().backward()
    delta = [
        gamma * p.detach().norm() * p.grad / p.grad.norm() if p.ndim > 1 else torch.zeros_like(p)
        for p in net.parameters()
    ]
    return _moved_gradient(net, loss, delta)
