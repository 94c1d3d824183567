"""Laziness: whether a trained network is still the linear model that it was at its initialisation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from holdfast.core.errors import InputError, NoEffectError
from holdfast.surgery.layers import Weighted
from holdfast.surgery.owned import swapped
from holdfast.surgery.tapped import evaluating
from holdfast.weights.tree import State

__all__ = ["flip_rates", "kernel_drift", "linear_cka", "linearisation_error", "neural_tangent_kernel"]

Run: TypeAlias = Callable[[Callable[..., Any]], Tensor]
"""``callable that stands for the model -> outputs float (B, ...)`` on the probe samples."""

KERNEL_ENTRIES = 2**26
"""Gradient entries held at a time, 256 MB in fp32."""

_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus,
)  # fmt: skip


def flip_rates(model: nn.Module, start: State, run: Run) -> dict[str, Tensor]:
    """Share of units whose sign differs between two states, per sample, by layer.

    ``mean_u [sign z_u(w_0; x) != sign z_u(w; x)]`` over the inputs ``z`` of activation modules; in a model without
    any, over the outputs of its convolutions and linear layers except the last. Buffers are those of ``model``.

    Args:
        model: with its trained weights.
        start: parameters before training; names that it lacks stay as they are.
        run: see `Run`.

    Returns:
        float64 (B,) by module name, in the order of the first call.

    Raises:
        NoEffectError: the model has no hidden units.
    """
    with evaluating(model), torch.no_grad():
        before = _signs(model, lambda: run(_at(model, _parameters(model, start))))
        after = _signs(model, lambda: run(model))
    if not after:
        raise NoEffectError("the model has no hidden units", where="laziness", fix="there is nothing to measure")
    return {name: (before[name] != after[name]).flatten(1).double().mean(dim=1) for name in after}


def _signs(model: nn.Module, call: Callable[[], object]) -> dict[str, Tensor]:
    activations = {name: module for name, module in model.named_modules() if isinstance(module, _ACTIVATIONS)}
    weighted = {name: module for name, module in model.named_modules() if isinstance(module, Weighted)}
    found: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        found.setdefault(name, value > 0)

    with _watching(activations or weighted, keep, before=bool(activations)):
        call()
    if not activations and found:
        found.popitem()  # the last layer's outputs are no hidden units
    return found


@contextmanager
def _watching(modules: Mapping[str, nn.Module], keep: Callable[[str, Any], None], *, before: bool) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
        if before else module.register_forward_hook(lambda _, args, output, name=name: keep(name, output))
        for name, module in modules.items()
    ]  # fmt: skip
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def linearisation_error(model: nn.Module, start: State, run: Run) -> tuple[Tensor, Tensor]:
    r"""How far the network is from its linearisation at the start, and how far it moved, per sample.

    .. math:: \|f(w) - f_{lin}(w)\| \;\text{and}\; \|f(w) - f(w_0)\|, \quad f_{lin}(w) = f(w_0) + J(w_0) (w - w_0)

    The product with the Jacobian is one forward-mode pass. The ratio of the two norms over all samples is the
    linearisation error: 0 for a network that stayed linear. Buffers, such as BatchNorm statistics, are those of
    ``model`` in both.

    Args:
        model: with its trained weights.
        start: parameters before training.
        run: see `Run`.

    Returns:
        Two float64 (B,): the errors and the moves.

    Raises:
        NoEffectError: the weights are those at the start.
    """
    began, now = _parameters(model, start), {k: p.detach() for k, p in model.named_parameters()}
    move = {name: now[name] - began[name] for name in now}
    if not any(bool(value.any()) for value in move.values()):
        raise NoEffectError("the weights did not move", where="laziness", fix="give the state before training")
    _load_forward_mode()
    with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        linear = jvp(lambda parameters: run(_at(model, parameters)), (began,), (move,))
        end = run(model)
    first, step, end = (value.double().flatten(1) for value in (*linear[:2], end))
    return (end - first - step).norm(dim=1), (end - first).norm(dim=1)


def _load_forward_mode() -> None:
    """The forward-mode rules are built at their first use with a part of torch that warns of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401 - imported for what it registers


def neural_tangent_kernel(model: nn.Module, run: Run, *, seed: int = 0) -> Tensor:
    """The empirical kernel ``K_ij = mean_v <grad_w v.f(x_i), grad_w v.f(x_j)>``, float64 (B, B).

    ``v`` runs over the unit vectors of up to ten outputs, else over eight random sign vectors, so that ``K`` is the
    trace of the tangent kernel over outputs, divided by their number, or an unbiased estimate of it.

    Args:
        model: at the weights in question, in eval mode.
        run: see `Run`; at most a few hundred samples.
        seed: of the sign vectors.

    Raises:
        InputError: the gradients of all samples would not fit into memory.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    numel = sum(parameter.numel() for parameter in parameters)
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        outputs = run(model).flatten(1)
        if len(outputs) * numel > KERNEL_ENTRIES:
            raise InputError(f"{len(outputs)} gradients of {numel} weights", where="tangent kernel",
                             fix=f"use at most {KERNEL_ENTRIES // numel} samples")  # fmt: skip
        kernel = torch.zeros(len(outputs), len(outputs), dtype=torch.float64)
        directions = _directions(outputs.shape[1], seed).to(outputs)
        for v in directions:
            rows = []
            for value in outputs @ v:
                found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
                rows.append(torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                                       for g, p in zip(found, parameters, strict=True)]))  # fmt: skip
            gradients = torch.stack(rows)
            kernel += (gradients @ gradients.T).double() / len(directions)
    return kernel


def _directions(outputs: int, seed: int) -> Tensor:
    if outputs <= 10:
        return torch.eye(outputs)
    signs = torch.randint(0, 2, (8, outputs), generator=torch.Generator().manual_seed(seed))
    return (2.0 * signs - 1.0) / math.sqrt(outputs)


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Centred kernel alignment ``<HaH, HbH> / (||HaH|| ||HbH||)`` of two kernels (B, B), in 0..1 for positive ones.

    Source: Cortes, Mohri and Rostamizadeh, JMLR 2012; Kornblith et al., ICML 2019, equation 3.
    """
    a, b = (k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean() for k in (a.double(), b.double()))
    return float((a * b).sum() / (a.norm() * b.norm()))


def kernel_drift(model: nn.Module, start: State, run: Run) -> float:
    """``1 - CKA(K_0, K)`` of the tangent kernels before and after training; 0 for a network that stayed linear."""
    with evaluating(model):
        after = neural_tangent_kernel(model, run)
        with swapped(model, _parameters(model, start)):
            before = neural_tangent_kernel(model, run)
    return 1.0 - linear_cka(before, after)


def _parameters(model: nn.Module, start: State) -> dict[str, Tensor]:
    """Parameters of the model with the values of a state, each shared one once."""
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if not set(own) & set(start):
        raise InputError("the state holds none of the model's parameters", where="laziness",
                         fix="give the state dict of the same architecture before training")  # fmt: skip
    return {name: start[name].detach().to(value) if name in start else value for name, value in own.items()}


def _at(model: nn.Module, parameters: Mapping[str, Tensor]) -> Callable[..., Any]:
    return lambda *inputs, **call: functional_call(model, dict(parameters), inputs, call)
