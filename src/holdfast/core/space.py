"""The input space: what values a batch may hold and in which unit budgets are counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["InputSpace", "Leaf", "first_tensor", "get_leaf", "mapped", "with_leaf"]


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """Valid range, normalisation and unit of one tensor of a batch.

    A stored value ``v`` relates to the physical value ``p`` by ``v = (p - mean) / std``; budgets are counted
    in ``unit`` on the physical side, so ``eps`` units move ``v`` by at most ``eps * unit / std``.

    Args:
        low: smallest valid physical value. Default 0.
        high: largest valid physical value. Default 1.
        unit: one step of the sensor in physical values. Default ``1/255``; ``1/1023`` for 10-bit cameras.
        mean: per-channel mean already subtracted from the stored tensor, or a single number. Default 0.
        std: per-channel deviation by which the stored tensor was divided, or a single number. Default 1.
        channel_dim: dimension of a batched tensor along which ``mean`` and ``std`` run. Default 1.
    """

    low: float = 0.0
    high: float = 1.0
    unit: float = 1.0 / 255.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    channel_dim: int = 1

    def stored(self, physical: float, x: Tensor) -> float | Tensor:
        """Stored value of a physical one: a number, or one per channel, broadcastable against ``x``."""
        mean, std = self.mean, self.std
        if isinstance(mean, tuple) or isinstance(std, tuple):
            return (physical - self.along_channels(mean, x)) / self.along_channels(std, x)
        return (physical - mean) / std

    def budget(self, eps: float | Tensor, x: Tensor) -> float | Tensor:
        """Size of ``eps`` units in stored values: a number, or a tensor that is broadcastable against ``x``.

        A tensor ``eps`` of shape ``(B,)`` gives each sample its own budget.
        """
        if not isinstance(eps, int | float):
            eps = eps.view(-1, *([1] * (x.ndim - 1))).to(x)
        return eps * self.unit / self.along_channels(self.std, x)

    def clip(self, x: Tensor) -> Tensor:
        """``x`` limited to the valid range, as a new tensor."""
        ends: Any = self.stored(self.low, x), self.stored(self.high, x)
        return x.clamp(*ends)

    def check(self, x: Tensor, *, where: str) -> None:
        """Refuse a tensor that is not finite or leaves the declared range by more than rounding.

        Raises:
            InputError: naming the range found and the range declared.
        """
        if not x.is_floating_point():
            raise InputError(f"dtype {x.dtype} cannot be perturbed", where=where, fix="convert it to float")
        if not x.numel():
            return
        found = tuple(float(end) for end in x.detach().aminmax())  # one pass, and NaN comes through
        if not all(math.isfinite(end) for end in found):
            raise InputError("holds NaN or infinite values", where=where, fix="clean the data first")
        slack = 1e-3 * (self.high - self.low)
        low, high = (x.new_zeros(()) + self.stored(end, x) for end in (self.low - slack, self.high + slack))
        inside = found[0] >= float(low.max()) and found[1] <= float(high.min())
        if not inside and (bool((x < low).any()) or bool((x > high).any())):
            raise InputError(
                f"values {float(x.min()):.4g} .. {float(x.max()):.4g} leave the declared range "
                f"{float(low.min()):.4g} .. {float(high.max()):.4g}",
                where=where,
                fix="declare mean/std if the input is normalised, or low/high if its range differs",
            )

    def along_channels(self, value: float | tuple[float, ...], x: Tensor) -> float | Tensor:
        """A number as it is, one per channel as a tensor broadcastable against ``x``; no device is waited for."""
        if not isinstance(value, tuple):
            return value
        filled = x.new_empty(len(value))
        for i, number in enumerate(value):
            filled[i].fill_(number)
        shape = [1] * x.ndim
        shape[self.channel_dim] = len(value)
        return filled.view(shape)


@dataclass(frozen=True)
class InputSpace:
    """The perturbable leaves of a batch by path: ``{"image": Leaf()}`` or ``{"0": Leaf()}`` for ``(x, y)``.

    A path joins dictionary keys and tuple positions with dots, as in ``"views.0.image"``.
    """

    leaves: Mapping[str, Leaf]

    def __iter__(self) -> Iterator[tuple[str, Leaf]]:
        return iter(self.leaves.items())

    def values(self, batch: Any) -> dict[str, Tensor]:
        """The perturbable tensors of ``batch`` by path."""
        return {path: get_leaf(batch, path) for path in self.leaves}

    def replace(self, batch: Any, values: Mapping[str, Tensor]) -> Any:
        """A shallow copy of ``batch`` in which ``values`` stand at their paths; nothing is mutated."""
        for path, value in values.items():
            batch = with_leaf(batch, path, value)
        return batch

    def check(self, batch: Any, *, where: str) -> None:
        """Check every leaf of ``batch``; see `Leaf.check`."""
        for path, leaf in self:
            leaf.check(get_leaf(batch, path), where=f"{where}, leaf {path!r}")


def get_leaf(batch: Any, path: str) -> Any:
    """The entry of a nest of dicts and tuples at a dotted path.

    Raises:
        InputError: when the path does not exist, listing what is there.
    """
    node = batch
    for part in path.split("."):
        try:
            node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise InputError(
                f"no leaf {path!r} in a batch with {_describe(batch)}",
                where="input space",
                fix="name the leaf as it stands in your batch",
            ) from None
    return node


def with_leaf(batch: Any, path: str, value: Any) -> Any:
    """A shallow copy of a nest of dicts, tuples and lists with ``value`` at a dotted path."""
    head, _, rest = path.partition(".")
    if not isinstance(batch, list | tuple):
        return {**batch, head: with_leaf(batch[head], rest, value) if rest else value}
    items, position = list(batch), int(head)
    items[position] = with_leaf(batch[position], rest, value) if rest else value
    return _like(batch, items)


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The nest of dicts, tuples and lists with every tensor replaced by ``change(tensor)``."""
    if isinstance(batch, list | tuple):
        items = [mapped(part, change) for part in batch]
        return items if type(batch) is list else _like(batch, items)
    if isinstance(batch, Mapping):
        return {key: mapped(part, change) for key, part in batch.items()}
    return change(batch) if hasattr(batch, "requires_grad") else batch


def _like(batch: Any, items: list[Any]) -> Any:
    """A tuple or a list of the kind of ``batch``; a named tuple takes its fields one by one."""
    return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)


def first_tensor(batch: Any) -> Tensor:
    """The first tensor of a nest of dicts, tuples and lists: it has the batch's size and device.

    Raises:
        InputError: there is none.
    """
    found = _first(batch)
    if found is None:
        raise InputError(f"no tensor in a batch with {_describe(batch)}", where="input space",
                         fix="collate it to tensors")  # fmt: skip
    return found


def _first(node: Any) -> Tensor | None:
    if hasattr(node, "requires_grad"):
        tensor: Tensor = node
        return tensor
    parts = node if isinstance(node, list | tuple) else node.values() if isinstance(node, Mapping) else ()
    for part in parts:
        if (found := _first(part)) is not None:
            return found
    return None


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"keys {sorted(map(str, batch))}"
    if isinstance(batch, list | tuple):
        return f"{len(batch)} positions"
    return type(batch).__name__
