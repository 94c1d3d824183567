from __future__ import annotations

import pytest
import torch

from holdfast.core.contracts import Task
from holdfast.core.errors import InputError
from holdfast.models.small_cnn import SmallCNN
from holdfast.tasks.regression import regression


def task(**options: object) -> Task:
    return regression(build_model=SmallCNN, data=lambda _: None, unit="m", **options)  # type: ignore[arg-type]  # a shorthand for the tests


def measured(found: Task, outputs: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    return {metric.name: metric.compute(outputs, {"target": truth}) for metric in found.metrics}


TRUTH = torch.tensor([0.0, 1.0, -2.0])


def test_a_task_file_must_bring_model_and_data() -> None:
    with pytest.raises(InputError, match="task 'regression': needs build_model and data"):
        regression()


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_errors_per_sample(shape: tuple[int, ...]) -> None:
    outputs = torch.tensor([0.5, 1.0, -1.0]).view(shape)
    assert measured(task(), outputs, TRUTH)["error"].tolist() == [0.5, 0.0, 1.0]


def test_the_loss_is_square_then_straight_with_slope_one() -> None:
    found = task(huber=0.1)
    loss = found.loss(torch.tensor([0.05, 0.1, 1.1]), {"target": torch.zeros(3)})
    assert loss.tolist() == pytest.approx([0.05**2 / 0.2, 0.05, 1.05])


def test_a_stiff_model_gains_nothing_over_the_constant() -> None:
    found = task(constant=0.5)
    assert measured(found, torch.full((3, 1), 0.5), TRUTH)["gain_over_constant"].abs().max() == 0
    assert measured(found, TRUTH[:, None], TRUTH)["gain_over_constant"].tolist() == [0.5, 0.5, 2.5]


def test_displacement_needs_no_labels() -> None:
    [drift] = task().drifts
    assert drift.unit == "m"
    assert drift.compute(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [1.0]]), {}).tolist() == [0.5, 1.0]


def test_curves_are_measured_only_where_there_are_sequences() -> None:
    assert {metric.over for metric in task().metrics} == {"sample"}
    assert task().traces is None
    found = task(rate_hz=20.0)
    truth = torch.sin(torch.arange(100) / 5)
    values = measured(found, (0.5 * truth)[:, None], truth)
    curves = {metric.name for metric in found.metrics if metric.over == "sequence"}
    assert curves == {"jitter", "sway", "sway_error", "responsiveness", "correlation"}
    assert all(values[name].shape == () for name in curves)
    assert float(values["responsiveness"]) == pytest.approx(0.5)
    assert float(values["sway"]) == pytest.approx(float(values["sway_error"]))
    assert {metric.better for metric in found.metrics if metric.name in ("jitter", "sway")} == {"neither"}
    assert found.traces is not None
    assert set(found.traces(truth[:, None], {"target": truth})) == {"truth", "target"}


def test_drift_over_a_sequence_is_of_the_difference() -> None:
    drifts = {drift.name: drift for drift in task(rate_hz=20.0).drifts}
    curve = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    for name in ("jitter_drift", "sway_drift"):
        assert float(drifts[name].compute(curve, curve + 3, {})) == pytest.approx(0, abs=1e-5)
        assert float(drifts[name].compute(curve, 2 * curve, {})) > 0.01


def test_what_other_methods_ask_of_a_task() -> None:
    found = task(failing_error=0.6)
    outputs, batch = torch.tensor([[0.5], [1.0], [-1.0]]), {"target": TRUTH}
    assert found.failed is not None
    assert found.divergence is not None
    assert found.pseudo_label is not None
    assert found.target_mix is not None
    assert found.failed(outputs, batch).tolist() == [False, False, True]
    assert found.divergence(outputs, outputs, batch).tolist() == [0, 0, 0]
    assert found.pseudo_label(outputs, batch)["target"].tolist() == [0.5, 1.0, -1.0]
    mixed = found.target_mix(batch, {"target": TRUTH + 1}, 0.25)
    assert mixed["target"].tolist() == pytest.approx((TRUTH + 0.75).tolist())
    assert task().failed is None


def test_picture_leans_with_the_value() -> None:
    found = task()
    assert found.picture is not None
    sensor = {"image": torch.zeros(2, 3, 20, 41, dtype=torch.uint8), "target": torch.tensor([0.0, 0.5])}
    picture = found.picture(sensor, {"deployed": torch.tensor([[0.0], [-0.5]])}, 1)
    assert picture.image.shape == (20, 41, 3)
    assert picture.lines["truth"][0].tolist() == [[20, 19], [30, 10]]
    assert picture.lines["deployed"][0].tolist() == [[20, 19], [10, 10]]
    assert picture.caption == "truth 0.500 m, deployed -0.500 m"
