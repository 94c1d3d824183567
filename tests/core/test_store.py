from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.core.contracts import Measurement, Picture
from holdfast.core.errors import InputError
from holdfast.core.rows import Row
from holdfast.core.store import RunFolder, atomic_path


def a_row(**changes: object) -> Row:
    fields: dict[str, object] = {
        "study": "s", "recipe": "r", "init_seed": 0, "order_seed": 1, "weights": "last", "preprocessing": "train",
        "backend": "eager", "precision": "fp32", "executed": "fp32", "probe": "deployment", "condition": "",
        "split": "report", "metric": "error", "unit": "m", "better": "lower", "value": 0.5, "n": 3, "groups": 2,
    }  # fmt: skip
    return Row(**{**fields, **changes})  # type: ignore[arg-type]  # the fields stand in one dictionary of objects


def a_measurement(value: float = 0.5, **extras: object) -> Measurement:
    values = np.array([value, value, np.nan])
    return Measurement(row=a_row(value=value), values=values, groups=np.array([0, 0, 1]), **extras)  # type: ignore[arg-type]  # as above


# --- atomic_path ----------------------------------------------------------------------------------------


def write_half(target: Path, error: Exception) -> None:
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.npz"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"one")
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
        assert not target.exists()
    assert target.read_bytes() == b"one"
    assert list(target.parent.iterdir()) == [target]


def test_a_failing_block_keeps_the_old_file_and_its_own_error(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_half(target, ZeroDivisionError())
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_path(target):
        (tmp_path / "elsewhere").read_bytes()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), atomic_path(tmp_path / "file" / "below"):
        pass


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(InputError, match=r"No space left on device \(free some space"):
        write_half(tmp_path / "file", error)
    assert list(tmp_path.iterdir()) == []


