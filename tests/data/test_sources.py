from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from holdfast.core.errors import InputError
from holdfast.data.sources import (
    data_root,
    read_classes,
    read_idx,
    read_image,
    read_images,
    read_jpegs,
    read_npz,
    read_table,
)

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: np.ndarray) -> bytes:
    code = CODES[array.dtype.str[1:]]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def png_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def frame(seed: int, shape: tuple[int, ...] = (6, 8, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- where the data are ---------------------------------------------------------------------------------


def test_data_root_is_the_folder_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("HOLDFAST_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("mnist") == tmp_path / "mnist"
    with pytest.raises(InputError, match=r"HOLDFAST_DATA.*kmnist does not exist"):
        data_root("kmnist")


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_error_names_it(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_DATA", raising=False)
    if value is not None:
        monkeypatch.setenv("HOLDFAST_DATA", value)
    with pytest.raises(InputError, match="export HOLDFAST_DATA="):
        data_root()


# --- IDX ------------------------------------------------------------------------------------------------


@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda kind: hnp.arrays(np.dtype(kind), hnp.array_shapes(max_dims=3, max_side=4))
    ),
    packed=st.booleans(),
)
def test_idx_round_trip(array: np.ndarray, packed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    raw = idx_bytes(array)
    path.write_bytes(gzip.compress(raw) if packed else raw)
    read = read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


GOOD = idx_bytes(np.arange(24, dtype="u1").reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not an IDX file"),
        (b"PK\x03\x04 something else", "not an IDX file"),
        (b"\0\0\x07\x01" + bytes(8), "not an IDX file"),
        (GOOD[:-1], "39 bytes where the header .* needs 40"),
        (GOOD + b"\0", "41 bytes where the header .* needs 40"),
        (GOOD[:9], "bytes where the header"),
        (gzip.compress(GOOD, mtime=0)[:-10], "broken gzip"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff\xff\xff\xff", "broken gzip"),
    ],
    ids=["empty", "zip", "odd type", "short", "long", "header only", "cut gzip", "damaged gzip"],
)
def test_truncated_or_foreign_idx_is_refused_by_name(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "digits.gz"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=rf"digits\.gz: .*{message}"):
        read_idx(path)


# --- images ---------------------------------------------------------------------------------------------


def test_images_come_as_channels_first(tmp_path: Path) -> None:
    frames = [frame(0), frame(1)]
    for i, pixels in enumerate(frames):
        (tmp_path / f"{i}.png").write_bytes(png_bytes(pixels))
    paths = sorted(tmp_path.iterdir())
    np.testing.assert_array_equal(read_image(paths[1]), frames[1])
    np.testing.assert_array_equal(read_images(paths), np.stack(frames).transpose(0, 3, 1, 2))
    assert read_images(paths, "L").shape == (2, 1, 6, 8)


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(frame(0)))
    (tmp_path / "b.png").write_bytes(png_bytes(frame(0, (6, 9, 3))))
    with pytest.raises(InputError, match=r"b\.png: is 9x6, the first image 8x6"):
        read_images(sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("raw", [b"hello", png_bytes(frame(0))[:-30]], ids=["foreign", "truncated"])
def test_what_is_no_whole_image_is_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"frame\.png: (not an image|broken image)"):
        read_image(path)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        read_images([], where="somewhere")
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


def test_class_folders(tmp_path: Path) -> None:
    for name, count in (("dog", 2), ("cat", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.PNG").write_bytes(png_bytes(frame(i)))
        (tmp_path / name / "notes.txt").write_text("not an image")
    paths, labels, classes = read_classes(tmp_path)
    assert classes == ["cat", "dog"]
    assert labels.tolist() == [0, 1, 1]
    assert [path.parent.name for path in paths] == ["cat", "dog", "dog"]


def test_class_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_classes(tmp_path / "gone")
    with pytest.raises(InputError, match="no sub-folders"):
        read_classes(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="cat: holds no images"):
        read_classes(tmp_path)


# --- npz ------------------------------------------------------------------------------------------------


def test_npz_by_key(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=np.ones((2, 3)), labels=np.arange(2))
    images, labels = read_npz(path, "images", "labels")
    assert images.shape == (2, 3)
    assert labels.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"no key 'image'.*\['images', 'labels'\]"):
        read_npz(path, "image")


def test_npz_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="not a readable npz archive"):
        read_npz(path, "images")


def test_foreign_and_truncated_npz_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, images=np.arange(4000))
    (tmp_path / "half.npz").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"half\.npz: not a readable npz archive"):
        read_npz(tmp_path / "half.npz", "images")
    np.save(tmp_path / "single.npy", np.arange(3))
    with pytest.raises(InputError, match=r"single\.npy: not an npz archive"):
        read_npz(tmp_path / "single.npy", "images")


def test_joined_jpegs(tmp_path: Path) -> None:
    streams = []
    for grey in (0, 100, 200):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (grey, grey, grey)).save(buffer, format="JPEG")
        streams.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, streams)])
    path = tmp_path / "set.npz"
    np.savez(path, jpeg=np.concatenate(streams), offsets=offsets, labels=np.array([2, 0, 1], np.uint8))
    images, labels = read_jpegs(path)
    assert images.shape == (3, 3, 8, 8)
    assert images[:, 0, 0, 0] == pytest.approx([0, 100, 200], abs=2)
    assert labels.tolist() == [2, 0, 1]
    np.savez(path, jpeg=np.concatenate(streams), offsets=offsets + 1, labels=np.arange(3))
    with pytest.raises(InputError, match="offsets do not fit"):
        read_jpegs(path)


# --- CSV ------------------------------------------------------------------------------------------------


def test_table_keeps_order_and_text(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text('name,angle\nb,0.50\n"a, quoted",-1\n', encoding="utf-8-sig")
    assert read_table(path, "name", "angle") == [{"name": "b", "angle": "0.50"}, {"name": "a, quoted", "angle": "-1"}]
    with pytest.raises(InputError, match=r"no column 'speed' \(it has \['name', 'angle'\]\)"):
        read_table(path, "speed")


@pytest.mark.parametrize("row", ["a", "a,1,2"])
def test_ragged_rows_are_refused_with_their_line(row: str, tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    path.write_text(f"name,angle\nb,0\n{row}\n")
    with pytest.raises(InputError, match="line 3: not as many values as columns"):
        read_table(path)


def test_binary_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(b"\x89PNG\xff")
    with pytest.raises(InputError, match="not a text file"):
        read_table(tmp_path / "index.csv")
