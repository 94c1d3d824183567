"""A study on the toy task, as a dictionary that tests may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TASK = f"{Path(__file__).parent / 'toy_task.py'}:make"


@pytest.fixture
def raw_study() -> dict[str, Any]:
    return {
        "name": "toy",
        "task": TASK,
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
        "gates": [{"name": "error", "metric": "error", "preprocessing": "coarse", "max": 10.0}],
    }
