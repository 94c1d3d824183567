"""RegMixup beside mixup and plain training on Fashion-MNIST: accuracy, calibration, and knowing what is foreign.

python benchmarks/regmixup_fashion/measure.py [seeds] > benchmarks/regmixup_fashion/log.txt

13,000 training images, 10,000 test images, 2000 KMNIST characters as foreign inputs. Plain training and mixup are given
at equal epochs and at twice the epochs, because a RegMixup step costs two. ECE in 15 bins of equal width; AUROC of the
largest probability and of the energy (logsumexp), test images against foreign ones. Corruptions: eight of
ImageNet-C with CIFAR-10-C's parameters at severity 3, on the first 2000 test images.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from holdfast.core.discover import build
from holdfast.core.fingerprint import environment
from holdfast.data.corruptions.sealed import corrupted
from holdfast.data.sources import data_root, read_idx
from holdfast.methods.mixup import Mixup
from holdfast.methods.regmixup import RegMixup
from holdfast.models.small_cnn import SmallCNN
from holdfast.select.stats import Interval, paired_difference, t_interval
from holdfast.tasks.classification import classification
from holdfast.train.objective import Objective

BATCH, EPOCHS, TRAINED = 64, 5, 13000
ARMS: dict[str, tuple[list[Any], int]] = {
    "plain": ([], EPOCHS),
    "plain, twice as long": ([], 2 * EPOCHS),
    "mixup 0.2": ([Mixup(alpha=0.2)], EPOCHS),
    "mixup 0.2, twice as long": ([Mixup(alpha=0.2)], 2 * EPOCHS),
    "regmixup 10": ([RegMixup(alpha=10.0)], EPOCHS),
}
"""Methods and epochs; the last three cost 1, 2 and 2 plain trainings."""
DAMAGES = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "brightness", "contrast", "pixelate",
           "jpeg_compression")  # fmt: skip
SEVERITY = 3


def images(file: str, first: int, end: int) -> tuple[Tensor, Tensor]:
    image = torch.from_numpy(read_idx(data_root("fashion_mnist", f"{file}-images-idx3-ubyte.gz"))[first:end].copy())
    label = torch.from_numpy(read_idx(data_root("fashion_mnist", f"{file}-labels-idx1-ubyte.gz"))[first:end].copy())
    return image[:, None].float() / 255, label.long()


def train(arm: str, seed: int, image: Tensor, label: Tensor) -> nn.Module:
    methods, epochs = ARMS[arm]
    torch.manual_seed(seed)
    model = SmallCNN(widths=(16, 32), hidden=100).train()
    objective = Objective(
        classification(name="clothes", build_model=SmallCNN, data=lambda split: None), methods, seed=seed
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    total = epochs * (TRAINED // BATCH)
    schedule, order = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=total), torch.Generator()
    order.manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(TRAINED, generator=order)[: TRAINED // BATCH * BATCH].split(BATCH):
            objective.backward(model, {"image": image[chosen], "label": label[chosen]})
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module, image: Tensor) -> Tensor:
    return torch.cat([model(part) for part in image.split(1000)])


def ece(found: Tensor, label: Tensor, bins: int = 15) -> float:
    """Mean gap of confidence and accuracy, weighed by samples."""
    confidence, decision = found.softmax(1).max(1)
    right, index = (decision == label).float(), (confidence * bins).long().clamp(max=bins - 1)
    gaps = [(confidence[index == b] - right[index == b]).sum().abs() for b in range(bins)]
    return float(torch.stack(gaps).sum() / len(label))


def auroc(inside: Tensor, outside: Tensor) -> float:
    """Probability that a sample of ``inside`` scores higher, ties counted half."""
    ranks = rankdata(torch.cat([inside, outside]).numpy())
    n, m = len(inside), len(outside)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def damaged(image: Tensor) -> list[Tensor]:
    """The images under every one of ``DAMAGES``."""
    return [corrupted(255 * image, build("corruption", {name: {"table": "cifar"}}), SEVERITY) / 255 for name in DAMAGES]


def measured(model: nn.Module, test: tuple[Tensor, Tensor], foreign: Tensor, hurt: list[Tensor]) -> dict[str, float]:
    image, label = test
    found, outside = logits(model, image), logits(model, foreign)
    right = [float((logits(model, x).argmax(1) == label[: len(x)]).float().mean()) for x in hurt]
    return {
        "accuracy %": 100 * float((found.argmax(1) == label).float().mean()),
        "accuracy under corruptions %": 100 * sum(right) / len(right),
        "ECE %": 100 * ece(found, label),
        "AUROC probability": auroc(found.softmax(1).amax(1), outside.softmax(1).amax(1)),
        "AUROC energy": auroc(found.logsumexp(1), outside.logsumexp(1)),
    }


def main() -> None:
    torch.set_num_threads(1)
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    trained, test = images("train", 0, TRAINED), images("t10k", 0, 10000)
    packed = np.load(data_root("kmnist_ood", "kmnist_test_first2000.npz"), allow_pickle=False)["images"]
    hurt = damaged(test[0][:2000])
    foreign = torch.from_numpy(packed.reshape(-1, 1, 28, 28)).float() / 255
    print({key: value for key, value in environment().items() if key != "time"})
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in seeds:
        for arm in ARMS:
            found[arm].append(measured(train(arm, seed, *trained), test, foreign, hurt))
            print(seed, arm, {name: round(value, 4) for name, value in found[arm][-1].items()}, flush=True)
    names = list(found["plain"][0])
    print(f"\n{len(seeds)} seeds; mean and 95 % t interval\n\n| arm | {' | '.join(names)} |")
    print(f"|{'---|' * (len(names) + 1)}")
    for arm, rows in found.items():
        print(f"| {arm} | {' | '.join(written(t_interval([row[name] for row in rows])) for name in names)} |")
    for other in ("plain", "plain, twice as long", "mixup 0.2", "mixup 0.2, twice as long"):
        both = (found["regmixup 10"], found[other])
        gaps = {name: paired_difference(*([row[name] for row in rows] for rows in both)).interval for name in names}
        print(f"regmixup 10 minus {other}: {'; '.join(f'{n} {written(gap)}' for n, gap in gaps.items())}")


def written(found: Interval) -> str:
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
