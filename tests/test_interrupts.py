"""What a buffer says and shows after an operation of it was interrupted half way."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays import appending
from replaystore.buffers.pool import Pool
from replaystore.buffers.staging import Staging
from replaystore.buffers.writer import Writer
from replaystore.containers.hdf5.arrays import make_file
from replaystore.containers.hdf5.overlay import Overlay, Pieces
from replaystore.errors import ConflictError, ReplayStoreWarning, StorageError
from replaystore.interrupts import Operations

TraceFunction = Callable[[FrameType, str, object], Any]
SCHEMA = rs.Schema(
    {
        "observation": rs.Field(np.dtype("f4"), (3,), "observation"),
        "action": rs.Field(np.dtype("i8"), (), "action"),
        "reward": rs.Field(np.dtype("f8"), (), "reward"),
        "terminated": rs.Field(np.dtype("?"), (), "terminated"),
        "truncated": rs.Field(np.dtype("?"), (), "truncated"),
    }
)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As it does where the tests are not run in the background, in which shells let processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def rows(count: int) -> dict[str, Any]:
    return {
        name: np.ones((count, *declared.shape), declared.dtype) for name, declared in SCHEMA.fields.items()
    }


@pytest.fixture(params=["a.zarr", "a.h5", "memory:interrupted"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    name = request.param
    yield name if name.startswith("memory:") else str(tmp_path / name)
    if name.startswith("memory:"):
        from replaystore.containers.located import remove
        from replaystore.location import parse

        remove(parse(name))


def interrupt(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt an append when its rows are counted."""

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(appending, "extend", interrupted)
        call()


