"""The state of a store as of one commit, and what a record of the commit log makes of it.

A segment of the log begins with a base record, which says everything; each further record says what changed.
The newest valid record of the newest segment is the state of the store, and the only truth about it.

A record `{"commit": N, "forked": true}` says of the rollback that commit N was that all objects have got
their new identity.

Nothing is checked here: records.py has what is read from a log checked before it gets here.

Invariants: (1) a record is appended only after all bytes that it speaks of are durable; (2) commit numbers
grow by one; (3) rows that a commit counted are never written again, unless a later record has rolled it back,
and then in new objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.differences import INT, NO_NUMBERS, difference, numbers_of
from replaystore.arrays.naming import Named
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import ChunkEntry
from replaystore.schema import tree

__all__ = ["DOCUMENT", "SEALED", "Piece", "State", "Stored", "first_row"]

SEALED = "sealed"
"""The key of `extra` that says that a store is never written to again."""
DOCUMENT = "document"
"""The blob of a base record that is a copy of the document, if that is not large: for repairs."""
KEEP_COMMITS, KEEP_NAMED = 1000, 1
"""Of the newest commits, and of the rows of the newest named ones, unless a store is told otherwise."""

Blobs = Mapping[str, bytes]


@dataclass(frozen=True)
class Piece:
    """Rows of a coded array's unfinished chunk, raw, in a tail array."""

    start: int
    rows: int
    slot: int
    offset: int
    checksum: int


class Stored(NamedTuple):
    """What of a table has reached its array."""

    rows: int = 0
    """Rows of it, dropped ones included."""
    checksum: int = 0
    """The crc32c of the bytes of rows [first, rows)."""
    first: int = 0
    """The first row of the first shard that is still there."""


