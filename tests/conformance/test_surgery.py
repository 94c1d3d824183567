"""Every surgery that is found: the prepared model trains, and what is stripped is a plain, deployable model."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from toy_tasks import classification, images, model_of

from holdfast.core.contracts import Surgery
from holdfast.core.discover import build, names
from holdfast.train.objective import Objective

CARDS = Path(__file__).parents[2] / "docs" / "methods"
OPTIONS = {"taps": {"layers": ["features.0"]}, "width": {"factor": 2.0}}
SURGERIES = names("surgery")


def prepared(name):
    torch.manual_seed(0)
    surgery = build("surgery", {name: OPTIONS.get(name, {})})
    assert isinstance(surgery, Surgery)
    objective = Objective(classification(), surgery=(surgery,))
    return objective, objective.prepare(model_of(objective.task), images())


def train(objective, model, steps=2):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for i in range(steps):
        optimiser.zero_grad()
        losses.append(objective.backward(model, images(seed=i)))
        optimiser.step()
    return torch.stack(losses)


def test_some_surgeries_are_found():
    assert {"taps", "auxiliary_head", "init_law", "quantisation_aware"} <= set(SURGERIES)


@pytest.mark.parametrize("name", SURGERIES)
def test_is_reproducible_and_a_stripped_copy_does_not_disturb_training(name):
    objective, model = prepared(name)
    losses = train(objective, model, steps=4)
    assert losses.isfinite().all()
    objective, again = prepared(name)
    first = train(objective, again)
    plain = objective.strip(copy.deepcopy(again))
    assert plain.eval()(images()["image"]).shape == (6, 3)
    assert torch.equal(first, losses[:2])
    objective, again = prepared(name)
    objective.strip(copy.deepcopy(again))
    assert torch.equal(train(objective, again, steps=4), losses)


@pytest.mark.parametrize("name", SURGERIES)
def test_stripped_weights_load_into_a_model_stripped_in_another_process(name):
    objective, model = prepared(name)
    train(objective, model)
    plain = objective.strip(model).eval()
    other, fresh = prepared(name)
    target = other.strip(fresh)
    target.load_state_dict(plain.state_dict())
    torch.testing.assert_close(target.eval()(images()["image"]), plain(images()["image"]))


@pytest.mark.parametrize("name", SURGERIES)
def test_the_prepared_state_round_trips(name):
    objective, model = prepared(name)
    train(objective, model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other, fresh = prepared(name)
    fresh.load_state_dict(state)
    x = images()["image"]
    torch.manual_seed(3)
    expected = model.eval()(x)
    torch.manual_seed(3)
    assert torch.equal(fresh.eval()(x), expected)
    assert other.surgery


@pytest.mark.parametrize("name", SURGERIES)
def test_the_card_names_the_surgery_and_its_snippets_run(name):
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert card.splitlines()[0].endswith(f"(`{name}`)")
    snippets = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        task = classification()
        exec(snippet, {"task": task, "model": model_of(task), "batch": images()})
    for block in re.findall(r"```yaml\n(.*?)```", card, flags=re.DOTALL):
        assert all(build("surgery", spec) is not None for spec in yaml.safe_load(block)["surgery"])
