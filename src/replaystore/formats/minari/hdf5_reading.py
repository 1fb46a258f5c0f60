"""The episodes of an HDF5 file of Minari: a group `episode_<number>` for each.

Opening a dataset by the library takes a tenth of a millisecond, and there are six or more in each episode:
where all heads are understood (heads.py), rows are read from the file at once, and by the library where not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import CorruptError, FormatError, StorageError
from replaystore.formats.minari import heads
from replaystore.formats.minari.episodes import Attribute, Leaf
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.shared.hdf5.groups import Dataset, Group, opened_hdf5
from replaystore.schema.ragged import Ragged

__all__ = ["Hdf5Episodes", "opened_episodes"]

NAME = "episode_"
NONE = np.zeros(0, np.int64)


@dataclass
class _Found:
    """Datasets of one path that are alike, in some episodes."""

    which: NDArray[np.int64]
    rows: NDArray[np.int64]
    kind: Any
    dtype: np.dtype[Any]
    row: tuple[int, ...]
    lies: heads.Dataset | None = None
    """Where their rows lie; None: the library knows."""


@dataclass
class _Places:
    """Where the rows of a path lie in each episode."""

    begin: NDArray[np.int64]
    """Of the rows of an episode that lie in one piece; -1 if they do not."""
    lies: dict[int, tuple[heads.Dataset, int]] = field(default_factory=dict)
    """Of those in several: the datasets, and which of them it is."""
    dtypes: list[tuple[NDArray[np.int64], np.dtype[Any]]] = field(default_factory=list)


@contextmanager
def opened_episodes(path: str) -> Iterator[Hdf5Episodes]:
    """A file while it is open. NotFoundError, StorageError; FormatError: it is something else, or damaged."""
    with opened(path) as (descriptor, size), opened_hdf5(path) as root:
        yield Hdf5Episodes(path, root, descriptor, size)


class Hdf5Episodes:
    """The episodes 0, 1, 2, … of an open file."""

    def __init__(self, path: str, root: Group, descriptor: int, size: int) -> None:
        self.path, self._root, self._descriptor = path, root, descriptor
        names = set(root)
        self.count = 0
        while f"{NAME}{self.count}" in names:
            self.count += 1
        self.others = len(names) - self.count
        """What is in the file beside them."""
        self._leaves: dict[str, Leaf] = {}
        self.leaves: Mapping[str, Leaf] = self._leaves
        self.attributes: Mapping[str, Attribute] = {}
        self._places: dict[str, _Places] = {}
        try:
            found = self._at_once(size)
        except heads.OddError:
            found = self._one_by_one()
        for name, some in found.items():
            self._add(name, some)

    def name(self, episode: int) -> str:
        """Of an episode's group."""
        return f"{NAME}{episode}"

    # --- what there is

    def _at_once(self, size: int) -> dict[str, list[_Found]]:
        known = self._root.addresses()
        if known is None or not self.count:
            raise heads.OddError
        places = [known.get(self.name(episode), -1) for episode in range(self.count)]
        looked = heads.Heads(self._descriptor, size)
        try:
            looked.look(np.array(places, np.int64))
        except OSError as error:
            raise self._unreadable("", error) from error
        self.attributes = {
            name: _joined(self.count, [(one.which, one.values) for one in several])
            for name, several in looked.attributes.items()
        }
        return {name: [self._found(name, one) for one in some] for name, some in looked.datasets.items()}

    def _found(self, name: str, one: heads.Dataset) -> _Found:
        if one.dtype is not None and one.shape.shape[1] and (one.shape[:, 1:] == one.shape[0, 1:]).all():
            row = tuple(one.shape[0, 1:].tolist())
            return _Found(one.which, one.shape[:, 0], "numbers", one.dtype, row, one)
        if one.dtype is not None:
            raise heads.OddError
        if not one.shape.shape[1] or (one.shape[:, 1:] != one.shape[0, 1:]).any():
            raise heads.OddError
        example = self._root.group(self.name(int(one.which[0]))).dataset(name)
        row = example.shape[1:]
        return _Found(one.which, one.shape[:, 0], example.kind, example.dtype, row)

    def _one_by_one(self) -> dict[str, list[_Found]]:
        found: dict[str, list[_Found]] = {}
        rows: dict[str, list[list[int]]] = {}
        told: dict[str, list[tuple[NDArray[np.int64], Any]]] = {}
        for episode in range(self.count):
            group = self._root.group(self.name(episode))
            for name, value in group.attributes.items():
                number = np.asarray(value) if isinstance(value, bool | int | float | np.generic) else None
                values = None if number is None else number[None]
                told.setdefault(name, []).append((np.array([episode]), values))
            for name, data in group.walk():
                one = _Found(NONE, NONE, data.kind, data.dtype, data.shape[1:])
                key = f"{name}\0{one.kind}{one.dtype}{one.row}"
                if key not in rows:
                    found.setdefault(name, []).append(one)
                    rows[key] = [[], []]
                rows[key][0].append(episode)
                rows[key][1].append(data.shape[0] if data.shape else 0)
        for name, several in found.items():
            for one in several:
                one.which, one.rows = map(np.array, rows[f"{name}\0{one.kind}{one.dtype}{one.row}"])
        self.attributes = {name: _joined(self.count, values) for name, values in told.items()}
        return found

    def _add(self, name: str, found: list[_Found]) -> None:
        rows = np.full(self.count, -1, np.int64)
        places = _Places(np.full(self.count, -1, np.int64))
        for one in found:
            rows[one.which] = one.rows
            places.dtypes.append((one.which, one.dtype))
            if one.lies is not None:
                _note(places, one, one.lies)
        self._leaves[name] = _leaf(found, rows)
        self._places[name] = places

    # --- rows

    def whole(self, path: str, begin: int, end: int) -> Any:
        """All rows of episodes [begin, end), one episode behind the other."""
        leaf, places = self.leaves[path], self._places[path]
        rows = leaf.rows[begin:end]
        at = places.begin[begin:end]
        if leaf.kind == "numbers" and not leaf.cast and (at >= 0).all() and leaf.row_bytes:
            return self._joined(path, leaf, at, rows)
        parts = [self.part(path, begin + place, 0, count) for place, count in enumerate(rows.tolist())]
        if leaf.kind == "numbers":
            return np.concatenate(parts)
        return Ragged.concatenate(parts)

    def part(self, path: str, episode: int, start: int, stop: int) -> Any:
        """Rows [start, stop) of one episode."""
        leaf, places = self.leaves[path], self._places[path]
        if leaf.kind != "numbers":
            data = self._dataset(path, episode)
            if leaf.kind == "texts":
                return Ragged.of(data.texts(start, stop), text=True)
            return Ragged.of(data.arrays(start, stop), leaf.dtype, ())
        dtype = leaf.dtype
        if leaf.cast:
            dtype = next(dtype for which, dtype in places.dtypes if (which == episode).any())
        at = int(places.begin[episode])
        if at >= 0:
            values = self._rows(path, dtype, leaf.row, at, start, stop)
        elif episode in places.lies:
            values = self._pieces(path, *places.lies[episode], start, stop)
        else:
            values = self._dataset(path, episode).read(start, stop)
        return values.astype(leaf.dtype, copy=False)

    def sizes(self, path: str, episode: int, start: int, stop: int) -> NDArray[np.int64]:
        """How many bytes the values of rows [start, stop) take, of texts and arrays."""
        data = self._dataset(path, episode)
        return data.lengths(start, stop) * (1 if data.kind == "texts" else data.dtype.itemsize)

    def _dataset(self, path: str, episode: int) -> Dataset:
        return self._root.group(self.name(episode)).dataset(path)

    def _joined(self, path: str, leaf: Leaf, at: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
        fd, read, width = self._descriptor, os.pread, leaf.row_bytes
        pieces = zip(at.tolist(), (rows * width).tolist(), strict=True)
        try:
            data = bytearray().join([read(fd, count, place) for place, count in pieces])
        except OSError as error:
            raise self._unreadable(path, error) from error
        total = int(rows.sum())
        if len(data) != total * width:
            raise self._shorter()
        values = np.frombuffer(data, leaf.dtype).reshape(total, *leaf.row)
        return self._sound(path, values)

    def _rows(
        self, path: str, dtype: np.dtype[Any], row: tuple[int, ...], at: int, start: int, stop: int
    ) -> NDArray[Any]:
        values = np.empty((stop - start, *row), dtype)
        width = values.nbytes // max(1, stop - start)
        self._fill(path, values, at + start * width)
        return self._sound(path, values)

    def _fill(self, path: str, values: NDArray[Any], at: int) -> None:
        rest = memoryview(values.reshape(-1).view(np.uint8).data) if values.size else memoryview(b"")
        while rest:
            try:
                got = os.preadv(self._descriptor, [rest], at)
            except OSError as error:
                raise self._unreadable(path, error) from error
            if not got:
                raise self._shorter()
            rest, at = rest[got:], at + got

    def _pieces(self, path: str, lies: heads.Dataset, which: int, start: int, stop: int) -> NDArray[Any]:
        """Rows that lie in chunks, of which only those are read that have some of them."""
        assert lies.dtype is not None
        shape, chunk = lies.shape[which], lies.chunk[which].tolist()
        values = np.empty((stop - start, *shape[1:].tolist()), lies.dtype)
        low, high = int(lies.begins[which]), int(lies.begins[which + 1])
        offsets = lies.offset[low:high]
        piece = np.empty(chunk, lies.dtype)
        wanted = np.flatnonzero((offsets[:, 0] < stop) & (offsets[:, 0] + chunk[0] > start))
        for place in wanted.tolist():
            first, *inner = offsets[place].tolist()
            begin, end = max(start, first), min(stop, first + chunk[0])
            self._fill(path, piece, int(lies.address[low + place]))
            to = tuple(slice(at, at + length) for at, length in zip(inner, chunk[1:], strict=True))
            there = values[(slice(begin - start, end - start), *to)]
            some = tuple(slice(0, length) for length in there.shape[1:])
            there[...] = piece[(slice(begin - first, end - first), *some)]
        return self._sound(path, values)

    def _sound(self, path: str, values: NDArray[Any]) -> NDArray[Any]:
        if values.dtype == np.bool_ and values.size and int(values.view(np.uint8).max()) > 1:
            raise CorruptError(
                f"{self.path}, {path!r}: a value that must be 0 or 1 is something else: it is damaged"
            )
        return values

    def _unreadable(self, path: str, error: OSError) -> StorageError:
        where = f"{self.path}, {path!r}" if path else self.path
        return StorageError(f"{where} cannot be read: {error.strerror or error}", error.errno)

    def _shorter(self) -> FormatError:
        return CorruptError(f"{self.path}: the file became shorter while it was read: copy it again")


def _note(places: _Places, one: _Found, lies: heads.Dataset) -> None:
    """Where rows lie, of datasets that are alike."""
    counts = np.diff(lies.begins)
    plain = (counts == 1) & (lies.chunk[:, 1:] == lies.shape[:, 1:]).all(1)
    places.begin[one.which[plain]] = lies.address[lies.begins[:-1][plain]]
    places.lies.update(
        (episode, (lies, place))
        for place, episode in zip(np.flatnonzero(~plain).tolist(), one.which[~plain].tolist(), strict=True)
    )


def _leaf(found: list[_Found], rows: NDArray[np.int64]) -> Leaf:
    kinds, shapes = {one.kind for one in found}, {one.row for one in found}
    dtypes = {one.dtype for one in found}
    first = found[0]
    kind: Any = first.kind if kinds <= {"numbers", "texts", "arrays"} else "other"
    leaf = Leaf(kind, first.dtype, first.row, rows)
    if len(kinds) > 1:
        leaf.mixed = f"episodes have {' and '.join(sorted(kinds))}"
    elif kind == "numbers" and len(shapes) > 1:
        leaf.mixed = f"episodes have the shapes {', '.join(map(str, sorted(shapes)))}"
    elif len(dtypes) > 1:
        leaf.cast = " and ".join(sorted(dtype.name for dtype in dtypes))
        leaf.dtype = np.result_type(*dtypes)
        if not all(np.can_cast(dtype, leaf.dtype) for dtype in dtypes) or leaf.dtype.kind == "O":
            leaf.mixed = f"episodes have values of {leaf.cast}"
    return leaf


def _joined(count: int, found: Iterable[tuple[NDArray[np.int64], NDArray[Any] | None]]) -> Attribute:
    there = np.zeros(count, np.bool_)
    parts = list(found)
    for which, _ in parts:
        there[which] = True
    dtypes = {values.dtype for _, values in parts if values is not None}
    if any(values is None for _, values in parts) or not dtypes:
        return Attribute(there, None)
    if len({dtype.kind for dtype in dtypes}) > 1 and dtypes != {np.dtype("<i8"), np.dtype("<u8")}:
        return Attribute(there, None)
    dtype = np.result_type(*dtypes) if len({dtype.kind for dtype in dtypes}) == 1 else np.dtype(object)
    joined = np.zeros(count, dtype)
    for which, values in parts:
        joined[which] = values
    return Attribute(there, joined)