def test_an_error_without_words_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.save raises on a full disk says nothing of it."""
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 832 vs 726")
    with pytest.raises(RuntimeError, match="unexpected pos"):
        write_half(tmp_path / "file", error)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(InputError, match="No space left on device"):
        write_half(tmp_path / "file", error)


def under_a_size_limit(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose files may not grow beyond 2000 bytes: a real refusal by the kernel."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
    return subprocess.run(
        [sys.executable, "-c", limit + code, str(folder)], capture_output=True, text=True, check=False
    )


def test_a_refused_write_leaves_no_file(tmp_path: Path) -> None:
    done = under_a_size_limit(
        "import sys; from holdfast.core.store import RunFolder\n"
        "RunFolder(sys.argv[1]).put_bytes('big.bin', bytes(5000))",
        tmp_path,
    )
    assert "InputError" in done.stderr
    assert "File too large" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "rows.jsonl"}


def test_a_refused_row_leaves_no_half_cell_and_the_folder_usable(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/core')\n"
        "from holdfast.core.errors import InputError\n"
        "from holdfast.core.store import RunFolder\n"
        "from test_store import a_measurement\n"
        "folder = RunFolder(sys.argv[1]); folder.commit('small', [a_measurement()])\n"
        "try: folder.commit('big', [a_measurement()] * 5)\n"
        "except InputError as error: print(error)\n"
        "folder.fail('later', 'nan')"
    )
    done = under_a_size_limit(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    with RunFolder(tmp_path) as folder:
        assert len(folder.rows()) == 1
        assert folder.finished("small")
        assert not folder.finished("big")
        assert folder.failures() == {"later": "nan"}


# --- the run folder -------------------------------------------------------------------------------------


def test_what_is_committed_is_read_back(tmp_path: Path) -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    lines = {"truth": [np.zeros((2, 2)), np.ones((3, 2))], "deployed": [np.full((1, 2), 7.0)]}
    picture = Picture(image=image, lines=lines, caption="frame 3: ü")
    first = a_measurement(0.5, series={"left_line": np.array([1.0, np.nan])}, pictures=(picture,))
    second = a_measurement(
        float("inf"), series={"left_line": np.array([2.0])}, pictures=(picture, Picture(image=image))
    )
    with RunFolder(tmp_path) as folder:
        folder.commit("cell", [first, second], {"seconds": np.float32(1.5), "loss": float("nan"), "at": tmp_path})

    with RunFolder(tmp_path) as folder:
        one, two = folder.rows()
        assert (one.value, two.value) == (0.5, float("inf"))
        assert (one.cell, one.samples, two.samples) == ("cell", "cell/0", "cell/1")
        values, groups = folder.samples(two)
        np.testing.assert_array_equal(values, second.values)
        np.testing.assert_array_equal(groups, second.groups)
        np.testing.assert_array_equal(folder.series(one)["left_line"], [1.0, np.nan])
        np.testing.assert_array_equal(folder.series(two)["left_line"], [2.0])
        with pytest.raises(InputError, match="'left_line'"):
            folder.series("cell")
        assert [len(folder.pictures(of)) for of in ("cell", one, two)] == [3, 1, 2]
        read = folder.pictures(one)[0]
        np.testing.assert_array_equal(read.image, image)
        assert read.caption == picture.caption
        assert {role: [line.tolist() for line in found] for role, found in read.lines.items()} == {
            role: [line.tolist() for line in found] for role, found in lines.items()
        }
        assert folder.facts("cell") == {"seconds": 1.5, "loss": "nan", "at": str(tmp_path)}


def test_series_of_a_cell_merge_when_they_agree(tmp_path: Path) -> None:
    curve = {"truth": np.array([1.0, np.nan])}
    with RunFolder(tmp_path) as folder:
        folder.commit("cell", [a_measurement(series=curve), a_measurement(series={**curve, "b": np.ones(2)})])
        assert set(folder.series("cell")) == {"truth", "b"}
        assert folder.pictures("cell") == []


def test_rows_of_other_cells_can_be_left_out(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.commit("old", [a_measurement(1.0)])
        folder.commit("new", [a_measurement(2.0)])
        assert [row.value for row in folder.rows()] == [1.0, 2.0]
        assert [row.value for row in folder.rows({"new"})] == [2.0]
        assert folder.rows(()) == []


def test_a_cell_settled_twice_is_what_it_was_last(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path) as folder:
            if not folder.finished("cell"):
                folder.fail("cell", "loss is NaN at step 3", {"step": 3})
                folder.commit("cell", [a_measurement(2.0)])
            assert folder.failures() == {}
            assert [row.value for row in folder.rows()] == [2.0]


def test_a_failed_cell_is_settled_and_named(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.fail("cell", "loss is NaN at step 3", {"step": 3})
    with RunFolder(tmp_path) as folder:
        assert folder.finished("cell")
        assert folder.failures() == {"cell": "loss is NaN at step 3"}
        assert folder.facts("cell") == {"step": 3}
        assert folder.rows() == []


def test_measurements_that_cannot_be_paired_are_refused(tmp_path: Path) -> None:
    odd = Measurement(row=a_row(), values=np.zeros(3), groups=np.zeros(2, dtype=int))
    with RunFolder(tmp_path) as folder:
        with pytest.raises(InputError, match="probe deployment, metric error"):
            folder.commit("cell", [odd])
        assert not folder.finished("cell")


# --- torn files -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """A rows file of two cells, and where the second begins."""
    root = tmp_path_factory.mktemp("journal")
    with RunFolder(root) as folder:
        folder.commit("one", [a_measurement(1.0), a_measurement(2.0)])
        start = folder.path("rows.jsonl").stat().st_size
        folder.commit("two", [a_measurement(3.0), a_measurement(4.0)], {"epochs": 3})
    return (root / "rows.jsonl").read_bytes(), start


def reopen(root: Path, content: bytes) -> list[float]:
    (root / "rows.jsonl").write_bytes(content)
    with RunFolder(root) as folder:
        values = [row.value for row in folder.rows()]
        assert folder.finished("two") == (4.0 in values)
        folder.fail("three", "stopped")
    with RunFolder(root) as folder:
        assert folder.finished("three")
        assert [row.value for row in folder.rows()] == values
    return values


def test_a_journal_cut_at_any_byte_never_shows_a_half_cell(tmp_path: Path, journal: tuple[bytes, int]) -> None:
    content, start = journal
    for length in range(start, len(content)):
        (tmp_path / "rows.jsonl").write_bytes(content[:length])
        with RunFolder(tmp_path) as folder:
            assert [row.value for row in folder.rows()] == [1.0, 2.0]
            assert not folder.finished("two")
        assert (tmp_path / "rows.jsonl").read_bytes() == content[:start]
    assert reopen(tmp_path, content) == [1.0, 2.0, 3.0, 4.0]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0), tail=st.binary(max_size=40))
def test_garbage_after_a_cut_is_cut_too(tmp_path: Path, journal: tuple[bytes, int], length: int, tail: bytes) -> None:
    content, start = journal
    assert reopen(tmp_path, content[: start + length % (len(content) - start)] + tail) == [1.0, 2.0]


def test_an_edited_line_is_named(tmp_path: Path, journal: tuple[bytes, int]) -> None:
    content = journal[0].replace(b'"metric": "error"', b'"metrix": "error"', 1)
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(InputError, match="line 1: is no row"):
        RunFolder(tmp_path)
    (tmp_path / "rows.jsonl").write_bytes(journal[0].split(b"\n", 1)[1])
    with pytest.raises(InputError, match="line 2: the 1 rows above do not belong"):
        RunFolder(tmp_path)


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from holdfast.core.store import atomic_path\n"
        "with atomic_path(sys.argv[1] + '/cells/weights.bin') as path: path.write_bytes(b'half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.rglob("*.bin"))) == 1
    with RunFolder(tmp_path):
        assert list(tmp_path.rglob("*.bin")) == []


# --- one writer -----------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        folder.commit("cell", [a_measurement()])
        with pytest.raises(InputError, match=rf"another process \({os.getpid()}\) writes"):
            RunFolder(tmp_path)
        reader = RunFolder(tmp_path, writer=False)
        assert len(reader.rows()) == 1
        with pytest.raises(InputError, match="opened for reading"):
            reader.commit("other", [])
    RunFolder(tmp_path).close()


def test_a_reader_of_anything_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run folder"):
        RunFolder(tmp_path / "absent", writer=False)
    assert not (tmp_path / "absent").exists()


def test_the_lock_dies_with_a_killed_run_even_when_its_fork_lives(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time; from holdfast.core.store import RunFolder\n"
        "RunFolder(sys.argv[1])\n"
        "if os.fork() == 0: print(os.getpid(), flush=True); time.sleep(60)\n"
        "time.sleep(0.3); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        fork = int(parent.stdout.readline())
        try:
            parent.wait()
            os.kill(fork, 0)
            RunFolder(tmp_path).close()
        finally:
            os.kill(fork, 9)
