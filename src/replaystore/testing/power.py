"""Cut the power at any moment of a workload, and see that nothing is lost that was acknowledged.

A kill leaves what the system was told to write; a power cut leaves what was synced, and of the rest any part.
A `Disk` is told every operation of a workload (`RecordingFiles`) and says what a cut could leave. From that
the store must open, for reading as it is and for writing with recovery, as the last acknowledged commit or a
later one that the workload made, bit for bit, go on from there, and verify.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from replaystore.arrays.appending import TAIL_SPEC as TAIL
from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.checking.verify import verify
from replaystore.errors import NotFoundError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import SUFFIXES, check_from_far, tiny
from replaystore.testing.disks import Disk, Left, put, read
from replaystore.testing.faults import Operation, RecordingFiles, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import small, storage
from replaystore.testing.workloads import Action, Workload, act

__all__ = ["COMMIT", "PowerCuts", "reference"]

COMMIT = "acknowledged"
"""The kind of the marks that stand where a commit has returned; the name is its number."""
GENERATOR = np.random.Generator


# --- the workload


def reference(capacity: int | None, *, ragged: bool = False) -> tuple[PlainBuffer, list[Action]]:
    """A workload in which everything happens that writes, and the plain buffer after it."""
    plain, actions = PlainBuffer(small(ragged=ragged), capacity=capacity), list[Action]()

    def do(name: str, *arguments: object) -> None:
        actions.append(Action(name, arguments))
        act(plain, actions[-1])

    for seed in range(3):
        do("append", seed, 5 + 6 * seed, 0, seed)
        do("commit")
    do("record", 4, 3, 6, 2)
    do("column", "score", 1)
    do("append", 11, 13, 1, 1)
    do("field", "info/late", "int16", 0, False)
    do("commit")
    do("publish")
    do("append", 12, 3, 1, 2)
    do("commit")
    do("rollback", plain.commits()[-3:][0])
    do("append", 13, 9, 0, 0)
    do("commit")
    do("reopen")
    do("append", 14, 2, 2, 1)
    do("commit")
    do("column", "split", 5)
    do("record", 6, 2, 9, 3)
    do("field", "info/later", "bool", 1, False)
    do("append", 15, 21, 0, 1)
    do("commit")
    do("rollback", plain.commits()[-2:][0])
    do("append", 16, 4, 0, 1)
    do("commit")
    return plain, actions


class PowerCuts:
    """Power cuts while a store of one backend is written, below a folder."""

    def __init__(
        self, backend: str, folder: str, *, capacity: int | None = None, ragged: bool = False
    ) -> None:
        suffix, self._codec = SUFFIXES[backend]
        self._live, self._cut = os.path.join(folder, "live"), os.path.join(folder, "cut")
        self._name = f"new/folder/store{suffix}"
        self.location = os.path.join(self._cut, self._name)
        """Of what is left."""
        self.plain, self._actions = reference(capacity, ragged=ragged)
        self._schema = small(ragged=ragged)
        self._storage = storage(self._codec, ragged=ragged)
        os.makedirs(self._live)
        self.operations = self._recorded()

    # --- what happens

    def _recorded(self) -> list[Operation]:
        """The operations of the workload, creation first; marks where commits were acknowledged."""
        recording = RecordingFiles(below=self._live)
        location = os.path.join(self._live, self._name)
        with _recorded(recording):
            buffer = buffers.create(
                location, self._schema, storage=self._storage, capacity=self.plain.capacity
            )
            _perform(buffer, [Action("commit"), *self._actions], recording)
        return recording.operations

    def live(self) -> Left:
        """The store that was written, as it is in the end."""
        return {name: data for name, data in read(self._live).items() if not name.endswith("lock")}

    # --- cutting

    def moments(self, count: int, generator: GENERATOR) -> list[tuple[int, bool]]:
        """The operations before which the power is cut, in order, and whether a writer goes on then: each at
        which syncing begins, for reading only; `count` more, of which three of four are such operations too,
        for writing."""
        syncs = [
            number for number, operation in enumerate(self.operations) if operation.kind.startswith("sync")
        ]
        begins = [number for number in syncs if not self.operations[number - 1].kind.startswith("sync")]
        anywhere = generator.integers(1, len(self.operations) + 1, -(-count // 4)).tolist()
        turns = generator.permutation(begins).tolist() * (count // len(begins) + 1)
        written = [(moment, True) for moment in [*anywhere, *turns[: count - len(anywhere)]]]
        return sorted([*written, *((moment, False) for moment in begins)])

    def run(self, count: int, seed: int) -> list[str]:
        """Cut the power at all moments where something is synced and `count` more: a line for each time that
        something was lost."""
        generator, disk, problems = np.random.default_rng(seed), Disk(), list[str]()
        done, acknowledged, seen = 0, None, set[tuple[int, bool]]()
        for moment, writing in self.moments(count, generator):
            acknowledged, done = _go(disk, self.operations[done:moment], acknowledged), moment
            least = generator.random() < 0.3 and (disk.syncs, writing) not in seen
            seen.add((disk.syncs, writing))
            left = disk.synced() if least else disk.cut(generator)
            when = f"power cut before operation {moment} of {len(self.operations)}"
            problems += self._survives(left, acknowledged, generator, when, writing=writing)
        return problems

    def run_twice(self, count: int, seed: int) -> list[str]:
        """As `run`, with a writer that recovers and goes on in between: after a kill, when the system still
        has what is not synced but the writer does not know that it is not, or after a power cut."""
        generator, disk, problems = np.random.default_rng(seed), Disk(), list[str]()
        done, acknowledged = 0, None
        for moment in sorted(generator.integers(1, len(self.operations) + 1, -(-count // 4)).tolist()):
            acknowledged, done = _go(disk, self.operations[done:moment], acknowledged), moment
            killed = bool(generator.random() < 0.7)
            left = disk.everything() if killed else disk.cut(generator)
            put(self._cut, left)
            if not os.path.exists(self.location):
                continue
            what = (
                f"{'kill' if killed else 'power cut'} before operation {moment} of "
                f"{len(self.operations)}, then recovery"
            )
            plain, more = self._go_on(int(generator.integers(1 << 30)))
            second = copy.deepcopy(disk) if killed else Disk(left)
            problems += self._cut_again(second, more, plain, acknowledged, generator, what)
        return problems

    def _cut_again(
        self,
        disk: Disk,
        more: list[Operation],
        plain: PlainBuffer,
        acknowledged: int | None,
        generator: GENERATOR,
        what: str,
    ) -> list[str]:
        problems, done = list[str](), 0
        for moment in sorted(generator.integers(1, len(more) + 1, 4).tolist()):
            acknowledged, done = _go(disk, more[done:moment], acknowledged), moment
            where = f"{what}, power cut before operation {moment} of {len(more)}"
            problems += self._survives(disk.cut(generator), acknowledged, generator, where, plain=plain)
        return problems

    def _go_on(self, seed: int) -> tuple[PlainBuffer, list[Operation]]:
        """A writer recovers what is there and goes on: what there should be then, and what it did."""
        with buffers.open(self.location) as reader:
            plain = self.plain.resumed(reader.commit_id)
        more, recording = Workload(seed, 3, start=plain), RecordingFiles(below=self._cut)
        with _recorded(recording):
            _perform(buffers.open(self.location, "r+"), more.actions, recording)
        return plain, recording.operations

    # --- looking

    def _survives(
        self,
        left: Left,
        acknowledged: int | None,
        generator: GENERATOR,
        when: str,
        *,
        plain: PlainBuffer | None = None,
        writing: bool = True,
    ) -> list[str]:
        """Whether the store is as it should be, and goes on: the problem, if there is one."""
        put(self._cut, left)
        try:
            commit = self._read(acknowledged, plain or self.plain)
            if writing:
                self._write(commit, plain or self.plain, generator)
        except Exception as error:  # noqa: BLE001  # whatever it is, a user would not have got at the data
            return [f"{when}, commit {acknowledged} acknowledged: {type(error).__name__}: {error}"]
        return []

    def _read(self, acknowledged: int | None, plain: PlainBuffer) -> int | None:
        """Read without recovery; the commit that is shown, None if there is no store yet."""
        try:
            reader = buffers.open(self.location)
        except NotFoundError:
            if acknowledged is not None:
                raise
            return None
        with reader:
            if acknowledged is not None and reader.commit_id < acknowledged:
                raise AssertionError(f"it shows commit {reader.commit_id}")
            _same(plain.history[reader.commit_id], reader)
            check_from_far(self.location, reader.commit_id)
            return reader.commit_id

    def _write(self, commit: int | None, plain: PlainBuffer, generator: GENERATOR) -> None:
        """Open for writing, go on, close, verify."""
        if commit is None:
            with _smallest():
                buffers.create(self.location, self._schema, storage=self._storage, overwrite=True).close()
            return
        then = plain.history[commit]
        older = int(generator.choice(then.commits()))
        with buffers.open(self.location, commit=older) as reader:
            _same(then, reader, older)
        after = plain.resumed(commit)
        with _smallest():
            buffer = buffers.open(self.location, "r+")
            _same(after, buffer)
            if generator.random() < 0.5:
                _perform(
                    buffer,
                    Workload(int(generator.integers(1 << 30)), 1, start=after).actions,
                    RecordingFiles(),
                )
                with buffers.open(self.location) as reader:
                    _same(after, reader)
            else:
                buffer.abandon()
        # a process of its own for each would take most of the time.
        with patch("replaystore.checking.verify._probe", lambda *_: True):
            problems = verify(self.location).problems
        if problems:
            raise AssertionError(f"verify: {problems[0]}")


def _go(disk: Disk, operations: Sequence[Operation], acknowledged: int | None) -> int | None:
    """Do these operations; the newest commit that is acknowledged then."""
    for operation in operations:
        if operation.kind == COMMIT:
            acknowledged = int(operation.name)
        else:
            disk.do(operation)
    return acknowledged


@contextmanager
def _smallest() -> Iterator[None]:
    """Stores are tiny, and what they keep free for later is small too: most of the time goes into writing
    what is left by cuts."""
    tail = replace(TAIL, chunk_rows=1 << 14)
    with (
        tiny(),
        patch("replaystore.arrays.appending.TAIL_SPEC", tail),
        patch("replaystore.containers.hdf5.log.LEAST", 1 << 13),
    ):
        yield


@contextmanager
def _recorded(recording: RecordingFiles) -> Iterator[None]:
    """Stores are recorded with all that they write: a copy that shares blocks writes nothing."""
    with ExitStack() as stack:
        stack.enter_context(_smallest())
        stack.enter_context(using(recording.files))
        stack.enter_context(patch("replaystore.containers.hdf5.copy._share", lambda *_: False))
        yield


def _perform(buffer: Buffer, actions: Sequence[Action], recording: RecordingFiles) -> None:
    """Do it all and close; the commits that were acknowledged are marked."""

    def acknowledge(commit: int) -> None:
        recording.operations.append(Operation(COMMIT, str(commit)))

    location = buffer.location
    for action in actions:
        buffer = act(buffer, action, acknowledge=acknowledge, reopen=lambda _: buffers.open(location, "r+"))
    buffer.close()
    acknowledge(buffer.commit_id)


def _same(plain: PlainBuffer, buffer: Buffer, commit: int | None = None) -> None:
    problem = plain.contents(commit).difference(Contents.of(buffer))
    if problem:
        raise AssertionError(f"commit {buffer.commit_id}: {problem}")
