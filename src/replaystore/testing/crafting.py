"""Zarr stores and zips as a stranger would craft them (crafting_hdf5.py has HDF5 files): structure is kept
and checksums are made right, and what they are about is not.

Each craft takes a store and a source of chance, and gives what it did, in words, and the changed files; or
None: not with this store.
"""

from __future__ import annotations

import copy
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

import google_crc32c
import numpy as np

from replaystore.arrays.sealing import MANIFEST
from replaystore.containers.zarr.metadata import CHECKSUM, as_json, document_checksum
from replaystore.testing.specimens import Change, Specimen

__all__ = ["CRAFTS", "LOOSE", "NUMBERS", "changed_log", "mutated", "packed", "records"]

Crafted = tuple[str, Change] | None
Craft = Callable[[Specimen, random.Random], Crafted]

DEEP: Any = []
for _ in range(90):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        2**31,
        2**32,
        2**53,
        2**62,
        2**63 - 1,
        2**63,
        2**64,
        10**12,
        -(2**63),
        10**30,
        0.5,
        1e308,
    ),
    *(
        "",
        "x",
        "..",
        "../../x",
        "/etc/passwd",
        "0",
        "object",
        "float128",
        "datetime64[s]",
        "S8",
        "zstd",
        "zstd:99",
        "\0",
        "\ud800",
    ),
    *("x" * 5000, [], {}, [[]], [0], [-1], [2**40] * 3, [1] * 40, {"x": 1}, DEEP),
)
NUMBERS = (0, 1, 2, 3, 5, 100, 4096, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**63))


# --- JSON


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def mutated(tree: Any, draw: random.Random) -> tuple[str, Any]:
    """JSON with something else in one place."""
    tree = copy.deepcopy(tree)
    *path, last = draw.choice([path for path in _places(tree) if path])
    owner = tree
    for key in path:
        owner = owner[key]
    value, at = owner[last], "/".join(map(str, [*path, last]))
    way = draw.randrange(6)
    if way == 0:
        del owner[last]
        return f"{at} is gone", tree
    if way == 1 and isinstance(value, int):
        owner[last] = draw.choice((value + 1, value - 1, 2 * value, -value, value + 2**32, str(value)))
    elif way == 2 and isinstance(value, list) and value:
        owner[last] = draw.choice(
            (
                value * 2,
                value[:-1],
                value[::-1],
                [*value, draw.choice(ODD)],
                {str(n): v for n, v in enumerate(value)},
            )
        )
    elif way == 3:
        owner[last] = [value]
    elif way == 4 and isinstance(owner, dict):
        owner[draw.choice(("x", "", "extra", last + "x", "steps/x", "../x", "start"))] = draw.choice(
            (value, *ODD)
        )
    elif way == 5:
        owner[last] = copy.deepcopy(_at(tree, draw.choice([path for path in _places(tree) if path])))
    else:
        owner[last] = draw.choice(ODD)
    return f"{at} is {owner.get(last, '?') if isinstance(owner, dict) else owner[last]!r:.60}", tree


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


# --- Zarr


def _finished(store: Specimen, draw: random.Random, told: str, change: Mapping[str, bytes]) -> Crafted:
    """The change; in an archive mostly with a manifest that is right, too; in a zip packed again."""
    files = {**store.files, **change} if store.path.suffix != ".zip" else {**_members(store), **change}
    if MANIFEST in files and MANIFEST not in change and draw.random() < 0.8:
        lines = (
            f"{sha256(data).hexdigest()}  {name}\n"
            for name, data in sorted(files.items())
            if name != MANIFEST and "lock" not in name
        )
        change = {**change, MANIFEST: "".join(lines).encode()}
    if store.path.suffix != ".zip":
        return told, dict(change)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as file:
        for name, data in {**files, **change}.items():
            file.writestr(name, data)
    return told, {"": packed.getvalue()}


def _members(store: Specimen) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(store.files[""])) as file:
        return {name: file.read(name) for name in file.namelist()}


def _content(store: Specimen) -> Mapping[str, bytes]:
    return _members(store) if store.path.suffix == ".zip" else store.files


def _metadata(store: Specimen, draw: random.Random) -> Crafted:
    files = _content(store)
    name = draw.choice([name for name in files if name.endswith("/zarr.json")])
    told, tree = mutated(json.loads(files[name]), draw)
    return _finished(store, draw, f"{name}: {told}", {name: json.dumps(tree).encode()})


def _document(store: Specimen, draw: random.Random) -> Crafted:
    root = json.loads(_content(store)["zarr.json"])
    told, document = mutated(root["attributes"]["replaystore"], draw)
    root["attributes"] |= {"replaystore": document, CHECKSUM: document_checksum(document)}
    return _finished(store, draw, told, {"zarr.json": as_json(root)})


