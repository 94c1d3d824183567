"""The study file: YAML in, one validated, frozen `Study` out; an unknown key names the nearest valid one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from holdfast.core.errors import InputError, nearest
from holdfast.core.loader import StudyLoader
from holdfast.core.sweep import expand_sweep

__all__ = [
    "Gate", "Objective", "Recipe", "Selection", "Study", "Training", "Where", "load_study", "parse_study",
]  # fmt: skip

PlugIn = dict[str, dict[str, Any]]
"""A plug-in and its options as written in YAML: ``{"fgsm": {"eps": 0.5}}``; a bare ``fgsm`` means no options."""


ModelT = TypeVar("ModelT", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _plug_in(value: Any) -> Any:
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, Mapping):
        return {key: options or {} for key, options in value.items()}
    return value


class Training(_Frozen):
    """How one recipe is trained, apart from its methods.

    Args:
        epochs: passes over the training split.
        batch_size: samples a step.
        optimiser: ``adamw``, ``adam`` or ``sgd``.
        lr: peak learning rate.
        momentum: of SGD; ignored by Adam.
        weight_decay: decoupled for AdamW.
        schedule: ``one_cycle``, ``cosine``, ``constant``, ``step`` (x 0.1 at 1/2 and 3/4), ``swa`` (down to a tenth,
            constant in the last quarter) or ``cyclic`` (a cosine an epoch, down to a hundredth).
        clip_norm: largest gradient norm, or null.
        checkpoint_seconds: how much work a kill may cost.
    """

    epochs: int = Field(6, ge=1)
    batch_size: int = Field(32, ge=1)
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(3e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["one_cycle", "cosine", "constant", "step", "swa", "cyclic"] = "one_cycle"
    clip_norm: float | None = Field(None, gt=0)
    checkpoint_seconds: float = Field(5.0, ge=0)


class Recipe(_Frozen):
    """One way to train: methods in the order in which they rewrite the terms, surgery, averages, overrides.

    Args:
        methods: plug-ins of ``methods/`` in order.
        surgery: plug-ins of ``surgery/`` in order.
        perturbation: one plug-in of ``methods/`` that perturbs weights, or null.
        averages: plug-ins of ``weights/`` by the name of the weights they give, e.g. ``{"ema": {"decay": 0.99}}``.
        batchnorm: statistics of the averages: ``average`` them like weights, ``keep`` the last iterate's,
            ``recalibrate`` on training data, or ``auto``: whichever measures best on the ``val`` split.
        training: fields of `Training` that this recipe overrides.
        guard: options of `holdfast.train.guard.Guard`, e.g. ``{"samples": 64}``, which then watches adversarial
            training on the ``val`` split and keeps the weights ``best_robust``; null for none.
        note: one line for the report.
    """

    methods: tuple[PlugIn, ...] = ()
    surgery: tuple[PlugIn, ...] = ()
    perturbation: PlugIn | None = None
    averages: PlugIn = Field(default_factory=dict)
    batchnorm: Literal["average", "keep", "recalibrate", "auto"] = "average"
    training: dict[str, Any] = Field(default_factory=dict)
    guard: dict[str, Any] | None = None
    note: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the weights that a training of this recipe gives, apart from its start."""
        return ("last", *self.averages, *(() if self.guard is None else ("best_robust",)))

    @field_validator("methods", "surgery", mode="before")
    @classmethod
    def _names_or_mappings(cls, value: Any) -> Any:
        return [_plug_in(item) for item in value] if isinstance(value, list | tuple) else value

    @field_validator("averages", "perturbation", mode="before")
    @classmethod
    def _name_or_mapping(cls, value: Any) -> Any:
        return _plug_in(value)


