"""A disk that forgets: what a power cut leaves of what was done to it.

* Of a file: what it was at its last sync, and of each sector any version since; its size may be any since.
* Of a folder: the entries at its last sync, and any of the changes since (a rename happens whole or not at
  all; one to another folder is a change of each). A new folder is an entry of the one above it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from replaystore.testing.faults import Operation
from replaystore.testing.shim import Kind, Record

__all__ = ["Disk", "Left", "put", "read"]

SECTOR = 512
"""What a disk writes whole or not at all."""
EXCHANGE = 2
"""The flag of renameat2 by which two names change places."""
GONE = " (deleted)"
"""The end of the name that Linux gives a file without a name."""
GENERATOR = np.random.Generator

Left = dict[str, bytes | None]
"""What a cut leaves: the content of each file, None for a folder."""


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
        """The bytes after a cut; `keep(n)` says of n sectors which reached the disk, each time something was
        written."""
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
        """One more operation."""
        self.syncs += operation.kind.startswith("sync")
        if operation.kind == "sync_folder":
            self._folder(operation.name).sync()
            return
        folder, name = self._folder(os.path.dirname(operation.name)), os.path.basename(operation.name)
        node = folder.entries.get(name)
        match operation.kind:
            case "create" if node is None:
                folder.change({name: _File()})
            case "rename" | "exchange":
                if os.path.dirname(operation.other) != os.path.dirname(operation.name):
                    raise ValueError(
                        f"{operation.name} is renamed to another folder, {operation.other}: "
                        "that is not known here"
                    )
                other = os.path.basename(operation.other)
                folder.change(
                    {name: folder.entries.get(other) if operation.kind == "exchange" else None, other: node}
                )
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

    def heard(self, record: Record) -> None:
        """One more call, as the shim notes them."""
        if record.path.endswith(GONE):  # a file that has no name any more: nothing of it is left anyway
            return
        kind, number = record.kind, record.number
        folder, name = self._folder(os.path.dirname(record.path)), os.path.basename(record.path)
        node = folder.entries.get(name)
        self.syncs += kind is Kind.SYNC
        match kind:
            case Kind.CREATE if not number:
                folder.change({name: _File()})
            case Kind.MKDIR:
                folder.change({name: _Folder()})
            case Kind.UNLINK | Kind.RMDIR:
                folder.change({name: None})
            case Kind.RENAME | Kind.LINK:
                self._named(record, node)
            case Kind.SYNC if record.path == ".":
                self._root.sync()
            case Kind.SYNC if node is not None and not number:
                node.sync()
            case Kind.CREATE if isinstance(node, _File):
                node.since.append((0, None))
            case Kind.WRITE if isinstance(node, _File):
                node.since.append((number, record.data))
            case Kind.RESIZE if isinstance(node, _File):
                node.since.append((number, None))
            case Kind.LOCK:
                pass
            case _:
                raise ValueError(f"{record.kind!r} of {record.path} is not known here")

    def _named(self, record: Record, node: _File | _Folder | None) -> None:
        """A file or a folder gets another name, or one more."""
        folder, other = (
            self._folder(os.path.dirname(record.path)),
            self._folder(os.path.dirname(record.other)),
        )
        name, new = os.path.basename(record.path), os.path.basename(record.other)
        if record.kind is Kind.LINK:
            other.change({new: node})
        elif folder is not other and not record.number & EXCHANGE:
            other.change({new: node})
            folder.change({name: None})
        elif folder is not other:
            raise ValueError(
                f"{record.path} changes places with {record.other} in another folder: that is not known here"
            )
        elif record.number & EXCHANGE:
            folder.change({name: folder.entries.get(new), new: node})
        elif name != new:
            folder.change({name: None, new: node})

    def everything(self) -> Left:
        """What is left when the writer is only killed."""
        return self._left(lambda: 1.0, np.random.default_rng(0))

    def synced(self) -> Left:
        """What is left at least."""
        return self._left(lambda: 0.0, np.random.default_rng(0))

    def cut(self, generator: GENERATOR) -> Left:
        """What could be left: of each file and folder nothing since it was synced, or everything, or this and
        that."""

        def rate() -> float:
            return float(generator.choice([0.0, 1.0, 0.5]))

        return self._left(rate, generator)

    def _left(self, rate: Callable[[], float], generator: GENERATOR) -> Left:
        found: Left = {}
        files: dict[int, bytes] = {}  # a file may have several names
        for name, node in _survivors(self._root, "", rate, generator):
            if isinstance(node, _File) and id(node) not in files:
                files[id(node)] = node.left(_keeping(rate(), generator))
            found[name] = None if isinstance(node, _Folder) else files[id(node)]
        return found


def _survivors(
    folder: _Folder, path: str, rate: Callable[[], float], generator: GENERATOR
) -> Iterator[tuple[str, _File | _Folder]]:
    entries, kept = dict(folder.synced), rate()
    for change in folder.since:
        if generator.random() < kept:
            _apply(entries, change)
    for name, node in sorted(entries.items()):
        yield path + name, node
        if isinstance(node, _Folder):
            yield from _survivors(node, f"{path}{name}/", rate, generator)


def _keeping(
    rate: float, generator: GENERATOR
) -> Callable[[int], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
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
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes() for path in paths
    }
