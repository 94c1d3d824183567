"""The command line: every file of this folder is a command.

To add one, write ``cli/my_command.py`` with a function ``my_command`` whose parameters are annotated for typer; it
becomes ``holdfast my-command``, and the first line of its docstring its help. Nothing else is edited. Three rules:

- It returns its exit code, or None for 0: 0 it passed, 1 a gate failed, 2 bad input, 3 inconclusive.
- It raises `HoldfastError` for everything that its user can mend; here it becomes one line and exit code 2.
- It imports whatever is heavy inside the function, so that ``holdfast --help`` and ``holdfast list`` stay fast.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from holdfast.core.catalogue import describe
from holdfast.core.discover import load
from holdfast.core.errors import HoldfastError

__all__ = ["main"]

INTERRUPTED = 130
INTERNAL_ERROR = 70


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code.

    Args:
        arguments: what stands behind ``holdfast``; default: of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    app = typer.Typer(
        help="Find out how a model breaks between training and deployment, and keep it from breaking.",
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    )  # fmt: skip
    app.callback()(_options)
    commands = {plug_in.name.replace("_", "-"): plug_in.name for plug_in in describe("command")}
    del commands["main"]
    asked = next((argument for argument in given if not argument.startswith("-")), "")
    for name in [asked] if asked in commands else commands:
        app.command(name)(_guarded(load("command", commands[name]), debug))
    app([argument for argument in given if argument != "--debug"], prog_name="holdfast")


def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda wanted: _print_version(wanted), help="Show the version."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole trace of an error.")] = False,
) -> None:
    """Options of all commands; ``--debug`` may stand anywhere and is taken out before."""


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"holdfast {version('holdfast')}")
        raise typer.Exit


def _guarded(command: Callable[..., int | None], debug: bool) -> Callable[..., None]:
    """The command with its result as exit code and its errors as one line."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        code = 0
        try:
            code = command(*arguments, **options) or 0
            sys.stdout.flush()
        except KeyboardInterrupt:
            code = _complain("interrupted; run the same command to go on", INTERRUPTED)
        except BrokenPipeError:  # whoever reads has seen enough, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (HoldfastError, OSError) as error:
            if debug:
                raise
            code = _complain(str(error), getattr(error, "exit_code", HoldfastError.exit_code))
        except Exception as error:
            if debug or isinstance(error, typer.Exit | typer.Abort):
                raise
            code = _complain(
                f"{type(error).__name__}: {error} (a fault of holdfast; --debug shows where)", INTERNAL_ERROR
            )
        raise typer.Exit(code)

    return run


def _complain(message: str, code: int) -> int:
    print(f"holdfast: {' '.join(message.split())}", file=sys.stderr)
    return code
