"""The noise floor: how far a model departs from itself when only the order of its sums changes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields, is_dataclass, replace

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Artefact, Backend, Outputs, Session
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.nest import flatten, unflatten

__all__ = ["eager_changes", "fp64_floor_db", "one_by_one", "session_changes"]


def eager_changes(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Outputs]:
    """Outputs of the eager model under changes that alter nothing but rounding, by name of the change.

    What a back-end does to the outputs means nothing as long as it is smaller than what these do: samples run one by
    one, with another number of threads, with channels last in memory, without oneDNN.

    Args:
        model: an eval-mode module in fp32; not changed.
        inputs: positional inputs; a few dozen samples do.
    """
    last = copy.deepcopy(model)
    for tensor in (*last.parameters(), *last.buffers()):
        tensor.data = _channels_last(tensor.data)
    with torch.no_grad():
        changed = {
            "batch of one": one_by_one(model, inputs),
            "channels last": last(*(_channels_last(x) for x in inputs)),
        }
        with _threads(1 if torch.get_num_threads() > 1 else 2):
            changed["threads"] = model(*inputs)
        with _without_onednn():
            changed["oneDNN off"] = model(*inputs)
    return changed


def session_changes(
    backend: Backend, artefact: Artefact, inputs: tuple[Tensor, ...], rebuilt: Artefact | None = None
) -> dict[str, Outputs]:
    """The same for a back-end: samples one by one, another number of threads where it has any, a second build.

    Args:
        backend: the back-end.
        artefact: what it prepared.
        inputs: positional inputs.
        rebuilt: the same prepared once more in an empty folder: some engines pick other kernels each time.
    """

    def outputs(loader: Backend, source: Artefact, run: Callable[[Session], Outputs]) -> Outputs:
        with closing(loader.load(source)) as session:
            return run(session)

    changed = {"batch of one": outputs(backend, artefact, lambda session: one_by_one(session, inputs))}
    if other := _with_threads(backend):
        changed["threads"] = outputs(other, artefact, lambda session: session(*inputs))
    if rebuilt is not None:
        changed["built again"] = outputs(backend, rebuilt, lambda session: session(*inputs))
    return changed


def one_by_one(run: Callable[..., Outputs], inputs: tuple[Tensor, ...]) -> Outputs:
    """Outputs of every sample in a batch of its own, joined again."""
    pieces = [flatten(run(*(x[i : i + 1] for x in inputs))) for i in range(len(inputs[0]))]
    joined = [torch.cat(parts) for parts in zip(*(tensors for tensors, _ in pieces), strict=True)]
    return unflatten(joined, pieces[0][1])


def fp64_floor_db(model: nn.Module, example: tuple[Tensor, ...]) -> float:
    """Agreement in dB of the model in fp32 with itself in fp64; infinite where it cannot run in fp64.

    Args:
        model: an eval-mode module in fp32; not changed.
        example: positional inputs.
    """
    doubled = copy.deepcopy(model).double()
    with torch.no_grad():
        single, _ = flatten(model(*example))
        try:
            double, _ = flatten(doubled(*(x.double() if x.is_floating_point() else x for x in example)))
        except RuntimeError:  # constants of a fixed dtype inside forward
            return float("inf")
    return agreement_db(double, single)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # setting the flags speaks of GPUs that are not there
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _with_threads(backend: Backend) -> Backend | None:
    """The back-end with another number of threads, if that is one of its options."""
    assert is_dataclass(backend)
    if "threads" not in {field.name for field in fields(backend)}:
        return None
    changed: Backend = replace(backend, threads=1 if getattr(backend, "threads", 1) > 1 else 2)
    return changed
