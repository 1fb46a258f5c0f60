"""What is done to buffers on disks that become full: steps of a workload, each done until it succeeds."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import replaystore as rs
from replaystore.buffers.buffer import Buffer
from replaystore.checking.verify import verify
from replaystore.errors import StorageError
from replaystore.schema.fields import Field
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.faults import Faults, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import columns, play, recording, small, storage

CODECS = {".zarr": "zstd:1", ".h5": "gzip:1"}
CAPACITY = 70
FEW, BETWEEN = 40, 3
"""If something is done in more than a few operations, how many of these are refused besides the first and the
last ones."""
SCORE = Field(np.dtype(np.int16), (), "info")
Doing = Callable[[Any], Any]
"""Something done to a buffer or a plain buffer; done again if the disk refused it."""


@pytest.fixture(params=CODECS)
def location(request: pytest.FixtureRequest) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield os.path.join(folder, f"store{request.param}")


@contextmanager
def cramped() -> Iterator[None]:
    """As `tiny`, and what goes with a commit is not kept in its record but in a tail array."""
    with tiny(), patch("replaystore.arrays.appending.ATTACHED_BYTES", 8):
        yield


def settings(location: str, capacity: int | None = None) -> dict[str, Any]:
    """Two fields are coded, so that one can be refused when the other has been written."""
    codec = CODECS[os.path.splitext(location)[1]]
    return {
        "storage": storage(codec) | {"observation/joints": {"codec": codec, "chunk_rows": 4}},
        "capacity": capacity,
    }


def append(count: int, seed: int, env: int = 0) -> Doing:
    return lambda buffer: buffer.append(columns(buffer.schema, count, seed), env=env)


def commit(buffer: Any) -> None:
    buffer.commit()


def publish(buffer: Any) -> None:
    buffer.publish()


def add_field(buffer: Any) -> None:
    buffer.add_field("info/late", SCORE, fill=0)


def steps(seed: int) -> Iterator[Doing]:
    """A writer and its steps, with a commit now and then; the last commits have nothing but ends of
    trajectories."""
    writers: dict[int, Any] = {}

    def begin(buffer: Any) -> None:
        writers[id(buffer)] = buffer.writer(2)

    yield begin
    for number, step in enumerate(recording(small(), 2, 6, seed)):
        yield lambda buffer, step=step: play(writers[id(buffer)], step, small())  # type: ignore[misc]
        if number % 3 == 0:
            yield commit
    yield commit
    first = next(iter(recording(small(), 2, 0, seed)))
    yield lambda buffer: play(writers[id(buffer)], first, small())
    yield commit
    yield lambda buffer: writers[id(buffer)].close()


def column(seed: int) -> Doing:
    def set_it(buffer: Any) -> None:
        buffer.commit()
        table = buffer.contents().table if isinstance(buffer, PlainBuffer) else buffer.trajectories.columns
        buffer.set_trajectory_column("score", np.random.default_rng(seed).random(int((~table["open"]).sum())))

    return set_it


def there_and_back(*doings: Doing) -> Iterator[Doing]:
    """Do these, and roll them back."""
    marks: dict[int, int] = {}

    def mark(buffer: Any) -> None:
        marks[id(buffer)] = buffer.commit_id

    yield mark
    yield from doings
    yield lambda buffer: buffer.rollback(marks[id(buffer)])


def workload() -> Iterator[Doing]:
    """Of a ring for `CAPACITY` steps, the first rows leave it in the last third; none leave it where a commit
    is rolled back."""
    yield from (append(5, 1), commit, append(17, 2, env=1), commit)
    yield from steps(3)
    yield from (commit, column(4), publish, add_field)
    yield from there_and_back(append(9, 5, env=3), commit, append(14, 6))
    yield from (append(11, 7), commit, append(2, 8), publish, append(3, 9), commit)
    yield from (append(25, 10), commit, append(31, 11, env=2), commit, add_late_field)
    yield from there_and_back(column(12), append(4, 13))
    yield from (append(13, 14), commit)


def add_late_field(buffer: Any) -> None:
    """Of a ring, the first rows of the field never were."""
    buffer.add_field("info/later", SCORE, fill=1)


def check(location: str, plain: PlainBuffer, first: int, last: int) -> None:
    """What is shown to a reader is one of these commits, bit for bit. (Done again, a thing of several commits
    makes one more than once.)"""
    with rs.open(location) as reader:
        found = Contents.of(reader)
        assert reader.commit_id >= first
    differences = [plain.history[commit].contents().difference(found) for commit in range(first, last + 1)]
    assert "" in differences, differences


def check_clean(location: str) -> None:
    # Another process for each would take most of the time.
    with patch("replaystore.checking.verify._probe", lambda *_: True):
        assert verify(location).problems == []


def check_message(error: StorageError) -> None:
    """One line that says what and where."""
    assert "\n" not in str(error)
    assert "store" in str(error)
    assert "replaystore-partial" not in str(error)
    assert os.strerror(errno.ENOSPC) in str(error)
    assert error.errno == errno.ENOSPC


def refusal(doing: Callable[[], Any]) -> str:
    """Do it; the error, if there is one."""
    try:
        doing()
    except StorageError as error:
        return str(error)
    return ""


def count(location: str, doings: Iterable[Doing], make: Callable[[str], Buffer]) -> list[int]:
    """How many operations each of these takes."""
    faults, counts = Faults(), []
    base, suffix = os.path.splitext(location)
    with using(faults.files):
        buffer = make(base + "-counted" + suffix)
        for doing in doings:
            before = faults.count
            doing(buffer)
            counts.append(faults.count - before)
        buffer.close()
    return counts


def insist(
    faults: Faults,
    doing: Callable[[], Any],
    operations: int,
    after: Callable[[], None],
    *,
    points: Iterable[int] | None = None,
    every: int = 8,
) -> int:
    """Do it on a disk that is full at the first operation, then on one with room for a few more, and so on;
    at last there is room.

    `operations`: about how many there are. The disk is full at the first, the last, and some in between, or
    at these `points`.

    `after`: what to do after each refusal, or each eighth or so (`every`)."""
    if points is None:
        some = np.random.default_rng(operations).integers(1, max(operations, 1) + 1, BETWEEN).tolist()
        points = some if operations > FEW else range(1, operations + 1)
    refusals = 0
    for point in sorted({1, 2, *points, max(operations - 1, 1), max(operations, 1)}):
        faults.full_at, before = faults.count + point, faults.count
        faults.kill_phase = 0.6 * (refusals % 2)  # of what is written, nothing fits, or some of it
        try:
            doing()
        except StorageError as error:
            faults.full_at = None
            check_message(error)
            assert faults.count > before
            refusals += 1
            if refusals % every == 1 % every:
                after()
        else:
            faults.full_at = None
            return refusals
    doing()
    return refusals


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    location = str(tmp_path_factory.mktemp("source") / "source.zarr")
    with rs.create(location, small(), storage=storage("zstd:1")) as buffer:
        append(700, 1)(buffer)
    return location
