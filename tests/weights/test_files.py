from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights import files
from holdfast.weights.stream import average_files


def small_state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return list(left) == list(right) and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


# --- round trips --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".ckpt"])
def test_what_was_saved_is_loaded_with_its_metadata(tmp_path: Path, suffix: str) -> None:
    state = small_state() | {"half": torch.ones(2, dtype=torch.bfloat16), "mask": torch.tensor([True, False])}
    metadata = {"average": "ema", "decay": 0.999, "files": ["a", "b"]}
    files.save(tmp_path / f"w{suffix}", state, metadata)
    loaded, told = files.load(tmp_path / f"w{suffix}")
    assert same({k: loaded[k] for k in state}, state)
    assert {key: told[key] for key in metadata} == metadata
    assert told["source"]["file"] == f"w{suffix}"


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_ties_survive_and_other_readers_find_every_name(tmp_path: Path, suffix: str) -> None:
    shared = torch.randn(3, 3)
    files.save(tmp_path / f"w{suffix}", {"a": shared, "b": shared, "row": shared[0]})
    state, _ = files.load(tmp_path / f"w{suffix}")
    assert state["a"].data_ptr() == state["b"].data_ptr()
    assert torch.equal(state["row"], shared[0])
    if suffix == ".safetensors":
        assert set(load_file(tmp_path / "w.safetensors")) == {"a", "b", "row"}


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = small_state()
    files.save(path, state)
    loaded, _ = files.load(path)
    with path.open("r+b") as file:
        file.truncate(0)
    assert same({k: loaded[k] for k in state}, state)


def test_files_of_others_keep_their_metadata(tmp_path: Path) -> None:
    save_file(small_state(), tmp_path / "w.safetensors", metadata={"format": "pt", "epoch": "3"})
    assert files.load(tmp_path / "w.safetensors")[1]["epoch"] == "3"


@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "module", "params"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_nested_keys_and_prefixes_are_recognised_and_reported(tmp_path: Path, key: str, prefix: str) -> None:
    state = small_state()
    optimiser = torch.optim.SGD(nn.Linear(2, 3).parameters()).state_dict()
    torch.save({"epoch": 3, "optimizer": optimiser, key: {prefix + k: v for k, v in state.items()}}, tmp_path / "c.pt")
    loaded, told = files.load(tmp_path / "c.pt")
    assert same(loaded, state)
    assert (told["source"]["key"], told["source"]["prefix"]) == (key, prefix)


def test_raw_weights_come_before_averages_and_both_are_named(tmp_path: Path) -> None:
    raw, ema = small_state(0), small_state(1)
    torch.save({"ema": ema, "model": raw, "deep": {"er": raw}}, tmp_path / "c.pt")
    loaded, told = files.load(tmp_path / "c.pt")
    assert same(loaded, raw)
    assert told["source"]["others"] == ["deep.er", "ema"]
    assert same(files.load(tmp_path / "c.pt", key="ema")[0], ema)
    with pytest.raises(InputError, match=r"no state dict 'nothing' inside.*'deep.er', 'ema', 'model'"):
        files.load(tmp_path / "c.pt", key="nothing")


def test_a_prefix_that_only_some_names_carry_is_a_name(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "c.pt")
    assert set(files.load(tmp_path / "c.pt")[0]) == {"module.a", "b"}


def write_shards(folder: Path, *, shards: tuple[str, ...] = ("a.safetensors", "b.safetensors")) -> Path:
    state = small_state()
    weight_map = {name: shards[index % 2] for index, name in enumerate(state)}
    for shard in set(shards):
        part = {name: state[name] for name, home in weight_map.items() if home == shard}
        save_file(part, folder / Path(shard).name, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_sharded_files_are_read_by_index_or_folder(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    for path in (index, tmp_path):
        loaded, told = files.load(path)
        assert same({name: loaded[name] for name in small_state()}, small_state())
        assert told["source"]["format"] == "safetensors, sharded"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"its shard b\.safetensors is missing"):
        files.load(index)


def test_shards_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    index = write_shards(tmp_path / "inner", shards=("a.safetensors", "../b.safetensors"))
    with pytest.raises(InputError, match="not a plain file name"):
        files.load(index)


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_nan_is_refused_by_file_and_entry(tmp_path: Path, suffix: str) -> None:
    state = small_state()
    state["0.weight"][0, 0] = float("nan")
    files.save(tmp_path / f"bad{suffix}", state)
    with pytest.raises(InputError, match=rf"bad\{suffix}: NaN or infinite values in 0\.weight"):
        files.load(tmp_path / f"bad{suffix}")
    assert len(files.load(tmp_path / f"bad{suffix}", finite=False)[0]) == len(state)


def write_legacy(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "legacy.pt", "model.safetensors.index.json"])
def test_a_file_truncated_at_any_byte_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("legacy"):
        write_legacy(path)
    elif name.endswith("json"):
        write_shards(tmp_path)
    else:
        files.save(path, {"a": torch.ones(2)})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            files.load(path)


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ["HOLDFAST_TEST_PROOF"],)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_PROOF", str(tmp_path / "executed"))
    content = {"state_dict": small_state(), "extra": Malicious()}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(InputError, match=name):
            files.load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "legacy.pt", "model.safetensors.index.json"])
def test_a_truncated_ingredient_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("legacy"):
        write_legacy(path)
    elif name.endswith("json"):
        write_shards(tmp_path)
    else:
        files.save(path, {"a": torch.ones(2)})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            average_files([path], tmp_path / "out.safetensors", hashes=False)
    assert not (tmp_path / "out.safetensors").exists()


