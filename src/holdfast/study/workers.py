"""Worker processes: one thread each, jobs with dependencies, progress through a queue; they die with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from holdfast.core.errors import HoldfastError
from holdfast.core.progress import Progress

__all__ = ["Failure", "Job", "WorkerDiedError", "run_jobs"]

THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# glibc gives freed blocks of more than 128 KiB back to the system, and every activation of the next step is then
# paged in anew: about a tenth of a training step of a small net.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
               "MALLOC_TOP_PAD_": str(1 << 26)}  # fmt: skip

WORKER_ENVIRONMENT = THREADS | KEPT_MEMORY


@dataclass(frozen=True, kw_only=True)
class Job:
    """A unit of work: ``call(*arguments, advance)`` in a worker, after the jobs named in ``needs``.

    Args:
        name: unique; shown beside the progress bar.
        call: a module-level function; its last argument is ``advance(units, note)``.
        arguments: picklable.
        needs: names of jobs that must have succeeded; if one fails, this job is skipped.
        units: how often ``advance`` will count, for the time left; None when nobody knows.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    needs: frozenset[str] = frozenset()
    units: int | None = 1


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job failed: one line, and the traceback for ``--debug``; ``late``: only because its time was over."""

    reason: str
    error: HoldfastError | None = None
    trace: str = ""
    skipped: bool = False
    late: bool = False


class WorkerDiedError(HoldfastError):
    """A worker process is gone: the system killed it for its memory, or native code crashed."""


class _TimeOverError(Exception):
    """Ends the workers; never leaves this file."""


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


def run_jobs(
    jobs: Sequence[Job], *, workers: int, progress: Progress, until: float | None = None
) -> Iterator[tuple[Job, Any]]:
    """Run jobs in worker processes and yield ``(job, result or Failure)`` as they end.

    Jobs start in the order given as soon as their needs are met. A dependency that is not among ``jobs`` counts
    as met. Closing the iterator stops the workers.

    Args:
        jobs: what to run.
        workers: processes.
        progress: shows how far the jobs are.
        until: in seconds of `time.time`: what has not ended then is stopped and yielded as a failure.

    Raises:
        WorkerDiedError: a worker process died, e.g. for lack of memory.
    """
    names = {job.name for job in jobs}
    board = _Board([Job(**{**vars(job), "needs": job.needs & names}) for job in jobs])
    try:
        with _pool(workers, progress) as pool:
            while board.waiting or board.running:
                for job in board.doomed():
                    yield job, Failure(reason="a job it needs failed", skipped=True)
                for job in board.ready():
                    with _interrupts_held():
                        board.running[pool.submit(_call, job)] = job
                for future in _ended(board, until):
                    job = board.running.pop(future)
                    result = _result(future)
                    (board.failed if isinstance(result, Failure) else board.done).add(job.name)
                    yield job, result
    except _TimeOverError:
        for job in (*board.running.values(), *board.waiting):
            yield job, Failure(reason="stopped: the time was over", late=True)


def _ended(board: _Board, until: float | None) -> set[Future[Any]]:
    """Wait for the next job to end."""
    if not board.running:
        return set()
    left = None if until is None else max(0.0, until - time.time())
    found = wait(board.running, timeout=left, return_when=FIRST_COMPLETED).done
    if not found:
        raise _TimeOverError
    return found


@contextmanager
def _pool(workers: int, progress: Progress) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned workers whose progress messages reach ``progress``; what runs is not waited for on an error."""
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    ended, others = threading.Event(), set(multiprocessing.active_children())
    listener = threading.Thread(target=_listen, args=(reader, ended, progress), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(writer, os.getpid()))
    try:
        with _worker_environment():
            yield pool
    except BaseException:  # an interrupt, or the caller stopped: checkpoints keep what was done
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        ended.set()
        listener.join()


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Settings that native libraries read when a worker starts."""
    saved = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started here are deaf to Ctrl-C, which a terminal sends to all: the parent alone answers it."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _listen(reader: Connection, ended: threading.Event, progress: Progress) -> None:
    bars: dict[str, Any] = {}
    while reader.poll(0.2) or not ended.is_set():
        if not reader.poll():
            continue
        name, total, units, note = reader.recv()
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
        raise WorkerDiedError(
            "a worker process died (out of memory, or killed)", fix="run the same command again: finished work is kept"
        ) from None


# --- in the worker --------------------------------------------------------------------------------------

_messages: Connection | None = None


def _start_worker(messages: Connection, parent: int) -> None:
    global _messages
    _messages = messages
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    import torch
    from torch import hub

    # Exports show progress by tqdm, whose own lock is a semaphore that a stopped worker would leave behind. Torch has a
    # stand-in without locks where tqdm is not installed.
    getattr(vars(hub)["tqdm"], "set_lock", lambda _: None)(threading.RLock())

    torch.set_num_threads(1)


def _tell(job: Job, units: int | None, note: str = "") -> None:
    """Send progress; None: the job is over. Short messages are written whole, so workers need no lock among them."""
    assert _messages is not None
    _messages.send((job.name, job.units, units, note[:200]))


def _die_with_parent(parent: int) -> None:
    """A parent killed with SIGKILL cannot stop its workers, and an orphan would go on writing."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _call(job: Job) -> Any:
    try:
        _tell(job, 0)
        return job.call(*job.arguments, _reporter(job))
    except HoldfastError as error:
        return Failure(reason=str(error), error=error, trace=traceback.format_exc())
    except Exception as error:  # a plug-in may raise anything; its cell fails, the others go on
        return Failure(reason=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    finally:
        _tell(job, None)


def _reporter(job: Job) -> Callable[[int, str], None]:
    """Counts units, and sends them at most ten times a second: a queue message costs more than a fast step."""
    pending, last = 0, 0.0

    def advance(units: int, note: str) -> None:
        nonlocal pending, last
        pending += units
        now = time.monotonic()
        if now - last >= 0.1:
            _tell(job, pending, note)
            pending, last = 0, now

    return advance
