"""Training steps written out by hand, one for each method: what a careful user would put into a loop of their own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

Loss = Callable[[Tensor], Tensor]
Step = Callable[[nn.Module, Tensor, Tensor, Tensor], None]
"""``(model, x, y, unlabelled x)``: leaves gradients on the model."""
EPS, ALPHA, STEPS = 8 / 255, 4 / 255, 5


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    model.eval()
    for p in model.parameters():
        p.requires_grad_(False)
    yield
    for p in model.parameters():
        p.requires_grad_(True)
    model.train()


def input_gradient(loss: Loss, z: Tensor) -> Tensor:
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z)
    return gradient


def ascended(loss: Loss, x: Tensor, z: Tensor, alpha: float, steps: int) -> Tensor:
    low, high = (x - EPS).clamp_(min=0), (x + EPS).clamp_(max=1)
    for _ in range(steps):
        z = input_gradient(loss, z).sign_().mul_(alpha).add_(z.detach()).clamp_(low, high)
    return z


def noise(x: Tensor) -> Tensor:
    return torch.empty_like(x).uniform_(-EPS, EPS).add_(x).clamp_(0, 1)


def kl(reference: Tensor, other: Tensor) -> Tensor:
    """Of log-probabilities and logits, summed."""
    return kl_div(other.log_softmax(1), reference, log_target=True, reduction="sum")


def supervised(model: nn.Module, y: Tensor) -> Loss:
    return lambda z: cross_entropy(model(z), y, reduction="sum")


def diverging(model: nn.Module, x: Tensor) -> Tensor:
    with frozen(model):
        with torch.no_grad():
            reference = model(x).log_softmax(1)
        return ascended(lambda z: kl(reference, model(z)), x, noise(x), ALPHA, STEPS)


# --- attacks --------------------------------------------------------------------------------------------


def plain(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    cross_entropy(model(x), y).backward()


def fgsm(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    with frozen(model):
        gradient = input_gradient(supervised(model, y), x.detach())
        moved = gradient.sign_().mul_(EPS).add_(x).clamp_(0, 1)
    (0.5 * cross_entropy(model(x), y) + 0.5 * cross_entropy(model(moved), y)).backward()


def pgd(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    with frozen(model):
        moved = ascended(supervised(model, y), x, noise(x), ALPHA, STEPS)
    cross_entropy(model(moved), y).backward()


def trades(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    moved = diverging(model, x)
    clean = model(x)
    (cross_entropy(clean, y) + 6 / len(x) * kl(clean.log_softmax(1), model(moved))).backward()


def vat(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    with frozen(model):
        with torch.no_grad():
            reference = model(x).log_softmax(1)
        g = input_gradient(lambda z: kl(reference, model(z)), x + 0.1 * unit(torch.randn_like(x)))
        moved = (x + unit(g)).clamp_(0, 1)
    clean = model(x)
    (cross_entropy(clean, y) + kl(clean.detach().log_softmax(1), model(moved)) / len(x)).backward()


def unit(v: Tensor) -> Tensor:
    return v / v.flatten(1).norm(dim=1).clamp_(min=1e-30).view(-1, *[1] * (v.ndim - 1))


def uat(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    moved_u, moved_x = diverging(model, u), diverging(model, x)
    clean = model(x)
    with torch.no_grad():
        on_u = model(u).log_softmax(1)
    both = kl(clean.detach().log_softmax(1), model(moved_x)) + kl(on_u, model(moved_u))
    (cross_entropy(clean, y) + 5 / (len(x) + len(u)) * both).backward()


def rst(model: nn.Module, x: Tensor, y: Tensor, u: Tensor, teacher: nn.Module) -> None:
    with torch.no_grad():
        labels = teacher(u).argmax(1)
    moved = diverging(model, u)
    on_u = model(u)
    divergence = kl(on_u.log_softmax(1), model(moved)) / len(u)
    (cross_entropy(model(x), y) + cross_entropy(on_u, labels) + 6 * divergence).backward()


class FreeAT:
    """Carries the perturbation."""

    def __init__(self) -> None:
        self.delta: Tensor | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
        if self.delta is None:
            self.delta = torch.empty_like(x).uniform_(-EPS, EPS)
        delta = self.delta.requires_grad_()
        cross_entropy(model((x + delta).clamp(0, 1)), y).backward()
        assert delta.grad is not None
        self.delta = delta.grad.sign_().mul_(EPS).add_(delta.detach()).clamp_(-EPS, EPS)


def freelb(model: Any, x: Tensor, y: Tensor, u: Tensor) -> None:
    with torch.no_grad():
        like = model.first(x)
    delta = torch.empty_like(like).uniform_(-0.6, 0.6) / like[0].numel() ** 0.5
    for t in range(2):
        delta = delta.detach().requires_grad_(t == 0)
        (cross_entropy(model.rest(model.first(x) + delta), y) / 2).backward()
        if t == 0:
            assert delta.grad is not None
            delta = delta.detach() + 0.1 * unit(delta.grad)


def yopo(model: Any, x: Tensor, y: Tensor, u: Tensor) -> None:
    z = noise(x)
    for k in range(3):
        hidden = model.first(z)
        hidden.retain_grad()
        (cross_entropy(model.rest(hidden), y) / 3).backward()
        if k < 2:
            for p in model.first.parameters():
                p.requires_grad_(False)
            adjoint = hidden.grad
            z = ascended(lambda m, p=adjoint: (model.first(m) * p).sum(), x, z, 2 / 255, 3)
            for p in model.first.parameters():
                p.requires_grad_(True)


# --- mixtures, heads and augmentation -------------------------------------------------------------------


def mixed(model: nn.Module, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    lam = random.betavariate(alpha, alpha)
    order = torch.randperm(len(x))
    outputs = model(torch.lerp(x.index_select(0, order), x, lam))  # a third of the time of x[order]
    return lam * cross_entropy(outputs, y) + (1 - lam) * cross_entropy(outputs, y[order])


def mixup(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    mixed(model, x, y, 0.2).backward()


def regmixup(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    (cross_entropy(model(x), y) + mixed(model, x, y, 10.0)).backward()


def cutmix(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    order, (h, w) = torch.randperm(len(x)), x.shape[2:]
    side = (1 - random.random()) ** 0.5
    top, left = (random.randrange(n) - int(n * side) // 2 for n in (h, w))
    rows, columns = slice(max(top, 0), top + int(h * side)), slice(max(left, 0), left + int(w * side))
    pasted = x.clone()
    pasted[:, :, rows, columns] = x[:, :, rows, columns].index_select(0, order)
    lam = 1 - pasted[0, 0, rows, columns].numel() / (h * w)
    outputs = model(pasted)
    (lam * cross_entropy(outputs, y) + (1 - lam) * cross_entropy(outputs, y[order])).backward()


def rotation(model: Any, x: Tensor, y: Tensor, u: Tensor) -> None:
    turned = torch.cat([x.rot90(k, (2, 3)) for k in range(4)])
    kinds = torch.arange(4).repeat_interleave(len(x))
    on_head = cross_entropy(model.rotation(model.penultimate(turned)), kinds)
    (cross_entropy(model(x), y) + 0.5 * on_head).backward()


def input_noise(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    sizes = 4 / 255 * torch.rand(len(x), 1, 1, 1)
    cross_entropy(model((x + sizes * torch.randn_like(x)).clamp(0, 1)), y).backward()


# --- weights --------------------------------------------------------------------------------------------


@contextmanager
def moved(parameters: Sequence[Tensor], delta: Sequence[Tensor]) -> Iterator[None]:
    own = [p.data for p in parameters]
    for p, d in zip(parameters, delta, strict=True):
        p.data = p.data + d
    yield
    for p, data in zip(parameters, own, strict=True):
        p.data = data


def sam(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    parameters = list(model.parameters())
    found = torch.autograd.grad(cross_entropy(model(x), y), parameters)
    scale = 0.05 / torch.stack(torch._foreach_norm(found)).norm()
    with moved(parameters, torch._foreach_mul(found, scale)):
        cross_entropy(model(x), y).backward()


def awp(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    parameters = list(model.parameters())
    found = torch.autograd.grad(cross_entropy(model(x), y), parameters)
    pairs = [(p, g) for p, g in zip(parameters, found, strict=True) if p.ndim > 1]
    with moved([p for p, _ in pairs], [g * (0.01 * p.detach().norm() / g.norm()) for p, g in pairs]):
        cross_entropy(model(x), y).backward()


def weight_noise(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    weights = [p for p in model.parameters() if p.ndim > 1]
    sizes = [0.01 / p.numel() ** 0.5 * p.detach().norm() for p in weights]
    with moved(weights, [torch.randn_like(p) * size for p, size in zip(weights, sizes, strict=True)]):
        cross_entropy(model(x), y).backward()


def steps(teacher: nn.Module) -> dict[str, Step]:
    """By the names of `measure.METHODS`."""
    return {
        "plain": plain, "fgsm": fgsm, "pgd": pgd, "trades": trades, "vat": vat, "uat": uat,
        "rst": partial(rst, teacher=teacher), "freeat": FreeAT(), "freelb": freelb, "yopo": yopo, "mixup": mixup,
        "regmixup": regmixup, "cutmix": cutmix, "rotation": rotation, "input_noise": input_noise,
        "sam": sam, "awp": awp, "weight_noise": weight_noise,
    }  # fmt: skip
