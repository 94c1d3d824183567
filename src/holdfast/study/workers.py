"""Worker processes: one thread each, jobs with dependencies, progress through a queue; they die with their parent."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.errors import HoldfastError
from holdfast.core.progress import Progress

__all__ = ["Failure", "Job", "run_jobs"]

PLAIN_THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A unit of work: ``call(*arguments, advance)`` in a worker, after the jobs named in ``needs``.

    Args:
        name: unique; shown beside the progress bar.
        call: a module-level function; its last argument is ``advance(units, note)``.
        arguments: picklable.
        needs: names of jobs that must have succeeded; if one fails, this job is skipped.
        units: how often ``advance`` will count, for the time left.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    needs: frozenset[str] = frozenset()
    units: int = 1


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed: one line, and the traceback for ``--debug``."""

    reason: str
    error: HoldfastError | None = None
    trace: str = ""
    skipped: bool = False


@dataclass
class _Board:
    """Which jobs wait, run, and are settled."""

    waiting: list[Job]
    running: dict[Future[Any], Job] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def ready(self) -> Iterator[Job]:
        for job in [job for job in self.waiting if job.needs <= self.done]:
            self.waiting.remove(job)
            yield job

    def doomed(self) -> Iterator[Job]:
        for job in [job for job in self.waiting if job.needs & self.failed]:
            self.waiting.remove(job)
            self.failed.add(job.name)
            yield job


def run_jobs(jobs: Sequence[Job], *, workers: int, progress: Progress) -> Iterator[tuple[Job, Any]]:
    """Run jobs in worker processes and yield ``(job, result or Failure)`` as they end.

    Jobs start in the order given as soon as their needs are met. A dependency that is not among ``jobs`` counts
    as met. Closing the iterator stops the workers.

    Raises:
        HoldfastError: a worker process died, e.g. for lack of memory.
    """
    names = {job.name for job in jobs}
    board = _Board([Job(**{**vars(job), "needs": job.needs & names}) for job in jobs])
    with _pool(workers, progress) as pool:
        while board.waiting or board.running:
            for job in board.doomed():
                yield job, Failure(reason="a job it needs failed", skipped=True)
            for job in board.ready():
                board.running[pool.submit(_call, job)] = job
            if not board.running:
                continue
            for future in wait(board.running, return_when=FIRST_COMPLETED).done:
                job = board.running.pop(future)
                result = _result(future)
                (board.failed if isinstance(result, Failure) else board.done).add(job.name)
                yield job, result


@contextmanager
def _pool(workers: int, progress: Progress) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned workers whose progress messages reach ``progress``."""
    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    saved = {name: os.environ.get(name) for name in PLAIN_THREADS}
    os.environ.update(PLAIN_THREADS)  # read by native libraries when a worker starts
    listener = threading.Thread(target=_listen, args=(messages, progress), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(messages, os.getpid()))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        messages.put(None)
        listener.join()
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _listen(messages: Any, progress: Progress) -> None:
    bars: dict[str, Any] = {}
    while (message := messages.get()) is not None:
        name, total, units, note = message
        if name not in bars:
            bars[name] = progress.add(name, total=total)
        if units is None:
            progress.finish(bars[name])
        else:
            progress.advance(bars[name], units, note=note)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise HoldfastError(
            "a worker process died (out of memory, or killed)", fix="run the same command again: finished work is kept"
        ) from None


# --- in the worker --------------------------------------------------------------------------------------

_messages: Any = None


def _start_worker(messages: Any, parent: int) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _die_with_parent(parent: int) -> None:
    """A parent killed with SIGKILL cannot stop its workers, and an orphan would go on writing."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _call(job: Job) -> Any:
    try:
        _messages.put((job.name, job.units, 0, ""))
        return job.call(*job.arguments, _reporter(job))
    except HoldfastError as error:
        return Failure(reason=str(error), error=error, trace=traceback.format_exc())
    except Exception as error:  # a plug-in may raise anything; its cell fails, the others go on
        return Failure(reason=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    finally:
        _messages.put((job.name, job.units, None, ""))


def _reporter(job: Job) -> Callable[[int, str], None]:
    """Counts units, and sends them at most ten times a second: a queue message costs more than a fast step."""
    pending, last = 0, 0.0

    def advance(units: int, note: str) -> None:
        nonlocal pending, last
        pending += units
        now = time.monotonic()
        if now - last >= 0.1:
            _messages.put((job.name, job.units, pending, note))
            pending, last = 0, now

    return advance
