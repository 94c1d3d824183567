"""The attacks of the standard ensemble written out for one sample at a time; slow, and easy to check by eye.

``value`` maps one sample to a number (a tensor of shape ()), ``gradient`` to its gradient. Everything is in stored
values, of which the valid range is 0..1.
"""

from __future__ import annotations

import math

import torch


def gradient_at(value, z):
    z = z.clone().requires_grad_()
    value(z).backward()
    return z.grad


def project(z, x, eps, norm):
    delta = z - x
    if norm == "linf":
        delta = delta.clamp(-eps, eps)
    elif delta.norm() > eps:
        delta = delta * eps / delta.norm()
    return (x + delta).clamp(0, 1)


def apgd(value, x, start, eps, steps, norm, rho=0.75):
    """The point of highest value, after the published code."""
    checkpoints, p = [], [0.0, 0.22]
    while p[-1] <= 1:
        checkpoints.append(math.ceil(round(p[-1] * steps, 6)))
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    z, old, eta = start, start, 2 * eps
    values = [value(z)]
    best, best_value, best_gradient = z, values[0], gradient_at(value, z)
    gradient = best_gradient
    halved, value_at_check, last_check = True, best_value, 0
    for k in range(steps):
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        ahead = project(z + eta * direction, x, eps, norm)
        a = 0.75 if k else 1.0
        z, old = project(z + a * (ahead - z) + (1 - a) * (z - old), x, eps, norm), z
        values.append(value(z))
        gradient = gradient_at(value, z)
        if values[-1] > best_value:
            best, best_value, best_gradient = z, values[-1], gradient
        if k + 1 in checkpoints:
            rises = sum(b > a for a, b in zip(values[last_check:], values[last_check + 1 :], strict=False))
            slow = rises <= rho * (k + 1 - last_check)
            stuck = not halved and best_value <= value_at_check
            halved, value_at_check, last_check = slow or stuck, best_value, k + 1
            if halved:
                eta, z, gradient = eta / 2, best, best_gradient
    return best


def nearest_on(slope, gap, down, up, norm):
    """Smallest d with ``slope . d = gap`` in a box, by bisection over how far every element goes."""
    direction = slope.sign() * math.copysign(1, gap) if gap else torch.zeros_like(slope)
    room = torch.where(direction > 0, up, down)
    speed = torch.ones_like(slope) if norm == "linf" else slope.abs()
    closes = lambda scale: float((slope.abs() * (scale * speed).minimum(room)).sum())  # noqa: E731 - used here alone
    low, high = 0.0, 1.0
    while closes(high) < abs(gap):
        high *= 2
        if high > 1e12:
            return direction * room
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if closes(middle) < abs(gap) else (low, middle)
    return direction * (high * speed).minimum(room)


def fab(difference, wrong, x, steps, norm, alpha_max=0.1, eta=1.05, beta=0.9):
    """The nearest misclassified point and its distance; ``difference`` is ``z_t - z_y``, ``wrong`` the verdict."""
    length = (lambda d: d.abs().max()) if norm == "linf" else (lambda d: d.norm())
    z, best, distance = x.clone(), x, float("inf")
    for _ in range(steps):
        f, slope = difference(z).item(), gradient_at(difference, z)
        near = nearest_on(slope, -f, z, 1 - z, norm)
        far = nearest_on(slope, -f + float((slope * (z - x)).sum()), x, 1 - x, norm)
        a1, a2 = (max(float(length(d)), 1e-8) for d in (near, far))
        pull = min(a1 / (a1 + a2), alpha_max)
        z = ((1 - pull) * (z + eta * near) + pull * (x + eta * far)).clamp(0, 1)
        if wrong(z):
            if float(length(z - x)) < distance:
                best, distance = z, float(length(z - x))
            z = x + beta * (z - x)
    return best, distance


def square_linf(margin, x, start, eps, windows, signs):
    """Random search over given windows and signs: one sample (C, H, W)."""
    z, best = start, margin(start)
    for (rows, columns), sign in zip(windows, signs, strict=True):
        proposal = z.clone()
        for channel in range(len(x)):
            proposal[channel, rows, columns] += 2 * eps * float(sign[channel])
        proposal = project(proposal, x, eps, "linf")
        if margin(proposal) > best:
            z, best = proposal, margin(proposal)
    return z
