"""State dicts by class of entry (parameter, buffer, statistic, counter, tied weight) and exact arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from holdfast.core.errors import InputError

__all__ = [
    "Entry", "Kind", "State", "averaged", "check_alike", "check_finite", "clone", "combine", "count_kinds",
    "describe_state", "distance", "entries", "lerp", "mean", "unwrap",
]  # fmt: skip

State: TypeAlias = Mapping[str, Tensor]
"""A flat state dict: name -> tensor."""
Kind: TypeAlias = Literal["parameter", "buffer", "batchnorm", "integer"]
"""``batchnorm``: running means and variances; ``buffer``: other floating buffers; ``integer``: counters and masks."""

_STATISTICS = frozenset({"running_mean", "running_var"})


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name of a state dict and where its tensor lives.

    Args:
        name: key of the state dict.
        kind: class of the entry.
        owner: the module's own dictionary that holds the tensor; empty for a state without a model.
        key: the tensor's key in ``owner``.
        tied_to: first name that shares this tensor, or None.
    """

    name: str
    kind: Kind
    owner: Mapping[str, Tensor | None]
    key: str
    tied_to: str | None = None

    def tensor(self) -> Tensor:
        """The tensor that stands there now."""
        value = self.owner[self.key]
        assert value is not None
        return value


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module inside `DistributedDataParallel` and `torch.compile`."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model


def entries(model: nn.Module) -> list[Entry]:
    """The tensors of ``model.state_dict()`` in its order, each with its class, home and tie.

    Found by identity, so state-dict hooks that rename keys are honoured. Non-tensor extras are left out.
    """
    homes: dict[int, tuple[Mapping[str, Tensor | None], str, bool]] = {}
    for module in model.modules():
        homes |= {id(t): (module._parameters, key, True) for key, t in module._parameters.items() if t is not None}
        homes |= {id(t): (module._buffers, key, False) for key, t in module._buffers.items() if t is not None}
    first: dict[int, str] = {}
    found = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in homes:
            continue
        owner, key, is_parameter = homes[id(tensor)]
        tie = first.setdefault(id(tensor), name)
        kind = _kind(name, tensor, is_parameter=is_parameter)
        found.append(Entry(name=name, kind=kind, owner=owner, key=key, tied_to=None if tie == name else tie))
    return found


def describe_state(state: State) -> list[Entry]:
    """The entries of a state dict without its model: classes from names and dtypes, ties from shared memory."""
    first: dict[tuple[object, ...], str] = {}
    found = []
    for name, tensor in state.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        tie = first.setdefault(place, name) if tensor.numel() else name
        kind = _kind(name, tensor, is_parameter=True)
        found.append(Entry(name=name, kind=kind, owner=state, key=name, tied_to=None if tie == name else tie))
    return found


def count_kinds(found: Iterable[Entry]) -> dict[str, int]:
    """How many entries of each class there are, with ties counted apart; what an average writes into its record."""
    counts: dict[str, int] = {}
    for entry in found:
        kind = "tied" if entry.tied_to else entry.kind
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def averaged(tensor: Tensor) -> bool:
    """Whether an entry takes part in averages: floating and complex ones do, integers and booleans do not."""
    return tensor.is_floating_point() or tensor.is_complex()


def _kind(name: str, tensor: Tensor, *, is_parameter: bool) -> Kind:
    if not averaged(tensor):
        return "integer"
    if name.rpartition(".")[2] in _STATISTICS:
        return "batchnorm"
    return "parameter" if is_parameter else "buffer"


# --- refusing what does not fit ---------------------------------------------------------------------------


