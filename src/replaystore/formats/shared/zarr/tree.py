"""The door of formats to Zarr hierarchies of other software: version 2 and 3, in a folder or in a zip file.

The chunks are decoded here and not by zarr-python, so that nothing a file says leads to code being run
(chunks.py), or to more memory than its arrays have: rows are read in slices, out of the middle of chunks
that are stored as they are.

1. Below the folder no link is followed; a member of a zip file stays inside it (`replaystore.storage`).
2. Metadata are bounded and checked before anything is allocated.
3. A chunk that is not there has the fill value, as Zarr has it; one that is too short is an error.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Never

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError, UnsupportedError
from replaystore.formats.shared.zarr.chunks import Expand, expander
from replaystore.formats.shared.zarr.metadata import Layout, check_sizes, layout_of
from replaystore.storage.folder import FolderReader
from replaystore.storage.protocol import Reads
from replaystore.storage.zip import ZipFiles

__all__ = ["ZarrArray", "ZarrTree", "opened"]

MOST_METADATA = 16 << 20
"""Bytes of one file of metadata."""
MOST_ARRAYS = 4096
DEEPEST = 32
MOST_CHUNK = 256 << 20
"""Bytes of a chunk that has to be decoded as a whole."""
KEPT = 64 << 20
"""Bytes of decoded chunks that are kept, since blocks of rows end in the middle of them."""
ZIP = b"PK\x03\x04", b"PK\x05\x06"


@contextmanager
def opened(path: str) -> Iterator[ZarrTree]:
    """The hierarchy in a folder or zip file. NotFoundError; FormatError: there is none; StorageError."""
    if not os.path.exists(path):
        raise NotFoundError(f"{path} does not exist: check the path")
    if not os.path.isdir(path):
        if not os.path.isfile(path):
            raise FormatError(f"{path} is no Zarr hierarchy: that is a folder, or a zip file")
        with open(path, "rb") as file:
            if not file.read(4).startswith(ZIP):
                raise FormatError(f"{path} is no Zarr hierarchy: that is a folder, or a zip file")
    files: Reads = FolderReader(path, writable=False) if os.path.isdir(path) else ZipFiles(path)
    try:
        yield ZarrTree(files)
    finally:
        files.close()


class ZarrTree:
    """A hierarchy. Nodes are named by their paths; the root is ""."""

    def __init__(self, files: Reads) -> None:
        self.files, self.kept = files, _Kept()
        self._known: dict[str, dict[str, Any] | None] = {}

    def __str__(self) -> str:
        return str(self.files)

    def json(self, name: str) -> Any:
        """What a file of metadata says; None: it is not there. FormatError."""
        try:
            data = self.files.read_whole(name, MOST_METADATA)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{self.files.path(name)} is no JSON ({error}): it is damaged") from error

    def _node(self, path: str) -> dict[str, Any] | None:
        """What is known of a node: the metadata of version 2 with its attributes, or those of version 3."""
        if path not in self._known:
            self._known[path] = self._read_node(path)
        return self._known[path]

    def _read_node(self, path: str) -> dict[str, Any] | None:
        below = f"{path}/" if path else ""
        found = self.json(f"{below}zarr.json")
        if found is None:
            kind, found = "array", self.json(f"{below}.zarray")
            if found is None:
                kind, found = "group", self.json(f"{below}.zgroup")
            if not isinstance(found, dict):
                if found is None:
                    return None
                self._damaged(path)
            found = {**found, "node_type": kind, "attributes": self.json(f"{below}.zattrs") or {}}
        if (
            not isinstance(found, dict)
            or found.get("zarr_format") not in (2, 3)
            or found.get("node_type") not in ("array", "group")
            or not isinstance(found.setdefault("attributes", {}), dict)
        ):
            self._damaged(path)
        return found

    def _damaged(self, path: str) -> Never:
        raise FormatError(f"{self.files.path(path)}: its Zarr metadata describe nothing: it is damaged")

    def is_group(self, path: str = "") -> bool:
        """Whether there is a group."""
        node = self._node(path)
        return node is not None and node["node_type"] == "group"

    def is_array(self, path: str) -> bool:
        """Whether there is an array."""
        node = self._node(path)
        return node is not None and node["node_type"] == "array"

    def attributes(self, path: str = "") -> Mapping[str, Any]:
        """Of a group, or of an array. FormatError: there is neither."""
        node = self._node(path)
        if node is None:
            raise FormatError(f"{self}: there is nothing of the name {path!r}")
        found: Mapping[str, Any] = node["attributes"]
        return found

    def children(self, path: str = "") -> list[str]:
        """The paths of what lies in a group, sorted."""
        below = f"{path}/" if path else ""
        names = [name for name in self.files.list(path) if name != "zarr.json" and name[:2] != ".z"]
        return sorted(below + name for name in names if self._node(below + name) is not None)

    def arrays(self, path: str = "", depth: int = 0) -> Iterator[str]:
        """The paths of all arrays in a group, and below it."""
        if depth > DEEPEST:
            raise FormatError(f"{self}: groups lie more than {DEEPEST} deep in each other: do not trust it")
        for count, name in enumerate(self.children(path)):
            if count >= MOST_ARRAYS:
                raise FormatError(f"{self}: there are over {MOST_ARRAYS} arrays: do not trust it")
            if self.is_array(name):
                yield name
            else:
                yield from self.arrays(name, depth + 1)

    def stored(self, path: str) -> int:
        """How many chunks of an array are there, or rows of them, as the first axis counts."""
        return sum(
            name != "zarr.json" and name[:2] != ".z"
            for folder in (path, f"{path}/c")
            for name in self.files.list(folder)
        )

    def array(self, path: str) -> ZarrArray:
        """An array. FormatError: there is none, or it is damaged; UnsupportedError: it is not read."""
        node, where = self._node(path), self.files.path(path)
        if node is None or node["node_type"] != "array":
            raise FormatError(f"{where}: there is no array of this name: it is damaged, or something else")
        try:
            layout = layout_of(node, where)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(
                f"{where}: its metadata are none of an array of Zarr ({error!r:.200}): it is damaged"
            ) from error
        return ZarrArray(self, path, layout)


class ZarrArray:
    """An array, of which rows are read."""

    def __init__(self, tree: ZarrTree, path: str, layout: Layout) -> None:
        self._tree, self.path, self._layout = tree, path, layout
        self.where = tree.files.path(path)
        self.dtype = layout.dtype.newbyteorder("<")
        self.full_shape, self.chunks = layout.shape, layout.chunks
        check_sizes(layout, self.where, MOST_CHUNK)
        size = layout.dtype.itemsize * math.prod(layout.chunks)
        self._expand: Expand | None = expander(layout.codecs, size, self.where)
        whole = layout.chunks[1:] == layout.shape[1:] and (layout.order == "C" or len(layout.shape) < 2)
        self._in_place = self._expand is None and whole
        """Rows can be read out of the middle of a chunk."""
        if size > MOST_CHUNK and not self._in_place:
            raise UnsupportedError(
                f"{self.where} has chunks of {size} bytes, and at most {MOST_CHUNK} are decoded at "
                "once: write it in smaller chunks"
            )
        self._chunk_bytes = size

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row."""
        return self.full_shape[1:]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return self.full_shape[0] if self.full_shape else 1

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def compressed(self) -> bool:
        """Whether chunks are compressed."""
        return self._expand is not None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), which are there. FormatError: a chunk is damaged, or a bool neither 0 nor 1."""
        found = np.empty((stop - start, *self.shape), self._layout.dtype)
        length = self.chunks[0] if self.chunks else 1
        for band in range(start // length, -(-stop // length)):
            low, high = max(start, band * length), min(stop, (band + 1) * length)
            self._band(band, low - band * length, high - band * length, found[low - start : high - start])
        if self.dtype == np.bool_ and found.size and int(found.view(np.uint8).max()) > 1:
            raise FormatError(f"{self.where}: a value that must be 0 or 1 is another one: it is damaged")
        return found.astype(self.dtype, copy=False)

    def _band(self, band: int, low: int, high: int, out: NDArray[Any]) -> None:
        """Rows [low, high) of the chunks that lie side by side in this place of the first axis."""
        if self._in_place:
            self._slice(band, low, high, out)
            return
        kept = self._tree.kept.get((self.path, band))
        if kept is None:
            length = min(self.chunks[0], self.count - band * self.chunks[0]) if self.chunks else 1
            whole = (low, high) == (0, length)
            kept = out if whole else np.empty((length, *self.shape), self._layout.dtype)
            grid = [range(-(-n // chunk)) for n, chunk in zip(self.shape, self.chunks[1:], strict=True)]
            for place in itertools.product(*grid):
                self._put(kept, (band, *place), place)
            if whole:
                return
            self._tree.kept.put((self.path, band), kept)
        out[...] = kept[low:high]

    def _put(self, target: NDArray[Any], at: tuple[int, ...], place: tuple[int, ...]) -> None:
        """Decode one chunk into rows of the array."""
        inner = tuple(
            slice(number * chunk, min(n, (number + 1) * chunk))
            for number, chunk, n in zip(place, self.chunks[1:], self.shape, strict=True)
        )
        view = target[(slice(None), *inner)]
        try:
            most = self._chunk_bytes + self._chunk_bytes // 8 + (64 << 10)
            data: Any = self._tree.files.read_whole(self._key(at), most)
        except (FileNotFoundError, NotADirectoryError):
            view[...] = self._layout.fill
            return
        if self._expand is not None:
            data = self._expand(data)
        if len(data) != self._chunk_bytes:
            self._short(at, len(data))
        order: Any = self._layout.order
        shape = self.chunks or (1,)
        chunk = np.frombuffer(data, self._layout.dtype).reshape(shape, order=order)
        view[...] = chunk[tuple(slice(0, n) for n in view.shape)]

    def _slice(self, band: int, low: int, high: int, out: NDArray[Any]) -> None:
        """Rows of a chunk that is stored as it is, read in place."""
        key = self._key((band, *(0 for _ in self.shape)) if self.chunks else ())
        flat = out.reshape(-1).view(np.uint8).data
        files = self._tree.files
        try:
            got = files.read_into(key, low * self.row_bytes, flat)
        except (FileNotFoundError, NotADirectoryError):
            out[...] = self._layout.fill
            return
        if got != len(flat):
            self._short((band,), low * self.row_bytes + got)

    def _short(self, at: tuple[int, ...], size: int) -> None:
        raise FormatError(
            f"{self.where}: the chunk {self._key(at)} has {size} bytes of {self._chunk_bytes}: it was cut "
            "short, restore it from a copy"
        )

    def _key(self, at: tuple[int, ...]) -> str:
        layout = self._layout
        below = f"{self.path}/" if self.path else ""
        if not layout.shape:
            return below + (layout.prefix or "0")
        parts = ([layout.prefix] if layout.prefix else []) + [str(number) for number in at]
        return below + layout.separator.join(parts)


class _Kept:
    """Decoded rows of chunks that were last read."""

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._size = 0

    def get(self, key: tuple[str, int]) -> NDArray[Any] | None:
        return self._found.get(key)

    def put(self, key: tuple[str, int], rows: NDArray[Any]) -> None:
        """Keep them in place of others of their array, and of the oldest."""
        for other in [known for known in self._found if known[0] == key[0]]:
            self._size -= self._found.pop(other).nbytes
        self._found[key] = rows
        self._size += rows.nbytes
        while self._size > KEPT and len(self._found) > 1:
            self._size -= self._found.popitem(last=False)[1].nbytes
