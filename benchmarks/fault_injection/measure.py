"""Faults injected into exports: how many are named by class and node, and how often is a clean export accused?

OMP_NUM_THREADS=1 python benchmarks/fault_injection/measure.py > benchmarks/fault_injection/log.txt
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from nets import NETS, Trained, trained
from onnx import helper, numpy_helper
from torch import Tensor, nn

from holdfast.core.fingerprint import environment
from holdfast.deploy.blame import Blame, blame
from holdfast.deploy.differences import Kind
from holdfast.deploy.export import export_onnx, quiet
from holdfast.deploy.graph import GraphView
from holdfast.deploy.identity import architecture_key, weights_key
from holdfast.deploy.layers import layers_of
from holdfast.deploy.ort import open_session
from holdfast.deploy.swap import swap_weights
from holdfast.select.stats import wilson

Exporter = Callable[[nn.Module, tuple[Tensor, ...], Path], onnx.ModelProto]
SEEDS = range(8)
TRANSLATED_SEEDS = range(2)
"""Seeds whose networks are also exported by the slow exporters, and into which faults are injected."""
translated: dict[str, onnx.ModelProto] = {}


# --- exporters: each a way in which a graph comes from somebody else ------------------------------------


def ours(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> onnx.ModelProto:
    return onnx.load(export_onnx(model, inputs, folder).path)


def dynamo(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> onnx.ModelProto:
    key = architecture_key(model, inputs) + weights_key(model)
    if key not in translated:
        translated[key] = _dynamo(model, inputs)
    graph = onnx.ModelProto()
    graph.CopyFrom(translated[key])
    return graph


def _dynamo(model: nn.Module, inputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    with quiet():
        program = torch.onnx.export(model, inputs, dynamo=True, opset_version=18, dynamic_shapes=shapes, verbose=False,
                                    optimize=False)  # fmt: skip
    return program.model_proto


def torchscript(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> onnx.ModelProto:
    path = folder / "torchscript.onnx"
    with quiet():
        torch.onnx.export(model, inputs, path, dynamo=False, opset_version=17, input_names=["image"],
                          dynamic_axes={"image": {0: "batch"}})  # fmt: skip
    return onnx.load(path)


def optimised(model: nn.Module, inputs: tuple[Tensor, ...], folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime makes of an export without fusing for one processor."""
    return optimise(dynamo(model, inputs, folder), folder)


