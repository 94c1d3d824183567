"""Laziness: did training change what the network sees, or only the linear model it was at its start?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from holdfast.core.contracts import Batch, Measurement
from holdfast.core.errors import InputError, NoEffectError
from holdfast.probes.bench import Bench
from holdfast.surgery.laziness import KERNEL_ENTRIES, flip_rates, kernel_drift, linearisation_error
from holdfast.surgery.owned import owned_layers
from holdfast.weights.travel import travel

__all__ = ["Laziness"]


@dataclass(frozen=True, kw_only=True)
class Laziness:
    """How far the weights, the activations and the function are from the initialisation.

    Metrics: ``travel_row`` (``max_s ||w_s - w_{s,0}|| sqrt(m)``, the empirical ``C_0`` of Wang et al. 2022) and
    ``travel_relative`` (``||w - w_0|| / ||w_0||``), with the layer as condition; ``flips``, the share of hidden units
    whose sign changed, per layer and over all; ``linearisation_error``, ``||f - f_lin|| / ||f - f_0||``, small for a
    lazy network; ``kernel_drift``, one less the alignment of the tangent kernels before and after training.

    Args:
        split: which split.
        samples: for flips and the linearisation error, spread evenly over the split.
        kernel_samples: for the tangent kernel, at most 256; fewer where the gradients would not fit into memory, and
            no row below 8.

    Raises:
        InputError: the weights before training were not kept, or a split the task lacks.
    """

    split: str = "report"
    samples: int = 512
    kernel_samples: int = 64
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient", "weights", "initial"})

    def run(self, bench: Bench) -> Iterable[Measurement]:
        """Rows of the travel, the flips, the linearisation error and the kernel."""
        if bench.initial is None:
            raise InputError("the weights before training were not kept", where="laziness",
                             fix="keep them: holdfast.weights.checkpoints.Checkpoints(model)")  # fmt: skip
        if not any(
            bool((bench.initial[n] != p).any()) for n, p in bench.model.named_parameters() if n in bench.initial
        ):
            raise NoEffectError(
                "the weights are those before training", where="laziness", fix="measure a trained model"
            )
        yield from self._travel(bench, bench.initial)
        yield from self._flips(bench, bench.initial)
        yield from self._function(bench, bench.initial)

    def _travel(self, bench: Bench, initial: Mapping[str, Tensor]) -> Iterator[Measurement]:
        state = bench.model.state_dict()
        for layer in owned_layers(bench.model).values():
            moved = travel(initial, state, layer.parameters)
            for metric, value in (("travel_row", moved.row), ("travel_relative", moved.relative)):
                yield self._single(bench, layer.name, metric, value)

    def _flips(self, bench: Bench, initial: Mapping[str, Tensor]) -> Iterator[Measurement]:
        batch = bench.spread(self.split, bench.preprocessing[0], limit=self.samples)
        try:
            rates = flip_rates(bench.model, initial, _run(bench, batch))
        except NoEffectError:  # a linear model
            return
        groups = bench.groups(batch)
        mean = torch.stack(list(rates.values())).mean(dim=0)
        for condition, values in {**rates, "all": mean}.items():
            yield self._row(bench, condition, "flips", values.numpy(), groups)

    def _function(self, bench: Bench, initial: Mapping[str, Tensor]) -> Iterator[Measurement]:
        batch = bench.spread(self.split, bench.preprocessing[0], limit=self.samples)
        errors, moves = linearisation_error(bench.model, initial, _run(bench, batch))
        moved = float(moves.norm())
        yield self._single(bench, "", "linearisation_error", float(errors.norm()) / moved if moved else float("nan"))
        numel = sum(parameter.numel() for parameter in bench.model.parameters() if parameter.requires_grad)
        limit = min(self.kernel_samples, 256, KERNEL_ENTRIES // max(1, numel))
        if limit >= 8:
            few = bench.spread(self.split, bench.preprocessing[0], limit=limit)
            yield self._single(bench, "", "kernel_drift", kernel_drift(bench.model, initial, _run(bench, few)))

    def _single(self, bench: Bench, condition: str, metric: str, value: float) -> Measurement:
        return self._row(bench, condition, metric, np.array([value]), np.zeros(1, dtype=np.int64))

    def _row(self, bench: Bench, condition: str, metric: str, values: np.ndarray, groups: np.ndarray) -> Measurement:
        return bench.measurement(
            probe="laziness", subject=bench.eager, preprocessing=bench.preprocessing[0], split=self.split,
            condition=condition, metric=metric, unit="1", better="neither", values=values, groups=groups,
        )  # fmt: skip


def _run(bench: Bench, batch: Batch) -> Callable[[Callable[..., Any]], Tensor]:
    def run(model: Callable[..., Any]) -> Tensor:
        leaves = tree_leaves(bench.task.forward(model, batch))
        return torch.cat(
            [leaf.flatten(1) for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()], 1
        )

    return run