class Shaped(Protocol):
    """A tensor, or what is known of one that was not read yet."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""

    @property
    def shape(self) -> torch.Size:
        """Its shape."""


def check_alike(states: Mapping[str, Mapping[str, Shaped]]) -> None:
    """Refuse states whose keys, shapes or dtypes differ from those of the first one.

    Args:
        states: label, such as a file name, -> state.

    Raises:
        InputError: with a table of the differing entries, one line each.
    """
    (label, reference), *others = states.items()
    lines = []
    for other_label, other in others:
        for name in dict.fromkeys([*reference, *other]):
            left, right = _signature(reference.get(name)), _signature(other.get(name))
            if left != right:
                lines.append(f"  {name}: {left} in {label}, {right} in {other_label}")
    if lines:
        shown = [*lines[:12], f"  ... and {len(lines) - 12} more"] if len(lines) > 12 else lines
        raise InputError(
            "\n".join([f"{len(lines)} entries differ", *shown]),
            where="weights",
            fix="only checkpoints of one architecture can be combined",
        )


def _signature(tensor: Shaped | None) -> str:
    return "missing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def check_finite(state: State, *, where: str) -> None:
    """Refuse a state that holds NaN or infinite values.

    Raises:
        InputError: naming the entries.
    """
    bad = [name for name, tensor in state.items() if averaged(tensor) and not _finite(tensor.detach())]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise InputError(
            f"NaN or infinite values in {', '.join(bad[:5])}{more}",
            where=where,
            fix="the run that wrote it diverged; leave it out",
        )


def _finite(tensor: Tensor) -> bool:
    if tensor.itemsize == 1:  # 8-bit floats have no arithmetic
        tensor = tensor.float()
    # One sum is cheaper than a boolean mask; only a suspect sum, perhaps an overflow, is looked at entry by entry.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


# --- arithmetic -------------------------------------------------------------------------------------------


def clone(state: State) -> dict[str, Tensor]:
    """A copy that shares no memory with ``state``; ties inside it are kept."""
    copies: dict[str, Tensor] = {}
    for entry in describe_state(state):
        copies[entry.name] = copies[entry.tied_to] if entry.tied_to else entry.tensor().detach().clone()
    return copies


def combine(states: Sequence[State], coefficients: Sequence[float]) -> dict[str, Tensor]:
    """The linear combination ``sum_k c_k theta_k``, summed in fp64 and returned in the states' dtypes.

    Floating entries, BatchNorm statistics among them, are combined; integer and boolean entries come from the
    state with the largest coefficient (the first at ties); tied weights stay tied. A state with coefficient 1
    beside zeros comes back bit for bit.

    Args:
        states: at least one, with equal keys, shapes and dtypes.
        coefficients: one each.

    Raises:
        InputError: states that do not fit each other, or the wrong number of coefficients.
    """
    if not states or len(states) != len(coefficients):
        raise InputError(f"{len(states)} states with {len(coefficients)} coefficients", where="weights.combine")
    check_alike({f"state {index}": state for index, state in enumerate(states)})
    heaviest = max(range(len(states)), key=lambda k: coefficients[k])
    parts = [(state, c) for state, c in zip(states, coefficients, strict=True) if c != 0.0]
    if [c for _, c in parts] == [1.0]:
        return clone(states[heaviest])
    combined: dict[str, Tensor] = {}
    ties = _common_ties([state for state, _ in parts])
    for entry in describe_state(states[heaviest]):
        if entry.name in ties:
            combined[entry.name] = combined[ties[entry.name]]
        elif averaged(entry.tensor()):
            combined[entry.name] = _weighted_sum([(state[entry.name], c) for state, c in parts], like=entry.tensor())
        else:
            combined[entry.name] = entry.tensor().clone()
    return combined


def _common_ties(states: Sequence[State]) -> dict[str, str]:
    ties = [{(e.name, e.tied_to) for e in describe_state(state) if e.tied_to} for state in states]
    return {name: original for name, original in set.intersection(*ties) if original} if ties else {}


def _weighted_sum(parts: Sequence[tuple[Tensor, float]], *, like: Tensor) -> Tensor:
    total = torch.zeros_like(like, dtype=torch.complex128 if like.is_complex() else torch.float64)
    for tensor, coefficient in parts:
        total.add_(tensor.detach().to(total.dtype), alpha=coefficient)
    return total.to(like.dtype)


def lerp(start: State, end: State, alpha: float) -> dict[str, Tensor]:
    """``(1 - alpha) start + alpha end``; ``alpha`` 0 and 1 give the ends bit for bit. See `combine`."""
    return combine((start, end), (1.0 - alpha, alpha))


def mean(states: Sequence[State]) -> dict[str, Tensor]:
    """The equally weighted mean. See `combine`."""
    return combine(states, [1.0 / len(states)] * len(states) if states else [])


def distance(left: State, right: State) -> float:
    """Euclidean distance of all parameters and float buffers but BatchNorm statistics; ties count once."""
    check_alike({"left": left, "right": right})
    squares = 0.0
    for entry in describe_state(left):
        if entry.tied_to is None and entry.kind in ("parameter", "buffer"):
            gap = entry.tensor().detach().double() - right[entry.name].detach().double()
            squares += float(gap.square().sum())
    return math.sqrt(squares)
