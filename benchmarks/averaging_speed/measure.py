"""Price of one EMA or SWA update, as a ratio to a flat in-place lerp of as many fp32 values.

OMP_NUM_THREADS=1 python benchmarks/averaging_speed/measure.py [rounds] > benchmarks/averaging_speed/log.txt

Contenders are interleaved in one process in an order drawn anew for every round; CPU time of one thread.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from holdfast.core.fingerprint import environment
from holdfast.weights.ema import EMA
from holdfast.weights.swa import SWA

TENSORS = 160
FLOOR = "flat lerp"


def network(values: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    model = nn.Module()
    for index in range(TENSORS):
        model.register_parameter(f"p{index}", nn.Parameter(torch.randn(values // TENSORS).to(dtype)))
    return model


def contenders(values: int, *, torch_swa: bool) -> dict[str, Callable[[], object]]:
    flat, target = torch.randn(values), torch.randn(values)
    model = network(values)
    ema, swa = EMA(decay=0.999).start(model), SWA().start(model)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    found: dict[str, Callable[[], object]] = {
        FLOOR: lambda: flat.lerp_(target, 1e-3),
        "holdfast EMA": lambda: ema.update(model),
        "holdfast SWA": lambda: swa.update(model),
        "torch EMA, multi_avg_fn": lambda: theirs.update_parameters(model),
    }
    if torch_swa:
        default = AveragedModel(model)
        found["torch SWA, default"] = lambda: default.update_parameters(model)
    return found


def narrow_contenders(values: int) -> dict[str, Callable[[], object]]:
    flat, target = torch.randn(values), torch.randn(values)
    model = network(values, torch.bfloat16)
    ema = EMA(decay=0.999).start(model)
    return {FLOOR: lambda: flat.lerp_(target, 1e-3), "holdfast EMA, fp32 shadow of bf16": lambda: ema.update(model)}


def measure(title: str, run: dict[str, Callable[[], object]], rounds: int, rare: int) -> None:
    spent: dict[str, list[float]] = {name: [] for name in run}
    order = list(run)
    for call in run.values():
        call()
    for index in range(rounds):
        random.shuffle(order)
        for name in order:
            if name == "torch SWA, default" and index >= rare:
                continue
            began = time.process_time()
            run[name]()
            spent[name].append(time.process_time() - began)
    floor = statistics.median(spent[FLOOR])
    print(f"\n{title}: {rounds} rounds\n{'':36}{'median ms':>10}{'quartiles':>18}{'/ flat lerp':>13}")
    for name, values in spent.items():
        low, middle, high = (1e3 * q for q in statistics.quantiles(values, n=4))
        print(f"{name:36}{middle:10.2f}{f'{low:.2f} .. {high:.2f}':>18}{middle / 1e3 / floor:13.2f}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 41
    torch.set_num_threads(1)
    random.seed(0)
    print(environment())
    for values, repeats in ((10_000_000, 5 * rounds), (100_000_000, rounds)):
        size = f"{values // 1_000_000} M values in {TENSORS} tensors"
        measure(f"{size}, fp32", contenders(values, torch_swa=True), repeats, rare=5)
        gc.collect()
        measure(f"{size}, bf16", narrow_contenders(values), repeats, rare=0)
        gc.collect()


if __name__ == "__main__":
    main()
