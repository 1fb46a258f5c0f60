"""Where the rows of many like datasets lie in an HDF5 file: the heads of objects are read and compared with
NumPy, thousands at a time. The library opens one dataset in a tenth of a millisecond, and a dataset of Minari
has six of them for each episode.

Heads are believed where they are just like others whose every byte is understood here: version 1, symbol
tables, chunks in a B-tree of one level, little-endian numbers, no filters. `OddError` says that something is
else, and whoever asked goes the long way, by the library.

Invariants:
1. Every address and length is compared with the size of the file before it is read or handed on.
2. Work is bounded by the number of objects that are asked for: nothing is followed twice, nor in circles.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.minari.messages import (
    ATTRIBUTE,
    GOES_ON,
    LINK,
    LINKS,
    OLD_HEADER,
    SYMBOLS,
    OddError,
    attribute_of,
    link_of,
    taken_apart,
)
from replaystore.formats.minari.pieces import MOST_HEAD, MOST_NODES, Dataset, Kind, dataset_of, words

__all__ = ["Attribute", "Dataset", "Heads", "OddError"]

Places = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MOST_KINDS = 48
"""So many different heads are told apart among objects of the same name."""
MOST_BLOCKS = 16
TOGETHER = 1 << 13
"""So many groups are looked at together."""
SLACK = 1 << 20
MOST_DEPTH = 16
MOST_NAMES = 1 << 20


@dataclass(frozen=True)
class Attribute:
    """One number of each of several objects, by their positions among those asked for."""

    which: Places
    values: NDArray[Any] | None
    """None: it is no single number."""


@dataclass
class Heads:
    """The heads of an open file."""

    descriptor: int
    size: int
    datasets: dict[str, list[Dataset]] = field(default_factory=dict)
    attributes: dict[str, list[Attribute]] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)

    def look(self, places: Places) -> None:
        """Find the datasets of all these groups, their subgroups included, and their own attributes. `which`
        are positions in `places`. OddError."""
        for start in range(0, len(places), TOGETHER):
            some = places[start : start + TOGETHER]
            self._walk(some, np.arange(start, start + len(some)), "", 0)

    # --- bytes

    def _gather(self, places: Places, length: int) -> Bytes:
        """So many bytes from each place."""
        if len(places) and (int(places.min()) < 0 or int(places.max()) + length > self.size):
            raise OddError
        if not 0 <= length * len(places) <= self.size + SLACK:  # heads do not lie in each other
            raise OddError
        fd, read = self.descriptor, os.pread
        data = b"".join([read(fd, length, at) for at in places.tolist()])
        if len(data) != length * len(places):
            raise OddError
        return np.frombuffer(data, np.uint8).reshape(len(places), length)

    # --- heads

    def _kinds(self, places: Places) -> list[Kind]:
        found: list[Kind] = []
        left = np.arange(len(places))
        while len(left):
            if len(found) == MOST_KINDS:
                raise OddError
            kind = self._alike(places[left])
            same, kind.which = kind.which, left[kind.which]
            found.append(kind)
            left = np.delete(left, same)
        return found

    def _alike(self, places: Places) -> Kind:
        """Those that are like the first one."""
        alive, first, size, header = self._begun(places)
        messages, parts, odd, base = list[tuple[int, int, int]](), list[Bytes](), False, 0
        blocks = [(first, size)]
        while blocks:
            at, size = blocks.pop(0)
            if size > MOST_HEAD or len(parts) == MOST_BLOCKS:
                raise OddError
            data = self._gather(at, size)
            fixed, here, more, strange = taken_apart(bytes(data[0]), header)
            same = (data[:, fixed] == data[0, fixed]).all(1)
            if not same.all():
                data, alive = data[same], alive[same]
                parts = [part[same] for part in parts]
                blocks = [(at[same], size) for at, size in blocks]
            for place in more:
                where = Kind(alive, [], data, False).numbers(place)
                length = int.from_bytes(bytes(data[0, place + 8 : place + 16]), "little")
                blocks.append((where, length) if header == OLD_HEADER else (where + 4, length - 8))
            messages += [(kind, base + place, length) for kind, place, length in here]
            parts.append(data)
            base, odd = base + size, odd or strange
        if sum(kind != GOES_ON for kind, _, _ in messages) > MOST_HEAD:
            raise OddError
        return Kind(alive, messages, np.concatenate(parts, axis=1), odd)

    def _begun(self, places: Places) -> tuple[Places, Places, int, int]:
        """Those that begin as the first one does, where their messages begin, how many bytes of messages
        there are, and how long the head of each message is."""
        begin = self._gather(places, 16)
        one = bytes(begin[0])
        if one[:2] == b"\x01\0":
            size = int.from_bytes(one[8:12], "little")
            told = begin[:, [0, 1, 2, 3, 8, 9, 10, 11]]  # all but how many links lead to it
            alive = np.flatnonzero((told == told[0]).all(1))
            return alive, places[alive] + 16, size, OLD_HEADER
        if one[:5] != b"OHDR\x02":
            raise OddError
        before = 6 + (16 if one[5] & 0x20 else 0) + (4 if one[5] & 0x10 else 0)
        width = 1 << (one[5] & 3)
        begin = self._gather(places, before + width)
        size = int.from_bytes(bytes(begin[0, before:]), "little")
        same = (begin[:, :6] == begin[0, :6]).all(1) & (begin[:, before:] == begin[0, before:]).all(1)
        alive = np.flatnonzero(same)
        return alive, places[alive] + before + width, size, 6 if one[5] & 4 else 4

    def _walk(self, places: Places, which: Places, name: str, depth: int) -> None:
        if depth > MOST_DEPTH or len(self.datasets) + len(self.groups) > MOST_NODES * MOST_NODES:
            raise OddError
        for kind in self._kinds(places):
            ids = which[kind.which]
            if not depth:
                self._look_at_attributes(kind, ids)
            if kind.one(SYMBOLS) is None and kind.one(LINKS) is None:
                if not depth:
                    raise OddError  # episodes are groups
                self.datasets.setdefault(name, []).append(dataset_of(self._gather, self.size, kind, ids))
                continue
            if kind.odd:
                raise OddError
            self.groups.add(name)
            for some, members in self._members(kind):
                for part, at in members.items():
                    if not part or "/" in part:
                        raise OddError
                    self._walk(at, ids[some], f"{name}/{part}" if name else part, depth + 1)

    # --- groups

    def _members(self, kind: Kind) -> list[tuple[Places, dict[str, Places]]]:
        """By the positions of groups of a kind: where what is in them lies, by name."""
        place = kind.one(SYMBOLS)
        if place is None:
            return [(np.arange(len(kind.which)), self._linked(kind))]
        if place[1] < 16:
            raise OddError
        trees, heaps = kind.numbers(place[0]), kind.numbers(place[0] + 8)
        found: list[tuple[Places, dict[str, Places]]] = []
        left = np.arange(len(trees))
        while len(left):
            if len(found) == MOST_KINDS:
                raise OddError
            same, members = self._alike_members(trees[left], heaps[left])
            found.append((left[same], members))
            left = np.delete(left, same)
        return found

    def _linked(self, kind: Kind) -> dict[str, Places]:
        """What the messages of a group link to, which are all that it has."""
        known = kind.one(LINKS)
        if known is None:
            raise OddError
        heap = known[0] + (10 if int(kind.data[0, known[0] + 1]) & 1 else 2)
        if bytes(kind.data[0, heap : heap + 8]) != b"\xff" * 8:
            raise OddError  # they are many, and lie elsewhere
        members = {}
        for what, at, length in kind.messages:
            if what == LINK:
                found = link_of(bytes(kind.data[0, at : at + length]))
                if found is None or found[0] in members:
                    raise OddError
                members[found[0]] = kind.numbers(at + found[1])
        return members

    def _alike_members(self, trees: Places, heaps: Places) -> tuple[Places, dict[str, Places]]:
        """Those that have the names that the first one has."""
        nodes = self._gather(trees, 24)
        count = int.from_bytes(bytes(nodes[0, 6:8]), "little")
        if bytes(nodes[0, :6]) != b"TREE\0\0" or count > MOST_NODES:
            raise OddError
        alive = np.flatnonzero((nodes[:, :8] == nodes[0, :8]).all(1))
        names, objects = list[int](), list[Places]()
        children = words(self._gather(trees[alive] + 24, 16 * count + 8)) if count else None
        for child in range(count if children is not None else 0):
            assert children is not None  # for the type checker
            table = self._gather(children[:, 2 * child + 1], 8)
            entries = int.from_bytes(bytes(table[0, 6:8]), "little")
            if bytes(table[0, :6]) != b"SNOD\x01\0" or entries > MOST_NODES:
                raise OddError
            same = (table == table[0]).all(1)
            rows = words(self._gather(children[same][:, 2 * child + 1] + 8, 40 * entries))
            offsets, first = rows[:, ::5], rows[:1, ::5]
            kept = (offsets == first).all(1) & ((rows[:, 2::5] & 0xFFFFFFFF) != 2).all(1)  # 2: a soft link
            alive, children = alive[same][kept], children[same][kept]
            names = names + first[0].tolist()
            objects = [at[same][kept] for at in objects] + list(rows[kept][:, 1::5].T)
            if not len(alive) or alive[0] != 0:
                raise OddError
        return self._named(alive, heaps[alive], names, objects)

    def _named(
        self, alive: Places, heaps: Places, names: list[int], objects: list[Places]
    ) -> tuple[Places, dict[str, Places]]:
        heads = self._gather(heaps, 32)
        if bytes(heads[0, :5]) != b"HEAP\0":
            raise OddError
        length = int.from_bytes(bytes(heads[0, 8:16]), "little")
        if length > MOST_HEAD:
            raise OddError
        same = (heads[:, :16] == heads[0, :16]).all(1)
        alive, objects = alive[same], [at[same] for at in objects]
        data = self._gather(words(heads[same][:, 24:32])[:, 0], length) if names else heads[same]
        first = bytes(data[0])
        members, places = {}, np.zeros(data.shape[1], np.bool_)
        for name, at in zip(names, objects, strict=True):
            end = first.find(b"\0", name) if name < length else -1
            if end < 0:
                raise OddError
            places[name : end + 1] = True
            try:
                members[first[name:end].decode()] = at
            except UnicodeDecodeError:
                raise OddError from None
        if len(members) < len(names):
            raise OddError
        same = (data[:, places] == data[0, places]).all(1)
        return alive[same], {name: at[same] for name, at in members.items()}

    # --- attributes

    def _look_at_attributes(self, kind: Kind, ids: Places) -> None:
        for what, at, length in kind.messages:
            if what != ATTRIBUTE:
                continue
            parts = attribute_of(bytes(kind.data[0, at : at + length]))
            if parts is None:
                raise OddError
            name, dtype, place = parts
            values = None
            if dtype is not None:
                raw = np.ascontiguousarray(kind.data[:, at + place : at + place + dtype.itemsize])
                values = raw.view(dtype)[:, 0]
            self.attributes.setdefault(name, []).append(Attribute(ids, values))
