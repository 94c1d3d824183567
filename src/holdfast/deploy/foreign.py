"""An ONNX file of unknown habits called like the model: fixed batches, half-precision inputs, repeated weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor

from holdfast.core.contracts import Outputs, Subject
from holdfast.core.errors import BackendError, InputError
from holdfast.deploy.backends.graph import stored_precision
from holdfast.deploy.export import LAYOUT
from holdfast.deploy.graph import load_graph
from holdfast.deploy.nest import flatten, unflatten
from holdfast.deploy.ort import open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["Entry", "ForeignSession", "inputs_of", "open_foreign"]

DTYPES = {
    "tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
}  # fmt: skip
FLOATS = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An input of a graph: its shape has None where a dimension is free."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]


class ForeignSession:
    """A graph on ONNX Runtime's CPU provider.

    Floats are given in the float type that an input asks for and come back as fp32. Where the graph has a fixed batch
    size, a batch is run in pieces of it, the last one filled up with its own last sample.

    Args:
        session: of ONNX Runtime.
        entries: what it is to be given.
        layout: how outputs nest; None: one output is a tensor, several are a tuple.
        where: the file, for errors.
    """

    def __init__(self, session: InferenceSession, entries: Sequence[Entry], layout: Any, *, where: str) -> None:
        self._session: InferenceSession | None = session
        self._entries, self._where = tuple(entries), where
        count = len(session.get_outputs())
        self._layout = layout or ("tensor" if count == 1 else {"tuple": ["tensor"] * count})
        fixed = {entry.shape[0] for entry in entries if entry.shape and entry.shape[0] is not None}
        self._batch = fixed.pop() if len(fixed) == 1 else None

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch of any size."""
        if self._session is None:
            raise BackendError("the session is closed", where=self._where)
        given = [self._cast(x, entry) for x, entry in zip(inputs, self._entries, strict=True)]
        n = len(given[0])
        if self._batch is None or self._batch == n:
            parts = [run_session(self._session, given)]
        else:
            parts = [self._piece(given, start) for start in range(0, n, self._batch)]
        return unflatten([_as_float(torch.cat(pieces)) for pieces in zip(*parts, strict=True)], self._layout)

    def _piece(self, inputs: Sequence[Tensor], start: int) -> list[Tensor]:
        assert self._batch is not None
        assert self._session is not None
        pieces = [x[start : start + self._batch] for x in inputs]
        real = len(pieces[0])
        filled = [torch.cat((x, x[-1:].expand(self._batch - real, *x.shape[1:]))) for x in pieces]
        outputs = run_session(self._session, filled)
        if any(len(x) != self._batch for x in outputs):
            raise BackendError(
                f"a batch of {self._batch} gives outputs of {[len(x) for x in outputs]}: samples cannot be told apart",
                where=self._where, fix="export it so that the first dimension of every output is the sample",
            )  # fmt: skip
        return [x[:real] for x in outputs]

    def _cast(self, x: Tensor, entry: Entry) -> Tensor:
        return x.to(entry.dtype) if x.dtype in FLOATS and entry.dtype in FLOATS else x

    def executed_precision(self) -> str:
        """ONNX Runtime computes halves in fp32 on most CPUs, so a half-precision graph is not called fp16."""
        return "fp32"

    def close(self) -> None:
        """Release the session."""
        self._session = None


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.dtype in FLOATS else x


def inputs_of(session: InferenceSession) -> tuple[Entry, ...]:
    """What a graph has to be given: weights that are repeated among its inputs are left out."""
    return tuple(
        Entry(
            name=entry.name, dtype=DTYPES.get(entry.type, torch.float32),
            shape=tuple(dim if isinstance(dim, int) else None for dim in entry.shape),
        )
        for entry in session.get_inputs()
    )  # fmt: skip


def open_foreign(path: Path, example: tuple[Tensor, ...], *, like: Outputs | None = None, threads: int = 1) -> Subject:
    """Open an ONNX file that comes from anywhere as a subject.

    Args:
        path: the file; see `load_graph` for what is refused before anything runs.
        example: what the task would call a model with.
        like: outputs whose nest those of the graph are given, where their number fits.
        threads: of one operator.

    Raises:
        InputError: a missing, damaged or hostile file, or inputs that are not the task's (naming both).
        BackendError: ONNX Runtime does not run it.
    """
    where, graph = str(path), load_graph(path)
    session = open_session(path, threads=threads)
    entries = inputs_of(session)
    _check_inputs(entries, example, where)
    found = ForeignSession(session, entries, _layout(graph, len(session.get_outputs()), like), where=where)
    _try(found, example, where)
    precision = stored_precision(graph)
    made = f"{graph.producer_name or 'unknown'} {graph.producer_version}".strip()
    executed = "fp32 (halves are computed in fp32)" if precision == "fp16" else precision
    return Subject(
        backend="graph", precision=precision, executed=executed, run=found, close=found.close,
        notes=(f"{path.name}, made by {made}, {_habits(graph, entries)}",),
    )  # fmt: skip


def _check_inputs(entries: Sequence[Entry], example: Sequence[Tensor], where: str) -> None:
    wanted = "; ".join(f"{e.name} {_spoken(e.dtype)} {_shape(e.shape)}" for e in entries)
    given = "; ".join(f"{_spoken(x.dtype)} {_shape((None, *x.shape[1:]))}" for x in example)
    fits = len(entries) == len(example) and all(_fits(e, x) for e, x in zip(entries, example, strict=True))
    if not fits:
        raise InputError(
            f"the graph wants {len(entries)} inputs ({wanted}), the task gives {len(example)} ({given})", where=where,
            fix="let Task(inputs=...) return these tensors in this order, in this size and type",
        )  # fmt: skip


def _fits(entry: Entry, x: Tensor) -> bool:
    same_kind = entry.dtype == x.dtype or (entry.dtype in FLOATS and x.dtype in FLOATS)
    sizes = zip(entry.shape[1:], x.shape[1:], strict=False)
    return same_kind and len(entry.shape) == x.ndim and all(wanted in (None, size) for wanted, size in sizes)


def _try(session: ForeignSession, example: Sequence[Tensor], where: str) -> None:
    """Run the example: what a graph says of its outputs need not be true."""
    outputs, _ = flatten(session(*example))
    lengths = [len(x) if x.ndim else 0 for x in outputs]
    if any(length != len(example[0]) for length in lengths):
        raise InputError(
            f"{len(example[0])} samples give outputs of lengths {lengths}", where=where,
            fix="export it so that the first dimension of every output is the sample",
        )  # fmt: skip


def _layout(graph: onnx.ModelProto, outputs: int, like: Outputs | None) -> Any:
    """The nest that the file itself tells of, else that of ``like`` if it has as many tensors."""
    for entry in graph.metadata_props:
        if entry.key == LAYOUT:
            return json.loads(entry.value)
    if like is None:
        return None
    tensors, layout = flatten(like)
    return layout if len(tensors) == outputs else None


def _habits(graph: onnx.ModelProto, entries: Sequence[Entry]) -> str:
    opset = next((entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx")), 0)
    repeated = len({e.name for e in graph.graph.initializer} & {e.name for e in graph.graph.input})
    said = [f"opset {opset}"]
    said += [f"{repeated} weights repeated as inputs"] if repeated else []
    said += [f"batches of {e.shape[0]}" for e in entries[:1] if e.shape and e.shape[0] is not None]
    return ", ".join(said)


def _spoken(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
