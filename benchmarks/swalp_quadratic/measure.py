"""SWALP on a noisy quadratic: whether a high-precision average of low-precision iterates gets below the grid.

OMP_NUM_THREADS=1 python benchmarks/swalp_quadratic/measure.py > benchmarks/swalp_quadratic/log.txt

f = 1/2 |w - w*|^2 in 2000 independent coordinates, w* uniform in (-1, 1), gradient noise of deviation 1, fixed point of
step 2^-FL. Everything goes through `LowPrecision.attach` and `SWA`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from holdfast.core.fingerprint import environment
from holdfast.select.stats import t_interval
from holdfast.surgery.low_precision import LowPrecision
from holdfast.surgery.number_format import FixedPoint
from holdfast.weights.swa import SWA

COORDINATES, LR, WARM_UP, MARKS, SEEDS = 2000, 0.1, 200, (100, 1000, 10_000), range(5)
ROLES = {"gradient": 32, "momentum": 32}


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(COORDINATES))


def stepper(point: Point, fraction_bits: int | None, rounding: Any, lr: float) -> torch.optim.Optimizer:
    optimiser = torch.optim.SGD(point.parameters(), lr=lr)
    if fraction_bits is None:
        return optimiser
    low = LowPrecision(
        number="fixed", bits=fraction_bits + 3, fraction_bits=fraction_bits, rounding=rounding, bits_of=ROLES
    )
    return low.attach(optimiser)


def noisy(fraction_bits: int | None, seed: int) -> dict[int, tuple[float, float, float]]:
    """After n averaged iterates: squared error of the iterate, of their average, of the average rounded to nearest."""
    torch.manual_seed(seed)
    target = 2 * torch.rand(COORDINATES) - 1
    point = Point()
    optimiser = stepper(point, fraction_bits, "stochastic", LR)
    average = SWA(start_step=WARM_UP).start(point)
    found = {}
    for step in range(WARM_UP + max(MARKS)):
        point.w.grad = point.w.detach() - target + torch.randn(COORDINATES)
        optimiser.step()
        average.update(point)
        if (n := step + 1 - WARM_UP) in MARKS:
            mean = average.weights()["w"]
            again = (
                FixedPoint(bits=24, fraction_bits=fraction_bits, rounding="nearest").quantise(mean)
                if fraction_bits
                else mean
            )
            found[n] = tuple(float((x - target).square().mean()) for x in (point.w.detach(), mean, again))
    return found


def noiseless(rounding: str, lr: float, seed: int) -> float:
    """Squared error of the iterate after 3000 steps without gradient noise, FL 6."""
    torch.manual_seed(seed)
    target = 2 * torch.rand(COORDINATES) - 1
    point = Point()
    optimiser = stepper(point, 6, rounding, lr)
    for _ in range(3000):
        point.w.grad = point.w.detach() - target
        optimiser.step()
    return float((point.w.detach() - target).square().mean())


def interval(values: list[float]) -> str:
    found = t_interval(values)
    return f"{found.estimate:.3g} ({found.low:.3g} .. {found.high:.3g})"


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    print(f"\nmean squared error, mean and 95 % t interval over {len(SEEDS)} seeds of {COORDINATES} coordinates\n")
    for fraction_bits in (None, 4, 6):
        runs = [noisy(fraction_bits, seed) for seed in SEEDS]
        floor = "" if fraction_bits is None else f", grid floor delta^2/12 = {4.0**-fraction_bits / 12:.3g}"
        print("float" if fraction_bits is None else f"FL {fraction_bits} stochastic{floor}")
        for n in MARKS:
            iterate, mean, again = ([run[n][k] for run in runs] for k in range(3))
            print(f"  n {n:6}: iterate {interval(iterate)}, average {interval(mean)}, rounded again {interval(again)}")
            extra = [b - a for a, b in zip(mean, again, strict=True)]
            if fraction_bits:
                print(f"            rounding again adds {interval(extra)}")
        slope = [math.log10(run[100][1] / run[10_000][1]) / 2 for run in runs]
        print(f"  slope of the average from n 100 to 10000: n^-x with x = {interval(slope)}")
    print("\nwithout gradient noise, FL 6, 3000 steps, the iterate's squared error")
    for lr in (0.1, 0.01, 0.001):
        both = {rounding: [noiseless(rounding, lr, seed) for seed in SEEDS] for rounding in ("stochastic", "nearest")}
        print(f"  lr {lr}: " + ", ".join(f"{name} {interval(values)}" for name, values in both.items()))


if __name__ == "__main__":
    main()
