from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.core.errors import InputError
from holdfast.data.clips import read_clips


def _frames(folder, count: int, size: tuple[int, int] = (6, 4)) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", size, (i * 10, 0, 255)).save(folder / f"{i:03}.png")


def test_folders_and_archives_are_clips_in_the_order_of_their_frames(tmp_path) -> None:
    _frames(tmp_path / "rain", 5)
    np.savez(tmp_path / "night.npz", image=np.arange(48, dtype=np.uint8).reshape(4, 3, 2, 2), speed=np.arange(4.0))
    (tmp_path / "README.md").write_text("no clip")
    clips = read_clips(tmp_path, "image")
    assert list(clips) == ["night", "rain"]
    rain = clips["rain"]()
    assert (len(rain), rain[0]["image"].shape, rain[0]["image"].dtype) == (5, (3, 4, 6), torch.uint8)
    assert [int(rain[i]["image"][0, 0, 0]) for i in range(5)] == [0, 10, 20, 30, 40]
    night = clips["night"]()
    assert set(night[0]) == {"frame", "image", "speed"}
    assert night[3]["frame"] == 3


def _twins(folder) -> None:
    _frames(folder / "a", 3)
    np.savez(folder / "a.npz", image=np.ones((3, 3, 2, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "holds no clip"),
        (_twins, "two clips"),
    ],
)  # fmt: skip
def test_a_folder_without_clips_is_refused(tmp_path, make, message: str) -> None:
    make(tmp_path / "clips")
    with pytest.raises(InputError, match=message):
        read_clips(tmp_path / "clips", "image")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"other": np.zeros((4, 3, 2, 2))}, "no column 'image'"), ({"image": np.zeros(())}, "no column 'image'"),
        ({"image": np.zeros((4, 3, 2, 2)), "speed": np.zeros(3)}, "frames"),
        ({"image": np.zeros((2, 3, 2, 2))}, "at least 3"),
    ],
)  # fmt: skip
def test_an_archive_that_is_no_clip_is_refused(tmp_path, columns, message: str) -> None:
    np.savez(tmp_path / "clip.npz", **columns)
    with pytest.raises(InputError, match=message):
        read_clips(tmp_path, "image")["clip"]()


def test_a_damaged_archive_and_an_undecodable_video_are_refused_in_one_line(tmp_path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not an archive")
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    for name, message in (("a", "no readable npz"), ("b", "OpenCV|no frame")):
        with pytest.raises(InputError, match=message) as caught:
            read_clips(tmp_path, "image")[name]()
        assert "\n" not in str(caught.value)
