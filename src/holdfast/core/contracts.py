"""The contracts between a user's task and everything that trains, perturbs, deploys or measures it.

Plug-ins implement the protocols below; they never import one another. A file in a plug-in folder is a plug-in
when it defines a public class or function of the file's own name (`methods/regmixup.py` -> `RegMixup`).
Tensors appear in annotations only: importing this module does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from holdfast.core.rows import Row
from holdfast.core.space import InputSpace

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn

__all__ = [
    "Artefact", "Attack", "Availability", "Average", "Backend", "Batch", "Corruption", "Drift", "Measurement",
    "Method", "Metric", "OnBytes", "Outputs", "PartedLoss", "Picture", "Pipeline", "PrecisionPlan", "Prepares", "Probe",
    "ReadsFiles", "Remedy", "ReplacesStep", "Replays", "Session", "StandsIn", "Step", "Subject", "Surgery", "Task",
    "TaskLoss", "Term", "UsesPlugIns", "UsesUnlabelled", "UsesVariants", "Weakens", "WeightPerturbation",
    "conventional_inputs",
]  # fmt: skip

Batch: TypeAlias = Any
"""Any nest of dicts, tuples and lists of tensors whose first dimension is the sample."""
Outputs: TypeAlias = Any
"""Whatever the model returns: a tensor or a nest of tensors."""
Better: TypeAlias = Literal["lower", "higher", "neither"]
Over: TypeAlias = Literal["sample", "sequence"]
Remedy: TypeAlias = Literal["halve", "two_steps"]
"""How a training attack that fails is weakened: by half its step, or by twice as many steps."""


# --- what the user brings -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A named measurement of outputs against ground truth, with unit and direction.

    Args:
        name: as it stands in rows, gates and reports, e.g. ``"lateral_error_42m"``.
        compute: ``(outputs, batch) -> Tensor (B,)`` float, one value a sample; with ``over="sequence"`` it is
            given one whole ordered sequence at a time and returns one value, shape ``()``. NaN marks a sample
            to which the metric does not apply; such samples are left out and counted.
        unit: unit of the values, e.g. ``"m"``; ``"1"`` for shares.
        better: direction. ``"neither"`` for quantities that must be seen but never ranked.
        over: per sample (default) or per sequence.
    """

    name: str
    compute: Callable[[Outputs, Batch], Tensor]
    unit: str
    better: Better = "lower"
    over: Over = "sample"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """A named displacement between two subjects on the same samples, in task units; needs no labels.

    Args:
        name: e.g. ``"displacement_42m"``.
        compute: ``(reference, other, batch) -> Tensor (B,)``, or ``()`` with ``over="sequence"``.
        unit: unit of the values.
        over: per sample (default) or per sequence.
    """

    name: str
    compute: Callable[[Outputs, Outputs, Batch], Tensor]
    unit: str
    over: Over = "sample"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A sample drawn for the report: an image and named polylines in its pixels.

    Args:
        image: uint8 array (H, W, 3).
        lines: role (``"truth"``, ``"reference"``, ``"deployed"``) -> polylines, each float array (n, 2) of x, y.
        caption: one line of text.
    """

    image: np.ndarray
    lines: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    caption: str = ""


Pipeline: TypeAlias = Callable[[Batch], Batch]
"""Preprocessing: a collated batch of sensor samples -> a batch of model inputs (see `holdfast.data.preprocess`)."""


def conventional_inputs(batch: Batch) -> tuple[Tensor, ...]:
    """What a model is called with: the first element of a tuple, the ``image`` / ``x`` / ``input`` of a dict."""
    if isinstance(batch, list | tuple):
        return (batch[0],)
    if isinstance(batch, Mapping):
        for key in ("image", "x", "input", "inputs"):
            if key in batch:
                return (batch[key],)
        raise KeyError(f"none of image, x, input, inputs in {sorted(map(str, batch))}; give Task(inputs=...)")
    return (batch,)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything holdfast has to know about a problem; only the first six have no default.

    Args:
        name: short name.
        build_model: builds an untrained model; the caller seeds torch's global generator around it.
        data: ``split -> dataset`` of *sensor* samples (``len``, ``[i]`` -> nest of tensors; an optional
            ``__getitems__(indices)`` loads many at once). Splits: ``train``, ``val`` (early stopping, BatchNorm
            choices), ``select`` (chooses recipes), ``report`` (is only reported), and where they exist
            ``select_sequence``, ``report_sequence`` (ordered frames), ``calibration``, ``unlabelled``, ``ood``.
            A split that does not exist raises `KeyError`.
        loss: ``(outputs, batch) -> Tensor (B,)``; a scalar is accepted where nothing needs per-sample values.
        metrics: the measurements; the first one is the task's primary metric.
        space: the perturbable leaves of a *model input* batch.
        pipelines: named preprocessing; must hold ``"train"``. Default: samples are model inputs already.
        drifts: displacements between two subjects.
        symptoms: measurements of outputs alone, without ground truth, for recorded clips: sway, bend, flips. Less is
            better; the batch they are given holds inputs only.
        inputs: picks the tensors a model is called with: ``model(*inputs(batch))``.
        group: ``batch -> B hashables``: recording, sequence or block of each sample; neighbouring frames are not
            independent, so resampling resamples groups. Default: every sample is its own group.
        divergence: ``(reference, other, batch) -> Tensor (B,)``, differentiable; for consistency terms.
        failed: ``(outputs, batch) -> bool Tensor (B,)``: what counts as broken.
        labels: ``batch -> int64 Tensor (B,)``: the classes, for tasks whose outputs are logits float (B, K).
        pseudo_label: ``(outputs, batch) -> batch`` with labels taken from the outputs.
        target_mix: ``(batch_a, batch_b, lam) -> batch`` for methods that mix targets; default: mix losses.
        mixture: ``several outputs of the same samples -> outputs`` that stand for their mean, e.g. the log of mean
            probabilities for logits; default: the mean of the outputs.
        geometric: the targets depend on where things are in the image (lanes, masks, boxes, a steering angle):
            methods that cut or move pixels leave them out or are refused.
        traces: ``(outputs, batch) -> {name: Tensor (T,)}``: curves over one sequence for the report; the name
            ``"truth"`` is drawn as ground truth. With `symptoms`, it must do with a batch that holds no truth.
        picture: ``(sensor_batch, {role: outputs}, index) -> Picture``: draws a sample for the report; as `traces`.
        fingerprint: describes the data for the cell key, when hashing the first samples is not enough.
    """

    name: str
    build_model: Callable[[], nn.Module]
    data: Callable[[str], Any]
    loss: Callable[[Outputs, Batch], Tensor]
    metrics: tuple[Metric, ...]
    space: InputSpace
    pipelines: Mapping[str, Pipeline] = field(default_factory=lambda: {"train": _identity})
    drifts: tuple[Drift, ...] = ()
    symptoms: tuple[Metric, ...] = ()
    inputs: Callable[[Batch], tuple[Tensor, ...]] = conventional_inputs
    group: Callable[[Batch], Sequence[Hashable]] | None = None
    divergence: Callable[[Outputs, Outputs, Batch], Tensor] | None = None
    failed: Callable[[Outputs, Batch], Tensor] | None = None
    labels: Callable[[Batch], Tensor] | None = None
    pseudo_label: Callable[[Outputs, Batch], Batch] | None = None
    target_mix: Callable[[Batch, Batch, float], Batch] | None = None
    mixture: Callable[[Sequence[Outputs]], Outputs] | None = None
    geometric: bool = False
    traces: Callable[[Outputs, Batch], Mapping[str, Tensor]] | None = None
    picture: Callable[[Batch, Mapping[str, Outputs], int], Picture] | None = None
    fingerprint: str = ""

    def forward(self, model: Callable[..., Outputs], batch: Batch, **call: Any) -> Outputs:
        """Call a model, or anything that takes its place, on a batch of model inputs."""
        return model(*self.inputs(batch), **call)


