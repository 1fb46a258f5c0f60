"""What a record of the commit log says: only what is not as the record before it had it.

`shorten` makes of the record of a commit what is written, `expand` makes of that the record again, with the
commit before it. Base records say everything, and stay as they are but for tables of numbers.

A table of int64 numbers that a commit keeps (a value of `extra`) is a blob `int:<key>`: the difference to the
one of the commit before. Its first row names its columns, in ascending order:

    u16 rows | u32 columns | rows, the first one first:
    0                       as before (of the first row: and the columns are those of the table before)
    1, 2, 3, 4, one number  all columns changed by it: of 1, 2, 4 or 8 bytes
    5, 6, 7, 8, numbers     what each changed by; before it was a column of the same name, or 0
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.checks import is_count
from replaystore.schema import tree

__all__ = [
    "INT",
    "NO_NUMBERS",
    "Known",
    "after",
    "after_base",
    "difference",
    "expand",
    "numbers_of",
    "shorten",
    "summed",
]

Numbers = NDArray[np.int64]
Blobs = Mapping[str, bytes]

INT, CRC = "int:", "crc:"
NO_NUMBERS = np.empty((0, 0), np.int64)
MOST_CELLS = 1 << 24
_SHAPE = struct.Struct("<HI")
_TYPES = [np.dtype(name) for name in ("<i1", "<i2", "<i4", "<i8")]
_LIMITS = [(1 << 8 * dtype.itemsize - 1) for dtype in _TYPES]


class Known(Protocol):
    """What is asked of the commit before."""

    commit: int
    time: float
    lengths: dict[str, int]
    first: dict[str, int]
    extra: dict[str, Any]
    arrays: dict[str, ArraySpec]


@dataclass
class Before:
    """A commit, as far as the next record is a difference to it."""

    commit: int
    time: float
    lengths: dict[str, int]
    first: dict[str, int]
    extra: dict[str, Any]
    arrays: dict[str, ArraySpec] = field(default_factory=dict)


# --- records


def shorten(meta: Mapping[str, Any], blobs: Blobs, before: Known) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What is written of the record of a commit that follows another."""
    short = {
        key: value
        for key, value in meta.items()
        if key not in ("parent", "time", "lengths", "first", "extra", "partial", "tails")
        and (value or key not in ("entries", "attached"))
    }
    short["ms"] = _milliseconds(meta["time"]) - _milliseconds(before.time)
    for key, was, now in (
        ("add", before.lengths, meta["lengths"]),
        ("drop", before.first, meta.get("first", {})),
    ):
        more = {group: rows - was.get(group, 0) for group, rows in now.items() if was.get(group) != rows}
        if more:
            short[key] = more
    numbers: dict[str, bytes] = {}
    extra: dict[str, Any] = {}
    for key, value in meta["extra"].items():
        known = before.extra.get(key)
        if isinstance(value, np.ndarray):
            known = known if isinstance(known, np.ndarray) else NO_NUMBERS
            if known.shape != value.shape or (known != value).any():
                numbers[INT + key] = difference(value, known)
        elif key not in before.extra or known != value:
            extra[key] = value
    if extra:
        short["extra"] = extra
    tails = {name: pieces for name, (_, pieces) in meta.get("tails", {}).items() if pieces}
    if tails:
        short["tails"] = tails
    if "entries" in short:
        short["entries"] = {name: known for name, known in short["entries"].items() if known}
    names = _raw_of(specs_after(before, meta))
    if names:
        partial = meta["partial"]
        numbers[CRC] = np.array([partial.get(name, 0) for name in names], "<u4").tobytes()
    return short, {**numbers, **blobs}


