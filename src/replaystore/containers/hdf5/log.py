"""The commit log in an HDF5 file: each segment is a dataset of bytes (or several, where it needed more room)
at a fixed place.

Records are written to their place and the head in the user block says how many bytes of the newest segment
count; so a commit needs one sync, and a reader learns of it by reading the heads, without the HDF5 library.
How much of an older segment counts is kept in an attribute of its first dataset. A head changes with the
transaction that makes room, so the log is always whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import h5py  # type: ignore[import-untyped]
import numpy as np

from replaystore.containers.hdf5.far import FarFile
from replaystore.containers.hdf5.freed import USED, free_pieces, room_for_record, set_free
from replaystore.containers.hdf5.front import USERBLOCK, Head
from replaystore.containers.hdf5.library import ALIGNMENT, Hdf5File, child, group, make_room, origins, remove
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.hdf5.states import Version
from replaystore.containers.records import segment_end, whole_records
from replaystore.errors import CorruptError, NotFoundError
from replaystore.schema.tree import LOG

__all__ = ["Log", "ended"]

NO_COMMIT = 1 << 62
LEAST, MOST = 64 << 10, 2 << 20
"""Room that a segment begins with."""

Result = TypeVar("Result")


class Log:
    """The log of a file, for its writer or for a reader."""

    def __init__(self, file: Hdf5File, *, writable: bool) -> None:
        self._file = file
        self._writable = writable
        self._head: Head | None = None
        """The writer's own; readers ask the file."""
        self._older: tuple[tuple[int, int], list[int]] | None = None
        self._looked = False
        """The head was just looked for, and nothing has been asked since."""
        self._mended: tuple[object, Head | None] | None = None
        """What was found where a head is damaged, and which heads and transaction that was."""

    def reload(self) -> None:
        """Look anew where the log lies; a writer mends a damaged head."""
        self._head, self._older, self._looked = self._found(), None, True
        if self._writable and self._head is not None and (self._file.damaged or self._file.mended):
            self._write_head(replace(self._head, sequence=self._head.sequence + 1))
            self._file.mended = False

    def _newest(self) -> Head | None:
        return self._head if self._writable or self._file.keeps else self._found()

    def _found(self) -> Head | None:
        """The newest segment of the log, and how much of it counts. A head says so; where one is damaged, the
        log itself."""
        head = self._file.head()
        if not (self._file.damaged or self._file.mended):
            return head
        key = (self._file.version(), head)
        if self._mended is None or self._mended[0] != key:
            self._mended = (
                key,
                self._file.look(lambda file, overlay: self._behind(file, head, overlay.end))[0],
            )
        return self._mended[1]

    def _behind(self, file: Any, head: Head | None, end: int) -> Head | None:
        """What a damaged head may have named: a segment behind the one of this head, or records behind those
        that it counts.

        Nothing else can lie there: space that is used again is wiped out behind its first record, and
        segments behind the newest one are removed by what makes it that."""
        sequence = head.sequence if head is not None else 0
        for commit in sorted(_names(file), reverse=True):
            later = _segment(file, commit, end) if head is None or commit > head.commit else None
            used = self._valid(later, 0) if later is not None else 0
            if later is not None and used:
                return replace(later, sequence=sequence, used=used)
        return None if head is None else replace(head, used=self._valid(head, head.used))

    def _valid(self, head: Head, start: int) -> int:
        """Where the last of the valid records ends that lie one behind the other from byte `start` of a
        segment on."""
        data = b"".join(
            self._file.files.read(self._file.name, *part) for part in _parts(head, start, head.room)
        )
        return start + max((end for _, end in whole_records(data)), default=0)

    def look(self, action: Callable[[Any], Result]) -> tuple[Result, Version]:
        """As `Hdf5File.look`, after `reload`; what `segments` would look for next is noted by the way."""
        (found, known), version = self._file.look(lambda file, _: (action(file), list(_names(file))))
        self._note(self._head, known)
        return found, version

    def _note(self, head: Head | None, known: Iterable[int]) -> None:
        """Which segments there are besides the newest one, which is the head's; they were looked for after
        it."""
        if head is not None:
            self._older = (
                (self._file.generation, head.commit),
                [commit for commit in known if commit < head.commit],
            )

    def announced(self) -> list[tuple[str, int, int]]:
        """What reading the newest segment is going to read."""
        head = self._head
        return [] if head is None else [(self._file.name, *part) for part in _parts(head, 0, head.used)]

    def segments(self) -> list[int]:
        if self._file.keeps and not self._looked:
            self._head = self._found()
        self._looked = False
        head = self._newest()
        if head is None:
            return []
        key = (self._file.generation, head.commit)
        if self._older is None or self._older[0] != key:
            directory = self._file.directory()
            self._note(
                head,
                self._file.look(lambda file, _: list(_names(file)))[0]
                if directory is None
                else sorted(directory.segments),
            )
        return [*(self._older[1] if self._older is not None else ()), head.commit]

    def read(self, commit: int, start: int) -> bytes:
        head = self._newest()
        if head is None or head.commit != commit:
            head = self._ended(commit)
        if head is None:
            raise NotFoundError(
                f"{self._file.path}: no segment of the commit log begins with commit {commit}"
            )
        found, newest = head, head is self._head

        def part(offset: int, length: int) -> bytes:
            return b"".join(
                self._file.files.read(self._file.name, *part)
                for part in _parts(found, offset, offset + length)
            )

        data = part(start, segment_end(part, start, head.used, self._file.path) - start)
        if newest and isinstance(self._file, FarFile):
            if start == 0:
                self._file.begins(head.pieces[0][0], data)
            if data and (start or len(head.pieces) > 1):  # in pieces: were all of them of the same file?
                self._check_file()
        return data

    def _check_file(self) -> None:
        assert isinstance(self._file, FarFile)
        generation = self._file.generation
        self._file.check_base()
        if self._file.generation != generation:
            raise CorruptError(f"{self._file.path}: another file has taken its place; open it again")

    def _ended(self, commit: int) -> Head | None:
        """Where a segment lies that is not the newest."""
        directory = self._file.directory()
        if directory is None:
            return self._file.look(lambda file, overlay: _segment(file, commit, overlay.end))[0]
        known = directory.segments.get(commit)
        return None if known is None else Head(0, commit, *known)

    def append(self, record: bytes) -> None:
        head = self._head
        if head is None:
            raise CorruptError(f"{self._file.path}: there is no commit log; run `replaystore repair`")
        if head.used + len(record) > head.room:
            head = self._more_room(head, len(record))
        data, done = memoryview(record), 0
        for offset, length in _parts(head, head.used, head.used + len(record)):
            self._file.files.write(self._file.name, offset, data[done : done + length])
            done += length
        self._write_head(replace(head, sequence=head.sequence + 1, used=head.used + len(record)))

    def _write_head(self, head: Head) -> None:
        self._file.write_head(head)
        self._head = head

    def _more_room(self, head: Head, size: int) -> Head:
        """Add a piece to the newest segment, as large as all before, so that there are never many."""

        def extend(file: Any, overlay: Overlay) -> Head:
            piece = make_room(file, f"{head.commit}.{len(head.pieces)}", _rounded(max(head.room, 2 * size)))
            longer = replace(head, sequence=head.sequence + 1, pieces=(*head.pieces, piece))
            overlay.front[longer.slot] = longer.pack()
            return longer

        self._head = self._file.change(extend)
        return self._head

    def begin(self, commit: int, record: bytes) -> None:
        head = self._head
        size = _rounded(max(LEAST, 4 * len(record), min(MOST, 2 * head.used if head else 0)))

        def change(file: Any, overlay: Overlay) -> Head:
            if head is not None:
                _end(file, overlay, head, commit)
            piece = room_for_record(
                file, overlay, str(commit), size, record, free_pieces(group(file, LOG, make=True))
            )
            fresh = Head(head.sequence + 1 if head else 1, commit, len(record), (piece,))
            overlay.front[fresh.slot] = fresh.pack()
            return fresh

        self._head = self._file.change(change)
        self._older = None

    def replace(self, kept: Mapping[int, bytes], removed: Sequence[int]) -> None:
        """Instead of older segments have these, of one record each, and remove others."""

        def change(file: Any, overlay: Overlay) -> None:
            owner, names = group(file, LOG), _names(file)
            free = free_pieces(owner)  # what becomes free by this is in use until it has happened
            for commit in (*removed, *kept):
                overlay.notes.dropped.append((commit, commit))
                for name in names.get(commit, ()):
                    set_free(owner, name)
            for commit, record in kept.items():
                piece = room_for_record(file, overlay, str(commit), _rounded(len(record)), record, free)
                _count(owner, str(commit), len(record))
                overlay.notes.ended[commit] = len(record), (piece,)

        self._file.change(change)
        self._older = None

    def cut(self, commit: int, length: int) -> None:
        head = self._head
        if head is not None and commit < head.commit:
            self._back_to(head, commit, length)
        elif head is None or commit != head.commit or not 0 <= length <= head.used:
            raise self._nowhere(commit, length)
        elif length < head.used:
            self._write_head(replace(head, sequence=head.sequence + 1, used=length))
            self._file.sync()  # the other head names the bytes that the next record overwrites

    def _back_to(self, head: Head, commit: int, length: int) -> None:
        """Make an older segment the newest."""

        def change(file: Any, overlay: Overlay) -> Head:
            found = _segment(file, commit, overlay.start)
            if found is None or not 0 <= length <= found.used:
                raise self._nowhere(commit, length)
            _drop(file, overlay, commit + 1, head.commit)
            older = replace(found, sequence=head.sequence + 1, used=length)
            overlay.front[older.slot] = older.pack()
            return older

        self._head = self._file.change(change)
        self._older = None

    def _nowhere(self, commit: int, length: int) -> CorruptError:
        return CorruptError(
            f"{self._file.path}: the commit log has no byte {length} after commit {commit}; reopen the store"
        )

    def keep_newest(self, file: Any, overlay: Overlay) -> None:
        """In a transaction: remove all segments but the newest."""
        _drop(file, overlay, 0, self._head.commit - 1 if self._head is not None else -1)

    def changed(self) -> None:
        """Segments were removed."""
        self._older = None


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _parts(head: Head, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the parts of a segment's pieces that hold its bytes [start, stop)."""
    begin = 0
    for offset, length in head.pieces:
        first, last = max(start, begin), min(stop, begin + length)
        if first < last:
            yield offset + first - begin, last - first
        begin += length


def _names(file: Any) -> dict[int, list[str]]:
    """The datasets of each segment, in order."""
    found: dict[int, dict[int, str]] = {}
    for key in list(group(file, LOG)):
        name = key.decode("ascii", "replace")
        parsed = re.fullmatch(r"([0-9]{1,18})(?:\.([0-9]{1,3}))?", name)
        if parsed:
            found.setdefault(int(parsed[1]), {})[int(parsed[2] or 0)] = name
    return {commit: [names[number] for number in sorted(names)] for commit, names in sorted(found.items())}


def _segment(file: Any, commit: int, end: int) -> Head | None:
    """Where an older segment lies; `end`: that of the HDF5 bytes."""
    pieces, used = [], None
    for name in _names(file).get(commit, ()):
        found = child(group(file, LOG), name)
        plist = found.get_create_plist() if isinstance(found, h5py.h5d.DatasetID) else None
        if (
            plist is None
            or plist.get_layout() != h5py.h5d.CONTIGUOUS
            or plist.get_external_count()
            or found.dtype != np.uint8
        ):
            raise CorruptError(f"{LOG}/{name} is not a piece of the log; run `replaystore verify`")
        offset, length = (found.get_offset() or 0) + origins().contiguous, int(found.get_storage_size())
        if not USERBLOCK <= offset <= end - length:
            raise CorruptError(f"{LOG}/{name} lies outside the file; run `replaystore verify`")
        if used is None and h5py.h5a.exists(found, USED.encode()):
            attribute = h5py.h5a.open(found, USED.encode())
            used = (
                int(h5py.Dataset(found).attrs[USED])
                if attribute.shape == () and attribute.dtype.kind == "u"
                else None
            )
        pieces.append((offset, length))
    room = sum(length for _, length in pieces)
    return Head(0, commit, room if used is None else min(used, room), tuple(pieces)) if pieces else None


def ended(file: Any, end: int) -> dict[int, tuple[int, tuple[tuple[int, int], ...]]]:
    """How much counts of each segment, as far as HDF5 knows, and its pieces; `end`: that of the HDF5
    bytes."""
    found = {commit: _segment(file, commit, end) for commit in _names(file)}
    return {commit: (head.used, head.pieces) for commit, head in found.items() if head is not None}


def _drop(file: Any, overlay: Overlay, first: int, last: int) -> None:
    """Remove the segments that begin with these commits."""
    owner = group(file, LOG)
    overlay.notes.dropped.append((first, last))
    for commit, names in _names(file).items():
        for name in names if first <= commit <= last else ():
            remove(owner, name)


def _count(owner: Any, name: str, used: int) -> None:
    """Note how much counts of a segment that is not the newest."""
    h5py.Dataset(child(owner, name)).attrs[USED] = np.uint64(used)


def _end(file: Any, overlay: Overlay, head: Head, successor: int) -> None:
    """Before a segment begins: note how much counts of the one that was the newest, and remove those that
    come after the new one."""
    names = _names(file).get(head.commit)
    if names and head.commit < successor:
        _count(group(file, LOG), names[0], head.used)
        overlay.notes.ended[head.commit] = head.used, head.pieces
    _drop(file, overlay, successor, NO_COMMIT)
