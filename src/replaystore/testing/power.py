"""Cut the power at any moment of a workload, and see that nothing is lost that was acknowledged.

A kill leaves what the system was told to write; a power cut leaves what was synced, and of the rest any part. `Disk` is told every
operation of a workload (`RecordingFiles`) and says what a cut could leave:

* of a file, what it was at its last sync, and of each sector any version since; its size any since
* of a folder, the entries at its last sync, and any of the changes since (a rename happens whole or not at all); a new folder is an
  entry of the one above it

From what is left, the store must open, for reading as it is and for writing with recovery, as the last acknowledged commit or a later
one that the workload made, bit for bit, go on from there, and verify.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from replaystore import buffer as buffers
from replaystore.backends.store import _TAIL as TAIL
from replaystore.buffer import Buffer
from replaystore.errors import NotFoundError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import SUFFIXES, tiny
from replaystore.testing.faults import Operation, RecordingFiles, using
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import small, storage
from replaystore.testing.workloads import Action, Workload, act
from replaystore.verification import verify

__all__ = ["Disk", "PowerCuts", "reference"]

SECTOR = 512
"""What a disk writes whole or not at all."""
COMMIT = "acknowledged"
"""The kind of the marks that stand where a commit has returned; the name is its number."""
GENERATOR = np.random.Generator

Left = dict[str, bytes | None]
"""What a cut leaves: the content of each file, None for a folder."""


# --- the disk


@dataclass
class _File:
    """Its content when it was last synced, and what was written since: (offset, bytes), or (size, None)."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, data in self.since:
            _write(self.synced, offset, data)
        self.since = []

    def left(self, keep: Callable[[int], np.ndarray[tuple[int], np.dtype[np.bool_]]]) -> bytes:
        """The bytes after a cut; `keep(n)` says of n sectors which reached the disk, each time something was written."""
        if not self.since:
            return bytes(self.synced)
        now, disk, size = bytearray(self.synced), bytearray(self.synced), len(self.synced)
        for offset, data in self.since:
            before, first = len(now), min(len(now), offset)
            last = max(before, offset) if data is None else offset + len(data)
            _write(now, offset, data)
            sectors = range(first // SECTOR, -(-last // SECTOR))
            kept = keep(len(sectors) + 1)
            for sector in np.flatnonzero(kept[1:]).tolist():
                begin = (sectors.start + sector) * SECTOR
                disk.extend(bytes(max(0, begin + SECTOR - len(disk))))
                disk[begin : begin + SECTOR] = now[begin : begin + SECTOR].ljust(SECTOR, b"\0")
            if len(now) != before and kept[0]:
                size = len(now)
        return bytes(disk[:size].ljust(size, b"\0"))


def _write(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write to a file, or (None) give it this size."""
    if data is None:
        del content[offset:]
    content.extend(bytes(max(0, offset - len(content))))
    if data is not None:
        content[offset : offset + len(data)] = data


Change = dict[str, "_File | _Folder | None"]
"""Entries that are set together; None: removed."""


@dataclass
class _Folder:
    """Its entries, what they were when it was last synced, and the changes since."""

    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)
    since: list[Change] = field(default_factory=list)

    def change(self, entries: Change) -> None:
        self.since.append(entries)
        _apply(self.entries, entries)

    def sync(self) -> None:
        self.synced, self.since = dict(self.entries), []


def _apply(entries: dict[str, _File | _Folder], change: Change) -> None:
    for name, node in change.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


class Disk:
    """Folders and files, of which a power cut leaves only a part."""

    def __init__(self, left: Left | None = None) -> None:
        self.syncs = 0
        """How often anything was synced."""
        self._root = _Folder()
        for name, data in sorted((left or {}).items()):
            folder = self._folder(os.path.dirname(name))
            folder.change({os.path.basename(name): _Folder() if data is None else _File(bytearray(data))})
            folder.sync()

    def _folder(self, name: str) -> _Folder:
        """A folder; made, with those above it, if it is not there."""
        folder = self._root
        for part in name.split("/") if name not in ("", ".") else ():
            found = folder.entries.get(part)
            if not isinstance(found, _Folder):
                found = _Folder()
                folder.change({part: found})
            folder = found
        return folder

    def do(self, operation: Operation) -> None:
        """One more operation; marks are none."""
        if operation.kind == COMMIT:
            return
        self.syncs += operation.kind.startswith("sync")
        if operation.kind == "sync_folder":
            self._folder(operation.name).sync()
            return
        folder, name = self._folder(os.path.dirname(operation.name)), os.path.basename(operation.name)
        node = folder.entries.get(name)
        match operation.kind:
            case "create" if node is None:
                folder.change({name: _File()})
            case "rename":
                if os.path.dirname(operation.other) != os.path.dirname(operation.name):
                    raise ValueError(f"{operation.name} is renamed to another folder, {operation.other}: that is not known here")
                folder.change({name: None, os.path.basename(operation.other): node})
            case "remove":
                folder.change({name: None})
            case _ if not isinstance(node, _File):
                raise ValueError(f"{operation.kind} of {operation.name}, which is no file")
            case "create":
                node.since.append((0, None))
            case "write":
                node.since.append((operation.offset, operation.data))
            case "resize":
                node.since.append((operation.offset, None))
            case "sync_file":
                node.sync()
            case kind:
                raise ValueError(f"an operation {kind!r} is not known here")

    def everything(self) -> Left:
        """What is left when the writer is only killed."""
        return self._left(lambda: 1.0, np.random.default_rng(0))

    def synced(self) -> Left:
        """What is left at least."""
        return self._left(lambda: 0.0, np.random.default_rng(0))

    def cut(self, generator: GENERATOR) -> Left:
        """What could be left: of each file and folder nothing since it was synced, or everything, or this and that."""

        def rate() -> float:
            return float(generator.choice([0.0, 1.0, 0.5]))

        return self._left(rate, generator)

    def _left(self, rate: Callable[[], float], generator: GENERATOR) -> Left:
        found: Left = {}
        for name, node in _survivors(self._root, "", rate, generator):
            found[name] = None if isinstance(node, _Folder) else node.left(_keeping(rate(), generator))
        return found


def _survivors(folder: _Folder, path: str, rate: Callable[[], float], generator: GENERATOR) -> Iterator[tuple[str, _File | _Folder]]:
    entries, kept = dict(folder.synced), rate()
    for change in folder.since:
        if generator.random() < kept:
            _apply(entries, change)
    for name, node in sorted(entries.items()):
        yield path + name, node
        if isinstance(node, _Folder):
            yield from _survivors(node, f"{path}{name}/", rate, generator)


def _keeping(rate: float, generator: GENERATOR) -> Callable[[int], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Each time something is written: nothing of it reaches the disk, or all, or some sectors."""

    def keep(count: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        share = rate if rate in (0.0, 1.0) else float(generator.choice([0.0, 1.0, 0.5]))
        return generator.random(count) < share

    return keep


def put(folder: str, left: Left) -> None:
    """Make a folder of what is left."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name, data in left.items():
        path = Path(folder, name)
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)


def read(folder: str) -> Left:
    """The inverse."""
    paths = sorted(Path(folder).rglob("*"))
    return {path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in paths}


# --- the workload


def reference(capacity: int | None) -> tuple[PlainBuffer, list[Action]]:
    """A workload in which everything happens that writes, and the plain buffer after it."""
    plain, actions = PlainBuffer(small(), capacity=capacity), list[Action]()

    def do(name: str, *arguments: object) -> None:
        actions.append(Action(name, arguments))
        act(plain, actions[-1])

    for seed in range(3):
        do("append", seed, 5 + 6 * seed, 0, seed)
        do("commit")
    do("record", 4, 3, 6, 2)
    do("column", "score", 1)
    do("append", 11, 13, 1, 1)
    do("field", "info/late", "int16", 0)
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
    do("field", "info/later", "bool", 1)
    do("append", 15, 21, 0, 1)
    do("commit")
    do("rollback", plain.commits()[-2:][0])
    do("append", 16, 4, 0, 1)
    do("commit")
    return plain, actions


class PowerCuts:
    """Power cuts while a store of one backend is written, below a folder."""

    def __init__(self, backend: str, folder: str, *, capacity: int | None = None) -> None:
        suffix, self._codec = SUFFIXES[backend]
        self._live, self._cut = os.path.join(folder, "live"), os.path.join(folder, "cut")
        self._name = f"new/folder/store{suffix}"
        self.location = os.path.join(self._cut, self._name)
        """Of what is left."""
        self.plain, self._actions = reference(capacity)
        os.makedirs(self._live)
        self.operations = self._recorded()

    # --- what happens

    def _recorded(self) -> list[Operation]:
        """The operations of the workload, creation first; marks where commits were acknowledged."""
        recording = RecordingFiles(below=self._live)
        location = os.path.join(self._live, self._name)
        with _recorded(recording):
            buffer = buffers.create(location, small(), storage=storage(self._codec), capacity=self.plain.capacity)
            _perform(buffer, [Action("commit"), *self._actions], recording)
        return recording.operations

    def live(self) -> Left:
        """The store that was written, as it is in the end."""
        return {name: data for name, data in read(self._live).items() if not name.endswith("lock")}

    # --- cutting

    def moments(self, count: int, generator: GENERATOR) -> list[tuple[int, bool]]:
        """The operations before which the power is cut, in order, and whether a writer goes on then: each at which syncing begins,
        for reading only; `count` more, of which three of four are such operations too, for writing."""
        syncs = [number for number, operation in enumerate(self.operations) if operation.kind.startswith("sync")]
        begins = [number for number in syncs if not self.operations[number - 1].kind.startswith("sync")]
        anywhere = generator.integers(1, len(self.operations) + 1, -(-count // 4)).tolist()
        turns = generator.permutation(begins).tolist() * (count // len(begins) + 1)
        written = [(moment, True) for moment in [*anywhere, *turns[: count - len(anywhere)]]]
        return sorted([*written, *((moment, False) for moment in begins)])

    def run(self, count: int, seed: int) -> list[str]:
        """Cut the power at all moments where something is synced and `count` more: a line for each time that something was lost."""
        generator, disk, problems = np.random.default_rng(seed), Disk(), list[str]()
        done, acknowledged, seen = 0, None, set[tuple[int, bool]]()
        for moment, writing in self.moments(count, generator):
            for operation in self.operations[done:moment]:
                disk.do(operation)
                acknowledged = int(operation.name) if operation.kind == COMMIT else acknowledged
            done = moment
            least = generator.random() < 0.3 and (disk.syncs, writing) not in seen
            seen.add((disk.syncs, writing))
            left = disk.synced() if least else disk.cut(generator)
            when = f"power cut before operation {moment} of {len(self.operations)}"
            problems += self._survives(left, acknowledged, generator, when, writing=writing)
        return problems

    def run_twice(self, count: int, seed: int) -> list[str]:
        """As `run`, with a writer that recovers and goes on in between: after a kill, when the system still has what is not synced
        but the writer does not know that it is not, or after a power cut."""
        generator, disk, problems = np.random.default_rng(seed), Disk(), list[str]()
        done, acknowledged = 0, None
        for moment in sorted(generator.integers(1, len(self.operations) + 1, -(-count // 4)).tolist()):
            for operation in self.operations[done:moment]:
                disk.do(operation)
                acknowledged = int(operation.name) if operation.kind == COMMIT else acknowledged
            done = moment
            killed = bool(generator.random() < 0.7)
            left = disk.everything() if killed else disk.cut(generator)
            put(self._cut, left)
            if not os.path.exists(self.location):
                continue
            what = f"{'kill' if killed else 'power cut'} before operation {moment} of {len(self.operations)}, then recovery"
            plain, more = self._go_on(int(generator.integers(1 << 30)))
            second = copy.deepcopy(disk) if killed else Disk(left)
            problems += self._cut_again(second, more, plain, acknowledged, generator, what)
        return problems

    def _cut_again(
        self, disk: Disk, more: list[Operation], plain: PlainBuffer, acknowledged: int | None, generator: GENERATOR, what: str
    ) -> list[str]:
        problems, done = list[str](), 0
        for moment in sorted(generator.integers(1, len(more) + 1, 4).tolist()):
            for operation in more[done:moment]:
                disk.do(operation)
                acknowledged = int(operation.name) if operation.kind == COMMIT else acknowledged
            done = moment
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
            return reader.commit_id

    def _write(self, commit: int | None, plain: PlainBuffer, generator: GENERATOR) -> None:
        """Open for writing, go on, close, verify."""
        if commit is None:
            with _smallest():
                buffers.create(self.location, small(), storage=storage(self._codec), overwrite=True).close()
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
                _perform(buffer, Workload(int(generator.integers(1 << 30)), 1, start=after).actions, RecordingFiles())
                with buffers.open(self.location) as reader:
                    _same(after, reader)
            else:
                buffer.abandon()
        with patch("replaystore.verification._probe", lambda *_: True):  # a process of its own for each would take most of the time
            problems = verify(self.location).problems
        if problems:
            raise AssertionError(f"verify: {problems[0]}")


@contextmanager
def _smallest() -> Iterator[None]:
    """Stores are tiny, and what they keep free for later is small too: most of the time goes into writing what is left by cuts."""
    tail = replace(TAIL, chunk_rows=1 << 14)
    with tiny(), patch("replaystore.backends.store._TAIL", tail), patch("replaystore.backends.hdf5_log.LEAST", 1 << 13):
        yield


@contextmanager
def _recorded(recording: RecordingFiles) -> Iterator[None]:
    """Stores are recorded with all that they write: a copy that shares blocks writes nothing."""
    with ExitStack() as stack:
        stack.enter_context(_smallest())
        stack.enter_context(using(recording.files))
        stack.enter_context(patch("replaystore.backends.hdf5_copy._share", lambda *_: False))
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
