from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, step_of

from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.methods.input_noise import InputNoise, noisy

IDENTITY = {"size": 0.0}


def generator():
    return torch.Generator().manual_seed(0)


def test_sizes_are_in_units_of_the_leaf():
    leaf = Leaf(mean=0.5, std=0.25)
    x = torch.zeros(200, 3, 8, 8)
    fixed = noisy(x, leaf, generator(), size=4.0, distribution="normal", varied=False)
    assert (fixed * 0.25 * 255).std().item() == pytest.approx(4.0, rel=0.02)
    uniform = noisy(x, leaf, generator(), size=4.0, distribution="uniform", varied=False) * 0.25 * 255
    assert uniform.abs().max().item() == pytest.approx(4.0, rel=0.01)
    sizes = (noisy(x, leaf, generator(), size=4.0, distribution="normal", varied=True) * 0.25 * 255).flatten(1).std(1)
    assert sizes.min() < 0.5
    assert 3.5 < sizes.max() < 4.5


def test_every_leaf_or_one_of_them():
    task, batch = regression_with_two_inputs(), driving()
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    step = step_of(task, model_of(task), batch)
    [both] = InputNoise(size=2).rewrite([term], step)
    assert all(not torch.equal(both.views[0][leaf], batch[leaf]) for leaf in ("image", "speed"))
    [one] = InputNoise(size=2, leaf="speed").rewrite([term], step)
    assert one.views[0]["image"] is batch["image"]


def test_a_clean_share_may_stay():
    task, batch = classification(), images()
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    terms = InputNoise(clean_weight=0.5).rewrite([term], step_of(task, model_of(task), batch))
    assert [(t.name, t.weight) for t in terms] == [("clean", 0.5), ("clean_noise", 0.5)]
    assert InputNoise(clean_weight=1).rewrite([term], step_of(task, model_of(task), batch)) == [term]


def test_refusals():
    for odd in ({"size": -1.0}, {"clean_weight": 2.0}, {"distribution": "salt"}):
        with pytest.raises(InputError, match="normal or uniform"):
            InputNoise(**odd)
