"""Calibration under shift, detection of what is strange, and stability of sequences, on outputs that are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.core.contracts import Measurement, Subject, Task
from holdfast.core.errors import InputError
from holdfast.data.samples import Samples
from holdfast.data.table import Table, sensor_batch
from holdfast.probes.bench import Bench, RunLabel
from holdfast.probes.calibration import Calibration, true_classes
from holdfast.probes.stability import Stability
from holdfast.tasks.classification import classification
from holdfast.tasks.regression import regression

SIZES = {"val": 400, "report": 400, "ood": 120, "report_sequence": 60}
K = 5


def data(split: str) -> Samples:
    """The image holds the logits themselves; the labels are drawn from them, so the model is calibrated."""
    if split not in SIZES:
        raise KeyError(split)
    g = torch.Generator().manual_seed(sorted(SIZES).index(split))
    logits = (0.3 if split == "ood" else 2.0) * torch.randn(SIZES[split], K, generator=g)
    label = torch.multinomial(logits.softmax(1), 1, generator=g)[:, 0]
    return Samples(image=logits.numpy(), label=label.numpy(), recording=(torch.arange(SIZES[split]) // 30).numpy())


def bench_of(task: Task, subjects: Any = None) -> Bench:
    def open_table(split: str, pipeline: str) -> Table | None:
        try:
            found = task.data(split)
        except KeyError:
            return None
        return Table(task.pipelines[pipeline](sensor_batch(found, range(len(found)))))

    return Bench(
        label=RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last"), task=task,
        model=task.build_model().eval(), open_table=open_table, open_subjects=subjects or list,
        preprocessing=list(task.pipelines),
    )  # fmt: skip


def classes() -> Task:
    def stretched(batch: Any) -> Any:
        return {**batch, "image": 3 * batch["image"]}

    return classification(name="c", build_model=nn.Identity, data=data, group="recording",
                          pipelines={"train": lambda batch: batch, "overconfident": stretched})  # fmt: skip


def value_of(found: list[Measurement], pipeline: str, condition: str, metric: str) -> float:
    (row,) = [m.row for m in found
              if (m.row.preprocessing, m.row.condition, m.row.metric) == (pipeline, condition, metric)]  # fmt: skip
    return row.value


def test_overconfidence_under_a_shift_is_seen_and_the_clean_temperature_does_not_mend_it() -> None:
    found = list(Calibration().run(bench_of(classes())))
    assert value_of(found, "train", "", "temperature") == pytest.approx(1, abs=0.2)
    for metric in ("ece", "ece_adaptive", "ece_debiased", "nll", "brier"):
        assert value_of(found, "overconfident", "", metric) > value_of(found, "train", "", metric)
    assert value_of(found, "train", "", "ece_debiased") < 0.05
    assert value_of(found, "overconfident", "tempered", "ece") > 0.1


def test_what_is_strange_is_found_and_values_average_to_the_measure() -> None:
    bench = bench_of(classes())
    found = list(Calibration().run(bench))
    for score in ("max_softmax", "entropy", "energy"):
        assert value_of(found, "train", score, "auroc") > 0.8
        assert value_of(found, "train", score, "fpr95") <= (1.0 if score == "energy" else 0.9)
        assert 0.3 < value_of(found, "train", score, "aupr") <= 1
    (auroc,) = [
        m for m in found if (m.row.preprocessing, m.row.condition, m.row.metric) == ("train", "entropy", "auroc")
    ]
    assert auroc.row.n == 400
    assert auroc.row.groups == 14
    assert auroc.row.value == pytest.approx(np.mean(auroc.values))


def test_every_subject_is_asked_and_a_wrong_precision_is_flagged() -> None:
    task = classes()
    eager = Subject(backend="eager", precision="fp32", executed="fp32", run=nn.Identity())
    other = replace(eager, backend="b", precision="fp16", executed="fp32", run=lambda x: x + 1e-3)
    found = list(Calibration().run(bench_of(task, lambda: [eager, other])))
    assert {m.row.subject: m.row.flags for m in found} == {"eager:fp32": (), "b:fp16": ("precision_not_executed",)}


def test_labels_are_read_from_what_failed_means() -> None:
    task = classes()
    batch = sensor_batch(task.data("val"), range(50))
    assert torch.equal(true_classes(task, batch["image"], batch), batch["label"])
    with pytest.raises(InputError, match="does not say what failed means"):
        true_classes(replace(task, failed=None), batch["image"], batch)
    with pytest.raises(InputError, match="not exactly one class"):
        true_classes(replace(task, failed=lambda o, b: o.sum(1) < 0), batch["image"], batch)


def test_values_instead_of_logits_are_refused() -> None:
    task = regression(name="r", build_model=lambda: nn.Linear(K, 1), data=data, target="label",
                      pipelines={"train": lambda batch: batch})  # fmt: skip
    with pytest.raises(InputError, match="are not logits"):
        list(Calibration().run(bench_of(task)))


# --- sequences ------------------------------------------------------------------------------------------


class Smoothed(nn.Module):
    """The true curve with noise, smoothed in time, as a filter behind the model would do it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        values = [x[0, 0]]
        for value in x[1:, 0]:
            values.append(self.share * values[-1] + (1 - self.share) * value)
        return torch.stack(values)[:, None]


def drive(share: float) -> Task:
    time = torch.arange(120)
    truth = torch.sin(0.1 * time) + 0.4 * torch.sin(0.23 * time)
    noisy = truth + 0.15 * torch.randn(120, generator=torch.Generator().manual_seed(0))

    def frames(split: str) -> Samples:
        if split != "report_sequence":
            raise KeyError(split)
        return Samples(image=noisy[:, None].numpy(), target=truth.numpy(), recording=(time // 60).numpy())

    return regression(name="drive", build_model=lambda: Smoothed(share), data=frames, group="recording", unit="rad",
                      rate_hz=20, pipelines={"train": lambda batch: batch})  # fmt: skip


def test_a_filter_buys_calm_and_pays_with_delay() -> None:
    raw, calm = ({m.row.metric: m.row for m in Stability().run(bench_of(drive(share)))} for share in (0.0, 0.75))
    assert calm["flicker_error"].value < 0.6 * raw["flicker_error"].value
    assert calm["jitter"].value < 0.6 * raw["jitter"].value
    assert raw["delay"].value < 0.5
    assert calm["delay"].value > 1.5
    assert calm["responsiveness"].value < raw["responsiveness"].value
    assert (calm["delay"].n, calm["delay"].condition, calm["delay"].unit) == (2, "target", "frames")


def test_decisions_that_flip_are_counted_by_sequence() -> None:
    found = list(Stability().run(bench_of(classes())))
    flips = [m for m in found if m.row.preprocessing == "train"]
    assert [m.row.metric for m in flips] == ["flips"]
    sequence = data("report_sequence")
    decisions = sensor_batch(sequence, range(len(sequence)))["image"].argmax(1)
    expected = [(part[1:] != part[:-1]).double().mean() for part in decisions.split(30)]
    np.testing.assert_allclose(flips[0].values, torch.stack(expected).numpy())


def test_a_task_without_curves_or_logits_is_refused_and_one_without_sequences_passed_over() -> None:
    task = replace(drive(0.0), traces=None)
    with pytest.raises(InputError, match="neither traces nor logits"):
        list(Stability().run(bench_of(task)))
    assert list(Stability(splits=("select_sequence",)).run(bench_of(task))) == []
