"""Training steps written out by hand, one for each method: what a careful user would put into a loop of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
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


def ascended(loss: Loss, x: Tensor, z: Tensor, alpha: float, steps: int) -> Tensor:
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z), z)
        z = z.detach() + alpha * gradient.sign()
        z = torch.minimum(torch.maximum(z, x - EPS), x + EPS).clamp(0, 1)
    return z


def noise(x: Tensor) -> Tensor:
    return (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


def kl(reference: Tensor, other: Tensor) -> Tensor:
    return kl_div(other.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="none").sum(1)


def supervised(model: nn.Module, y: Tensor) -> Loss:
    return lambda z: cross_entropy(model(z), y, reduction="sum")


def diverging(model: nn.Module, x: Tensor) -> Tensor:
    with frozen(model):
        with torch.no_grad():
            reference = model(x)
        return ascended(lambda z: kl(reference, model(z)).sum(), x, noise(x), ALPHA, STEPS)


# --- attacks --------------------------------------------------------------------------------------------


def plain(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    cross_entropy(model(x), y).backward()


def fgsm(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    with frozen(model):
        moved = ascended(supervised(model, y), x, x, EPS, 1)
    (0.5 * cross_entropy(model(x), y) + 0.5 * cross_entropy(model(moved), y)).backward()


def pgd(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    with frozen(model):
        moved = ascended(supervised(model, y), x, noise(x), ALPHA, STEPS)
    cross_entropy(model(moved), y).backward()


def trades(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    moved = diverging(model, x)
    clean = model(x)
    (cross_entropy(clean, y) + 6 * kl(clean, model(moved)).mean()).backward()


def vat(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    with frozen(model):
        with torch.no_grad():
            reference = model(x)
        d = torch.randn_like(x)
        probe = (x + 0.1 * d / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).requires_grad_()
        (g,) = torch.autograd.grad(kl(reference, model(probe)).sum(), probe)
        moved = (x + g / g.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)).clamp(0, 1)
    clean = model(x)
    (cross_entropy(clean, y) + kl(clean.detach(), model(moved)).mean()).backward()


def uat(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    moved_u, moved_x = diverging(model, u), diverging(model, x)
    clean, on_u = model(x), model(u)
    both = torch.cat([kl(clean.detach(), model(moved_x)), kl(on_u.detach(), model(moved_u))])
    (cross_entropy(clean, y) + 5 * both.mean()).backward()


def rst(model: nn.Module, x: Tensor, y: Tensor, u: Tensor, teacher: nn.Module) -> None:
    with torch.no_grad():
        labels = teacher(u).argmax(1)
    moved = diverging(model, u)
    on_u = model(u)
    (cross_entropy(model(x), y) + cross_entropy(on_u, labels) + 6 * kl(on_u, model(moved)).mean()).backward()


class FreeAT:
    """Carries the perturbation."""

    def __init__(self) -> None:
        self.delta: Tensor | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
        if self.delta is None:
            self.delta = EPS * (2 * torch.rand_like(x) - 1)
        delta = self.delta.requires_grad_()
        cross_entropy(model((x + delta).clamp(0, 1)), y).backward()
        assert delta.grad is not None
        self.delta = (delta.detach() + EPS * delta.grad.sign()).clamp(-EPS, EPS)


def freelb(model: Any, x: Tensor, y: Tensor, u: Tensor) -> None:
    with torch.no_grad():
        like = model.first(x)
    delta = 0.6 * (2 * torch.rand_like(like) - 1) / like[0].numel() ** 0.5
    for t in range(2):
        delta = delta.detach().requires_grad_(t == 0)
        (cross_entropy(model.rest(model.first(x) + delta), y) / 2).backward()
        if t == 0:
            assert delta.grad is not None
            norm = delta.grad.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, *[1] * (delta.ndim - 1))
            delta = delta.detach() + 0.1 * delta.grad / norm


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
    lam = torch.distributions.Beta(alpha, alpha).sample()
    order = torch.randperm(len(x))
    outputs = model(torch.lerp(x[order], x, lam))
    return lam * cross_entropy(outputs, y) + (1 - lam) * cross_entropy(outputs, y[order])


def mixup(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    mixed(model, x, y, 0.2).backward()


def regmixup(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    (cross_entropy(model(x), y) + mixed(model, x, y, 10.0)).backward()


def cutmix(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    lam, order, (h, w) = float(torch.rand(())), torch.randperm(len(x)), x.shape[2:]
    side = (1 - lam) ** 0.5
    top, left = (int(torch.randint(n, ())) - int(n * side) // 2 for n in (h, w))
    rows, columns = slice(max(top, 0), top + int(h * side)), slice(max(left, 0), left + int(w * side))
    pasted = x.clone()
    pasted[:, :, rows, columns] = x[order][:, :, rows, columns]
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


def at_other_weights(delta_of: Callable[[Mapping[str, Tensor], tuple[Tensor, ...]], dict[str, Tensor]]) -> Step:
    def step(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
        parameters = dict(model.named_parameters())
        found = torch.autograd.grad(cross_entropy(model(x), y), list(parameters.values()))
        delta = delta_of(parameters, found)
        moved = {name: p + delta[name] if name in delta else p for name, p in parameters.items()}
        cross_entropy(functional_call(model, moved, (x,)), y).backward()

    return step


def sam_delta(parameters: Mapping[str, Tensor], found: tuple[Tensor, ...]) -> dict[str, Tensor]:
    scale = 0.05 / torch.stack([g.square().sum() for g in found]).sum().sqrt()
    return {name: scale * g for name, g in zip(parameters, found, strict=True)}


def awp_delta(parameters: Mapping[str, Tensor], found: tuple[Tensor, ...]) -> dict[str, Tensor]:
    pairs = zip(parameters.items(), found, strict=True)
    return {name: g * (0.01 * p.detach().norm() / g.norm()) for (name, p), g in pairs if g.ndim > 1}


def weight_noise(model: nn.Module, x: Tensor, y: Tensor, u: Tensor) -> None:
    parameters = dict(model.named_parameters())
    moved = {
        name: p + 0.01 * p.detach().square().mean().sqrt() * torch.randn_like(p) if p.ndim > 1 else p
        for name, p in parameters.items()
    }
    cross_entropy(functional_call(model, moved, (x,)), y).backward()


def steps(teacher: nn.Module) -> dict[str, Step]:
    """By the names of `measure.METHODS`."""
    return {
        "plain": plain, "fgsm": fgsm, "pgd": pgd, "trades": trades, "vat": vat, "uat": uat,
        "rst": partial(rst, teacher=teacher), "freeat": FreeAT(), "freelb": freelb, "yopo": yopo, "mixup": mixup,
        "regmixup": regmixup, "cutmix": cutmix, "rotation": rotation, "input_noise": input_noise,
        "sam": at_other_weights(sam_delta), "awp": at_other_weights(awp_delta), "weight_noise": weight_noise,
    }  # fmt: skip
