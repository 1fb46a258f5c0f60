"""Columns of raw rows whose files are cut, missing or refused; and requests that make no sense."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from columns import ROW, Coded, failing, ints, same
from raw_shards import grown

from replaystore.columns.mapped import raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.columns.protocol import StoredColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Extent
from replaystore.errors import CorruptError, SchemaError, StorageError
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles

SIGBUS = """
import sys
import numpy as np
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Extent
from replaystore.storage.local import Files
from replaystore.columns.mapped import raw_column
from replaystore.errors import CorruptError

files = Files(sys.argv[1], writable=True)
spec = ArraySpec(np.dtype("f4"), (16,), 64)
files.create("a")
files.write("a", 0, bytes(3 * 4096))
column = raw_column(files, spec, name="steps/x")
column.extend([Extent("a", 0, 4096)], 64)
files.resize("a", 2 * 4096 - 1)
for column in (column, raw_column(files, spec, name="steps/x")):
    rows = column.stop
    try:
        column.extend([Extent("a", rows * 64, (192 - rows) * 64)], 192)
    except CorruptError as error:
        print(error)
    print(column.read(0, column.stop).sum(), column.stop)
"""


def test_a_file_that_was_cut_is_an_error_and_does_not_kill_the_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGBUS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    path = tmp_path / "a"
    assert done.stdout.splitlines() == [
        (
            f"{path}: 8191 bytes, but rows of steps/x lie in bytes 4096 to 12288: it was cut; restore "
            "it from "
            "a copy"
        ),
        "0.0 64",
        (
            f"{path}: 8191 bytes, but rows of steps/x lie in bytes 0 to 12288: it was cut; restore it from "
            "a copy"
        ),
        "0.0 0",
    ]


def test_a_missing_file_is_named() -> None:
    files = MemoryFiles("test")
    with pytest.raises(CorruptError, match=r"memory:test/c/0: missing, and rows of steps/x lie in it"):
        raw_column(files, ROW, name="steps/x").extend([Extent("c/0", 0, 64)], 1)


def test_a_file_cut_or_removed_under_a_column_that_reads_is_named(tmp_path: Path) -> None:
    files = Files(tmp_path, writable=True)
    files.create("a")
    files.write("a", 0, bytes(6400))
    column = PlainColumn(files, ROW, name="steps/x")
    column.extend([Extent("a", 0, 6400)], 100)
    files.resize("a", 6399)
    assert column.read(0, 99).shape == (99, 16)
    with pytest.raises(CorruptError, match=r"a: ends before byte 6400, where rows of steps/x lie"):
        column.take(ints(99))
    files.remove("a")
    with pytest.raises(CorruptError, match=r"a: missing, and rows of steps/x lie in it"):
        column.read(0, 1)


def test_what_the_disk_refuses_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles("test")
    files.create("a")
    files.write("a", 0, bytes(6400))
    column = PlainColumn(files, ROW, name="steps/x")
    column.extend([Extent("a", 0, 6400)], 100)
    monkeypatch.setattr(files, "read", failing)
    with pytest.raises(StorageError, match="rows of steps/x cannot be read"):
        column.read(0, 1)
    monkeypatch.setattr(files, "descriptor", failing)
    with pytest.raises(StorageError, match="cannot be opened"):
        column.extend([Extent("a", 0, 64)], 101)


def raw_and_coded() -> list[StoredColumn]:
    files = MemoryFiles("test")
    column, _, model = grown(files, 100)
    spec = ArraySpec(ROW.dtype, ROW.shape, 32, codec="zstd:1")
    coded_column = Coded(files, "zarr", spec, model).column()
    return [column, coded_column]


@pytest.mark.parametrize("which", [0, 1])
def test_requests_that_make_no_sense_are_refused(which: int) -> None:
    column = raw_and_coded()[which]
    for start, stop in ((-1, 5), (5, 4), (0, 101), (101, 101)):
        with pytest.raises(SchemaError, match="are not among rows 0 to 100"):
            column.read(start, stop)
        with pytest.raises(SchemaError, match="are not among rows 0 to 100"):
            column.rows(start, stop)
    for number in (-1, 100, 2**62, -(2**63), 2**63 - 1):
        with pytest.raises(SchemaError, match="are not among rows 0 to 100"):
            column.take(ints(5, number))
    bad: list[Any] = [np.array([1], np.int32), np.array([[1]]), np.array([1.0]), np.array([True])]
    for numbers in bad:
        with pytest.raises(SchemaError, match="row numbers are a flat int64 array"):
            column.take(numbers)
    outs = [
        np.empty((1, 16), "f8"),
        np.empty((2, 16), "f4"),
        np.empty((1, 8), "f4"),
        np.empty((1, 32), "f4")[:, ::2],
        np.empty((16, 1), "f4").T,
    ]
    outs[-1] = np.asfortranarray(np.empty((1, 16), ">f4"))
    frozen = np.empty((1, 16), "f4")
    frozen.flags.writeable = False
    for out in (*outs, frozen):
        with pytest.raises(SchemaError, match="has to be a writable C-contiguous array of float32"):
            column.take(ints(1), out)
    assert column.take(ints()).shape == (0, 16)
    assert column.read(100, 100).shape == (0, 16)


def test_extents_have_to_fit_the_rows() -> None:
    files = MemoryFiles("test")
    column, shards, model = grown(files, 100)
    for extents, rows, start in (
        ([Extent("c/0", 6400, 64)], 102, None),
        ([Extent("c/0", 0, 65)], 1, 0),
        ([Extent("c/0", 0, 64)], 102, 101),
        ([], 99, None),
    ):
        with pytest.raises(SchemaError):
            column.extend(extents, rows, start=start)
    for extent in (Extent("c/0", -64, 64), Extent("c/0", 6400, 64)):
        with pytest.raises(CorruptError, match="it was cut"):
            column.extend([extent], 101)
    assert same(column.read(0, 100), model)
    assert shards.rows == column.stop == 100


def test_a_file_that_is_dropped_while_it_is_being_mapped_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is known already, and its descriptor was closed for others."""
    (tmp_path / "a").write_bytes(bytes(4096))
    files, spec = Files(tmp_path, writable=False), ArraySpec(np.dtype("u1"), (), 4096)
    column = raw_column(files, spec, name="x")
    place, seen = files.place, list[str]()

    def gone(name: str) -> tuple[int, int, int]:
        seen.append(name)
        if len(seen) > 1:
            raise FileNotFoundError(2, "No such file", name)
        return place(name)

    monkeypatch.setattr(files, "place", gone)
    with pytest.raises(CorruptError, match="missing, and rows of x lie in it"):
        column.extend([Extent("a", 0, 4096)], 4096)
    assert seen == ["a", "a"]
    assert (column.first, column.stop) == (0, 0)
