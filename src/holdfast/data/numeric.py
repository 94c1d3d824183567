"""What a narrow number format leaves of a network's input, in grey levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

__all__ = ["NarrowInput"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class NarrowInput:
    """Normalise in a narrow format and return to grey levels exactly, so that what was lost can be seen.

    ``fp16`` computes ``(v / 255 - mean) / std`` in half precision throughout; ``bf16`` stores the result of fp32
    arithmetic; ``int8`` stores it in 255 steps, symmetric about 0, of one scale for the whole image.

    Args:
        format: the number format.
        mean: per channel, or one number for all.
        std: likewise.
    """

    name: ClassVar[str] = "numeric"
    format: Literal["fp16", "bf16", "int8"] = "fp16"
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]

    def __call__(self, image: Tensor) -> Tensor:
        """The image as the network sees it, in grey levels."""
        mean, std = (self._along_channels(values, image) for values in (self.mean, self.std))
        if self.format == "fp16":
            stored = ((image.half() / 255 - mean.half()) / std.half()).float()
        else:
            stored = (image / 255 - mean) / std
            if self.format == "bf16":
                stored = stored.bfloat16().float()
            else:
                step = stored.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12) / 127
                stored = (stored / step).round() * step
        return (255 * (stored * std + mean)).clamp(0, 255)

    @staticmethod
    def _along_channels(values: tuple[float, ...], image: Tensor) -> Tensor:
        """The values (C, 1, 1), or their mean where they do not fit the channels."""
        found = image.new_tensor(values)
        return (found if len(values) == image.shape[1] else found.mean().expand(image.shape[1])).view(-1, 1, 1)
