"""Every method that is found, built with the options of its own test module, for suites that run over all of them."""

from __future__ import annotations

import importlib.util
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from toy_tasks import classification, images

from holdfast.core.discover import build, load, names
from holdfast.train.objective import Objective

ALL = names("method")
METHODS = [name for name in ALL if hasattr(load("method", name), "rewrite")]
"""The others perturb weights."""
OWN_TESTS = Path(__file__).parents[1] / "methods"
FOLDER = tempfile.TemporaryDirectory()


@lru_cache
def own_tests(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"own_{name}", OWN_TESTS / f"test_{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache
def options_of(name: str) -> dict[str, Any]:
    """``OPTIONS`` of a method's own test module, or what its ``make_options(folder)`` makes."""
    module = own_tests(name)
    if hasattr(module, "make_options"):
        return module.make_options(Path(tempfile.mkdtemp(dir=FOLDER.name)))
    return getattr(module, "OPTIONS", {})


def method_of(name: str, **options: Any) -> Any:
    return build("method", {name: {**options_of(name), **options}})


def objective_of(name: str, seed: int = 0, task: Any = None, unlabelled: Any = None, **options: Any) -> Objective:
    """An objective with this method alone; a forward is not spent on looking for checkpointed layers."""
    piece = method_of(name, **options)
    kind = {"methods": [piece]} if name in METHODS else {"perturbation": piece}
    stream = [images(seed=9)] if unlabelled is None else unlabelled
    objective = Objective(task or classification(), **kind, unlabelled=stream, seed=seed)
    objective.strategy = "functional"
    return objective
