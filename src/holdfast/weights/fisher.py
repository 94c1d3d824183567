"""Fisher-weighted merging: every weight counts as much as its model cares about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, conventional_inputs
from holdfast.core.errors import InputError
from holdfast.core.space import first_tensor
from holdfast.weights.tree import State, averaged, check_alike, combine, describe_state, entries, unwrap

__all__ = ["diagonal_fisher", "merge_fisher", "sampled_label_loss"]

Forward = Callable[[nn.Module, Batch], Tensor]


def sampled_label_loss(logits: Tensor, generator: Generator) -> Tensor:
    """Cross-entropy (B,) of logits (B, C) against labels drawn from the model's own distribution."""
    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(-1)
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def diagonal_fisher(
    model: nn.Module, batches: Iterable[Batch], *, forward: Forward | None = None,
    loss: Callable[[Tensor, Generator], Tensor] = sampled_label_loss, samples: int = 256, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """``F = mean over samples of (grad log p(y | x))^2`` with ``y`` drawn from the model.

    Gradients are taken sample by sample, in eval mode: the square of a batch's mean gradient would be something
    else. Matena & Raffel 2022, section 3.1.

    Args:
        model: the model; its gradients and modes stay as they are.
        batches: batches of model inputs.
        forward: ``(model, batch) -> outputs``. Default: the tensors that `conventional_inputs` picks.
        loss: ``(outputs, generator) -> Tensor (B,)``, the negative log likelihood of outputs drawn from the model.
            Default: for logits; for regression, squared distance to ``outputs + noise``.
        samples: how many to use. Default 256.
        seed: of the drawn labels.

    Returns:
        One tensor a parameter, by its name in the state dict.

    Raises:
        InputError: no samples, or no parameters.
    """
    inner = unwrap(model)
    named = {e.name: e.tensor() for e in entries(inner) if e.kind == "parameter" and e.tied_to is None}
    totals = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in named.items()}
    generator = torch.Generator().manual_seed(seed)
    modes = {module: module.training for module in inner.modules()}
    seen = 0
    try:
        inner.eval()
        with torch.enable_grad():
            for sample in itertools.islice(_singles(batches), samples):
                value = loss((forward or _forward)(inner, sample), generator).sum()
                gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
                for total, gradient in zip(totals.values(), gradients, strict=True):
                    if gradient is not None:
                        total += gradient.double().square()
                seen += 1
    finally:
        for module, training in modes.items():
            module.training = training
    if not seen or not named:
        raise InputError(f"{seen} samples, {len(named)} parameters", where="Fisher", fix="give data and a model")
    return {name: total / seen for name, total in totals.items()}


def _singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The samples one by one, each as a batch of its own."""
    for batch in batches:
        size = len(first_tensor(batch))
        for index in range(size):
            yield tree_map(lambda leaf, at=index: leaf[at : at + 1] if isinstance(leaf, Tensor) else leaf, batch)


def _forward(model: nn.Module, batch: Batch) -> Tensor:
    outputs: Tensor = model(*conventional_inputs(batch))
    return outputs


def merge_fisher(
    states: Sequence[State], fishers: Sequence[State], coefficients: Sequence[float] | None = None, *,
    floor: float = 1e-8,
) -> dict[str, Tensor]:  # fmt: skip
    """``theta = sum_k c_k F_k theta_k / sum_k c_k F_k``, elementwise, with ``F`` at least ``floor``.

    Entries without a Fisher value (buffers) take the plain linear combination, integers come from the state with the
    largest coefficient. Matena & Raffel 2022, equation 5.

    Args:
        states: the models.
        fishers: what `diagonal_fisher` gave for each.
        coefficients: one each, summing to 1. Default: all equal.
        floor: smallest value of a Fisher entry. Default 1e-8.

    Raises:
        InputError: states, Fisher values and coefficients of different number or shape.
    """
    shares = [1.0 / len(states)] * len(states) if coefficients is None and states else list(coefficients or ())
    if not len(states) == len(fishers) == len(shares):
        raise InputError(f"{len(states)} states, {len(fishers)} Fisher values, {len(shares)} coefficients",
                         where="Fisher", fix="one each")  # fmt: skip
    check_alike({f"Fisher {index}": fisher for index, fisher in enumerate(fishers)})
    merged = combine(states, shares)
    for entry in describe_state(merged):
        if entry.tied_to:
            merged[entry.name] = merged[entry.tied_to]
        elif entry.name in fishers[0] and averaged(merged[entry.name]):
            weights = [c * f[entry.name].double().clamp_min(floor) for c, f in zip(shares, fishers, strict=True)]
            top = torch.stack([w * s[entry.name].double() for w, s in zip(weights, states, strict=True)]).sum(0)
            bottom = torch.stack(weights).sum(0)
            merged[entry.name] = (top / bottom).to(merged[entry.name].dtype)
    return merged
