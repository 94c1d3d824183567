"""Every method that is found: same seed, same bits; given terms stay as they were; strength 0 is the identity.

A method's own test module may hold ``OPTIONS``, or ``make_options(folder)``, with which it is built here, and must hold
``IDENTITY``: the options at which it changes nothing, or a sentence why there are none.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from found_methods import ALL, METHODS, method_of, objective_of, own_tests
from toy_tasks import ConvNet, classification, images, model_of, step_of

from holdfast.core.contracts import Method, Term, WeightPerturbation
from holdfast.core.discover import build
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate

CARDS = Path(__file__).parents[2] / "docs" / "methods"


def run(name, seed=0, **options):
    """Losses and final weights of a short training."""
    objective = objective_of(name, seed, **options)
    model = objective.prepare(model_of(objective.task), images())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for i in range(3):
        optimiser.zero_grad()
        losses.append(objective.backward(model, images(seed=i)))
        optimiser.step()
    return torch.stack(losses), {k: v.clone() for k, v in objective.strip(model).state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_some_methods_are_found():
    assert {"adversarial", "preprocess_jitter"} <= set(METHODS)
    assert {"sam", "awp"} <= set(ALL) - set(METHODS)
    assert all(isinstance(method_of(name), Method if name in METHODS else WeightPerturbation) for name in ALL)


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_bits(name):
    (losses, weights), (again, weights_again) = run(name), run(name)
    assert losses.isfinite().all()
    assert torch.equal(losses, again)
    assert equal(weights, weights_again)


@pytest.mark.parametrize("name", METHODS)
def test_asking_twice_for_the_terms_of_a_step_gives_the_same_loss(name):
    objective = objective_of(name)
    model = objective.prepare(model_of(objective.task), images()).eval()
    forward = partial(objective.task.forward, model)
    values = [evaluate(objective.terms(model, images()), forward) for _ in range(2)]
    assert torch.equal(*values)


@pytest.mark.parametrize("name", METHODS)
def test_neither_terms_nor_batch_nor_model_are_changed(name):
    objective, batch = objective_of(name), images()
    task, [method] = objective.task, objective.methods
    model = objective.prepare(model_of(task), batch).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    before = {k: v.clone() for k, v in batch.items() if k != "variants"}
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    given = [term]
    found = method.rewrite(given, step_of(task, model, batch, unlabelled=images(seed=9)))
    assert given == [term]
    assert found is not given
    assert len({t.name for t in found}) == len(found)
    assert all(torch.equal(batch[k], before[k]) for k in before)
    # A method that trains while it rewrites, and hands its gradients over, moves BatchNorm as any training pass does.
    kept = dict(model.named_parameters() if any(not t.views for t in found) else model.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in kept.items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ALL)
def test_strength_zero_is_the_identity(name):
    options = own_tests(name).IDENTITY
    if isinstance(options, str):
        pytest.skip(options)
    losses, weights = run(name, **options)
    task = classification()
    plain, model = Objective(task), model_of(task)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    expected = []
    for i in range(3):
        optimiser.zero_grad()
        expected.append(plain.backward(model, images(seed=i)))
        optimiser.step()
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-6)
    floats = [k for k, v in model.state_dict().items() if v.is_floating_point() and "running" not in k]
    for key in floats:
        torch.testing.assert_close(weights[key], model.state_dict()[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_declared_forwards_are_the_forwards_that_happen(name):
    objective = objective_of(name)
    model = objective.prepare(model_of(objective.task), images())
    before = ConvNet.total  # a teacher's forwards count, too
    objective(model, images())
    assert ConvNet.total - before == pytest.approx(objective.passes()[0] * len(images()["y"]))


@pytest.mark.parametrize("name", METHODS)
def test_without_draws_the_order_of_the_batch_does_not_matter(name):
    objective = objective_of(name)
    task, [method] = objective.task, objective.methods
    model = objective.prepare(model_of(task), images()).eval()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    values, drawn = [], []
    for permute in (False, True):
        batch, extra = images(), images(seed=9)
        if permute:
            batch, extra = ({k: v[order] for k, v in b.items() if k != "variants"} for b in (batch, extra))
        batch["variants"] = {k: v[order] if permute else v for k, v in images()["variants"].items()}
        step = step_of(task, model, batch, unlabelled=extra)
        generators = []
        object.__setattr__(step, "draw", lambda name, keep=generators: keep.append(torch.Generator()) or keep[-1])
        term = Term(name="clean", views=(batch,), loss=lambda outputs, b=batch: task.loss(outputs[0], b))
        values.append(evaluate(method.rewrite([term], step), step.forward))
        drawn += [not torch.equal(g.get_state(), torch.Generator().get_state()) for g in generators]
    if any(drawn):
        pytest.skip("draws by position: another order is another draw")
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("name", ALL)
def test_the_card_names_the_method_and_its_snippets_run(name):
    card = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert card.splitlines()[0].endswith(f"(`{name}`)")
    snippets = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        task = classification()
        exec(snippet, {"task": task, "model": model_of(task), "batch": images(), "unlabelled": [images(seed=9)]})
    for block in re.findall(r"```yaml\n(.*?)```", card, flags=re.DOTALL):
        parsed = yaml.safe_load(block)
        for key, kind in (("methods", "method"), ("surgery", "surgery")):
            assert all(build(kind, spec) is not None for spec in parsed.get(key, []))
        assert "perturbation" not in parsed or build("method", parsed["perturbation"]) is not None
