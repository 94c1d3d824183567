"""Runs recorded inputs through whatever runs on this computer, and writes the outputs with their provenance.

Needs Python 3.8, numpy and the runtime, nothing else. In the folder that `holdfast record-kit` wrote:

    python record.py --onnxruntime model.onnx
    python record.py --tensorrt model.engine --precision fp16
    python record.py --function my_runtime:run --precision int8

``my_runtime.py`` then holds ``def run(inputs): return outputs``: a dict of arrays by input name in, a list (or a dict
by output name) of arrays out. Bring ``outputs.npz`` back and give it to ``holdfast verify --recorded``.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import hashlib
import importlib
import json
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "holdfast recording 1"


# --- runtimes: each runs arrays by name and knows what it can of the precision that executes -------------


class OnnxRuntime:
    """A graph on the providers that are there."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.executed, self.detail = "unknown", {"providers": self.session.get_providers()}
        # The Azure provider takes calls to remote models alone.
        if set(self.session.get_providers()) - {"AzureExecutionProvider"} == {"CPUExecutionProvider"}:
            # It computes in fp32 whatever numbers are stored in, except where the graph is quantised.
            content = Path(path).read_bytes()
            self.executed = "int8" if b"QuantizeLinear" in content or b"QLinear" in content else "fp32"

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a batch."""
        outputs = self.session.run(self.outputs, inputs)
        return {name: outputs[i] for i, name in enumerate(self.outputs)}


class Function:
    """A function of the user, ``module:name``."""

    def __init__(self, spec: str) -> None:
        module, _, attribute = spec.partition(":")
        sys.path.insert(0, str(Path.cwd()))
        self.function = getattr(importlib.import_module(module), attribute or "run")
        self.name, self.executed = spec, "unknown"
        self.detail: dict[str, Any] = {}

    def run(self, inputs: dict[str, np.ndarray]) -> Any:
        """Run a batch."""
        return self.function(inputs)


class TensorRT:
    """An engine file, through the named-tensor API that TensorRT has had since 8.5 and still has in 11."""

    def __init__(self, path: str, memory: Any = None) -> None:
        import tensorrt

        self.trt, self.memory = tensorrt, memory or CudaMemory()
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
        self.engine = runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self.engine is None:
            raise SystemExit(f"this TensorRT ({tensorrt.__version__}) cannot read {path}")
        self.context = self.engine.create_execution_context()
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        self.inputs = [name for name in names if self.engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]
        self.name = f"tensorrt {tensorrt.__version__}"
        self.executed, self.detail = executed_precision(self.engine, self.context, tensorrt)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a batch."""
        held: list[int] = []
        try:
            for name in self.inputs:
                array = np.ascontiguousarray(inputs[name], dtype=self.dtype(name))
                if not self.context.set_input_shape(name, array.shape):
                    raise SystemExit(f"the engine does not take {name} of shape {array.shape}")
                held.append(self.memory.put(array))
                self.context.set_tensor_address(name, held[-1])
            results = {}
            for name in self.outputs:
                results[name] = np.empty(tuple(self.context.get_tensor_shape(name)), self.dtype(name))
                held.append(self.memory.reserve(results[name].nbytes))
                self.context.set_tensor_address(name, held[-1])
            if not self.context.execute_async_v3(0):
                raise SystemExit("the engine failed to run")
            self.memory.wait()
            for i, array in enumerate(results.values()):
                self.memory.get(array, held[len(self.inputs) + i])
        finally:
            for address in held:
                self.memory.free(address)
        return results

    def dtype(self, name: str) -> Any:
        """The numpy dtype of a tensor of the engine."""
        return self.trt.nptype(self.engine.get_tensor_dtype(name))


def executed_precision(engine: Any, context: Any, trt: Any) -> tuple[str, dict[str, Any]]:
    """The precision of most tensors with how many they are, read from the engine; ``unknown`` if it does not say."""
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    described = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    counts: dict[str, int] = {}
    for layer in described.get("Layers", []):
        for tensor in layer.get("Outputs", []) if isinstance(layer, dict) else []:
            kind = precision_of(tensor)
            counts[kind] = counts.get(kind, 0) + 1
    total = sum(counts.values())
    if not total or set(counts) == {"unknown"}:
        return "unknown", {"tensors": "build the engine with detailed profiling verbosity to see its precisions"}
    most = max(counts, key=lambda kind: counts[kind])
    share = "" if counts[most] == total else f" ({counts[most]} of {total} tensors)"
    return most + share, {"tensors": counts}


def precision_of(tensor: dict[str, Any]) -> str:
    """Precision of a tensor of the inspector's JSON: its ``Format/Datatype`` up to TensorRT 10, ``DataType`` in 11."""
    text = " ".join(str(value) for key, value in tensor.items() if "datatype" in key.lower())
    for pattern, name in (("BF16|BFloat", "bf16"), ("FP16|Half", "fp16"), ("Int8", "int8"), ("FP32|Float", "fp32")):
        if re.search(pattern, text, re.IGNORECASE):
            return name
    return "unknown"


