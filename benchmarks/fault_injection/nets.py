"""Three small networks, trained for a moment, with an average of their weights and statistics of another time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from holdfast.tasks.lanes import lanes

State = dict[str, Tensor]


def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Resizing(nn.Module):
    """Shrinks its input with antialiasing, widens its features again."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*block(3, 12), *block(12, 16, 2), *block(16, 16))
        self.refine = nn.Sequential(*block(16, 8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.interpolate(image, size=(24, 40), mode="bilinear", antialias=True)
        wide = nn.functional.interpolate(self.trunk(small), scale_factor=2.0, mode="bilinear")
        return self.head(self.refine(wide)).mean(dim=2)


class Attending(nn.Module):
    """A convolutional stem, patches, one transformer block with layer norms, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*block(3, 12), *block(12, 12))
        self.patches = nn.Conv2d(12, 32, 8, stride=8)
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 6)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(self.trunk(image)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        tokens = tokens + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head((tokens + self.mlp(self.norm2(tokens))).mean(dim=1))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A network as it ships (the average of its weights), with what a wrong export may hold instead."""

    name: str
    model: nn.Module
    raw: State
    early: State
    inputs: tuple[Tensor, ...]


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "resizing": (Resizing, (48, 80)),
    "attending": (Attending, (32, 32)),
    "lanes": (lanes().build_model, (96, 160)),
}


def trained(name: str, seed: int, steps: int = 25) -> Trained:
    """Fitted to random smooth targets: enough for weights, averages and statistics that are not those of the start."""
    build, size = NETS[name]
    torch.manual_seed(seed)
    model = build()
    target = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    early: State = {}
    for step in range(steps):
        image = _images(8, size)
        with torch.no_grad():
            wanted = target.train()(image) + 0.5
        loss = nn.functional.smooth_l1_loss(model.train()(image), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for key, value in model.state_dict().items():
            average[key] = 0.9 * average[key] + 0.1 * value if value.is_floating_point() else value.clone()
        if step == 3:
            early = copy.deepcopy(model.state_dict())
    raw = copy.deepcopy(model.state_dict())
    model.load_state_dict(average)
    return Trained(name=name, model=model.eval(), raw=raw, early=early, inputs=(_images(8, size),))


def _images(count: int, size: tuple[int, int]) -> Tensor:
    """Smooth images with some noise and a colour cast, in 0..1."""
    coarse = torch.rand(count, 3, size[0] // 8, size[1] // 8)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bicubic")
    return (smooth * torch.tensor([1.0, 0.8, 0.6]).view(3, 1, 1) + 0.05 * torch.randn(count, 3, *size)).clamp(0, 1)
