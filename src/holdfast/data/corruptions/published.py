"""Numbers that the papers publish: which parameter tables there are, and AlexNet's errors, by which mCE divides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

__all__ = ["ALEXNET_CLEAN_ERROR", "ALEXNET_ERRORS", "COMMON", "Table"]

Table: TypeAlias = Literal["imagenet", "cifar"]
"""``imagenet``: the parameters of ImageNet-C, made for 224x224 pixels; ``cifar``: those of CIFAR-10-C, for 32x32."""

ALEXNET_ERRORS: Mapping[str, tuple[float, float, float, float, float]] = {
    "gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
    "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
    "impulse_noise": (0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
    "defocus_blur": (0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
    "glass_blur": (0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
    "motion_blur": (0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
    "zoom_blur": (0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
    "snow": (0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
    "frost": (0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
    "fog": (0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
    "brightness": (0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
    "contrast": (0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
    "elastic_transform": (0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
    "pixelate": (0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
    "jpeg_compression": (0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
}
"""Top-1 error of AlexNet on ImageNet-C by corruption, at severities 1 to 5."""
ALEXNET_CLEAN_ERROR = 0.435
"""Its top-1 error on the clean validation set, for relative mCE."""

COMMON = tuple(ALEXNET_ERRORS)
"""The fifteen test corruptions of ImageNet-C, in its order."""
