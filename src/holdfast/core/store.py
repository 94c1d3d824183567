"""Everything that reaches the disk: whole files that appear at once, and the run folder with its append-only rows."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import BadZipFile

import numpy as np

from holdfast.core.arrays import pack_pictures, pack_samples, unpack_pictures, unpack_series
from holdfast.core.contracts import Measurement, Picture
from holdfast.core.errors import InputError
from holdfast.core.journal import Settled, encode, parse
from holdfast.core.lock import release_lock, take_lock
from holdfast.core.plain import plain
from holdfast.core.rows import Row

__all__ = ["RunFolder", "atomic_path"]

_TEMPORARY = ".holdfast-tmp-"
_CELL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+@-]{0,127}")


# --- whole files ----------------------------------------------------------------------------------------


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """A temporary path beside ``target``, which becomes ``target`` only when the block ends well.

    The file and its folder are synchronised first, so after a crash or a power cut ``target`` is the old file or
    the new one, never a part. The temporary path keeps the suffix of ``target``; missing folders are made.

    Args:
        target: the file that shall appear.

    Raises:
        InputError: the disk is full or the folder cannot be written.

    Example:
        >>> with atomic_path(folder / "weights.safetensors") as path:
        ...     save_file(state, path)
    """
    target = Path(target)
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _synchronise(temporary)
        temporary.replace(target)
        _synchronise(target.parent)
    except Exception as error:
        if reason := _refusal(error, target, temporary):
            raise InputError(f"cannot be written: {reason}", where=str(target), fix=_FIX) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


_FIX = "free some space or choose a folder you may write to; finished work is kept"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def _refusal(error: Exception, target: Path, temporary: Path) -> str:
    """Why the file system refused to write ``target``; empty when ``error`` means something else."""
    if not isinstance(error, OSError):
        # Native writers raise errors of their own, and not all of them say that the disk is full.
        full = os.strerror(errno.ENOSPC)
        return full if full in str(error) or _free_bytes(target.parent) < _A_BLOCK else ""
    touched = {str(path) for path in (target, temporary, *target.parents)}
    if error.errno in _DISK or str(error.filename) in touched:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return ""


_A_BLOCK = 1 << 16


def _free_bytes(folder: Path) -> int:
    with suppress(OSError):
        return shutil.disk_usage(folder).free
    return _A_BLOCK


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the run folder -------------------------------------------------------------------------------------


class RunFolder:
    """The folder of one run: ``rows.jsonl``, per-sample values, pictures, and whatever is put there.

    ``rows.jsonl`` is append-only. The rows of a cell are followed by a marker line ``{"commit": cell, ...}``; rows
    without it, and a torn last line, are cut off on opening. So a cell is finished or it has left nothing.

    Args:
        root: the folder; made when missing.
        writer: take the lock, repair, remove leftovers. False gives a reader: it sees what was committed when it
            opened, beside a running writer, and may still put whole files such as a report.

    Raises:
        InputError: another process writes here, the folder cannot be written or read, or the rows were edited.
    """

    def __init__(self, root: Path | str, *, writer: bool = True) -> None:
        self.root = Path(root)
        self._journal = self.root / "rows.jsonl"
        self._lock: int | None = None
        if writer:
            self._open_for_writing()
        elif not self._journal.is_file():
            raise InputError("is no run folder: it holds no rows.jsonl", where=str(root), fix="give a folder of a run")
        else:
            self._cells, self._end = parse(self._journal.read_bytes(), where=str(self._journal))

    def _open_for_writing(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.root)
            for leftover in self.root.rglob(f"{_TEMPORARY}*"):
                leftover.unlink(missing_ok=True)
            with self._journal.open("a+b") as file:
                file.seek(0)
                self._cells, self._end = parse(file.read(), where=str(self._journal))
                file.truncate(self._end)
        except OSError as error:
            self.close()
            raise InputError(f"cannot be written: {error.strerror}", where=str(self.root), fix=_FIX) from error
        except InputError:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; closing twice is allowed."""
        if self._lock is not None:
            release_lock(self._lock)
            self._lock = None

    # --- writing ---

    def commit(self, cell: str, measurements: Sequence[Measurement], facts: Mapping[str, Any] | None = None) -> None:
        """Finish a cell: values and pictures first, then its rows and their marker in one write.

        Args:
            cell: the key of the cell; becomes a file name.
            measurements: what the probes gave; ``cell`` and ``samples`` of their rows are filled in here.
            facts: anything a reader may want to know of the cell, JSON-ready.

        Raises:
            InputError: values and groups differ in length, or the folder cannot be written.
        """
        self._put_arrays("samples", cell, pack_samples(measurements))
        self._put_arrays("pictures", cell, pack_pictures(measurements))
        rows = (replace(m.row, cell=cell, samples=f"{cell}/{i}") for i, m in enumerate(measurements))
        self._append(cell, Settled(rows=tuple(rows), facts=dict(facts or {})))

    def fail(self, cell: str, reason: str, facts: Mapping[str, Any] | None = None) -> None:
        """Settle a cell that cannot be finished, e.g. because its loss became NaN; the others go on."""
        self._append(cell, Settled(facts=dict(facts or {}), reason=reason))

    def put_bytes(self, name: str, content: bytes) -> Path:
        """Write a whole file below the folder, atomically, and return its path."""
        target = self.path(name)
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        return target

    def put_text(self, name: str, text: str) -> Path:
        """Write a UTF-8 file; see `put_bytes`."""
        return self.put_bytes(name, text.encode())

    def put_json(self, name: str, value: Any) -> Path:
        """Write ``value`` as indented JSON; see `put_bytes`."""
        return self.put_text(name, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")

    def _put_arrays(self, folder: str, cell: str, arrays: Mapping[str, Any]) -> None:
        assert _CELL.fullmatch(cell), f"cell key {cell!r} cannot be a file name"
        if arrays:
            with atomic_path(self.path(folder, f"{cell}.npz")) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)

    def _append(self, cell: str, settled: Settled) -> None:
        if self._lock is None:
            raise InputError("was opened for reading or is closed", where=str(self.root))
        lines = encode(cell, settled)
        try:
            with self._journal.open("ab") as file:
                file.truncate(self._end)  # what an earlier attempt may have left on a full disk
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(self._journal), fix=_FIX) from error
        self._end += len(lines)
        self._cells.pop(cell, None)
        self._cells[cell] = settled

    # --- reading ---

    def path(self, *parts: str) -> Path:
        """A path below the folder."""
        return self.root.joinpath(*parts)

    def finished(self, cell: str) -> bool:
        """Whether nothing is left to do for a cell: its rows stand here, or it failed for good."""
        return cell in self._cells

    def failures(self) -> dict[str, str]:
        """Reason by failed cell."""
        return {cell: settled.reason for cell, settled in self._cells.items() if settled.reason is not None}

    def facts(self, cell: str) -> Mapping[str, Any]:
        """What was recorded with a finished cell."""
        return self._cells[cell].facts

    def rows(self, cells: Collection[str] | None = None) -> list[Row]:
        """Rows of ``cells`` in the order of writing; None: of all, also of those no study asks for any more."""
        return [row for cell, settled in self._cells.items() if cells is None or cell in cells for row in settled.rows]

    def samples(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Per-sample values, float (n,), and group codes, int (n,), of a row."""
        index = row.samples.rpartition("/")[2]
        with self._arrays("samples", row.cell) as arrays:
            return arrays[f"values_{index}"], arrays[f"groups_{index}"]

    def series(self, of: Row | str) -> dict[str, np.ndarray]:
        """Curves by name, of one row or of a whole cell.

        Raises:
            InputError: rows of the cell have different curves of the same name; ask row by row then.
        """
        cell, index = _address(of)
        with self._arrays("samples", cell) as arrays:
            return unpack_series(arrays, index, where=f"cell {cell}")

    def pictures(self, of: Row | str) -> list[Picture]:
        """Pictures of one row or of a whole cell; none when none were drawn."""
        cell, index = _address(of)
        if not self.path("pictures", f"{cell}.npz").exists():
            return []
        with self._arrays("pictures", cell) as arrays:
            return unpack_pictures(arrays, index)

    def _arrays(self, folder: str, cell: str) -> np.lib.npyio.NpzFile:
        path = self.path(folder, f"{cell}.npz")
        try:
            archive: np.lib.npyio.NpzFile = np.load(path, allow_pickle=False)
        except (OSError, ValueError, BadZipFile) as error:
            raise InputError(f"cannot be read: {error}", where=str(path), fix="restore the run folder") from None
        return archive


def _address(of: Row | str) -> tuple[str, int | None]:
    return (of, None) if isinstance(of, str) else (of.cell, int(of.samples.rpartition("/")[2]))
