"""A third-party ResNet-20, exported and quantised: accuracy, decisions that flip, and what executed.

python benchmarks/third_party_models/resnet.py >> benchmarks/third_party_models/resnet.txt
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from task import cifar10
from torch import Tensor

from holdfast.core.contracts import PrecisionPlan
from holdfast.core.fingerprint import environment
from holdfast.data.sources import data_root
from holdfast.deploy.backends.onnxruntime import OnnxRuntime
from holdfast.deploy.fold import agreement_db
from holdfast.deploy.ort import open_session, run_session
from holdfast.select.stats import wilson
from holdfast.weights import files

QUANTISERS: dict[str, dict[str, object]] = {
    "per channel, 7-bit weights (default)": {}, "per tensor, 7-bit weights": {"per_channel": False},
    "per channel, 8-bit weights": {"reduce_range": False},
    "per tensor, 8-bit weights": {"per_channel": False, "reduce_range": False},
    "per channel, 7-bit, percentile": {"method": "percentile"},
    "per channel, 7-bit, weighted layers only": {"scope": "weighted"},
}  # fmt: skip


def images(split: str) -> tuple[Tensor, Tensor]:
    task = cifar10()
    data = task.data(split)
    return task.pipelines["train"]({"image": data.columns["image"]})["image"], data.columns["label"]


def report(name: str, executed: str, logits: Tensor, exact: Tensor, labels: Tensor) -> None:
    right, was = logits.argmax(1) == labels, exact.argmax(1) == labels
    n = len(labels)
    harmful, helpful = (wilson(int((a & ~b).sum()), n) for a, b in ((was, right), (right, was)))
    print(f"{name:44} executed {executed:26} accuracy {100 * right.double().mean():.2f} %, harmful flips "
          f"{100 * harmful.estimate:.2f} % [{100 * harmful.low:.2f}, {100 * harmful.high:.2f}], helpful "
          f"{100 * helpful.estimate:.2f} % [{100 * helpful.low:.2f}, {100 * helpful.high:.2f}], "
          f"{agreement_db([exact], [logits]):.1f} dB")  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    task = cifar10()
    model = task.build_model()
    state, about = files.load(data_root("models", "cifar10_resnet20_akamaster.th"))
    model.load_state_dict(state)
    model.eval()
    image, labels = images("report")
    calibration = [(part,) for part in images("calibration")[0].split(64)]
    with torch.no_grad():
        exact = torch.cat([model(part) for part in image.split(100)])
    size = sum(p.numel() for p in model.parameters())
    print(f"{about['source']['file']}: {size} parameters, {len(labels)} images of a JPEG copy of the test set, "
          f"{len(calibration) * 64} to calibrate")  # fmt: skip
    report("eager fp32", "fp32", exact, exact, labels)
    backend = OnnxRuntime()
    with tempfile.TemporaryDirectory() as folder:
        plans = [("onnxruntime fp32", PrecisionPlan())]
        plans += [(f"int8 {name}", PrecisionPlan(default="int8", quantiser=q)) for name, q in QUANTISERS.items()]
        for name, plan in plans:
            artefact = backend.prepare(model, (image[:2],), plan, calibration, Path(folder))
            session = backend.load(artefact)
            report(
                name,
                session.executed_precision(),
                torch.cat([session(part) for part in image.split(100)]),
                exact,
                labels,
            )
            if plan.default == "int8":
                simulated = open_session(artefact.path, threads=1, optimise=False)
                logits = torch.cat([run_session(simulated, (part,))[0] for part in image.split(100)])
                report("  the same graph, simulated in fp32", "fp32", logits, exact, labels)
            session.close()


if __name__ == "__main__":
    main()
