"""What happens to light between lens and bytes: exposure, white balance, tone, vignetting, colour filters and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

__all__ = ["Demosaic", "Exposure", "Noise", "SCurve", "Vignetting", "WhiteBalance"]

# Each of these is a step of a pipeline, see `holdfast.data.preprocess.ImageStep`: grey levels 0..255 in and out.


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """More or less light: sRGB is decoded, multiplied by ``2^stops`` and encoded again.

    Args:
        stops: of exposure (EV), negative for darker.
    """

    name: ClassVar[str] = "tone"
    stops: float = 0.125

    def __call__(self, image: Tensor) -> Tensor:
        """The image under the other exposure."""
        v = (image / 255).clamp(0, 1)
        light = torch.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055).clamp(min=0).pow(2.4)) * 2**self.stops
        coded = torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=1e-9).pow(1 / 2.4) - 0.055)
        return (255 * coded).clamp(0, 255)


@dataclass(frozen=True, kw_only=True)
class WhiteBalance:
    """Gains of red and blue; an image without three channels stays.

    Args:
        red: gain of the first channel.
        blue: gain of the third.
    """

    name: ClassVar[str] = "white_balance"
    red: float = 1.03
    blue: float = 0.97

    def __call__(self, image: Tensor) -> Tensor:
        """The image with its tint."""
        if image.shape[1] != 3:
            return image
        return (image * image.new_tensor([self.red, 1.0, self.blue]).view(3, 1, 1)).clamp_(0, 255)


@dataclass(frozen=True, kw_only=True)
class SCurve:
    """A tone curve of an image processor: a blend with smoothstep, ``(1 - a) v + a (3 v^2 - 2 v^3)``.

    Args:
        share: ``a``.
    """

    name: ClassVar[str] = "tone"
    share: float = 0.1

    def __call__(self, image: Tensor) -> Tensor:
        """The image after the tone curve."""
        v = (image / 255).clamp(0, 1)
        return 255 * torch.lerp(v, v * v * (3 - 2 * v), self.share)


@dataclass(frozen=True, kw_only=True)
class Vignetting:
    """Corners are darker: ``x' = x (1 - a r^2)``, ``r`` 1 in the corner.

    Args:
        corner: ``a``.
    """

    name: ClassVar[str] = "vignetting"
    corner: float = 0.1

    def __call__(self, image: Tensor) -> Tensor:
        """The image with dark corners."""
        y, x = (torch.linspace(-1, 1, n, device=image.device) ** 2 / 2 for n in image.shape[-2:])
        return image * (1 - self.corner * (y[:, None] + x))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian read noise of a fixed pattern, the same for every image.

    Args:
        sigma: standard deviation in grey levels.
        seed: of the pattern.
    """

    name: ClassVar[str] = "noise"
    sigma: float = 2.0
    seed: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        """The noisy image."""
        pattern = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(self.seed)).to(image)
        return (image + self.sigma * pattern).clamp_(0, 255)


@dataclass(frozen=True, kw_only=True)
class Demosaic:
    """An RGGB colour filter and bilinear demosaicing; an image without three channels stays."""

    name: ClassVar[str] = "demosaic"

    def __call__(self, image: Tensor) -> Tensor:
        """Each channel known on its own pixels alone and interpolated between them."""
        if image.shape[1] != 3:
            return image
        seen = torch.zeros(3, *image.shape[-2:], device=image.device)
        seen[0, ::2, ::2], seen[2, 1::2, 1::2] = 1, 1
        seen[1, ::2, 1::2], seen[1, 1::2, ::2] = 1, 1
        kernel = image.new_tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]).expand(3, 1, 3, 3)
        near = conv2d(pad(image * seen, (1, 1, 1, 1)), kernel, groups=3)
        weight = conv2d(pad(seen[None], (1, 1, 1, 1)), kernel, groups=3)
        return torch.where(seen > 0, image, near / weight.clamp(min=1e-6))
