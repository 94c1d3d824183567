"""Accelerate trains to what the plain loop trains to, also after a resume."""

from __future__ import annotations

import pytest
import torch
from foreign_loops import CLIP, assert_equals_the_plain_loop, loader, names, snippets

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")


def test_the_page_trains_like_the_plain_loop(tmp_path):
    space = names(tmp_path)
    [snippet] = snippets("accelerate")
    exec(snippet, space)
    assert_equals_the_plain_loop(space["objective"].seen, space["objective"].strip(space["model"]))


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    [snippet] = snippets("accelerate")
    first = names(tmp_path, epochs=1)
    exec(snippet, first)
    second = names(tmp_path)
    objective = second["objective"]
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=2, cpu=True)
    model = objective.prepare(objective.task.build_model(), second["batch"])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model, optimiser, batches = accelerator.prepare(model, optimiser, loader())
    accelerator.register_for_checkpointing(objective)
    accelerator.load_state(tmp_path / "epoch_0")
    assert objective.index == len(first["objective"].seen)
    for batch in batches:
        with accelerator.accumulate(model):
            accelerator.backward(objective(model, batch))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            optimiser.zero_grad()
    assert_equals_the_plain_loop(first["objective"].seen + objective.seen, objective.strip(model))