@dataclass
class State:
    """A store as of one commit."""

    store: str = ""
    """The name that the store was given when it was made, unlike that of any other."""
    commit: int = 0
    parent: int = -1
    """The commit that this one continues: the one before it, or the one that was rolled back to."""
    time: float = 0.0
    """When it was made, in seconds since 1970."""
    lengths: dict[str, int] = field(default_factory=dict)
    """Rows of the arrays of each group (the first part of their names)."""
    first: dict[str, int] = field(default_factory=dict)
    """Steps before this one are dropped. Of a ring it has the key `steps` from its first commit on."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Of a ring, as of the base record: rows of tables of these groups that come before are about dropped
    steps alone, and gone; `steps`: so are checksums of chunks that end before this step."""
    marks: list[list[int]] = field(default_factory=list)
    """Of a ring, as of some base records: [steps, parts, trajectories, final] that there were. When all of
    those steps have been dropped, so can the rows of those tables be."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What the caller of `commit` keeps with it: JSON, and tables of int64 numbers (differences.py)."""
    partial: dict[str, int] = field(default_factory=dict)
    """Raw arrays: crc32c of the rows of the unfinished chunk. Coded arrays of a sealed store: the checksum of
    the padded last chunk."""
    tails: dict[str, list[Piece]] = field(default_factory=dict)
    entries: dict[str, dict[int, ChunkEntry]] = field(default_factory=dict)
    """Coded arrays: where chunks lie that the container may not know of."""
    tables: dict[str, Stored] = field(default_factory=dict)
    """Journaled arrays: what has reached the array as of the base record."""
    appended: dict[str, list[bytes]] = field(default_factory=dict)
    """Journaled arrays: rows of the records since."""
    attached: dict[str, bytes | Piece] = field(default_factory=dict)
    """Bytes kept with this commit alone: here if they are few, else in a tail array."""
    arrays: dict[str, ArraySpec] = field(default_factory=dict)
    """The arrays that exist as of this commit, and what they are; others in the container are left over from
    a killed writer."""
    dead: list[list[int]] = field(default_factory=list)
    """Commits that were rolled back, as [first, last]."""
    unforked: bool = False
    """A rollback has been recorded, but the objects that rows will be written to anew are still those that
    readers of what was given up have open: they get a new identity (`Container.fork`) before anything else is
    written."""
    base: int = 0
    """The commit that the segment of the log begins with."""
    base_end: int = 0
    """Where the base record ends in that segment."""
    end: int = 0
    """Where the next record goes in it."""
    mutable: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    """Mutable journaled arrays: their rows as of this commit that are not dropped, one row of bytes each."""
    shows: int = -1
    """The commit whose content this one shows: itself, or the one that was rolled back to, or given a name
    once more (-1: itself)."""
    names: dict[str, Named] = field(default_factory=dict)
    """The commits that have names, oldest first."""
    keep_named: int = KEEP_NAMED
    """Rows that so many of the newest named commits show are kept, although they have left the ring."""
    keep_commits: int = KEEP_COMMITS
    """So many of the newest commits can be opened, and the named ones."""
    pruned: int = 0
    """Commits before this one may have gone from the log, as of the base record: but for named ones."""
    gone: dict[str, int] = field(default_factory=dict)
    """Of each group that drops rows: those before this one are needed by nobody, and may be gone."""
    _room: dict[str, NDArray[np.uint8]] = field(init=False, repr=False, default_factory=dict)
    """What those rows lie in, with room ahead, so that growing by some costs what they are."""

    more: dict[str, Any] = field(default_factory=dict)
    """What writers that know more keep, by names with a dot or a colon in them: it is carried along."""

    def __post_init__(self) -> None:
        self.shows = self.commit if self.shows < 0 else self.shows

    @property
    def generation(self) -> int:
        """Grows with each rollback: from then on objects may get a new identity."""
        return len(self.dead)

    @property
    def identity(self) -> tuple[int, bool]:
        """Changes when objects may have got a new identity, and when they all have it."""
        return len(self.dead), self.unforked

    def is_dead(self, commit: int) -> bool:
        return any(first <= commit <= last for first, last in self.dead)

    @property
    def name(self) -> str | None:
        """The name of the commit, if it has one."""
        newest = next(reversed(self.names.items()), None)
        return newest[0] if newest is not None and newest[1].commit == self.commit else None

    def needed(self, group: str) -> int:
        """The first row of a group that somebody may want: the commit, or one of the newest named ones. What
        lies before it is given back."""
        row = self.first.get(group, 0)
        if row:
            newest = islice(reversed(self.names.values()), self.keep_named)
            row = min([row, *(first_row(named.first, group, row) for named in newest)])
        return max(row, self.gone.get(group, 0))

    def give(self, name: str) -> None:
        """Name the commit; another one that had the name loses it."""
        self.names.pop(name, None)
        self.names[name] = Named(self.commit, dict(self.first))

    def apply(self, meta: Mapping[str, Any], blobs: Blobs) -> None:
        """Go on to the next commit; or, in the same one, note that objects have got a new identity."""
        if meta.get("forked"):
            self.unforked = False
            return
        self.commit, self.parent, self.time = meta["commit"], meta["parent"], meta["time"]
        self.lengths.update(meta["lengths"])
        self.first.update(meta.get("first", {}))
        self.shows = meta.get("shows", self.commit)
        self.keep_named = meta.get("keep_named", self.keep_named)
        self.keep_commits = meta.get("keep_commits", self.keep_commits)
        if "name" in meta:
            self.give(meta["name"])
        self.names.pop(meta.get("forget", ""), None)
        self.gone = {group: self.needed(group) for group in self.first}
        self.extra = meta["extra"]
        self.partial = meta["partial"]
        if meta.get("arrays"):
            self.arrays = self.arrays | _arrays(meta["arrays"])
        told = {**self.more, **meta.get("more", {})}
        self.more = {key: value for key, value in told.items() if value is not None}
        if meta.get("tail_reset"):
            self.tails = {}
        self.attached = {name: Piece(*numbers) for name, numbers in meta.get("attached", {}).items()}
        for name, (unfinished, pieces) in meta.get("tails", {}).items():
            known = [piece for piece in self.tails.get(name, []) if piece.start >= unfinished]
            self.tails[name] = known + [Piece(*numbers) for numbers in pieces]
        for name, entries in meta.get("entries", {}).items():
            self.entries.setdefault(name, {}).update(
                {number: ChunkEntry(*place) for number, *place in entries}
            )
        for name, blob in blobs.items():
            kind, _, array = name.partition(":")
            if kind == "keep":
                self.attached[array] = blob
            elif kind == "rows":
                self.appended.setdefault(array, []).append(blob)
            elif kind == "grow":
                self._grow(array, blob)
            elif kind == "at":
                at = np.frombuffer(blob, "<i8")
                changed = self.mutable[array].copy()
                changed[at - self.dropped.get(array.split("/", 1)[0], 0)] = _rows(
                    blobs["set:" + array], len(at)
                )
                self.mutable[array] = changed

    def _grow(self, array: str, blob: bytes) -> None:
        """Append the rows that a mutable table lacks. What was handed out of it stays as it is."""
        before, group = self.mutable.get(array), array.split("/", 1)[0]
        known = 0 if before is None else len(before)
        rows = _rows(blob, self.lengths[group] - self.dropped.get(group, 0) - known)
        if before is None or not known:
            self.mutable[array] = rows
        elif len(rows):
            room = self._room.get(array, before)
            if before.base is not room or known + len(rows) > len(room):
                room = np.empty((2 * (known + len(rows)), before.shape[1]), np.uint8)
                room[:known], self._room[array] = before, room
            room[known : known + len(rows)] = rows
            self.mutable[array] = room[: known + len(rows)]

    def drop(self, dropped: Mapping[str, int]) -> None:
        """Rows of tables before these are gone."""
        for name, rows in self.mutable.items():
            group = name.split("/", 1)[0]
            gone = dropped.get(group, 0) - self.dropped.get(group, 0)
            if gone > 0:
                self.mutable[name] = rows[gone:].copy()
        self.dropped = {**self.dropped, **dropped}

    def to_base(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """The base record of a segment that goes on from here."""
        pieces = {
            name: list(vars(kept).values()) for name, kept in self.attached.items() if isinstance(kept, Piece)
        }
        meta = {
            "base": True,
            "store": self.store,
            "commit": self.commit,
            "parent": self.parent,
            "time": self.time,
            "lengths": self.lengths,
            "first": self.first,
            "extra": {key: value for key, value in self.extra.items() if not isinstance(value, np.ndarray)},
            "partial": self.partial,
            "tails": {
                name: [list(vars(piece).values()) for piece in pieces] for name, pieces in self.tails.items()
            },
            "entries": {
                name: [[n, e.object, e.offset, e.length] for n, e in known.items()]
                for name, known in self.entries.items()
            },
            "tables": {name: list(known) for name, known in self.tables.items()},
            "attached": pieces,
            "arrays": {name: spec.to_json() for name, spec in self.arrays.items()},
            "dead": self.dead,
        }
        if self.dropped or self.marks:
            meta |= {"dropped": self.dropped, "marks": self.marks}
        if self.unforked:
            meta["unforked"] = True
        if self.shows != self.commit:
            meta["shows"] = self.shows
        if self.names:
            meta["names"] = {name: [named.commit, named.first] for name, named in self.names.items()}
        if self.keep_named != KEEP_NAMED:
            meta["keep_named"] = self.keep_named
        if self.keep_commits != KEEP_COMMITS:
            meta["keep_commits"] = self.keep_commits
        if self.pruned:
            meta["pruned"] = self.pruned
        if self.gone:
            meta["gone"] = self.gone
        if self.more:
            meta["more"] = self.more
        blobs = {"mutable:" + name: rows.tobytes() for name, rows in self.mutable.items()}
        blobs |= {
            INT + key: difference(value, NO_NUMBERS)
            for key, value in self.extra.items()
            if isinstance(value, np.ndarray)
        }
        return meta, blobs | {
            "keep:" + name: kept for name, kept in self.attached.items() if isinstance(kept, bytes)
        }

    @classmethod
    def from_base(cls, meta: Mapping[str, Any], blobs: Blobs) -> State:
        """The state that a base record says, which nobody has checked yet."""
        mutable = {
            name.removeprefix("mutable:"): blob for name, blob in blobs.items() if name.startswith("mutable:")
        }
        kept = {name.removeprefix("keep:"): blob for name, blob in blobs.items() if name.startswith("keep:")}
        dropped = dict(meta.get("dropped", {}))
        counts = {group: rows - dropped.get(group, 0) for group, rows in meta["lengths"].items()}
        return cls(
            store=meta["store"],
            commit=meta["commit"],
            parent=meta["parent"],
            time=meta["time"],
            lengths=dict(meta["lengths"]),
            first=dict(meta["first"]),
            extra=numbers_of(meta, blobs),
            partial=meta["partial"],
            tails={name: [Piece(*numbers) for numbers in pieces] for name, pieces in meta["tails"].items()},
            entries={
                name: {n: ChunkEntry(*place) for n, *place in known}
                for name, known in meta["entries"].items()
            },
            tables={name: Stored(*numbers) for name, numbers in meta["tables"].items()},
            dropped=dropped,
            marks=[list(mark) for mark in meta.get("marks", [])],
            arrays=_arrays(meta["arrays"]),
            dead=[list(pair) for pair in meta["dead"]],
            unforked=meta.get("unforked") is True,
            base=meta["commit"],
            mutable={name: _rows(blob, counts[name.split("/", 1)[0]]) for name, blob in mutable.items()},
            attached={name: Piece(*numbers) for name, numbers in meta["attached"].items()} | kept,
            shows=meta.get("shows", meta["commit"]),
            names={
                name: Named(commit, dict(first)) for name, (commit, first) in meta.get("names", {}).items()
            },
            keep_named=meta.get("keep_named", KEEP_NAMED),
            keep_commits=meta.get("keep_commits", KEEP_COMMITS),
            pruned=meta.get("pruned", 0),
            gone=dict(meta.get("gone", {})),
            more=dict(meta.get("more", {})),
        )


def first_row(first: Mapping[str, int], group: str, unknown: int) -> int:
    """The first row of a group that a commit of a ring shows. `unknown`: of values of a field that came later
    than that commit, which shows none of them."""
    return first.get(group, unknown if tree.is_values(group) else 0)


def _arrays(described: Mapping[str, Any]) -> dict[str, ArraySpec]:
    return {name: ArraySpec.from_json(values) for name, values in described.items()}


def _rows(data: bytes, count: int) -> NDArray[np.uint8]:
    """Bytes as so many rows. A record says enough to be read without knowing the arrays: a reader may learn
    of a new one by it."""
    return np.frombuffer(data, np.uint8).reshape(count, -1) if count else np.empty((0, 0), np.uint8)
