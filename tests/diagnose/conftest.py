from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import planted_task
import pytest
import torch
from torch import Tensor

from holdfast.data.table import sensor_batch
from holdfast.diagnose.order import Order
from holdfast.weights import files

torch.set_num_threads(1)
TASK = f"{planted_task.__file__}:make"
Change = Callable[[dict[str, Tensor]], None]


@pytest.fixture(scope="session")
def state() -> dict[str, Tensor]:
    """A trained state dict."""
    task = planted_task.make()
    data = task.data("train")
    batch = task.pipelines["train"](sensor_batch(data, range(len(data))))
    torch.manual_seed(0)
    model = task.build_model().train()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(5):
        for part in torch.randperm(len(data), generator=order).split(32):
            loss = task.loss(model(batch["image"][part]), {"y": batch["y"][part]}).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def order_of(state: dict[str, Tensor], tmp_path: Path) -> Callable[..., Order]:
    """An order on the trained weights, changed by ``change``, with options of the task and of the order."""

    def make(change: Change | None = None, task: dict[str, Any] | None = None, **options: Any) -> Order:
        changed = {name: value.clone() for name, value in state.items()}
        if change is not None:
            change(changed)
        path = tmp_path / "last.safetensors"
        files.save(path, changed, {"kind": "last"})
        return Order(path=path, task=TASK, options=task or {}, out=tmp_path / "out", **options)

    return make
