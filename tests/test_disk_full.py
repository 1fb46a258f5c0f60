"""A full or failing disk: an error of one line, nothing committed is lost, and where it can the same writer
goes on."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
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
    """In memory where there is a folder for that: syncing takes no time there."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
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


@pytest.mark.parametrize(
    ("location", "capacity"), [(".zarr", None), (".zarr", CAPACITY), (".h5", None)], indirect=["location"]
)
def test_a_writer_goes_on_after_each_write_that_a_full_disk_refused(
    location: str, capacity: int | None
) -> None:
    def make(place: str) -> Buffer:
        return rs.create(place, small(), **settings(location, capacity))

    faults, plain = Faults(), PlainBuffer(small(), capacity=capacity)
    with cramped():
        counts = count(location, workload(), make)
        with using(faults.files):
            buffer, refusals = make(location), 0
            for doing, operations in zip(workload(), counts, strict=True):
                known = plain.commit_id
                doing(plain)
                look = partial(check, location, plain, known, plain.commit_id)
                refusals += insist(faults, partial(doing, buffer), operations, look)
                if plain.commit_id != known:
                    assert plain.contents().difference(Contents.of(buffer)) == ""
            buffer.close()
    assert refusals > 60
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)


def test_a_store_that_a_full_disk_refuses_is_not_there_at_all(location: str, tmp_path: Path) -> None:
    faults, elsewhere = Faults(), str(tmp_path / os.path.basename(location))

    def make(place: str) -> None:
        rs.create(place, small(), **settings(location)).close()

    def nothing() -> None:
        assert os.listdir(os.path.dirname(location)) == []

    with using(faults.files):
        make(elsewhere)
        operations, faults.count = faults.count, 0
        assert insist(faults, partial(make, location), operations, nothing) > 3
    check_clean(location)