def _identity(batch: Batch) -> Batch:
    return batch


# --- training -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Term:
    """One summand of a training step: run ``views`` through the model, then weigh their loss.

    Args:
        name: unique in the step, e.g. ``"clean"``; methods name the terms they act on.
        views: the batches to run.
        loss: ``outputs of the views -> Tensor (B,) or ()``. It closes over the targets, so a method may replace
            views without knowing what the targets are.
        weight: factor of the term in the step's loss.
        joins: name of a term with which this one shares a single concatenated forward (BatchNorm then sees both).
        crafted: the views are adversarial or otherwise final already: not to be attacked again.
        call: keyword arguments of the model call, for models that a surgery has prepared, e.g. to read a head.
    """

    name: str
    views: tuple[Batch, ...]
    loss: Callable[[tuple[Outputs, ...]], Tensor]
    weight: float = 1.0
    joins: str | None = None
    crafted: bool = False
    call: Mapping[str, Any] = field(default_factory=dict)

    def changed(self, **fields: Any) -> Term:
        """A copy with other fields, in a tenth of the time of `dataclasses.replace`."""
        if unknown := fields.keys() - vars(self).keys():
            raise TypeError(f"a term has no {sorted(unknown)}")
        copy = object.__new__(type(self))
        vars(copy).update(vars(self), **fields)
        return copy


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """The loss of a term that says where its targets are: the task's own, of its only view, with a batch's targets.

    Methods that mix targets look for it and treat any other loss as one that knows more than they do.
    """

    task: Task
    batch: Batch

    def __call__(self, outputs: tuple[Outputs, ...]) -> Tensor:
        """The task's loss, (B,) or ()."""
        return self.task.loss(outputs[0], self.batch)


