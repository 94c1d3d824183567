"""SWALP on small photographs: last iterate and high-precision average of trainings in full precision, 8, 6 and 5 bits.

OMP_NUM_THREADS=1 python -m benchmarks.swalp_cifar.measure 3 > benchmarks/swalp_cifar/log.txt

Per seed and precision one training: `SWASchedule` down to a tenth, then a constant rate, one iterate an epoch averaged
in high precision. Reported: the iterate at the end of the decay (`warm`), the last one, the average; statistics of all
are estimated anew, as published. Interrupted, it goes on with the next seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from benchmarks.images import Images, accuracy, int8_accuracy, load, network, shuffled
from benchmarks.tally import Tally
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from holdfast.core.fingerprint import environment
from holdfast.surgery.low_precision import LowPrecision
from holdfast.weights.batchnorm import recalibrate
from holdfast.weights.schedule import SWASchedule
from holdfast.weights.swa import SWA
from holdfast.weights.trial import copy_state, with_weights

EPOCHS, START, BATCH, LR, SWA_LR, TRAINED_ON = 8, 4, 64, 0.05, 0.2, 3000
PRECISIONS = {"full": None, "8 bits": 8, "6 bits": 6, "5 bits": 5}


def train(data: Images, seed: int, bits: int | None) -> dict[str, dict[str, Tensor]]:
    """The iterate before averaging, the last one and the average, as ordinary fp32 models carry them."""
    torch.manual_seed(seed)
    model: nn.Module = network("cifar")
    low = None if bits is None else LowPrecision(bits=bits)
    model = model if low is None else low.apply(model, (data.x[:2],))
    optimiser: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    optimiser = optimiser if low is None else low.attach(optimiser)
    steps = -(-len(data) // BATCH)
    schedule = LambdaLR(optimiser, SWASchedule(start_step=START * steps, final=SWA_LR))
    swa = SWA(start_step=START * steps, every_steps=steps).start(model)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for epoch in range(EPOCHS):
        for x, y in shuffled(data, BATCH, generator):
            optimiser.zero_grad()
            cross_entropy(model(x), y).backward()
            optimiser.step()
            schedule.step()
            swa.update(model)
        if epoch == START - 1:
            found["warm"] = copy_state(model)
    return {**found, "last": copy_state(model), "swa": swa.weights()}


def one_seed(seed: int, tally: Tally) -> None:
    data = load("cifar")
    for name, bits in PRECISIONS.items():
        for weights, state in train(data["train"].first(TRAINED_ON), seed, bits).items():
            with with_weights(network("cifar"), state) as model:
                recalibrate(model, data["train"].first(4096).batches(BATCH), forward=lambda m, b: m(b[0]))
                settled = copy_state(model)
                right = accuracy(model, data["report"])
            tally.add(seed, name, "accuracy", right, weights=weights)
            print(f"  {name:7} {weights:5} {100 * right.mean():.2f} %", flush=True)
            if weights != "warm":
                right, executed = int8_accuracy("cifar", settled, data)
                tally.add(seed, name, "accuracy", right, weights=weights, subject="onnxruntime:int8", executed=executed)
    tally.keep()


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    tally = Tally(Path(__file__).parent)
    for seed in tally.missing(range(int(sys.argv[1]))):
        print(f"seed {seed}", flush=True)
        one_seed(seed, tally)


if __name__ == "__main__":
    main()
