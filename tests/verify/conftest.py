from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_task
import torch

from holdfast.deploy.export import export_onnx
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
def translated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the translation of the tiny network, which takes seconds: `warm` puts it where it is looked for."""
    folder = tmp_path_factory.mktemp("translated")
    export_onnx(tiny_task.tiny().build_model().eval(), (torch.rand(2, 1, 8, 16),), folder)
    return folder


@pytest.fixture
def warm(translated: Path) -> Callable[[Path], Path]:
    """Makes a folder of results in which the network need not be translated again."""

    def make(out: Path) -> Path:
        for folder in ("artefacts", "rebuilt"):
            shutil.copytree(translated, out / folder, dirs_exist_ok=True)
        return out

    return make


@pytest.fixture(scope="session")
def task() -> str:
    return TASK
