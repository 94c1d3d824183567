"""A model on ONNX Runtime through which gradients flow back to its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count as count_from
from typing import Any

import numpy as np
import onnx
import torch
from onnx.utils import Extractor
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from holdfast.core.contracts import Outputs
from holdfast.core.errors import BackendError
from holdfast.deploy.export import OPSET, check_example, quiet, reason_of
from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.deploy.nest import flatten, unflatten
from holdfast.deploy.ort import feed, fetch, open_session
from holdfast.deploy.reverse_rules import reverse_rules

__all__ = ["Differentiable"]

_WHERE = "onnxruntime gradient"
_ODD = 11
"""Batch sizes are tried from here on: those of an example that are small are sizes of kernels, too."""
_IN_CACHE = 5 << 20
"""Bytes kept for the way back of as many samples as go each way at a time; with more, memory sets the pace."""
_FAITHFUL_DB = 60.0
"""Agreement with the eager gradient: an element of a ReLU that rounds to the other side of zero costs this much."""


class Differentiable:
    r"""``(*tensors) -> outputs`` like the model, several times faster for small ones, with gradients to the inputs.

    Equation: ``y = f(x)`` and ``dx = J_f(x)^T dy``, both translated to ONNX from one trace and run by ONNX Runtime on
    the CPU. Weights are constants. Where nothing asks for a gradient, a graph runs that keeps nothing for one.

    Args:
        model: any module with float outputs; not changed, in eval mode. Batch normalisation is folded.
        example: positional inputs, at least two samples.
        threads: of one operator.

    Raises:
        BackendError: an operator or a derivative without translation, or graphs that compute something else.
    """

    def __init__(self, model: nn.Module, example: tuple[Tensor, ...], *, threads: int = 1) -> None:
        check_example(example)
        if example[0].device.type != "cpu":
            raise BackendError(f"inputs on {example[0].device.type}", where=_WHERE, fix="it runs on the CPU")
        folded, _ = fold_batchnorm(model, example)
        with torch.no_grad():
            outputs, self._layout = flatten(folded(*example))
        graphs = _Graphs(_translated(folded, _odd_batch(folded, example, outputs)), len(example), len(outputs))
        self._plain, self._forward, self._backward = (
            open_session(graph.SerializeToString(), threads=threads)
            for graph in (graphs.plain, graphs.forward, graphs.backward)
        )
        self._inputs, self._outputs, self._saved = graphs.inputs, graphs.outputs, graphs.saved
        self._cotangents, self._asked = graphs.cotangents, [entry.name for entry in self._backward.get_inputs()]
        self._at_a_time: int | None = None
        _check(self, folded, example)
        self._at_a_time = self._samples_at_a_time(example)

    def _samples_at_a_time(self, example: tuple[Tensor, ...]) -> int | None:
        """How many samples the caches hold; None where outputs are not of one sample each and of nothing else."""
        count = len(example[0])
        outputs, kept = self.forward(example)
        alone = [self.forward([x[i : i + 1] for x in example])[0] for i in range(count)]
        if any(y.ndim == 0 or len(y) != count for y in outputs):
            return None
        apart = [torch.cat(parts) for parts in zip(*alone, strict=True)]
        if agreement_db(outputs, apart) < _FAITHFUL_DB:
            return None  # samples depend on each other
        return max(count * _IN_CACHE // max(sum(array.nbytes for array in kept.values()), 1), 1)

    def __call__(self, *inputs: Tensor) -> Outputs:
        """Outputs of a batch of any size, with a graph where an input asks for one."""
        if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
            parts = zip(*(torch.split(x, self._at_a_time or len(x)) for x in inputs), strict=True)
            found = [_Through.apply(self, *part) for part in parts]  # type: ignore[no-untyped-call]  # torch leaves it untyped
            joined = found[0] if len(found) == 1 else [torch.cat(outputs) for outputs in zip(*found, strict=True)]
            return unflatten(joined, self._layout)
        arrays = fetch(self._plain, self._outputs, feed(self._inputs, inputs))
        return unflatten([torch.from_numpy(array) for array in arrays], self._layout)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, np.ndarray]]:
        """Outputs, and what the way back needs."""
        given = feed(self._inputs, inputs)
        names = list(dict.fromkeys([*self._outputs, *self._saved]))
        found = dict(zip(names, fetch(self._forward, names, given), strict=True))
        kept = given | {name: found[name] for name in self._saved}
        # Whoever changes an output in place must not change what the way back needs.
        outputs = [found[name].copy() if name in kept else found[name] for name in self._outputs]
        return [torch.from_numpy(array) for array in outputs], kept

    def backward(self, kept: dict[str, np.ndarray], cotangents: Sequence[Tensor]) -> list[Tensor]:
        """Gradients to the float inputs."""
        given = kept | feed(self._cotangents, cotangents)
        found = fetch(self._backward, None, {name: given[name] for name in self._asked})
        return [torch.from_numpy(array) for array in found]


class _Through(torch.autograd.Function):
    """The step of autograd that is taken outside torch."""

    @staticmethod
    def forward(ctx: Any, graph: Differentiable, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs, ctx.kept = graph.forward(inputs)
        ctx.graph, ctx.floats = graph, [x.is_floating_point() for x in inputs]
        ctx.mark_non_differentiable(*(y for y in outputs if not y.is_floating_point()))
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.graph.backward(ctx.kept, [c for c in cotangents if c.is_floating_point()]))
        return (None, *(next(gradients) if is_float else None for is_float in ctx.floats))


def _translated(model: nn.Module, example: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Inputs and cotangents -> outputs and gradients, as one graph."""
    with torch.no_grad():
        outputs, _ = flatten(model(*example))
    cotangents = tuple(torch.ones_like(y) for y in outputs if y.is_floating_point())

    def both_ways(*given: Tensor) -> tuple[Tensor, ...]:
        inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in given[: len(example)]]
        ahead, _ = flatten(model(*inputs))
        ends = [y for y in ahead if y.is_floating_point()]
        floats = [x for x in inputs if x.requires_grad]
        back = torch.autograd.grad(ends, floats, given[len(example) :], materialize_grads=True)
        return (*(y.detach() for y in ahead), *back)

    names = [*(f"input_{i}" for i in range(len(example))), *(f"cotangent_{i}" for i in range(len(cotangents)))]
    ends = [*(f"output_{i}" for i in range(len(outputs))),
            *(f"gradient_{i}" for i in range(sum(x.is_floating_point() for x in example)))]  # fmt: skip
    given = (*example, *cotangents)
    with quiet():
        try:
            with enable_python_dispatcher():  # the rules in C++ fix the batch size
                traced = make_fx(both_ways, reverse_rules())(*_with_any_batch(given))
            traced.graph.eliminate_dead_code()
            program = torch.onnx.export(
                traced, given, dynamo=True, opset_version=OPSET, input_names=names, output_names=ends, verbose=False,
                dynamic_shapes=tuple({0: torch.export.Dim.DYNAMIC} for _ in given),
            )  # fmt: skip
        except Exception as error:  # the tracer and the exporter raise whatever their passes raise
            raise BackendError(
                f"the gradient of {type(model).__name__} has no translation: {reason_of(error)}",
                where=_WHERE, fix="let the eager model compute it",
            ) from error  # fmt: skip
    assert program is not None
    found: onnx.ModelProto = program.model_proto
    return found


