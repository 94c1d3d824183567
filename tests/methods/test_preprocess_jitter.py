from __future__ import annotations

import pytest
import torch
from toy_tasks import classification, driving, images, model_of, regression_with_two_inputs, step_of

from holdfast.core.contracts import Term
from holdfast.core.errors import InputError
from holdfast.core.space import Leaf
from holdfast.methods.preprocess_jitter import PreprocessJitter, mixed, pixel_jitter
from holdfast.train.objective import Objective

IDENTITY = {"pipelines": ("train",), "soften": 0.0, "gain": 0.0, "bias": 0.0, "noise": 0.0, "rounding": 0.0}
STILL = {key: value for key, value in IDENTITY.items() if key != "pipelines"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def jittered(batch, task=None, **options):
    task = task or classification()
    term = Term(name="clean", views=(batch,), loss=lambda outputs: task.loss(outputs[0], batch))
    return PreprocessJitter(**options).rewrite([term], step_of(task, model_of(task), batch))


def test_mixture_is_convex_and_differs_by_sample():
    a, b, c = torch.zeros(500, 2), torch.ones(500, 2), torch.full((500, 2), 3.0)
    found = mixed([a, b, c], generator())
    assert torch.equal(found[:, 0], found[:, 1])
    assert found.min() >= 0
    assert found.max() <= 3
    assert len(found[:, 0].unique()) == 500
    # Dirichlet(1): each weight has mean 1/3 and variance 1/18.
    assert found[:, 0].mean().item() == pytest.approx(4 / 3, abs=0.1)
    variance = (10 - 16 / 3) / 12  # sum a_k^2/18 - sum_{j<k} a_j a_k/18, from the moments of Dirichlet(1)
    assert found[:, 0].var().item() == pytest.approx(variance, rel=0.2)


def test_twin_of_the_pixel_part():
    leaf = Leaf(low=0.0, high=1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (leaf.mean, leaf.std))
    physical = torch.rand(5, 3, 6, 7, generator=generator(1))
    found = pixel_jitter(
        (physical - mean) / std, leaf, generator(), soften=0.5, gain=0.1, bias=4, noise=2, rounding=0.5
    )
    draws = generator()
    u = torch.rand(5, 5, generator=draws)
    pixels = torch.randn(physical.shape, generator=draws)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    for i in range(5):
        padded = torch.nn.functional.pad(physical[i][None], (1, 1, 1, 1), mode="replicate")[0]
        blurred = sum(
            kernel[a] * kernel[b] * padded[:, a : a + 6, b : b + 7] for a in range(3) for b in range(3)
        )  # fmt: skip
        image = physical[i] + (2 * u[0, i] - 1) * 0.5 * (blurred - physical[i])
        image = image * (1 + (2 * u[1, i] - 1) * 0.1) + (2 * u[2, i] - 1) * 4 / 255
        image = image + pixels[i] * u[3, i] * 2 / 255
        if u[4, i] < 0.5:
            image = (image * 255).round() / 255
        expected = image.clamp(0, 1)
        # Rounding may fall to either side where the two orders of operations disagree by an ulp at one half.
        different = ((found[i] * std + mean) - expected).abs() > 2e-6
        assert different.float().mean() < 0.01


def test_rounding_gives_whole_sensor_values():
    image = pixel_jitter(torch.rand(4, 3, 8, 8), Leaf(), generator(), rounding=1.0)
    assert torch.allclose(image * 255, (image * 255).round(), atol=1e-4)


def test_without_strength_nothing_changes():
    x = images()["image"]
    assert torch.equal(pixel_jitter(x, Leaf(), generator(), **STILL), x)
    assert torch.equal(mixed([x], generator()), x)


def test_replaces_the_view_and_leaves_labels_alone():
    batch = images()
    before = batch["image"].clone()
    [term] = jittered(batch)
    assert (term.name, term.weight, term.crafted) == ("clean", 1.0, False)
    assert not torch.equal(term.views[0]["image"], before)
    assert torch.equal(batch["image"], before)
    assert term.views[0]["y"] is batch["y"]


def test_a_clean_share_may_stay():
    terms = jittered(images(), clean_weight=0.25)
    assert [(t.name, t.weight) for t in terms] == [("clean", 0.25), ("clean_jitter", 0.75)]
    assert PreprocessJitter(clean_weight=0.25).passes() == (1, 1)
    assert PreprocessJitter().passes() == (0, 0)


def test_declares_what_the_loop_must_provide():
    assert PreprocessJitter(pipelines=["a", "b"]).variants == ("a", "b")


def test_only_named_pipelines_enter_the_mixture():
    batch = images()
    batch["variants"]["vehicle"] = torch.full_like(batch["image"], float("nan"))
    [term] = jittered(batch)
    assert term.views[0]["image"].isfinite().all()
    [term] = jittered(batch, pipelines=("aa_bicubic",), **STILL)
    assert torch.equal(term.views[0]["image"], batch["variants"]["aa_bicubic"])


def test_a_loop_without_variants_gets_the_pixel_part_or_a_clear_error():
    batch = images()
    del batch["variants"]
    with pytest.raises(InputError, match=r"no variant 'train'.*pipelines=\(\)"):
        jittered(batch)
    [term] = jittered(batch, pipelines=())
    assert not torch.equal(term.views[0]["image"], batch["image"])


def test_pairs_work_without_pipelines():
    task = classification(space=classification().space.__class__({"0": Leaf()}))
    batch = images()
    pair = (batch["image"], batch["y"])
    loss = Objective(task, [PreprocessJitter(pipelines=())])(model_of(task), pair)
    assert loss.isfinite()


def test_refusals():
    batch = images()
    batch["variants"]["area"] = torch.rand(6, 3, 4, 4)
    with pytest.raises(InputError, match="network size"):
        jittered(batch)
    with pytest.raises(InputError, match="several leaves"):
        jittered(driving(), task=regression_with_two_inputs(), pipelines=())
    with pytest.raises(InputError, match="cannot be softened"):
        jittered(driving(), task=regression_with_two_inputs(), pipelines=(), leaf="speed")
    [term] = jittered(driving(), task=regression_with_two_inputs(), pipelines=(), leaf="speed", soften=0)
    assert term.views[0]["speed"].shape == (6, 2)
    for odd in ({"gain": 2.0}, {"rounding": -0.1}, {"clean_weight": 1.1}, {"noise": -1.0}):
        with pytest.raises(InputError):
            PreprocessJitter(**odd)
