from __future__ import annotations

import free_twins
import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs

from holdfast.core.errors import ClashError, InputError, NoEffectError
from holdfast.methods.freeat import FreeAT
from holdfast.train.objective import Objective

IDENTITY = {"eps": 0.0}


def train(objective, model, optimiser, batches, replays):
    losses = []
    for batch in batches:
        for _ in range(replays):
            optimiser.zero_grad()
            loss = objective(model, batch)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses


def start():
    task = classification()
    objective, model = Objective(task, [FreeAT(eps=8, replays=3)]), model_of(task).double()
    return objective, model, torch.optim.SGD(model.parameters(), lr=0.02)


def batches(n):
    return [{**images(seed=i), "image": images(seed=i)["image"].double()} for i in range(n)]


def test_equals_the_loop_over_replays():
    objective, model, optimiser = start()
    found = train(objective, model, optimiser, batches(3), 3)
    objective, twin, optimiser = start()
    draw = objective._step(twin, batches(1)[0], None, {}).draw("freeat")
    first = 8 / 255 * (2 * torch.rand(6, 3, 8, 8, generator=draw).double() - 1)
    expected = free_twins.freeat(twin, optimiser, [(b["image"], b["y"]) for b in batches(3)], first, 8 / 255, 3)
    assert found == pytest.approx(expected, rel=1e-6)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_resumes_to_the_same_bits():
    objective, model, optimiser = start()
    expected = train(objective, model, optimiser, batches(4), 2)
    objective, model, optimiser = start()
    train(objective, model, optimiser, batches(2), 2)
    saved = torch.save, objective.state_dict(), model.state_dict()
    resumed, model_again, optimiser_again = start()
    resumed.load_state_dict(saved[1])
    model_again.load_state_dict(saved[2])
    optimiser_again.load_state_dict(optimiser.state_dict())
    assert train(resumed, model_again, optimiser_again, batches(4)[2:], 2) == expected[4:]


def test_a_state_that_was_loaded_is_not_written_to():
    objective, model, optimiser = start()
    train(objective, model, optimiser, batches(2), 2)
    state, weights = objective.state_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for _ in range(2):
        resumed, again, optimiser = start()
        resumed.load_state_dict(state)
        again.load_state_dict(weights)
        found.append(train(resumed, again, optimiser, batches(4)[2:], 2))
    assert found[0] == found[1]


def test_a_model_without_a_trained_weight_is_refused():
    objective, model, _ = start()
    model.requires_grad_(False)
    with pytest.raises(NoEffectError, match="no trained weight"):
        objective(model, batches(1)[0])


def test_a_short_last_batch_moves_only_its_own_perturbations():
    objective, model, optimiser = start()
    short = {k: v[:4] for k, v in batches(1)[0].items() if k != "variants"}
    train(objective, model, optimiser, [batches(1)[0], short, batches(1)[0]], 1)
    delta = objective.state_dict()["states"][0]["delta.image"]
    assert delta.shape[0] == 6
    assert delta.abs().max() <= 8 / 255 * (1 + 1e-6)


def test_every_leaf_has_its_own_perturbation():
    task = regression_with_two_inputs()
    objective, model = Objective(task, [FreeAT(eps=2)]), model_of(task)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    train(objective, model, optimiser, [driving(), driving(seed=1)], 2)
    state = objective.state_dict()["states"][0]
    assert state["delta.image"].abs().max().item() == pytest.approx(2 / 255, rel=1e-4)
    assert state["delta.speed"].abs().max().item() == pytest.approx(1.0, rel=1e-4)


def test_misuse_is_refused():
    objective, model, _ = start()
    objective(model, batches(1)[0])
    with pytest.raises(NoEffectError, match="no backward"):
        objective(model, batches(1)[0])
    objective, model, _ = start()
    objective(model, batches(1)[0]).backward()
    with pytest.raises(ClashError, match="without accumulation"):
        objective(model, batches(1)[0])
    with pytest.raises(InputError, match="at least one replay"):
        FreeAT(replays=0)
