"""Learned soups: mixing coefficients, one set or one per layer, found by gradient descent on held-out data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from holdfast.core.contracts import Batch
from holdfast.core.errors import InputError, NonFiniteError
from holdfast.weights.tree import State, averaged, check_alike, combine, entries, unwrap

__all__ = ["LearnedRules", "learned_soup"]

Loss = Callable[[Callable[..., Any], Batch], Tensor]


@dataclass(frozen=True, kw_only=True)
class LearnedRules:
    """How the coefficients of a learned soup are found.

    Args:
        per_layer: one set of coefficients per parameter tensor instead of one for all. Default off; on, it needs
            many more held-out samples than tensors.
        epochs: passes over the held-out batches. Default 5.
        lr: learning rate of AdamW, without weight decay. Default 0.05.
        logit_scale: also learn a factor on the model's output; for logits only. Default off.
    """

    per_layer: bool = False
    epochs: int = 5
    lr: float = 0.05
    logit_scale: bool = False


def learned_soup(
    model: nn.Module, states: Sequence[State], batches: Callable[[], Iterable[Batch]], loss: Loss, *,
    rules: LearnedRules | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """``theta = sum_k a_k theta_k`` with ``a = softmax(raw)``, the raw values learned from a uniform start.

    All states stand in memory. Buffers, BatchNorm statistics among them, take the mean coefficients. Wortsman et al.
    2022 (model soups), appendix I.

    Args:
        model: any instance of the architecture, in no particular mode; stays as it is.
        states: the ingredients, at least one.
        batches: gives the held-out batches anew at each call; not the split on which the soup is reported.
        loss: ``(forward, batch) -> Tensor``, ``(B,)`` or ``()``; ``forward`` takes the place of the model.
        rules: how to learn; default `LearnedRules`.

    Returns:
        The soup, and ``{"average", "coefficients", "loss_first", "loss_last", ...}`` for the metadata. A learned
        logit scale is in the record, not in the weights.

    Raises:
        InputError: no states or batches, or weights that do not fit each other.
        NonFiniteError: the loss became NaN or infinite.
    """
    rules = rules or LearnedRules()
    if not states:
        raise InputError("no ingredients", where="learned soup", fix="name at least one file")
    check_alike({f"state {index}": state for index, state in enumerate(states)})
    pot = _Mixture(unwrap(model), states, rules)
    modes = {module: module.training for module in pot.model.modules()}
    try:
        pot.model.eval()
        losses = _descend(pot, batches, loss, rules)
    finally:
        for module, training in modes.items():
            module.training = training
    record = {"average": "learned soup", **asdict(rules), **pot.record()}
    return pot.state(), {**record, "loss_first": losses[0], "loss_last": losses[-1]}


def _descend(
    pot: _Mixture, batches: Callable[[], Iterable[Batch]], loss: Loss, rules: LearnedRules
) -> list[float]:  # fmt: skip
    optimiser = torch.optim.AdamW([pot.raw, pot.scale], lr=rules.lr, weight_decay=0.0)
    losses: list[float] = []
    for _ in range(rules.epochs):
        seen = []
        for batch in batches():
            value = loss(pot.forward, batch).mean()
            gradients = torch.autograd.grad(value, [pot.raw, pot.scale], allow_unused=True)
            pot.raw.grad, pot.scale.grad = gradients[0], gradients[1] if rules.logit_scale else None
            optimiser.step()
            seen.append(float(value.detach()))
        if not seen:
            raise InputError("no batches", where="learned soup", fix="give held-out data")
        losses.append(sum(seen) / len(seen))
        if not bool(pot.raw.isfinite().all()):
            raise NonFiniteError("the coefficients became NaN", where="learned soup", fix="lower the learning rate")
    return losses


class _Mixture:
    """The ingredients of every parameter stacked, and the raw coefficients that mix them."""

    def __init__(self, model: nn.Module, states: Sequence[State], rules: LearnedRules) -> None:
        self.model, self._states = model, states
        found = [entry for entry in entries(model) if entry.tied_to is None]
        self._aliases = {entry.name: entry.tied_to for entry in entries(model) if entry.tied_to}
        self._parameters = [entry.name for entry in found if entry.kind == "parameter"]
        self._buffers = [entry.name for entry in found if entry.kind != "parameter"]
        self._stacks = {name: torch.stack([state[name].detach() for state in states]) for name in self._parameters}
        rows = len(self._parameters) if rules.per_layer else 1
        self.raw = torch.ones(rows, len(states), requires_grad=True)
        self.scale = torch.ones((), requires_grad=True)

    def coefficients(self) -> Tensor:
        return self.raw.softmax(dim=1)

    def _mixed(self) -> dict[str, Tensor]:
        shares = self.coefficients().expand(len(self._parameters), -1)
        return {
            name: torch.tensordot(row.to(self._stacks[name].dtype), self._stacks[name], dims=1)
            for name, row in zip(self._parameters, shares, strict=True)
        }

    def forward(self, *inputs: Any) -> Any:
        mean = self.coefficients().mean(0).tolist()
        buffers = {name: self._buffer(name, mean) for name in self._buffers}
        outputs = functional_call(self.model, {**self._mixed(), **buffers}, inputs, tie_weights=True)
        return outputs * self.scale if isinstance(outputs, Tensor) else outputs

    def _buffer(self, name: str, shares: Sequence[float]) -> Tensor:
        first = self._states[0][name]
        if not averaged(first):
            return first
        return sum((state[name] * share for state, share in zip(self._states, shares, strict=True)), 0 * first)

    def state(self) -> dict[str, Tensor]:
        soup = combine(self._states, self.coefficients().mean(0).tolist())
        with torch.no_grad():
            soup |= self._mixed()
        return soup | {alias: soup[original] for alias, original in self._aliases.items()}

    def record(self) -> dict[str, Any]:
        shares = [[round(value, 6) for value in row] for row in self.coefficients().tolist()]
        named = dict(zip(self._parameters, shares, strict=True)) if len(shares) > 1 else shares[0]
        return {"coefficients": named, "learned_logit_scale": round(float(self.scale.detach()), 6)}
