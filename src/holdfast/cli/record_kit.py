"""``holdfast record-kit``: a folder for the target computer, whose outputs come back to ``holdfast verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.studies import use_data

__all__ = ["record_kit"]


def record_kit(
    weights: Annotated[Path, typer.Argument(help="Weights; in a run folder its study names the task.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("kit"),
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    pipeline: Annotated[list[str] | None, typer.Option(help="Pipelines whose inputs go along; default: all.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Splits; default: report and report_sequence.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most that many samples of a split.")] = None,
    with_model: Annotated[bool, typer.Option(help="Take the exported graph along.")] = True,
) -> None:
    """Write inputs, a manifest and one script that needs numpy and the target's runtime alone.

    Run ``python record.py`` there, bring ``outputs.npz`` back, and give it to ``holdfast verify --recorded``.
    """
    from holdfast.core.progress import Progress
    from holdfast.deploy.export import export_onnx
    from holdfast.deploy.recording import write_kit
    from holdfast.verify.cells import Cells
    from holdfast.verify.order import Order, load_source

    use_data(data)
    source = load_source(weights, task)
    pipelines = tuple(pipeline or source.task.pipelines)
    frames, sequences = [*(split or ("report", "report_sequence")), ""][:2]
    order = Order(
        source=source, out=out / "work", subjects=(), preprocessing=pipelines, frames=frames, sequences=sequences,
        limit=limit,
    )  # fmt: skip
    order.check()
    with Progress() as progress, Cells(order, progress) as cells:
        graph = export_onnx(source.model, cells.few(2), order.out / "artefacts")
        batches = [source.task.inputs(cells.batch(name, p)) for name in cells.splits() for p in pipelines]
    about = {"task": source.task.name, "pipelines": pipelines, "splits": cells.splits(), "weights": source.about}
    write_kit(out, graph.path, batches, about=about, with_model=with_model)
    count = sum(len(batch[0]) for batch in batches)
    print(f"{out}: {count} samples; on the target run  python record.py --help")