def test_after_an_interrupt_the_last_commit_is_shown_and_the_buffer_says_so(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = rs.create(location, SCHEMA)
    buffer.append(rows(10))
    buffer.commit()
    buffer.append(rows(5))
    with pytest.raises(KeyboardInterrupt):
        interrupt(lambda: buffer.append(rows(7)), monkeypatch)

    assert len(buffer) == 10
    assert buffer["reward"][:].tolist() == [1.0] * 10
    assert buffer.mode == "r"
    for change in (lambda: buffer.append(rows(1)), buffer.commit, buffer.publish, lambda: buffer.writer(1)):
        with pytest.raises(ConflictError, match=r"append was interrupted.*since commit 1.*open it again"):
            change()
    with pytest.raises(ConflictError, match="append was interrupted"):
        buffer.close()
    with rs.open(location, "r+") as buffer:
        buffer.append(rows(2))
    assert len(rs.open(location)) == 12


def test_leaving_a_block_warns_of_what_an_interrupt_has_cost(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record() -> None:
        with rs.create(location, SCHEMA) as buffer:
            buffer.append(rows(10))
            buffer.commit()
            interrupt(lambda: buffer.append(rows(10)), monkeypatch)

    with pytest.warns(ReplayStoreWarning, match="append was interrupted"), pytest.raises(KeyboardInterrupt):
        record()

    assert len(rs.open(location)) == 10


def test_ctrl_c_waits_for_the_end_of_an_operation(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extend = appending.extend

    def signalled(checksum: int, data: Any) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.undo()
        return extend(checksum, data)

    def record() -> None:
        with rs.create(location, SCHEMA) as buffer:
            monkeypatch.setattr(appending, "extend", signalled)
            buffer.append(rows(10))

    with pytest.raises(KeyboardInterrupt):
        record()

    assert len(rs.open(location)) == 10, "the append has happened, and leaving the block has committed it"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait() -> None:
    operations, seen = Operations("a"), list[int]()

    def work() -> None:
        with operations("append"):
            for number in range(3):
                os.kill(os.getpid(), signal.SIGINT)
                seen.append(number)

    with pytest.raises(KeyboardInterrupt):
        work()

    assert seen == [0]
    assert operations.interrupted == "append"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_come_at_once_in_other_threads_and_handlers_are_left_alone() -> None:
    operations, handlers = Operations("a"), []

    def work() -> None:
        with operations("append"):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert handlers == [signal.default_int_handler]
    assert operations.interrupted == ""


def test_an_error_of_ours_leaves_nothing_half_done_and_one_of_the_system_is_translated() -> None:
    operations = Operations("a.zarr")
    with pytest.raises(StorageError, match="full"), operations("append"):
        raise StorageError("full")
    assert operations.interrupted == ""

    caught = pytest.raises(StorageError, match=r"a\.zarr: rollback failed: Input/output error.*open it again")
    with caught as refused, operations("rollback"):
        raise OSError(5, "Input/output error")
    assert refused.value.errno == 5
    assert operations.interrupted == "rollback"


@contextlib.contextmanager
def interrupted_in(inside: set[CodeType], at: int) -> Iterator[list[int]]:
    """A KeyboardInterrupt at the `at`-th line that is run of some code, which ends the block; the lines that
    were run of it."""
    lines, before = list[int](), sys.gettrace()

    def interrupt(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if frame.f_code not in inside:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == at:
                raise KeyboardInterrupt
        return interrupt

    sys.settrace(interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield lines
    finally:
        sys.settrace(before)


STAGING = {way.__code__ for way in (Writer.step, Writer.offer, Staging.offer, Staging.stage, Staging.rewind)}
STAGING |= {Staging.pooled.__code__, Pool.put.__code__}
"""What a step goes through until it is staged."""


def test_a_masked_step_that_is_interrupted_is_not_counted(tmp_path: Path) -> None:
    """At each line of staging it: so many steps are staged as are recorded then."""
    no, counts = np.zeros(2, np.bool_), set()
    for at in itertools.count(1):
        with rs.create(tmp_path / "a.zarr", SCHEMA, durability="none", overwrite=True) as buffer:
            writer = buffer.writer(2)
            writer.reset(np.zeros((2, 3), "f4"))
            given = np.zeros(2, np.int64), np.zeros(2), no, no, np.zeros((2, 3), "f4")
            writer.step(*given)
            with interrupted_in(STAGING, at) as lines:
                writer.step(*given, mask=np.array([True, False]))
            staged = writer.staged
            writer.flush()
            assert staged == buffer.rows_recorded, at
            counts.add(staged)
        if len(lines) < at:
            break
    assert counts == {2, 3}


@pytest.mark.parametrize(
    ("then", "infos"),
    [*((then, infos) for then in ("step", "reset", "flush") for infos in ("", "speed")), ("step", "tokens")],
)
def test_a_step_that_is_interrupted_while_it_is_staged_is_recorded_or_not(
    tmp_path: Path, then: str, infos: str
) -> None:
    """At each line of it, whatever is called next: never a part of it, and the steps after it are whole."""
    no, seen = np.zeros(2, np.bool_), set()
    schema = SCHEMA
    if infos:
        shape = (None,) if infos == "tokens" else ()
        schema = rs.Schema({**SCHEMA.fields, f"info/{infos}": rs.Field(np.dtype("f4"), shape, "info")})

    def step(writer: Writer, value: int) -> None:
        given = [[float(value)] * (value + 1)] * 2 if infos == "tokens" else np.full(2, value, "f4")
        info = {f"info/{infos}": given} if infos else None
        writer.step(np.full(2, value), np.full(2, float(value)), no, no, np.full((2, 3), value, "f4"), info)

    for at in itertools.count(1):
        with rs.create(tmp_path / "a.zarr", schema, durability="none", overwrite=True) as buffer:
            writer = buffer.writer(2)
            writer.reset(np.zeros((2, 3), "f4"))
            step(writer, 0)
            with interrupted_in(STAGING, at) as lines:
                step(writer, 1)
            if then == "reset":
                writer.reset(np.full((2, 3), 1, "f4"))
            elif then == "flush":
                writer.flush()
            step(writer, 2)
            step(writer, 3)
            writer.close()
            buffer.commit()
            shown = [
                one for one in map(buffer.trajectory, range(buffer.num_trajectories)) if one.info["env"] == 1
            ]
            rewards = [reward for one in shown for reward in one["reward"].tolist()]
            observations = [first for one in shown for first in one["observation"][:, 0].tolist()]
            if infos:
                known = [value for one in shown for value in one[f"info/{infos}"].tolist()]
                expected = [[value] * (int(value) + 1) for value in rewards] if infos == "tokens" else rewards
                assert known == expected, at
        whole = rewards == [0.0, 1.0, 2.0, 3.0]
        assert whole or rewards == [0.0, 2.0, 3.0], at
        assert observations == [0.0] * (1 + whole) + [1.0 if whole or then == "reset" else 0.0] + [2.0], at
        seen.add(whole)
        if len(lines) < at:
            break
    assert seen == {True, False}
    assert at > 10


def test_an_interrupt_while_hdf5_makes_a_file_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each of the calls by which the library writes."""
    write, heard = Pieces.write, 0
    for number in range(1, 1000):
        calls = 0

        def interrupted(self: Pieces, offset: int, data: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == number:  # noqa: B023
                raise KeyboardInterrupt
            write(self, offset, data)

        with monkeypatch.context() as patched:
            patched.setattr(Pieces, "write", interrupted)
            try:
                make_file("a.h5", {"format_version": 1})
            except KeyboardInterrupt:
                heard += 1
        if calls < number:
            break
        assert heard == number
    assert heard > 3


def test_nothing_is_raised_into_hdf5(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept, and the library is given zeros from then on."""
    for name in ("lay_over", "write"):
        pieces = Pieces()
        pieces.write(0, bytes(range(16)))
        overlay = Overlay(lambda _, length: b"\1" * length, 100, pieces)

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Pieces, name, interrupted)
            assert overlay.read(8) == (bytes(8) if name == "lay_over" else bytes(range(8)))
            overlay.write(b"2")
        assert isinstance(overlay.failure, KeyboardInterrupt)
        assert overlay.read(8) == bytes(8)


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_drop_in_is_closed_again_after_closing_was_interrupted(
    number: int, suffix: str, tmp_path: Path
) -> None:
    from replaystore.testing.saves import PROJECTS

    project = PROJECTS[number]
    place = str(tmp_path / f"saved{suffix}")
    saved = project.new()
    project.add(saved, 1, 6)
    saved.save(place)
    buffer = project.load(place, mode="r+")
    lock = buffer._ring.buffer._lock
    release = lock.release

    def interrupted() -> None:
        lock.release = release
        raise KeyboardInterrupt

    lock.release = interrupted
    with pytest.raises(KeyboardInterrupt):
        buffer.close()
    with pytest.raises(ConflictError, match="open for writing elsewhere"):
        project.load(place, mode="r+")

    buffer.close()

    project.load(place, mode="r+").close()
