"""Native code in a child process: a crash or a hang of an engine ends there, with a message, and not the session."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from torch import Tensor

from holdfast.core.contracts import Artefact, Backend, Outputs
from holdfast.core.errors import BackendError, HoldfastError
from holdfast.deploy.nest import flatten, unflatten

__all__ = ["ContainedSession", "call_contained"]

TIMEOUT_S = 600.0


def call_contained(function: Callable[..., Any], *arguments: Any, timeout_s: float = TIMEOUT_S) -> Any:
    """``function(*arguments)`` in a fresh process.

    Args:
        function: importable by name; arguments and result go through pickle.
        arguments: for it.
        timeout_s: after that the process is killed. Default ten minutes: engines take long to build.

    Raises:
        BackendError: it crashed (with the signal) or did not end in time.
        HoldfastError: whatever the function raised of that family; other errors become a `BackendError`.
    """
    child = _Child(_call_once, function)
    try:
        return child.ask(arguments, timeout_s)
    finally:
        child.end()


class ContainedSession:
    """A session of a back-end in a child process.

    Args:
        backend: pickled into the child.
        artefact: loaded there.
        timeout_s: for loading and for each batch.
    """

    def __init__(self, backend: Backend, artefact: Artefact, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._child: _Child | None = _Child(_serve, backend, artefact)
        try:
            self._executed: str = self._child.ask(None, timeout_s)
        except HoldfastError:
            self.close()
            raise

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch.

        Raises:
            BackendError: the engine crashed or hung, or the session is closed.
        """
        if self._child is None:
            raise BackendError("the session is closed", where="child process")
        try:
            arrays, layout = self._child.ask([x.detach().cpu().numpy() for x in inputs], self._timeout_s)
        except _LostError:
            self.close()
            raise
        return unflatten([_tensor(array) for array in arrays], layout)

    def executed_precision(self) -> str:
        """What the session in the child says."""
        return self._executed

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.end()
            self._child = None


class _LostError(BackendError):
    """The child is gone."""


class _Child:
    """A spawned process that answers questions."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, question: Any, timeout_s: float) -> Any:
        """The answer, or the error it raised."""
        try:
            self._connection.send(question)
            if not self._connection.poll(timeout_s):
                self.end()
                raise _LostError(f"did not answer within {timeout_s:g} s", where="child process")
            answered, value = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise _LostError(f"crashed: {_death(self._process.exitcode)}", where="child process") from None
        if answered:
            return value
        if isinstance(value, HoldfastError):
            raise value
        raise BackendError(str(value), where="child process")

    def end(self) -> None:
        """Kill it if it is still there."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()


def _death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"signal {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


def _tensor(array: Any) -> Tensor:
    import torch

    return torch.from_numpy(array)


# --- in the child -----------------------------------------------------------------------------------------


def _call_once(connection: Connection, function: Callable[..., Any]) -> None:
    _answer(connection, lambda: function(*connection.recv()))


def _serve(connection: Connection, backend: Backend, artefact: Artefact) -> None:
    held: list[Any] = []

    def load() -> str:
        connection.recv()
        held.append(backend.load(artefact))
        return str(held[0].executed_precision())

    def run() -> Any:
        import torch

        arrays = connection.recv()
        tensors, layout = flatten(held[0](*map(torch.from_numpy, arrays)))
        return [tensor.numpy() for tensor in tensors], layout

    _answer(connection, load)
    while held:
        _answer(connection, run)


def _answer(connection: Connection, question: Callable[[], Any]) -> None:
    try:
        answer: tuple[bool, Any] = (True, question())
    except EOFError:  # the parent is gone
        raise SystemExit(0) from None
    except HoldfastError as error:
        answer = (False, error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        answer = (False, f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})")
    connection.send(answer)
