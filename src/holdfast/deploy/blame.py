r"""Why a graph from elsewhere gives other outputs: causes by class and node, each proved by putting it right.

Whatever differs between the two graphs is only a suspect. All suspects are put right in a copy, and the outputs are
compared again; then each is left out in turn. What makes the drift come back is a cause, what does not is harmless. A
drift that the model itself shows when only the order of its sums changes is blamed on nothing.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from holdfast.core.errors import BackendError
from holdfast.deploy.differences import Kind
from holdfast.deploy.drift import node_drift
from holdfast.deploy.export import export_onnx
from holdfast.deploy.floor import eager_changes
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.graph import GraphView
from holdfast.deploy.nest import flatten
from holdfast.deploy.ort import open_session, run_session
from holdfast.deploy.suspects import Suspect, joined, suspects_of

__all__ = ["FIXES", "Blame", "Cause", "blame"]

SLACK_DB = 6.0
"""Another exporter orders sums in its own way; agreement within this of the model's own floor is no drift."""
_HELPS_DB = 1.0
FIXES: dict[Kind, str] = {
    "attribute": "export again, or set the attribute as the trained model has it",
    "batchnorm": "export the weights whose statistics were settled, in eval mode",
    "channels": "feed RGB where training did, or reorder once",
    "constant": "find who wrote the constant: the exporter keeps what it saw of the example",
    "epsilon": "set epsilon as in training; converters have defaults of their own",
    "other_weights": "export the weight file that was chosen",
    "resize": "set the mode, grid and antialiasing of training",
    "rounded_weights": "export from the fp32 weights",
    "weights": "export this layer again",
}
"""What to do about each class of causes."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One cause of a drift.

    Args:
        kind: see `holdfast.deploy.differences.Kind`.
        nodes: where in the other graph, or in the trained model for what is folded; in the order of the graph.
        detail: what is different, in words, at the first of them.
        without_db: agreement of the outputs with all other causes put right: how bad this one is alone.
    """

    kind: Kind
    nodes: tuple[str, ...]
    detail: str
    without_db: float

    @property
    def fix(self) -> str:
        """What to do."""
        return FIXES[self.kind]


@dataclass(frozen=True, kw_only=True)
class Blame:
    """Why the outputs of a graph are not those of the model.

    Args:
        drift_db: agreement of the outputs with those of the reference graph.
        floor_db: agreement of the model with itself when only the order of its sums changes.
        causes: the worst first; empty where there is no drift, or none was found.
        rest_db: agreement with all causes put right; below the floor, something else is wrong as well.
        starts: the node where what is left starts, as far as the graphs share names.
    """

    drift_db: float
    floor_db: float
    causes: tuple[Cause, ...] = ()
    rest_db: float = math.inf
    starts: str = ""

    @property
    def below_floor(self) -> bool:
        """Whether there is nothing to explain."""
        return self.drift_db >= self.floor_db - SLACK_DB

    @property
    def explained(self) -> bool:
        """Whether the causes are all there is."""
        return self.rest_db >= self.floor_db - SLACK_DB


