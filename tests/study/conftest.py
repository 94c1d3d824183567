"""A study on the toy task, as a dictionary that tests may change, and a finished run of it."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.config import parse_study
from holdfast.study.run import Outcome, run_study

RAW: dict[str, Any] = {
    "name": "toy",
    "task": f"{Path(__file__).parent / 'toy_task.py'}:make",
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.01, "checkpoint_seconds": 0},
    "recipes": {
        "baseline": {"averages": {"ema": {"decay": 0.9}}},
        "fgsm": {"methods": [{"adversarial": {"attack": {"fgsm": {"eps": 1.0}}}}]},
    },
    "init_seeds": [0, 1],
    "order_seeds": [0, 1],
    "preprocessing": ["train", "coarse"],
    "subjects": ["eager:fp32", "emulated:fp16"],
    "probes": ["deployment", {"adversarial": {"attacks": ["fgsm"], "eps": [1.0], "samples": 8}}],
    "select": {
        "baseline": "baseline",
        "primary": 1,
        "objectives": [{"metric": "error"}, {"metric": "error", "preprocessing": "coarse"}],
    },
    "gates": [{"name": "error stays small", "metric": "error", "preprocessing": "coarse", "max": 10.0}],
}


@pytest.fixture
def raw_study() -> dict[str, Any]:
    return copy.deepcopy(RAW)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder and the outcome of an undisturbed run; tests only read it."""
    out = tmp_path_factory.mktemp("finished")
    return out, run_study(parse_study(copy.deepcopy(RAW)), base=Path(), out=out, workers=1, quiet=True)


@pytest.fixture(autouse=True)
def no_orphans() -> Iterator[None]:
    """Whatever a test does, its workers are gone afterwards."""
    yield
    assert not multiprocessing.active_children()
