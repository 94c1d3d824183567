"""``holdfast cases``: what a new checkpoint, engine or runtime does on recorded clips, without ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import use_data

__all__ = ["cases"]


def cases(
    clips: Annotated[Path, typer.Argument(help="Folder of clips: folders of images, npz files or videos.")],
    weights: Annotated[Path, typer.Argument(help="The new weights; in a run folder its study names the task.")],
    against: Annotated[Path | None, typer.Option(help="Weights in use; default: compare subjects of the new.")] = None,
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    subject: Annotated[list[str] | None, typer.Option(help="backend:precision; repeatable; first: reference.")] = None,
    recorded: Annotated[list[Path] | None, typer.Option(help="outputs.npz from the target; repeatable.")] = None,
    onnx: Annotated[list[Path] | None, typer.Option(help="An ONNX file to run as it is; repeatable.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="First: the reference's; default: train.")] = None,
    margin: Annotated[list[str] | None, typer.Option(help="symptom=value: a change counts from there on.")] = None,
    limit: Annotated[int | None, typer.Option(min=3, help="At most that many frames of a clip.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Put the worst frames into the report.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of results; an interrupted run goes on there.")] = Path("cases"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> int:
    """Say for each clip whether sway, bend and flips are fixed, broken or unchanged, compared with what is in use.

    Exit code: 0 nothing broke, 1 a case broke, 2 bad input.
    """
    from holdfast.core.store import atomic_path
    from holdfast.data.clips import read_clips
    from holdfast.verify.case_page import page, text, to_json
    from holdfast.verify.cases import compare_cases
    from holdfast.verify.order import SUBJECTS, Order, load_source, read_margins

    use_data(data)
    source = load_source(weights, task)
    leaf = next(iter(dict(source.task.space)))
    order = Order(
        source=source, out=out, subjects=tuple(subject or (("eager:fp32",) if against else SUBJECTS)),
        recorded=tuple(recorded or ()), graphs=tuple(onnx or ()), preprocessing=tuple(pipeline or ("train",)),
        margins=read_margins(margin or ()), limit=limit,
    )  # fmt: skip
    in_use = load_source(against, task) if against else None
    found = compare_cases(order, read_clips(clips, leaf), against=in_use, pictures=pictures, quiet=quiet)
    record = json.dumps(to_json(found), indent=1, allow_nan=False)
    for name, content in (("cases.json", record), ("cases.html", page(found))):
        with atomic_path(out / name) as path:
            path.write_text(content, encoding="utf-8")
    print(record if as_json else f"{text(found)}\n\nreport: {out / 'cases.html'}")
    return found.exit_code
