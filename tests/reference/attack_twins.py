"""Attacks written out for one sample at a time with NumPy-like plainness; slow, and easy to check by eye."""

from __future__ import annotations

import torch


def gradient_of_one(loss, x, i):
    """Gradient of sample i's loss alone; ``loss`` maps a batch to one value a sample."""
    z = x.clone().requires_grad_()
    loss(z)[i].backward()
    return z.grad[i]


def ascend_one(x0, z, g, eps, step, norm, low, high):
    """One projected ascent step of one sample, everything in stored values."""
    if norm == "linf":
        z = z + step * torch.sign(g)
        z = torch.minimum(torch.maximum(z, x0 - eps), x0 + eps)
    else:
        z = z + step * g / g.norm()
        delta = z - x0
        if delta.norm() > eps:
            delta = delta * eps / delta.norm()
        z = x0 + delta
    return z.clamp(low, high)


def fgsm(loss, x, eps, norm="linf", low=0.0, high=1.0):
    return torch.stack([
        ascend_one(x[i], x[i], gradient_of_one(loss, x, i), eps, eps, norm, low, high) for i in range(len(x))
    ])  # fmt: skip


def pgd(loss, x, start, eps, alpha, steps, norm="linf", low=0.0, high=1.0):
    z = start.clone()
    for _ in range(steps):
        z = torch.stack([
            ascend_one(x[i], z[i], gradient_of_one(loss, z, i), eps, alpha, norm, low, high) for i in range(len(x))
        ])  # fmt: skip
    return z
