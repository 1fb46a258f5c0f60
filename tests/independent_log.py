"""The commit log, read by what FORMAT.md says: records, and the state that they lead to. NumPy and the
standard library alone, and nothing of replaystore."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["State", "crc32c", "records", "states"]

Numbers = NDArray[np.int64]
Blobs = Mapping[str, bytes]
NUMBERS = [np.dtype(name) for name in ("<i1", "<i2", "<i4", "<i8")]


def _table() -> list[int]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901
        found.append(byte)
    return found


TABLE = _table()


def crc32c(data: bytes | bytearray, crc: int = 0) -> int:
    """Bit by bit as it is defined, a byte at a time."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def records(log: bytes) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """The valid records of a segment, in order; what follows the last of them is torn, or nothing."""
    while log[:4] == b"RSC1" and len(log) >= 16:
        checksum, length = struct.unpack_from("<IQ", log, 4)
        if len(log) < 16 + length or crc32c(log[8 : 16 + length]) != checksum:
            return
        (size,) = struct.unpack_from("<I", log, 16)
        meta, at, blobs = json.loads(log[20 : 20 + size]), 20 + size, {}
        for name, count in meta.pop("blobs"):
            blobs[name] = log[at : at + count]
            at += count
        assert at == 16 + length
        yield meta, blobs
        log = log[16 + length :]


def numbers(data: bytes, before: Numbers) -> Numbers:
    """A table of numbers, by its difference to another one."""
    rows, columns = struct.unpack_from("<HI", data)
    found, at = np.zeros((rows, columns), np.int64), 6
    if rows * columns == 0:
        return found
    for row in range(rows):
        code, at = data[at], at + 1
        change = np.zeros(columns, np.int64)
        if code:
            dtype = NUMBERS[(code - 1) % 4]
            change[:] = np.frombuffer(data, dtype, 1 if code < 5 else columns, at)
            at += dtype.itemsize * (1 if code < 5 else columns)
        if row == 0:
            same = code == 0
            found[0] = before[0] if same else change
            places = {int(key): place for place, key in enumerate(before[0])} if before.size else {}
        else:
            for column, key in enumerate(found[0].tolist()):
                if key in places:
                    found[row, column] = before[row, places[key]]
            found[row] += change
    assert at == len(data)
    return found


@dataclass
class State:
    """A store as of one commit."""

    commit: int
    store: str
    time: float
    lengths: dict[str, int]
    first: dict[str, int]
    extra: dict[str, Any]
    arrays: dict[str, dict[str, Any]]
    partial: dict[str, int]
    tails: dict[str, list[list[int]]]
    entries: dict[str, dict[int, tuple[str, int, int]]]
    tables: dict[str, list[int]]
    attached: dict[str, bytes | list[int]]
    names: dict[str, int]
    dropped: dict[str, int]
    dead: list[list[int]]
    more: dict[str, Any]
    appended: dict[str, bytes] = field(default_factory=dict)
    """Rows of tables that records since the base have."""
    mutable: dict[str, bytearray] = field(default_factory=dict)
    """All rows of tables that may change, of those that are not dropped."""

    def group(self, array: str) -> str:
        """What an array is counted with."""
        array = array.removeprefix("checksums/")
        if array.startswith("values/"):
            return array
        return array.rpartition("/")[0] if array.startswith("changes/") else array.partition("/")[0]

    def rows(self, array: str) -> int:
        """How many rows an array has, those that are dropped among them."""
        counted = self.lengths.get(self.group(array), 0)
        if array.startswith("checksums/"):
            return counted // int(self.arrays[array.removeprefix("checksums/")]["chunk_rows"])
        return counted

    def width(self, array: str) -> int:
        """Bytes of a row."""
        told = self.arrays[array]
        return int(np.dtype(told["dtype"]).itemsize * np.prod(told.get("shape", []), dtype=int))

    def raw_arrays(self) -> list[str]:
        """Those whose unfinished chunks have checksums in each record, in its order."""
        return sorted(
            name
            for name, told in self.arrays.items()
            if not told.get("codec") and not told.get("journaled") and not name.startswith("journal/")
        )


def _begin(meta: dict[str, Any], blobs: Blobs) -> State:
    none = np.zeros((0, 0), np.int64)
    state = State(
        *(meta[key] for key in ("commit", "store", "time", "lengths", "first", "extra", "arrays", "partial")),
        meta["tails"],
        {name: {n: tuple(place) for n, *place in known} for name, known in meta["entries"].items()},
        meta["tables"],
        dict(meta["attached"]),
        {name: commit for name, (commit, _) in meta.get("names", {}).items()},
        meta.get("dropped", {}),
        meta["dead"],
        meta.get("more", {}),
    )
    for blob, data in blobs.items():
        kind, _, name = blob.partition(":")
        if kind == "keep":
            state.attached[name] = data
        elif kind == "int":
            state.extra[name] = numbers(data, none)
        elif kind == "mutable":
            state.mutable[name] = bytearray(data)
        else:
            assert blob == "document", blob
    return state


def _follow(state: State, meta: dict[str, Any], blobs: Blobs) -> None:
    assert meta["commit"] == state.commit + 1
    state.commit, state.time = meta["commit"], state.time + meta["ms"] / 1000
    for known, more in ((state.lengths, meta.get("add", {})), (state.first, meta.get("drop", {}))):
        for group, rows in more.items():
            known[group] = known.get(group, 0) + rows
    state.extra |= meta.get("extra", {})
    state.arrays |= meta.get("arrays", {})
    state.names.pop(meta.get("forget", ""), None)
    if "name" in meta:
        state.names.pop(meta["name"], None)
        state.names[meta["name"]] = state.commit
    for key, value in meta.get("more", {}).items():
        state.more[key] = value
    state.more = {key: value for key, value in state.more.items() if value is not None}
    if meta.get("tail_reset"):
        state.tails = {}
    for name, pieces in meta.get("tails", {}).items():
        state.tails[name] = state.tails.get(name, []) + pieces
    for name, known in meta.get("entries", {}).items():
        state.entries.setdefault(name, {}).update({n: tuple(place) for n, *place in known})
    state.attached = dict(meta.get("attached", {}))
    state.partial = {}
    for blob, data in blobs.items():
        _take(state, *blob.partition(":")[::2], data, blobs)


def _take(state: State, kind: str, name: str, data: bytes, blobs: Blobs) -> None:
    """A blob of a later record."""
    if kind == "keep":
        state.attached[name] = data
    elif kind == "crc":
        found = struct.unpack(f"<{len(data) // 4}I", data)
        state.partial = dict(zip(state.raw_arrays(), found, strict=True))
    elif kind == "int":
        state.extra[name] = numbers(data, state.extra.get(name, np.zeros((0, 0), np.int64)))
    elif kind == "rows":
        state.appended[name] = state.appended.get(name, b"") + data
    elif kind == "grow":
        state.mutable.setdefault(name, bytearray()).extend(data)
    elif kind == "at":
        width, first = state.width(name), state.dropped.get(state.group(name), 0)
        for place, row in enumerate(np.frombuffer(data, "<i8").tolist()):
            value = blobs["set:" + name][place * width : (place + 1) * width]
            state.mutable[name][(row - first) * width : (row - first + 1) * width] = value
    else:
        assert kind == "set", kind


def states(log: bytes) -> Iterator[State]:
    """The state after each record of a segment (the same object, which goes on)."""
    state: State | None = None
    for meta, blobs in records(log):
        if state is None:
            assert meta["base"] is True
            state = _begin(meta, blobs)
        elif meta.get("forked"):
            assert meta["commit"] == state.commit
        else:
            _follow(state, meta, blobs)
        yield state
