"""Small networks on which deployment is tested."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Convolutions with normalisation, a linear layer without bias on four dimensions, two outputs in a dict."""

    def __init__(self, width: int = 8, gain: float = 1.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.columns = nn.Linear(7, 5, bias=False)
        self.head = nn.Linear(width * 5, 4)
        self.gain = gain

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.columns(self.trunk(image)).mean(dim=2)
        return {"scores": self.head(features.flatten(1)) * self.gain, "features": features}


def settle(model: nn.Module, *shape: int) -> nn.Module:
    """Give batch normalisation statistics that are not those of initialisation."""
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.rand(8, *shape))
    return model.eval()
