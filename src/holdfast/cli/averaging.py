"""What ``holdfast average`` does for each method: from files to weights and a record that says how they came about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from holdfast.cli.exams import TaskExams
from holdfast.cli.known_scores import Scores
from holdfast.core.errors import InputError
from holdfast.weights import files
from holdfast.weights.barrier import measure_barrier
from holdfast.weights.batchnorm import settle_statistics
from holdfast.weights.fisher import diagonal_fisher, merge_fisher
from holdfast.weights.greedy import GreedyRules, Ingredient, greedy_soup
from holdfast.weights.learned import LearnedRules, learned_soup
from holdfast.weights.model_stock import merge_model_stock
from holdfast.weights.opened import sha256
from holdfast.weights.tree import State, check_alike, mean
from holdfast.weights.trial import with_weights
from holdfast.weights.wise_ft import WeightPath, walk_path

__all__ = ["METHODS", "Order", "expand", "merge", "report", "walk"]

Weights = dict[str, Tensor]
SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the user asked for.

    Args:
        paths: the checkpoints.
        exams: of the task, or None without one.
        select_split: split whose scores choose.
        rules: of the greedy soup, and what to do about barriers.
        learned: of the learned soup.
        anchor: the weights before fine-tuning, for Model Stock.
        margin: difference of scores that counts as none when BatchNorm statistics are measured.
        scores: file of scores that ingredients got before, see `holdfast.cli.known_scores.Scores`.
        key: nested state dict of ``.pt`` files.
        advance: called with a label for every step done.
    """

    paths: Sequence[Path]
    exams: TaskExams | None = None
    select_split: str = "select"
    rules: GreedyRules = field(default_factory=GreedyRules)
    learned: LearnedRules = field(default_factory=LearnedRules)
    anchor: Path | None = None
    margin: float = 0.0
    scores: Path | None = None
    key: str | None = None
    advance: Callable[[str], None] = lambda _: None

    def load(self, path: Path) -> Weights:
        """The weights of one file."""
        return files.load(path, key=self.key)[0]

    def needs_task(self, method: str) -> TaskExams:
        """The exams, or a refusal."""
        if self.exams is None:
            raise InputError(f"method {method} measures", where="average", fix="give --task")
        return self.exams


def expand(paths: Sequence[Path], out: Path) -> list[Path]:
    """Files as they are, folders as the weight files in them (a folder with an index is one sharded checkpoint).

    ``out``, written by an earlier call into such a folder, is no ingredient of its own successor.

    Raises:
        InputError: a folder without weight files.
    """
    found: list[Path] = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.resolve() != out.resolve())
        if path.is_dir() and any(path.glob("*.safetensors.index.json")):
            inside = [path]
        if not inside:
            raise InputError("holds no weight files", where=str(path), fix=f"looked for {', '.join(SUFFIXES)}")
        found += inside
    return found


def merge(method: str, order: Order) -> tuple[Weights, dict[str, Any]]:
    """The weights that a method makes of the ingredients, statistics settled, and their record.

    Raises:
        InputError: the method needs something that is missing, or the ingredients do not go together.
    """
    state, record = METHODS[method](order)
    hashes = [{"file": path.name, "sha256": sha256(files.locate(path))} for path in order.paths]
    record |= {"ingredients": hashes}
    if order.exams is None:
        return state, record | {"batchnorm": {"policy": "average", "chosen": "average"}}
    state, statistics = _settle(order, order.exams, state)
    return state, record | {"task": order.exams.task.name, "batchnorm": statistics}


def _settle(order: Order, exams: TaskExams, state: State) -> tuple[Weights, dict[str, Any]]:
    policy, score = exams.policy, None
    if policy == "auto":
        if exams.has("val"):
            score = exams.score("val")
        else:
            policy = "recalibrate"  # nothing to measure on that is neither selection nor report
    last = order.load(order.paths[0]) if policy in ("keep", "auto") else None
    return settle_statistics(
        exams.model, state, last=last, policy=policy, batches=exams.training_batches, score=score,
        forward=exams.task.forward, margin=order.margin,
    )  # fmt: skip


def _uniform(order: Order) -> tuple[Weights, dict[str, Any]]:
    states = _alike(order)
    barriers = _barriers(order, states)
    return mean(list(states.values())), {"average": "uniform soup", **barriers}


def _alike(order: Order) -> dict[str, Weights]:
    states = {f"{index}: {path.name}": order.load(path) for index, path in enumerate(order.paths)}
    check_alike(states)
    return states


def _barriers(order: Order, states: dict[str, Weights]) -> dict[str, Any]:
    """Barriers from the first ingredient to each other one; refused or flagged as the rules say."""
    if order.exams is None or order.rules.barrier == "off":
        return {"barriers": "not measured"}
    exam = order.exams.losses("val" if order.exams.has("val") else order.select_split)
    exam = exam or order.exams.exam(order.select_split)
    (first, anchor), *others = states.items()
    sheet = exam.sheet(anchor)
    found = {}
    for label, state in others:
        found[label] = barrier = measure_barrier(sheet, exam.sheet(state))
        order.advance(label)
        if barrier.verdict == "blocked" and order.rules.barrier == "refuse":
            raise InputError(
                f"halfway to {first} {exam.name} gets worse by {barrier.height:.3g} +- {barrier.error:.2g}: "
                "they share no basin, their average is worth nothing", where=label,
                fix="leave it out, use --method greedy, or --barrier flag to average all the same",
            )  # fmt: skip
    return {"barriers": {label: asdict(barrier) for label, barrier in found.items()}}


