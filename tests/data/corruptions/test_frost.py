from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from corruption_twins import photo
from PIL import Image

from holdfast.core.errors import InputError
from holdfast.data.corruptions.frost import Frost
from holdfast.data.corruptions.sealed import corrupted

IMAGE = torch.from_numpy(photo(0, 24, 30)).permute(2, 0, 1)[None].float()


def textures(folder: Path, *sizes: tuple[int, int]) -> str:
    """Images whose red names the texture and whose green and blue name row and column."""
    for i, (height, width) in enumerate(sizes):
        y, x = np.mgrid[:height, :width]
        Image.fromarray(np.stack([np.full_like(y, 40 * i), y, x], -1).astype(np.uint8)).save(
            folder / f"frost{i + 1}.png"
        )
    return str(folder)


def test_a_piece_of_one_of_the_first_five_textures_is_laid_over_the_image(tmp_path: Path) -> None:
    frost = Frost(textures=textures(tmp_path, *[(40, 50)] * 6))
    share, cover = frost.SHARES["imagenet"][2]
    keys = range(40)
    bare = (corrupted(torch.zeros(40, 3, 24, 30), frost, 3, keys=keys) / cover).round()
    which, first = bare[:, 0, 0, 0] / 40, bare[:, 1:, 0, 0]
    y, x = torch.arange(24.0)[:, None].expand(24, 30), torch.arange(30.0).expand(24, 30)
    ice = torch.stack(
        [torch.stack((torch.full_like(y, 40 * float(k)), y + a, x + b)) for k, (a, b) in zip(which, first, strict=True)]
    )
    assert torch.equal(bare, ice)
    assert set(which.tolist()) == {0, 1, 2, 3, 4}
    assert len(set(map(tuple, first.tolist()))) > 30
    given = corrupted(IMAGE.expand(40, -1, -1, -1), frost, 3, keys=keys)
    torch.testing.assert_close(given, (share * IMAGE + cover * ice).clamp(0, 255), atol=1e-2, rtol=0)


def test_a_texture_smaller_than_the_image_is_enlarged(tmp_path: Path) -> None:
    found = corrupted(IMAGE, Frost(textures=textures(tmp_path, (10, 12))), 5)
    assert found.shape == IMAGE.shape
    assert not torch.equal(found, IMAGE)


def test_without_textures_it_says_that_it_stands_in(tmp_path: Path) -> None:
    assert Frost().variant == "procedural"
    assert Frost(textures=textures(tmp_path, (30, 40))).variant == ""


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.png or \.jpg"):
        corrupted(IMAGE, Frost(textures=str(tmp_path)), 1)
