"""``holdfast average``: one set of weights out of many checkpoints, with the reasons in its metadata."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.studies import use_data
from holdfast.core.errors import InputError

if TYPE_CHECKING:
    from holdfast.cli.averaging import Order
    from holdfast.cli.exams import TaskExams
    from holdfast.weights.wise_ft import WeightPath

__all__ = ["average"]


class Method(StrEnum):
    """How the checkpoints are combined."""

    uniform = "uniform"
    greedy = "greedy"
    learned = "learned"
    model_stock = "model-stock"
    fisher = "fisher"
    posthoc_ema = "posthoc-ema"


class Accept(StrEnum):
    """When a greedy soup takes an ingredient."""

    better = ">"
    as_good = ">="
    lcb = "lcb"


class Barriers(StrEnum):
    """What happens to ingredients that share no basin."""

    refuse = "refuse"
    flag = "flag"
    off = "off"


class Statistics(StrEnum):
    """Where BatchNorm statistics come from."""

    auto = "auto"
    recalibrate = "recalibrate"
    average = "average"
    keep = "keep"


_DOMAIN = "Measured along the path: split, split/pipeline or split/pipeline@backend:precision. Repeatable."


def average(
    checkpoints: Annotated[list[Path], typer.Argument(help="Files, sharded folders, or folders of checkpoints.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("average.safetensors"),
    method: Annotated[Method, typer.Option(help="uniform needs no task, the others measure.")] = Method.uniform,
    wise_ft: Annotated[bool, typer.Option("--wise-ft", help="Walk from the first checkpoint to the second.")] = False,
    alphas: Annotated[str, typer.Option(help="Points of the path: first:last:count, or a,b,c.")] = "0:1:11",
    head: Annotated[list[str] | None, typer.Option(help="Prefix of a new head: not interpolated. Repeatable.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help=_DOMAIN)] = None,
    fisher: Annotated[bool, typer.Option("--fisher", help="Weigh the path by Fisher values.")] = False,
    task: Annotated[str, typer.Option(help="A built-in task, file.py:name or package.module:name.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets; default: $HOLDFAST_DATA.")] = None,
    metric: Annotated[str, typer.Option(help="Metric that decides; default: the task's first.")] = "",
    select_split: Annotated[str, typer.Option(help="Split that chooses.")] = "select",
    report_split: Annotated[str, typer.Option(help="Split that is only reported; empty: none.")] = "report",
    accept: Annotated[Accept, typer.Option(help="Greedy: strictly better, as good, or beyond noise.")] = Accept.better,
    risk: Annotated[float, typer.Option(help="Greedy: chance of a wrong early decision; 0: none early.")] = 0.01,
    scores: Annotated[Path | None, typer.Option(help="Greedy: file of scores; known ones are not measured.")] = None,
    barrier: Annotated[Barriers, typer.Option(help="Ingredients of another basin.")] = Barriers.refuse,
    batchnorm: Annotated[Statistics, typer.Option(help="BatchNorm statistics; needs a task.")] = Statistics.auto,
    margin: Annotated[float, typer.Option(help="BatchNorm auto: difference of scores that counts as none.")] = 0.0,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Learned: coefficients for every tensor.")] = False,
    logit_scale: Annotated[bool, typer.Option("--logit-scale", help="Learned: a factor on the logits, too.")] = False,
    width: Annotated[float, typer.Option(help="Post-hoc EMA: share of the run that it looks back.")] = 0.1,
    anchor: Annotated[Path | None, typer.Option(help="Model Stock: the weights before fine-tuning.")] = None,
    key: Annotated[str, typer.Option(help="Which nested state dict of .pt files, e.g. ema.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Average checkpoints: soups, paths between two models, merging. Written whole or not at all.

    A task tells how good weights are; without one only the uniform soup, Model Stock and the bare path are possible.
    """
    from holdfast.cli.averaging import Order, expand
    from holdfast.weights.greedy import GreedyRules
    from holdfast.weights.learned import LearnedRules

    use_data(data)
    order = Order(
        paths=expand(checkpoints, out), exams=_exams(task, metric, batchnorm), select_split=select_split,
        rules=GreedyRules(accept=accept.value, risk=risk, barrier=barrier.value),
        learned=LearnedRules(per_layer=per_layer, logit_scale=logit_scale), anchor=anchor, margin=margin, scores=scores,
        key=key or None, advance=lambda label: print(f"  {label}", file=sys.stderr),
    )  # fmt: skip
    try:
        if wise_ft:
            record = _walk(order, out, _numbers(alphas), head or [], domain or [select_split], fisher, report_split)
        elif method is Method.posthoc_ema:
            record = _posthoc(order, out, width)
        elif method is Method.uniform and order.exams is None:
            record = _stream(order, out)
        else:
            record = _merge(order, out, method.value, report_split)
    except InputError as error:
        raise _with_table_apart(error) from error
    print(json.dumps(record) if as_json else _summary(record, out))


def _exams(task: str, metric: str, batchnorm: Statistics) -> TaskExams | None:
    if not task:
        return None
    from holdfast.cli.exams import TaskExams
    from holdfast.core.discover import load_task

    return TaskExams(task=load_task(task, base=Path()), metric=metric, policy=batchnorm.value)


def _stream(order: Order, out: Path) -> dict[str, Any]:
    from holdfast.weights.stream import average_files

    told = {"average": "uniform soup", "barriers": "not measured: no task",
            "batchnorm": {"policy": "average", "chosen": "average"}}  # fmt: skip
    return average_files(order.paths, out, key=order.key, metadata=told)


