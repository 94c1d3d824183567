"""Benches of small tasks on which probes can be tried without a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Drift, Metric, Subject, Task
from holdfast.core.space import InputSpace, Leaf
from holdfast.data.preprocess import Pipeline
from holdfast.data.samples import Samples
from holdfast.data.table import Table, sensor_batch
from holdfast.probes.bench import Bench, RunLabel


class Brightness(nn.Module):
    """Logits of three classes by mean brightness in 0..1: dark, middling, bright."""

    def forward(self, image: Tensor) -> Tensor:
        mean = image.mean((1, 2, 3))
        return torch.stack([0.33 - mean, 0.25 - (mean - 0.5).abs(), mean - 0.66], dim=1)


def wrong(outputs: Tensor, batch: Any) -> Tensor:
    return outputs.argmax(1) != batch["label"]


def flipped(reference: Tensor, other: Tensor, batch: Any) -> Tensor:
    return (reference.argmax(1) != other.argmax(1)).double()


def bench_of(frames: Tensor, pipelines: dict[str, Pipeline], *, model: nn.Module | None = None,
             preprocessing: Sequence[str] = ("train",), subjects: Callable[[], Sequence[Subject]] = list,
             **changes: Any) -> Bench:  # fmt: skip
    """A classifier of brightness on given sensor frames uint8 (N, 3, H, W), labelled by what it says of them clean."""
    model = (model or Brightness()).eval()
    labels = model(pipelines["train"]({"image": frames})["image"]).argmax(1)

    def data(split: str) -> Samples:
        if split != "report":
            raise KeyError(split)
        return Samples(image=frames, label=labels)

    task = Task(**{
        "name": "brightness", "build_model": lambda: model, "data": data,
        "loss": lambda outputs, batch: nn.functional.cross_entropy(outputs, batch["label"], reduction="none"),
        "metrics": (Metric(name="accuracy", compute=lambda o, b: 1 - wrong(o, b).double(), unit="1", better="higher"),),
        "drifts": (Drift(name="flipped", compute=flipped, unit="1"),),
        "failed": wrong, "space": InputSpace({"image": Leaf()}), "pipelines": pipelines, **changes,
    })  # fmt: skip

    def open_table(split: str, pipeline: str) -> Table | None:
        try:
            found = task.data(split)
        except KeyError:
            return None
        return Table(task.pipelines[pipeline](sensor_batch(found, range(len(found)))))

    label = RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last")
    return Bench(label=label, task=task, model=model, open_table=open_table, open_subjects=subjects,
                 preprocessing=list(preprocessing))  # fmt: skip