class Where(_Frozen):
    """Which rows a criterion or a gate speaks of; a field left out takes its default, never "any".

    Args:
        metric: metric or drift name.
        preprocessing: name of a pipeline.
        subject: ``backend:precision``.
        weights: which weights of the recipe; left empty, an objective compares every kind of weights that a
            recipe gives (``last`` and its averages), and a gate takes those selected, else ``last``.
        probe: which probe; rows of ``train`` (e.g. ``train_cost``) belong to a training, whatever its weights.
        condition: setting of the probe, empty when it has none.
    """

    metric: str
    preprocessing: str = "train"
    subject: str = "eager:fp32"
    weights: str = ""
    probe: str = "deployment"
    condition: str = ""


class Objective(Where):
    """A criterion of selection."""

    label: str = ""


class Selection(_Frozen):
    """How the recommended recipe is found.

    Args:
        objectives: axes of the Pareto front. Default: the task's primary metric under the second pipeline, the
            same under the first, and training cost.
        primary: index of the objective on which recipes are compared with the baseline.
        baseline: the recipe that others must beat.
        alpha: level of the tests, shared out by Holm.
    """

    objectives: tuple[Objective, ...] = ()
    primary: int = 0
    baseline: str = "baseline"
    alpha: float = Field(0.05, gt=0, lt=0.5)


class Gate(Where):
    """A promise to check on the ``report`` split: a limit, or equivalence with another subject.

    Args:
        name: shown in the report.
        recipe: a recipe, or ``recommended`` for the selected one.
        max: the mean must lie below, with one-sided confidence 1 - alpha.
        min: the mean must lie above, for metrics of which more is better.
        relative_to: pipeline with which ``max`` or ``min`` is compared as a ratio, e.g. ``train``: ``max: 1.1``
            then means at most ten per cent above the value under that pipeline.
        equivalent_to: subject with which the metric must agree within ``margin``.
        equivalent_preprocessing: pipeline of that subject; default: the same.
        margin: half-width of the equivalence band in the metric's unit.
        alpha: level of each one-sided test.
    """

    name: str
    recipe: str = "recommended"
    max: float | None = None
    min: float | None = None
    relative_to: str | None = None
    equivalent_to: str | None = None
    equivalent_preprocessing: str | None = None
    margin: float | None = Field(None, gt=0)
    alpha: float = Field(0.05, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _one_kind(self) -> Gate:
        if sum(limit is not None for limit in (self.max, self.min, self.margin)) != 1:
            raise ValueError("give one of `max`, `min` or `margin` with `equivalent_to`")
        if (self.margin is None) != (self.equivalent_to is None and self.equivalent_preprocessing is None):
            raise ValueError("`margin` needs `equivalent_to` or `equivalent_preprocessing`, and they need `margin`")
        if self.relative_to is not None and self.margin is not None:
            raise ValueError("`relative_to` needs `max` or `min`")
        return self


class Study(_Frozen):
    """Everything a run depends on.

    Args:
        name: name of the study and of its default run folder.
        task: built-in task, ``path/to/file.py:name`` or ``package.module:name``.
        task_options: keyword arguments of the task's factory.
        training: settings shared by all recipes.
        recipes: by name; ``sweep`` adds more.
        sweep: name -> ``{"base": recipe, "grid": {dotted.path: [values]}}``; every point of the grid becomes a
            recipe ``base[key=value]``.
        init_seeds: seeds of the initialisation.
        order_seeds: seeds of data order and of every draw of the methods.
        pairing: ``zip`` pairs the two lists (one value is repeated), ``product`` crosses them.
        preprocessing: pipelines to measure under; the first is the reference, the second the one that ships.
        subjects: ``backend:precision``; the first is the reference.
        probes: plug-ins of ``probes/``.
        select, gates: see `Selection`, `Gate`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    task: str
    task_options: dict[str, Any] = Field(default_factory=dict)
    training: Training = Training()
    recipes: dict[str, Recipe] = Field(min_length=1)
    init_seeds: tuple[int, ...] = Field((0,), min_length=1)
    order_seeds: tuple[int, ...] = Field((0,), min_length=1)
    pairing: Literal["zip", "product"] = "zip"
    preprocessing: tuple[str, ...] = Field(("train",), min_length=1)
    subjects: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_]+:[a-z0-9_]+$")], ...] = ("eager:fp32",)
    probes: tuple[PlugIn, ...] = ({"deployment": {}},)
    select: Selection = Selection()
    gates: tuple[Gate, ...] = ()

    @field_validator("probes", mode="before")
    @classmethod
    def _probe_names(cls, value: Any) -> Any:
        return [_plug_in(item) for item in value] if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        sizes = {len(self.init_seeds), len(self.order_seeds)} - {1}
        if self.pairing == "zip" and len(sizes) > 1:
            raise ValueError("init_seeds and order_seeds have different lengths; set `pairing: product` to cross them")
        if self.select.objectives and not 0 <= self.select.primary < len(self.select.objectives):
            raise ValueError(f"select.primary {self.select.primary} is not the index of an objective")
        if len(self.recipes) > 1 and self.select.baseline not in self.recipes:
            raise ValueError(f"select.baseline {self.select.baseline!r} is not one of {sorted(self.recipes)}")
        for gate in self.gates:
            if gate.recipe not in {*self.recipes, "recommended"}:
                raise ValueError(f"gate {gate.name!r}: recipe {gate.recipe!r} is not one of {sorted(self.recipes)}")
        return self

    @property
    def deployed(self) -> str:
        """The pipeline that ships: the second one, or the only one."""
        return self.preprocessing[1] if len(self.preprocessing) > 1 else self.preprocessing[0]

    def seeds(self) -> list[tuple[int, int]]:
        """The (init, order) pairs of the study, in order."""
        if self.pairing == "product":
            return list(itertools.product(self.init_seeds, self.order_seeds))
        n = max(len(self.init_seeds), len(self.order_seeds))
        return list(zip(_repeat(self.init_seeds, n), _repeat(self.order_seeds, n), strict=True))

    def training_of(self, recipe: str) -> Training:
        """The training settings of a recipe with its overrides."""
        merged = {**self.training.model_dump(), **self.recipes[recipe].training}
        return _validate(Training, merged, where=f"recipes.{recipe}.training")


def _repeat(values: tuple[int, ...], n: int) -> tuple[int, ...]:
    return values * n if len(values) == 1 else values


# --- reading --------------------------------------------------------------------------------------------


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        InputError: missing file, YAML that does not parse, an unknown key (with the nearest valid one), a value
            of the wrong kind; each with the file and the place in it.
    """
    if not path.is_file():
        raise InputError("no such study file", where=str(path), fix="give the path of a study.yaml")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=StudyLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}", where=str(path)) from None
    if not isinstance(raw, Mapping):
        raise InputError("holds no mapping of keys to values", where=str(path),
                         fix="start from `holdfast demo`'s study")  # fmt: skip
    return parse_study(raw, where=str(path))


