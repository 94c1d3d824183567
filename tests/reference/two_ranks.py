"""One of two gloo ranks: averages and statistics under DDP and FSDP2; rank 0 prints what was found as JSON.

python two_ranks.py RANK FILE
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from holdfast.core.errors import InputError
from holdfast.weights.batchnorm import recalibrate
from holdfast.weights.ema import EMA
from holdfast.weights.lawa import LAWA
from holdfast.weights.posthoc_ema import PostHocEMA
from holdfast.weights.swa import SWA

AVERAGES = {
    "ema": EMA(decay=0.8),
    "swa": SWA(start_step=2),
    "lawa": LAWA(count=3),
    "posthoc": PostHocEMA(every_steps=2),
}
STEPS = 6


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def train(model: nn.Module, running: dict[str, Any], steps: range, rank: int | None) -> None:
    """Two ranks see half a batch each; a single process (rank None) sees all of it."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)
        mine = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
        optimiser.zero_grad()
        (model(x[mine]) - y[mine]).square().mean().backward()
        optimiser.step()
        for average in running.values():
            average.update(model)


def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("module."): t.full_tensor() if isinstance(t, dist.tensor.DTensor) else t
            for name, t in state.items()}  # fmt: skip


def gap(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert list(left) == list(right)
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def under_ddp(rank: int, alone: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    model = DistributedDataParallel(network())
    running = {name: average.start(model) for name, average in AVERAGES.items()}
    train(model, running, range(STEPS), rank)
    return {name: gap(average.weights(), alone[name]) for name, average in running.items()}


def sharded() -> nn.Module:
    model = network()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def under_fsdp(rank: int, alone: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    model = sharded()
    running = {name: average.start(model) for name, average in AVERAGES.items()}
    train(model, running, range(3), rank)
    model(torch.zeros(2, 5))  # a forward without a backward leaves the root gathered
    resumed = {name: average.start(model) for name, average in AVERAGES.items()}
    for name, average in resumed.items():
        average.load_state_dict(running[name].state_dict())
    train(model, resumed, range(3, STEPS), rank)
    found: dict[str, Any] = {name: gap(whole(average.weights()), alone[name]) for name, average in resumed.items()}
    shadow = resumed["ema"].state_dict()["shadow"]
    found["local_share"] = sum(t.numel() for t in shadow.values()) / sum(p.numel() for p in network().parameters())
    weights = resumed["ema"].weights()
    model.load_state_dict(weights)
    found["loads"] = gap(whole(model.state_dict()), whole(weights))
    try:
        AVERAGES["ema"].start(network()).update(model)
    except InputError as error:
        found["sharded_later"] = str(error)
    return found


def statistics(rank: int) -> dict[str, float]:
    """Ranks with different amounts of data, against one process that has all of them."""
    data = torch.randn(90, 4, generator=torch.Generator().manual_seed(5)) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    batches = list(data.split(30))
    mine, alone = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    share = batches[:2] if rank == 0 else batches[2:]
    recalibrate(DistributedDataParallel(mine), share)
    dist.barrier()
    means = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variances = torch.stack([batch.var(0) for batch in batches]).mean(0)
    del alone
    return {
        "mean": float((mine.running_mean - means).abs().max()),
        "var": float((mine.running_var - variances).abs().max()),
    }


def main() -> None:
    rank, file = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    model = network()
    running = {name: average.start(model) for name, average in AVERAGES.items()}
    train(model, running, range(STEPS), None)
    alone = {name: average.weights() for name, average in running.items()}
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    found = {"ddp": under_ddp(rank, alone), "fsdp": under_fsdp(rank, alone), "statistics": statistics(rank)}
    if rank == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
