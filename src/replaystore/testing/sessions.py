"""Sessions of a writer, one operation after another, in which one is interrupted, and what may be seen
afterwards.

1. An operation has happened or it has not: what is seen is the `PlainBuffer` after so many operations, all
   fields, trajectories and tables of it, and never part of one.
2. What was acknowledged (by the return of `commit`, `publish`, `rollback`, …) is seen in any case. What was
   not may be given up by a buffer that was interrupted; one that goes on as if nothing had been must have
   it.
3. The open trajectories of a writer may have been cut off by `close`, or not.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.checking.verify import verify
from replaystore.errors import ReplayStoreError, ReplayStoreWarning, UnsupportedError
from replaystore.schema.fields import Field
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import forked, tiny
from replaystore.testing.interruption import ALLOWED, Interruption, says_so
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import columns, observations, play, recording, small, storage
from replaystore.testing.setting import set_some

__all__ = ["Operation", "Session", "sessions", "verified"]

SUFFIXES = {"zarr": (".zarr", "zstd:1"), "ring": (".zarr", "zstd:1"), "hdf5": (".h5", "gzip:1")}
CAPACITY = 40

HALF = ("open it for writing, which mends it", "the manifest of the archive is missing")
"""What `verify` says of a store whose writer was stopped between a commit and what follows it."""

Bag = dict[str, Any]
"""What operations leave for later ones: the writer."""


class Operation(NamedTuple):
    """Something that is done to a buffer, and in the same way to a plain one."""

    name: str
    do: Callable[[Any, Bag], Any]
    durable: bool = False
    """Whether it, and all before it, is acknowledged when it has returned."""


class Seen(NamedTuple):
    """What may be seen, and the plain buffer that goes on from it."""

    contents: Contents
    plain: PlainBuffer


# --- operations


def _append(seed: int, count: int, env: int = 0, *, finals: bool = False) -> Operation:
    def do(recorder: Any, _: Bag) -> None:
        rows = columns(recorder.schema, count, seed, ends=0.25)
        ends = rows["terminated"] | rows["truncated"]
        following = None
        if finals:
            leaves = observations(recorder.schema, int(ends.sum()) + (not ends[-1]), seed + 1)
            following = recorder.schema.unflatten(leaves, "observation")
        recorder.append(rows, env=env, split=["", "a"][seed % 2], final_observation=following)

    return Operation("append", do)


def _steps(first: int, stop: int, seed: int = 5) -> list[Operation]:
    """Calls of the writer, one operation each."""

    def operation(number: int) -> Operation:
        def do(recorder: Any, bag: Bag) -> None:
            step = list(recording(recorder.schema, 2, stop, seed))[number]
            play(bag["writer"], step, recorder.schema)

        return Operation("reset" if number == 0 else "step", do)

    return [operation(number) for number in range(first, stop)]


def _make_writer(recorder: Any, bag: Bag) -> None:
    bag["writer"] = recorder.writer(2, split="w")


def _close_writer(_: Any, bag: Bag) -> None:
    bag["writer"].close()
    del bag["writer"]


def _set_metadata(recorder: Any, _: Bag) -> None:
    recorder.metadata = {"note": "é", "numbers": list(range(20))}


def _set_column(recorder: Any, _: Bag) -> None:
    recorder.commit()
    shown = recorder.contents().table if isinstance(recorder, PlainBuffer) else recorder.trajectories.columns
    recorder.set_trajectory_column("score", np.arange(int((~shown["open"]).sum())) / 3)


def _set(seed: int) -> Operation:
    """Other values of some steps, committed or not."""

    return Operation("set values", lambda recorder, _: set_some(recorder, seed))


COMMIT = Operation("commit", lambda recorder, _: recorder.commit(), durable=True)
PUBLISH = Operation("publish", lambda recorder, _: recorder.publish(), durable=True)
CLOSE = Operation("close", lambda recorder, _: recorder.close(), durable=True)
LATE = Field(np.dtype(np.int16), (), "info")
ADD_FIELD = Operation("add_field", lambda recorder, _: recorder.add_field("info/late", LATE, fill=1))
TEXT = Field.of_text("info")
ADD_TEXT = Operation("add_field", lambda recorder, _: recorder.add_field("info/text.late", TEXT))
SCORE = Field(np.dtype(np.float64), (), "extra", mutable=True)
MUTABLE = Operation("add_field", lambda recorder, _: recorder.add_field("score", SCORE))
WRITER = Operation("writer", _make_writer)
FLUSH = Operation("flush", lambda _, bag: bag["writer"].flush())
CLOSE_WRITER = Operation("writer.close", _close_writer)
METADATA = Operation("metadata", _set_metadata)
COLUMN = Operation("set_trajectory_column", _set_column, durable=True)
ROLLBACK = Operation("rollback", lambda recorder, _: recorder.rollback(2), durable=True)

BEFORE = [_append(1, 13, finals=True), COMMIT, _append(2, 9, 1), COMMIT, _append(3, 7), COMMIT]
"""What all sessions find."""
SCRIPTS: dict[str, list[Operation]] = {
    "appends": [_append(11, 17), COMMIT, _append(13, 12, 1), _append(12, 6, finals=True), CLOSE],
    "steps": [WRITER, *_steps(0, 5), FLUSH, COMMIT, *_steps(5, 8), COMMIT, CLOSE_WRITER, CLOSE],
    "an open writer": [_append(16, 5), COMMIT, WRITER, *_steps(0, 6), CLOSE],
    "changes": [
        _append(21, 5),
        ADD_FIELD,
        ADD_TEXT,
        _append(22, 14),
        COLUMN,
        METADATA,
        _append(23, 4),
        PUBLISH,
        CLOSE,
    ],
    "values": [
        MUTABLE,
        _append(41, 6),
        _set(1),
        COMMIT,
        _append(42, 5),
        _set(2),
        _set(4),
        COMMIT,
        _set(3),
        CLOSE,
    ],
    "going back": [_append(31, 8), ROLLBACK, _append(32, 11), COMMIT, _append(33, 3), ROLLBACK, CLOSE],
}
MORE = _append(99, 6, 7)
"""What is done after an interrupt."""


@dataclass
class Session:
    """A script that is played on a store; prepared once, interrupted many times."""

    name: str
    backend: str
    script: Sequence[Operation]
    layout: str = "live"
    ragged: bool = False
    """Whether there are fields of any length."""
    states: list[tuple[PlainBuffer, Bag]] = field(default_factory=list)
    """The plain buffer before the script, and after each of its operations."""
    seen: list[list[Seen]] = field(default_factory=list)
    """Likewise, what may be seen after a commit or `close` then."""

    @property
    def operations(self) -> dict[str, str]:
        """The names that `play` watches, and what is done there."""
        return {f"{number} {operation.name}": operation.name for number, operation in enumerate(self.script)}

    def location(self, folder: str) -> str:
        return f"{folder}/store{SUFFIXES[self.backend][0]}"

    def prepare(self, folder: str) -> None:
        """Make the store that the script finds, and know what may be seen."""
        capacity = CAPACITY if self.backend == "ring" else None
        plain: Any = PlainBuffer(small(ragged=self.ragged), capacity=capacity)
        plain.metadata = {}
        bag: Bag = {}
        for operation in BEFORE:
            operation.do(plain, bag)
        self.states = [copy.deepcopy((plain, bag))]
        for operation in self.script:
            operation.do(plain, bag)
            self.states.append(copy.deepcopy((plain, bag)))
        self.seen = [self._seen(plain) for plain, _ in self.states]
        status, told = forked(lambda _: self._record(folder, capacity))
        if status:
            raise AssertionError(f"{self.name} cannot be prepared: {told[-1]}")

    @staticmethod
    def _seen(plain: PlainBuffer) -> list[Seen]:
        closed, committed = copy.deepcopy(plain), copy.deepcopy(plain)
        closed.close()
        committed.commit()
        return [Seen(found.contents(), found) for found in (closed, committed)]

    def _record(self, folder: str, capacity: int | None) -> None:
        codec = SUFFIXES[self.backend][1]
        settings = storage(codec, ragged=self.ragged)
        if self.layout == "archive":
            settings["info/wide"]["codec"] = codec
        place = self.location(folder)
        with tiny():
            buffer = buffers.create(
                place,
                small(ragged=self.ragged),
                storage=settings,
                capacity=capacity,
                layout=self.layout,  # type: ignore[arg-type]
            )
            for operation in BEFORE:
                operation.do(buffer, {})
            buffer.abandon()

    # --- in a child

    def play(self, folder: str, cut: Interruption, *, goes_on: bool) -> str:
        """Play the script until it is interrupted, leave, and look: what is wrong; empty if nothing is."""
        place = self.location(folder)
        at, seen = -1, list[Seen]()
        # What is wrong with each error; not the errors, which would keep alive what they left.
        arrived: list[str] = []
        # A buffer that is left warns of what is lost, which where warnings are errors would take the place of
        # the interrupt.
        with tiny(), warnings.catch_warnings(action="ignore", category=ReplayStoreWarning):
            buffer = buffers.open(place, "r+")
            try:
                with buffer:
                    bag: Bag = {}
                    for at, operation in enumerate(self.script):
                        try:
                            with cut.watching(f"{at} {operation.name}"):
                                operation.do(buffer, bag)
                        except ALLOWED as error:
                            arrived.append(says_so(error))
                            if not goes_on:
                                raise
                            seen = self._go_on(buffer, at)
                            break
            except ALLOWED as error:
                arrived.append(says_so(error))
            with suppress(ReplayStoreError):  # which it has said already, or says below
                buffer.close()
            problem = next(filter(None, arrived), "")
            if not problem and not arrived and cut.unheard:
                problem = "it is not heard"
            problem = problem or self._look(place, seen or self._allowed(at, interrupted=bool(arrived)), at)
        return f"{self.script[at].name}: {problem}" if problem else ""

    def _go_on(self, buffer: Buffer, at: int) -> list[Seen]:
        """Use the buffer that was interrupted; what may be seen now, or nothing if it is to be reopened."""
        more = (COMMIT, MORE, COMMIT)  # what is staged first, so that trajectories are numbered alike
        try:
            for operation in more:
                operation.do(buffer, {})
            shown = Contents.of(buffer)
        except ReplayStoreError as error:
            if says_so(error):
                raise AssertionError(says_so(error)) from error
            return []
        for plain, _ in self.states[at : at + 2]:
            for operation in more:
                operation.do(plain, {})
        seen = [self._seen(plain) for plain, _ in self.states[at : at + 2]]
        problem = _differs(shown, [committed for _, committed in seen])
        if problem:
            raise AssertionError(f"it goes on, and shows {problem}")
        return [one for both in seen for one in both]

    def _allowed(self, at: int, *, interrupted: bool) -> list[Seen]:
        """What may be seen of a buffer that was interrupted in an operation and left; the newest last."""
        if not interrupted:
            return self.seen[-1]
        acknowledged = max((number + 1 for number in range(at) if self.script[number].durable), default=0)
        return [one for both in self.seen[acknowledged : at + 2] for one in both]

    def _look(self, place: str, allowed: Sequence[Seen], at: int) -> str:
        """Open the store in this process: it is whole, and goes on."""
        with buffers.open(place) as reader:
            shown, metadata = Contents.of(reader), reader.metadata
        problem = _differs(shown, allowed)
        known = [getattr(plain, "metadata", None) for plain, _ in self.states[at : at + 2]]
        if problem or metadata not in known:
            return problem or f"metadata are {metadata}"
        problem = verified(place)
        if problem:
            return problem
        try:
            buffer = buffers.open(place, "r+")
        except UnsupportedError:
            return "" if self.layout == "archive" else "it is sealed"
        # Several may look alike, and count their trajectories differently.
        same = [one.plain for one in allowed if not one.contents.difference(shown)]
        for plain in same:
            plain.abandon()
        recorders: list[Any] = [buffer, *same]
        for recorder in recorders:
            recorder.append(columns(recorder.schema, 9, 77), env=9)
            recorder.close()
        with buffers.open(place) as reader:
            problem = _differs(Contents.of(reader), [Seen(plain.contents(), plain) for plain in same])
        return f"going on gives {problem}" if problem else verified(place)


def _differs(shown: Contents, allowed: Sequence[Seen]) -> str:
    """How something differs from the first and the newest of what may be seen; empty if it is one of them."""
    found = [one.contents.difference(shown) for one in allowed]
    return "" if "" in found else " and ".join(text[:150] for text in dict.fromkeys((found[0], found[-1])))


def verified(place: str) -> str:
    """The first problem that `verify` finds, but for what a writer mends when it opens the store."""
    with patch(
        "replaystore.checking.verify._probe", lambda *_: True
    ):  # we are in a process of our own already
        problems = verify(place).problems
        if problems and all(any(half in str(problem) for half in HALF) for problem in problems):
            buffers.open(place, "r+").close()
            problems = verify(place).problems
    return f"verify: {problems[0]}" if problems else ""


def sessions(seed: int = 0) -> list[Session]:
    """Each script in each container, and archives; every second one with fields of any length, and with the
    next seed the others."""
    found = [
        Session(f"{name} in {backend}", backend, script, ragged=(number + place + seed) % 2 == 1)
        for place, backend in enumerate(SUFFIXES)
        for number, (name, script) in enumerate(SCRIPTS.items())
        if not (name == "going back" and backend == "ring")  # whose older commits are evicted
    ]
    sealing = [_append(11, 17), COMMIT, _append(12, 6), CLOSE]
    found += [
        Session(f"sealing in {name}", name, sealing, "archive", ragged=(place + seed) % 2 == 1)
        for place, name in enumerate(("zarr", "hdf5"))
    ]
    return found
