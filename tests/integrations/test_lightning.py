"""Lightning trains to what the plain loop trains to, also after a resume."""

from __future__ import annotations

import pytest
from foreign_loops import ACCUMULATED, CLIP, assert_equals_the_plain_loop, names, snippets

lightning = pytest.importorskip("lightning", reason="lightning is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
                                        "ignore::FutureWarning", "ignore::DeprecationWarning")  # fmt: skip


def trainer(epochs):
    return lightning.Trainer(
        max_epochs=epochs, accumulate_grad_batches=ACCUMULATED, gradient_clip_val=CLIP, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


def test_the_page_trains_like_the_plain_loop(tmp_path):
    space = names(tmp_path)
    for snippet in snippets("lightning"):
        exec(snippet, space)
    assert_equals_the_plain_loop(space["objective"].seen, space["model"])


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    seen = []
    for epochs, resumed in ((1, None), (2, tmp_path / "one.ckpt")):
        space = names(tmp_path)
        exec(snippets("lightning")[0], space)
        objective = space["objective"]
        model = objective.prepare(space["task"].build_model(), space["batch"])
        running = trainer(epochs)
        running.fit(space["Robust"](model, objective), space["loader"], ckpt_path=resumed)
        running.save_checkpoint(tmp_path / "one.ckpt")
        seen += objective.seen
    assert_equals_the_plain_loop(seen, objective.strip(model))
