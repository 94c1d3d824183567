from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from holdfast.cli import main as command_line
from holdfast.cli.main import main
from holdfast.core.catalogue import KINDS, describe
from holdfast.core.errors import InputError


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def raising(error: BaseException) -> Callable[..., None]:
    def command() -> None:
        """A command that fails."""
        raise error

    return command


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let ``holdfast list`` raise something."""

    def install(error: BaseException) -> None:
        found = command_line.load
        monkeypatch.setattr(
            command_line, "load", lambda kind, name: raising(error) if name == "list" else found(kind, name)
        )

    return install


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for command in describe("command"):
        if command.name != "main":
            assert re.search(rf"^  {command.name.replace('_', '-')}\s+\S", shown, flags=re.MULTILINE)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"holdfast {version('holdfast')}\n"


@pytest.mark.parametrize("arguments", [(), ("lst",), ("list", "--jsn"), ("run",), ("run", "demo", "--workers", "0")])
def test_wrong_use_ends_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    capsys.readouterr()


def test_an_error_of_the_user_is_one_line(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(InputError("no key\n  'a'", where="study.yaml", fix="write 'b'"))
    assert run("list") == 2
    assert capsys.readouterr().err == "holdfast: study.yaml: no key 'a' (write 'b')\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "holdfast: interrupted; run the same command to go on\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "holdfast: [Errno 13] Permission denied: '/x'\n"),
        (KeyError("x"), 70, "holdfast: KeyError: 'x' (a fault of holdfast; --debug shows where)\n"),
    ],
)
def test_other_ends(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    failing(error)
    assert run("list") == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [("--debug", "list"), ("list", "--debug")])
@pytest.mark.parametrize("error", [InputError("wrong"), KeyError("x")])
def test_debug_shows_the_trace(
    failing: Callable[[BaseException], None], error: Exception, arguments: tuple[str, ...]
) -> None:
    failing(error)
    with pytest.raises(type(error)):
        main(arguments)


# --- list -----------------------------------------------------------------------------------------------


def test_list_shows_every_plug_in_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == 0
    shown = capsys.readouterr().out
    for kind in KINDS:
        for plug_in in describe(kind):
            assert (f"{plug_in.summary}\n" in shown) == (kind != "command")


def test_list_one_kind_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "attack", "--json") == 0
    records: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert {record["kind"] for record in records} == {"attack"}
    fgsm = next(record for record in records if record["name"] == "fgsm")
    assert Path(fgsm["path"]).is_file()
    assert fgsm["module"] == "holdfast.attacks.fgsm"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    asked = "import sys; sys.stdin.read(); from holdfast.cli.main import main; main(['list'])"
    process = subprocess.Popen([sys.executable, "-c", asked], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate()
    assert (process.returncode, said) == (0, b"")


def test_an_unknown_kind_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "atack") == 2
    assert capsys.readouterr().err == "holdfast: no kind 'atack' (did you mean 'attack'?)\n"