def _with_any_batch(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Stand-ins without values, whose first dimension is a symbol."""
    mode, batch = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True), DimDynamic.DUCK
    found: list[Tensor] = []
    for index, x in enumerate(tensors):
        sizes = [batch, *([DimDynamic.STATIC] * (x.ndim - 1))]
        context: StatelessSymbolicContext[Any, Any] = StatelessSymbolicContext(dynamic_sizes=sizes)
        found.append(mode.from_tensor(x, source=ConstantSource(f"tensor_{index}"), symbolic_context=context))
    return found


def _odd_batch(model: nn.Module, example: tuple[Tensor, ...], outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The example with as many samples as nothing else has: the tracer takes sizes that are equal for the same."""
    taken = {size for tensor in (*example, *outputs) for size in tensor.shape[1:]}
    taken |= {size for weight in model.parameters() for size in weight.shape}
    count = next(n for n in count_from(_ODD) if n not in taken)
    return tuple(x[torch.arange(count) % len(x)] for x in example)


class _Graphs:
    """One graph taken apart: forwards alone, forwards with what the way back needs, and the way back."""

    def __init__(self, joint: onnx.ModelProto, inputs: int, outputs: int) -> None:
        self.inputs = [entry.name for entry in joint.graph.input[:inputs]]
        self.cotangents = [entry.name for entry in joint.graph.input[inputs:]]
        self.outputs = [entry.name for entry in joint.graph.output[:outputs]]
        gradients = [entry.name for entry in joint.graph.output[outputs:]]
        ahead, back, needed = set(self.inputs), set(self.cotangents), set[str]()
        for node in joint.graph.node:  # in topological order
            if back.intersection(node.input):
                back.update(node.output)
                needed.update(node.input)
            elif ahead.intersection(node.input):
                ahead.update(node.output)
        self.saved = sorted((needed & ahead) - set(self.inputs))
        extractor = Extractor(onnx.shape_inference.infer_shapes(joint))
        self.plain = extractor.extract_model(self.inputs, self.outputs)
        self.forward = extractor.extract_model(self.inputs, [*self.outputs, *self.saved])
        self.backward = extractor.extract_model([*self.cotangents, *self.saved, *self.inputs], gradients)


def _check(graph: Differentiable, model: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Compare outputs and gradients with the model's: of one sample, the example, and one sample more.

    Raises:
        BackendError: they differ.
    """
    one, more = tuple(x[:1] for x in example), tuple(torch.cat([x, x[:1]]) for x in example)
    worst = min(agreement_db(_both(model, given), _both(graph, given)) for given in (one, example, more))
    if worst < _FAITHFUL_DB:
        raise BackendError(f"the translated gradient departs from the eager model's: {worst:.0f} dB, expected "
                           f"{_FAITHFUL_DB:.0f} or more", where=_WHERE,
                           fix="let the eager model compute it")  # fmt: skip


def _both(run: Callable[..., Outputs], given: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, and gradients of their weighted sum."""
    inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in given]
    outputs, _ = flatten(run(*inputs))
    draws = torch.Generator().manual_seed(0)
    ends = [y for y in outputs if y.is_floating_point()]
    weights = [torch.randn(y.shape, generator=draws) for y in ends]
    gradients = torch.autograd.grad(ends, [x for x in inputs if x.requires_grad], weights, materialize_grads=True)
    return [*(y.detach() for y in outputs), *gradients]
