"""The shim below the process counts, kills, refuses, shortens and records calls, of Python and of libraries,
and only below its folder."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replaystore.testing.campaigns import Tally
from replaystore.testing.crashes import forked
from replaystore.testing.disks import Disk, read
from replaystore.testing.shim import ALL, Kind, Mode, Shim, available, preloaded
from replaystore.testing.trials import KILLED

HERE = Path(__file__).stem
pytestmark = pytest.mark.skipif(bool(available()), reason=available() or "the shim is there")


def inside(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call a function of this module in a process that has the shim."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    tally = preloaded(HERE, name, str(folder))
    assert tally.failures == []


def written(folder: str) -> Callable[[Any], None]:
    """Six calls that change something: a file made, written to twice, cut, synced, renamed."""

    def act(_: Any) -> None:
        descriptor = os.open(os.path.join(folder, "a"), os.O_RDWR | os.O_CREAT, 0o600)
        os.write(descriptor, b"0123456789")
        os.pwritev(descriptor, [b"ab", b"cd"], 4)
        os.ftruncate(descriptor, 7)
        os.fsync(descriptor)
        os.rename(os.path.join(folder, "a"), os.path.join(folder, "b"))

    return act


def counted(folder: str) -> Tally:
    shim = Shim(folder)
    shim.plan(Mode.COUNT)
    status, told = forked(written(folder))
    with open(os.path.join(os.path.dirname(folder), "beside"), "wb") as file:
        file.write(b"elsewhere")
    assert (status, told, shim.count) == (0, [], 6)
    assert Path(folder, "b").read_bytes() == b"0123abc"
    return Tally()


def killed(folder: str) -> Tally:
    shim, seen = Shim(folder), []
    for at in range(1, 8):
        for share in (0.0, 0.5, 1.0):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            shim.plan(Mode.KILL, at=at, share=share)
            status, _ = forked(written(folder))
            shim.rest()
            assert status == (KILLED if at < 7 else 0), (at, share)
            seen.append({name: Path(folder, name).read_bytes() for name in os.listdir(folder)})
    texts = [
        b"",
        b"",
        b"",
        b"",
        b"01234",
        *[b"0123456789"] * 2,
        b"0123ab6789",
        *[b"0123abcd89"] * 3,
        *[b"0123abc"] * 10,
    ]
    assert [next(iter(found.values()), b"") for found in seen] == texts
    assert [sorted(found) for found in seen] == [[], [], *[["a"]] * 15, *[["b"]] * 4]
    return Tally()


def refused(folder: str) -> Tally:
    shim = Shim(folder)
    for mode, left in ((Mode.FAIL, b"0123456789"), (Mode.FAIL_ON, b"")):
        path = os.path.join(folder, mode.name)
        with open(path, "wb", buffering=0) as file:
            shim.plan(mode, at=1, error=errno.EDQUOT, kinds=frozenset({Kind.WRITE}))
            with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
                file.write(b"0123456789")
            assert shim.struck == f"write of {mode.name}"
            if mode is Mode.FAIL:
                file.write(b"0123456789")
            else:
                with pytest.raises(OSError, match=os.strerror(errno.EDQUOT)):
                    file.write(b"0123456789")
        shim.rest()
        assert Path(path).read_bytes() == left
    with open(os.path.join(folder, "c"), "wb", buffering=0) as file:
        shim.plan(Mode.SHORT_FAIL, at=1, share=0.5, error=errno.ENOSPC, kinds=frozenset({Kind.WRITE}))
        assert file.write(b"0123456789") == 5
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.write(b"56789")
    shim.plan(Mode.FAIL, at=1, error=errno.EACCES, kinds=frozenset({Kind.LIST}))
    with pytest.raises(PermissionError):
        os.listdir(folder)
    return Tally()


def recorded(folder: str) -> Tally:
    import h5py  # type: ignore[import-untyped]

    def act(_: Any) -> None:
        written(folder)(_)
        os.makedirs(os.path.join(folder, "x/y"))
        shutil.copyfile(os.path.join(folder, "b"), os.path.join(folder, "x/c"))
        with open(os.path.join(folder, "x/c"), "ab") as file:
            file.write(b"more")
        os.link(os.path.join(folder, "x/c"), os.path.join(folder, "x/d"))
        with open(os.path.join(folder, "x/d"), "r+b") as file:
            file.write(b"XY")
        shim.mark("half")
        exchange = getattr(ctypes.CDLL(None), "renameat2", None)
        if exchange is not None:
            exchange(-100, os.path.join(folder, "x").encode(), -100, os.path.join(folder, "b").encode(), 2)
        with h5py.File(os.path.join(folder, "f.h5"), "w") as made:
            made["numbers"] = list(range(1000))
        os.unlink(os.path.join(folder, "f.h5")) if sys.platform == "win32" else None

    shim, log = Shim(folder), folder + ".log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    shim.record(descriptor)
    assert forked(act) == (0, [])
    shim.rest()
    records = shim.records(log)
    assert [record.path for record in records if record.kind is None] == ["half"]
    disk = Disk()
    for record in records:
        if record.kind is not None:
            disk.heard(record)
    assert disk.everything() == read(folder)
    assert {record.kind for record in records} > {
        Kind.CREATE,
        Kind.WRITE,
        Kind.RESIZE,
        Kind.SYNC,
        Kind.RENAME,
        Kind.LINK,
        Kind.MKDIR,
    }
    assert len(ALL) == len(Kind)
    return Tally()


@pytest.mark.parametrize("name", ["counted", "killed", "refused", "recorded"])
def test_the_shim_does_what_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = tmp_path / "below"
    folder.mkdir()
    inside(name, folder, monkeypatch)
