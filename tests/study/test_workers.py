"""Worker processes: dependencies, failures, progress, and workers that die."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.core.errors import HoldfastError, InputError
from holdfast.core.progress import Progress
from holdfast.study.workers import Failure, Job, run_jobs

Advance = Callable[[int, str], None]


def write_time(path: Path, seconds: float, advance: Advance) -> float:
    time.sleep(seconds)
    advance(1, "")
    path.write_text(str(time.monotonic()))
    return time.monotonic()


def threads_of(variable: str, advance: Advance) -> tuple[str, int]:
    import torch

    return os.environ[variable], torch.get_num_threads()


def kind_of_tqdms_lock(_: str, advance: Advance) -> str:
    from torch import hub

    return type(hub.tqdm.get_lock()).__module__


def refuse(what: str, advance: Advance) -> None:
    raise InputError(what, where="here", fix="mend it")


def crash(what: str, advance: Advance) -> None:
    raise ZeroDivisionError(what)


def vanish(code: int, advance: Advance) -> None:
    os._exit(code)


def run(*jobs: Job, workers: int = 2) -> dict[str, object]:
    with Progress(quiet=True) as progress:
        return {job.name: result for job, result in run_jobs(jobs, workers=workers, progress=progress)}


def test_jobs_wait_for_what_they_need(tmp_path: Path) -> None:
    late = Job(
        name="late", call=write_time, arguments=(tmp_path / "late", 0.0), needs=frozenset({"early", "elsewhere"})
    )
    early = Job(name="early", call=write_time, arguments=(tmp_path / "early", 0.3))
    found = run(late, early)
    assert found["late"] > found["early"]


def test_workers_have_one_thread() -> None:
    assert run(Job(name="a", call=threads_of, arguments=("OMP_NUM_THREADS",)), workers=1)["a"] == ("1", 1)


def test_a_worker_has_no_semaphore_to_leave_behind() -> None:
    assert run(Job(name="a", call=kind_of_tqdms_lock, arguments=("",)), workers=1)["a"] == "_thread"


def test_failures_keep_their_kind_and_stop_only_what_needs_them(tmp_path: Path) -> None:
    found = run(
        Job(name="refused", call=refuse, arguments=("bad",)),
        Job(name="crashed", call=crash, arguments=("boom",)),
        Job(name="skipped", call=write_time, arguments=(tmp_path / "x", 0.0), needs=frozenset({"crashed"})),
        Job(name="fine", call=write_time, arguments=(tmp_path / "y", 0.0)),
        workers=1,
    )
    refused, crashed, skipped = found["refused"], found["crashed"], found["skipped"]
    assert isinstance(refused, Failure)
    assert isinstance(refused.error, InputError)
    assert refused.error.fix == "mend it"
    assert isinstance(crashed, Failure)
    assert crashed.reason == "ZeroDivisionError: boom"
    assert "in crash" in crashed.trace
    assert isinstance(skipped, Failure)
    assert skipped.skipped
    assert isinstance(found["fine"], float)


def test_a_worker_that_dies_is_one_clear_error() -> None:
    with pytest.raises(HoldfastError, match="a worker process died"):
        run(Job(name="gone", call=vanish, arguments=(9,)), workers=1)