class PartedLoss(ABC):
    """The loss of a term that is a weighted sum of others, which need not be aligned where only means count."""

    @abstractmethod
    def __call__(self, outputs: tuple[Outputs, ...]) -> Tensor:
        """The loss of each sample, (B,), or ()."""

    @abstractmethod
    def parts(self, outputs: tuple[Outputs, ...]) -> Sequence[tuple[Tensor, float]]:
        """Losses, each in an order of its own, and weights: the weighted means add up to the mean of the loss."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a method sees of one training step.

    Args:
        task: the task.
        model: the unwrapped module, for crafting and for taps.
        forward: ``batch -> outputs`` through the wrapped model, as training forwards run; keywords go to the model.
        batch: the labelled batch, as the loader gave it.
        unlabelled: a batch of the unlabelled stream, or None.
        index: number of the step since the objective was made (micro-batches count).
        state: the calling method's own mutable state, saved with the objective; tensors, numbers and strings.
        draw: ``name -> Generator`` keyed by seed, step, rank and name: evaluating a step twice draws the same.
    """

    task: Task
    model: nn.Module
    forward: Callable[..., Outputs]
    batch: Batch
    unlabelled: Batch | None
    index: int
    state: dict[str, Any]
    draw: Callable[[str], Generator]


@runtime_checkable
class Method(Protocol):
    """A training method: a frozen dataclass of hyper-parameters that rewrites the list of terms.

    ``clashes`` names methods that cannot stand in the same recipe, with the reason.
    """

    clashes: ClassVar[Mapping[str, str]]

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        """The new list of terms; the given list is not mutated."""

    def passes(self) -> tuple[float, float]:
        """Forward and backward passes this method adds to a step of one term, for the cost printed beforehand."""


@runtime_checkable
class UsesVariants(Protocol):
    """A method that mixes variants of a sample: the same frames under other pipelines of the task.

    holdfast's loop computes them once and puts them into the batch as ``batch["variants"][name]``: the tensors
    of the task's single perturbable leaf, aligned with the batch.
    """

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the task's pipelines."""


@runtime_checkable
class Prepares(Protocol):
    """A method that needs the model changed before training, e.g. an auxiliary head."""

    @property
    def surgery(self) -> Sequence[Surgery]:
        """What `Objective.prepare` has to apply for this method."""


@runtime_checkable
class UsesUnlabelled(Protocol):
    """A method that may read the unlabelled stream; holdfast's loop opens the ``unlabelled`` split for it."""

    @property
    def uses_unlabelled(self) -> bool:
        """Whether it does with these options."""


@runtime_checkable
class ReadsFiles(Protocol):
    """A plug-in that reads files, e.g. a teacher's weights: their contents are part of a study's cell keys."""

    @property
    def files(self) -> tuple[str, ...]:
        """Their paths."""


