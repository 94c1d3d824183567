"""The task factories on tiny made-up data, trained by the reference loop: what they call loss makes metrics better."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from holdfast.core.config import Training
from holdfast.core.contracts import Task
from holdfast.data.samples import Samples
from holdfast.data.table import Table, sensor_batch
from holdfast.models.small_cnn import SmallCNN
from holdfast.models.unet import UNet
from holdfast.tasks.classification import classification
from holdfast.tasks.regression import regression
from holdfast.tasks.segmentation import segmentation
from holdfast.train.loop import TrainingRun, build_initial, train
from holdfast.train.objective import Objective

N, HEIGHT, WIDTH = 48, 8, 24


def bars() -> tuple[Tensor, Tensor]:
    """Noisy frames of a bright bar: images uint8 (N, 1, H, W), position of its left edge (N,)."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(2, WIDTH - 6, (N,), generator=generator)
    column = torch.arange(WIDTH)
    inside = (column >= left[:, None]) & (column < left[:, None] + 4)
    frames = 60 + 120 * inside[:, None, None].expand(N, 1, HEIGHT, WIDTH)
    return (frames + 20 * torch.rand(frames.shape, generator=generator)).to(torch.uint8), left


IMAGES, LEFT = bars()
INSIDE = ((torch.arange(WIDTH) >= LEFT[:, None]) & (torch.arange(WIDTH) < LEFT[:, None] + 4))[:, None, None]
NET = partial(SmallCNN, size=(HEIGHT, WIDTH), widths=(8, 8), hidden=16)

TASKS = {
    "classification": classification(
        build_model=partial(NET, outputs=3), data=lambda _: Samples(image=IMAGES, label=LEFT // 7)
    ),
    "segmentation": segmentation(
        build_model=partial(UNet, inputs=1, widths=(4, 8)),
        data=lambda _: Samples(image=IMAGES, mask=INSIDE.expand(N, 1, HEIGHT, WIDTH).float()),
    ),
    "regression": regression(
        build_model=partial(NET, outputs=1), data=lambda _: Samples(image=IMAGES, target=LEFT / 10), constant=1.0
    ),
}
EXPECTED = {
    "classification": {"accuracy": (0.9, 1.0), "margin": (0.5, 1.0)},
    "segmentation": {"iou": (0.9, 1.0), "lateral_error_middle": (0.0, 0.5), "miscounted_rows": (0.0, 0.05)},
    "regression": {"error": (0.0, 0.15), "gain_over_constant": (0.3, 1.0)},
}


@pytest.mark.parametrize("name", TASKS)
def test_training_makes_the_metrics_good(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    batch = task.pipelines["train"](sensor_batch(task.data("train"), range(N)))
    run = TrainingRun(
        table=Table(batch), variants={}, training=Training(epochs=20, batch_size=16, lr=1e-2), averages={},
        init_seed=0, order_seed=0, checkpoint=tmp_path / "checkpoint.pt",
    )  # fmt: skip
    weights, _ = train(task, Objective(task), run)
    before, after = build_initial(task, 0).eval(), task.build_model().eval()
    after.load_state_dict(weights["last"])
    with torch.no_grad():
        untrained, trained = measured(task, before, batch), measured(task, after, batch)
    for metric, (low, high) in EXPECTED[name].items():
        assert low <= trained[metric] <= high, trained
    primary = task.metrics[0]
    gain = trained[primary.name] - untrained[primary.name]
    assert gain > 0 if primary.better == "higher" else gain < 0


def measured(task: Task, model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, float]:
    outputs = task.forward(model, batch)
    return {metric.name: float(metric.compute(outputs, batch).nanmean()) for metric in task.metrics}
