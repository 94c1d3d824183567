"""Flatness: how fast does the loss rise around the weights, and is there a wall between them and the start?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from holdfast.core.contracts import Batch, Measurement
from holdfast.probes.bench import Bench
from holdfast.probes.pieces import batch_size
from holdfast.surgery.tapped import evaluating
from holdfast.weights.barrier import measure_barrier
from holdfast.weights.exam import Exam
from holdfast.weights.landscape import (
    Weights,
    hessian_top,
    radius_of_rise,
    random_direction,
    ray,
    sam_sharpness,
)
from holdfast.weights.trial import copy_state

__all__ = ["Flatness"]


@dataclass(frozen=True, kw_only=True)
class Flatness:
    """The task's loss on a fixed batch, around the weights; BatchNorm statistics stay as they are.

    Metrics: ``ray_rise`` at each radius and ``radius`` where the loss has risen by 0.1, along random rays, plain (unit
    sphere) and filter-normalised, one value a direction; ``sharpness``, the rise after one ascent step of length rho,
    plain and adaptive; ``hessian_top``, the largest eigenvalue, flagged ``not_converged`` when the power iteration had
    not settled; ``barrier``, the largest excess of the loss over the straight line on the segment from the weights
    before training, where those were kept.

    Args:
        split: which split; ``train`` is the surface on which the optimiser moved.
        samples: how many samples, spread evenly over the split.
        directions: random rays; 10 or more.
        radii: of the filter-normalised rays; plain rays use these times the norm of the weights.
        rho: of the sharpness; the adaptive one uses ten times as much.
        iterations: of the power iteration; 0 leaves it out.
        seed: of the directions.
    """

    split: str = "train"
    samples: int = 1024
    directions: int = 10
    radii: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    rho: float = 0.05
    iterations: int = 50
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient", "weights"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows of the rays, the sharpness, the curvature and the barrier."""
        around = _Around(bench, bench.spread(self.split, bench.preprocessing[0], limit=self.samples))
        with evaluating(bench.model), sdpa_kernel(SDPBackend.MATH):
            found = [*self._rays(bench, around), *self._local(bench, around)]
        yield from found
        if bench.initial is not None:
            yield self._barrier(bench, around)

    def _rays(self, bench: Bench, around: _Around) -> Iterator[Measurement]:
        length = float(torch.cat([p.flatten() for p in around.parameters.values()]).norm())
        for kind in ("plain", "filter"):
            radii = [radius * (length if kind == "plain" else 1.0) for radius in self.radii]
            generator = torch.Generator().manual_seed(self.seed)
            rises = []
            for _ in range(self.directions):
                direction = random_direction(around.parameters, generator, filter_normalised=kind == "filter")
                rises.append(ray(around.loss, around.parameters, direction, radii))
            for radius, values in zip(self.radii, zip(*rises, strict=True), strict=True):
                yield self._row(bench, f"{kind} s={radius:g}", "ray_rise", values)
            # A ray that never rises so far counts as the largest radius looked at.
            first = [min(radius_of_rise(self.radii, rise), self.radii[-1]) for rise in rises]
            yield self._row(bench, kind, "radius", first)

    def _local(self, bench: Bench, around: _Around) -> Iterator[Measurement]:
        for adaptive, condition in ((False, "plain"), (True, "adaptive")):
            rho = 10 * self.rho if adaptive else self.rho
            value = sam_sharpness(around.loss, around.parameters, rho=rho, adaptive=adaptive)
            yield self._row(bench, condition, "sharpness", [value])
        if self.iterations:
            generator = torch.Generator().manual_seed(self.seed)
            top = hessian_top(around.loss, around.parameters, generator, iterations=self.iterations)
            yield self._row(bench, "", "hessian_top", [top.value], () if top.converged else ("not_converged",))

    def _barrier(self, bench: Bench, around: _Around) -> Measurement:
        exam = Exam(
            model=bench.model, size=batch_size(around.batch), measure=around.losses, better="lower", name="loss"
        )
        assert bench.initial is not None
        own = copy_state(bench.model)
        # Statistics, counters and other buffers stay those of the trained model along the whole segment.
        parameters = {name for name, _ in bench.model.named_parameters(remove_duplicate=False)}
        start = {name: bench.initial[name] if name in parameters else value for name, value in own.items()}
        found = measure_barrier(exam.sheet(start), exam.sheet(own), alphas=np.linspace(0, 1, 25)[1:-1].tolist(),
                                samples=exam.size)  # fmt: skip
        return self._row(bench, "init to last", "barrier", [found.height])

    def _row(self, bench: Bench, condition: str, metric: str, values: Iterable[float],
             flags: tuple[str, ...] = ()) -> Measurement:  # fmt: skip
        array = np.array(list(values))
        return bench.measurement(
            probe="flatness", subject=bench.eager, preprocessing=bench.preprocessing[0], split=self.split,
            condition=condition, metric=metric, unit="1", better="neither", values=array, groups=np.arange(len(array)),
            flags=flags,
        )  # fmt: skip


class _Around:
    """The loss of one fixed batch as a function of the weights."""

    def __init__(self, bench: Bench, batch: Batch) -> None:
        self.bench, self.batch = bench, batch
        self.parameters = {name: p.detach() for name, p in bench.model.named_parameters() if p.is_floating_point()}

    def loss(self, parameters: Weights) -> Tensor:
        """The mean loss at given weights, shape ()."""
        task, model = self.bench.task, self.bench.model
        outputs = task.forward(lambda *inputs: functional_call(model, dict(parameters), inputs), self.batch)
        return task.loss(outputs, self.batch).mean()

    def losses(self, model: torch.nn.Module, indices: Tensor) -> Tensor:
        """The losses of some samples."""
        part = tree_map(lambda column: column[indices], self.batch)
        return self.bench.task.loss(self.bench.task.forward(model, part), part).expand(len(indices))
