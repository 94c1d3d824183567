"""What the tests of integrations share: a small recipe, and the plain loop that every framework must equal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toy_tasks import classification, images, model_of

from holdfast.attacks.fgsm_rs import FGSMRS
from holdfast.core.contracts import Task
from holdfast.methods.adversarial import Adversarial
from holdfast.methods.regmixup import RegMixup
from holdfast.methods.rotation import Rotation
from holdfast.train.objective import Objective

PAGES = Path(__file__).parents[2] / "docs" / "integrations"
SAMPLES, BATCH, ACCUMULATED, CLIP = 32, 4, 2, 0.5
BATCHES = SAMPLES // BATCH


class Recorded(Objective):
    """Remembers every batch and its loss; a head, a random start and a random partner are among its methods."""

    def __init__(self) -> None:
        methods = [RegMixup(), Adversarial(attack=FGSMRS(eps=8.0)), Rotation(copies="one")]
        super().__init__(task(), methods, seed=3)
        self.seen: list[tuple[Any, float]] = []

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        loss = super().__call__(model, batch)
        self.seen.append((batch, float(loss.detach())))
        return loss


def task() -> Task:
    return classification(build_model=lambda: model_of(classification()))


def dataset() -> list[dict[str, Tensor]]:
    columns = images(n=SAMPLES)
    return [{"image": columns["image"][i], "y": columns["y"][i]} for i in range(SAMPLES)]


def loader() -> DataLoader[Any]:
    return DataLoader(dataset(), batch_size=BATCH)  # type: ignore[arg-type]  # a list is a dataset


def plain_loop(batches: list[Any], *, momentum: float = 0.9) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of all micro-batches and the weights at the end, with accumulation and clipping."""
    objective = Recorded()
    model = objective.prepare(objective.task.build_model(), batches[0]).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum)
    for i, batch in enumerate(batches):
        (objective(model, batch) / ACCUMULATED).backward()
        if (i + 1) % ACCUMULATED == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimiser.step()
            optimiser.zero_grad()
    return [loss for _, loss in objective.seen], objective.strip(model).state_dict()


def names(folder: Path, **more: Any) -> dict[str, Any]:
    """What the snippets of the pages take for granted."""
    torch.manual_seed(0)
    objective = Recorded()
    return {"objective": objective, "task": objective.task, "loader": loader(), "dataset": dataset(),
            "batch": next(iter(loader())), "folder": folder, "epochs": 2, **more}  # fmt: skip


def snippets(page: str) -> list[str]:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S)


def assert_equals_the_plain_loop(seen: list[tuple[Any, float]], model: nn.Module, *, momentum: float = 0.9) -> None:
    assert len(seen) == 2 * BATCHES
    losses, weights = plain_loop([batch for batch, _ in seen], momentum=momentum)
    torch.testing.assert_close([loss for _, loss in seen], losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dict(model.state_dict()), dict(weights), rtol=1e-6, atol=1e-6)
    start = task().build_model().state_dict()
    assert max(float((weights[k] - start[k]).abs().max()) for k in start if "weight" in k) > 1e-3
