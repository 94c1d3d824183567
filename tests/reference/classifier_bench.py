"""A bench with a small untrained classifier whose labels are its own decisions, so that nothing fails unattacked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from toy_tasks import ConvNet, classification

from holdfast.core.contracts import Subject
from holdfast.data.table import Table
from holdfast.probes.bench import Bench, RunLabel

CLASSES = 5


def bench_of(model: nn.Module | None = None, *, n: int = 24, wrong: Sequence[int] = (), task: Any = None,
             batch: Any = None, **changes: Any) -> Bench:  # fmt: skip
    """``wrong``: samples with another label than the decision."""
    torch.manual_seed(0)
    model = (model or ConvNet(classes=CLASSES)).eval()
    known = {"labels": lambda batch: batch["y"], "failed": lambda outputs, batch: outputs.argmax(1) != batch["y"]}
    task = task or classification(**{**known, **changes})
    if batch is None:
        image = 0.2 + 0.6 * torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            y = model(image).argmax(1)
        y[list(wrong)] = (y[list(wrong)] + 1) % CLASSES
        batch = {"image": image, "y": y}
    return Bench(
        label=RunLabel(study="s", recipe="r", init_seed=0, order_seed=0, weights="last"), task=task, model=model,
        open_table=lambda split, pipeline: Table(batch) if split == "report" else None,
        open_subjects=lambda: [Subject(backend="fast", precision="fp32", executed="fp32", run=model)],
        preprocessing=["train"],
    )  # fmt: skip
