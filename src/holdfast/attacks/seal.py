"""What every attack promises, kept in one place: the budget, the valid range, and a model left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Generator, Tensor, nn

from holdfast.attacks.aim import Aim
from holdfast.attacks.autograd import gradients
from holdfast.attacks.geometry import Ball, Budget
from holdfast.attacks.samples import Norm
from holdfast.core.contracts import Attack
from holdfast.core.errors import InputError, NoEffectError
from holdfast.core.space import Leaf

__all__ = [
    "BNDuringAttack", "Ball", "Budget", "Norm", "crafting", "gradient_of", "input_gradient",
    "modules_of", "perturb", "trained_in",
]  # fmt: skip

BNDuringAttack: TypeAlias = Literal["eval", "train", "frozen"]


@overload
def perturb(
    attack: Attack, loss: Callable[[Tensor], Tensor], x: Tensor, leaf: Leaf, generator: Generator,
    model: nn.Module | None = ..., bn_during_attack: BNDuringAttack = ..., report: dict[str, Tensor] | None = ...,
) -> Tensor: ...  # fmt: skip
@overload
def perturb(
    attack: Attack, loss: Callable[[dict[str, Tensor]], Tensor], x: Mapping[str, Tensor], leaf: Mapping[str, Leaf],
    generator: Generator, model: nn.Module | None = ..., bn_during_attack: BNDuringAttack = ...,
    report: dict[str, Tensor] | None = ...,
) -> dict[str, Tensor]: ...  # fmt: skip
def perturb(attack: Attack, loss: Callable[[Any], Tensor], x: Any, leaf: Any, generator: Generator,
            model: nn.Module | None = None, bn_during_attack: BNDuringAttack = "eval",
            report: dict[str, Tensor] | None = None) -> Any:  # fmt: skip
    """Adversarial inputs within the attack's budget; the only way in which holdfast calls an attack.

    Promises, whatever ``attack.craft`` does: the result lies in the `Ball`, shares no memory with ``x`` and carries
    no graph; ``x`` is unchanged; parameters have no new gradient, and none is computed; modes and buffers (BatchNorm
    statistics) of ``model`` are as before; ``eps`` 0 returns equal values. Nothing in here waits for the device.

    Args:
        attack: a plug-in of ``attacks/``.
        loss: ``x -> Tensor (B,)``, the loss to raise; called with a dict when ``x`` is a dict. A scalar is accepted
            by attacks that need only its gradient. An `Aim` says more: classes, and what counts as broken.
        x: float (B, ...), or such tensors by path, perturbed jointly.
        leaf: the declaration of ``x``, or one for each path.
        generator: of every random draw.
        model: the module inside ``loss``, whose mode is set while crafting; None leaves modes alone.
        bn_during_attack: ``"eval"`` (default) crafts on the model as it is deployed; ``"train"`` with batch
            statistics and dropout as in training; ``"frozen"`` in training mode with normalisation in eval mode.
        report: receives ``zero_gradient``, an int tensor (): samples whose first gradient was zero or not finite.

    Raises:
        NoEffectError: the loss does not depend on ``x``.
        InputError: a negative budget, an integer tensor, leaves without a batch dimension in common.
    """
    if isinstance(x, Tensor):
        ball = Ball.around(x, eps=attack.eps, norm=attack.norm, leaf=leaf)
        return _craft(attack, loss, ball, generator, model, bn_during_attack, report)
    balls = {
        path: Ball.around(value, eps=_budget_of(attack.eps, path), norm=attack.norm, leaf=leaf[path])
        for path, value in x.items()
    }
    if len(balls) == 1:  # a joint tensor would cost a copy and the memory format
        [(path, ball)] = balls.items()
        single = _through(loss, lambda z: {path: z})
        return {path: _craft(attack, single, ball, generator, model, bn_during_attack, report)}
    if len({len(ball.x) for ball in balls.values()}) != 1:
        sizes = {path: tuple(ball.x.shape) for path, ball in balls.items()}
        raise InputError(f"leaves {sizes} do not share a batch dimension", where="attack")
    joint = Ball.joined(list(balls.values()))
    joined = _through(loss, lambda z: _split(z, balls))
    crafted = _craft(attack, joined, joint, generator, model, bn_during_attack, report)
    return _split(crafted, balls)


def _craft(
    attack: Attack, loss: Callable[[Tensor], Tensor], ball: Ball, generator: Generator, model: nn.Module | None,
    bn_during_attack: BNDuringAttack, report: dict[str, Tensor] | None,
) -> Tensor:  # fmt: skip
    watched = loss if report is None else _watch(loss, report)
    with torch.enable_grad(), nullcontext() if model is None else crafting(model, bn_during_attack):
        crafted = attack.craft(watched, ball.x.clone(), ball, generator)
    if ball.vouches_for(crafted):
        return crafted
    with torch.no_grad():
        # A gradient that overflowed must not cost the promise; the report and the loss show it.
        return ball.project(crafted.detach().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))


def _budget_of(eps: Any, path: str) -> Any:
    if not isinstance(eps, Mapping):
        return eps
    if path not in eps:
        raise InputError(f"eps has no budget for leaf {path!r}", where="attack", fix=f"add it to {sorted(eps)}")
    return eps[path]


def _split(z: Tensor, balls: Mapping[str, Ball]) -> dict[str, Tensor]:
    """The leaves of a joint tensor (n, elements), shaped as they were, for all samples or some of them."""
    parts = torch.split(z, [ball.x[0].numel() for ball in balls.values()], dim=1)
    return {
        path: part.reshape(-1, *ball.x.shape[1:]).to(ball.x.dtype)
        for part, (path, ball) in zip(parts, balls.items(), strict=True)
    }


def _watch(loss: Callable[[Tensor], Tensor], report: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """``loss`` with an eye on the first gradient that flows back to its input, of several runs to that of the first."""

    def record(gradient: Tensor, runs: int) -> None:
        if "zero_gradient" not in report:
            first = gradient.detach()[: len(gradient) // runs]
            size = first.abs().flatten(1).amax(dim=1)
            report["zero_gradient"] = (~((size > 0) & (size < torch.inf))).sum()

    def watch(z: Tensor, runs: int = 1) -> None:
        if z.requires_grad and "zero_gradient" not in report:
            z.register_hook(lambda gradient: record(gradient, runs))  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def watched(z: Tensor) -> Tensor:
        watch(z)
        return loss(z)

    report.pop("zero_gradient", None)
    return replace(loss, watch=watch) if isinstance(loss, Aim) else watched


def _through(loss: Callable[[Any], Tensor], view: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """``loss`` as a function of a tensor of which ``view`` makes its argument; an `Aim` stays one."""
    return loss.through(view) if isinstance(loss, Aim) else lambda z: loss(view(z))


def input_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of the summed loss with respect to ``x`` alone; no weight gradient is computed.

    Raises:
        NoEffectError: the loss does not depend on ``x``.
    """
    x = x.detach().requires_grad_()
    return gradient_of(loss(x), x)


