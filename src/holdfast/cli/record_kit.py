"""``holdfast record-kit``: a folder for the target computer, whose outputs come back to ``holdfast verify``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from holdfast.cli.studies import use_data

__all__ = ["record_kit"]


def record_kit(
    weights: Annotated[Path, typer.Argument(help="Weights; in a run folder its study names the task.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("kit"),
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="Whose inputs go along; default: the study's.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Splits; default: report and report_sequence.")] = None,
    clips: Annotated[Path | None, typer.Option(help="Folder of clips instead of splits; see holdfast cases.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most that many samples of a split.")] = None,
    with_model: Annotated[bool, typer.Option(help="Take the exported graph along.")] = True,
) -> None:
    """Write inputs, a manifest and one script that needs numpy and the target's runtime alone.

    Run ``python record.py`` there, bring ``outputs.npz`` back, and give it to ``holdfast verify --recorded``.
    """
    from holdfast.core.progress import Progress
    from holdfast.data.clips import read_clips
    from holdfast.deploy.export import export_onnx
    from holdfast.deploy.recording import write_kit
    from holdfast.verify.cases import with_clips
    from holdfast.verify.cells import Cells
    from holdfast.verify.order import Order, load_source

    use_data(data)
    source = load_source(weights, task)
    pipelines = tuple(pipeline or source.pipelines)
    found = read_clips(clips, next(iter(dict(source.task.space)))) if clips else {}
    if found:
        source = replace(source, task=with_clips(source.task, found))
    # What the target does not need must not lie in the folder that goes there.
    with TemporaryDirectory(prefix="holdfast-") as folder, Progress() as progress:
        order = Order(source=source, out=Path(folder), subjects=(), preprocessing=pipelines, limit=limit)
        order.check()
        with Cells(order, progress) as cells:
            splits = [name for name in found or split or ("report", "report_sequence") if split or cells.has(name)]
            graph = export_onnx(source.model, cells.few(2), order.out / "artefacts")
            batches = [source.task.inputs(cells.batch(name, p)) for name in splits for p in pipelines]
            about = {"task": source.task.name, "pipelines": pipelines, "splits": splits, "limit": limit,
                     "weights": source.about}  # fmt: skip
            write_kit(out, graph.path, batches, about=about, with_model=with_model)
    files = sorted(path for path in out.iterdir() if path.is_file())
    size = sum(path.stat().st_size for path in files) / 2**20
    count = sum(len(batch[0]) for batch in batches)
    print(f"{out}: {count} samples, {size:.1f} MiB: {', '.join(path.name for path in files)}\n"
          f"on the target: python record.py {'--onnxruntime model.onnx' if with_model else '--help'}\n"
          f"back here:     holdfast verify {weights} --recorded outputs.npz")  # fmt: skip