@pytest.mark.parametrize("failing", [("create", "write"), ("rename",)])
def test_a_store_is_replaced_as_a_whole_or_not_at_all(
    location: str, failing: tuple[str, ...], tmp_path: Path
) -> None:
    faults, plain, elsewhere = (
        Faults(failing=failing),
        PlainBuffer(small()),
        str(tmp_path / os.path.basename(location)),
    )
    for place in (location, elsewhere):
        with rs.create(place, small(), **settings(location)) as buffer:
            append(21, 1)(buffer)
    append(21, 1)(plain)
    commit(plain)
    known = sorted(os.listdir(os.path.dirname(location)))

    def make(place: str) -> None:
        try:
            rs.create(place, small(), overwrite=True, **settings(location)).close()
        except StorageError as error:
            # a disk that refuses every name has refused to give it its name back.
            if f"{place}.old is what was" in str(error):
                os.rename(f"{place}.old", place)
            raise

    def as_before() -> None:
        check(location, plain, 1, 1)
        assert sorted(os.listdir(os.path.dirname(location))) == known

    with using(faults.files):
        make(elsewhere)
        operations, faults.count = faults.count, 0
        assert (
            insist(
                faults,
                partial(make, location),
                operations,
                as_before,
                points=range(1, operations, 1 + operations // 15),
            )
            > 3
        )
    check(location, plain, 0, 0)
    check_clean(location)


def recoverable(location: str) -> None:
    """Commits, and rows of none, of a writer that was killed."""
    buffer = rs.create(location, small(), **settings(location))
    for doing in (append(21, 1), commit, append(4, 2), commit, append(30, 3)):
        doing(buffer)
    buffer.abandon()


def test_recovery_is_tried_again_when_there_is_room(location: str, tmp_path: Path) -> None:
    faults, plain, elsewhere = Faults(), PlainBuffer(small()), str(tmp_path / os.path.basename(location))
    for doing in (append(21, 1), commit, append(4, 2), commit):
        doing(plain)
    with cramped():
        recoverable(location)
        recoverable(elsewhere)
        with using(faults.files):
            rs.open(elsewhere, "r+").abandon()
            operations, opened = faults.count, list[Buffer]()
            again = insist(
                faults,
                lambda: opened.append(rs.open(location, "r+")),
                operations,
                partial(check, location, plain, 2, 2),
            )
            assert again > 0
            assert plain.contents().difference(Contents.of(opened[0])) == ""
            opened[0].close()
    check_clean(location)


REFUSED: dict[str, Doing] = {
    "append": append(40, 5),
    "commit": commit,
    "publish": publish,
    "add_field": add_field,
    "column": column(6),
    "rollback": lambda buffer: buffer.rollback(1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_full_disk_refused_need_not_be_done_again(location: str, name: str) -> None:
    """The writer goes on with other things as if it had not been tried, or says that this must be done
    first."""

    def begin(buffer: Any) -> Any:
        for doing in (append(33, 1), commit, append(8, 2), commit, append(22, 3)):
            doing(buffer)
        return buffer

    def go_on(buffer: Any) -> None:
        append(9, 7)(buffer)
        buffer.commit()

    def make(place: str) -> Buffer:
        return begin(rs.create(place, small(), **settings(location)))  # type: ignore[no-any-return]

    without, having = begin(PlainBuffer(small())), begin(PlainBuffer(small()))
    REFUSED[name](having)
    go_on(without)
    go_on(having)
    base, suffix = os.path.splitext(location)
    with cramped():
        (operations,) = count(location, [REFUSED[name]], make)
        for point in sorted({*range(1, operations, 1 + operations // 4), operations - 1, operations}):
            place, faults = f"{base}{point}{suffix}", Faults()
            with using(faults.files):
                buffer, expected = make(place), having
                newest = buffer.commit_id
                faults.full_at = faults.count + point
                try:
                    REFUSED[name](buffer)
                except StorageError as error:
                    check_message(error)
                    # What was refused was to show it to other software.
                    if not (name == "rollback" and buffer.commit_id > newest):
                        expected = without
                faults.full_at = None
                told = refusal(partial(go_on, buffer))
                if told:
                    assert name == "rollback"
                    assert "roll back again" in told
                    REFUSED[name](buffer)
                    go_on(buffer)
                    expected = having
                found = Contents.of(buffer)
                difference = expected.contents().difference(found)
                assert difference == "" or (name == "column" and having.contents().difference(found) == ""), (
                    point,
                    difference,
                )
                buffer.close()
            with rs.open(place) as reader:
                assert found.difference(Contents.of(reader)) == ""
            check_clean(place)


def test_a_rollback_that_is_refused_again_and_again_leaves_the_newest_commit_alone(location: str) -> None:
    """Its rows go where the newest commit has none, each time."""
    faults, plain = Faults(), PlainBuffer(small())
    with cramped(), using(faults.files):
        buffer: Buffer = rs.create(location, small(), **settings(location))
        for doing in (append(35, 1), commit, append(3, 2), commit, lambda buffer: buffer.rollback(2)):
            doing(buffer)
            doing(plain)
        before = faults.count
        buffer.rollback(2)
        operations = faults.count - before
        for doing in (lambda buffer: buffer.rollback(2), lambda buffer: buffer.rollback(1)):
            doing(plain)
        look = partial(check, location, plain, 4, 5)
        points = range(1, operations + 1, 1 + operations // 25)
        assert insist(faults, lambda: buffer.rollback(1), operations, look, points=points, every=1) > 10
        assert plain.contents().difference(Contents.of(buffer)) == ""
        buffer.close()
    check_clean(location)


POISONED = re.compile("reopen|open it again")


@pytest.mark.parametrize("kind", ["sync_file", "sync_folder"])
def test_after_a_failed_sync_a_writer_writes_nothing_more_and_says_what_to_do(
    location: str, kind: str
) -> None:
    faults, plain = Faults(failing=(kind,), error=errno.EIO), PlainBuffer(small())
    with tiny(), using(faults.files):
        buffer: Buffer = rs.create(location, small(), **settings(location))
        failures = 0
        for number in range(12):
            for doing in (append(12, number), commit):
                doing(plain)
            append(12, number)(buffer)
            faults.full_at = faults.count + 1 + number
            acknowledged = buffer.commit_id
            failed = refusal(buffer.commit)
            faults.full_at = None
            if not failed:
                continue
            failures += 1
            assert POISONED.search(failed)
            for doing in (append(3, 99), commit, lambda buffer: buffer.publish()):
                with pytest.raises(StorageError, match=POISONED):
                    doing(buffer)
            buffer.abandon()
            check(location, plain, acknowledged, plain.commit_id)
            buffer = rs.open(location, "r+")
            plain = plain.resumed(buffer.commit_id)
        buffer.close()
    # Whose folder has nothing new at a commit.
    assert failures > 0 or (kind, location[-3:]) == ("sync_folder", ".h5")
    check(location, plain, plain.commit_id, plain.commit_id)
    check_clean(location)


def test_a_commit_is_seen_although_the_end_of_a_segment_of_the_log_was_refused(location: str) -> None:
    """A commit is made before its segment of the log is ended, so it is not told what goes wrong there."""
    faults, failures = Faults(), 0
    with cramped(), using(faults.files):
        buffer: Buffer = rs.create(location, small(), **settings(location))
        for number in range(40):
            told = refusal(partial(append(5, number), buffer))
            if told:  # a sync failed after the last commit
                assert POISONED.search(told)
                buffer.abandon()
                buffer = rs.open(location, "r+")
                append(5, number)(buffer)
            faults.failing = ("sync_folder",) if number % 2 else ("create",)
            faults.full_at = faults.count + 1
            failed = refusal(buffer.commit)
            faults.full_at = None
            if failed:
                failures += 1
                if number % 2:
                    buffer.abandon()
                    buffer = rs.open(location, "r+")
                else:
                    buffer.commit()
            with rs.open(location) as reader:
                assert reader.commit_id == buffer.commit_id
        buffer.close()
    assert failures < 40
    check_clean(location)


# --- other commands that write


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    location = str(tmp_path_factory.mktemp("source") / "source.zarr")
    with rs.create(location, small(), storage=storage("zstd:1")) as buffer:
        append(700, 1)(buffer)
    return location


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