def parse_study(raw: Mapping[str, Any], *, where: str = "study") -> Study:
    """Expand the sweep of a raw mapping and validate it; see `load_study`."""
    expanded = dict(raw)
    sweep = expanded.pop("sweep", None)
    if isinstance(recipes := expanded.get("recipes"), Mapping):
        written = {name: body or {} for name, body in recipes.items()}
        expanded["recipes"] = {**written, **expand_sweep(sweep or {}, written, where=where)}
    study = _validate(Study, expanded, where=where)
    for name in study.recipes:
        study.training_of(name)
    return study


def _validate(model: type[ModelT], raw: Mapping[str, Any], *, where: str) -> ModelT:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            fix = nearest(str(first["loc"][-1]), _valid_keys(model, first["loc"][:-1]))
            raise InputError(f"unknown key {place!r}", where=where, fix=fix) from None
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{place}: {message}" if place else message, where=where) from None


def _valid_keys(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Field names of the (nested) model that stands at ``path``."""
    current: type[BaseModel] | None = model
    for part in path:
        if current is not None and part in current.model_fields:
            current = _model_in(current.model_fields[str(part)])
    return list(current.model_fields) if current is not None else []


def _model_in(field: FieldInfo) -> type[BaseModel] | None:
    pending: list[Any] = [field.annotation]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        pending.extend(getattr(kind, "__args__", ()))
    return None
