"""The objective: terms, shared and joined views, draws, weight perturbations, resuming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Batch, Metric, Step, Task, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.train.objective import Objective
from holdfast.train.terms import evaluate


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x)


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1], reduction="none")


def make_task() -> Task:
    return Task(
        name="toy",
        build_model=Net,
        data=lambda split: [],
        loss=cross_entropy,
        metrics=(Metric(name="loss", compute=cross_entropy, unit="nat"),),
        space=InputSpace({"0": Leaf(low=0.0, high=1.0)}),
    )


def make_batch(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, generator=g), torch.randint(0, 3, (n,), generator=g)


def make_model(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Adds a term on noisy inputs."""

    joins: str | None = None
    clashes: ClassVar[Mapping[str, str]] = MappingProxyType({"quiet": "they are opposites"})

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        x, y = step.batch
        noise = torch.rand(x.shape, generator=step.draw("noisy"))
        step.state["drawn"] = float(noise.sum())
        view = ((x + noise) / 2, y)
        loss = lambda outputs: step.task.loss(outputs[0], view)  # noqa: E731 - closes over its view, as methods do
        return [*terms, Term(name="noisy", views=(view,), loss=loss, weight=0.5, joins=self.joins)]

    def passes(self) -> tuple[float, float]:
        return 1.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Quiet:
    """Does nothing but exclude `Noisy`."""

    clashes: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
        return terms

    def passes(self) -> tuple[float, float]:
        return 0.0, 0.0


def test_without_methods_the_loss_is_the_task_loss_bit_for_bit() -> None:
    model, batch = make_model(), make_batch()
    loss = Objective(make_task())(model, batch)
    assert torch.equal(loss, cross_entropy(make_model()(batch[0]), batch).mean())


def test_a_method_adds_its_weighted_term() -> None:
    model, batch = make_model(), make_batch()
    objective = Objective(make_task(), [Noisy()])
    clean, noisy = objective.terms(model.eval(), batch)
    expected = clean.loss((model(batch[0]),)).mean() + 0.5 * noisy.loss((model(noisy.views[0][0]),)).mean()
    assert torch.allclose(objective(model, batch), expected)


def test_drawing_twice_at_one_step_gives_the_same_and_the_next_step_another() -> None:
    model, batch, objective = make_model(), make_batch(), Objective(make_task(), [Noisy()], seed=3)
    first, again = (objective.terms(model, batch)[1].views[0][0] for _ in range(2))
    assert torch.equal(first, again)
    objective(model, batch)
    assert not torch.equal(first, objective.terms(model, batch)[1].views[0][0])


def test_a_view_shared_by_two_terms_is_run_once() -> None:
    model, batch = make_model(), make_batch()
    loss = lambda outputs: cross_entropy(outputs[0], batch)  # noqa: E731 - a term's loss
    terms = [Term(name=name, views=(batch,), loss=loss) for name in ("a", "b")]
    total = evaluate(terms, lambda view: model(view[0]))
    assert model.calls == 1
    assert torch.equal(total, 2 * cross_entropy(make_model()(batch[0]), batch).mean())


def test_joined_terms_share_one_forward_and_its_batch_statistics() -> None:
    model, batch = make_model(), make_batch()
    objective = Objective(make_task(), [Noisy(joins="clean")])
    _, noisy = objective.terms(model, batch)
    loss = objective(model, batch)
    assert model.calls == 1
    both = make_model()(torch.cat([batch[0], noisy.views[0][0]]))
    expected = cross_entropy(both[:6], batch).mean() + 0.5 * cross_entropy(both[6:], batch).mean()
    assert torch.allclose(loss, expected)


def test_joining_a_term_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="joins 'nobody'"):
        Objective(make_task(), [Noisy(joins="nobody")])(make_model(), make_batch())


def test_clashes_are_refused_in_either_order() -> None:
    for methods in ([Noisy(), Quiet()], [Quiet(), Noisy()]):
        with pytest.raises(ClashError, match="they are opposites"):
            Objective(make_task(), methods)


def test_a_batch_outside_the_declared_range_is_refused() -> None:
    x, y = make_batch()
    with pytest.raises(InputError, match="leave the declared range"):
        Objective(make_task())(make_model(), (x * 255, y))


def test_state_resumes_to_the_same_draws() -> None:
    model, batch = make_model(), make_batch()
    whole, parts = (Objective(make_task(), [Noisy()], seed=1) for _ in range(2))
    for _ in range(3):
        whole(model, batch), parts(model, batch)
    resumed = Objective(make_task(), [Noisy()], seed=1)
    resumed.load_state_dict(parts.state_dict())
    assert torch.equal(resumed.terms(model, batch)[1].views[0][0], whole.terms(model, batch)[1].views[0][0])
    with pytest.raises(InputError, match="another seed"):
        Objective(make_task(), [Noisy()], seed=2).load_state_dict(parts.state_dict())


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A constant weight perturbation."""

    size: float = 0.1

    def delta(
        self, parameters: Mapping[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor], step: Step
    ) -> Mapping[str, Tensor]:
        loss(parameters).backward()
        return {name: torch.full_like(p, self.size) for name, p in parameters.items()}


def test_a_weight_perturbation_gives_the_shifted_gradient_at_the_unshifted_weights() -> None:
    model, shifted, batch = make_model(), make_model(), make_batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = Objective(make_task(), perturbation=Shift(size=0.1))(model, batch)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in shifted.parameters():
            p += 0.1
    expected = cross_entropy(shifted(batch[0]), batch).mean()
    expected.backward()
    assert torch.allclose(loss, expected)
    for (name, p), q in zip(model.named_parameters(), shifted.parameters(), strict=True):
        assert torch.equal(p, before[name])
        assert torch.allclose(p.grad, q.grad)
    # Running statistics moved once, in the differentiated pass.
    assert int(model.body[1].num_batches_tracked) == 1


def test_backward_is_the_same_as_calling_it_on_the_loss() -> None:
    one, other, batch = make_model(), make_model(), make_batch()
    Objective(make_task(), [Noisy()])(one, batch).backward()
    Objective(make_task(), [Noisy()]).backward(other, batch)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_the_unlabelled_stream_is_where_it_was_after_resuming() -> None:
    seen: list[int] = []

    @dataclass(frozen=True, kw_only=True)
    class Watch(Quiet):
        def rewrite(self, terms: list[Term], step: Step) -> list[Term]:
            seen.append(int(step.unlabelled))
            return terms

    model, batch = make_model(), make_batch()
    objective = Objective(make_task(), [Watch()], unlabelled=[torch.tensor(i) for i in range(3)])
    for _ in range(4):
        objective(model, batch)
    resumed = Objective(make_task(), [Watch()], unlabelled=[torch.tensor(i) for i in range(3)])
    resumed.load_state_dict(objective.state_dict())
    resumed(model, batch)
    assert seen == [0, 1, 2, 0, 1]
