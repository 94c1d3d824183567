from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.core.errors import InputError
from holdfast.weights import files, stream
from holdfast.weights.opened import open_checkpoint
from holdfast.weights.stream import average_files
from holdfast.weights.tree import combine, mean


def random_state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "big": torch.randn(300, 301, generator=generator).to(dtype),  # more than one piece
        "norm.running_var": torch.rand(3, generator=generator).to(dtype),
        "norm.num_batches_tracked": torch.tensor(seed),
        "mask": torch.tensor([True, seed % 2 == 0]),
        "empty": torch.zeros(0, 4, dtype=dtype),
    }


def write(folder: Path, states: list[dict[str, torch.Tensor]], suffix: str = ".safetensors") -> list[Path]:
    paths = [folder / f"{index}{suffix}" for index in range(len(states))]
    for path, state in zip(paths, states, strict=True):
        files.save(path, state)
    return paths


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 19])
def test_streamed_equals_in_memory(tmp_path: Path, suffix: str, dtype: torch.dtype, count: int) -> None:
    states = [random_state(seed, dtype) for seed in range(count)]
    average_files(write(tmp_path, states, suffix), tmp_path / "out.safetensors")
    got, twin = load_file(tmp_path / "out.safetensors"), mean(states)
    assert set(got) == set(twin)
    for name, value in twin.items():
        assert got[name].dtype == value.dtype
        rounding = torch.finfo(dtype).eps if value.is_floating_point() else 0.0
        torch.testing.assert_close(got[name], value, rtol=rounding, atol=4 * max(rounding, 1e-7))


@given(st.lists(st.floats(-1.0, 2.0), min_size=2, max_size=5))
@settings(deadline=None, max_examples=15)
def test_streamed_combinations_equal_in_memory(
    tmp_path_factory: pytest.TempPathFactory, coefficients: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("soup")
    states = [random_state(seed) for seed in range(len(coefficients))]
    average_files(write(folder, states), folder / "out.safetensors", coefficients=coefficients, hashes=False)
    got, twin = load_file(folder / "out.safetensors"), combine(states, coefficients)
    for name, value in twin.items():
        torch.testing.assert_close(got[name], value, rtol=1e-5, atol=2e-6)


def test_eight_bit_floats_are_summed_wide(tmp_path: Path) -> None:
    states = [{"w": torch.full((3,), value).to(torch.float8_e4m3fn)} for value in (1.0, 1.5, 2.0)]
    average_files(write(tmp_path, states), tmp_path / "out.safetensors")
    assert load_file(tmp_path / "out.safetensors")["w"].float().tolist() == [1.5] * 3


def test_one_file_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = random_state(0)
    average_files(write(tmp_path, [state]), tmp_path / "out.safetensors")
    got = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(got[name], value) for name, value in state.items())


def test_different_kinds_of_files_mix(tmp_path: Path) -> None:
    state = random_state(0)
    files.save(tmp_path / "a.safetensors", state)
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}, "step": 1}, tmp_path / "b.pt")
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    names = list(state)
    save_file({names[0]: state[names[0]]}, tmp_path / "s1.safetensors")
    save_file({name: state[name] for name in names[1:]}, tmp_path / "s2.safetensors")
    weight_map = dict.fromkeys(names, "s2.safetensors") | {names[0]: "s1.safetensors"}
    (tmp_path / "s.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    paths = [tmp_path / name for name in ("a.safetensors", "b.pt", "legacy.pt", "s.safetensors.index.json")]
    record = average_files(paths, tmp_path / "out.safetensors", hashes=False)
    assert record["ingredients"][1]["prefix"] == "module."
    got = load_file(tmp_path / "out.safetensors")
    for name, value in state.items():
        torch.testing.assert_close(got[name], value)


def test_transposed_tensors_in_torch_files_are_read_in_order(tmp_path: Path) -> None:
    state = {"w": torch.randn(300, 200).t(), "c": torch.randn(2, 3, 5, 7).to(memory_format=torch.channels_last)}
    torch.save(state, tmp_path / "a.pt")
    average_files([tmp_path / "a.pt"], tmp_path / "out.safetensors")
    got = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(got[name], value) for name, value in state.items())


def test_the_metadata_say_what_the_file_is(tmp_path: Path) -> None:
    paths = write(tmp_path, [random_state(0), random_state(1)])
    average_files(paths, tmp_path / "out.safetensors", metadata={"average": "uniform soup"})
    _, told = files.load(tmp_path / "out.safetensors")
    assert told["average"] == "uniform soup"
    assert [ingredient["file"] for ingredient in told["ingredients"]] == ["0.safetensors", "1.safetensors"]
    assert [ingredient["coefficient"] for ingredient in told["ingredients"]] == [0.5, 0.5]
    assert all(len(ingredient["sha256"]) == 64 for ingredient in told["ingredients"])