def expand(meta: dict[str, Any], blobs: Blobs, before: Known) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The record of a commit, of what is written of it. What Python raises for what is none, ValueError among
    it."""
    commit, ms = meta["commit"], meta.pop("ms")
    if commit != before.commit + 1 or type(ms) is not int:
        raise ValueError(f"commit {commit!r:.40} follows {before.commit}")
    lengths = _added(before.lengths, meta.pop("add", {}))
    meta |= {
        "parent": before.commit,
        "time": (_milliseconds(before.time) + ms) / 1000,
        "lengths": lengths,
    }
    if "drop" in meta:
        meta["first"] = _added(before.first, meta.pop("drop"))
    extra = before.extra | meta.get("extra", {})
    specs = specs_after(before, meta)
    names, left, partial = _raw_of(specs), dict[str, bytes](), dict[str, int]()
    for name, blob in blobs.items():
        if name == CRC:
            found = np.frombuffer(blob, "<u4").tolist()
            partial = {array: crc for array, crc in zip(names, found, strict=True) if crc}
        elif name.startswith(INT):
            was = before.extra.get(name[4:], NO_NUMBERS)
            extra[name[4:]] = summed(blob, was)
        else:
            left[name] = blob
    meta["extra"], meta["partial"] = extra, partial
    told = meta.pop("tails", {})
    tails = {name: [_unfinished(name, specs[name], lengths), told[name]] for name in told}
    for name, spec in specs.items():
        if spec.codec is not None and name not in tails:
            tails[name] = [_unfinished(name, spec, lengths), []]
    if tails:
        meta["tails"] = tails
    meta.setdefault("attached", {})
    return meta, left


def _milliseconds(time: float) -> int:
    return round(time * 1000)


def _added(before: Mapping[str, int], more: Any) -> dict[str, int]:
    found = dict(before)
    for group, rows in more.items():
        if not is_count(rows):
            raise ValueError(f"numbers of rows {more!r:.80}")
        found[group] = found.get(group, 0) + rows
    return found


def _unfinished(name: str, spec: ArraySpec, lengths: Mapping[str, int]) -> int:
    """The first row of the unfinished chunk of a coded array."""
    return lengths.get(tree.group_of(name), 0) // spec.chunk_rows * spec.chunk_rows


def specs_after(before: Known, meta: Mapping[str, Any]) -> dict[str, ArraySpec]:
    """The arrays that there are after a record."""
    made = meta.get("arrays")
    if not made:
        return before.arrays
    return before.arrays | {name: ArraySpec.from_json(values) for name, values in made.items()}


def after_base(meta: Mapping[str, Any], blobs: Blobs) -> Before:
    """What the record after a base record is a difference to."""
    begin = Before(meta["commit"], meta["time"], dict(meta["lengths"]), dict(meta["first"]), {})
    begin.extra, begin.arrays = numbers_of(meta, blobs), specs_after(begin, meta)
    return begin


def after(meta: Mapping[str, Any], before: Known) -> Before:
    """What the record after one, which has been expanded, is a difference to."""
    first = meta.get("first", before.first)
    arrays = specs_after(before, meta)
    return Before(meta["commit"], meta["time"], meta["lengths"], first, meta["extra"], arrays)


_last: list[Any] = [None, ()]
"""The arrays that were asked for last, and which of them are raw."""


def _raw_of(arrays: Mapping[str, ArraySpec]) -> tuple[str, ...]:
    """The raw arrays of rows, in the order of their names: those whose unfinished chunks have checksums."""
    known, names = _last
    if known is not arrays:  # which are never changed in place
        raw = [name for name, spec in arrays.items() if spec.codec is None and not spec.journaled]
        names = tuple(sorted(name for name in raw if not tree.is_journal(name)))
        _last[:] = arrays, names
    found: tuple[str, ...] = names
    return found


# --- tables of numbers


def numbers_of(meta: Mapping[str, Any], blobs: Blobs) -> dict[str, Any]:
    """`extra` of a base record."""
    return dict(meta["extra"]) | {
        name[4:]: summed(blob, NO_NUMBERS) for name, blob in blobs.items() if name.startswith(INT)
    }


def difference(now: Numbers, before: Numbers) -> bytes:
    """What one table is, given another."""
    rows, columns = now.shape
    parts = [_SHAPE.pack(rows, columns)]
    if not now.size:
        return parts[0]
    same = before.shape == now.shape and bool((before[0] == now[0]).all())
    change = now - (before if same else _aligned(before, now[0], rows))
    if not same:
        change[0] = now[0]
    low, high = change.min(axis=1).tolist(), change.max(axis=1).tolist()
    for row, (least, most) in enumerate(zip(low, high, strict=True)):
        if least == most == 0 and (same or row):
            parts.append(b"\0")
            continue
        reach = max(most, -1 - least)
        size = next(number for number, limit in enumerate(_LIMITS) if reach < limit)
        if least == most and (same or row):
            parts += [bytes((1 + size,)), least.to_bytes(1 << size, "little", signed=True)]
        else:
            parts += [bytes((5 + size,)), change[row].astype(_TYPES[size]).tobytes()]
    return b"".join(parts)


def summed(data: bytes, before: Any) -> Numbers:
    """The inverse. ValueError, and what else Python raises: it is none."""
    rows, columns = _SHAPE.unpack_from(data)
    if rows * columns > MOST_CELLS or not isinstance(before, np.ndarray):
        raise ValueError(f"a table of {rows} x {columns} numbers")
    at = _SHAPE.size
    if not rows * columns:
        found = np.empty((0, 0), np.int64)
    elif data[at] == 0:
        if before.shape != (rows, columns):
            raise ValueError(f"a table of {rows} x {columns} numbers, and of {before.shape} before")
        found, at = before.copy(), at + 1
        at = _sum_rows(found, 1, data, at)
    else:
        key = np.zeros((1, columns), np.int64)
        at = _sum_rows(key, 0, data, at)
        if (key[0][1:] <= key[0][:-1]).any():
            raise ValueError("columns of a table that are not in order")
        found = _aligned(before, key[0], rows)
        found[0] = key[0]
        at = _sum_rows(found, 1, data, at)
    if at != len(data):
        raise ValueError(f"{len(data)} bytes of numbers, not {at}")
    return found


def _aligned(before: Numbers, key: Numbers, rows: int) -> Numbers:
    """The table before, with the columns of these names; zeros where it had none."""
    found = np.zeros((rows, len(key)), np.int64)
    if before.shape[0] == rows and before.size:
        at = np.searchsorted(before[0], key).clip(max=before.shape[1] - 1)
        there = before[0][at] == key
        found[:, there] = before[:, at[there]]
    return found


def _sum_rows(found: Numbers, first: int, data: bytes, at: int) -> int:
    """Add what is said of rows from one on; where it ends."""
    columns = found.shape[1]
    for row in range(first, len(found)):
        code = data[at]
        at += 1
        if code > 8:
            raise ValueError(f"a change of a kind {code}")
        if not code:
            continue
        dtype, count = _TYPES[(code - 1) % 4], 1 if code < 5 else columns
        found[row] += np.frombuffer(data, dtype, count, at)
        at += count * dtype.itemsize
    return at