class CudaMemory:
    """Device memory through the CUDA runtime library, so that no Python package for CUDA is needed."""

    TO_DEVICE, TO_HOST = 1, 2

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL(ctypes.util.find_library("cudart") or "libcudart.so")

    def reserve(self, nbytes: int) -> int:
        """Address of new device memory."""
        address = ctypes.c_void_p()
        self._check(self.cuda.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1))))
        return int(address.value or 0)

    def put(self, array: np.ndarray) -> int:
        """Address of a copy on the device."""
        address = self.reserve(array.nbytes)
        self._copy(address, array.ctypes.data, array.nbytes, self.TO_DEVICE)
        return address

    def get(self, array: np.ndarray, address: int) -> None:
        """Fill an array from the device."""
        self._copy(array.ctypes.data, address, array.nbytes, self.TO_HOST)

    def wait(self) -> None:
        """Until the device has finished."""
        self._check(self.cuda.cudaDeviceSynchronize())

    def free(self, address: int) -> None:
        """Give memory back."""
        self._check(self.cuda.cudaFree(ctypes.c_void_p(address)))

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        places = ctypes.c_void_p(to), ctypes.c_void_p(source)
        self._check(self.cuda.cudaMemcpy(*places, ctypes.c_size_t(nbytes), ctypes.c_int(kind)))

    def _check(self, code: int) -> None:
        if code:
            raise SystemExit(f"CUDA error {code}")


# --- recording --------------------------------------------------------------------------------------------


def record(
    runtime: Any, inputs: dict[str, np.ndarray], names: list[str], batch: int
) -> tuple[list[np.ndarray], list[float]]:
    """Outputs of all samples in the order of ``names``, joined, and seconds per batch."""
    samples = len(next(iter(inputs.values())))
    pieces, seconds = [], []
    for start in range(0, samples, batch):
        fed = {name: array[start : start + batch] for name, array in inputs.items()}
        began = time.perf_counter()
        given = runtime.run(fed)
        seconds.append(round(time.perf_counter() - began, 6))
        outputs = in_order(given, names)
        size = min(batch, samples - start)
        if any(output.ndim == 0 or len(output) != size for output in outputs):
            raise SystemExit(f"outputs of shapes {[output.shape for output in outputs]} for a batch of {size} samples")
        pieces.append(outputs)
        if sys.stderr.isatty():
            print(f"\r{start + size} of {samples} samples", end="", file=sys.stderr)
    print(file=sys.stderr)
    return [np.concatenate([piece[i] for piece in pieces]) for i in range(len(pieces[0]))], seconds


def in_order(given: Any, names: list[str]) -> list[np.ndarray]:
    """Outputs by name, or as they came when they have no names."""
    if isinstance(given, dict):
        if missing := [name for name in names if name not in given]:
            raise SystemExit(f"no outputs {missing}, there are {sorted(given)}")
        given = [given[name] for name in names]
    if len(given) != len(names):
        raise SystemExit(f"{len(given)} outputs, expected {names}")
    return [np.asarray(output) for output in given]


def sha256(path: str) -> str:
    """Of a file, in blocks: engines are large."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--onnxruntime", metavar="MODEL.onnx")
    which.add_argument("--tensorrt", metavar="ENGINE")
    which.add_argument("--function", metavar="MODULE:NAME")
    parser.add_argument("--precision", default="fp32", help="the precision that was asked for when it was built")
    parser.add_argument("--executed", help="the precision that really runs, if you know and the runtime does not say")
    parser.add_argument("--device", default=f"{platform.node()} {platform.machine()}", help="what this computer is")
    parser.add_argument("--batch", type=int, default=1, help="samples at a time; 1 as on the road")
    parser.add_argument("--kit", type=Path, default=Path(__file__).resolve().parent, help="folder of the kit")
    parser.add_argument("--out", type=Path, default=Path("outputs.npz"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Record."""
    chosen = parse(arguments)
    kit = json.loads((chosen.kit / "kit.json").read_text(encoding="utf-8"))
    with np.load(chosen.kit / "inputs.npz", allow_pickle=False) as archive:
        index = archive["index"]
        inputs = {name: archive[f"input_{i}"] for i, name in enumerate(kit["inputs"])}
    source = chosen.onnxruntime or chosen.tensorrt
    kind = OnnxRuntime if chosen.onnxruntime else TensorRT if chosen.tensorrt else Function
    runtime: Any = kind(source or chosen.function)
    outputs, seconds = record(runtime, inputs, kit["outputs"], chosen.batch)
    about = {
        "format": FORMAT, "kit": kit["key"], "of": kit["about"], "layout": kit["layout"],
        "runtime": runtime.name, "device": chosen.device,
        "precision": chosen.precision, "executed": chosen.executed or runtime.executed,
        "detail": runtime.detail,
        "model_sha256": sha256(source) if source else "", "batch": chosen.batch, "seconds": seconds,
        "python": platform.python_version(), "numpy": np.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    arrays: dict[str, Any] = {f"output_{i}": output for i, output in enumerate(outputs)}
    arrays.update(index=index, about=np.array(json.dumps(about)))
    partial = chosen.out.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(chosen.out)
    print(f"{chosen.out}: {len(index)} samples, executed precision {about['executed']}")


if __name__ == "__main__":
    main()
