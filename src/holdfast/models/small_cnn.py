"""A small strided convolutional network for classification and regression on a CPU."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["SmallCNN"]


class SmallCNN(nn.Module):
    """Strided 3x3 convolutions, each halving the image, then two linear layers.

    ``forward``: image float (B, inputs, H, W) -> float (B, outputs): logits, or the values of a regression.

    Args:
        inputs: channels of the image.
        outputs: classes, or targets of a regression.
        size: (H, W) of the image.
        widths: channels after each convolution.
        hidden: width of the linear layer before the last.
        norm: batch normalisation after each convolution.
        pool: the last map is averaged over ``pool`` x ``pool``; 2 helps where there are only hundreds of images.
        dropout: share of the features dropped in training; 0.3 helps where there are only hundreds of images.
    """

    def __init__(
        self, inputs: int = 1, outputs: int = 10, size: tuple[int, int] = (28, 28),
        widths: tuple[int, ...] = (16, 32), hidden: int = 100, norm: bool = True, pool: int = 1, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((inputs, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1, bias=not norm)]
            layers += [nn.BatchNorm2d(b), nn.ReLU()] if norm else [nn.ReLU()]
        layers += [nn.AvgPool2d(pool)] if pool > 1 else []
        rows, columns = (-(-side // 2 ** len(widths)) // pool for side in size)
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(widths[-1] * rows * columns, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits or values."""
        y: Tensor = self.head(self.features(x))
        return y