def _greedy(order: Order) -> tuple[Weights, dict[str, Any]]:
    exams = order.needs_task("greedy")
    exam, loss = exams.exam(order.select_split), exams.losses(order.select_split)
    known = Scores(order.scores, f"{exams.task.name}: {exam.name}, n {exam.size}, BatchNorm {exams.policy}")
    shelf = [Ingredient(label=str(path), load=partial(order.load, path), score=known.of(path)) for path in order.paths]
    soup = greedy_soup(shelf, exam, rules=order.rules, loss=loss, advance=order.advance)
    known.keep({Path(trial.label): trial.score for trial in soup.trials})
    return soup.state, {**soup.record(), "selected_on": exam.name, "rules": asdict(order.rules)}


def _learned(order: Order) -> tuple[Weights, dict[str, Any]]:
    exams = order.needs_task("learned")
    states = _alike(order)
    barriers = _barriers(order, states)
    table, task = exams.table(order.select_split, "train"), exams.task
    state, record = learned_soup(
        exams.model, list(states.values()), lambda: table.batches(128),
        lambda forward, batch: task.loss(task.forward(forward, batch), batch), rules=order.learned,
    )  # fmt: skip
    return state, {**record, **barriers, "selected_on": f"loss on {order.select_split}"}


def _model_stock(order: Order) -> tuple[Weights, dict[str, Any]]:
    if order.anchor is None:
        raise InputError("Model Stock starts from the weights before fine-tuning", where="average", fix="give --anchor")
    return merge_model_stock(order.load(order.anchor), list(_alike(order).values()))


def _fisher(order: Order) -> tuple[Weights, dict[str, Any]]:
    exams = order.needs_task("fisher")
    states = _alike(order)
    barriers = _barriers(order, states)
    fishers = [fisher_of(exams, state) for state in states.values()]
    return merge_fisher(list(states.values()), fishers), {"average": "fisher merging", **barriers}


def fisher_of(exams: TaskExams, state: State) -> Weights:
    """The diagonal Fisher values of weights on the training data; the task's outputs must be logits."""
    with with_weights(exams.model, state) as model:
        return diagonal_fisher(model, exams.training_batches(), forward=exams.task.forward)


METHODS: dict[str, Callable[[Order], tuple[Weights, dict[str, Any]]]] = {
    "uniform": _uniform,
    "greedy": _greedy,
    "learned": _learned,
    "model-stock": _model_stock,
    "fisher": _fisher,
}


def walk(
    order: Order, exams: TaskExams, alphas: Sequence[float], heads: Sequence[str], domains: Sequence[str], *,
    fisher: bool = False,
) -> tuple[WeightPath, dict[str, Any]]:  # fmt: skip
    """The measured path from the first checkpoint to the second, and the record of its best point."""
    start, end = (order.load(path) for path in order.paths)
    measured = {name: exams.domain(name) for name in domains}
    fishers = (fisher_of(exams, {**end, **start}), fisher_of(exams, end)) if fisher else None
    path = walk_path(
        start, end, measured, alphas=alphas, heads=heads, fishers=fishers,
        advance=lambda alpha: order.advance(f"alpha {alpha:.3g}"),
    )  # fmt: skip
    ends = [{"file": p.name, "sha256": sha256(files.locate(p))} for p in order.paths]
    recalibrated = next(iter(measured.values())).prepare is not None
    statistics = "recalibrate" if recalibrated else "average"
    return path, {
        **path.record(), "task": exams.task.name, "domains": [exam.name for exam in measured.values()],
        "ingredients": ends, "batchnorm": {"policy": exams.policy, "chosen": statistics},
    }  # fmt: skip


def report(order: Order, exams: TaskExams, state: State, record: dict[str, Any], split: str) -> dict[str, Any]:
    """Scores of the result, and of the best single ingredient, on a split that chose nothing.

    Raises:
        InputError: the split did choose something.
    """
    if split in (order.select_split, "val"):
        raise InputError(f"split {split!r} chose, its score flatters", where="--report-split", fix="name another")
    exam = replace(exams.exam(split), prepare=None)  # the statistics are settled
    soup = exam.sheet(state)
    told: dict[str, Any] = {
        "split": split,
        "score": exam.name,
        "value": soup.mean(),
        "error": soup.error(),
        "n": exam.size,
    }
    if record.get("trials"):
        best = exam.sheet(order.load(Path(record["trials"][0]["label"])))
        told |= {"best_ingredient": record["trials"][0]["label"], "best_ingredient_value": best.mean()}
    return told
