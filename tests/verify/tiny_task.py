"""A task small enough to verify in seconds: where is the bright column?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from holdfast.core.contracts import Drift, Metric, Picture, Task
from holdfast.core.space import InputSpace, Leaf

WIDTH = 16


class Finder(nn.Module):
    """Soft-argmax over columns after one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        score = self.head(self.norm(self.conv(image)).relu()).mean(dim=2).flatten(1)
        return (score.softmax(-1) * torch.linspace(-1, 1, WIDTH)).sum(-1, keepdim=True)


class Frames:
    """Bright columns in noise; ``drives`` of ten frames."""

    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.position = torch.randint(2, WIDTH - 2, (count,), generator=draw)
        self.noise = torch.rand(count, 1, 8, WIDTH, generator=draw) * 0.3

    def __len__(self) -> int:
        return len(self.position)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = self.noise[index].clone()
        image[:, :, self.position[index]] += 0.6
        return {
            "image": image,
            "target": self.position[index] / (WIDTH - 1) * 2 - 1,
            "drive": torch.tensor(index // 10),
        }


SPLITS = {"train": (40, 0), "report": (60, 1), "report_sequence": (40, 2)}


def _data(split: str) -> Frames:
    return Frames(*SPLITS[split])


def _blurred(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    image = batch["image"]
    return {**batch, "image": (image + image.roll(1, dims=3)) / 2}


def _error(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs[:, 0] - batch["target"]).abs()


def _moved(reference: Tensor, other: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (other - reference)[:, 0].abs()


def _jitter(reference: Tensor, other: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (other - reference)[:, 0].diff(n=2).square().mean().sqrt()


def _wobble(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return outputs[:, 0].diff(n=2).square().mean().sqrt()


def _picture(batch: dict[str, Tensor], outputs: dict[str, Tensor], index: int) -> Picture:
    image = (batch["image"][index].expand(3, -1, -1) * 255).byte().permute(1, 2, 0).contiguous()
    return Picture(
        image=image.numpy(), caption=", ".join(f"{role} {float(o[index]):.2f}" for role, o in outputs.items())
    )


def tiny() -> Task:
    """The task."""
    return Task(
        name="tiny", build_model=Finder, data=_data, loss=lambda outputs, batch: _error(outputs, batch).square(),
        metrics=(Metric(name="error", unit="m", compute=_error),),
        drifts=(Drift(name="moved", unit="m", compute=_moved),
                Drift(name="jitter", unit="m", compute=_jitter, over="sequence")),
        symptoms=(Metric(name="jitter", unit="m", compute=_wobble, over="sequence"),),
        traces=lambda outputs, batch: {"position": outputs[:, 0]}, picture=_picture,
        space=InputSpace({"image": Leaf()}), pipelines={"train": lambda batch: batch, "vehicle": _blurred},
        group=lambda batch: batch["drive"].tolist(), failed=lambda outputs, batch: _error(outputs, batch) > 0.2,
    )  # fmt: skip
