"""Objects whose heads are alike, and where the rows lie of those that are datasets: in one piece, or in
chunks that a B-tree of one level lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.minari.messages import (
    CHUNKED,
    CONTIGUOUS,
    LAYOUT,
    SPACE,
    TYPE,
    OddError,
    dtype_of,
)

__all__ = ["MOST_HEAD", "MOST_NODES", "Dataset", "Kind", "dataset_of", "words"]

Places = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Gather = Callable[[Places, int], Bytes]

MOST_HEAD = 1 << 16
MOST_NODES = 64
MOST_NUMBER = 1 << 60
"""The sum of a few such numbers is one of 64 bits, too."""


@dataclass(frozen=True)
class Dataset:
    """Datasets of one name whose heads are alike: where the rows of each lie."""

    which: Places
    """Their positions among the objects that were asked for."""
    dtype: np.dtype[Any] | None
    """None: of something else than numbers, or stored in a way that is not followed here."""
    shape: NDArray[np.int64]
    """Of each, (count, rank)."""
    chunk: NDArray[np.int64]
    """The shape of the chunks of each."""
    begins: Places
    """The first piece of each; one more at the end."""
    address: Places
    """Of each piece."""
    offset: NDArray[np.int64]
    """Its place in the dataset, (pieces, rank)."""


@dataclass
class Kind:
    """Objects whose heads are alike."""

    which: Places
    messages: list[tuple[int, int, int]]
    """(type, where its content begins in `data`, length)."""
    data: Bytes
    odd: bool

    def one(self, wanted: int) -> tuple[int, int] | None:
        """Where the only message of a type lies. OddError: there are several."""
        found = [(at, length) for kind, at, length in self.messages if kind == wanted]
        if len(found) > 1:
            raise OddError
        return found[0] if found else None

    def numbers(self, at: int, dtype: str = "<u8") -> NDArray[np.int64]:
        """A number of each head. OddError: it is beyond any file."""
        width = np.dtype(dtype).itemsize
        found = np.ascontiguousarray(self.data[:, at : at + width]).view(dtype)[:, 0]
        if found.size and int(found.max()) > MOST_NUMBER:
            raise OddError
        return found.astype(np.int64)


def dataset_of(gather: Gather, size: int, kind: Kind, ids: Places) -> Dataset:
    space, type_, layout = kind.one(SPACE), kind.one(TYPE), kind.one(LAYOUT)
    if space is None or type_ is None or layout is None:
        raise OddError
    version, rank = kind.data[0, space[0] : space[0] + 2].tolist()
    begin = {1: 8, 2: 4}.get(version, MOST_HEAD)
    if rank > 31 or space[1] < begin + 8 * rank:
        raise OddError
    begin += space[0]
    shape = np.zeros((len(ids), rank), np.int64)
    for axis in range(rank):
        shape[:, axis] = kind.numbers(begin + 8 * axis)
    dtype = None if kind.odd else dtype_of(bytes(kind.data[0, type_[0] : type_[0] + type_[1]]))
    nothing = np.zeros(0, np.int64)
    if dtype is not None and rank and _bytes(shape, dtype) <= MOST_NODES * size:
        said = bytes(kind.data[0, layout[0] : layout[0] + 3])
        pieces = None
        if layout[1] >= 15 + 4 * rank and said == bytes((3, CHUNKED, rank + 1)):
            pieces = _chunks(gather, size, kind, layout[0] + 3, shape, dtype)
        elif layout[1] >= 18 and said[:2] == bytes((3, CONTIGUOUS)):
            pieces = _in_one_piece(size, kind, layout[0] + 2, shape, dtype)
        if pieces is not None:
            return Dataset(ids, dtype, shape, *pieces)
    return Dataset(ids, None, shape, shape, nothing, nothing, nothing)


def _in_one_piece(
    size: int, kind: Kind, at: int, shape: NDArray[np.int64], dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], Places, Places, NDArray[np.int64]]:
    address, stored = kind.numbers(at), kind.numbers(at + 8)
    count = len(shape)
    if (stored != shape.prod(1) * dtype.itemsize).any() or (address + stored > size).any():
        raise OddError
    return shape, np.arange(count + 1), address, np.zeros_like(shape)


def _chunks(
    gather: Gather, size: int, kind: Kind, at: int, shape: NDArray[np.int64], dtype: np.dtype[Any]
) -> tuple[NDArray[np.int64], Places, Places, NDArray[np.int64]] | None:
    """(chunk shapes, begins, addresses, offsets); None: they are not all there, or the tree has several
    levels."""
    rank = shape.shape[1]
    lengths = [kind.numbers(at + 8 + 4 * axis, "<u4") for axis in range(rank + 1)]
    chunk = np.stack(lengths[:-1], axis=1)
    if (chunk < 1).any() or (lengths[-1] != dtype.itemsize).any():
        raise OddError
    if _bytes(chunk, dtype) > size:
        raise OddError
    trees = np.ascontiguousarray(kind.data[:, at : at + 8]).view("<u8")[:, 0]
    if (trees == np.iinfo(np.uint64).max).any():
        return None  # nothing was ever written
    places = kind.numbers(at)
    nodes = gather(places, 24)
    entries = np.ascontiguousarray(nodes[:, 6:8]).view("<u2")[:, 0].astype(np.int64)
    if (nodes[:, :5] != np.frombuffer(b"TREE\x01", np.uint8)).any():
        raise OddError
    if (nodes[:, 5] != 0).any() or int(entries.max()) > MOST_NODES:
        return None
    wanted = (-(-shape // chunk)).prod(1)
    if (entries != wanted).any():
        return None
    takes = chunk.prod(1) * dtype.itemsize
    begins = np.concatenate([[0], np.cumsum(entries)])
    address = np.empty(int(begins[-1]), np.int64)
    offset = np.empty((int(begins[-1]), rank), np.int64)
    step = 2 + rank + 1  # words of a key and its child
    for count in np.unique(entries).tolist():
        some = np.flatnonzero(entries == count)
        if not count:
            continue
        rows = words(gather(places[some] + 24, 8 * step * count)).reshape(len(some), count, step)
        to = (begins[some][:, None] + np.arange(count)).reshape(-1)
        # The first word has the size, and which filters were left out.
        if (rows[:, :, 0] != takes[some][:, None]).any() or (rows[:, :, rank + 1] != 0).any():
            return None
        offset[to] = rows[:, :, 1 : rank + 1].reshape(-1, rank)
        address[to] = rows[:, :, -1].reshape(-1)
    _check_pieces(size, shape, chunk, entries, address, offset, takes)
    return chunk, begins, address, offset


def _check_pieces(
    size: int,
    shape: NDArray[np.int64],
    chunk: NDArray[np.int64],
    entries: Places,
    address: Places,
    offset: NDArray[np.int64],
    takes: Places,
) -> None:
    """OddError: pieces do not lie in the file, or not side by side in their datasets."""
    owner = np.repeat(np.arange(len(shape)), entries)
    if (offset % chunk[owner]).any() or (offset < 0).any() or (offset >= shape[owner]).any():
        raise OddError
    if (address < 0).any() or (address > size - takes[owner]).any():
        raise OddError
    if _twice(owner, offset, chunk[owner], shape[owner]):
        raise OddError


def _bytes(shape: NDArray[np.int64], dtype: np.dtype[Any]) -> float:
    """How many bytes the largest of these takes, which may be more than a number of 64 bits is."""
    return float(shape.astype(np.float64).prod(1).max(initial=0.0)) * dtype.itemsize


def _twice(owner: Places, offset: Places, chunk: Places, shape: Places) -> bool:
    """Whether two pieces of one dataset have the same place."""
    if not (owner[1:] == owner[:-1]).any():
        return False
    across = -(-shape // chunk)
    place = np.zeros(len(owner), np.int64)
    for axis in range(offset.shape[1]):
        place = place * across[:, axis] + offset[:, axis] // chunk[:, axis]
    pairs = np.stack([owner, place], axis=1)
    return len(np.unique(pairs, axis=0)) < len(pairs)


def words(data: Bytes) -> NDArray[np.int64]:
    return np.ascontiguousarray(data).view("<i8")