def test_ties_are_recorded_when_all_files_have_them(tmp_path: Path) -> None:
    tied = {"a": torch.ones(3)}
    tied["b"] = tied["a"]
    average_files(write(tmp_path, [tied, tied]), tmp_path / "out.safetensors")
    state, _ = files.load(tmp_path / "out.safetensors")
    assert state["a"].data_ptr() == state["b"].data_ptr()


def test_the_norm_ratio_tells_relatives_from_strangers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    strangers = [nn.Linear(200, 200).state_dict() for _ in range(4)]
    relatives = [{k: v + 0.01 * torch.randn_like(v) for k, v in strangers[0].items()} for _ in range(4)]
    apart = average_files(write(tmp_path, strangers), tmp_path / "out.safetensors")
    close = average_files(write(tmp_path, relatives), tmp_path / "out.safetensors")
    assert apart["norm_ratio"] == pytest.approx(0.5, abs=0.02)
    assert close["norm_ratio"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_ratio_weighs_every_number_alike(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = [{"large": torch.randn(1_500_000), "small": torch.ones(65_536)} for _ in range(2)]
    states = [{name: value.to(dtype) for name, value in state.items()} for state in states]
    mean = {name: (states[0][name].double() + states[1][name].double()) / 2 for name in states[0]}

    def norm(state: dict[str, torch.Tensor]) -> float:
        return math.sqrt(sum(float(value.double().square().sum()) for value in state.values()))

    record = average_files(write(tmp_path, states), tmp_path / "out.safetensors")
    assert record["norm_ratio"] == pytest.approx(norm(mean) / norm(states[0]), abs=5e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_poisoned_ingredient_is_refused_by_file_and_entry(tmp_path: Path, bad: float, suffix: str) -> None:
    states = [random_state(seed) for seed in range(3)]
    states[1]["big"][299, 300] = bad
    with pytest.raises(InputError, match=rf"1\{suffix}: NaN or infinite values in big"):
        average_files(write(tmp_path, states, suffix), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_do_not_fit_are_refused_with_a_table(tmp_path: Path) -> None:
    other = random_state(1) | {"big": torch.zeros(300, 300)}
    paths = write(tmp_path, [random_state(0), other])
    with pytest.raises(InputError, match=r"big: float32 \(300, 301\) in 0.safetensors, float32 \(300, 300\) in 1"):
        average_files(paths, tmp_path / "out.safetensors")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [random_state(0)])
    with open_checkpoint(path) as opened:
        with path.open("r+b") as file:
            file.truncate(2000)
        with pytest.raises(InputError, match=r"0\.safetensors: became shorter"):
            opened.tensor("big")


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [random_state(0)])
    for paths, out, coefficients in (
        ([], "o.safetensors", None),
        ([path], "o.safetensors", [0.5, 0.5]),
        ([path], "o.pt", None),
    ):
        with pytest.raises(InputError):
            average_files(paths, tmp_path / out, coefficients=coefficients)


def test_memory_does_not_grow_with_files_or_tensors(tmp_path: Path) -> None:
    big = {"w": torch.randn(6_000_000)}  # 24 MB each
    paths = [tmp_path / f"{index}.safetensors" for index in range(6)]
    for path in paths:
        files.save(path, big)
    script = f"""
import re, pathlib, torch
from holdfast.weights import stream
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
paths = {[str(path) for path in paths]}
stream.average_files(paths[:1], {str(tmp_path / "warm.safetensors")!r})
before, peak = anonymous(), 0
def look(_):
    global peak
    peak = max(peak, anonymous())
stream.average_files(paths, {str(tmp_path / "out.safetensors")!r}, advance=look)
print(peak - before)
"""
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 16 * 1024  # KiB


KILLED = """
import itertools, os, signal, sys, time
import torch
from pathlib import Path
from holdfast.weights import files
from holdfast.weights.stream import average_files

torch.set_num_threads(1)
folder = Path(sys.argv[1])
out, states = folder / "out.safetensors", {"old": torch.zeros(400_000), "new": torch.ones(400_000)}
for name, values in states.items():
    files.save(folder / f"{name}.safetensors", {"w": values})
found = set()
for trial in range(8):
    child = os.fork()
    if not child:
        for name in itertools.cycle(states):
            average_files([folder / f"{name}.safetensors"] * 3, out, hashes=False)
    while not out.exists():
        time.sleep(0.001)
    time.sleep(0.013 * trial)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    state, _ = files.load(out)
    found |= {name for name, values in states.items() if torch.equal(state["w"], values)} or {"torn"}
print(" ".join(sorted(found)))
"""


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found
    assert "torn" not in found


def test_pieces_are_small() -> None:
    assert 8 * (stream._PIECE + stream._WIDENED) <= 16 * 2**20