def _posthoc(order: Order, out: Path, width: float) -> dict[str, Any]:
    from holdfast.weights.opened import open_checkpoint
    from holdfast.weights.posthoc_ema import Profile, solve_profile
    from holdfast.weights.stream import average_files

    stored = []
    for path in order.paths:
        with open_checkpoint(path, key=order.key) as opened:
            if not {"width", "step"} <= opened.metadata.keys():
                raise InputError("is no snapshot of a post-hoc EMA", where=str(path),
                                 fix="save what PostHocEMA's snapshots() gives")  # fmt: skip
            stored.append(Profile(float(opened.metadata["width"]), int(opened.metadata["step"])))
    target = Profile(width, max(profile.step for profile in stored))
    told = {"average": "posthoc_ema", "width": width, "step": target.step,
            "batchnorm": {"policy": "average", "chosen": "average"}}  # fmt: skip
    coefficients = solve_profile(stored, target)
    return average_files(order.paths, out, coefficients=coefficients, key=order.key, metadata=told)


def _merge(order: Order, out: Path, method: str, report_split: str) -> dict[str, Any]:
    from holdfast.cli.averaging import merge, report
    from holdfast.weights import files

    state, record = merge(method, order)
    if order.exams is not None and report_split and order.exams.has(report_split):
        record["report"] = report(order, order.exams, state, record, report_split)
    files.save(out, state, record)
    return record


def _walk(
    order: Order, out: Path, alphas: list[float], heads: list[str], domains: list[str], fisher: bool, report_split: str
) -> dict[str, Any]:  # fmt: skip
    from holdfast.cli.averaging import report, walk
    from holdfast.weights import files

    if len(order.paths) != 2:
        raise InputError(f"{len(order.paths)} checkpoints", where="--wise-ft", fix="name the start and the end")
    if order.exams is None:
        return _bare_path(order, out, alphas, heads)
    path, record = walk(order, order.exams, alphas, heads, domains, fisher=fisher)
    walked = {name.partition("@")[0].partition("/")[0] for name in domains}
    if report_split and report_split not in walked and order.exams.has(report_split):
        record["report"] = report(order, order.exams, path.state, record, report_split)
    files.save(out, path.state, record)
    picture = out.with_suffix(".svg")
    _draw(path, picture)
    return {**record, "picture": str(picture)}


def _bare_path(order: Order, out: Path, alphas: list[float], heads: list[str]) -> dict[str, Any]:
    """Without a task nothing can be measured: every point becomes a file."""
    from holdfast.weights import files
    from holdfast.weights.tree import lerp
    from holdfast.weights.wise_ft import split_heads

    start, end = (order.load(path) for path in order.paths)
    body, head = split_heads(start, end, heads)
    written = []
    for alpha in alphas:
        state = {**lerp(body, {name: end[name] for name in body}, alpha), **head}
        path = out.with_name(f"{out.stem}-{alpha:.3g}{out.suffix}")
        told = {"average": "wise-ft", "alpha": alpha, "heads": list(head), "ends": [str(p) for p in order.paths]}
        files.save(path, {name: state[name] for name in end}, told)
        written.append(str(path))
    return {"average": "wise-ft", "heads": list(head), "files": written}


def _draw(path: WeightPath, picture: Path) -> None:
    from holdfast.core.store import atomic_path
    from holdfast.report.svg import image_bytes, style
    from holdfast.weights.picture import draw_path

    with style():
        content = image_bytes(draw_path(path), "svg")
    with atomic_path(picture) as temporary:
        temporary.write_bytes(content)


def _numbers(text: str) -> list[float]:
    try:
        if ":" in text:
            first, last, count = text.split(":")
            steps = int(count) - 1
            return [float(first) + (float(last) - float(first)) * k / max(1, steps) for k in range(steps + 1)]
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{text!r} is no list of numbers", where="--alphas", fix="write 0:1:11 or 0,0.5,1") from None


def _with_table_apart(error: InputError) -> InputError:
    """Errors are one line; a table of mismatches is printed before it."""
    headline, *table = error.what.splitlines()
    if table:
        print("\n".join(table), file=sys.stderr)
    return InputError(headline, where=error.where, fix=error.fix)


def _summary(record: dict[str, Any], out: Path) -> str:
    lines = [f"{record['average']} -> {', '.join(record.get('files', [])) or out}"]
    if "norm_ratio" in record:
        count = len(record["ingredients"])
        lines.append(f"norm of the average over that of the first: {record['norm_ratio']:.3f}")
        if record["norm_ratio"] < (1 + count**-0.5) / 2:
            lines.append("WARNING: the ingredients cancel like unrelated networks; they hardly share a basin")
    lines += [f"  {'+' if t['accepted'] else '-'} {t['label']}: {t['reason']}" for t in record.get("trials", [])]
    lines += [f"  alpha {row['alpha']:.3g}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "alpha")
              for row in record.get("path", [])]  # fmt: skip
    if "alpha" in record and "gain" in record:
        lines.append(
            f"best mean over domains at alpha {record['alpha']:.3g}, {record['gain']:+.3g} over the better end"
        )
    lines += [f"  {name}: {value}" for name, value in record.get("report", {}).items()]
    lines += [record[name] for name in ("explanation", "picture") if record.get(name)]
    return "\n".join(lines)
