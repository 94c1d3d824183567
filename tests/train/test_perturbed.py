from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from toy_tasks import ConvNet, classification, images

from holdfast.attacks.fgsm import FGSM
from holdfast.core.errors import NoEffectError
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.awp import AWP
from holdfast.methods.sam import SAM
from holdfast.methods.weight_noise import WeightNoise
from holdfast.train.objective import Objective


class Checkpointed(ConvNet):
    """The toy network with its features checkpointed, in training only, as models do."""

    reentrant = False

    def forward(self, image):
        if not self.training:
            return super().forward(image)
        features = checkpoint(self.features, image.requires_grad_(self.reentrant), use_reentrant=self.reentrant)
        self.samples += len(image)
        return self.head(self.dropout(features.flatten(1)))


class Reentrant(Checkpointed):
    reentrant = True


def net(kind, norm=False):
    torch.manual_seed(0)
    model = kind().train()
    if not norm:  # recomputation moves BatchNorm statistics twice, whoever uses it
        model.features[1] = nn.Identity()
    return model


PERTURBATIONS = [SAM(rho=0.3), SAM(rho=1.0, adaptive=True), AWP(gamma=0.05), WeightNoise(size=0.05)]


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: repr(p)[:20])
@pytest.mark.parametrize("kind", [Checkpointed, Reentrant])
@pytest.mark.parametrize("door", ["call", "backward"])
def test_checkpointed_layers_give_the_same_gradient_by_the_other_strategy(perturbation, kind, door):
    task, batch = classification(), images()
    plain, other = net(ConvNet), net(kind)
    objectives = [Objective(task, [Adversarial(attack=FGSM(eps=2))], perturbation=perturbation) for _ in range(2)]
    expected = objectives[0](plain, batch)
    expected.backward()
    before = [p.detach().clone() for p in other.parameters()]
    if door == "call":
        found = objectives[1](other, batch)
        found.backward()
    else:
        found = objectives[1].backward(other, batch)
    assert (objectives[0].strategy, objectives[1].strategy) == ("functional", "in_place")
    torch.testing.assert_close(found, expected)
    for a, b, c in zip(plain.parameters(), other.parameters(), before, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        assert torch.equal(b, c)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sees_the_moved_weights_in_both_strategies(dtype):
    """Autocast remembers a weight's cast by the parameter, which in place keeps its name and changes its value."""
    task, batch, found = classification(), images(), {}
    for kind, half in ((ConvNet, False), (ConvNet, True), (Checkpointed, True)):
        model, objective = net(kind), Objective(task, perturbation=SAM(rho=3.0))
        with torch.autocast("cpu", dtype=dtype, enabled=half):
            loss = objective(model, batch)
        loss.backward()
        found[objective.strategy, half] = model.features[0].weight.grad
    exact = found["functional", False]
    for strategy in ("functional", "in_place"):
        assert (found[strategy, True] - exact).norm() / exact.norm() < 0.05


def test_a_functional_call_would_be_wrong_there():
    task, batch = classification(), images()
    plain, other = net(ConvNet), net(Checkpointed)
    for model in (plain, other):
        objective = Objective(task, perturbation=SAM(rho=3.0))
        objective.strategy = "functional"
        objective(model, batch).backward()
    gap = (plain.features[0].weight.grad - other.features[0].weight.grad).norm() / plain.features[0].weight.grad.norm()
    assert gap > 0.1


def test_gradients_that_were_there_are_added_to_in_place():
    task, batch = classification(), images()
    once, twice = net(Checkpointed), net(Checkpointed)
    objective = Objective(task, perturbation=SAM(rho=0.3))
    objective.backward(once, batch)
    objective = Objective(task, perturbation=SAM(rho=0.3))
    for _ in range(2):
        objective.backward(twice, batch)
    for a, b in zip(once.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(2 * a.grad, b.grad)


def test_an_error_in_the_forward_leaves_the_weights_alone():
    task, batch = classification(), images()
    model = net(Checkpointed)
    before = [p.detach().clone() for p in model.parameters()]
    objective = Objective(task, perturbation=SAM(rho=0.3))
    objective.strategy = "in_place"
    calls = []

    def failing(outputs, batch):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("midway")
        return outputs.sum(dim=1)

    object.__setattr__(task, "loss", failing)
    with pytest.raises(RuntimeError, match="midway"):
        objective(model, batch)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_statistics_move_once_in_both_strategies():
    task, batch = classification(), images()
    expected = net(ConvNet, norm=True)
    expected(batch["image"])
    for strategy in ("functional", "in_place"):
        model = net(ConvNet, norm=True)
        objective = Objective(task, perturbation=SAM(rho=0.3))
        objective.strategy = strategy
        objective.backward(model, batch)
        for (name, a), b in zip(model.named_buffers(), expected.buffers(), strict=True):
            torch.testing.assert_close(a, b, msg=name)


class Counts(ConvNet):
    """Puts another tensor in the place of its buffer, as modules with codebooks and running means do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.features.register_buffer("same", self.seen)

    def forward(self, image):
        self.seen = self.seen + 1
        return super().forward(image)


@pytest.mark.parametrize("strategy", ["functional", "in_place"])
def test_a_buffer_that_a_forward_replaces_moves_once_a_step(strategy):
    model, objective = net(Counts), Objective(classification(), perturbation=SAM(rho=0.3))
    objective.strategy = strategy
    for step in range(3):
        objective.backward(model, images())
        assert model.seen.item() == step + 1


def test_hooks_on_parameters_see_the_gradient_and_not_the_ascent():
    model, objective, seen = net(ConvNet), Objective(classification(), perturbation=SAM(rho=0.3)), []
    model.head.weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    objective.backward(model, images())
    assert len(seen) == 1
    assert torch.equal(seen[0], model.head.weight.grad)


def test_looking_for_checkpoints_leaves_no_trace():
    task, batch = classification(), images()
    model = net(ConvNet, norm=True)
    model.dropout.p = 0.5
    state = torch.random.get_rng_state()
    objective = Objective(task, perturbation=WeightNoise(size=0.0))
    objective(model, batch)
    once = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    model(batch["image"])
    assert torch.equal(torch.random.get_rng_state(), once)
    assert int(model.features[1].num_batches_tracked) == 2


def test_a_perturbation_of_nothing_that_is_trained_is_refused():
    class Odd:
        def delta(self, parameters, loss, step):
            return {"nothing": torch.zeros(1)}

    with pytest.raises(NoEffectError, match="'nothing'"):
        Objective(classification(), perturbation=Odd())(net(ConvNet), images())
