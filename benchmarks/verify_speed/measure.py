"""How long a verification takes, and what our session costs over the bare runtime.

python benchmarks/verify_speed/measure.py [rounds] > benchmarks/verify_speed/log.txt

A classifier of half a GMAC on 500 images: eager fp32, emulated fp16 (both ways to add), ONNX Runtime fp32, OpenVINO
where it is installed; and real fp64, bf16 and fp16 on 32 images. Two threads, every round in an empty folder, so that
export, preparation, the noise floor and the report are in the time.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast.core.contracts import PrecisionPlan, Task
from holdfast.core.fingerprint import environment
from holdfast.data.samples import Samples
from holdfast.deploy.backends.onnxruntime import OnnxRuntime
from holdfast.deploy.backends.openvino import OpenVINO
from holdfast.deploy.ort import feed, open_session
from holdfast.tasks.classification import classification
from holdfast.verify.order import Order, Source, load_source
from holdfast.verify.page import page
from holdfast.verify.run import verify
from holdfast.weights import files

IMAGES, FEW, SIZE = 500, 32, 132


def build() -> nn.Module:
    """A plain convolutional net, 0.5 GMAC an image of 132 x 132."""
    layers: list[nn.Module] = []
    for i, o, stride in ((3, 32, 2), (32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 192, 2), (192, 256, 1)):
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def multiplications(model: nn.Module, image: Tensor) -> int:
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() // output.shape[1] * module.weight.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(image)
    for hook in hooks:
        hook.remove()
    return total


def task() -> Task:
    draw = torch.Generator().manual_seed(0)
    data = Samples(image=torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8),
                   label=torch.randint(0, 10, (IMAGES,), generator=draw))  # fmt: skip
    return classification(name="speed", build_model=build, data=lambda split: {"train": data, "report": data}[split])


def sourced(model: nn.Module) -> Source:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        files.save(path, model.state_dict())
        return load_source(path, f"{__file__}:task")


def verified(source: Source, subjects: tuple[str, ...], limit: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        found = verify(Order(source=source, out=Path(folder), subjects=subjects, sequences="", limit=limit), quiet=True)
        page(found, [])
        return time.perf_counter() - start


def overhead(model: nn.Module, image: Tensor, rounds: int) -> list[float]:
    """CPU time of our session over that of a bare one that is given arrays, interleaved."""
    backend = OnnxRuntime()
    with tempfile.TemporaryDirectory() as folder:
        artefact = backend.prepare(model, (image[:2],), PrecisionPlan(), None, Path(folder))
        session, bare = backend.load(artefact), open_session(artefact.path, threads=1)
        given = feed([entry.name for entry in bare.get_inputs()], (image,))
        runs = {"ours": lambda: session(image), "bare": lambda: bare.run(None, given)}
        ratios = []
        for i in range(rounds + 2):
            spent = {}
            for name in sorted(runs, reverse=bool(i % 2)):
                start = time.process_time()
                runs[name]()
                spent[name] = time.process_time() - start
            ratios.append(spent["ours"] / spent["bare"])
    return ratios[2:]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    torch.set_num_threads(2)
    torch.manual_seed(0)
    print(environment())
    model = build().eval()
    image = torch.rand(8, 3, SIZE, SIZE)
    print(f"{multiplications(model, image[:1]) / 1e9:.2f} GMAC an image of {SIZE} x {SIZE}")
    source = sourced(model)
    many = ("eager:fp32", "emulated:fp16", "emulated:fp16_accumulate", "onnxruntime:fp32")
    if OpenVINO().probe().ok:
        many += ("openvino:fp32",)
    for subjects, limit in ((many, IMAGES), (("eager:fp32", "eager:fp64", "eager:bf16", "eager:fp16"), FEW)):
        spent = [verified(source, subjects, limit) for _ in range(rounds)]
        print(f"verify {', '.join(subjects)} on {limit} images: median {statistics.median(spent):.1f} s, "
              f"{min(spent):.1f} .. {max(spent):.1f} s, {rounds} rounds, wall")  # fmt: skip
    ratios = overhead(model, image, 15 * rounds)
    low, middle, high = statistics.quantiles(ratios)
    print(f"our session / bare session, batch of {len(image)}, one thread, CPU time: median {middle:.4f}, "
          f"quartiles {low:.4f} .. {high:.4f}, {len(ratios)} rounds")  # fmt: skip


if __name__ == "__main__":
    main()
