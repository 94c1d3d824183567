"""A synthetic study with known effects: rows and per-sample values as a run would leave them, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from holdfast.core.config import Study, parse_study
from holdfast.core.rows import Row

SUBJECTS = {"eager:fp32": "fp32", "emulated:fp16": "fp16 (emulated)", "onnxruntime:int8": "int8"}
ERROR, SWAY, DRIFT = "lateral_error_42m", "sway_20m", "displacement_42m"


def made_study(seeds: int = 5, **changes: Any) -> Study:
    raw: dict[str, Any] = {
        "name": "made",
        "task": "lanes",
        "recipes": {"baseline": {}, "jitter": {"note": "random kernels"}, "fgsm": {"averages": {"ema": {}}}},
        "init_seeds": list(range(seeds)),
        "order_seeds": list(range(seeds)),
        "preprocessing": ["train", "vehicle"],
        "subjects": list(SUBJECTS),
        "select": {
            "primary": 1,
            "objectives": [
                {"label": "clean error", "metric": ERROR},
                {"label": "vehicle error", "metric": ERROR, "preprocessing": "vehicle"},
                {"label": "vehicle sway", "metric": SWAY, "preprocessing": "vehicle"},
                {"label": "training cost", "metric": "train_cost", "probe": "train"},
            ],
        },
    }
    return parse_study({**raw, **changes})


@dataclass
class MadeRun:
    """Rows and samples. ``error`` is the clean error by recipe, ``growth`` its factor under ``vehicle``.

    ``noise`` is the spread between seeds as a factor; samples of one group share a disturbance.
    """

    study: Study
    error: Mapping[str, float] = field(default_factory=lambda: {"baseline": 0.37, "jitter": 0.40, "fgsm": 0.45})
    growth: Mapping[str, float] = field(default_factory=lambda: {"baseline": 1.5, "jitter": 1.3, "fgsm": 1.05})
    cost: Mapping[str, float] = field(default_factory=lambda: {"baseline": 1.0, "jitter": 1.1, "fgsm": 2.0})
    noise: float = 0.03
    groups: int = 30
    rows: list[Row] = field(default_factory=list)
    values: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for recipe, body in self.study.recipes.items():
            for seed in self.study.seeds():
                self._training(recipe, seed)
                for weights in ("last", *body.averages):
                    # An average shares its training's luck.
                    rng = np.random.default_rng([*seed, sorted(self.study.recipes).index(recipe)])
                    self._deployment(recipe, seed, weights, rng)

    def samples(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        return self.values[row.samples]

    def without(self, **match: Any) -> list[Row]:
        return [r for r in self.rows if not all(getattr(r, k) == v for k, v in match.items())]

    def changed(self, match: Mapping[str, Any], **values: Any) -> list[Row]:
        return [replace(r, **values) if all(getattr(r, k) == v for k, v in match.items()) else r for r in self.rows]

    def _training(self, recipe: str, seed: tuple[int, int]) -> None:
        self._add(recipe, seed, "last", "train", "eager:fp32", "train_cost", "plain steps", "lower", "train",
                  np.array([self.cost[recipe]]), np.zeros(1, dtype=np.int64), probe="train")  # fmt: skip

    def _deployment(self, recipe: str, seed: tuple[int, int], weights: str, rng: np.random.Generator) -> None:
        level = self.error[recipe] * (1 + self.noise * rng.normal()) * (0.95 if weights == "ema" else 1.0)
        groups = np.repeat(np.arange(self.groups), 4)
        for split in ("select", "report"):
            frames = (1 + 0.2 * rng.normal(size=self.groups))[groups] + 0.1 * rng.normal(size=len(groups))
            for pipeline in self.study.preprocessing:
                growth = self.growth[recipe] * (1 + self.noise * rng.normal()) if pipeline != "train" else 1.0
                for subject in self.study.subjects:
                    wobble = {"onnxruntime:int8": 1.01}.get(subject, 1.0)
                    values = np.abs(level * growth * wobble * frames)
                    place = (recipe, seed, weights, pipeline, subject)
                    self._add(*place, ERROR, "m", "lower", split, values, groups)
                    self._add(*place, DRIFT, "m", "neither", split, np.abs(values - level * frames), groups)
                    sway = np.array([0.2, 0.3]) * level * growth * wobble
                    self._add(*place, SWAY, "m", "lower", f"{split}_sequence", sway, np.arange(2))
        for attack, harm in (("fgsm", 1.0), ("pgd", 1.2)):
            for eps in (0.5, 1.0):
                attacked = level * (1 + harm * eps * self.growth[recipe]) * np.ones(8)
                self._add(recipe, seed, weights, "train", "eager:fp32", ERROR, "m", "lower", "report", attacked,
                          np.arange(8), probe="adversarial", condition=f"{attack} eps={eps:g}")  # fmt: skip

    def _add(self, recipe: str, seed: tuple[int, int], weights: str, pipeline: str, subject: str, metric: str,
             unit: str, better: str, split: str, values: np.ndarray, groups: np.ndarray, probe: str = "deployment",
             condition: str = "") -> None:  # fmt: skip
        backend, precision = subject.split(":")
        key = f"{recipe}-{seed[0]}/{len(self.rows)}"
        self.values[key] = (values, groups)
        self.rows.append(Row(
            study=self.study.name, recipe=recipe, init_seed=seed[0], order_seed=seed[1], weights=weights,
            preprocessing=pipeline, backend=backend, precision=precision, executed=SUBJECTS[subject], probe=probe,
            condition=condition, split=split, metric=metric, unit=unit, better=better, value=float(values.mean()),
            n=len(values), groups=len(np.unique(groups)), samples=key, cell=key.split("/")[0],
        ))  # fmt: skip