@runtime_checkable
class Weakens(Protocol):
    """A method that knows a gentler form of its attack; one with a field ``attack`` need not say."""

    def gentler(self, remedy: Remedy) -> Any:
        """The method with half its attack's step (``halve``), or with twice as many (``two_steps``)."""


@runtime_checkable
class Replays(Protocol):
    """A method for which each batch is trained on several times in a row."""

    @property
    def replays(self) -> int:
        """How often."""


@runtime_checkable
class Surgery(Protocol):
    """A change of the model made before the optimiser exists: heads, taps, observers, initialisation."""

    def apply(self, model: nn.Module, example: tuple[Tensor, ...]) -> nn.Module:
        """The model to train; may be the same object. ``example``: what the model is called with."""

    def strip(self, model: nn.Module) -> nn.Module:
        """The deployable model again; may be the same object, changed."""


@runtime_checkable
class WeightPerturbation(Protocol):
    """The step's loss is evaluated at ``theta + delta`` while the gradient is applied at ``theta``."""

    def delta(
        self, parameters: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor], step: Step
    ) -> Mapping[str, Tensor]:
        """The perturbation of all or some, by name; ``loss`` evaluates the step's terms at given parameters."""

    def passes(self) -> tuple[float, float]:
        """Forward and backward passes this adds to a step of one term."""


@runtime_checkable
class Average(Protocol):
    """A weight average: a frozen dataclass whose `start` gives a running average that observes a model."""

    def start(self, model: nn.Module) -> RunningAverage:
        """Begin to observe ``model``."""


class RunningAverage(Protocol):
    """The state of a weight average."""

    def update(self, model: nn.Module) -> None:
        """Observe the model after an optimiser step."""

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict, in the model's dtypes."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume to the same bits."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume."""


@runtime_checkable
class Attack(Protocol):
    """The inner step of an attack, wrapped by `holdfast.attacks.seal.perturb`, which owns every promise.

    A frozen dataclass of hyper-parameters; ``eps`` is counted in units of the leaf.
    """

    @property
    def eps(self) -> Any:
        """The budget: a number, one per channel, a tensor (B,), or any of these by leaf path."""

    @property
    def norm(self) -> Literal["linf", "l2"]:
        """In which norm the budget is counted."""

    def craft(self, loss: Callable[[Tensor], Tensor], x: Tensor, ball: Any, generator: Generator) -> Tensor:
        """A perturbed ``x`` that maximises the per-sample ``loss``; ``ball`` is a `holdfast.attacks.seal.Ball`."""

    def passes(self) -> tuple[float, float]:
        """Forward and backward passes; a backward to the input alone counts as half."""


class Corruption(Protocol):
    """A damage of images at severities.

    A frozen dataclass, wrapped by `holdfast.data.corruptions.sealed.corrupted`, which owns every promise. ``family`` is
    ``noise``, ``blur``, ``weather``, ``digital`` or ``extra`` of ImageNet-C, or ``deploy``; ``moves_pixels`` says that
    what a target points at moves; ``severities`` are those it has.
    """

    family: ClassVar[str]
    moves_pixels: ClassVar[bool]
    severities: ClassVar[tuple[int, ...]]

    def corrupt(self, image: Tensor, severity: int, draws: Any) -> Tensor:
        """Images float32 (B, C, H, W) in grey levels 0..255 -> the same, not yet clipped.

        The given ones are not written to, and everything random comes from ``draws``, a
        `holdfast.data.corruptions.draws.Draws`.
        """


@runtime_checkable
class OnBytes(Protocol):
    """A corruption that is defined on bytes and draws nothing: bytes need no way through floats."""

    def corrupt_bytes(self, image: Tensor, severity: int) -> Tensor:
        """Images uint8 (B, C, H, W) -> the same, as new tensors."""


@runtime_checkable
class StandsIn(Protocol):
    """A corruption that may only stand in for the published one of its name."""

    @property
    def variant(self) -> str:
        """What it is instead, e.g. ``"procedural"``; empty when it is the published one."""