def blame(
    model: nn.Module, other: onnx.ModelProto, inputs: tuple[Tensor, ...], folder: Path, *,
    candidates: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Blame:  # fmt: skip
    """Compare a graph with the model it is said to hold.

    Args:
        model: the trained model, in eval mode.
        other: a valid graph from elsewhere, with the model's inputs and outputs.
        inputs: positional inputs, real ones: two samples at least, a dozen is better.
        folder: for the export of the reference.
        candidates: state dicts by name that the graph may hold instead, such as the raw weights beside the average.

    Raises:
        BackendError: the model cannot be exported, or the other graph does not run.
    """
    reference = onnx.load(export_onnx(model, inputs, folder).path)
    expected = _run(reference, inputs)
    floor_db = _floor(model, inputs)
    drift_db = agreement_db(expected, _run(other, inputs))
    found = Blame(drift_db=drift_db, floor_db=floor_db, rest_db=drift_db)
    if found.below_floor:
        return found
    trial = _Trial(GraphView(other).model, inputs, expected, floor_db - SLACK_DB)
    suspects = suspects_of(model, reference, other, inputs)
    suspects = _other_weights(model, other, inputs, folder, candidates or {}, suspects) + _swapped_input(
        trial, suspects
    )
    causes, kept, rest = trial.sieve(suspects)
    starts = "" if rest >= trial.enough_db else _starts(reference, trial.changed(kept), inputs, floor_db)
    return Blame(drift_db=drift_db, floor_db=floor_db, causes=tuple(causes), rest_db=rest, starts=starts)


_OF_WEIGHTS = ("batchnorm", "channels", "epsilon", "other_weights", "rounded_weights", "weights")


def _run(graph: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    return run_session(open_session(graph.SerializeToString(), threads=1), inputs)


def _floor(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    with torch.no_grad():
        plain, _ = flatten(model(*inputs))
    return min(agreement_db(plain, flatten(changed)[0]) for changed in eager_changes(model, inputs).values())


# --- suspects of another kind ----------------------------------------------------------------------------


def _other_weights(
    model: nn.Module, other: onnx.ModelProto, inputs: tuple[Tensor, ...], folder: Path,
    candidates: Mapping[str, Mapping[str, Tensor]], suspects: list[Suspect],
) -> list[Suspect]:  # fmt: skip
    """Suspects with all that concerns weights put down to the candidate that the graph holds, if it holds one."""
    about = [suspect for suspect in suspects if suspect.kind in _OF_WEIGHTS]
    if not about:
        return suspects
    another = copy.deepcopy(model)
    for name, state in candidates.items():
        another.load_state_dict(dict(state))
        theirs = onnx.load(export_onnx(another, inputs, folder).path)
        left = suspects_of(another, theirs, other, inputs)
        same = agreement_db(_run(theirs, inputs), _run(other, inputs)) >= _floor(another, inputs) - SLACK_DB
        if same or not any(suspect.kind in _OF_WEIGHTS for suspect in left):
            held = joined("other_weights", about, f"these are the weights of {name}")
            return [held, *(suspect for suspect in suspects if suspect not in about)]
    return suspects


def _swapped_input(trial: _Trial, suspects: Sequence[Suspect]) -> list[Suspect]:
    """The channels of an image input, if feeding them in another order is all it takes."""
    if any(suspect.kind == "channels" for suspect in suspects):
        return []
    for i, image in enumerate(trial.inputs):
        if image.ndim != 4 or image.shape[1] not in (3, 4):
            continue
        for order in itertools.permutations(range(image.shape[1])):
            given = (*trial.inputs[:i], image[:, list(order)], *trial.inputs[i + 1 :])
            if order != tuple(sorted(order)) and trial.agreement(trial.graph, given) >= trial.enough_db:
                name = trial.graph.graph.input[i].name
                readers = [node.name for node in trial.graph.graph.node if name in node.input]

                def feed_in_order(model: onnx.ModelProto, name: str = name, order: Sequence[int] = order) -> None:
                    _reorder(model, name, order)

                detail = f"input {name} is read with its channels in the order {list(order)}"
                return [Suspect(kind="channels", nodes=tuple(readers), detail=detail, put_right=(feed_in_order,))]
    return []


def _reorder(model: onnx.ModelProto, name: str, order: Sequence[int]) -> None:
    """Gather the channels of an input before anything reads them, in place."""
    gathered, index = (
        f"{name}__ordered",
        onnx.numpy_helper.from_array(torch.tensor(list(order)).numpy(), f"{name}__order"),
    )
    for node in model.graph.node:
        for i, tensor in enumerate(node.input):
            node.input[i] = gathered if tensor == name else tensor
    model.graph.initializer.append(index)
    model.graph.node.insert(0, onnx.helper.make_node("Gather", [name, index.name], [gathered], name=gathered, axis=1))


# --- proof ----------------------------------------------------------------------------------------------


class _Trial:
    """Tries what the outputs are when suspects are put right."""

    def __init__(
        self, graph: onnx.ModelProto, inputs: tuple[Tensor, ...], expected: list[Tensor], enough_db: float
    ) -> None:
        self.graph, self.inputs, self.expected, self.enough_db = graph, inputs, expected, enough_db

    def agreement(self, graph: onnx.ModelProto, inputs: tuple[Tensor, ...]) -> float:
        try:
            got = _run(graph, inputs)
        except BackendError:  # a setting that does not fit the other graph: no cause
            return -math.inf
        same = [x.shape for x in got] == [x.shape for x in self.expected]
        return agreement_db(self.expected, got) if same else -math.inf

    def changed(self, suspects: Sequence[Suspect]) -> onnx.ModelProto:
        graph = onnx.ModelProto()
        graph.CopyFrom(self.graph)
        for suspect in suspects:
            for edit in suspect.put_right:
                edit(graph)
        return graph

    def sieve(self, suspects: list[Suspect]) -> tuple[list[Cause], list[Suspect], float]:
        """Causes, the worst first; the suspects behind them; and the agreement with those put right."""
        kept = suspects if self._with(suspects) >= self.enough_db else self._chosen(suspects)
        best = self._with(kept)
        limit_db = self.enough_db if best >= self.enough_db else best - SLACK_DB
        found: dict[Kind, Cause] = {}
        for suspect in list(kept):
            without = self._with([other for other in kept if other is not suspect])
            if without >= limit_db:
                kept = [other for other in kept if other is not suspect]
                continue
            cause = Cause(kind=suspect.kind, nodes=suspect.nodes, detail=suspect.detail, without_db=without)
            found[suspect.kind] = _merged(found[suspect.kind], cause) if suspect.kind in found else cause
        return sorted(found.values(), key=lambda cause: cause.without_db), kept, best

    def _chosen(self, suspects: Sequence[Suspect]) -> list[Suspect]:
        """Suspects that help, one after the other, the most helpful first: some pairs of nodes may be no pairs."""
        kept: list[Suspect] = []
        now = self._with(kept)
        while now < self.enough_db and len(kept) < len(suspects):
            rest = [suspect for suspect in suspects if suspect not in kept]
            helped = {i: self._with([*kept, suspect]) for i, suspect in enumerate(rest)}
            i = max(helped, key=helped.__getitem__)
            if not helped[i] > now + _HELPS_DB:
                break
            kept.append(rest[i])
            now = helped[i]
        return kept

    def _with(self, put_right: Sequence[Suspect]) -> float:
        return self.agreement(self.changed(put_right), self.inputs)


def _merged(first: Cause, second: Cause) -> Cause:
    nodes = (*first.nodes, *second.nodes)
    return replace(first, nodes=nodes, without_db=min(first.without_db, second.without_db))


def _starts(reference: onnx.ModelProto, other: onnx.ModelProto, inputs: tuple[Tensor, ...], floor_db: float) -> str:
    """The first node, by the names both graphs share, that departs by more than the floor."""
    try:
        first = node_drift(reference, other, [inputs]).first(floor_db - SLACK_DB)
    except BackendError:
        return ""
    return first.node if first is not None else ""
