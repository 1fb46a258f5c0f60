"""A full or failing disk: an error of one line, nothing committed is lost, and where it can the same writer goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import replaystore as rs
from replaystore.buffer import Buffer
from replaystore.errors import StorageError
from replaystore.schema import Field
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.faults import Faults, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import columns, play, recording, small, storage
from replaystore.verification import verify

CODECS = {".zarr": "zstd:1", ".h5": "gzip:1"}
Doing = Callable[[Any], Any]
"""Something done to a buffer or a plain buffer; done again if the disk refused it."""


@pytest.fixture(params=CODECS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / f"store{request.param}")


def settings(location: str, capacity: int | None = None) -> dict[str, Any]:
    return {"storage": storage(CODECS[os.path.splitext(location)[1]]), "capacity": capacity}


def append(count: int, seed: int, env: int = 0) -> Doing:
    return lambda buffer: buffer.append(columns(buffer.schema, count, seed), env=env)


def commit(buffer: Any) -> None:
    buffer.commit()


def steps(seed: int) -> Iterator[Doing]:
    """A writer and its steps, with a commit now and then."""
    writers: dict[int, Any] = {}

    def begin(buffer: Any) -> None:
        writers[id(buffer)] = buffer.writer(2)

    yield begin
    for number, step in enumerate(recording(small(), 2, 6, seed)):
        yield lambda buffer, step=step: play(writers[id(buffer)], step, small())  # type: ignore[misc]
        if number % 3 == 0:
            yield commit
    yield lambda buffer: writers[id(buffer)].close()


def column(seed: int) -> Doing:
    def set_it(buffer: Any) -> None:
        buffer.commit()
        table = buffer.contents().table if isinstance(buffer, PlainBuffer) else buffer.trajectories.columns
        buffer.set_trajectory_column("score", np.random.default_rng(seed).random(int((~table["open"]).sum())))

    return set_it


def workload() -> Iterator[Doing]:
    yield from (append(5, 1), commit, append(17, 2, env=1), commit)
    yield from steps(3)
    yield from (commit, column(4), lambda buffer: buffer.publish())
    yield lambda buffer: buffer.add_field("info/late", Field(np.dtype(np.int16), (), "info"), fill=0)
    yield from (append(9, 5, env=3), commit, append(30, 6), lambda buffer: buffer.rollback(2))
    yield from (append(11, 7), commit, append(2, 8), lambda buffer: buffer.publish(), append(3, 9), commit)


def check(location: str, plain: PlainBuffer, first: int, last: int) -> None:
    """What is shown to a reader is one of these commits, bit for bit. (Done again, a thing of several commits makes one more than once.)"""
    with rs.open(location) as reader:
        found = Contents.of(reader)
        assert reader.commit_id >= first
    differences = [plain.history[commit].contents().difference(found) for commit in range(first, last + 1)]
    assert "" in differences, differences


def check_clean(location: str) -> None:
    with patch("replaystore.verification._probe", lambda *_: True):  # another process for each would take most of the time
        assert verify(location).problems == []


def refused(doing: Callable[[], Any]) -> None:
    """The disk refuses it: an error of one line that says what and where."""
    with pytest.raises(StorageError) as caught:
        doing()
    message = str(caught.value)
    assert "store" in message
    assert os.strerror(errno.ENOSPC) in message
    assert "\n" not in message


def insist(faults: Faults, doing: Callable[[], Any], after: Callable[[], None]) -> int:
    """Do it on a disk that is full at the first operation, then when there is room for one, and so on: until it can be done."""
    refusals = 0
    while True:
        faults.full_at, before = faults.count + 1 + refusals, faults.count
        try:
            doing()
        except StorageError as error:
            faults.full_at = None
            assert str(error).count("\n") == 0
            assert os.strerror(errno.ENOSPC) in str(error)
            assert faults.count > before
            refusals += 1
            after()
        else:
            faults.full_at = None
            return refusals


@pytest.mark.parametrize("phase", [0.0, 0.6])
@pytest.mark.parametrize("capacity", [None, 30])
def test_a_writer_goes_on_after_each_write_that_a_full_disk_refused(location: str, capacity: int | None, phase: float) -> None:
    if capacity is not None and location.endswith(".h5"):
        pytest.skip("HDF5 has no ring")
    faults, plain = Faults(kill_phase=phase), PlainBuffer(small(), capacity=capacity)
    with tiny(), using(faults.files):
        buffer: Buffer = rs.create(location, small(), **settings(location, capacity))
        refusals = 0
        for doing in workload():
            known = plain.commit_id
            doing(plain)
            look = partial(check, location, plain, known, plain.commit_id)
            refusals += insist(faults, partial(doing, buffer), look)
            assert plain.contents().difference(Contents.of(buffer)) == ""
        buffer.close()
    assert refusals > 100
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)
