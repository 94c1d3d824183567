from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, images, model_of

from holdfast.core.contracts import PartedLoss, Term
from holdfast.core.errors import ClashError, InputError
from holdfast.methods.handover import HandedOver
from holdfast.train.terms import differentiate, evaluate, losses


def term(batch, name="clean", **options):
    return Term(name=name, views=(batch,), loss=lambda outputs: outputs[0].sum(dim=1), **options)


def recording(seen):
    def forward(view, **call):
        seen.append((view, call))
        return view["image"].flatten(1) * call.get("factor", 1)

    return forward


def test_keywords_reach_the_model_and_calls_with_other_keywords_are_not_shared():
    batch, seen = images(), []
    call = {"factor": 2}
    terms = [term(batch), term(batch, "again"), term(batch, "twice", call=call), term(batch, "twice_again", call=call)]
    loss = evaluate(terms, recording(seen))
    assert [keywords for _, keywords in seen] == [{}, {"factor": 2}]
    torch.testing.assert_close(loss, 6 * batch["image"].sum(dim=(1, 2, 3)).mean())


def test_one_view_twice_in_a_joined_group_runs_once():
    task, batch, other = classification(), images(), images(seed=1)
    model = model_of(task).eval()
    loss = lambda outputs: task.loss(outputs[0], batch)  # noqa: E731 - closes over its batch as a term does
    clean = Term(name="clean", views=(batch,), loss=loss)
    joined = Term(name="joined", views=(batch, other), loss=lambda o: task.loss(o[1], other), joins="clean")
    value = evaluate([clean, joined], lambda view: task.forward(model, view))
    assert model.samples == 12
    torch.testing.assert_close(value, sum(task.loss(model(b["image"]), b).mean() for b in (batch, other)))


def test_joined_terms_must_call_the_model_alike():
    batch = images()
    terms = [term(batch), term(images(seed=1), "other", joins="clean", call={"factor": 2})]
    with pytest.raises(ClashError, match="call the model differently"):
        evaluate(terms, recording([]))


def test_shares_given_directly_are_the_gradient_of_the_weighted_sum_of_means():
    batch, scale = images(), torch.tensor([2.0, 3.0], requires_grad=True)
    terms = [
        Term(name="a", views=(batch,), loss=lambda o: (scale[0] * o[0]).pow(2).sum(dim=1), weight=0.5),
        Term(name="scalar", views=(batch,), loss=lambda o: (scale[1] * o[0]).sum()),
        Term(name="constant", views=(batch,), loss=lambda o: o[0].sum(dim=1)),
    ]
    expected = evaluate(terms, recording([]))
    value = differentiate(losses(terms, recording([])))
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(scale.grad, torch.autograd.grad(expected, scale)[0])
    assert not value.requires_grad


def test_a_loss_of_nothing_that_is_trained_is_refused():
    with pytest.raises(InputError, match="no weight that is trained"):
        differentiate(losses([term(images())], recording([])))


def test_a_changed_term_is_the_same_but_for_what_was_asked():
    before = term(images(), weight=0.5, crafted=True)
    after = before.changed(name="other", weight=2.0)
    assert (after.name, after.weight, after.crafted, after.views) == ("other", 2.0, True, before.views)
    assert (before.name, before.weight) == ("clean", 0.5)
    with pytest.raises(TypeError, match="nothing"):
        before.changed(nothing=1)


def test_the_loss_of_nobody_is_no_number():
    weight = torch.ones((), requires_grad=True)
    assert differentiate([(weight * torch.zeros(0), 1.0), (weight * torch.ones(2), 1.0)]).isnan()


class Halves(PartedLoss):
    """A loss in two parts, the second in an order of its own."""

    def __call__(self, outputs):
        return 0.25 * outputs[0].sum(dim=1) + 0.75 * outputs[0].exp().sum(dim=1)

    def parts(self, outputs):
        return (outputs[0].sum(dim=1), 0.25), (outputs[0].flip(0).exp().sum(dim=1), 0.75)


def test_a_loss_in_parts_counts_like_the_whole():
    batch, scale = images(), torch.tensor(0.5, requires_grad=True)

    def forward(view):
        """A model of one weight."""
        return scale * view["image"].flatten(1)

    terms = [Term(name="a", views=(batch,), loss=Halves(), weight=2.0)]
    [expected] = torch.autograd.grad(2 * terms[0].loss((forward(batch),)).mean(), scale)
    value = differentiate(losses(terms, forward))
    torch.testing.assert_close(value, evaluate(terms, forward).detach())
    torch.testing.assert_close(scale.grad, expected)


def test_gradients_that_are_known_are_taken_as_they_are_beside_those_of_the_graph():
    batch, weight = images(), torch.tensor([1.0, 2.0], requires_grad=True)
    known = HandedOver(torch.tensor(5.0), [weight], [torch.tensor([10.0, 20.0])])
    terms = [
        Term(name="own", views=(batch,), loss=lambda o: weight[0] * o[0].sum(dim=1)),
        Term(name="known", views=(), loss=known, weight=3.0),
    ]
    value = evaluate(terms, recording([]))
    [expected] = torch.autograd.grad(value, weight)
    assert expected[1] == 60
    torch.testing.assert_close(differentiate(losses(terms, recording([]))), value.detach())
    torch.testing.assert_close(weight.grad, expected)
