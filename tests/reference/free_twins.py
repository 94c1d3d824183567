"""FreeLB, YOPO and FreeAT as loops that call ``backward`` themselves and accumulate in ``.grad``."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def freelb(net, batch, start, steps, step, max_norm):
    """Leaves the accumulated gradients on the net; ``start`` is the first perturbation of the embeddings."""
    total, delta = 0.0, start.clone()
    state = torch.get_rng_state()
    for t in range(steps):
        torch.set_rng_state(state)
        delta = delta.detach().requires_grad_()
        words = net.dropout(net.embedding(batch["tokens"]) + delta)
        words = torch.tanh(net.mix(words)) * batch["mask"][..., None]
        logits = net.head(words.sum(1) / batch["mask"].sum(1, keepdim=True))
        loss = cross_entropy(logits, batch["y"]) / steps
        loss.backward()
        total += loss.item()
        if t < steps - 1:
            g = delta.grad * batch["mask"][..., None]
            delta = delta.detach() + step * g / g.flatten(1).norm(dim=1)[:, None, None]
            if max_norm > 0:
                norm = delta.flatten(1).norm(dim=1)[:, None, None]
                delta = torch.where(norm > max_norm, delta * max_norm / norm, delta)
    return total


def yopo(net, x, y, start, first, rest, eps, alpha, outer, inner):
    """Leaves the mean gradients on the net; ``net`` is ``rest`` after ``first``."""
    total, z = 0.0, start.clone()
    for _ in range(outer):
        hidden = first(z)
        hidden.retain_grad()
        loss = cross_entropy(rest(hidden), y) / outer
        loss.backward()
        total += loss.item()
        p = hidden.grad.detach()
        for _ in range(inner):
            z = z.detach().requires_grad_()
            (g,) = torch.autograd.grad((first(z) * p).sum(), z)
            z = (z + alpha * g.sign()).detach()
            z = torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
    return total


def freeat(net, optimiser, batches, start, eps, replays):
    """Trains on each batch ``replays`` times; the losses of all passes."""
    losses, delta = [], start.clone()
    for x, y in batches:
        for _ in range(replays):
            moving = delta.detach().requires_grad_()
            optimiser.zero_grad()
            loss = cross_entropy(net((x + moving).clamp(0, 1)), y)
            loss.backward()
            delta = (delta + eps * moving.grad.sign()).clamp(-eps, eps)
            optimiser.step()
            losses.append(loss.item())
    return losses
