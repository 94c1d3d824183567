"""Quantisation-aware training: weights and activations are rounded to int8 on the way forward, not on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from holdfast.core.errors import ClashError, InputError
from holdfast.surgery.layers import weighted_layers

__all__ = ["ActivationQuantiser", "QuantisationAware", "WeightQuantiser"]


@dataclass(frozen=True, kw_only=True)
class QuantisationAware:
    r"""Train with the rounding of a static int8 back-end in the forward pass.

    Equations: weights, per output channel, ``w_q = s clamp(round(w / s))`` with ``s = max|w| / (2^(bits-1) - 1)``;
    inputs of layers, per tensor, ``x_q = s (clamp(round(x / s) + z) - z)`` with ``s`` and ``z`` from the observed
    range. Gradients pass straight through where nothing is clamped.

    All convolutions and linear layers take part. Scaling an output channel commutes with its rounding, so folding a
    BatchNorm into the convolution before it changes nothing here. Ranges are observed in training mode as a moving
    average; in the first ``observe_steps`` forwards activations are only observed.

    `strip` gives the plain model with the full-precision weights, for the back-end to quantise: averages observe
    those, and scales are never averaged into a deployed model.

    Args:
        weight_bits: 8, or 7 for processors whose int8 products saturate (ONNX Runtime's ``reduce_range``). Default 8.
        activation_bits: default 8; 0 leaves activations alone.
        momentum: share of the newest range in the moving average. Default 0.01.
        observe_steps: forwards before activations are rounded. Default 50.
        skip: names of layers to leave in full precision.

    Raises:
        NoEffectError: no layer to act on. ClashError: a layer is parametrised already.
        InputError: a setting out of range, a name in ``skip`` that is not there.

    Paper: Jacob et al., CVPR 2018, section 3.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    momentum: float = 0.01
    observe_steps: int = 50
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.weight_bits <= 8 or self.activation_bits not in (0, *range(2, 9)):
            raise InputError(f"{self.weight_bits} and {self.activation_bits} bits", where="QuantisationAware",
                             fix="use 2 to 8 bits, or 0 for activations as they are")  # fmt: skip
        if not 0 < self.momentum <= 1 or self.observe_steps < 0:
            raise InputError(f"momentum {self.momentum}, observe_steps {self.observe_steps}", where="QuantisationAware")

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The same model, whose layers round."""
        for name, layer in weighted_layers(model, example, skip=self.skip, who="QuantisationAware").items():
            if parametrize.is_parametrized(layer):
                raise ClashError(f"layer {name!r} is parametrised already", where="QuantisationAware",
                                 fix="remove the other parametrisation, or put the layer into `skip`")  # fmt: skip
            # Transposed convolutions hold output channels second; grouped ones mix the two.
            channel = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) and layer.groups == 1 else 0
            parametrize.register_parametrization(layer, "weight", WeightQuantiser(self.weight_bits, channel))
            if self.activation_bits:
                quantiser = ActivationQuantiser(self.activation_bits, self.momentum, self.observe_steps)
                layer.input_quantiser = quantiser
                layer.register_forward_pre_hook(quantiser.replace_input)
        return model

    def strip(self, model: nn.Module) -> nn.Module:
        """The same model without rounding."""
        for layer in list(model.modules()):
            if _rounds_its_weight(layer):
                _unparametrise(layer)
            if isinstance(getattr(layer, "input_quantiser", None), ActivationQuantiser):
                del layer.input_quantiser
                for key, hook in list(layer._forward_pre_hooks.items()):
                    if isinstance(getattr(hook, "__self__", None), ActivationQuantiser):
                        del layer._forward_pre_hooks[key]
        return model


def _rounds_its_weight(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    kept = layer.parametrizations
    assert isinstance(kept, nn.ModuleDict)
    return any(isinstance(piece, WeightQuantiser) for piece in kept["weight"].children())


def _unparametrise(layer: nn.Module) -> None:
    """Give a layer its latent weight back.

    PyTorch's own function deletes the property from the class, which copies of the model share.
    """
    weight = layer.get_parameter("parametrizations.weight.original")
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    layer._parameters = {"weight": weight, **layer._parameters}


class WeightQuantiser(nn.Module):
    """Rounds a weight to symmetric integers with one scale for each output channel, differentiated straight through."""

    def __init__(self, bits: int, channel: int = 0) -> None:
        super().__init__()
        self.top, self.channel = 2 ** (bits - 1) - 1, channel

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight."""
        others = [d for d in range(weight.ndim) if d != self.channel]
        scale = (weight.detach().abs().amax(others) / self.top).clamp(min=torch.finfo(weight.dtype).tiny)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, self.channel, -self.top, self.top)


class ActivationQuantiser(nn.Module):
    """Observes the range of a tensor in training mode, and rounds it to unsigned integers over that range.

    Args:
        bits: of the integers.
        momentum: share of the newest range.
        observe_steps: forwards before it rounds.
    """

    low: Tensor
    high: Tensor
    forwards: Tensor

    def __init__(self, bits: int, momentum: float, observe_steps: int) -> None:
        super().__init__()
        self.top, self.momentum, self.observe_steps = 2**bits - 1, momentum, observe_steps
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))

    def replace_input(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The hook: a layer's inputs with the first one rounded."""
        return (self(inputs[0]), *inputs[1:])

    def forward(self, x: Tensor) -> Tensor:
        """The rounded tensor, or ``x`` while it is only observed."""
        if self.training:
            self._observe(x.detach())
        scale = ((self.high - self.low) / self.top).clamp(min=torch.finfo(torch.float32).tiny)
        zero = (-self.low / scale).round().clamp(0, self.top).to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, self.top).to(x)
        # A choice by arithmetic: the count stays on the device.
        ready = (self.forwards > self.observe_steps).to(x)
        return torch.lerp(x, rounded, ready)

    def _observe(self, x: Tensor) -> None:
        # Zero must be an integer, or padding would be wrong.
        low, high = x.amin().float().clamp(max=0.0), x.amax().float().clamp(min=0.0)
        share = torch.where(self.forwards == 0, 1.0, self.momentum)
        self.low.lerp_(low, share)
        self.high.lerp_(high, share)
        self.forwards += 1
