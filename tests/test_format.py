"""Stores are read by what FORMAT.md says, without replaystore's own reader: tests/independent_reader.py."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from independent_reader import Hdf5File, Store

import replaystore as rs
from replaystore.testing import specimens
from replaystore.testing.contents import Contents, bits

HERE, STEPS = Path(__file__).parent, 1000
MAY = {"__future__", "collections", "dataclasses", "io", "json", "pathlib", "struct", "typing", "urllib"}
MAY |= {"zipfile", "h5py", "numcodecs", "numpy", "independent_log"}


def test_the_reader_is_independent() -> None:
    for name in ("independent_reader.py", "independent_log.py"):
        for node in ast.walk(ast.parse((HERE / name).read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= MAY
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).partition(".")[0] in MAY


def differences(path: Path) -> list[str]:
    """In what the independent reader and ours read a store differently."""
    store, found = Store(path), list[str]()
    store.check()
    with rs.open(path) as buffer:
        ours = Contents.of(buffer)
        if store.state.commit != buffer.commit_id:
            found.append(f"commit {store.state.commit}, not {buffer.commit_id}")
        if set(store.fields) != set(buffer.schema.fields):
            found.append(f"fields {sorted(store.fields)}")
        if list(store.state.names) != buffer.names:
            found.append(f"names {list(store.state.names)}")
    for name in store.fields:
        column = store.column(name)
        if [bits(value) for value in column] != [bits(value) for value in ours.columns[name]]:
            found.append(f"steps of {name}")
    for name, theirs in ours.following.items():
        after = store.following(name)
        known = {store.first + step: value for step, value in enumerate(theirs) if value is not None}
        attached = {row: bits(value) for row, value in after.items() if row not in known}
        if {row: bits(after[row]) for row in known if row in after} != known:
            found.append(f"what follows the steps of {name}")
        going = zip(ours.stories, ours.table["open"], strict=True)
        lasts = [story.final_observation for story, still in going if still]
        if sorted(attached.values()) != sorted(bits(last[name]) for last in lasts if last is not None):
            found.append(f"what follows the open trajectories in {name}")
    return found + _tables(store, ours)


def _tables(store: Store, ours: Contents) -> list[str]:
    """The columns of the trajectories that have ended, of a ring those that it still has."""
    found, ended = list[str](), ~ours.table["open"]
    numbers = ours.table["trajectory"][ended].tolist()
    table = store.trajectories()
    chosen = [table["trajectory"].tolist().index(number) for number in numbers]
    for name, column in table.items():
        theirs = ours.table[name][ended].tolist()
        rows = [column[row] for row in chosen]
        if name == "split":
            same = [store.state.extra["splits"][code] for code in rows] == theirs
        else:
            same = [bits(value) for value in rows] == [bits(value) for value in ours.table[name][ended]]
        if not same:
            found.append(f"column {name}")
    return found


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    specimens.make(str(folder))
    return folder


@pytest.mark.parametrize("kind", specimens.KINDS)
def test_the_independent_reader_reads_what_ours_does(kinds: Path, kind: str) -> None:
    assert differences(kinds / kind) == []


@pytest.mark.parametrize("kind", ["ragged.zarr", "ragged.h5"])
@pytest.mark.parametrize("array", ["steps/info/wide", "steps/observation/camera", "values/info/tokens"])
def test_it_notices_what_has_changed(kinds: Path, tmp_path: Path, kind: str, array: str) -> None:
    """So that what it reads is what was committed."""
    store = Store(kinds / kind)
    told = store.state.arrays[array]
    if told["codec"]:
        data = store.files.coded(array, told, 1, store.state)
    else:
        data = store.files.raw(array, told, 0, 8)
    path = tmp_path / kind
    (shutil.copytree if kind.endswith("zarr") else shutil.copyfile)(kinds / kind, path)
    (file,) = [f for f in [path, *path.glob(array + "/c.*")] if f.is_file() and data in f.read_bytes()]
    changed = bytearray(file.read_bytes())
    changed[changed.index(data) + len(data) // 2] ^= 4
    file.write_bytes(changed)
    with pytest.raises((AssertionError, RuntimeError, OSError)):
        Store(path).check()


def write(location: Path) -> rs.Buffer:
    """A buffer that is still open for writing, with rows that no commit has."""
    schema = rs.Schema(
        {
            "observation": rs.Field(np.uint8, (80, 80), "observation"),
            "action": rs.Field(np.int64, (), "action"),
            "reward": rs.Field(np.float32, (3,), "reward"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
            "truncated": rs.Field(np.bool_, (), "truncated"),
        }
    )
    buffer = rs.create(location, schema)
    rows = np.arange(STEPS)
    columns = {
        "observation": np.broadcast_to(rows[:, None, None] % 251, (STEPS, 80, 80)).astype(np.uint8),
        "action": rows,
        "reward": np.stack([rows, rows + 1, rows + 2], axis=1).astype(np.float32),
        "terminated": rows % 100 == 99,
        "truncated": np.zeros(STEPS, np.bool_),
    }
    for start in range(0, STEPS, 300):
        buffer.append({name: column[start : start + 300] for name, column in columns.items()})
        buffer.commit()
    buffer.append({name: column[:5] for name, column in columns.items()})  # never committed
    return buffer


def test_a_store_that_is_being_written_is_what_its_log_says(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    buffer = write(store)
    assert differences(store) == []
    found = Store(store)
    assert found.column("action") == list(range(STEPS))
    assert (STEPS % found.state.arrays["steps/observation"]["chunk_rows"], found.state.tails) != (0, {})
    assert found.table("parts")[:, 0].tolist() == list(range(0, STEPS, 100))
    buffer.abandon()


def test_an_hdf5_store_is_an_ordinary_file_behind_its_user_block(tmp_path: Path) -> None:
    store = tmp_path / "a.h5"
    buffer = write(store)
    assert Hdf5File(store).log().startswith(b"RSC1")
    assert Store(store).state.lengths["steps"] == STEPS
    buffer.close()
    assert differences(store) == []
    with h5py.File(store) as file:
        assert file.userblock_size == 65536
        assert json.loads(file.attrs["replaystore"])["format"] == "replaystore"
        assert file["steps/action"][:].tolist() == [*range(STEPS), *range(5)]
