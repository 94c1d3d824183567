"""Images a second of each corruption against imagecorruptions 1.1.2, and how far apart the two are for equal draws.

PYTHONPATH=<folder with imagecorruptions, opencv-python-headless and scikit-image> OMP_NUM_THREADS=1 \
    python benchmarks/corruption_speed/measure.py [rounds] > benchmarks/corruption_speed/log.txt

224x224, three channels, one thread, CPU time. Contenders take turns in one process, in an order drawn anew for every
round. holdfast works on batches of eight, imagecorruptions on one image at a time, as it is made.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from holdfast.core.discover import build, load, names
from holdfast.core.fingerprint import environment
from holdfast.data.corruptions.sealed import corrupted

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "reference"))
from corruption_twins import LegacyDraws
from scenes import scene

SIDE, BATCH, SEVERITIES = 224, 8, (1, 2, 3, 4, 5)
DEMANDED = {"glass_blur": 60.0, "brightness": 20.0, "zoom_blur": 8.0}


def peer() -> types.ModuleType:
    """imagecorruptions, with what its libraries have removed since 2020 put back; without, it does not run today."""
    import skimage.filters

    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, path: str(Path(sys.modules[package].__file__).parent / path)  # type: ignore[attr-defined, arg-type] # a stand-in
    sys.modules.setdefault("pkg_resources", resources)
    np.float_ = np.float64  # type: ignore[attr-defined] # removed from NumPy 2
    modern = skimage.filters.gaussian

    def gaussian(image: np.ndarray, *arguments: object, multichannel: bool = False, **named: object) -> np.ndarray:
        return modern(image, *arguments, channel_axis=-1 if multichannel else None, **named)

    skimage.filters.gaussian = gaussian
    warnings.simplefilter("ignore")
    from imagecorruptions import corruptions

    return corruptions


def contenders(name: str, severity: int, theirs: types.ModuleType, images: np.ndarray) -> dict[str, Callable[[], int]]:
    """Calls by name; each gives the number of images it corrupted."""
    corruption = build("corruption", name)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    from PIL import Image

    def ours() -> int:
        corrupted(batch, corruption, severity)
        return len(batch)

    def peers() -> int:
        np.uint8(getattr(theirs, name)(Image.fromarray(images[0]), severity))
        return 1

    return {"holdfast": ours, "imagecorruptions": peers}


def difference(name: str, severity: int, theirs: types.ModuleType, image: np.ndarray) -> float:
    """Mean absolute difference in grey levels for the same draws, before either cuts to whole levels."""
    from PIL import Image

    np.random.seed(severity)
    expected = np.clip(np.asarray(getattr(theirs, name)(Image.fromarray(image), severity), dtype=float), 0, 255)
    given = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    found = build("corruption", name).corrupt(given, severity, LegacyDraws(severity)).clamp(0, 255)
    return float(np.abs(found[0].permute(1, 2, 0).numpy() - expected).mean())


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    torch.set_num_threads(1)
    random.seed(0)
    print(environment())
    theirs = peer()
    images = np.stack([scene(i, SIDE, SIDE) for i in range(BATCH)])
    found = [name for name in names("corruption") if load("corruption", name).family != "deploy"]
    calls = {
        (name, severity, who): call
        for name in found
        for severity in SEVERITIES
        for who, call in contenders(name, severity, theirs, images).items()
    }
    spent: dict[tuple[str, int, str], list[float]] = {key: [] for key in calls}
    for key in calls:
        if not (key[0] == "glass_blur" and key[2] == "imagecorruptions"):
            calls[key]()
    order = list(calls)
    for index in range(rounds):
        random.shuffle(order)
        for key in order:
            if key[0] == "glass_blur" and key[2] == "imagecorruptions" and index >= 3:
                continue  # a second or two an image
            began = time.process_time()
            count = calls[key]()
            spent[key].append((time.process_time() - began) / count)
    report(found, spent, {(n, s): difference(n, s, theirs, images[0]) for n in found for s in SEVERITIES}, rounds)


def report(found: list[str], spent: dict[tuple[str, int, str], list[float]], apart: dict[tuple[str, int], float],
           rounds: int) -> None:  # fmt: skip
    print(f"\n{rounds} rounds; images a second, median (quartiles), and how far apart in grey levels\n")
    print(f"{'corruption':20}{'s':>2}{'holdfast':>26}{'imagecorruptions':>26}{'ratio':>8}{'apart':>9}")
    worst: dict[str, float] = {}
    for name in found:
        for severity in SEVERITIES:
            ours, peers = (spent[name, severity, who] for who in ("holdfast", "imagecorruptions"))
            ratio = statistics.median(peers) / statistics.median(ours)
            worst[name] = min(worst.get(name, float("inf")), ratio)
            print(f"{name:20}{severity:2}{rates(ours):>26}{rates(peers):>26}{ratio:8.1f}{apart[name, severity]:9.3f}")
    print("\nleast ratio over the severities")
    for name, ratio in sorted(worst.items(), key=lambda item: -item[1]):
        wanted = DEMANDED.get(name, 1.0)
        print(f"{name:20}{ratio:8.1f}  aim {wanted:g}: {'met' if ratio >= wanted else 'MISSED'}")


def rates(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{1 / middle:.1f} ({1 / high:.1f} .. {1 / low:.1f})"


if __name__ == "__main__":
    main()
