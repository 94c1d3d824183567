"""Progress of long work: bars with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, TextIO

__all__ = ["Progress"]


@dataclass
class _Work:
    """One thing that is going on."""

    name: str
    total: int | None
    note: str = ""
    done: int = 0
    started: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    def line(self) -> str:
        """E.g. ``training: 30 of 120, 12 s left, loss 0.31``."""
        passed = time.monotonic() - self.started
        if self.finished:
            parts = [f"done in {_span(passed)}"]
        elif self.total is None or self.done == 0:
            parts = [f"{self.done} after {_span(passed)}"]
        else:
            parts = [f"{self.done} of {self.total}", f"{_span(passed / self.done * (self.total - self.done))} left"]
        return f"{self.name}: {', '.join(parts + ([self.note] if self.note else []))}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _View(Protocol):
    """How progress is shown."""

    def changed(self, number: int, work: _Work) -> None:
        """Show the state of a work."""

    def say(self, text: str) -> None:
        """Show a line."""


class Progress:
    """Shows what is going on and for how long still; may be used from several threads.

    Args:
        quiet: show nothing at all.
        stream: where to; default: standard error. Bars when it is a terminal, else plain lines.
        interval_s: least time between two plain lines about the same work. Default 10.

    Example:
        >>> with Progress() as progress:
        ...     training = progress.add("training", total=steps)
        ...     for batch in loader:
        ...         progress.advance(training, note=f"loss {step(batch):.3f}")
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, interval_s: float = 10.0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet, self._interval_s = quiet, interval_s
        self._stack, self._lock = ExitStack(), threading.RLock()
        self._work: list[_Work] = []
        self._view: _View = _Silent()

    def __enter__(self) -> Progress:
        if self._quiet:
            self._view = _Silent()
        elif self._stream.isatty():
            self._view = _Bars(self._stream, self._stack)
        else:
            self._view = _Lines(self._stream, self._interval_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def add(self, name: str, *, total: int | None = None) -> int:
        """Begin a work of ``total`` units, None when their number is unknown; the handle for `advance`."""
        with self._lock:
            self._work.append(_Work(name=name, total=total))
            self._view.changed(len(self._work) - 1, self._work[-1])
            return len(self._work) - 1

    def advance(self, work: int, units: int = 1, *, note: str = "") -> None:
        """Count ``units`` more; at ``total`` the work is done and its bar goes away."""
        with self._lock:
            found = self._work[work]
            if not found.finished:
                found.done, found.note = found.done + units, note or found.note
                self._view.changed(work, found)

    def finish(self, work: int) -> None:
        """Call the work done, however many units were counted."""
        with self._lock:
            found = self._work[work]
            if not found.finished:
                found.total = found.done
                self._view.changed(work, found)

    def say(self, text: str) -> None:
        """A line of text among the progress."""
        with self._lock:
            self._view.say(text)


class _Silent:
    def changed(self, number: int, work: _Work) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


_SHORT_S = 2.0
"""Work that ends within this time is not worth a line."""


class _Lines:
    def __init__(self, stream: TextIO, interval_s: float) -> None:
        self._stream, self._interval_s = stream, interval_s

    def changed(self, number: int, work: _Work) -> None:
        """A line when the work is done, and every ``interval_s`` before."""
        now = time.monotonic()
        if work.finished:
            due = now - work.started >= min(_SHORT_S, self._interval_s)
        else:
            due = work.done > 0 and now - work.reported >= self._interval_s
        if due:
            work.reported = now
            self.say(work.line())

    def say(self, text: str) -> None:
        """A line of its own."""
        print(text, file=self._stream, flush=True)


class _Bars:
    def __init__(self, stream: TextIO, stack: ExitStack) -> None:
        # Loaded here: the command line must start fast, and most of its commands show no bars.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Display

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                   TimeRemainingColumn(compact=True), TextColumn("{task.fields[note]}"))  # fmt: skip
        self._display = Display(*columns, console=Console(file=stream), transient=True)
        self._tasks: dict[int, Any] = {}
        stack.enter_context(self._display)

    def changed(self, number: int, work: _Work) -> None:
        """The bar of the work; when it is done, a line above the others in its place."""
        if number not in self._tasks:
            self._tasks[number] = self._display.add_task(work.name, total=work.total, note="")
        self._display.update(self._tasks[number], completed=work.done, note=work.note)
        if work.finished:
            self._display.update(self._tasks[number], visible=False)
            if time.monotonic() - work.started >= _SHORT_S:
                self.say(work.line())

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._display.console.print(text, markup=False, highlight=False)
