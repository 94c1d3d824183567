"""Low-precision training of any model: weights, activations, errors, gradients, momentum and accumulator (SWALP)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from holdfast.core.errors import ClashError, InputError, NoEffectError, nearest
from holdfast.surgery.number_format import BlockFloat, Blocks, FixedPoint, Format, Rounding
from holdfast.surgery.tapped import evaluating, last_layer

__all__ = ["LowPrecision"]

ROLES = ("weight", "activation", "error", "gradient", "momentum", "accumulator")
_FULL = 32
_MOMENTA = ("momentum_buffer", "exp_avg")


@dataclass(frozen=True, kw_only=True)
class LowPrecision:
    """Training in low precision, emulated on fp32: what every number of a step would be in hardware.

    ``u = momentum v + Q(gradient); a <- Q(a - lr u); v <- Q(u); w <- Q(a)``, with inputs of every layer rounded on the
    way forward and errors on the way back: whatever is kept is rounded, the sum inside one update is not. Average the
    iterates in high precision for SWALP: ``SWA(...)`` observing the model, started after warm-up. Yang et al. 2019,
    algorithm 2.

    `apply` marks the layers; `attach` does the same to the optimiser; `strip` leaves an ordinary fp32 model. In eval
    mode activations are rounded to the nearest. Rounding by chance draws from torch's global generator.

    Args:
        bits: word length of everything. Default 8.
        bits_of: exceptions by role (``weight``, ``activation``, ``error``, ``gradient``, ``momentum``,
            ``accumulator``); 32 leaves a role in fp32.
        number: ``block`` floating point (default) or ``fixed`` point.
        fraction_bits: behind the point, for fixed point. Default 6.
        rounding: ``stochastic`` (default) or ``nearest``, which loses every update below half a step.
        weight_blocks: exponents of weights, gradients, momentum and accumulator. Default ``first``: one per output
            channel; ``tensor``: one for all.
        activation_blocks: exponents of activations and errors. Default ``tensor``; ``first``: one per sample;
            ``second``: one per channel.
        round_logits_error: also round the error that enters the last layer from the loss. Default off, as published.

    Raises:
        InputError: an unknown role or a word length outside 2 to 24 bits.

    Example:
        >>> low = LowPrecision(bits=8)
        >>> model = low.apply(model, (images,))
        >>> optimizer = low.attach(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
        >>> swa = SWA(start_step=warmup_steps, every_steps=steps_per_epoch).start(model)
    """

    bits: int = 8
    bits_of: Mapping[str, int] = field(default_factory=dict)
    number: Literal["block", "fixed"] = "block"
    fraction_bits: int = 6
    rounding: Rounding = "stochastic"
    weight_blocks: Blocks = "first"
    activation_blocks: Blocks = "tensor"
    round_logits_error: bool = False

    def __post_init__(self) -> None:
        for role in self.bits_of:
            if role not in ROLES:
                raise InputError(f"unknown role {role!r}", where="LowPrecision.bits_of", fix=nearest(role, ROLES))
        for role in ROLES:
            self.format_of(role)

    def format_of(self, role: str) -> Format | None:
        """The number format of a role; None for fp32."""
        bits = self.bits_of.get(role, self.bits)
        if bits == _FULL:
            return None
        if self.number == "fixed":
            return FixedPoint(bits=bits, fraction_bits=self.fraction_bits, rounding=self.rounding)
        blocks = self.activation_blocks if role in ("activation", "error") else self.weight_blocks
        return BlockFloat(bits=bits, blocks=blocks, rounding=self.rounding)

    # --- the model ---

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """Round the inputs and errors of every layer that has parameters, and the weights themselves; in place.

        Raises:
            NoEffectError: no layer has parameters.
            ClashError: the model was prepared already.
        """
        if any(isinstance(hook, _Hook) for module in model.modules() for hook in _hooks(module)):
            raise ClashError("the model is in low precision already", where="LowPrecision", fix="apply it once")
        layers = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
        if not layers:
            raise NoEffectError("no layer has parameters", where="LowPrecision", fix="give the model to train")
        with evaluating(model):
            last = model if layers == [model] else model.get_submodule(last_layer(lambda: model(*example), model))
        activation, error, weight = (self.format_of(role) for role in ("activation", "error", "weight"))
        for layer in layers:
            layer.register_forward_pre_hook(_RoundInputs(activation))
            layer.register_forward_hook(_RoundError(error if layer is not last or self.round_logits_error else None))
        if weight is not None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(weight.quantise(parameter))
        return model

    def strip(self, model: nn.Module) -> nn.Module:
        """The same model with its weights as they are and nothing rounded any more."""
        for module in model.modules():
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in hooks.items() if isinstance(hook, _Hook)]:
                    del hooks[key]
        return model

    # --- the optimiser ---

    def attach(self, optimiser: Optimizer) -> Optimizer:
        """Let every step of an optimiser be in low precision; its state dict then holds the accumulators, too.

        Momentum means SGD's buffer or Adam's first moment; second moments stay in fp32.

        Args:
            optimiser: any, before its first step; used as before.
        """
        formats = {role: self.format_of(role) for role in ("gradient", "momentum", "accumulator", "weight")}
        # An accumulator in the format of the weights is the weights: rounding it again would only add noise.
        apart = formats["accumulator"] != formats["weight"]
        optimiser.register_step_pre_hook(lambda owner, *_: _before(owner, formats["gradient"]))
        optimiser.register_step_post_hook(lambda owner, *_: _after(owner, formats, apart=apart))
        return optimiser


def _moving(optimiser: Optimizer) -> list[Tensor]:
    """The parameters that this step moves."""
    return [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]


@torch.no_grad()
def _before(optimiser: Optimizer, gradient: Format | None) -> None:
    for parameter in _moving(optimiser):
        if gradient is not None and parameter.grad is not None:
            parameter.grad.copy_(gradient.quantise(parameter.grad))
        if "accumulator" in (state := optimiser.state.get(parameter, {})):
            parameter.copy_(state["accumulator"])


@torch.no_grad()
def _after(optimiser: Optimizer, formats: Mapping[str, Format | None], *, apart: bool) -> None:
    momentum, accumulator, weight = (formats[role] for role in ("momentum", "accumulator", "weight"))
    for parameter in _moving(optimiser):
        state: dict[str, Any] = optimiser.state[parameter]
        for name in _MOMENTA:
            if momentum is not None and isinstance(state.get(name), Tensor):
                state[name].copy_(momentum.quantise(state[name]))
        if accumulator is not None:
            parameter.copy_(accumulator.quantise(parameter))
        if apart:
            state["accumulator"] = parameter.detach().clone()
            if weight is not None:
                parameter.copy_(weight.quantise(parameter))


# --- rounding inside the network ----------------------------------------------------------------------------


def _hooks(module: nn.Module) -> list[Any]:
    return [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]


class _Hook:
    """Marks what `LowPrecision.apply` added."""

    def __init__(self, number: Format | None) -> None:
        self.number = number


class _RoundInputs(_Hook):
    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        number = self.number
        if number is None:
            return None
        rounding: Rounding | None = None if layer.training else "nearest"
        return tuple(
            _Straight.apply(x, number, rounding)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            if isinstance(x, Tensor) and x.is_floating_point()
            else x
            for x in inputs
        )


class _RoundError(_Hook):
    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if self.number is None or not isinstance(output, Tensor) or not output.requires_grad:
            return None
        return _Backward.apply(output, self.number)  # type: ignore[no-untyped-call]  # torch leaves apply untyped


class _Straight(torch.autograd.Function):
    """Rounds forward, passes the gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, number: Format, rounding: Rounding | None) -> Tensor:
        return number.quantise(x, rounding=rounding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None


class _Backward(torch.autograd.Function):
    """Passes values, rounds the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, number: Format) -> Tensor:
        ctx.number = number
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.number.quantise(gradients[0]), None
