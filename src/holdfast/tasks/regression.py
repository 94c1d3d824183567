"""Regression of one value an image: error in the target's unit, and what the curve over a sequence does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from holdfast.core.contracts import Batch, Better, Drift, Metric, Outputs, Picture, Pipeline, Task
from holdfast.core.space import InputSpace
from holdfast.tasks.ingredients import by_column, image_pipelines, image_space, require, rgb_frame
from holdfast.tasks.sequences import band_rms, correlation, jitter, jump_rate, responsiveness

__all__ = ["ValueReading", "regression"]


def regression(
    *, name: str = "regression", build_model: Callable[[], nn.Module] | None = None,
    data: Callable[[str], Any] | None = None, pipelines: Mapping[str, Pipeline] | None = None,
    space: InputSpace | None = None, image: str = "image", target: str = "target", unit: str = "1",
    group: str | None = None, huber: float = 0.1, constant: float | None = None, rate_hz: float | None = None,
    failing_error: float | None = None, geometric: bool = True, fingerprint: str = "",
) -> Task:  # fmt: skip
    """A task whose model gives one value a sample, float (B, 1) or (B,), and whose batches hold the true one (B,).

    Metrics: ``error``, the absolute error (its mean is the MAE); with ``constant``, ``gain_over_constant``, by how
    much the error is smaller than that of always answering the constant: near zero for a stiff, useless model.
    Drift: ``displacement``. With ``rate_hz`` also over sequences: ``jitter`` and ``sway`` (0.3 to 2 Hz) of the output,
    which must be seen but never ranked, ``sway_error`` of output minus truth, ``responsiveness`` and ``correlation``
    to the truth, and the drifts ``jitter_drift`` and ``sway_drift`` of deployed minus reference; see
    `holdfast.tasks.sequences`.

    Args:
        name: name of the task.
        build_model: builds the untrained model.
        data: ``split -> dataset`` of dicts with an image uint8 (C, H, W) and a target; see `Task.data`.
        pipelines: named preprocessing. Default: ``train``, grey levels to 0..1.
        space: the input space. Default: the image, 0..1 in units of 1/255.
        image: name of the image in the batch.
        target: name of the true value in the batch, and of the curve in the report.
        unit: unit of the target.
        group: name in the batch of each sample's group; in sequence splits it tells the sequences apart.
        huber: error at which the loss goes from square to straight, in target units. Recommended: the typical error.
        constant: the answer of the trivial model, such as the mean of the training targets.
        rate_hz: frames a second of the sequence splits.
        failing_error: a sample with a larger error counts as broken.
        geometric: the target depends on where things are in the image, as a steering angle does.
        fingerprint: see `Task`.

    Raises:
        InputError: no model or no data.
    """
    require("regression", build_model=build_model, data=data)
    assert build_model is not None
    assert data is not None
    read = ValueReading(target=target, huber=huber)
    metrics = [Metric(name="error", compute=read.error, unit=unit)]
    drifts = [Drift(name="displacement", compute=lambda r, o, _: (_values(o) - _values(r)).abs(), unit=unit)]
    if constant is not None:
        metrics += [Metric(name="gain_over_constant", compute=read.gain_over(constant), unit=unit, better="higher")]
    if rate_hz is not None:
        metrics += _sequence_metrics(read, unit, rate_hz)
        drifts += _sequence_drifts(unit, rate_hz)
    return Task(
        name=name,
        build_model=build_model,
        data=data,
        loss=read.loss,
        metrics=tuple(metrics),
        space=space or image_space(image),
        pipelines=pipelines or image_pipelines(image),
        drifts=tuple(drifts),
        symptoms=() if rate_hz is None else _symptoms(unit, rate_hz, failing_error),
        group=by_column(group),
        divergence=lambda reference, other, _: read.huber_loss(other, _values(reference)),
        failed=None if failing_error is None else lambda outputs, batch: read.error(outputs, batch) > failing_error,
        pseudo_label=lambda outputs, batch: {**batch, target: _values(outputs)},
        target_mix=lambda a, b, lam: {**a, target: lam * read.true(a) + (1 - lam) * read.true(b)},
        geometric=geometric,
        traces=None if rate_hz is None else lambda o, b: {**_truth(read, b), target: _values(o)},
        picture=_picture(read, image, unit),
        fingerprint=fingerprint,
    )


@dataclass(frozen=True, kw_only=True)
class ValueReading:
    """How outputs compare with the true values, float (B,).

    Args:
        target: name of the true value in the batch.
        huber: error at which the loss goes from square to straight.
    """

    target: str = "target"
    huber: float = 0.1

    def true(self, batch: Batch) -> Tensor:
        """The true values."""
        values: Tensor = batch[self.target]
        return values.float()

    def huber_loss(self, outputs: Outputs, values: Tensor) -> Tensor:
        """``e^2 / 2h`` below ``h``, ``|e| - h/2`` above, per sample (Huber 1964, divided by ``h``)."""
        return huber_loss(_values(outputs), values, delta=self.huber, reduction="none") / self.huber

    def loss(self, outputs: Outputs, batch: Batch) -> Tensor:
        """`huber_loss` against the truth."""
        return self.huber_loss(outputs, self.true(batch))

    def error(self, outputs: Outputs, batch: Batch) -> Tensor:
        """Absolute error."""
        return (_values(outputs) - self.true(batch)).abs()

    def gain_over(self, constant: float) -> Callable[[Outputs, Batch], Tensor]:
        """Error of a constant answer less the error of the outputs."""
        return lambda outputs, batch: (constant - self.true(batch)).abs() - self.error(outputs, batch)


def _sequence_metrics(read: ValueReading, unit: str, rate_hz: float) -> list[Metric]:
    def curve(name: str, compute: Callable[[Tensor, Tensor], Tensor], unit: str, better: Better) -> Metric:
        return Metric(
            name=name, compute=lambda o, b: compute(_values(o), read.true(b)), unit=unit, better=better, over="sequence"
        )

    return [
        curve("jitter", lambda y, _: jitter(y), unit, "neither"),
        curve("sway", lambda y, _: band_rms(y, rate_hz=rate_hz), unit, "neither"),
        curve("sway_error", lambda y, t: band_rms(y - t, rate_hz=rate_hz), unit, "lower"),
        curve("responsiveness", responsiveness, "1", "higher"),
        curve("correlation", correlation, "1", "higher"),
    ]


def _sequence_drifts(unit: str, rate_hz: float) -> list[Drift]:
    def curve(name: str, compute: Callable[[Tensor], Tensor]) -> Drift:
        return Drift(name=name, compute=lambda r, o, _: compute(_values(o) - _values(r)), unit=unit, over="sequence")

    return [curve("jitter_drift", jitter), curve("sway_drift", lambda y: band_rms(y, rate_hz=rate_hz))]


def _symptoms(unit: str, rate_hz: float, jump: float | None) -> tuple[Metric, ...]:
    """Of the output alone: sway, jitter, and frames in which it jumps by more than what counts as broken."""

    def curve(name: str, compute: Callable[[Tensor], Tensor], unit: str) -> Metric:
        return Metric(name=name, compute=lambda o, _: compute(_values(o)), unit=unit, over="sequence")

    moving = (curve("sway", lambda y: band_rms(y, rate_hz=rate_hz), unit), curve("jitter", jitter, unit))
    return moving if jump is None else (*moving, curve("flips", lambda y: jump_rate(y, jump), "1"))


def _truth(read: ValueReading, batch: Batch) -> dict[str, Tensor]:
    return {"truth": read.true(batch)} if read.target in batch else {}


def _values(outputs: Outputs) -> Tensor:
    values: Tensor = outputs
    return values[:, 0] if values.ndim == 2 else values


def _picture(read: ValueReading, image: str, unit: str) -> Callable[[Batch, Mapping[str, Outputs], int], Picture]:
    def draw(batch: Batch, outputs: Mapping[str, Outputs], index: int) -> Picture:
        frame = rgb_frame(batch[image], index)
        said = {role: float(values[index]) for role, values in _truth(read, batch).items()}
        said |= {role: float(_values(o)[index]) for role, o in outputs.items()}
        caption = ", ".join(f"{role} {value:.3f} {unit}" for role, value in said.items())
        return Picture(image=frame, lines={k: [_needle(v, frame)] for k, v in said.items()}, caption=caption)

    return draw


def _needle(value: float, frame: np.ndarray) -> np.ndarray:
    """A line from the bottom centre that leans by ``value`` half-widths, for values of the order of one."""
    height, width = frame.shape[:2]
    middle = (width - 1) / 2
    return np.array([[middle, height - 1], [middle * (1 + value), height / 2]])
