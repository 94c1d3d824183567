"""Do two files of a face detector, a ``.pth`` and an ``.onnx``, hold the same weights? Evidence tensor by tensor.

python benchmarks/third_party_models/faces.py > benchmarks/third_party_models/faces.txt
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from holdfast.core.fingerprint import environment
from holdfast.data.sources import data_root
from holdfast.deploy.graph import GraphView, load_graph
from holdfast.deploy.layers import layers_of, near
from holdfast.deploy.lint import lint
from holdfast.weights import files


def main() -> None:
    state, _ = files.load(data_root("models", "face_slim320.pth"))
    model = load_graph(data_root("models", "face_slim320_without_postprocessing.onnx"))
    view = GraphView(model)
    ours = {name: value.numpy() for name, value in state.items()}
    theirs = {name: value for name, value in view.constants.items() if value.dtype == np.float32}
    print(environment())
    print(f"pth: {len(ours)} tensors, {sum(v.size for v in ours.values())} values; onnx: {len(view.nodes)} nodes, "
          f"{len(theirs)} float constants, {sum(v.size for v in theirs.values())} values")  # fmt: skip
    both = [name for name in ours if name in theirs]
    equal = [name for name in both if ours[name].tobytes() == theirs[name].tobytes()]
    print(
        f"by name in both: {len(both)}; the same bit for bit: {len(equal)}, {sum(ours[n].size for n in equal)} values"
    )
    for name in sorted(set(both) - set(equal)):
        print(f"  differs: {name}, by up to {np.abs(ours[name] - theirs[name]).max():.3g}")
    alone = Counter(name.rpartition(".")[2] for name in ours if name not in theirs)
    print(f"in the pth alone: {dict(alone)}; in the onnx alone: {[name for name in theirs if name not in ours]}")
    # Control: how many of the layers are near another layer of the same shape? Equality would mean nothing then.
    layers = layers_of(view)
    pairs = [(a, b) for i, a in enumerate(layers) for b in layers[i + 1 :] if a.weight.shape == b.weight.shape]
    alike = sum(near(a.weight, b.weight, 1e-2) for a, b in pairs)
    print(f"control: {alike} of {len(pairs)} pairs of different layers of one shape agree within 1 %")
    rules = Counter((hazard.rule, hazard.severity) for hazard in lint(model))
    print("lint of the onnx file:", {f"{rule} ({severity})": count for (rule, severity), count in rules.items()})


if __name__ == "__main__":
    main()