def gradient_of(value: Tensor, x: Tensor) -> Tensor:
    """Gradient of the sum of ``value`` with respect to ``x``, from which it was computed.

    Raises:
        NoEffectError: it does not depend on ``x``.
    """
    gradient = gradients((value,), (x,), (torch.ones_like(value),))[0] if value.requires_grad else None
    if gradient is None:
        raise NoEffectError("the loss does not depend on the attacked tensor", where="attack",
                            fix="attack a leaf that the model reads, and do not detach it on the way")  # fmt: skip
    return gradient


def crafting(model: nn.Module, bn_during_attack: BNDuringAttack = "eval", *,
             freeze: bool = True) -> AbstractContextManager[None]:  # fmt: skip
    """``model`` in the mode for crafting, and frozen; modes, buffers and ``requires_grad`` come back as they were.

    Args:
        model: what is attacked.
        bn_during_attack: see `perturb`.
        freeze: False where nothing in the block asks for a gradient.

    Raises:
        InputError: an unknown mode.
    """
    if bn_during_attack not in ("eval", "train", "frozen"):
        raise InputError(f"unknown bn_during_attack {bn_during_attack!r}", fix="use 'eval', 'train' or 'frozen'")
    return _Crafting(model, bn_during_attack, freeze=freeze)


class _Crafting(AbstractContextManager[None]):
    """What `crafting` sets and puts back."""

    def __init__(self, model: nn.Module, bn_during_attack: BNDuringAttack, *, freeze: bool) -> None:
        modules = modules_of(model)
        self._trained = trained_in(modules) if freeze else []
        quiet = [module for module in modules if module.training and not _trains(module, bn_during_attack)]
        # An overridden train() may do more than change the mode, e.g. merge weights; and torch's own way to set an
        # attribute searches among parameters and modules first.
        self._plain = [vars(module) for module in quiet if type(module).__setattr__ is nn.Module.__setattr__]
        self._others = [] if len(self._plain) == len(quiet) else [
            module for module in quiet if type(module).__setattr__ is not nn.Module.__setattr__
        ]  # fmt: skip
        self._copied = [] if bn_during_attack == "eval" else modules
        self._buffers: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        try:
            self._buffers = _replace_buffers(self._copied)
            self._set(active=True)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._set(active=False)
        for module, name, buffer in self._buffers:
            module._buffers[name] = buffer

    def _set(self, *, active: bool) -> None:
        for attributes in self._plain:
            attributes["training"] = not active
        for module in self._others:
            module.training = not active
        for parameter in self._trained:
            parameter.requires_grad_(not active)


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module once; `torch.nn.Module.modules` nests a generator for each level, which takes five times as long."""
    found, seen = [model], {model}
    for module in found:  # grows while it is walked
        for inner in module._modules.values():
            if inner is not None and inner not in seen:
                seen.add(inner)
                found.append(inner)
    return found


def trained_in(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Their own parameters that require a gradient, every one once."""
    found = {id(p): p for module in modules for p in module._parameters.values() if p is not None and p.requires_grad}
    return list(found.values())


def _trains(module: nn.Module, bn_during_attack: BNDuringAttack) -> bool:
    if bn_during_attack == "eval":
        # cuDNN has no backward for a recurrent layer in eval mode; without dropout the two modes agree.
        return isinstance(module, nn.RNNBase) and module.dropout == 0
    return bn_during_attack == "train" or not isinstance(module, nn.modules.batchnorm._NormBase)


def _replace_buffers(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, str, Tensor]]:
    """Put copies in the place of all buffers; copying back would break graphs that are still to be differentiated."""
    originals = []
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                originals.append((module, name, buffer))
                module._buffers[name] = buffer.clone()
    return originals
