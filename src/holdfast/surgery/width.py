"""Width multiplier: the same architecture with more, or fewer, hidden channels."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from holdfast.core.errors import InputError
from holdfast.surgery.layers import Weighted, weighted_layers
from holdfast.surgery.tapped import evaluating

__all__ = ["Width"]

_SIZED = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU, Weighted)
_REFUSED = (nn.RNNBase, nn.MultiheadAttention, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class Width:
    """Multiply every hidden width; inputs and outputs of the model keep their sizes.

    Layers that see the model's inputs and layers that make its outputs are found by following a forward on the
    example. New layers have PyTorch's default initialisation: list `InitLaw` after it for another. A model that needs a
    certain width elsewhere, e.g. in a reshape or a parameter of its own, is refused after a trial forward.

    Args:
        factor: of every hidden width, e.g. 2 or 0.5. Default 1.

    Raises:
        InputError: a width that would not be whole; recurrent, attention or embedding layers; a model that does not
            run, or gives other shapes, with the new widths.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise InputError(f"factor {self.factor} is not positive", where="Width", fix="use e.g. 0.5, 2 or 4")

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The same model with other layers."""
        if self.factor == 1:
            return model
        if odd := [name for name, module in model.named_modules() if isinstance(module, _REFUSED)]:
            raise InputError(f"{odd[0]!r} cannot be widened", where="Width",
                             fix="give the width as an option of the task instead")  # fmt: skip
        weighted_layers(model, example, who="Width")
        with evaluating(model):
            before = tree_map(_shape, model(*example))
            widening = _Widening(Fraction(self.factor).limit_denominator(64), *_ends(model, example))
        for name, module in list(model.named_modules()):
            if isinstance(module, _SIZED):
                _replace(model, name, widening.layer(name, module))
        try:
            with evaluating(model), torch.no_grad():
                after = tree_map(_shape, model(*example))
        except RuntimeError as error:
            raise InputError(f"the model does not run {self.factor} times as wide: {error}", where="Width",
                             fix="give the width as an option of the task instead") from error  # fmt: skip
        if before != after:
            raise InputError(f"outputs changed from {before} to {after}", where="Width",
                             fix="give the width as an option of the task instead")  # fmt: skip
        return model

    def strip(self, model: nn.Module) -> nn.Module:
        """The same, widened model."""
        return model


def _shape(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, Tensor) else output


def _ends(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[set[str], set[str]]:
    """Names of the layers whose inputs, and of those whose outputs, keep their sizes."""
    seen: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    handles: list[Any] = []
    for name, module in model.named_modules():
        if isinstance(module, _SIZED):
            handles.append(module.register_forward_pre_hook(partial(_see, seen, name)))
        if isinstance(module, Weighted):
            handles.append(module.register_forward_hook(partial(_cut, made, name)))
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        outputs = [out for out in tree_leaves(model(*example)) if isinstance(out, Tensor) and out.requires_grad]
    finally:
        for p in trained:
            p.requires_grad_(True)
        for handle in handles:
            handle.remove()
    # The graph is cut behind every layer: what depends on a layer's output does so without another one between.
    ends = _depend_on(made, torch.stack([out.sum() for out in outputs]).sum())
    fed = {name for name, x in seen.items() if not x.requires_grad or _depend_on(made, x.sum()) & ends}
    return fed, ends


def _depend_on(made: dict[str, Tensor], total: Tensor) -> set[str]:
    found = torch.autograd.grad(total, list(made.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(made, found, strict=True) if gradient is not None}


def _see(seen: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
    seen.setdefault(name, inputs[0])


def _cut(made: dict[str, Tensor], name: str, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    made[name] = output.detach().requires_grad_()
    return made[name].clone()  # what follows may work in place, which a leaf forbids


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    old = model.get_submodule(name)
    new.train(old.training)
    setattr(model.get_submodule(parent), last, new.to(next(old.parameters(), torch.empty(0)).device))


@dataclass(frozen=True)
class _Widening:
    """New layers for old ones; ``fed`` and ``ends`` keep their input, and their output, sizes."""

    factor: Fraction
    fed: set[str]
    ends: set[str]

    def layer(self, name: str, old: nn.Module) -> nn.Module:
        into, out = (partial(self._scaled, name, fixed=name in ends) for ends in (self.fed, self.ends))
        if isinstance(old, nn.Linear):
            return nn.Linear(into(old.in_features), out(old.out_features), bias=old.bias is not None)
        if isinstance(old, nn.modules.conv._ConvNd):
            return _convolution(old, into(old.in_channels), out(old.out_channels))
        if isinstance(old, nn.GroupNorm):
            return nn.GroupNorm(old.num_groups, into(old.num_channels), old.eps, old.affine)
        if isinstance(old, nn.LayerNorm):
            *outer, last = old.normalized_shape
            return nn.LayerNorm([*outer, into(last)], old.eps, old.elementwise_affine)
        if isinstance(old, nn.PReLU):
            return nn.PReLU(1 if old.num_parameters == 1 else into(old.num_parameters))
        assert isinstance(old, nn.modules.batchnorm._NormBase)
        return type(old)(into(old.num_features), old.eps, old.momentum, old.affine, old.track_running_stats)

    def _scaled(self, name: str, width: int, *, fixed: bool) -> int:
        new = width if fixed else width * self.factor
        if new != int(new):
            raise InputError(f"{width} channels of {name!r} times {float(self.factor)} are not whole", where="Width",
                             fix="choose a factor that divides every width")  # fmt: skip
        return int(new)


def _convolution(old: nn.modules.conv._ConvNd, into: int, out: int) -> nn.Module:
    options: dict[str, Any] = {
        key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    options["groups"] = into if 1 < old.groups == old.in_channels else old.groups
    if isinstance(old, nn.modules.conv._ConvTransposeNd):
        options["output_padding"] = old.output_padding
    build: Any = type(old)  # the abstract class takes other arguments
    new: nn.Module = build(into, out, bias=old.bias is not None, **options)
    return new
