"""Preprocessing as named steps: what happens to a sensor image between the camera and the network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf, with_leaf
from holdfast.data.camera import Demosaic, Exposure, Noise, SCurve, Vignetting, WhiteBalance
from holdfast.data.codec import JPEG
from holdfast.data.colour import NV12, SwapChannels, YCbCr
from holdfast.data.geometry import LensError, Roll, Shift, Yaw
from holdfast.data.numeric import NarrowInput
from holdfast.data.real_resize import OpenCVResize, PillowResize
from holdfast.data.resize import IntegerBilinear, PointSample, Resize

__all__ = [
    "JPEG", "NV12", "Crop", "Demosaic", "Exposure", "Gain", "Gamma", "ImageStep", "IntegerBilinear", "LensError",
    "NarrowInput", "Noise", "OpenCVResize", "PillowResize", "Pipeline", "PointSample", "Resize", "Roll", "RoundUint8",
    "SCurve", "Scale", "Shift", "SwapChannels", "Vignetting", "WhiteBalance", "YCbCr", "Yaw",
]  # fmt: skip


CHUNK_VALUES = 1_200_000
"""Values worked on at a time, four camera frames: they stay in the cache, which makes a batch three times as fast."""


class ImageStep(Protocol):
    """One step: float32 images (B, 3, H, W) in, float32 images out; grey levels 0..255 until `Scale`.

    Samples do not see one another. The input is not changed.

    ``name`` says which part the step plays (``"colour"``, ``"resize"``, ...): two pipelines are compared, and
    single steps swapped, name by name.
    """

    name: ClassVar[str]

    def __call__(self, image: Tensor) -> Tensor:
        """The image after this step."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A chain of steps applied to one leaf of a batch; everything else in the batch passes through.

    Args:
        leaf: path of the image in the batch, ``uint8`` or ``float32`` (B, 3, H, W) in grey levels 0..255.
        steps: in order; each name at most once.

    Raises:
        InputError: two steps of one name, or a leaf that is no batch of images.
    """

    leaf: str = "image"
    steps: tuple[ImageStep, ...] = ()

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"two steps are named {sorted(twice)}", where="pipeline", fix="keep one of each")

    def __call__(self, batch: Any) -> Any:
        """The batch with its image preprocessed."""
        image = get_leaf(batch, self.leaf)
        if image.ndim != 4:
            raise InputError(
                f"leaf {self.leaf!r} has shape {tuple(image.shape)}, not (B, C, H, W)",
                where="pipeline",
                fix="collate the samples first",
            )
        parts = image.split(max(1, CHUNK_VALUES // max(1, image[:1].numel())))
        return with_leaf(batch, self.leaf, torch.cat([self.apply(part) for part in parts]))

    def apply(self, image: Tensor) -> Tensor:
        """An image preprocessed, all of the batch at once; a large batch goes through `__call__` in pieces."""
        image = image.float()
        for step in self.steps:
            image = step(image)
        return image

    def describe(self) -> str:
        """The steps as text: ``"colour: NV12(matrix='bt601', ...) -> resize: IntegerBilinear(...)"``."""
        return " -> ".join(f"{step.name}: {step!r}" for step in self.steps) or "unchanged"

    def step(self, name: str) -> ImageStep | None:
        """The step of that name, or None."""
        return next((step for step in self.steps if step.name == name), None)

    def swap(self, name: str, step: ImageStep | None) -> Pipeline:
        """This pipeline with another step in the place of ``name``; None leaves the place empty.

        Raises:
            InputError: when there is no step of that name.
        """
        if self.step(name) is None:
            raise InputError(f"no step {name!r}", where="pipeline", fix=f"one of {[step.name for step in self.steps]}")
        swapped = tuple(step if old.name == name else old for old in self.steps)
        return replace(self, steps=tuple(step for step in swapped if step is not None))

    def size_after(self, name: str, image: Tensor) -> tuple[int, int]:
        """Height and width of images (B, 3, H, W) after the step of that name."""
        one = image[:1].float()
        for step in self.steps:
            one = step(one)
            if step.name == name:
                break
        return one.shape[-2], one.shape[-1]

    def differences(self, other: Pipeline) -> tuple[str, ...]:
        """Names of the steps that only one of the two has, or that differ, in the order of both.

        Raises:
            InputError: steps that both have stand in another order.
        """
        return tuple(name for name in self._merged(other) if self.step(name) != other.step(name))

    def mixed(self, other: Pipeline, names: Collection[str]) -> Pipeline:
        """This pipeline with the steps ``names`` as the other one has them, which may be not at all.

        Raises:
            InputError: steps that both have stand in another order.
        """
        found = [(other if name in names else self).step(name) for name in self._merged(other)]
        return replace(self, steps=tuple(step for step in found if step is not None))

    def _merged(self, other: Pipeline) -> list[str]:
        """All names in an order that both keep; a step of one alone stands before the next that both have."""
        mine, theirs = ([step.name for step in pipeline.steps] for pipeline in (self, other))
        shared = [name for name in mine if name in theirs]
        if shared != [name for name in theirs if name in mine]:
            raise InputError(
                f"{mine} and {theirs} cannot be mixed", where="pipeline", fix="keep the order of common steps"
            )
        merged: list[str] = []
        for stop in (*shared, None):
            for names in (theirs, mine):
                end = len(names) if stop is None else names.index(stop)
                merged += [name for name in names[:end] if name not in merged]
            merged += [] if stop is None else [stop]
        return merged


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Keep ``[top, bottom) x [left, right)``, given as shares of height and width and rounded to pixels."""

    name: ClassVar[str] = "crop"
    top: float = 0.0
    bottom: float = 1.0
    left: float = 0.0
    right: float = 1.0

    def __call__(self, image: Tensor) -> Tensor:
        """The cropped image."""
        height, width = image.shape[-2:]
        rows = slice(round(self.top * height), round(self.bottom * height))
        return image[..., rows, round(self.left * width) : round(self.right * width)]


@dataclass(frozen=True, kw_only=True)
class Gamma:
    """``255 (v / 255)^gamma``."""

    name: ClassVar[str] = "gamma"
    gamma: float = 1.15

    def __call__(self, image: Tensor) -> Tensor:
        """The image after the tone curve."""
        return (image / 255).clamp_(0, 1).pow_(self.gamma).mul_(255)


@dataclass(frozen=True, kw_only=True)
class Gain:
    """``gain v + bias`` in grey levels, cut off at 0 and 255."""

    name: ClassVar[str] = "gain"
    gain: float = 1.05
    bias: float = 0.0

    def __call__(self, image: Tensor) -> Tensor:
        """The image after the exposure change."""
        return (image * self.gain + self.bias).clamp_(0, 255)


@dataclass(frozen=True, kw_only=True)
class RoundUint8:
    """Round to whole grey levels 0..255, half to even."""

    name: ClassVar[str] = "round"

    def __call__(self, image: Tensor) -> Tensor:
        """The rounded image, still float32."""
        return image.round().clamp_(0, 255)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """``(v * factor - mean) / std`` per channel: grey levels to network input."""

    name: ClassVar[str] = "scale"
    factor: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, image: Tensor) -> Tensor:
        """The network input."""
        mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image * self.factor - mean) / std
