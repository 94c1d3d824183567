from __future__ import annotations

from pathlib import Path

import pytest
import tiny_task
import torch

from holdfast.weights import files

torch.set_num_threads(1)
TASK = f"{tiny_task.__file__}:tiny"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after a minute's worth of training, in a second."""
    task = tiny_task.tiny()
    torch.manual_seed(0)
    model = task.build_model()
    data = [task.data("train")[i] for i in range(40)]
    batch = {key: torch.stack([sample[key] for sample in data]) for key in data[0]}
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        loss = task.loss(model(batch["image"]), batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("weights") / "last.safetensors"
    files.save(path, model.state_dict(), {"kind": "last", "recipe": "plain"})
    return path


@pytest.fixture(scope="session")
def task() -> str:
    return TASK