def _root(store: Specimen, draw: random.Random) -> Crafted:
    told, tree = mutated(json.loads(_content(store)["zarr.json"]), draw)
    text = json.dumps(tree).encode()
    if draw.random() < 0.05:
        told, text = (
            "nested deep",
            b'{"zarr_format": 3, "attributes": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        )
    return _finished(store, draw, told, {"zarr.json": text})


def _index(store: Specimen, draw: random.Random) -> Crafted:
    files = _content(store)
    shards = [
        name
        for name in files
        if re.search(r"/c/\d+(/0)*$", name) and "journal/" not in name and len(files[name]) > 4096
    ]
    name = draw.choice(shards)
    owner = json.loads(files[name.partition("/c/")[0] + "/zarr.json"])
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
    data[16 * per_shard : 16 * per_shard + 4] = _crc(index.tobytes())
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
    files = _content(store)
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


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


# --- the log


def records(data: bytes) -> list[tuple[dict[str, Any], list[list[Any]]]]:
    """The records of a segment: their JSON, and their blobs as [name, declared length, bytes]."""
    found, at = [], 0
    while data[at : at + 4] == b"RSC1":
        (length,) = struct.unpack_from("<Q", data, at + 8)
        payload = data[at + 16 : at + 16 + length]
        (size,) = struct.unpack_from("<I", payload)
        meta, place, blobs = json.loads(payload[4 : 4 + size]), 4 + size, []
        for name, count in meta.pop("blobs"):
            blobs.append([name, count, payload[place : place + count]])
            place += count
        found.append((meta, blobs))
        at += 16 + length
    return found


def packed(meta: Any, blobs: list[list[Any]]) -> bytes:
    text = json.dumps(
        meta | {"blobs": [[name, count] for name, count, _ in blobs]} if isinstance(meta, dict) else meta
    ).encode()
    payload = b"".join((struct.pack("<I", len(text)), text, *(data for *_, data in blobs)))
    length = struct.pack("<Q", len(payload))
    return b"RSC1" + _crc(length + payload) + length + payload


def changed_log(data: bytes, draw: random.Random) -> tuple[str, bytes]:
    known = records(data)
    at = draw.randrange(len(known))
    meta, blobs = known[at]
    way = draw.random()
    if way < 0.5:
        told, meta = mutated(meta, draw)
    elif way < 0.85 and blobs:
        number = draw.randrange(len(blobs))
        told, blobs[number] = _changed_blob(blobs[number], draw)
    elif way < 0.9 and blobs:
        told = f"without {blobs.pop(draw.randrange(len(blobs)))[0]}"
    elif way < 0.94:
        blobs.append(
            [
                draw.choice(
                    ("rows:x", "at:steps/action", "keep:", "x", "mutable:parts/start", "grow:steps/x")
                ),
                8,
                bytes(8),
            ]
        )
        told = f"with {blobs[-1][0]}"
    else:
        other = draw.randrange(len(known))
        known[at], told = known[other], f"record {other} in its place"
        meta, blobs = known[at]
    parts = [packed(*record) for record in known]
    parts[at] = packed(meta, blobs)
    return f"record {at}: {told}", b"".join(parts)


def _changed_blob(blob: list[Any], draw: random.Random) -> tuple[str, list[Any]]:
    name, count, data = blob
    way = draw.randrange(5)
    if way == 0:
        return f"{name} says {(wrong := draw.choice((*NUMBERS, count + 1, 'x', None)))!r} bytes", [
            name,
            wrong,
            data,
        ]
    if way == 1:
        shorter = data[: draw.randrange(len(data) + 1)]
        return f"{name} is cut at {len(shorter)}", [name, len(shorter), shorter]
    if way == 2:
        return f"{name} is longer", [name, 2 * len(data), data * 2]
    if len(data) < 8:
        return f"{name} is noise", [name, len(data), draw.randbytes(len(data))]
    cells = np.frombuffer(data[: len(data) // 8 * 8], "<i8").copy()
    at = draw.randrange(len(cells))
    cells[at] = draw.choice((*NUMBERS, int(cells[at]) + 1, int(cells[at]) - 1, int(cells[at - 1])))
    return f"cell {at} of {name} is {cells[at]}", [
        name,
        len(data),
        cells.tobytes() + data[len(data) // 8 * 8 :],
    ]


def _record(store: Specimen, draw: random.Random) -> Crafted:
    files = _content(store)
    name = draw.choice([name for name in files if re.search(r"journal/log/c/\d+$", name)])
    told, data = changed_log(files[name], draw)
    return _finished(store, draw, f"{name}: {told}", {name: data})


def _table(store: Specimen, draw: random.Random) -> Crafted:
    """A cell of a table that has reached its array, with the checksum in the log made right."""
    files = _content(store)
    names = sorted(
        (name for name in files if re.search(r"journal/log/c/\d+$", name)),
        key=lambda name: int(name.rpartition("/")[2]),
    )
    log = records(files[names[-1]])
    known = {
        name: rows
        for name, (rows, _) in log[0][0].get("tables", {}).items()
        if rows and f"{name}/c/0" in files
    }
    known = {
        name: rows
        for name, rows in known.items()
        if log[0][0]["arrays"][name]["dtype"] in ("int64", "int32", "uint32")
    }
    if not known:
        return None
    name = draw.choice(list(known))
    width = 8 if log[0][0]["arrays"][name]["dtype"] == "int64" else 4
    file, header = (
        f"{name}/c/0",
        -(-(16 * log[0][0]["arrays"][name].get("chunks_per_shard", 128) + 4) // 4096) * 4096,
    )
    data, size = bytearray(files[file]), known[name] * width
    at = header + draw.randrange(known[name]) * width
    value = draw.choice((*NUMBERS, int.from_bytes(data[at : at + width], "little") + 1)) % 256**width
    data[at : at + width] = value.to_bytes(width, "little")
    log[0][0]["tables"][name][1] = google_crc32c.value(bytes(data[header : header + size]))
    packed_log = b"".join(packed(*record) for record in log)
    return _finished(store, draw, f"{name}: a cell is {value}", {file: bytes(data), names[-1]: packed_log})


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
