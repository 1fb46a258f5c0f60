"""Writers on a disk that becomes full, or whose syncs fail, go on or say what to do, and lose nothing."""

from __future__ import annotations

import errno
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from full_disks import (
    CAPACITY,
    Doing,
    add_field,
    append,
    check,
    check_clean,
    check_message,
    column,
    commit,
    count,
    cramped,
    insist,
    publish,
    refusal,
    settings,
    workload,
)

import replaystore as rs
from replaystore.buffers.buffer import Buffer
from replaystore.errors import StorageError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.faults import Faults, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import small

pytest_plugins = ["full_disks"]


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
            if "try again" in failed:  # an array that was to be made is not there, and is made by the next
                buffer.commit()
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
