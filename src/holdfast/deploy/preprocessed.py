"""A model together with its preprocessing: what an export with the preprocessing inside the graph exports."""

from __future__ import annotations

from torch import Tensor, nn

from holdfast.core.contracts import Batch, Outputs, Task
from holdfast.core.errors import InputError
from holdfast.core.space import get_leaf
from holdfast.data.preprocess import Pipeline

__all__ = ["Preprocessed"]


class Preprocessed(nn.Module):
    """A model that takes frames as the sensor gives them.

    ``y = model(pipeline(frame))``, in fp32, for frames uint8 (B, C, H, W) in grey levels 0..255 of one size: a resize
    knows the size of the frames it was exported with.

    Args:
        model: takes preprocessed images.
        task: whose pipeline it is.
        pipeline: its name.

    Raises:
        InputError: no such pipeline, one that is no chain of steps on one image, or a model that takes more than that.
    """

    def __init__(self, model: nn.Module, task: Task, pipeline: str) -> None:
        super().__init__()
        chain = task.pipelines.get(pipeline)
        if not isinstance(chain, Pipeline):
            raise InputError(f"pipeline {pipeline!r} is no chain of steps on one image", where="export",
                             fix="build it of holdfast.data.preprocess.Pipeline, or leave it outside")  # fmt: skip
        self.model, self._chain, self._inputs = model, chain, task.inputs

    def frames(self, batch: Batch) -> Tensor:
        """The frames of a batch of samples as the sensor gives them."""
        frames: Tensor = get_leaf(batch, self._chain.leaf)
        return frames

    def forward(self, frame: Tensor) -> Outputs:
        """The model's outputs for frames uint8 (B, C, H, W)."""
        try:
            inputs = self._inputs({self._chain.leaf: self._chain.apply(frame)})
        except KeyError as error:
            raise InputError(f"the model takes {error} beside {self._chain.leaf!r}", where="export",
                             fix="leave the preprocessing outside") from error  # fmt: skip
        return self.model(*inputs)
