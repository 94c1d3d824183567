"""Pixelate's own boxes against Pillow's, at every length."""

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.data.corruptions.pixelate import Pixelate, _pairs
from holdfast.data.corruptions.published import Table

BOX = Image.Resampling.BOX
SETTINGS = [(table, severity) for table in Pixelate.SHARE for severity in Pixelate.severities]


def by_pillow(image: np.ndarray, share: float) -> np.ndarray:
    height, width = image.shape
    small = Image.fromarray(image).resize((max(1, int(width * share)), max(1, int(height * share))), BOX)
    return np.asarray(small.resize((width, height), BOX))


@pytest.mark.parametrize(("table", "severity"), SETTINGS)
def test_equals_pillow_at_every_length(table: Table, severity: int) -> None:
    corruption, rng = Pixelate(table=table), np.random.default_rng(severity)
    share = Pixelate.SHARE[table][severity - 1]
    for n in [*range(1, 200), 480, 641, 1080, 1920]:
        for height in {2, n // 2, n, int(1.5 * n), 3 * n} - {0}:
            image = rng.integers(0, 256, (height, n), dtype=np.uint8)
            found = corruption.corrupt_bytes(torch.from_numpy(image)[None, None], severity)[0, 0].numpy()
            assert (found == by_pillow(image, share)).all(), image.shape


def test_pairs_are_used_where_boxes_hold_no_more_than_two() -> None:
    assert _pairs(224, 134) is not None
    assert _pairs(224, 112) is not None
    assert _pairs(33, 16) is None, "one box of 33 / 16 pixels holds three"
    assert _pairs(224, 89) is None


def test_bytes_given_are_not_written_to() -> None:
    image = torch.randint(0, 256, (2, 3, 20, 30), dtype=torch.uint8)
    before = image.clone()
    for severity in Pixelate.severities:
        Pixelate().corrupt_bytes(image, severity)
    assert torch.equal(image, before)
