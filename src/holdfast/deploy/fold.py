"""Batch normalisation folded into the layer before it, as every inference engine does before it rounds weights."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.deploy.nest import flatten

__all__ = ["adjacent_norms", "agreement_db", "fold_batchnorm"]

_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FAITHFUL_DB = 80.0  # rounding of fp32 stays above 100 dB; a wrong fold of trained statistics falls below 40


def fold_batchnorm(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[str, ...]]:
    r"""A copy in eval mode whose batch normalisations stand in the weights of the layer before them.

    .. math:: W' = s W, \quad b' = \beta + s (b - \mu), \quad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    A normalisation is folded when its input is the very output of a convolution or linear layer, both are called
    once, and the outputs on ``example`` stay the same; so it works for any forward, traceable or not.

    Args:
        model: any module; not changed.
        example: positional inputs, at least one sample.

    Returns:
        The folded copy and the names of the normalisations that were folded (they are `nn.Identity` now).
    """
    folded = _copy(model, example)
    pairs = _adjacent(folded, example)
    before = _run(folded, example)
    done: list[str] = []
    for first, norm in pairs:
        layer, normalisation = folded.get_submodule(first), folded.get_submodule(norm)
        folded.set_submodule(first, _fuse(layer, normalisation))
        folded.set_submodule(norm, nn.Identity())
        done.append(norm)
    if done and agreement_db(before, _run(folded, example)) < _FAITHFUL_DB:
        return _one_by_one(model, example, pairs, before)
    return folded, tuple(done)


def _one_by_one(
    model: nn.Module, example: tuple[Tensor, ...], pairs: list[tuple[str, str]], before: list[Tensor]
) -> tuple[nn.Module, tuple[str, ...]]:
    """Keep each fold that leaves the outputs alone: some layer feeds more than its normalisation."""
    folded = _copy(model, example)
    done: list[str] = []
    for first, norm in pairs:
        layer, normalisation = folded.get_submodule(first), folded.get_submodule(norm)
        folded.set_submodule(first, _fuse(layer, normalisation))
        folded.set_submodule(norm, nn.Identity())
        if agreement_db(before, _run(folded, example)) >= _FAITHFUL_DB:
            done.append(norm)
        else:
            folded.set_submodule(first, layer)
            folded.set_submodule(norm, normalisation)
    return folded, tuple(done)


def _copy(model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
    return copy.deepcopy(model).eval().to(example[0].device)


def agreement_db(reference: list[Tensor], other: list[Tensor]) -> float:
    r"""Smallest signal-to-noise ratio over paired tensors, :math:`10 \log_{10} \sum r^2 / \sum (r - o)^2`, in dB.

    Equal tensors agree to infinity; values that are NaN or the same infinity in both count as equal, a value that
    is finite in one alone makes minus infinity.
    """
    return min((_agreement(r, o) for r, o in zip(reference, other, strict=True)), default=float("inf"))


def _agreement(reference: Tensor, other: Tensor) -> float:
    r, o = reference.detach().double(), other.detach().double()
    same = (r == o) | (r.isnan() & o.isnan())
    noise = torch.where(same, 0.0, r - o).square().sum()
    if noise == 0:
        return float("inf")
    signal = torch.where(r.isfinite(), r, 0.0).square().sum()
    return float((10 * torch.log10(signal / noise)).nan_to_num(nan=-torch.inf))


def _run(model: nn.Module, example: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return flatten(model(*example))[0]


def adjacent_norms(model: nn.Module, example: tuple[Tensor, ...]) -> dict[str, str]:
    """Name of the batch normalisation by the name of the layer whose output it is fed, each called once."""
    return dict(_adjacent(_copy(model, example), example))


def _adjacent(model: nn.Module, example: tuple[Tensor, ...]) -> list[tuple[str, str]]:
    """Names of (layer, normalisation) where the second is fed the first one's output, each called once."""
    kinds = (*_PLAIN, *_TRANSPOSED, nn.Linear, *_NORMS)
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if name and isinstance(module, kinds)
    }
    calls: Counter[nn.Module] = Counter()
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept, so that its id is not given away again
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def seen(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        if not isinstance(module, _NORMS):
            made_by[id(output)] = (module, output)
        elif module.running_mean is not None and inputs and id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], module))

    hooks = [module.register_forward_hook(seen) for module in names]
    try:
        _run(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        (names[layer], names[norm])
        for layer, norm in pairs
        if calls[layer] == calls[norm] == 1 and not nn.utils.parametrize.is_parametrized(layer)
    ]


def _fuse(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of ``layer`` that computes ``norm(layer(x))``; torch's own fusion fails for grouped transposed ones."""
    assert isinstance(norm, _NORMS)
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    assert isinstance(layer, (*_PLAIN, *_TRANSPOSED, nn.Linear))
    fused = copy.deepcopy(layer)
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if fused.bias is None else fused.bias - norm.running_mean
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias
    fused.weight = nn.Parameter((fused.weight * _along_outputs(scale, fused)).detach())
    fused.bias = nn.Parameter(bias.detach())
    return fused


def _along_outputs(scale: Tensor, layer: nn.Module) -> Tensor:
    """``scale`` (outputs,) in the shape in which it multiplies the layer's weight."""
    if isinstance(layer, _TRANSPOSED):
        # The weight is (inputs, outputs / groups, ...), and group g of the inputs feeds group g of the outputs.
        rows = scale.view(layer.groups, -1).repeat_interleave(layer.in_channels // layer.groups, dim=0)
        return rows.view(*rows.shape, *[1] * len(layer.kernel_size))
    trailing = len(layer.kernel_size) if isinstance(layer, _PLAIN) else 0
    return scale.view(-1, 1, *[1] * trailing)