def optimise(graph: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimised.onnx")


EXPORTERS: dict[str, Exporter] = {
    "holdfast": ours, "dynamo": dynamo, "torchscript": torchscript, "optimised": optimised
}  # fmt: skip


# --- faults ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A change of the model or of its graph.

    Args:
        kind: the class that must be named.
        words: what was done.
        model: changes a copy of the model.
        graph: changes the exported graph, and says at which nodes.
        layers: indices of the affine layers that hold the fault, where the model was changed; None: any.
        norm: name of the layer norm that holds it instead.
    """

    kind: Kind
    words: str
    model: Callable[[nn.Module], None] = lambda _: None
    graph: Callable[[onnx.ModelProto], set[str]] | None = None
    layers: tuple[int, ...] | None = None
    norm: int | None = None


def affine(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def faults(case: Trained, draw: random.Random) -> Iterator[Fault]:
    """Two variants of each class that the network can have, drawn at random."""
    layers = affine(case.model)
    norms = [name for name, m in case.model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for words, change in draw.sample(ROUNDINGS, 2):
        index = draw.randrange(len(layers))
        yield Fault(kind="rounded_weights", words=f"{layers[index][0]} to {words}", layers=(index,),
                    model=on_weight(layers[index][0], change))  # fmt: skip
    yield Fault(kind="channels", words="BGR weights of the first layer", layers=(0,),
                model=on_weight(layers[0][0], lambda w: w[:, [2, 1, 0]].clone()))  # fmt: skip
    yield Fault(kind="channels", words="BGR gathered at the input", graph=gather_bgr)
    for eps in (1e-3, 1e-4):
        norm = draw.choice(norms)
        yield Fault(kind="epsilon", words=f"{norm} {eps:g}", layers=(norm_layer(case.model, norm),),
                    model=lambda m, norm=norm, eps=eps: setattr(m.get_submodule(norm), "eps", eps))  # fmt: skip
    yield Fault(kind="epsilon", words=f"{norm} 1.00001e-5", layers=(norm_layer(case.model, norm),),
                model=lambda m, norm=norm: setattr(m.get_submodule(norm), "eps", 1.00001e-5))  # fmt: skip
    yield Fault(kind="batchnorm", words="statistics of step 4, all", model=stale(case.early, norms),
                layers=tuple(norm_layer(case.model, norm) for norm in norms))  # fmt: skip
    norm = draw.choice(norms)
    yield Fault(kind="batchnorm", words=f"statistics of step 4, {norm}", model=stale(case.early, [norm]),
                layers=(norm_layer(case.model, norm),))  # fmt: skip
    yield Fault(kind="other_weights", words="raw instead of average", model=lambda m: load(m, case.raw))
    if case.name == "resizing":
        for attribute, value in draw.sample(RESIZES, 2):
            yield Fault(kind="resize", words=f"{attribute} {value}",
                        graph=lambda g, a=attribute, v=value, d=draw: set_resize(g, a, v, d))  # fmt: skip
    if case.name == "attending":
        yield Fault(kind="epsilon", words="norm2 1e-3", norm=1,
                    model=lambda m: setattr(m.norm2, "eps", 1e-3))  # fmt: skip


def on_weight(layer: str, change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    def edit(model: nn.Module) -> None:
        weight = model.get_submodule(layer).weight
        weight.data.copy_(change(weight.data))

    return edit


def grid(bits: int, *, per_output: bool) -> Callable[[Tensor], Tensor]:
    def change(weight: Tensor) -> Tensor:
        largest = (
            weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.ndim - 1)) if per_output else weight.abs().max()
        )
        step = largest.clamp(min=1e-12) / (2 ** (bits - 1) - 1)
        return (weight / step).round() * step

    return change


ROUNDINGS: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("fp16", lambda w: w.half().float()), ("bf16", lambda w: w.bfloat16().float()),
    ("int8 per tensor", grid(8, per_output=False)), ("int8 per output", grid(8, per_output=True)),
    ("int4 per output", grid(4, per_output=True)), ("3 decimals", lambda w: (w * 1000).round() / 1000),
]  # fmt: skip
RESIZES: list[tuple[str, str | int]] = [
    ("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"),
    ("coordinate_transformation_mode", "align_corners"), ("antialias", 0),
]  # fmt: skip


def norm_layer(model: nn.Module, norm: str) -> int:
    """Index of the affine layer before a batch normalisation: in these networks, the one named before it."""
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    return [name for name, _ in affine(model)].index(names[names.index(norm) - 1])


def stale(early: dict[str, Tensor], norms: list[str]) -> Callable[[nn.Module], None]:
    def edit(model: nn.Module) -> None:
        for norm in norms:
            module = model.get_submodule(norm)
            module.running_mean.copy_(early[f"{norm}.running_mean"])
            module.running_var.copy_(early[f"{norm}.running_var"])

    return edit


def load(model: nn.Module, state: dict[str, Tensor]) -> None:
    model.load_state_dict(state)


def gather_bgr(graph: onnx.ModelProto) -> set[str]:
    name = graph.graph.input[0].name
    for node in graph.graph.node:
        for i, tensor in enumerate(node.input):
            node.input[i] = "swapped" if tensor == name else tensor
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    graph.graph.node.insert(0, helper.make_node("Gather", [name, "bgr"], ["swapped"], name="swap", axis=1))
    return {"swap"}


def set_resize(graph: onnx.ModelProto, attribute: str, value: str | int, draw: random.Random) -> set[str]:
    nodes = [node for node in graph.graph.node if node.op_type == "Resize"]
    able = [
        node for node in nodes if attribute != "antialias" or any(a.name == "antialias" and a.i for a in node.attribute)
    ]
    node = draw.choice(able)
    # Without antialiasing, nothing else may be set that belongs to it.
    dropped = {attribute, *(["antialias", "exclude_outside"] if value in ("nearest", 0) else [])}
    kept = [entry for entry in node.attribute if entry.name not in dropped]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(attribute, value)])
    return {node.name}


# --- judging --------------------------------------------------------------------------------------------


def expected(fault: Fault, graph: onnx.ModelProto, places: set[str]) -> set[str]:
    """Nodes at any of which the fault may be named; empty: anywhere."""
    view = GraphView(graph)
    if fault.norm is not None:
        return {[n for n in view.nodes if view.nodes[n].op_type == "LayerNormalization"][fault.norm]}
    if fault.graph is not None or fault.layers is None:
        return places
    found = layers_of(view)
    return {name for i in fault.layers for name in (found[i].node, found[i].norm.node if found[i].norm else "")} - {""}


def named(found: Blame, fault: Fault, nodes: set[str]) -> bool:
    """The class, and nodes that are all where the fault is; nothing beside it."""
    if len(found.causes) != 1 or found.causes[0].kind != fault.kind or not found.explained:
        return False
    return not nodes or set(found.causes[0].nodes) <= nodes


def exporters_for(case: Trained, *, slow: bool) -> list[str]:
    # The TorchScript exporter cannot write an antialiased resize.
    quick = ["holdfast"] if case.name == "resizing" else ["holdfast", "torchscript"]
    return [*quick, *(["dynamo", "optimised"] if slow else [])]


def faulty_export(exporter: str, case: Trained, changed: nn.Module, folder: Path) -> onnx.ModelProto:
    """The slow exporters translate each network once; other weights are put into the translation by name."""
    if exporter not in ("dynamo", "optimised"):
        return EXPORTERS[exporter](changed, case.inputs, folder)
    graph = swap_weights(dynamo(case.model, case.inputs, folder), changed)
    return optimise(graph, folder) if exporter == "optimised" else graph


def clean_cases(cases: list[Trained], folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, case in enumerate(cases):
        for name in exporters_for(case, slow=number < len(TRANSLATED_SEEDS) * len(NETS)):
            graph = EXPORTERS[name](case.model, case.inputs, folder)
            found = blame(case.model, graph, case.inputs, folder, candidates={"raw": case.raw})
            accused = not found.below_floor
            counts["clean"] += 1
            counts["accused"] += accused
            print(f"clean  {case.name:10} {name:12} {found.drift_db:6.0f} dB, floor {found.floor_db:4.0f} dB"
                  f"{'  ACCUSED ' + str(found.causes) if accused else ''}")  # fmt: skip
    return counts


def faulty_cases(cases: list[Trained], folder: Path) -> Counter[str]:
    counts: Counter[str] = Counter()
    for number, case in enumerate(cases):
        draw = random.Random(number)
        for fault in faults(case, draw):
            # An epsilon is no weight, so that it cannot be put into a translation.
            exporter = draw.choice(exporters_for(case, slow=fault.kind != "epsilon"))
            changed = copy.deepcopy(case.model)
            with torch.no_grad():
                fault.model(changed)
            graph = faulty_export(exporter, case, changed, folder)
            places = fault.graph(graph) if fault.graph else set()
            candidates = {"raw": case.raw} if number % 2 else {}
            found = blame(case.model, GraphView(graph).model, case.inputs, folder, candidates=candidates)
            outcome = "below the floor" if found.below_floor else "named" if named(
                found, fault, expected(fault, graph, places)) else "missed"  # fmt: skip
            counts[outcome] += 1
            counts[f"{fault.kind}: {outcome}"] += 1
            said = (
                "" if outcome != "missed" else f"  {[(c.kind, c.nodes, c.detail) for c in found.causes]} {found.starts}"
            )
            print(f"faulty {case.name:10} {exporter:12} {fault.kind:16} {fault.words:38} {found.drift_db:6.0f} dB, "
                  f"floor {found.floor_db:4.0f} dB  {outcome}{said}", flush=True)  # fmt: skip
    return counts


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(environment())
    seeds = SEEDS if len(sys.argv) < 2 else range(int(sys.argv[1]))
    cases = [trained(name, seed) for seed in seeds for name in NETS]
    with tempfile.TemporaryDirectory() as folder:
        open_session(export_onnx(cases[0].model, cases[0].inputs, Path(folder)).path, threads=1)
        counts = clean_cases(cases, Path(folder))
        counts += faulty_cases(cases[: len(TRANSLATED_SEEDS) * len(NETS)], Path(folder))
    above = counts["named"] + counts["missed"]
    print()
    for words, hits, n in (("named", counts["named"], above), ("false alarms", counts["accused"], counts["clean"])):
        share = wilson(hits, n)
        print(f"{words}: {hits} of {n}, {100 * share.estimate:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]")
    print(f"below the floor, and said so: {counts['below the floor']}")
    for name in sorted(key for key in counts if ":" in key):
        print(f"  {name} {counts[name]}")


if __name__ == "__main__":
    main()
