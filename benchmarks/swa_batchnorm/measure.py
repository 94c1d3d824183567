"""SWA and EMA of a BatchNorm network: whose statistics, how flat, how large the gap to int8.

OMP_NUM_THREADS=1 python -m benchmarks.swa_batchnorm.measure fashion 5 > benchmarks/swa_batchnorm/log-fashion.txt
OMP_NUM_THREADS=1 python -m benchmarks.swa_batchnorm.measure cifar 3 > benchmarks/swa_batchnorm/log-cifar.txt

Two trainings a seed from one initialisation, of equal length: `decay` (cosine to zero) and `swa` (`SWASchedule`, then a
constant rate, one iterate an epoch averaged). Both carry an EMA. Interrupted, it goes on with the next seed.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from benchmarks.images import Images, accuracy, int8_accuracy, load, mean_loss, network, shuffled
from benchmarks.tally import Tally
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from holdfast.core.fingerprint import environment
from holdfast.weights.batchnorm import settle_statistics
from holdfast.weights.ema import EMA
from holdfast.weights.schedule import SWASchedule
from holdfast.weights.swa import SWA
from holdfast.weights.tree import describe_state
from holdfast.weights.trial import with_weights

EPOCHS, BATCH, LR, TRAINED_ON = 10, 64, 0.05, 6000
SWA_FROM, SWA_LR = 6, 0.2
"""First averaged epoch; learning rate from there on as a share of the first."""
RAYS, RADII, FLAT_SAMPLES = 10, (12.0, 24.0), 1000
"""Weights have a norm of about 10 after training; up to a radius of 6 the loss of every net rises by 0.01 only."""

State = dict[str, Tensor]


def train(name: str, data: Images, seed: int, *, late: bool) -> dict[str, State]:
    """Weights at the end: ``last``, ``ema`` and, with a late constant rate, ``swa``."""
    torch.manual_seed(seed)
    model = network(name)
    steps = -(-len(data) // BATCH)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    schedule = LambdaLR(optimiser, SWASchedule(start_step=SWA_FROM * steps, final=SWA_LR) if late else
                        lambda step: 0.5 * (1 + math.cos(math.pi * step / (EPOCHS * steps))))  # fmt: skip
    ema = EMA(decay=0.99).start(model)
    swa = SWA(start_step=SWA_FROM * steps, every_steps=steps).start(model)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for x, y in shuffled(data, BATCH, generator):
            optimiser.zero_grad()
            cross_entropy(model(x), y).backward()
            optimiser.step()
            schedule.step()
            ema.update(model)
            swa.update(model)
    found = {"last": {k: v.clone() for k, v in model.state_dict().items()}, "ema": ema.weights()}
    return found | ({"swa": swa.weights()} if late else {})


def with_statistics(name: str, average: State, last: State, data: dict[str, Images]) -> dict[str, State]:
    """An average with each kind of statistics, and with those that the measuring policy takes.

    ``untrained``: mean 0, variance 1, as in an average made by copying a new model and then the parameters alone.
    """
    model = network(name)

    def settle(policy: str) -> tuple[State, dict[str, object]]:
        return settle_statistics(
            model, average, last=last, policy=policy, batches=lambda: data["train"].first(4096).batches(BATCH),
            score=lambda m: float(accuracy(m, data["val"]).mean()), forward=lambda m, b: m(b[0]),
        )  # fmt: skip

    states = {policy: settle(policy)[0] for policy in ("keep", "average", "recalibrate")}
    states["untrained"] = average | {k: network(name).state_dict()[k] for k in average if "running_" in k}
    states["auto"], record = settle("auto")
    print(f"    auto chose {record['chosen']} on val: {record['scores']}")
    return states


def flatness(name: str, states: dict[str, State], data: dict[str, Images], tally: Tally, seed: int) -> None:
    """Training loss and test error along the same random directions for all, ``w + r d`` with ``|d| = 1``."""
    train, report = data["train"].first(FLAT_SAMPLES), data["report"].first(FLAT_SAMPLES)
    generator = torch.Generator().manual_seed(1000 + seed)
    names = [e.name for e in describe_state(states["decay/last"]) if e.kind == "parameter"]
    for ray in range(RAYS):
        direction = {k: torch.randn(states["decay/last"][k].shape, generator=generator) for k in names}
        length = math.sqrt(sum(float(d.square().sum()) for d in direction.values()))
        for label, state in states.items():
            recipe, weights = label.split("/")
            for radius in (0.0, *RADII) if ray == 0 else RADII:
                moved = {k: v + radius / length * direction[k] if k in direction else v for k, v in state.items()}
                with with_weights(network(name), moved) as model:
                    loss, wrong = mean_loss(model, train), 1 - accuracy(model, report).mean()
                where = {"weights": weights, "probe": "ray", "condition": f"{ray} at {radius:g}", "better": "lower"}
                tally.add(seed, recipe, "train_loss", loss, unit="nat", split="train", **where)
                tally.add(seed, recipe, "error", wrong, **where)


def one_seed(name: str, seed: int, tally: Tally) -> None:
    data = load(name)
    made: dict[str, State] = {}
    for recipe in ("decay", "swa"):
        found = train(name, data["train"].first(TRAINED_ON), seed, late=recipe == "swa")
        made[f"{recipe}/last"] = found["last"]
        for kind in ("ema", "swa"):
            if kind in found:
                settled = with_statistics(name, found[kind], found["last"], data)
                made |= {f"{recipe}/{kind}_{policy}": state for policy, state in settled.items()}
    for label, state in made.items():
        recipe, weights = label.split("/")
        with with_weights(network(name), state) as model:
            tally.add(seed, recipe, "accuracy", accuracy(model, data["report"]), weights=weights)
            tally.add(seed, recipe, "train_loss", mean_loss(model, data["train"].first(4096)), weights=weights,
                      split="train", unit="nat", better="lower")  # fmt: skip
        if weights in ("last", "swa_keep", "swa_recalibrate", "ema_average"):
            right, executed = int8_accuracy(name, state, data)
            tally.add(seed, recipe, "accuracy", right, weights=weights, subject="onnxruntime:int8", executed=executed)
    flat = ("decay/last", "decay/ema_average", "swa/last", "swa/swa_recalibrate")
    flatness(name, {label: made[label] for label in flat}, data, tally, seed)
    tally.keep()


def rises(name: str, folder: Path) -> None:
    """In how many of all directions a model's training loss rises less than that of the last iterate after decay."""
    rows = [row for row in Tally(folder, name).rows if row.probe == "ray" and row.metric == "train_loss"]
    level = {(r.recipe, r.weights, r.init_seed): r.value for r in rows if r.condition == "0 at 0"}
    rise = {(r.recipe, r.weights, r.init_seed, r.condition): r.value - level[r.recipe, r.weights, r.init_seed]
            for r in rows}  # fmt: skip
    for recipe, weights in dict.fromkeys((r.recipe, r.weights) for r in rows):
        for radius in RADII:
            keys = [k for k in rise if k[:2] == (recipe, weights) and k[3].endswith(f" at {radius:g}")]
            mean = sum(rise[k] for k in keys) / len(keys)
            flatter = sum(rise[k] < rise["decay", "last", k[2], k[3]] for k in keys)
            print(f"  {recipe}/{weights}, radius {radius:g}: training loss rises by {mean:.3f}, "
                  f"less than that of decay/last in {flatter} of {len(keys)} directions")  # fmt: skip


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    print(environment())
    tally = Tally(Path(__file__).parent, name)
    for seed in tally.missing(range(count)):
        print(f"seed {seed}", flush=True)
        one_seed(name, seed, tally)
    rises(name, Path(__file__).parent)


if __name__ == "__main__":
    main()
