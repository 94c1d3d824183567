"""Low-precision arithmetic emulated in fp32: what a half-precision engine rounds, rounded at the same places."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from holdfast.core.errors import InputError
from holdfast.deploy.emulate_sums import half_sums

__all__ = ["PRECISIONS", "DispatchMode", "Rounding", "factors", "round_to", "rounded_copy"]

PRECISIONS = ("fp16", "fp16_accumulate", "bf16", "tf32")

_aten = torch.ops.aten
# These return their argument's storage without saying so in their schema.
_SILENT_ALIASES = frozenset({_aten._unsafe_view.default, _aten._reshape_alias.default, _aten.lift_fresh.default})
_ATTENTION = frozenset({_aten._scaled_dot_product_flash_attention_for_cpu.default})
_BIAS_FIRST = frozenset({_aten.addmm.default, _aten.baddbmm.default})
_MATRIX = frozenset({_aten.convolution.default, _aten.mm.default, _aten.bmm.default}) | _BIAS_FIRST | _ATTENTION


def round_to(x: Tensor, precision: str) -> Tensor:
    r"""``x`` (fp32) rounded to the nearest value of ``precision``, as a new fp32 tensor.

    fp16 (and ``fp16_accumulate``, the same numbers) keeps 10 fraction bits, loses what lies below :math:`2^{-24}`
    and overflows to infinity above 65504; bf16 keeps 7 bits and tf32 10 bits, both with the exponents of fp32. Ties
    go to even, those of tf32 away from zero.

    Raises:
        InputError: unknown precision.
    """
    if precision in ("fp16", "fp16_accumulate"):
        return x.half().float()
    if precision == "bf16":
        return x.bfloat16().float()
    if precision == "tf32":
        return _round_tf32(x)
    raise InputError(f"cannot emulate {precision!r}", where="precision", fix=f"one of {', '.join(PRECISIONS)}")


def _round_tf32(x: Tensor) -> Tensor:
    """Add half of the last bit that is kept, cut the 13 below it: ties away from zero, as ``cvt.rna.tf32`` does."""
    y = x.clone()
    y.view(torch.int32).add_(0x1000).bitwise_and_(~0x1FFF)
    return y


def rounded_copy(model: nn.Module, precision: str) -> nn.Module:
    """A copy whose fp32 parameters, buffers and constant tensors are rounded; fold normalisations first.

    tf32 leaves storage alone: it rounds operands of matrix products only, see `Rounding`.
    """
    result = copy.deepcopy(model)
    if precision == "tf32":
        return result
    with torch.no_grad():
        for module in result.modules():
            held = [*module.parameters(recurse=False), *module.buffers(recurse=False), *vars(module).values()]
            for tensor in held:
                if isinstance(tensor, Tensor) and tensor.dtype is torch.float32:
                    tensor.copy_(round_to(tensor, precision))
    return result


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """A dispatch mode that nobody compiles through."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # The guard would import the compiler: two seconds at the first call.
        return False


class Rounding(DispatchMode):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Inside this context every ATen operation gives what hardware of ``precision`` would store.

    fp16, bf16: each fp32 output is rounded when it is written; sums inside convolutions, matrix products, norms and
    softmax stay in fp32, as in tensor cores and fused kernels. fp16_accumulate: as fp16, but the sums of
    convolutions and matrix products are kept in fp16 as well, see `holdfast.deploy.emulate_sums.half_sums`. tf32:
    the operands of convolutions and matrix products are rounded, everything else is fp32. Views are left alone,
    operations in place round in place.

    Use it under `torch.no_grad` with inputs and weights rounded beforehand (`rounded_copy`, `round_to`).
    """

    def __init__(self, precision: str) -> None:
        super().__init__()
        round_to(torch.zeros(1), precision)  # refuses an unknown precision
        self.precision = precision

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and round."""
        if self.precision == "tf32":
            chosen = factors(func)
            rounded = (_round_tf32(a) if i in chosen and a.dtype is torch.float32 else a for i, a in enumerate(args))
            return func(*rounded, **(kwargs or {}))
        in_fp16 = half_sums(func) if self.precision == "fp16_accumulate" and _multiplies_fp32(args) else None
        result = (in_fp16 or func)(*args, **(kwargs or {}))
        if not _is_view(func):
            _round_written(result, _ROUND_IN_PLACE[self.precision])
        return result


def factors(func: Any) -> tuple[int, ...]:
    """Positions of the arguments that a matrix operation multiplies; none for any other operation."""
    if func not in _MATRIX:
        return ()
    return (0, 1, 2) if func in _ATTENTION else (1, 2) if func in _BIAS_FIRST else (0, 1)


def _multiplies_fp32(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], Tensor) and args[0].dtype is torch.float32


@cache
def _is_view(func: Any) -> bool:
    annotated = [result.alias_info for result in func._schema.returns]
    return func in _SILENT_ALIASES or any(alias is not None and not alias.is_write for alias in annotated)


def _round_written(result: Any, round_in_place: Callable[[Tensor], object]) -> None:
    if isinstance(result, Tensor):
        if result.dtype is torch.float32:
            round_in_place(result)
    elif isinstance(result, tuple | list):
        for entry in result:
            _round_written(entry, round_in_place)


_ROUND_IN_PLACE: dict[str, Callable[[Tensor], object]] = {
    "fp16": lambda x: x.copy_(x.half()),
    "fp16_accumulate": lambda x: x.copy_(x.half()),
    "bf16": lambda x: x.copy_(x.bfloat16()),
}
