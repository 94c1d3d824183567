from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, step_of

from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.core.space import InputSpace, Leaf
from holdfast.methods.augmix import AugMix, mixture_of_chains
from holdfast.methods.image_ops import PHOTOMETRIC
from holdfast.tasks.predicted import mean_probability
from holdfast.train.terms import evaluate

IDENTITY = {"weight": 0.0, "joined": False}


def clean_term(task, batch):
    return Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))


@pytest.mark.parametrize("joined", [False, True])
def test_equals_the_published_loss_on_its_three_images(joined):
    task, batch = classification(mixture=mean_probability), images()
    model = model_of(task).train(joined)
    step = step_of(task, model, batch)
    terms = AugMix(joined=joined).rewrite([clean_term(task, batch)], step)
    loss = evaluate(terms, step.forward)
    views = [view["image"] for view in terms[1].views]
    twin = model_of(task).train(joined)
    logits = twin(torch.cat(views))
    p = logits.softmax(1).split(6)
    log_mean = torch.clamp(sum(p) / 3, 1e-7, 1).log()
    kl = torch.nn.functional.kl_div
    expected = torch.nn.functional.cross_entropy(logits[:6], batch["y"])
    expected = expected + 12 * sum(kl(log_mean, one, reduction="batchmean") for one in p) / 3
    torch.testing.assert_close(loss, expected)


def test_without_a_mixture_values_are_averaged():
    task = classification(divergence=lambda r, o, _: (r - o).pow(2).sum(1))
    batch = images()
    [_, term] = AugMix(weight=1).rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    outputs = tuple(torch.rand(6, 3, generator=torch.Generator().manual_seed(i)) for i in range(3))
    torch.testing.assert_close(term.loss(outputs), 3 * torch.stack(outputs).var(0, unbiased=False).sum(1) / 3)


def test_mixtures_differ_by_sample_and_stay_in_range():
    image = torch.rand(64, 3, 8, 8)
    mixed = mixture_of_chains(image, PHOTOMETRIC, torch.Generator().manual_seed(0))
    assert mixed.min() >= 0
    assert mixed.max() <= 1 + 1e-6
    assert ((mixed - image).flatten(1).abs().amax(1) > 1e-3).float().mean() > 0.9
    assert torch.equal(image, image.clone())


def test_geometric_targets_get_photometric_changes_only():
    batch = images()
    # A constant image stays constant under photometric changes, but black comes in from outside when it moves.
    batch["image"] = torch.full_like(batch["image"], 0.5)
    for geometric in (True, False):
        task = classification(geometric=geometric)
        [_, term] = AugMix(severity=10).rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
        spread = torch.cat([view["image"] for view in term.views[1:]]).flatten(1).std(1)
        assert (spread.max() < 1e-5) == geometric


def test_normalised_images_are_changed_in_their_own_range():
    leaf = Leaf(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (leaf.mean, leaf.std))
    batch = images()
    plain_task, task = classification(), classification(space=InputSpace({"image": leaf}))
    [_, plain] = AugMix().rewrite([clean_term(plain_task, batch)], step_of(plain_task, model_of(task), batch))
    batch = {**batch, "image": (batch["image"] - mean) / std}
    [_, term] = AugMix().rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    # A grey level at a threshold may fall to either side after the round trip.
    gap = (term.views[1]["image"] * std + mean - plain.views[1]["image"]).abs()
    assert (gap > 1e-4).float().mean() < 0.02


def test_refusals():
    task, batch = regression_with_two_inputs(), driving()
    with pytest.raises(InputError, match="no divergence"):
        AugMix().rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    object.__setattr__(task, "divergence", lambda r, o, b: r["steer"])
    with pytest.raises(InputError, match="several leaves"):
        AugMix().rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    with pytest.raises(InputError, match="is no image"):
        AugMix(leaf="speed").rewrite([clean_term(task, batch)], step_of(task, model_of(task), batch))
    with pytest.raises(InputError, match="severity 0 to 10"):
        AugMix(severity=11)