def fuzzed_headers() -> list[bytes]:
    """200 damaged safetensors files: wrong lengths, broken JSON, wrong shapes, offsets and dtypes, random bytes."""
    rng = np.random.default_rng(0)
    data = bytes(range(48))
    good = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "F32", "shape": [6], "data_offsets": [24, 48]}}  # fmt: skip

    def packed(header: object, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", (len(text) if length is None else length) & (2**64 - 1)) + text + data

    def change(**fields: object) -> bytes:
        return packed(good | {"a": good["a"] | fields})

    damaged = [packed(good, length) for length in (0, 1, 7, 10**6, 2**31, 2**40, 2**63, 2**64 - 1)]
    damaged += [
        packed(junk) for junk in (b"", b"[]", b"null", b"1", b'"a"', b"{" * 5000, b"[" * 100_000, b"\xff\xfe{}")
    ]
    damaged += [change(shape=shape) for shape in ([2], [2**62, 4], [-1, 6], [2, 3.5], "ab", None, [2**64], [[2, 3]])]
    damaged += [change(shape=[1] * 70_000 + [7])]
    damaged += [change(data_offsets=o) for o in ([0, 2**63], [24, 0], [-24, 0], [8, 32], [0], [0, 1, 2], None, [0, 23])]
    damaged += [change(dtype=dtype) for dtype in ("F33", "", 7, None, "f32", "I8", "F64")]
    damaged += [packed({"a": value}) for value in (1, [], None, "x", {}, {"dtype": "F32"})]
    damaged += [packed({**good, "__metadata__": value}) for value in (1, [], "x", {"k": 1}, {"k": {"deep": 1}})]
    whole = packed(good)
    header_end = len(whole) - len(data)
    while len(damaged) < 200:
        spoilt = bytearray(whole)
        for place in rng.integers(0, header_end, size=rng.integers(1, 6)):
            spoilt[place] = int(rng.integers(0, 256))
        damaged.append(bytes(spoilt))
    return damaged


def test_two_hundred_fuzzed_headers_give_clear_errors(tmp_path: Path) -> None:
    messages, memory_before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, content in enumerate(fuzzed_headers()):
        path = tmp_path / f"fuzz{index}.safetensors"
        path.write_bytes(content)
        try:
            state, _ = files.load(path, finite=False)
        except InputError as error:
            messages.append((path.name, str(error)))
        else:  # a changed name or a shape of the same size is still a valid file
            assert sum(tensor.numel() * tensor.itemsize for tensor in state.values()) <= 48
    assert all(name in message and len(message) < 1000 for name, message in messages)
    assert len(messages) >= 150
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before < 64 * 1024  # KiB


def test_two_hundred_fuzzed_ingredients_give_clear_errors(tmp_path: Path) -> None:
    messages, memory_before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, content in enumerate(fuzzed_headers()):
        path = tmp_path / f"fuzz{index}.safetensors"
        path.write_bytes(content)
        try:
            average_files([path], tmp_path / "out.safetensors", hashes=False)
        except InputError as error:
            messages.append((path.name, str(error)))
    assert all(name in message and len(message) < 1000 for name, message in messages)
    assert len(messages) >= 150
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_before < 64 * 1024  # KiB


@pytest.mark.parametrize("zipped", [True, False])
def test_spoilt_torch_files_are_read_or_refused(tmp_path: Path, zipped: bool) -> None:
    torch.save({"state_dict": small_state()}, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    whole, rng = (tmp_path / "w.pt").read_bytes(), np.random.default_rng(0)
    messages = []
    for _ in range(200):
        spoilt = bytearray(whole)
        for place in rng.integers(0, len(whole), size=8):
            spoilt[place] = int(rng.integers(0, 256))
        (tmp_path / "w.pt").write_bytes(spoilt)
        try:
            files.load(tmp_path / "w.pt", finite=False)
        except InputError as error:
            messages.append(str(error))
    assert all("w.pt" in message for message in messages)
    assert len(messages) > 50


def test_missing_files_unknown_suffixes_and_foreign_content_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        files.load(tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"'\.onnx' is not known"):
        files.save(tmp_path / "w.onnx", small_state())
    with pytest.raises(InputError, match="epoch is no tensor"):
        files.save(tmp_path / "w.pt", {"epoch": 3})
    torch.save({"epoch": 3}, tmp_path / "c.pt")
    with pytest.raises(InputError, match=r"no state dict inside \(it holds \['epoch'\]"):
        files.load(tmp_path / "c.pt")
    with pytest.raises(InputError, match="0 weight files"):
        files.load(tmp_path)
    assert not (tmp_path / "w.onnx").exists()


def test_third_party_files_open(data_models: Path) -> None:
    state, told = files.load(data_models / "cifar10_resnet20_akamaster.th")
    assert told["source"] == {
        "file": "cifar10_resnet20_akamaster.th", "format": "torch", "key": "state_dict", "others": [],
        "prefix": "module.",
    }  # fmt: skip
    assert sum(t.numel() for n, t in state.items() if "running" not in n and "num_batches" not in n) == 269_722
    state, told = files.load(data_models / "face_slim320.pth")
    assert (len(state), told["source"]["key"]) == (184, "")


@pytest.fixture
def data_models() -> Path:
    folder = Path(os.environ.get("HOLDFAST_DATA", "../shared/data")) / "models"
    if not folder.is_dir():
        pytest.skip(f"no third-party models at {folder}")
    return folder
