"""BatchNorm statistics of averaged weights: estimated anew, averaged or kept, and which of these is measured best."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from holdfast.core.contracts import Batch, conventional_inputs
from holdfast.core.errors import InputError, NoEffectError, NonFiniteError
from holdfast.weights.tree import State, describe_state, unwrap
from holdfast.weights.trial import copy_state, with_weights

__all__ = ["TIE_ORDER", "Policy", "has_statistics", "recalibrate", "settle_statistics"]

Policy: TypeAlias = Literal["keep", "average", "recalibrate", "auto"]
"""``keep``: the last iterate's statistics; ``average``: averaged like weights; ``recalibrate``; ``auto``: measured."""
TIE_ORDER = ("recalibrate", "average", "keep")
"""Among statistics that measure equally well, those that belong most closely to the averaged weights come first."""

Forward: TypeAlias = Callable[[nn.Module, Batch], Any]


def has_statistics(model: nn.Module) -> bool:
    """Whether any layer keeps running statistics."""
    return bool(_layers(unwrap(model)))


def _layers(model: nn.Module) -> list[_NormBase]:
    return [m for m in model.modules() if isinstance(m, _NormBase) and isinstance(m.running_mean, Tensor)]


def _forward(model: nn.Module, batch: Batch) -> Any:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return model(*(tensor.to(device) for tensor in conventional_inputs(batch)))


# --- estimating -------------------------------------------------------------------------------------------


def recalibrate(model: nn.Module, batches: Iterable[Batch], *, forward: Forward = _forward) -> int:
    """Estimate the running statistics of every norm layer anew, in place.

    ``mean = sum_b n_b mean_b / sum_b n_b``, and likewise the variance, where ``n_b`` counts the values a layer
    normalises over in batch ``b``: a short last batch counts for what it is. Only norm layers are in training mode,
    so dropout stays off. Under an initialised process group each rank passes its own batches and the statistics are
    summed over the ranks. Izmailov et al. 2018, section 3.1.

    Args:
        model: the model, wrapped or not; its weights, its modes and its layers' momenta stay as they are.
        batches: *training* data in any structure, as it goes into the model; a few thousand samples are enough.
        forward: ``(model, batch) -> anything``. Default: the tensors that `conventional_inputs` picks.

    Returns:
        The number of batches that this rank passed.

    Raises:
        NoEffectError: no layer keeps statistics.
        InputError: no batch, or no layer was reached with more than one value a channel.
        NonFiniteError: a layer's statistics became NaN or infinite.

    Example:
        >>> model.load_state_dict(swa.weights())
        >>> recalibrate(model, train_loader)
    """
    model = unwrap(model)
    layers = _layers(model)
    if not layers:
        raise NoEffectError("no layer keeps running statistics", where="recalibrate", fix="there is nothing to do")
    counts = dict.fromkeys(layers, 0)
    passed = 0
    with torch.no_grad(), _estimating(model, counts):
        for batch in batches:
            forward(model, batch)
            passed += 1
    _sum_over_ranks(counts)
    if not any(counts.values()):
        raise InputError(f"{passed} batches gave no layer more than one value a channel", where="recalibrate",
                         fix="pass batches of at least two samples")  # fmt: skip
    _check_finite(model, layers)
    return passed


@contextlib.contextmanager
def _estimating(model: nn.Module, counts: dict[_NormBase, int]) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    momenta = {layer: layer.momentum for layer in counts}
    hooks = [layer.register_forward_pre_hook(_weigh(counts)) for layer in counts]
    model.eval()
    for layer in counts:
        layer.reset_running_stats()
        layer.train()
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training


def _weigh(counts: dict[_NormBase, int]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """A hook that gives every call the share its values have among all seen: a cumulative average, weighted."""

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _NormBase)
        values = inputs[0].numel() // layer.num_features
        layer.training = values > 1  # a single value has no variance
        if layer.training:
            counts[layer] += values
            layer.momentum = values / counts[layer]

    return before


def _sum_over_ranks(counts: dict[_NormBase, int]) -> None:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    for layer, count in counts.items():
        means, variances = _statistics(layer)
        total = torch.cat([means.double() * count, variances.double() * count, means.new_tensor([count]).double()])
        dist.all_reduce(total)
        counts[layer] = int(total[-1])
        if counts[layer]:
            means.copy_(total[: len(means)] / total[-1])
            variances.copy_(total[len(means) : -1] / total[-1])


