"""Replacing ends with the old or the new, wherever it is killed, refused or interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from replaced_places import Calls, Kind, count, damage, in_child, make, of_store, points

import replaystore as rs

pytest_plugins = ["replaced_places"]

pytestmark = pytest.mark.usefixtures("quick")


# --- faults


def test_killed_at_any_call_there_is_the_old_or_the_new(kind: Kind, system: str, tmp_path: Path) -> None:
    path, found = tmp_path / kind.name, set()
    seen = count(kind, tmp_path)
    clean = sorted(os.listdir(tmp_path))
    for number, after in points(seen):
        calls = Calls(number, after)
        with calls():
            assert in_child(lambda: kind.replace(path, 2)) == -signal.SIGKILL, (number, seen[number], after)
        value = kind.value(path) or 2
        assert value in (1, 2), (seen[number], after)
        found.add(value)
        assert in_child(lambda: kind.replace(path, 1)) == 0
        assert kind.value(path) == 1
        assert sorted(set(os.listdir(tmp_path)) - {"a.h5.sha256", "a.zarr.zip.sha256"}) == [
            n for n in clean if "sha256" not in n
        ]
        kind.begin(path, 1)
    assert found == {1, 2}
    assert sorted(os.listdir(tmp_path)) == clean


def test_what_the_system_refuses_at_any_call_leaves_the_old_or_the_new(
    kind: Kind, system: str, tmp_path: Path
) -> None:
    path = tmp_path / kind.name
    seen = count(kind, tmp_path)
    clean = sorted(os.listdir(tmp_path))

    def refuse() -> None:
        raise OSError(errno.EIO, "Input/output error")

    for number in sorted({number for number, _ in points(seen)})[::-2]:
        with Calls(number, strike=refuse)():
            result = in_child(lambda: kind.replace(path, 2))
        assert result in (0, 1), seen[number]
        value = kind.value(path) or 2  # made, and no rows yet
        assert value in (1, 2)
        if result == 0:
            assert value == 2
        kind.begin(path, 1)
        assert sorted(os.listdir(tmp_path)) == clean


def test_interrupted_at_any_call_there_is_the_old_or_the_new(kind: Kind, system: str, tmp_path: Path) -> None:
    path = tmp_path / kind.name
    seen = count(kind, tmp_path)
    clean = sorted(os.listdir(tmp_path))

    def interrupt() -> None:
        raise KeyboardInterrupt

    for number, after in points(seen)[::-2]:
        with Calls(number, after, strike=interrupt)(), contextlib.suppress(KeyboardInterrupt):
            kind.replace(path, 2)
        assert kind.value(path) in (0, 1, 2)
        kind.begin(path, 1)
        assert sorted(os.listdir(tmp_path)) == clean


# --- symbolic links


@pytest.mark.disk
def test_what_a_link_names_is_replaced_and_the_link_stays(kind: Kind, tmp_path: Path) -> None:
    folder, link = tmp_path / "there", tmp_path / kind.name
    folder.mkdir()
    kind.begin(folder / kind.name, 1)
    link.symlink_to(Path("there") / kind.name)
    kind.replace(link, 2)
    assert link.is_symlink()
    assert kind.value(folder / kind.name) == kind.value(link) == 2
    assert not [name for name in os.listdir(tmp_path) if name.startswith("a.") and name != kind.name]
    if kind.name != "a.folder":  # into a folder that is not there nothing is saved
        shutil.rmtree(folder)
        folder.mkdir()
        kind.replace(link, 2)
        assert kind.value(folder / kind.name) == 2
        assert link.is_symlink()


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_rollback_and_a_repair_through_a_link_leave_the_link(suffix: str, tmp_path: Path) -> None:
    folder, link = tmp_path / "there", tmp_path / f"a{suffix}"
    folder.mkdir()
    link.symlink_to(folder / f"a{suffix}")
    make(folder / f"a{suffix}", 1)
    with rs.open(link, "r+") as buffer:
        known = buffer.commit_id
        buffer.append({"observation": np.full((4, 3), 2, "f4"), "reward": np.full(4, 2, "f4")})
        buffer.commit()
        buffer.rollback(known)
    assert of_store(link) == of_store(folder / f"a{suffix}") == 1
    damage(folder / f"a{suffix}")
    report = rs.repair(link)
    assert report.original == str(folder / f"a{suffix}.damaged")
    assert of_store(link) == 1
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == [f"a{suffix}", "there"]
    assert sorted(os.listdir(folder)) == [f"a{suffix}", f"a{suffix}.damaged"]
