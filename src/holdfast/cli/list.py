"""``holdfast list``: what there is to choose from."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from holdfast.core.catalogue import KINDS, PlugIn, describe
from holdfast.core.errors import InputError, nearest

__all__ = ["list_"]

SHOWN = [kind for kind in KINDS if kind != "command"]


def list_(
    kind: Annotated[str, typer.Argument(help=f"Only one kind: {', '.join(SHOWN)}.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List every task, method, average, attack, probe, back-end and so on, with what it does."""
    if kind and kind not in SHOWN:
        raise InputError(f"no kind {kind!r}", fix=nearest(kind, SHOWN))
    found = [plug_in for shown in ([kind] if kind else SHOWN) for plug_in in describe(shown)]
    print(json.dumps([_record(plug_in) for plug_in in found], indent=2) if as_json else _table(found))


def _record(plug_in: PlugIn) -> dict[str, str]:
    return {name: str(value or "") for name, value in asdict(plug_in).items()}


def _table(found: list[PlugIn]) -> str:
    width = max((len(plug_in.name) for plug_in in found), default=0)
    lines: list[str] = []
    for plug_in in found:
        if f"{plug_in.kind}:" not in lines:
            lines += ["", f"{plug_in.kind}:"]
        lines.append(f"  {plug_in.name:<{width}}  {plug_in.summary}")
    return "\n".join(lines).strip("\n")
