"""Is the layer in which two runs part found? Noise planted at layer k of three networks, and where the datapath looks.

OMP_NUM_THREADS=1 python benchmarks/divergence_layer/measure.py FOLDER_OF_MNIST > benchmarks/divergence_layer/log.txt

Networks: an FCN 3x256, a CNN with skips (additions, a projection beside the main branch, BatchNorm), a transformer
block (pre-norm, attention written out in four linear layers), each trained for one epoch on 20 000 digits. Noise:
Gaussian, at 20 and 10 dB below the layer's output, at each layer in turn, 40 trials each with fresh digits (64) and
fresh noise. Background: none, or Gaussian noise 40 dB down at the network's input and at every layer's output,
as another back-end leaves it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from holdfast.core.fingerprint import environment
from holdfast.data.sources import read_idx
from holdfast.surgery.datapath import compare, trace

TRIALS, SAMPLES = 40, 64
Digits = tuple[Tensor, Tensor]


class SkipCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)
        self.a1, self.a1_norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.a2, self.a2_norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b1, self.b1_norm = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
        self.b2, self.b2_norm = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.project = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = torch.relu(x + self.a2_norm(self.a2(torch.relu(self.a1_norm(self.a1(x))))))
        y = self.b2_norm(self.b2(torch.relu(self.b1_norm(self.b1(x)))))
        return self.head(torch.relu(y + self.project(x)).mean((2, 3)))


class Transformer(nn.Module):
    """The 28 rows of a digit as tokens, one pre-norm block, mean over tokens."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(28, width)
        self.place = nn.Parameter(0.1 * torch.randn(28, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x[:, 0]) + self.place
        h = self.norm1(x)
        q, k, v = (part(h).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def fcn() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "FCN 3x256": fcn, "CNN with skips": SkipCNN, "transformer block": Transformer,
}  # fmt: skip


def load(folder: Path, part: str, count: int) -> Digits:
    images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte.gz")[:count].copy())
    labels = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte.gz")[:count].copy())
    return images[:, None].float() / 255, labels.long()


def fit(build: Callable[[], nn.Module], data: Digits) -> nn.Module:
    torch.manual_seed(0)
    model, (x, y) = build(), data
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for indices in torch.randperm(len(x)).split(64):
        optimiser.zero_grad()
        functional.cross_entropy(model(x[indices]), y[indices]).backward()
        optimiser.step()
    return model.eval()


def noisy(value: Tensor, decibel: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=generator)
    return value + noise * value.detach().norm() / noise.norm() * 10 ** (-decibel / 20)


@contextmanager
def faulty(model: nn.Module, noise_db: dict[str, list[float]], generator: torch.Generator) -> Iterator[None]:
    """Noise at the outputs of layers, each as far below the signal as said."""

    def hook(levels: list[float]) -> Callable[..., Tensor]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for level in levels:
                output = noisy(output, level, generator)
            return output

        return add

    handles = [model.get_submodule(name).register_forward_hook(hook(levels)) for name, levels in noise_db.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def trial(
    model: nn.Module, data: Digits, at: str, level: float, background: float | None, seed: int
) -> tuple[str, str]:
    """Where the datapath sees the fault begin, and the first layer whose critical channels overlap less than 0.8."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, len(data[0]), (SAMPLES,), generator=generator)
    x, y = data[0][indices], data[1][indices]

    def losses(inputs: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), y, reduction="none")

    clean = trace(model, lambda: losses(x))
    everywhere = {} if background is None else {name: [background] for name in clean.outputs}
    planted = {**everywhere, at: [*everywhere.get(at, []), level]}
    with faulty(model, planted, generator):
        other = trace(model, lambda: losses(x if background is None else noisy(x, background, generator)))
    path = compare(model, clean, other)
    return path.divergence_layer() or "none", path.first_below(0.8) or "none"


def confusion(model: nn.Module, data: Digits, level: float, background: float | None) -> None:
    layers = list(trace(model, lambda: model(data[0][:2])).outputs)
    behind = "no background" if background is None else f"background {background:g} dB"
    print(f"  noise {level:g} dB, {behind}: found at, of {TRIALS} trials")
    hits, overlaps = 0, 0
    for number, layer in enumerate(layers):
        seeds = [1000 * number + trial_number for trial_number in range(TRIALS)]
        found = [trial(model, data, layer, level, background, seed) for seed in seeds]
        counts = Counter(name for name, _ in found)
        hits += counts[layer]
        overlaps += sum(name == layer for _, name in found)
        print(f"    planted at {layer:10} " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    total = TRIALS * len(layers)
    print(f"    all layers: {hits} of {total} = {100 * hits / total:.1f} %; by the first overlap below 0.8 instead: "
          f"{overlaps} of {total} = {100 * overlaps / total:.1f} %", flush=True)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    print(environment())
    folder = Path(sys.argv[1])
    train, test = load(folder, "train", 20_000), load(folder, "t10k", 10_000)
    for name, build in NETWORKS.items():
        model = fit(build, train)
        with torch.no_grad():
            accuracy = float((model(test[0][:2000]).argmax(1) == test[1][:2000]).float().mean())
        print(f"\n{name}, {100 * accuracy:.1f} % on 2000 test digits")
        for background in (None, 40.0):
            for level in (20.0, 10.0):
                confusion(model, test, level, background)


if __name__ == "__main__":
    main()
