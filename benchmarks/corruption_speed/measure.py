"""Images a second of each corruption against imagecorruptions, and how far apart the two are for equal draws.

PYTHONPATH=<folder with imagecorruptions, opencv-python-headless and scikit-image> OMP_NUM_THREADS=1 \
    python benchmarks/corruption_speed/measure.py ROUNDS [NAME...] >> benchmarks/corruption_speed/rows.jsonl
python benchmarks/corruption_speed/measure.py report < benchmarks/corruption_speed/rows.jsonl > .../log.txt

224x224, three channels, one thread, CPU time. In each round, in an order drawn anew, the two take turns at each
corruption, so that a load which changes meets both; a ratio is the median of those of the rounds. Both corrupt the same
eight images and keep the results: holdfast as a batch, imagecorruptions one by one, as it is made. Without names all
nineteen are measured.
"""

from __future__ import annotations

import itertools
import json
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

from holdfast.core.contracts import Corruption
from holdfast.core.discover import build, load, names
from holdfast.core.fingerprint import environment
from holdfast.data.corruptions.sealed import corrupted

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "reference"))
from corruption_twins import LegacyDraws
from scenes import scene

SIDE, BATCH, SEVERITIES = 224, 8, (1, 2, 3, 4, 5)
SLOW = ("glass_blur",)
"""A second or two an image for imagecorruptions: it corrupts one of the eight a round."""
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


def ours_of(name: str, theirs: types.ModuleType) -> Corruption:
    """holdfast's corruption; frost of the textures that imagecorruptions brings."""
    options = {"textures": str(Path(theirs.__file__ or "").parent / "frost")} if name == "frost" else {}
    return build("corruption", {name: options})


def contenders(name: str, severity: int, theirs: types.ModuleType, images: np.ndarray) -> dict[str, Callable[[], int]]:
    """Calls by name; each gives the number of images it corrupted."""
    corruption = ours_of(name, theirs)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    from PIL import Image

    turns = itertools.cycle(images[:, None] if name in SLOW else [images])

    def ours() -> int:
        return len(corrupted(batch, corruption, severity))

    def peers() -> int:
        one = getattr(theirs, name)
        return len([np.uint8(one(Image.fromarray(image), severity)) for image in next(turns)])

    return {"holdfast": ours, "imagecorruptions": peers}


def difference(name: str, severity: int, theirs: types.ModuleType, image: np.ndarray) -> float:
    """Mean absolute difference in grey levels for the same draws, before either cuts to whole levels."""
    from PIL import Image

    np.random.seed(severity)
    expected = np.clip(np.asarray(getattr(theirs, name)(Image.fromarray(image), severity), dtype=float), 0, 255)
    given = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    found = ours_of(name, theirs).corrupt(given, severity, LegacyDraws(severity)).clamp(0, 255)
    return float(np.abs(found[0].permute(1, 2, 0).numpy() - expected).mean())


def measured(names_: list[str], rounds: int) -> None:
    """Print a row for each corruption and severity."""
    random.seed(0)
    theirs = peer()
    images = np.stack([scene(i, SIDE, SIDE) for i in range(BATCH)])
    calls = {
        (name, severity, who): call
        for name in names_
        for severity in SEVERITIES
        for who, call in contenders(name, severity, theirs, images).items()
    }
    spent: dict[tuple[str, int, str], list[float]] = {key: [] for key in calls}
    for name, _, who in calls:
        if not (name in SLOW and who == "imagecorruptions"):
            calls[name, 1, who]()
    order, pair = [(name, severity) for name in names_ for severity in SEVERITIES], ["holdfast", "imagecorruptions"]
    for _ in range(rounds):
        random.shuffle(order)
        for name, severity in order:
            for who in random.sample(pair, 2):
                began = time.process_time()
                count = calls[name, severity, who]()
                spent[name, severity, who].append((time.process_time() - began) / count)
    print(json.dumps(environment()))
    for name in names_:
        for severity in SEVERITIES:
            seconds = {who: spent[name, severity, who] for who in ("holdfast", "imagecorruptions")}
            apart = difference(name, severity, theirs, images[0])
            print(
                json.dumps({"corruption": name, "severity": severity, "apart": round(apart, 4), **seconds}), flush=True
            )


def report(lines: list[str]) -> None:
    rows = [json.loads(line) for line in lines]
    print(
        *{json.dumps({k: v for k, v in row.items() if k != "time"}): None for row in rows if "commit" in row}, sep="\n"
    )
    print("\nimages a second, median (quartiles) over n rounds; of the ratio, too; grey levels apart for equal draws\n")
    print(f"{'corruption':18}{'s':>2}{'n':>4}{'holdfast':>28}{'imagecorruptions':>28}{'ratio':>8}{'apart':>9}")
    ratios: dict[str, list[float]] = {}
    for row in (row for row in rows if "corruption" in row):
        ours, peers, name = row["holdfast"], row["imagecorruptions"], row["corruption"]
        low, middle, high = statistics.quantiles([b / a for a, b in zip(ours, peers, strict=True)], n=4)
        ratios.setdefault(name, []).append(middle)
        print(f"{name:18}{row['severity']:2}{len(ours):4}{rates(ours):>26}{rates(peers):>26}"
              f"{f'{middle:.2f} ({low:.2f} .. {high:.2f})':>22}{row['apart']:8.3f}")  # fmt: skip
    print("\nratio over the severities, least and most")
    for name, found in sorted(ratios.items(), key=lambda item: -min(item[1])):
        aim = DEMANDED.get(name, 1.0)
        verdict = "met" if min(found) >= aim else "MISSED"
        print(f"{name:18}{min(found):8.2f}{max(found):8.2f}  aim {aim:g}: {verdict}")


def rates(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{1 / middle:.1f} ({1 / high:.1f} .. {1 / low:.1f})"


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1] == "report":
        report(sys.stdin.read().splitlines())
        return
    every = [name for name in names("corruption") if load("corruption", name).family != "deploy"]
    measured(sys.argv[2:] or every, int(sys.argv[1]))


if __name__ == "__main__":
    main()
