"""Replacing beside others: who writes to, replaces or reads the same place, and what comes meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import traceback
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from replaced_places import KINDS, SCHEMA, convert, in_child, make, of_store

import replaystore as rs
from replaystore.buffers.left_behind import OLD
from replaystore.buffers.opening import open_container
from replaystore.buffers.replacing import NewStore
from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    ReplayStoreError,
)
from replaystore.location import parse
from replaystore.storage import local as files
from replaystore.storage.temporary import NewFile

pytest_plugins = ["replaced_places"]

pytestmark = pytest.mark.usefixtures("quick")


# --- side by side


@pytest.mark.torch
@pytest.mark.parametrize("name", ["velora", "velora .zarr", "velora .h5", "velora .zip", "active_rlhf"])
def test_two_who_save_to_one_place_leave_one_of_the_two_and_whoever_loads_sees_one(
    name: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    path = tmp_path / kind.name
    kind.begin(path, 1)
    end = time.monotonic() + 4

    def save(value: float) -> None:
        for _ in iter(lambda: time.monotonic() < end, False):
            kind.replace(path, value)

    def load() -> None:
        for _ in iter(lambda: time.monotonic() < end, False):
            try:
                assert kind.value(path) in (1, 2)
            except ReplayStoreError:
                traceback.print_exc()
                raise

    doings = [lambda: save(1), lambda: save(2), *([load] if path.suffix in (".folder", ".pkl") else [])]
    children = []
    for doing in doings:
        pid = os.fork()
        if not pid:
            os._exit(in_child(doing))
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * len(doings)
    assert kind.value(path) in (1, 2)
    kind.replace(path, 2)
    assert kind.value(path) == 2
    assert sorted(set(os.listdir(tmp_path)) - {kind.name + ".sha256"}) == [kind.name]


def test_a_file_that_is_being_written_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pkl")
    first, second = NewFile(path), NewFile(path)
    first.file.write(b"first")
    second.file.write(b"second")
    second.put()
    third = NewFile(path)
    first.put()
    assert Path(path).read_bytes() == b"first"
    third.discard()
    assert os.listdir(tmp_path) == ["a.pkl"]


@pytest.mark.torch
def test_names_that_are_not_ours_stay(tmp_path: Path) -> None:
    """Those of other software that look like it, and the user's own copies."""
    from replaced_dropins import active

    mine = [
        "a.zarr.old",
        "a.zarr.partial",
        "a.pkl.partial",
        "a.pkl.12-345.partial",
        "b.pkl.12-0123abcd.partial",
        "a.h5.lock",
    ]
    for name in mine:
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        make(tmp_path / "a.zarr", 1)
        make(tmp_path / "a.h5", 1)
        active(1).save(tmp_path / "a.pkl")
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "a.zarr", "a.h5", "a.pkl"])


def test_a_reader_never_finds_nothing_while_a_folder_is_replaced_by_renames(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path, 1)
    real = files.Files.rename

    def rename(self: Any, old: str, new: str) -> None:
        real(self, old, new)
        if new.endswith(OLD):
            time.sleep(0.2)

    def replace() -> None:
        with patch.object(files, "_exchange", lambda *_: False), patch.object(files.Files, "rename", rename):
            for _ in range(3):
                make(path, 1)

    pid = os.fork()
    if not pid:
        os._exit(in_child(replace))
    opened = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        open_container(parse(path), writable=False).close()
        opened += 1
    assert opened > 2
    assert os.listdir(tmp_path) == ["a.zarr"]


# --- what is there meanwhile


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zarr.zip"])
def test_nobody_writes_to_what_is_being_replaced_and_nobody_else_replaces_it(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    convert(path, 1)
    make(tmp_path / "new.zarr", 2)
    seen = []

    def progress(done: int, total: int) -> None:
        if not seen:
            if suffix != ".zarr.zip":
                with pytest.raises(ConflictError, match="open for writing elsewhere"):
                    rs.open(path, "r+")
            for doing in (lambda: convert(path, 1), lambda: in_child(lambda: convert(path, 1)) == 1):
                with contextlib.suppress(ConflictError):
                    assert doing()
            assert of_store(path) == 1
            seen.append(done)

    rs.convert(tmp_path / "new.zarr", path, overwrite=True, progress=progress)
    assert seen
    assert of_store(path) == 2


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_has_come_meanwhile_is_looked_at(suffix: str, overwrite: bool, tmp_path: Path) -> None:
    path, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    make(other, 5)
    real = NewStore.finish

    def come(new: Any, **more: Any) -> None:
        shutil.move(other, path)
        real(new, **more)

    with patch.object(NewStore, "finish", come):
        if overwrite:
            rs.create(path, SCHEMA, overwrite=True).close()
            assert of_store(path) == 0
            return
        with pytest.raises(AlreadyExistsError, match="exists: choose another name"):
            rs.create(path, SCHEMA)
    assert of_store(path) == 5
    assert os.listdir(tmp_path) == [path.name]


def test_a_store_in_memory_is_there_when_it_is_complete(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", 2)
    rs.convert(tmp_path / "a.zarr", "memory:replaced")

    def stop(done: int, total: int) -> None:
        with rs.open("memory:replaced") as buffer:
            assert len(buffer) == 6
        raise RuntimeError

    with pytest.raises(RuntimeError):
        rs.convert(tmp_path / "a.zarr", "memory:replaced", overwrite=True, progress=stop)
    with rs.open("memory:replaced", "r+") as buffer:
        assert len(buffer) == 6
        with pytest.raises(ConflictError):
            rs.create("memory:replaced", SCHEMA, overwrite=True)
