"""A model whose inner tensors can be read, moved and fed to auxiliary heads, through keywords of its call."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from holdfast.core.contracts import Outputs
from holdfast.core.errors import InputError, nearest

__all__ = ["Tapped", "evaluating", "last_layer", "read_tap", "submodule", "tapped"]


class Tapped(nn.Module):
    """Wraps a model; without keywords it is that model.

    A *tap* is the output of a submodule by its dotted name, or its first input when ``:input`` follows the name. A
    module that is called several times in one forward is tapped at its first call.

    Args:
        model: the model inside, unchanged.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.heads = nn.ModuleDict()
        self.head_taps: dict[str, str] = {}

    def forward(self, *inputs: Any, add: Mapping[str, Tensor] | None = None, taps: Sequence[str] = (),
                heads: Sequence[str] = (), only_read: bool = False, **call: Any) -> Outputs:  # fmt: skip
        """The model's outputs, and with ``taps`` or ``heads`` a pair ``(outputs, {name: tensor})``.

        Args:
            inputs: of the model.
            add: tensors to add at taps, e.g. an adversarial perturbation of an embedding.
            taps: taps to read.
            heads: auxiliary heads to evaluate.
            only_read: nobody wants the outputs, so that the forward may end at the last tap; they may be None then. It
                ends by an exception, which the model inside must let through.
            call: further keywords of the model inside.

        Raises:
            InputError: a tap that is not there, or not reached.
        """
        add = add or {}
        if not (add or taps or heads):
            return self.model(*inputs, **call)
        outputs: Outputs = None
        wanted = {*add, *taps, *[self.head_taps[name] for name in heads]}
        with _Listening(self.model, wanted, add, end=only_read and not _watched()) as seen:
            outputs = self.model(*inputs, **call)
        read = {tap: seen[tap] for tap in taps}
        read |= {name: self.heads[name](seen[self.head_taps[name]]) for name in heads}
        return (outputs, read) if read else outputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def tapped(model: nn.Module) -> Tapped:
    """The model wrapped, or itself when it is wrapped already."""
    return model if isinstance(model, Tapped) else Tapped(model)


class _Listening:
    """Hooks that move the taps in ``add`` and put all of them into ``seen``, gone when the block ends.

    With ``end`` it ends where the last of them is seen.
    """

    def __init__(self, model: nn.Module, taps: Collection[str], add: Mapping[str, Tensor], *, end: bool) -> None:
        self.seen: dict[str, Tensor] = {}
        self._model, self._taps, self._add, self._end = model, taps, add, end
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> dict[str, Tensor]:
        try:
            for tap in self._taps:
                self._handles.append(_hook(self._model, tap, self._visit))
        except InputError:
            self._remove()
            raise
        return self.seen

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._remove()
        if kind is None:
            for tap in self._taps:
                if tap not in self.seen:
                    raise InputError(f"{tap!r} was not reached in this forward", where="tap")
        return kind is _ReachedError

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _visit(self, tap: str, value: Any) -> Any:
        if tap in self.seen:
            return value
        tensor = value[0] if isinstance(value, tuple) else value
        self.seen[tap] = tensor = tensor + self._add[tap] if tap in self._add else tensor
        if self._end and len(self.seen) == len(self._taps) and not _inside_checkpoint():
            raise _ReachedError
        return (tensor, *value[1:]) if isinstance(value, tuple) else tensor


def _watched() -> bool:
    """Whether somebody counts on a forward that runs to its end.

    These are a compiler, and what trains on several processes: sharded weights are gathered and freed by hooks, and
    DistributedDataParallel may look for the weights that its last forward has used.
    """
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    return several or torch.compiler.is_compiling()


def _inside_checkpoint() -> bool:
    """Whether what the backward needs is kept elsewhere, as in a checkpointed layer, which is run again as a whole."""
    if torch.compiler.is_compiling():
        return True  # a layer that is compiled by itself
    hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return hooks is None or hooks(True) is not None


def _hook(model: nn.Module, tap: str, visit: Callable[[str, Any], Any]) -> RemovableHandle:
    module = submodule(model, tap.removesuffix(":input"))
    if tap.endswith(":input"):
        return module.register_forward_pre_hook(lambda _, args: visit(tap, args))
    return module.register_forward_hook(lambda _, args, output: visit(tap, output))


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The submodule of a dotted name.

    Raises:
        InputError: there is none, naming the nearest.
    """
    try:
        if name:
            return model.get_submodule(name)
    except AttributeError:
        pass
    known = [known for known, _ in model.named_modules() if known]
    raise InputError(f"the model has no module {name!r}", where="tap", fix=nearest(name, known))


class _ReachedError(Exception):
    """Ends a forward at a tap."""


def read_tap(call: Callable[[], Any], model: nn.Module, tap: str) -> Tensor:
    """The tap's value in ``call()``, a forward through ``model`` that ends there; no gradient."""
    found: list[Tensor] = []

    def stop(_: str, value: Any) -> None:
        found.append(value[0] if isinstance(value, tuple) else value)
        raise _ReachedError

    handle = _hook(model, tap, stop)
    try:
        with torch.no_grad():
            call()
    except _ReachedError:
        return found[0]
    finally:
        handle.remove()
    raise InputError(f"{tap!r} was not reached in the forward", where="tap", fix="name a module that the model calls")


def last_layer(call: Callable[[], Any], model: nn.Module) -> str:
    """Name of the layer with weights that ``call()``, a forward through ``model``, calls last."""
    order: list[str] = []
    layers = {name: module for name, module in model.named_modules() if list(module.parameters(recurse=False)) and name}
    handles = [
        module.register_forward_hook(lambda _, args, output, name=name: order.append(name))
        for name, module in layers.items()
    ]
    try:
        with torch.no_grad():
            call()
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise InputError("the model calls no layer with weights", where="tap", fix="name the tap")
    return order[-1]
