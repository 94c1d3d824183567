"""In which units a recorded tensor is: grey levels, shares of one, or normalised by well-known constants."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DOMAINS", "Domain", "grid_share", "guess_domain"]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A stored value is ``(level / 255 - mean) / std * scale``; ``mean`` and ``std`` hold one or three numbers."""

    name: str
    detail: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1.0

    def reversed(self) -> Domain:
        """The same constants in BGR order."""
        return Domain(
            name=f"{self.name}_bgr", detail=f"{self.detail} in BGR order",
            mean=self.mean[::-1], std=self.std[::-1], scale=self.scale,
        )  # fmt: skip

    def affine(self, channels: int) -> tuple[Tensor, Tensor]:
        """Gain and offset (C,) float64 from grey levels to stored values."""
        mean, std = (torch.tensor(v, dtype=torch.float64).expand(channels) for v in (self.mean, self.std))
        return self.scale / (255 * std), -mean / std * self.scale

    def levels(self, stored: Tensor) -> Tensor:
        """Grey levels (..., C, H, W) of stored values."""
        gain, offset = self.affine(stored.shape[-3])
        return (stored - offset.to(stored)[:, None, None]) / gain.to(stored)[:, None, None]

    def fits(self, channels: int) -> bool:
        """Whether the constants are for this number of channels."""
        return len(self.mean) in (1, channels)


DOMAINS: tuple[Domain, ...] = (
    Domain(name="unit", detail="values 0..1"),
    Domain(name="levels", detail="grey levels 0..255", scale=255.0),
    Domain(name="imagenet", detail="ImageNet mean and std", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    Domain(name="half", detail="mean 0.5 and std 0.5 (values -1..1)", mean=(0.5,), std=(0.5,)),
    Domain(name="centred", detail="values -0.5..0.5", mean=(0.5,)),
    Domain(name="shifted_levels", detail="grey levels -128..127", mean=(128 / 255,), scale=255.0),
    Domain(name="clip", detail="CLIP mean and std",
           mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    Domain(name="cifar10", detail="CIFAR-10 mean and std", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    Domain(name="imagenet_levels", detail="ImageNet mean subtracted from grey levels",
           mean=(0.485, 0.456, 0.406), scale=255.0),
    Domain(name="mnist", detail="MNIST mean and std", mean=(0.1307,), std=(0.3081,)),
)  # fmt: skip
"""Normalisations in common use; ``unit`` first, as the one to believe when several fit."""
ON_GRID = 2.0
"""What whole grey levels speak for a domain, in spans of 255 levels."""


def grid_share(levels: Tensor) -> float:
    """Share of values within 0.02 of a whole grey level; 0.04 of them are by chance."""
    return float(((levels - levels.round()).abs() < 0.02).double().mean())


def guess_domain(stored: Tensor) -> Domain:
    """The domain (C, H, W) in which values are whole grey levels, or fill 0..255 best without leaving it.

    Values that fit none are taken as shares of one.
    """
    if not stored.is_floating_point():
        return next(domain for domain in DOMAINS if domain.name == "levels")
    stored = stored.double()
    extremes = torch.cat([end((1, 2), keepdim=True) for end in (stored.amin, stored.amax)], dim=-1)
    usable = [domain for domain in DOMAINS if domain.fits(stored.shape[0])]
    best, best_merit = usable[0], 0.0
    for domain in usable:
        ends = domain.levels(extremes)
        low, high = float(ends.min()), float(ends.max())
        span = (high - low) / 255
        if low < -6 or high > 261 or high - low < 4 or span + ON_GRID <= best_merit + 0.02:
            continue
        merit = span + (ON_GRID if grid_share(domain.levels(stored)) > 0.9 else 0.0)
        if merit > best_merit + 0.02:
            best, best_merit = domain, merit
    return best
