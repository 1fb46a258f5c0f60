"""Repairs that end at any call keep the original; what goes wrong in replacing is told."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from replaced_places import CALLS, Calls, damage, in_child, kill, make, of_store, points

import replaystore as rs
from replaystore.buffers.left_behind import OLD, PARTIAL
from replaystore.errors import (
    NotFoundError,
    StorageError,
)
from replaystore.formats.shared import new_files
from replaystore.storage import local as files
from replaystore.storage.temporary import NewFile

pytest_plugins = ["replaced_places"]

pytestmark = pytest.mark.usefixtures("quick")


# --- repairing


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(at.relative_to(path)): at.read_bytes()
        for at in [path, *path.rglob("*")]
        if at.is_file() and at.name != "lock"
    }


@pytest.mark.parametrize(
    ("suffix", "exchanging"), [(".zarr", True), (".zarr", False), (".h5", True), (".h5", False)]
)
@pytest.mark.parametrize("fault", ["kill", "refuse", "interrupt"])
def test_a_repair_that_ends_at_any_call_keeps_the_original(
    suffix: str, exchanging: bool, fault: str, tmp_path: Path
) -> None:
    path, kept, first = tmp_path / f"a{suffix}", tmp_path / f"a{suffix}.damaged", tmp_path / f"first{suffix}"
    make(path, 1)
    damage(path)
    path.rename(first)
    copy = shutil.copytree if first.is_dir() else shutil.copyfile
    original = snapshot(first)

    def anew() -> None:
        for at in (path, kept):
            shutil.rmtree(at) if at.is_dir() else at.unlink(missing_ok=True)
        copy(first, path)

    def strike() -> None:
        if fault == "kill":
            kill()
        raise OSError(errno.EIO, "Input/output error") if fault == "refuse" else KeyboardInterrupt

    names = tuple(name for name in CALLS if name != "link")  # the copy is made of links
    with patch.object(files, "_exchange", files._exchange if exchanging else lambda *_: False):
        anew()
        calls = Calls(names=names)
        with calls():
            rs.repair(path)
        last = max(number for number, name in enumerate(calls.seen) if name not in ("unlink", "rmdir"))
        for number, after in [point for point in points(calls.seen) if point[0] > last - 4]:
            anew()
            with Calls(number, after, strike=strike, names=names)():
                assert (
                    in_child(lambda: rs.repair(path))
                    in {"kill": [-signal.SIGKILL], "refuse": [0, 1], "interrupt": [0, 2]}[fault]
                )
            rs.verify(path)  # finds it, and if need be brings it back
            there = [snapshot(at) for at in (path, kept) if at.exists()]
            assert original in there, (number, calls.seen[number], after, os.listdir(tmp_path))
            if there[0] == original:
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
                rs.repair(path)
            assert rs.verify(path).problems == []
            assert snapshot(kept) == original
            assert {name for name in os.listdir(tmp_path) if "lock" not in name} == {
                path.name,
                kept.name,
                first.name,
            }


# --- what goes wrong is told, and nothing else


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zarr.zip"])
def test_what_cannot_be_tidied_up_does_not_hide_what_went_wrong(suffix: str, tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def stop(done: int, total: int) -> None:
        for module, name in ((shutil, "rmtree"), (os, "unlink")):
            failing.enter_context(patch.object(module, name, fail))
        raise RuntimeError("the first")

    with contextlib.ExitStack() as failing, pytest.raises(RuntimeError, match="the first"):
        rs.convert(tmp_path / "a.zarr", tmp_path / f"b{suffix}", progress=stop)
    rs.convert(tmp_path / "a.zarr", tmp_path / f"b{suffix}")
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", f"b{suffix}"]


def test_a_store_that_cannot_get_its_name_back_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path, 1)
    path.rename(f"{path}{OLD}")
    (tmp_path / f"a.zarr{PARTIAL}").mkdir()

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with (
        patch.object(os, "replace", fail),
        pytest.raises(StorageError, match=r"a\.zarr\.replaystore-old cannot get its name back: Read-only"),
    ):
        rs.open(path)
    with (
        patch("replaystore.buffers.left_behind.lock_place", side_effect=StorageError("no", errno.EROFS)),
        pytest.raises(NotFoundError, match=r"what was there is .*a\.zarr\.replaystore-old"),
    ):
        rs.open(path)
    assert of_store(path) == 1


def test_the_last_of_several_new_files_gets_its_name_when_the_others_have_theirs_for_good(
    tmp_path: Path,
) -> None:
    """That it is there says that the others are; a power cut may lose the names given since the last sync, in
    any order."""
    done: list[str] = []
    put, sync = NewFile.put, new_files.sync_folder

    def putting(new: NewFile, path: str | None = None, **options: Any) -> None:
        done.append(os.path.basename(path or new.path))
        put(new, path, **options)

    def syncing(folder: str) -> None:
        done.append("sync")
        sync(folder)

    paths = [str(tmp_path / name) for name in ("one", "two", "last")]
    with (
        patch.object(NewFile, "put", putting),
        patch.object(new_files, "sync_folder", syncing),
        new_files.NewFiles(paths, overwrite=True) as new,
    ):
        for file in new.files:
            file.write(b"new")
    assert done.index("sync") < done.index("last" + new_files.NEW)
    assert max(done.index(name + new_files.NEW) for name in ("one", "two")) < done.index("sync")
