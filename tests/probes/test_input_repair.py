"""The repairs against their definitions, on images whose fault is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Metric, Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.table import Table
from holdfast.explain_drift.domain import DOMAINS
from holdfast.probes.bench import Bench, RunLabel
from holdfast.probes.input_repair import InputRepair, repairs

IMAGENET = next(domain for domain in DOMAINS if domain.name == "imagenet")
NORMALISED = Leaf(mean=IMAGENET.mean, std=IMAGENET.std)
LEVELS = (torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).round()


def stored(levels: Tensor, leaf: Leaf) -> Tensor:
    physical = leaf.low + levels / 255 * (leaf.high - leaf.low)
    return (physical - leaf.along_channels(leaf.mean, levels)) / leaf.along_channels(leaf.std, levels)


@pytest.mark.parametrize("leaf", [Leaf(), Leaf(high=255.0, unit=1.0), NORMALISED, Leaf(low=-1, mean=0.0)])
def test_repairs_start_from_grey_levels_however_they_are_stored(leaf: Leaf) -> None:
    x = stored(LEVELS, leaf)
    found = repairs(leaf, x)
    wanted = stored(LEVELS, NORMALISED)
    if leaf is NORMALISED:
        assert "normalised_as_imagenet" not in found, "nothing would change"
    else:
        torch.testing.assert_close(found["normalised_as_imagenet"](x), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["channel_order"](x), stored(LEVELS.flip(1), leaf), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["inverted"](x), stored(255 - LEVELS, leaf), atol=1e-4, rtol=1e-4)
    limited = stored(LEVELS * 219 / 255 + 16, leaf)
    torch.testing.assert_close(found["limited_to_full_range"](limited), x, atol=2e-3, rtol=1e-4)


def test_grey_pictures_have_no_channel_order_and_no_colour_constants() -> None:
    names = set(repairs(Leaf(), LEVELS[:, :1] / 255))
    assert "channel_order" not in names
    assert "normalised_as_imagenet" not in names
    assert {"normalised_as_mnist", "inverted", "mirrored"} <= names


class Brightness(nn.Module):
    """Knows one thing: the red mean of an ImageNet-normalised picture; BatchNorm without a word of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False, eps=1e-12)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(image.mean((2, 3)))


def bench(pipelines: dict[str, Any], model: nn.Module, leaf: Leaf) -> Bench:
    y = stored(LEVELS, NORMALISED).mean((2, 3))

    def open_table(split: str, pipeline: str) -> Table | None:
        return Table({"image": pipelines[pipeline](LEVELS), "y": y}) if split == "report" else None

    error = Metric(name="error", unit="1", compute=lambda o, b: (o - b["y"]).abs().amax(1))
    task = Task(name="t", build_model=Brightness, data=lambda split: [], loss=error.compute, metrics=(error,),
                space=InputSpace({"image": leaf}), pipelines={name: lambda b: b for name in pipelines})  # fmt: skip
    label = RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last")
    return Bench(label=label, task=task, model=model.eval(), open_table=open_table, open_subjects=list,
                 preprocessing=list(pipelines))  # fmt: skip


def test_only_the_repair_of_the_fault_brings_everything_back() -> None:
    pipelines = {"train": lambda v: v / 255, "swapped": lambda v: v.flip(1) / 255}
    found = list(InputRepair(statistics=False).run(bench(pipelines, Brightness(), Leaf())))
    errors = {(m.row.preprocessing, m.row.condition): m.row.value for m in found}
    best = {p: min((v, c) for (q, c), v in errors.items() if q == p) for p in pipelines}
    assert best["train"] == (pytest.approx(0, abs=1e-5), "normalised_as_imagenet")
    assert best["swapped"] == (pytest.approx(0, abs=1e-5), "channel_order+normalised_as_imagenet")
    assert errors["train", "channel_order"] > 0.1
    assert all(m.row.n == len(LEVELS) for m in found)


def test_stale_statistics_are_estimated_anew_on_a_copy() -> None:
    model = Brightness()
    model.norm.running_mean.fill_(3.0)
    kept = model.norm.running_mean.clone()
    table = bench({"train": lambda v: stored(v, NORMALISED)}, model, NORMALISED)
    fresh = [m for m in InputRepair().run(table) if m.row.condition == "batchnorm_statistics"]
    x = stored(LEVELS, NORMALISED).mean((2, 3))
    pixels = stored(LEVELS, NORMALISED).mean((2, 3))
    expected = (((pixels - pixels.mean(0)) / pixels.std(0)) - x).abs().amax(1).mean()
    assert fresh[0].row.value == pytest.approx(float(expected), rel=1e-4)
    assert torch.equal(model.norm.running_mean, kept)
    assert not model.norm.training
