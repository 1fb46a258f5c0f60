"""HDF5 files as a stranger would craft them: the user block with right seals, and with h5py itself what lies
behind it."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import google_crc32c
import h5py  # type: ignore[import-untyped]
import numpy as np

from replaystore.containers.hdf5.front import (
    APPLIED,
    HEADS,
    JOURNAL,
    REGION,
    USERBLOCK,
    Head,
    Header,
    pack_marker,
)
from replaystore.containers.hdf5.overlay import lookup3
from replaystore.testing.crafting import Craft, Crafted
from replaystore.testing.crafting_log import changed_log
from replaystore.testing.odd_values import NUMBERS, mutated
from replaystore.testing.specimens import Change, Specimen

__all__ = ["HDF5_CRAFTS", "HDF5_LOOSE", "log_of", "other_objects", "with_log"]


def log_of(store: Specimen) -> bytes:
    """The newest segment of the log."""
    data, head = store.files[""], _head(bytearray(store.files[""]))
    return b"".join(data[offset : offset + length] for offset, length in head.pieces)[: head.used]


def with_log(store: Specimen, log: bytes) -> Change:
    """Another newest segment of the log in its place, as far as there is room."""
    data = bytearray(store.files[""])
    head, at = _head(data), 0
    for offset, length in head.pieces:
        part = log[at : at + length]
        data[offset : offset + len(part)] = part
        at += length
    for more in (1, 2):  # both heads: the older one would be a commit before
        fresh = Head(head.sequence + more, head.commit, min(len(log), head.room), head.pieces)
        data[fresh.slot : fresh.slot + len(fresh.pack())] = fresh.pack()
    return {"": bytes(data)}


def _record(store: Specimen, draw: random.Random) -> Crafted:
    told, log = changed_log(log_of(store), draw)
    return told, with_log(store, log)


def _head(data: bytearray) -> Head:
    found = [head for slot in HEADS if (head := Head.unpack(bytes(data[:REGION]), slot)) is not None]
    return max(found, key=lambda head: head.sequence)


def _front(store: Specimen, draw: random.Random) -> Crafted:
    """A number of a head, of the journal's header, of the marker, or of the superblock; sealed again."""
    data = bytearray(store.files[""])
    where = draw.choice(("head", "head", "journal", "payload", "marker", "superblock"))
    if where == "payload":
        return _payload(data, draw)
    if where == "marker":
        sequence = draw.choice(NUMBERS) % 2**64
        data[APPLIED : APPLIED + len(pack_marker(sequence))] = pack_marker(sequence)
        return f"the marker is {sequence}", {"": bytes(data)}
    if where == "superblock":
        begin, count, size = USERBLOCK, 4, 44
        at = begin + 12 + 8 * draw.randrange(count)
    elif where == "journal":
        begin, size = JOURNAL, 8 + 40 + 4
        at = begin + 8 + 8 * draw.randrange(5)
    else:
        head = _head(data)
        begin, size = head.slot, len(head.pack()) - 4
        at = begin + 8 + 8 * draw.randrange((size - 8) // 8)
    old = int.from_bytes(data[at : at + 8], "little")
    value = draw.choice((*NUMBERS, old + 1, old - 1, old + 2, 2 * old, len(data), len(data) + 1)) % 2**64
    data[at : at + 8] = value.to_bytes(8, "little")
    seal = (
        lookup3(bytes(data[begin : begin + size]))
        if where == "superblock"
        else google_crc32c.value(bytes(data[begin : begin + size]))
    )
    data[begin + size : begin + size + 4] = struct.pack("<I", seal)
    return f"{where}: {value} instead of {old} at {at - begin}", {"": bytes(data)}


def _payload(data: bytearray, draw: random.Random) -> Crafted:
    """A journal that is not known to be in place."""
    size = len(data)
    held = draw.randbytes(draw.choice((0, 8, 100)))
    entries = []
    for _ in range(draw.randrange(4)):
        place = draw.choice(
            (0, 4096, USERBLOCK, size - 8, size, size + 8, 2**40, 2**63, draw.randrange(size))
        )
        length = draw.choice((0, 8, len(held), len(held) // 2, size, 2**40, 2**63))
        entries.append(struct.pack("<QQQ", place, length, draw.choice((2**64 - 1, 2**64 - 1, 0, 12345))))
    count = draw.choice((len(entries), len(entries), len(entries), 2**31, 2**32 - 1, len(entries) + 1))
    payload = struct.pack("<I", count) + b"".join(entries) + held
    known = Header.unpack(bytes(data[:REGION]), JOURNAL)
    end = draw.choice((size, size + 8, 2 * size, 2**45, USERBLOCK))
    header = Header(
        (known.sequence if known else 0) + 1,
        size,
        max(end, size),
        REGION,
        len(payload),
        google_crc32c.value(payload),
    )
    data[JOURNAL : JOURNAL + Header.SIZE] = header.pack()
    data[REGION : REGION + len(payload)] = payload
    return f"a journal of {count} entries to {end}", {"": bytes(data)}


def _by_h5py(store: Specimen, action: Callable[[Any], str]) -> Crafted:
    memory = io.BytesIO(store.files[""])
    with h5py.File(memory, "r+", libver=("v110", "v110")) as file:
        told = action(file)
    return told, {"": memory.getvalue()}


def _attribute(store: Specimen, draw: random.Random) -> Crafted:
    def change(file: Any) -> str:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if "replaystore" in node.attrs else None)
        name = draw.choice(names)
        told, tree = mutated(json.loads(file[name].attrs["replaystore"]), draw)
        file[name].attrs["replaystore"] = np.bytes_(json.dumps(tree))
        if draw.random() < 0.2:
            told = "of another type"
            file[name].attrs["replaystore"] = draw.choice(
                (1, np.arange(9), "text", np.bytes_(b"[" * 60_000), np.bytes_(b"\xff"))
            )
        return f"{name}: {told}"

    return _by_h5py(store, change)


def _document(store: Specimen, draw: random.Random) -> Crafted:
    def change(file: Any) -> str:
        told, tree = mutated(json.loads(file.attrs["replaystore"]), draw)
        text = np.bytes_(json.dumps(tree))
        file.attrs["replaystore"] = text
        file.attrs["replaystore_crc32c"] = np.uint32(google_crc32c.value(bytes(text)))
        return told

    return _by_h5py(store, change)


def _object(store: Specimen, draw: random.Random) -> Crafted:
    """Datasets of other kinds, and links of all kinds, in the places of arrays."""

    def change(file: Any) -> str:
        names: list[str] = []
        file.visit(names.append)
        name = draw.choice(names)
        own = file[name].attrs.get("replaystore")
        way = draw.choice(
            (
                "gone",
                "soft",
                "external",
                "loop",
                "group",
                "deep",
                "dtype",
                "shape",
                "contiguous",
                "chunks",
                "huge",
                "resized",
            )
        )
        if way == "resized" and isinstance(file[name], h5py.Dataset) and file[name].chunks:
            file[name].resize(
                draw.choice((0, 1, 10**6, 2**40) if file[name].compression else (0, 1, 1000)), axis=0
            )
            return f"{name} is resized to {file[name].shape}"
        del file[name]
        if way == "soft":
            file[name] = h5py.SoftLink(draw.choice(("/", "/nowhere", "/" + names[0])))
        elif way == "external":
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        elif way == "loop":
            file[name] = file["/" if "/" not in name else name.rpartition("/")[0]]
        elif way == "group":
            file.create_group(name)
        elif way == "deep":
            file.create_group(name + "/x" * draw.choice((3, 130, 300)))
        elif way != "gone":
            _dataset(file, name, way, own, draw)
        return f"{name} is {way}"

    return _by_h5py(store, change)


def _dataset(file: Any, name: str, way: str, own: Any, draw: random.Random) -> None:
    shape: tuple[int, ...] = draw.choice(((0,), (9,), (9, 3), (9, 4, 3), (1,) * 20))
    dtype: Any = "f4"
    if way == "dtype":
        dtype = draw.choice(
            (
                ">i8",
                "S5",
                h5py.string_dtype(),
                [("a", "i4")],
                h5py.ref_dtype,
                "c16",
                "f2",
                "longdouble",
                h5py.enum_dtype({"a": 1}),
            )
        )
    chunks: Any = shape if all(shape) else None
    if way == "huge":
        shape, chunks = (2**40,), (draw.choice((1, 2**20)),)
    if way == "contiguous":
        chunks = None
    made = file.create_dataset(
        name, shape, dtype, chunks=chunks, maxshape=(None, *shape[1:]) if chunks else None
    )
    if own is not None:
        made.attrs["replaystore"] = np.bytes_(own)


HDF5_CRAFTS: dict[str, tuple[tuple[str, ...], Craft]] = {
    "HDF5 record": ((".h5",), _record),
    "front": ((".h5",), _front),
    "attribute": ((".h5",), _attribute),
    "HDF5 document": ((".h5",), _document),
    "object": ((".h5",), _object),
}
"""By name: the kinds of stores, and the craft."""
HDF5_LOOSE = frozenset({"HDF5 record", "HDF5 document", "front"})
"""Those that may make another store that is as good."""


def other_objects(path: str, draw: random.Random) -> None:
    """An object of an HDF5 file becomes another one, as HDF5 itself writes it."""
    with suppress(OSError, RuntimeError, KeyError, ValueError, TypeError), h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        if not names:
            return
        name = draw.choice(names)
        known = file[name]
        way = draw.randrange(8)
        if way == 0:
            del file[name]
        elif way == 1:
            del file[name]
            file[name] = h5py.ExternalLink("/etc/passwd", "/")
        elif way == 2:
            del file[name]
            file[name] = h5py.SoftLink("/" + draw.choice(names))
        elif way == 3:
            del file[name]
            file.create_group(name)
        elif way == 4:
            target = draw.choice([known, file])
            for key in list(target.attrs)[:1]:
                target.attrs[key] = draw.choice([1, -1, "x", np.zeros(3), np.float64(np.nan), b"\x00" * 9])
        elif isinstance(known, h5py.Dataset):
            shape = known.shape or ()
            del file[name]
            other = draw.choice(["S3", "f8", "u1", "i8", "?", "c8", "f2", h5py.string_dtype()])
            if way == 5:
                file.create_dataset(name, (1 << 40, *shape[1:]), other, chunks=(1 << 10, *shape[1:]))
            elif way == 6:
                file.create_dataset(name, shape, other)
            else:
                file.create_dataset(name, (max(0, (shape or (1,))[0] - 1), *shape[1:], 2), "f4")
