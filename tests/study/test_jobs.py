"""Fresh weights of a recipe: drawn as its training could have begun, by every surgery in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.core.config import parse_study
from holdfast.core.discover import load_task
from holdfast.study.jobs import Context, bench_of, make_tables, run_training
from holdfast.study.plan import make_plan


@pytest.fixture
def context(raw_study: dict[str, Any], tmp_path: Path) -> Context:
    raw = raw_study | {
        "recipes": {"he": {"surgery": [{"init_law": {"law": "he", "gain": 3.0}}]}}, "init_seeds": [0],
        "order_seeds": [0], "select": None, "gates": [], "training": {"epochs": 1, "batch_size": 32},
    }  # fmt: skip
    raw.pop("select")
    study = parse_study(raw)
    plan = make_plan(study, load_task(study.task, study.task_options, base=Path()), base=Path())
    return Context(study=study, plan=plan, base=Path(), out=tmp_path)


def test_fresh_weights_follow_the_recipes_law_and_not_the_tasks(context: Context) -> None:
    for table in context.plan.tables:
        make_tables(context, table, lambda n, note: None)
    (training,) = context.plan.trainings
    run_training(context, training, lambda n, note: None)
    bench = bench_of(context, training, "last")
    before = torch.get_rng_state()
    assert bench.redraw is not None
    assert bench.initial is not None
    draws = [bench.redraw(seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert not torch.equal(draws[0]["0.weight"], draws[2]["0.weight"])
    assert not torch.equal(draws[0]["0.weight"], bench.initial["0.weight"])
    # Nine inputs a filter: He's deviation times three; PyTorch's own would be a seventh of it, and its biases not zero.
    assert float(draws[0]["0.weight"].std()) == pytest.approx(3 * (2 / 9) ** 0.5, rel=0.5)
    assert not draws[0]["0.bias"].any()
    assert list(draws[0]) == list(bench.model.state_dict())