@runtime_checkable
class ReplacesStep(Protocol):
    """A corruption that takes the place of a step of a pipeline, as it has a meaning only there."""

    @property
    def replaces(self) -> str:
        """Name of the step."""

    def step(self, severity: int, size: tuple[int, int]) -> Any:
        """The step to put there; ``size`` is (height, width) of the step's result."""


# --- deployment -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan:
    """Which precision each node of a graph runs in; plain data, JSON-serialisable.

    Args:
        default: precision of every node not named: ``fp32``, ``fp16``, ``fp16_accumulate`` (sums in fp16, too),
            ``bf16``, ``tf32``, ``int8``, ``fp64``.
        nodes: exceptions by ONNX node name.
        quantiser: settings for int8: ``per_channel``, ``reduce_range``, ``method``.
    """

    default: str = "fp32"
    nodes: Mapping[str, str] = field(default_factory=dict)
    quantiser: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether a back-end can run here, and what its precisions are worth.

    ``precisions`` maps each precision to ``native``, ``emulated``, ``upcast`` or ``unsupported``.
    """

    ok: bool
    reason: str
    version: str = ""
    precisions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A prepared model: the files or the module a session is loaded from, with everything worth knowing of it."""

    backend: str
    plan: PrecisionPlan
    key: str
    path: Path | None = None
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()


class Session(Protocol):
    """A loaded artefact; called like the model: ``session(*tensors) -> outputs`` (CPU tensors in the model's nest)."""

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Run a batch of any size."""

    def executed_precision(self) -> str:
        """The precision that really executed, e.g. ``"fp16 (emulated)"``; never merely the one requested."""

    def close(self) -> None:
        """Release what is held; closing twice is allowed."""


@runtime_checkable
class Backend(Protocol):
    """A way to run a model as it ships. A frozen dataclass of options such as the thread count."""

    precisions: ClassVar[tuple[str, ...]]

    def probe(self) -> Availability:
        """Whether it runs here; never raises, imports nothing heavy until called."""

    def prepare(
        self, model: nn.Module, example: tuple[Tensor, ...], plan: PrecisionPlan,
        calibration: Iterable[tuple[Tensor, ...]] | None, folder: Path,
    ) -> Artefact:  # fmt: skip
        """Turn an eval-mode model into an artefact in ``folder``; ``example`` has at least two samples."""

    def load(self, artefact: Artefact) -> Session:
        """Open a session."""


# --- measurement ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: weights in a back-end at a precision. Anything that maps inputs to outputs.

    Args:
        backend: name of the back-end, e.g. ``"onnxruntime"``.
        precision: requested precision.
        executed: precision that really executed.
        run: ``(*tensors) -> outputs``.
        model: the eager twin where there is one: attacks are crafted on it and replayed ("transferred").
        notes: whatever the back-end wants a reader to know.
        close: releases what ``run`` holds; calling it twice is allowed.
    """

    backend: str
    precision: str
    executed: str
    run: Callable[..., Outputs]
    model: nn.Module | None = None
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """``backend:precision``, as in a study file."""
        return f"{self.backend}:{self.precision}"

    @property
    def capabilities(self) -> frozenset[str]:
        """``forward`` always; ``gradient`` and ``weights`` where the eager model is the thing that runs."""
        eager = self.model is not None and self.backend == "eager"
        return frozenset({"forward", "gradient", "weights"} if eager else {"forward"})


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A row together with its per-sample values and their groups, so that statistics can be paired.

    ``values`` float array (n,), ``groups`` integer codes (n,); ``series`` and ``pictures`` feed the report.
    """

    row: Row
    values: np.ndarray
    groups: np.ndarray
    series: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()


@runtime_checkable
class UsesPlugIns(Protocol):
    """A probe that builds other plug-ins by name: what they are made of belongs to the key of its cells."""

    @property
    def plug_ins(self) -> Sequence[tuple[str, str]]:
        """Kind and name of each."""


@runtime_checkable
class Probe(Protocol):
    """One question asked of a model. A frozen dataclass of options."""

    needs: ClassVar[frozenset[str]]

    def run(self, bench: Any) -> Iterable[Measurement]:
        """Measure; ``bench`` (`holdfast.probes.bench.Bench`) gives the task, its prepared data and the subjects."""
