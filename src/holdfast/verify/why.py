"""Why a graph from elsewhere gives other outputs than the model it is said to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from holdfast.core.errors import HoldfastError
from holdfast.deploy.blame import Blame, blame
from holdfast.deploy.graph import load_graph
from holdfast.verify.cells import Cells
from holdfast.verify.order import Source
from holdfast.weights import files

__all__ = ["Why", "siblings", "why", "words"]

SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class Why:
    """What was found out about a subject that is a graph from elsewhere.

    Args:
        subject: its label.
        found: causes with their proof; None where they could not be looked for.
        reason: why they could not.
    """

    subject: str
    found: Blame | None
    reason: str = ""


def why(cells: Cells) -> Iterator[Why]:
    """Causes of every fp32 graph from elsewhere, on a few samples under the reference pipeline."""
    split, pipeline = cells.order.frames, cells.order.preprocessing[0]
    for opened in cells.opened:
        if opened.artefact.backend != "graph" or opened.artefact.path is None:
            continue
        if opened.subject.precision != "fp32":
            yield Why(subject=opened.label, found=None, reason=f"weights are stored in {opened.subject.precision}")
            continue
        table = cells.table(split, pipeline)
        inputs = cells.task.inputs(table.batch(torch.arange(min(SAMPLES, len(table)))))
        try:
            graph = load_graph(opened.artefact.path)
            found = blame(cells.model, graph, inputs, cells.order.out / "artefacts",
                          candidates=siblings(cells.order.source))  # fmt: skip
            yield Why(subject=opened.label, found=found)
        except HoldfastError as error:
            yield Why(subject=opened.label, found=None, reason=str(error))


def siblings(source: Source) -> Mapping[str, Mapping[str, Tensor]]:
    """Other weights of the same model in the folder of these: the raw ones beside an average, for instance."""
    shapes = {name: value.shape for name, value in source.model.state_dict().items()}
    found = {}
    for path in sorted(source.weights.parent.glob("*.safetensors")):
        if path.resolve() == source.weights.resolve():
            continue
        try:
            state, _ = files.load(path)
        except HoldfastError:
            continue
        if {name: value.shape for name, value in state.items()} == shapes:
            found[path.name] = state
    return found


def words(told: Why) -> list[str]:
    """What was found, a line each."""
    found = told.found
    if found is None:
        return [f"{told.subject}: causes were not looked for: {told.reason}"]
    if found.below_floor:
        return [f"{told.subject}: below the noise floor ({found.drift_db:.0f} dB, floor {found.floor_db:.0f} dB): "
                "nothing to explain"]  # fmt: skip
    lines = [
        f"{told.subject}: {cause.kind} at {_places(cause.nodes)}: {cause.detail} "
        f"({cause.without_db:.0f} dB); {cause.fix}"
        for cause in found.causes
    ]
    if not found.explained:
        place = f", it starts at {found.starts}" if found.starts else ""
        rest = "something else remains" if found.causes else "no known cause"
        lines.append(f"{told.subject}: {rest} ({found.rest_db:.0f} dB, floor {found.floor_db:.0f} dB){place}")
    return lines


def _places(nodes: tuple[str, ...]) -> str:
    return nodes[0] if len(nodes) == 1 else f"{nodes[0]} and {len(nodes) - 1} more"
