from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast.core.errors import InputError
from holdfast.data.samples import Samples
from holdfast.data.table import sensor_batch
from holdfast.models.small_cnn import SmallCNN
from holdfast.tasks.classification import classification
from holdfast.tasks.predicted import decision_margin, kl_divergence, total_variation

IMAGES = Samples(image=torch.full((4, 1, 28, 28), 255, dtype=torch.uint8), label=torch.arange(4), scene=[0, 0, 1, 1])
TASK = classification(build_model=SmallCNN, data={"train": IMAGES}.__getitem__, group="scene", classes=["a", "b", "c"])
METRICS = {metric.name: metric for metric in TASK.metrics}
DRIFTS = {drift.name: drift for drift in TASK.drifts}

logits = hnp.arrays("f8", (5, 3), elements=st.floats(-20, 20)).map(torch.from_numpy)
LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 5.0, 1.0], [1.0, 0.0, 0.5]])
BATCH = {"label": torch.tensor([0, 1, 2]), "scene": torch.tensor([4, 4, 9])}


def test_a_task_file_must_bring_model_and_data() -> None:
    with pytest.raises(InputError, match="task 'classification': needs build_model and data"):
        classification()


def test_from_samples_to_logits() -> None:
    with pytest.raises(KeyError):
        TASK.data("report")
    batch = TASK.pipelines["train"](sensor_batch(TASK.data("train"), range(4)))
    TASK.space.check(batch, where="test")
    assert float(batch["image"].max()) == 1
    assert TASK.forward(TASK.build_model(), batch).shape == (4, 10)
    assert TASK.group is not None
    assert TASK.group(batch) == [0, 0, 1, 1]


def test_right_and_wrong() -> None:
    assert METRICS["accuracy"].compute(LOGITS, BATCH).tolist() == [1, 1, 0]
    assert TASK.failed is not None
    assert TASK.failed(LOGITS, BATCH).tolist() == [False, False, True]
    torch.testing.assert_close(METRICS["nll"].compute(LOGITS, BATCH), -LOGITS.log_softmax(1)[range(3), range(3)])
    assert TASK.loss(LOGITS, BATCH).shape == (3,)


def test_flips_and_pseudo_labels_follow_decisions() -> None:
    other = LOGITS[:, [1, 0, 2]]
    assert DRIFTS["flipped"].compute(LOGITS, other, BATCH).tolist() == [1, 1, 1]
    assert DRIFTS["flipped"].compute(LOGITS, LOGITS * 0.1, BATCH).tolist() == [0, 0, 0]
    assert TASK.pseudo_label is not None
    assert TASK.pseudo_label(LOGITS, BATCH)["label"].tolist() == [0, 1, 0]


@given(logits)
def test_margin_is_positive_where_the_decision_is_right(x: torch.Tensor) -> None:
    labels = torch.tensor([0, 1, 2, 0, 1])
    margin = decision_margin(x, labels)
    assert bool((margin.abs() <= 1).all())
    assert bool((margin[x.argmax(1) != labels] <= 0).all())
    assert bool((margin[x.argmax(1) == labels] >= 0).all())


@given(logits, logits)
def test_distances_of_distributions(x: torch.Tensor, y: torch.Tensor) -> None:
    variation, divergence = total_variation(x, y), kl_divergence(x, y)
    assert bool(((variation >= 0) & (variation <= 1 + 1e-9)).all())
    torch.testing.assert_close(variation, total_variation(y, x))
    assert bool((divergence >= 2 * variation**2 - 1e-9).all()), "Pinsker's inequality"
    assert float(kl_divergence(x, x).abs().max()) < 1e-9


def test_picture_says_what_was_decided() -> None:
    assert TASK.picture is not None
    sensor = {"image": torch.zeros(3, 1, 28, 28, dtype=torch.uint8), "label": torch.tensor([0, 1, 2])}
    picture = TASK.picture(sensor, {"deployed": LOGITS}, 2)
    assert picture.image.shape == (28, 28, 3)
    assert picture.caption == "truth c, deployed a"
