from __future__ import annotations

import io
import re
import threading

import pytest

from holdfast.core.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work_in(stream: io.StringIO, **options: object) -> str:
    with Progress(stream=stream, **options) as progress:  # type: ignore[arg-type]  # options of the tests below
        training = progress.add("training", total=4)
        for step in range(4):
            progress.advance(training, note=f"loss {step}")
        progress.say("[red] is no markup")
    return stream.getvalue()


def test_quiet_is_silent() -> None:
    assert work_in(io.StringIO(), quiet=True) == ""
    assert work_in(Terminal(), quiet=True) == ""


def test_plain_lines_tell_how_far_and_how_long() -> None:
    lines = work_in(io.StringIO(), interval_s=0).splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"training: 2 of 4, \d+ s left, loss 1", lines[1])
    assert re.fullmatch(r"training: done in \d+ s, loss 3", lines[3])
    assert lines[4] == "[red] is no markup"


def test_plain_lines_are_rare_and_short_work_has_none() -> None:
    assert work_in(io.StringIO()) == "[red] is no markup\n"


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = work_in(Terminal())
    assert "training" in shown
    assert "4/4" in shown or "3/4" in shown or "0/4" in shown
    assert "[red] is no markup" in shown


@pytest.mark.parametrize("total", [None, 0, 10])
def test_work_can_end_early_and_its_size_be_unknown(total: int | None) -> None:
    stream = io.StringIO()
    with Progress(stream=stream, interval_s=0) as progress:
        work = progress.add("reading", total=total)
        progress.advance(work, 3)
        progress.finish(work)
        progress.finish(work)
    assert stream.getvalue().splitlines()[-1].startswith("reading: done in")


def test_threads_lose_no_count() -> None:
    stream = io.StringIO()
    with Progress(stream=stream, interval_s=0) as progress:
        work = progress.add("counting", total=400)
        threads = [
            threading.Thread(target=lambda: [progress.advance(work) for _ in range(100)]) for _ in range(4)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum("done in" in line for line in stream.getvalue().splitlines()) == 1