def _statistics(layer: _NormBase) -> tuple[Tensor, Tensor]:
    assert isinstance(layer.running_mean, Tensor)
    assert isinstance(layer.running_var, Tensor)
    return layer.running_mean, layer.running_var


def _check_finite(model: nn.Module, layers: list[_NormBase]) -> None:
    names = {module: name for name, module in model.named_modules()}
    for layer in layers:
        if not all(bool(statistic.isfinite().all()) for statistic in _statistics(layer)):
            raise NonFiniteError(f"the statistics of {names[layer]!r} are not finite", where="recalibrate",
                                 fix="look for NaN or infinite values in the data or the weights")  # fmt: skip


# --- choosing ---------------------------------------------------------------------------------------------


def settle_statistics(
    model: nn.Module, averaged: State, *, last: State | None = None, policy: Policy = "auto",
    batches: Callable[[], Iterable[Batch]] | None = None, score: Callable[[nn.Module], float] | None = None,
    margin: float = 0.0, forward: Forward = _forward,
) -> tuple[dict[str, Tensor], dict[str, Any]]:  # fmt: skip
    """The averaged weights with the statistics that a policy asks for, and the record of the choice.

    ``auto`` measures every kind of statistics that can be made from what is given. Whatever scores within ``margin``
    of the best ties with it, and of those the first in `TIE_ORDER` is taken. A model without statistics comes back
    unchanged.

    Args:
        model: any instance of the architecture; it is used to measure and gets its own weights back.
        averaged: the averaged state dict.
        last: the state whose statistics ``keep`` means; needed by ``keep`` only.
        policy: ``keep``, ``average``, ``recalibrate`` or ``auto`` (recommended).
        batches: gives the training batches anew at each call; needed to recalibrate.
        score: ``model -> float``, higher is better, measured on the ``val`` split; needed by ``auto``.
        margin: difference of scores that counts as none. Default 0.
        forward: see `recalibrate`.

    Returns:
        The state dict, and ``{"policy", "chosen", "scores", "margin", "ties"}`` for the file's metadata.

    Raises:
        InputError: the policy needs an argument that is missing.
    """
    if not has_statistics(model):
        return dict(averaged), {"policy": policy, "chosen": "none", "reason": "no layer keeps running statistics"}
    makers = _makers(model, averaged, last, batches, forward)
    if policy != "auto":
        if policy not in makers:
            needed = {"keep": "`last`", "recalibrate": "`batches`"}.get(policy, "a known policy")
            raise InputError(f"policy {policy!r} needs {needed}", where="BatchNorm", fix=f"possible: {list(makers)}")
        return makers[policy](), {"policy": policy, "chosen": policy}
    if score is None:
        raise InputError("policy 'auto' needs a score", where="BatchNorm", fix="give a task, or choose a policy")
    states = {name: make() for name, make in makers.items()}
    scores = {name: _measure(model, state, score) for name, state in states.items()}
    best = max(scores.values())
    chosen = next(name for name in TIE_ORDER if name in scores and scores[name] >= best - margin)
    record = {"policy": "auto", "chosen": chosen, "scores": scores, "margin": margin, "ties": list(TIE_ORDER)}
    return states[chosen], record


def _makers(
    model: nn.Module, averaged: State, last: State | None,
    batches: Callable[[], Iterable[Batch]] | None, forward: Forward,
) -> Mapping[str, Callable[[], dict[str, Tensor]]]:  # fmt: skip
    makers: dict[str, Callable[[], dict[str, Tensor]]] = {"average": lambda: dict(averaged)}
    if last is not None:
        statistics = {e.name for e in describe_state(averaged) if e.kind == "batchnorm"}
        makers["keep"] = lambda: {k: last[k].clone() if k in statistics else v for k, v in averaged.items()}
    if batches is not None:
        makers["recalibrate"] = lambda: _recalibrated(model, averaged, batches(), forward)
    return makers


def _recalibrated(model: nn.Module, state: State, batches: Iterable[Batch], forward: Forward) -> dict[str, Tensor]:
    with with_weights(model, state) as inner:
        recalibrate(inner, batches, forward=forward)
        return copy_state(inner)


def _measure(model: nn.Module, state: State, score: Callable[[nn.Module], float]) -> float:
    with with_weights(model, state) as inner, torch.no_grad():
        value = float(score(inner))
    return -math.inf if math.isnan(value) else value
