"""Adversarial training and an average of the weights in a training loop of your own: three lines are new."""

from __future__ import annotations

import torch
from torch import nn

import holdfast as hf


def accuracy(outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Whether each sample is right, (B,)."""
    return (outputs.argmax(1) == batch[1]).float()


def loss(outputs: torch.Tensor, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Cross entropy per sample, (B,)."""
    return nn.functional.cross_entropy(outputs, batch[1], reduction="none")


def build_model() -> nn.Module:
    """Any module."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))


task = hf.Task(
    name="mine",
    build_model=build_model,
    data=lambda split: [],  # only `holdfast run` asks for data; your loop brings its own batches
    loss=loss,
    metrics=(hf.Metric(name="accuracy", compute=accuracy, unit="1", better="higher"),),
    space=hf.InputSpace({"0": hf.Leaf(low=0.0, high=1.0)}),  # the first element of the batch holds images in 0..1
)

torch.manual_seed(0)
images = torch.rand(256, 1, 8, 8)
labels = (images[:, 0, :, :4].mean((1, 2)) > images[:, 0, :, 4:].mean((1, 2))).long()
loader = list(zip(images.split(32), labels.split(32), strict=True)) * 20

objective = hf.Objective(task, methods=[hf.Adversarial(attack=hf.FGSM(eps=2.0), clean_weight=0.5)])
model = objective.prepare(build_model(), loader[0])
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
ema = hf.EMA(decay=0.99).start(model)
for batch in loader:
    objective(model, batch).backward()
    optimizer.step()
    optimizer.zero_grad()
    ema.update(model)
model = objective.strip(model)
model.load_state_dict(ema.weights())

print(f"accuracy {float(accuracy(model(images), (images, labels)).mean()):.3f}")
