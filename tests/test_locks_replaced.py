"""Writers whose store was replaced under them, whose link was turned, or whose folder changed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from locked_stores import SUFFIXES, make, rows, values

import replaystore as rs
from replaystore.containers import located
from replaystore.errors import ConflictError
from replaystore.location import parse
from replaystore.storage import locks


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["replaced", "moved", "removed", "exchanged"])
@pytest.mark.parametrize("operation", ["append", "commit", "forget", "publish", "rollback", "close"])
def test_a_writer_whose_store_was_replaced_by_hand_is_told_so(
    tmp_path: Path, suffix: str, what: str, operation: str
) -> None:
    path, other, aside = (tmp_path / f"{name}{suffix}" for name in "abc")
    make(path)
    make(other, value=7)
    buffer = rs.open(path, "r+")
    known = buffer.commit("known")
    buffer.append(rows(2, 4))
    if operation == "rollback":
        buffer.commit()
    time.sleep(2 * locks.MOMENT)
    remove = shutil.rmtree if path.is_dir() else os.unlink
    if what in ("moved", "exchanged"):
        path.rename(aside)
    else:
        remove(path)
    if what in ("replaced", "exchanged"):
        other.rename(path)
        before = {at: at.read_bytes() for at in [path, *path.rglob("*")] if at.is_file()}
    doing = {
        "append": lambda: buffer.append(rows(3, 1)),
        "commit": buffer.commit,
        "forget": lambda: buffer.forget("known"),
        "publish": buffer.publish,
        "rollback": lambda: buffer.rollback(known),
        "close": buffer.close,
    }
    with pytest.raises(
        ConflictError,
        match=("not the store any more that this writer opened: it was replaced, moved or removed"),
    ):
        doing[operation]()
    buffer.abandon()
    if what in ("replaced", "exchanged"):
        assert {at: at.read_bytes() for at in [path, *path.rglob("*")] if at.is_file()} == before
        assert values(path) == [7.0] * 10
    if what in ("moved", "exchanged"):
        assert values(aside) == [1.0] * 10 + [2.0] * (4 if operation == "rollback" else 0)


def test_a_link_that_is_turned_to_another_store_does_not_turn_its_writer(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        first, second, link = (tmp_path / f"{name}{suffix}" for name in ("first", "second", "link"))
        make(first)
        make(second)
        link.symlink_to(first)
        with rs.open(link, "r+") as buffer:
            link.unlink()
            link.symlink_to(second)
            buffer.append(rows(2, 300))
            buffer.commit()
        assert (len(values(first)), len(values(second))) == (310, 10)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_goes_on_when_the_process_changes_its_folder(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(f"a{suffix}"))
    lock = located.lock_store(parse(f"a{suffix}"))
    monkeypatch.chdir("/")
    lock.check()
    lock.release()
