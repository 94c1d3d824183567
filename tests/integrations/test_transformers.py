"""Hugging Face's Trainer trains to what the plain loop trains to, also resumed, and evaluates without methods."""

from __future__ import annotations

import pytest
import torch
from foreign_loops import BATCHES, assert_equals_the_plain_loop, names, snippets
from torch.utils.data import default_collate

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PLAIN = {
    "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "report_to": [], "use_cpu": True,
    "save_strategy": "epoch", "disable_tqdm": True, "logging_strategy": "no",
}  # fmt: skip
"""SGD without momentum and without a schedule."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the page's snippet leaves, and what it printed as the loss of evaluation."""
    space = names(tmp_path_factory.mktemp("trainer"), more=PLAIN)
    [snippet] = snippets("transformers")
    exec(snippet, space)
    return space


def test_the_page_trains_like_the_plain_loop(trained):
    assert_equals_the_plain_loop(trained["objective"].seen, trained["model"], momentum=0.0)


def test_evaluation_is_the_model_as_it_is(trained):
    task, model, before = trained["task"], trained["model"].eval(), trained["objective"].index
    found = trained["trainer"].evaluate()["eval_loss"]
    batch = default_collate(trained["dataset"])
    with torch.no_grad():
        expected = float(task.loss(model(batch["image"]), batch).mean())
    assert found == pytest.approx(expected, rel=1e-5)
    assert trained["objective"].index == before == 2 * BATCHES


def test_a_resumed_training_is_the_uninterrupted_one(trained, tmp_path):
    space = names(trained["folder"], more=PLAIN)
    [snippet] = snippets("transformers")
    first = trained["folder"] / f"checkpoint-{BATCHES // 2}"
    assert first.is_dir()
    exec(
        snippet.replace("trainer.train()", "trainer.train(resume_from_checkpoint=str(first))"),
        {**space, "first": first},
    )
    uninterrupted = trained["objective"].seen
    seen = uninterrupted[:BATCHES] + space["objective"].seen
    for (batch, loss), (expected_batch, expected) in zip(seen, uninterrupted, strict=True):
        assert torch.equal(batch["image"], expected_batch["image"])
        assert loss == pytest.approx(expected, rel=1e-6)
