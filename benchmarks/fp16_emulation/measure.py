"""Price and faithfulness of emulated precision: CPU time over fp32 and against ``.half()``, error against fp64.

OMP_NUM_THREADS=1 python benchmarks/fp16_emulation/measure.py [rounds] > benchmarks/fp16_emulation/log.txt

All contenders are interleaved in one process, in rotating order; ``.half()`` runs in the first rounds only.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from holdfast.core.fingerprint import environment
from holdfast.deploy.emulate import PRECISIONS, Rounding, round_to, rounded_copy
from holdfast.deploy.fold import agreement_db, fold_batchnorm
from holdfast.tasks.lanes import lanes

Run = Callable[[], Tensor]
HALF_ROUNDS = 3


class ConvAttention(nn.Module):
    """A convolutional stem, patches, one transformer block with layer norms, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        channels = [(3, 16), (16, 16), (16, 16), (16, 16)]
        self.trunk = nn.Sequential(*(layer for i, o in channels for layer in self._block(i, o)))
        self.patches = nn.Conv2d(16, 64, 8, stride=8)
        self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)
        self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, 10)

    @staticmethod
    def _block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(self.trunk(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        return self.head((tokens + self.mlp(self.norm2(tokens))).mean(dim=1))


def settled(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Batch normalisation with the statistics of some batches."""
    with torch.no_grad():
        for _ in range(5):
            model.train()(torch.rand(8, *shape))
    return model.eval()


def contenders(model: nn.Module, x: Tensor) -> dict[str, Run]:
    folded, _ = fold_batchnorm(model, (x,))
    found: dict[str, Run] = {"fp32": lambda: model(x), "fp32 folded": lambda: folded(x)}
    for precision in PRECISIONS:
        found[f"emulated {precision}"] = emulated(rounded_copy(folded, precision), x, precision)
    half, bfloat = copy.deepcopy(folded).half(), copy.deepcopy(folded).bfloat16()
    found["real fp16"] = lambda: half(x.half())
    found["real bf16"] = lambda: bfloat(x.bfloat16())
    return found


def emulated(model: nn.Module, x: Tensor, precision: str) -> Run:
    def run() -> Tensor:
        with Rounding(precision):
            return model(x if precision == "tf32" else round_to(x, precision))

    return run


def measure(name: str, model: nn.Module, x: Tensor, rounds: int) -> None:
    runs = contenders(model, x)
    times: dict[str, list[float]] = {label: [] for label in runs}
    order = list(runs)
    with torch.no_grad():
        outputs = {label: run() for label, run in runs.items()}  # warms up as well
        for i in range(rounds):
            for label in order[i % len(order) :] + order[: i % len(order)]:
                if label.startswith("real") and i >= HALF_ROUNDS:
                    continue
                start = time.process_time()
                runs[label]()
                times[label].append(time.process_time() - start)
        truth = copy.deepcopy(model).double()(x.double())
    base = statistics.median(times["fp32 folded"])
    print(f"\n{name}: input {tuple(x.shape)}, {rounds} rounds ({HALF_ROUNDS} of real halves), CPU ms, one thread")
    print(f"{'':16} {'median':>9} {'min':>9} {'max':>9} {'/ fp32':>8} {'SNR dB':>8} {'error corr.':>12}")
    for label, spent in times.items():
        ms = [1000 * t for t in (statistics.median(spent), min(spent), max(spent))]
        snr = agreement_db([truth], [outputs[label]])
        print(f"{label:16} {ms[0]:9.2f} {ms[1]:9.2f} {ms[2]:9.2f} {ms[0] / 1000 / base:8.2f} {snr:8.1f} "
              f"{correlation(truth, outputs, label):>12}")  # fmt: skip


def correlation(truth: Tensor, outputs: dict[str, Tensor], label: str) -> str:
    """Of the errors of an emulation and of the real thing."""
    real = outputs.get(label.replace("emulated", "real"))
    if not label.startswith("emulated") or real is None:
        return ""
    errors = torch.stack([(outputs[label] - truth).flatten(), (real - truth).flatten()])
    return f"{torch.corrcoef(errors)[0, 1]:.2f}"


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 21
    print(environment())
    torch.manual_seed(0)
    measure("conv + attention", settled(ConvAttention(), (3, 64, 64)), torch.rand(8, 3, 64, 64), rounds)
    measure("lane net", settled(lanes().build_model(), (3, 96, 160)), torch.rand(8, 3, 96, 160), rounds)
    measure("lane net, wide", settled(lanes(width=52).build_model(), (3, 96, 160)), torch.rand(8, 3, 96, 160), rounds)


if __name__ == "__main__":
    main()
