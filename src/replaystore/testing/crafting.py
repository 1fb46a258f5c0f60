"""Zarr stores and zips as a stranger would craft them (crafting_hdf5.py has HDF5 files, crafting_log.py
the log of both): structure is kept and checksums are made right, and what they are about is not.

Each craft takes a store and a source of chance, and gives what it did, in words, and the changed files; or
None: not with this store.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import google_crc32c
import numpy as np

from replaystore.arrays.sealing import MANIFEST
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.zarr.metadata import (
    CHECKSUM,
    as_json,
    document_checksum,
    header_bytes,
    shard_name,
)
from replaystore.testing.crafting_log import changed_log, crc, packed, records
from replaystore.testing.odd_values import NUMBERS, mutated
from replaystore.testing.specimens import Change, Specimen

__all__ = [
    "CRAFTS",
    "LOOSE",
    "Craft",
    "Crafted",
    "content",
    "finished",
    "members",
    "newest_segment",
    "with_cell",
]

Crafted = tuple[str, Change] | None
Craft = Callable[[Specimen, random.Random], Crafted]


# --- Zarr


def finished(store: Specimen, change: Mapping[str, bytes], *, listed: bool = True) -> Change:
    """The change; in an archive, if `listed`, with a manifest that is right, too; in a zip packed again."""
    files = {**store.files, **change} if store.path.suffix != ".zip" else {**members(store), **change}
    if MANIFEST in files and MANIFEST not in change and listed:
        lines = (
            f"{sha256(data).hexdigest()}  {name}\n"
            for name, data in sorted(files.items())
            if name != MANIFEST and "lock" not in name
        )
        change = {**change, MANIFEST: "".join(lines).encode()}
    if store.path.suffix != ".zip":
        return dict(change)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for name, data in {**files, **change}.items():
            file.writestr(name, data)
    return {"": packed.getvalue()}


def _finished(store: Specimen, draw: random.Random, told: str, change: Mapping[str, bytes]) -> Crafted:
    return told, finished(store, change, listed=draw.random() < 0.8)


def members(store: Specimen) -> dict[str, bytes]:
    """What a zip holds."""
    with zipfile.ZipFile(io.BytesIO(store.files[""])) as file:
        return {name: file.read(name) for name in file.namelist()}


def content(store: Specimen) -> Mapping[str, bytes]:
    """The files of a Zarr store, wherever they are."""
    return members(store) if store.path.suffix == ".zip" else store.files


def _metadata(store: Specimen, draw: random.Random) -> Crafted:
    files = content(store)
    name = draw.choice([name for name in files if name.endswith("/zarr.json")])
    told, tree = mutated(json.loads(files[name]), draw)
    return _finished(store, draw, f"{name}: {told}", {name: json.dumps(tree).encode()})


def _document(store: Specimen, draw: random.Random) -> Crafted:
    root = json.loads(content(store)["zarr.json"])
    told, document = mutated(root["attributes"]["replaystore"], draw)
    root["attributes"] |= {"replaystore": document, CHECKSUM: document_checksum(document)}
    return _finished(store, draw, told, {"zarr.json": as_json(root)})


def _root(store: Specimen, draw: random.Random) -> Crafted:
    told, tree = mutated(json.loads(content(store)["zarr.json"]), draw)
    text = json.dumps(tree).encode()
    if draw.random() < 0.05:
        told, text = (
            "nested deep",
            b'{"zarr_format": 3, "attributes": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        )
    return _finished(store, draw, told, {"zarr.json": text})


def _index(store: Specimen, draw: random.Random) -> Crafted:
    files = content(store)
    shards = [
        name
        for name in files
        if re.search(r"/c\.\d+(\.0)*$", name) and "journal/" not in name and len(files[name]) > 4096
    ]
    name = draw.choice(shards)
    owner = json.loads(files[name.rpartition("/c.")[0] + "/zarr.json"])
    per_shard = (
        owner["chunk_grid"]["configuration"]["chunk_shape"][0]
        // owner["codecs"][0]["configuration"]["chunk_shape"][0]
    )
    data = bytearray(files[name])
    index = np.frombuffer(data, "<u8", 2 * per_shard).copy()
    at = draw.randrange(min(len(index), 8))
    old = int(index[at])
    index[at] = (
        draw.choice([*NUMBERS, old + 1, old - 1, len(data), len(data) - 1, int(index[at - 2])]) % 2**64
    )
    data[: 16 * per_shard] = index.tobytes()
    data[16 * per_shard : 16 * per_shard + 4] = crc(index.tobytes())
    return _finished(store, draw, f"{name}: number {at} of the index is {index[at]}", {name: bytes(data)})


def _place(store: Specimen, draw: random.Random) -> Crafted:
    """Something that is no file, or a file much too large."""
    if store.path.is_file():
        what: Any = draw.choice(("pipe", 1 << 33, 50 << 30, len(store.files[""]) + 1, "folder"))
        return f"the file is {what}", {"": what}
    name = draw.choice(list(store.files))
    parts = name.split("/")
    if draw.random() < 0.3:
        name = "/".join(parts[: draw.randrange(1, len(parts) + 1)])
    if draw.random() < 0.2:
        name += draw.choice((".new", "x"))
    elsewhere = (
        "link:/etc/passwd",
        "link:/dev/zero",
        "link:.",
        "link:..",
        "link:zarr.json",
        "link:nowhere",
        "link:/proc/self/fd/0",
    )
    what = draw.choice((*elsewhere, "pipe", "socket", "folder", 1 << 33, 50 << 30, 0, b"", b"x" * 100))
    if isinstance(what, int) and name not in store.files:
        what = b"{}"
    return f"{name} is {what!r:.40}", {name: what}


def _manifest(store: Specimen, draw: random.Random) -> Crafted:
    files = content(store)
    lines = files[MANIFEST].decode().splitlines()
    at = draw.randrange(len(lines))
    digest, _, name = lines[at].partition("  ")
    odd = (
        f"{digest}  ../../etc/passwd",
        f"{digest}  /dev/zero",
        f"{digest}  {name}\0",
        f"{digest}x  {name}",
        "",
        name,
        lines[0],
        "\ud800",
    )
    lines[at] = draw.choice(odd)
    told = f"line {at} of the manifest is {lines[at]!r:.60}"
    return _finished(store, draw, told, {MANIFEST: "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"})


def _record(store: Specimen, draw: random.Random) -> Crafted:
    files = content(store)
    name = draw.choice([name for name in files if re.search(r"journal/log/\d+$", name)])
    told, data = changed_log(files[name], draw)
    return _finished(store, draw, f"{name}: {told}", {name: data})


def newest_segment(store: Specimen) -> str:
    """The file of the newest segment of the log."""
    names = (name for name in content(store) if re.search(r"journal/log/\d+$", name))
    return max(names, key=lambda name: int(name.rpartition("/")[2]))


def with_cell(store: Specimen, name: str, cell: int, value: int) -> dict[str, bytes]:
    """What has changed when a cell of a table that has reached its array (they count row by row) is another,
    with the checksum in the log made right."""
    files, segment = content(store), newest_segment(store)
    log = records(files[segment])
    stored, spec = log[0][0]["tables"][name], ArraySpec.from_json(log[0][0]["arrays"][name])
    file, header, width = shard_name(name, spec, 0), header_bytes(spec), spec.dtype.itemsize
    data = bytearray(files[file])
    at = header + cell * width
    data[at : at + width] = (value % 256**width).to_bytes(width, "little")
    stored[1] = google_crc32c.value(bytes(data[header : header + stored[0] * spec.row_bytes]))
    return {file: bytes(data), segment: b"".join(packed(*record) for record in log)}


def _table(store: Specimen, draw: random.Random) -> Crafted:
    """A cell of a table that has reached its array."""
    files = content(store)
    base = records(files[newest_segment(store)])[0][0]
    specs = {name: ArraySpec.from_json(base["arrays"][name]) for name in base.get("tables", {})}
    known = {
        name: rows * specs[name].row_bytes // specs[name].dtype.itemsize
        for name, (rows, _, first) in base.get("tables", {}).items()
        if rows
        and not first
        and shard_name(name, specs[name], 0) in files
        and specs[name].dtype.name in ("int64", "int32", "uint32")
    }
    if not known:
        return None
    name = draw.choice(list(known))
    cell = draw.randrange(known[name])
    value = draw.choice((*NUMBERS, cell + 1))
    return _finished(store, draw, f"{name}: cell {cell} is {value}", with_cell(store, name, cell, value))


# --- zip


def _directory(store: Specimen, draw: random.Random) -> Crafted:
    """Numbers of the directory, of its end, or of the headers of members."""
    data = bytearray(store.files[""])
    signature, form, fields = draw.choice(
        (
            (b"PK\x01\x02", "<4s6H3I5H2I", range(1, 17)),
            (b"PK\x03\x04", "<4s5H3I2H", range(1, 11)),
            (b"PK\x05\x06", "<4s4H2IH", range(1, 8)),
        )
    )
    at = draw.choice([match.start() for match in re.finditer(re.escape(signature), bytes(data))])
    if at + struct.calcsize(form) > len(data):
        return None
    values = list(struct.unpack_from(form, data, at))
    field = draw.choice(fields)
    width = {"H": 2, "I": 4}[_letters(form)[field]]
    values[field] = (
        draw.choice((*NUMBERS, values[field] + 1, values[field] - 1, 2 * values[field])) % 256**width
    )
    struct.pack_into(form, data, at, *values)
    if draw.random() < 0.2:  # a name
        begin = at + struct.calcsize(form)
        data[begin : begin + 3] = draw.choice((b"../", b"/et", b"\xff\xff\xff", b"\0\0\0", b"a\\b"))
    return f"field {field} of {signature!r} at {at} is {values[field]}", {"": bytes(data)}


def _letters(form: str) -> str:
    return re.sub(r"(\d+)([HI])", lambda match: match[2] * int(match[1]), form[1:].replace("4s", "s", 1))


CRAFTS: dict[str, tuple[tuple[str, ...], Craft]] = {
    "metadata": ((".zarr",), _metadata),
    "root": ((".zarr",), _root),
    "document": ((".zarr",), _document),
    "record": ((".zarr",), _record),
    "table": ((".zarr",), _table),
    "index": ((".zarr",), _index),
    "place": ((".zarr", ".h5"), _place),
    "manifest": (("archive.zarr",), _manifest),
    "directory": ((".zip",), _directory),
}
"""By name: the kinds of stores (parts of their names), and the craft."""
LOOSE = frozenset({"record", "table", "document"})
"""Those that may make another store that is as good."""
