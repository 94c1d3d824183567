"""Classification of images: accuracy, likelihood and confidence, and decisions that flip between two subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from holdfast.core.contracts import Batch, Drift, Metric, Outputs, Picture, Pipeline, Task
from holdfast.core.space import InputSpace
from holdfast.tasks.ingredients import by_column, image_pipelines, image_space, require, rgb_frame
from holdfast.tasks.predicted import decision_margin, kl_divergence, mean_probability, total_variation
from holdfast.tasks.sequences import flip_rate

__all__ = ["classification"]


def classification(
    *, name: str = "classification", build_model: Callable[[], nn.Module] | None = None,
    data: Callable[[str], Any] | None = None, pipelines: Mapping[str, Pipeline] | None = None,
    space: InputSpace | None = None, image: str = "image", label: str = "label", group: str | None = None,
    classes: Sequence[str] = (), fingerprint: str = "",
) -> Task:  # fmt: skip
    """A task whose model gives logits float (B, K) and whose batches hold one label int64 (B,) a sample.

    Metrics: ``accuracy``, ``nll`` (nats) and ``margin`` (see `decision_margin`). Drifts: ``flipped``, the share of
    decisions that differ, and ``total_variation`` of the predicted probabilities. A sample fails when it is
    classified wrongly; the divergence is ``KL(reference || other)``.

    Args:
        name: name of the task.
        build_model: builds the untrained model.
        data: ``split -> dataset`` of dicts with an image uint8 (C, H, W) and a label; see `Task.data`.
        pipelines: named preprocessing. Default: ``train``, grey levels to 0..1.
        space: the input space. Default: the image, 0..1 in units of 1/255.
        image: name of the image in the batch.
        label: name of the label in the batch.
        group: name in the batch of each sample's group, where samples are not independent.
        classes: names for the report.
        fingerprint: see `Task`.

    Raises:
        InputError: no model or no data.
    """
    require("classification", build_model=build_model, data=data)
    assert build_model is not None
    assert data is not None

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        return cross_entropy(outputs, batch[label].long(), reduction="none")

    def wrong(outputs: Outputs, batch: Batch) -> Tensor:
        missed: Tensor = outputs.argmax(1) != batch[label]
        return missed

    def margin(outputs: Outputs, batch: Batch) -> Tensor:
        return decision_margin(outputs, batch[label].long())

    return Task(
        name=name,
        build_model=build_model,
        data=data,
        loss=loss,
        metrics=(
            Metric(name="accuracy", compute=lambda o, b: 1.0 - wrong(o, b).double(), unit="1", better="higher"),
            Metric(name="nll", compute=loss, unit="nat"),
            Metric(name="margin", compute=margin, unit="1", better="higher"),
        ),
        space=space or image_space(image),
        pipelines=pipelines or image_pipelines(image),
        drifts=(
            Drift(name="flipped", compute=lambda r, o, _: (r.argmax(1) != o.argmax(1)).double(), unit="1"),
            Drift(name="total_variation", compute=lambda r, o, _: total_variation(r, o), unit="1"),
        ),
        symptoms=(Metric(name="flips", compute=lambda o, _: flip_rate(o.argmax(1)), unit="1", over="sequence"),),
        group=by_column(group),
        divergence=lambda reference, other, _: kl_divergence(reference, other),
        failed=wrong,
        labels=lambda batch: batch[label].long(),
        pseudo_label=lambda outputs, batch: {**batch, label: outputs.argmax(1)},
        mixture=mean_probability,
        picture=_picture(image, label, classes),
        fingerprint=fingerprint,
    )


def _picture(image: str, label: str, classes: Sequence[str]) -> Callable[[Batch, Mapping[str, Outputs], int], Picture]:
    def draw(batch: Batch, outputs: Mapping[str, Outputs], index: int) -> Picture:
        said = {"truth": int(batch[label][index])} if label in batch else {}
        said |= {role: int(o[index].argmax()) for role, o in outputs.items()}
        words = [f"{role} {classes[k] if classes else k}" for role, k in said.items()]
        return Picture(image=rgb_frame(batch[image], index), caption=", ".join(words))

    return draw
