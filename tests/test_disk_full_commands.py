"""Conversions and recordings onto full disks, simulated and real, leave nothing and say what is safe."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from full_disks import CODECS, Doing, append, check, check_clean, check_message, commit, settings

import replaystore as rs
from replaystore.errors import StorageError
from replaystore.testing.faults import Faults, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import small

pytest_plugins = ["full_disks"]


# --- other commands that write


@pytest.mark.parametrize("layout", ["live", "archive"])
def test_a_conversion_that_a_full_disk_refuses_leaves_no_target(
    location: str, source: str, layout: str
) -> None:
    faults, folder = Faults(kill_phase=0.5), os.path.dirname(location)
    with using(faults.files):
        rs.convert(source, location, layout=layout)
    known, total = sorted(os.listdir(folder)), faults.count
    refused = 0
    for number in [*range(1, total, 1 + total // 15), total - 1]:
        target = os.path.join(folder, "other-store" + os.path.splitext(location)[1])
        faults.count, faults.full_at = 0, number
        with using(faults.files), pytest.raises(StorageError) as caught:
            rs.convert(source, target, layout=layout)
        check_message(caught.value)
        if "run `sha256sum" in str(caught.value):  # all of it is there but the checksum beside it
            assert rs.verify(target).problems == []
            os.unlink(target)
        assert sorted(os.listdir(folder)) == known
        refused += 1
    assert refused > 5


# --- a real file system that is too small


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB; half of it is taken by the file "ballast"."""
    folder = tmp_path / "little"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        pytest.skip(f"no program to mount a small file system: {error}")
    if mounted.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {mounted.stderr.strip()}")
    try:
        (folder / "ballast").write_bytes(bytes(2 << 20))
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> None:
    """Leave so many bytes, if there are more."""
    status = os.statvfs(folder)
    (folder / "filling").write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - left)))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_writer_on_a_disk_that_is_really_full_goes_on_when_there_is_room(little: Path, suffix: str) -> None:
    location, plain = str(little / f"store{suffix}"), PlainBuffer(small())
    buffer = rs.create(location, small(), **settings(location))
    refused: Doing | None = None
    for number in range(100):
        acknowledged = plain.commit_id
        for doing in (append(200, number), commit):
            doing(plain)
            try:
                doing(buffer)
            except StorageError as error:
                check_message(error)
                refused = doing
                break
        if refused is not None:
            break
    assert refused is not None
    check(location, plain, acknowledged, acknowledged)
    with pytest.raises(StorageError):
        refused(buffer)
    (little / "ballast").unlink()
    refused(buffer)
    if refused is not commit:
        commit(plain)
    buffer.close()
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)


def test_nothing_is_left_of_a_zip_file_that_does_not_fit(little: Path, source: str) -> None:
    whole = rs.convert(source, little.parent / "whole.zarr.zip").bytes_written
    (little / "ballast").unlink()
    fill(little, whole)  # not both the folder and the zip file that is made of it
    known = sorted(os.listdir(little))
    with pytest.raises(StorageError) as caught:
        rs.convert(source, little / "store.zarr.zip")
    check_message(caught.value)
    assert sorted(os.listdir(little)) == known


@pytest.mark.parametrize("suffix", CODECS)
def test_nothing_is_left_of_a_conversion_or_recording_that_does_not_fit(
    little: Path, source: str, suffix: str
) -> None:
    fill(little, 60_000)
    known = sorted(os.listdir(little))
    target = str(little / f"store{suffix}")

    with pytest.raises(StorageError) as caught:
        rs.convert(source, target)
    check_message(caught.value)
    assert sorted(os.listdir(little)) == known

    command = [sys.executable, "-m", "replaystore.cli", "record", "CartPole-v1", target, "--steps", "1000"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, -9)
    assert done.stderr.count("\n") == 1
    assert os.strerror(errno.ENOSPC) in done.stderr
    assert sorted(os.listdir(little)) == known


def test_what_is_safe_is_told_only_where_something_is(location: str) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def said(doing: Callable[[], Any]) -> str:
        with patch("os.pwrite", side_effect=full), pytest.raises(StorageError) as caught:
            doing()
        check_message(caught.value)
        return str(caught.value)

    made = said(lambda: rs.create(location, small()))
    assert "committed" not in made
    assert not os.path.lexists(location)
    with rs.create(location, small()) as buffer:
        append(3, 1)(buffer)
        first = said(buffer.commit)
        assert "nothing was committed yet" in first
        buffer.commit()
        append(3, 2)(buffer)
        second = said(buffer.commit)
        assert "what was committed is safe" in second
        if location.endswith(".zarr"):  # the file that was refused is not what the message begins with
            assert f"({location}/" in second
