"""Files of other software, spoilt where it hurts: bytes of heads, counts and lengths, values of JSON,
entries of zip directories, instructions of pickles, heads of HDF5's objects, footers of Parquet, tags of
messages; and files that are missing, empty, too long, links, folders or pipes.

`mangled` spoils a copy of a file or folder in one to three of these ways, drawn from a seed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any

from replaystore.testing.crafting_hdf5 import other_objects

__all__ = ["HARM", "MARKER", "mangled"]

MARKER = "REPLAYSTORE_WAS_HERE"
"""A file of this name, beside the file that is read, is made by harmful ones if they are executed."""
HARM = f"cos\nsystem\n(Vtouch {MARKER}\ntR0".encode()
"""A pickle's instructions that do it, and go on."""
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
MARKS = (
    rb"OHDR|OCHK|FRHP|FHDB|BTHD|BTLF|TREE|SNOD|HEAP|GCOL|BTIN|FADB|FAHD|EAHD|\x89HDF\r\n\x1a\n",
    rb"PAR1|ARROW1|\xff\xff\xff\xff",
    rb"PK\x01\x02|PK\x03\x04|PK\x05\x06|PK\x06\x06|PK\x06\x07",
    rb"\x93NUMPY|'descr'|'shape'|fortran_order|\x28\xb5\x2f\xfd|ftyp|moov|mdat",
)
"""What stands at the beginning of what readers believe."""
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 62, 10**30, -(1 << 63), 0.5, 1e308, "", "\x00", "a/../../b", "/etc/passwd",
    "é" * 300, [], {}, [[]], [0] * 50, {"": {}}, ["float32"], "float32", "<f8", "|O", "object", "complex256",
    "V8", [1 << 40], [-1, 3], [2, 2, 2, 2, 2, 2, 2, 2, 2], "x" * 70_000,
)  # fmt: skip

Draw = random.Random


# --- any bytes


def _flip(data: bytearray, draw: Draw, at: int | None = None) -> None:
    if data:
        place = draw.randrange(len(data)) if at is None else min(at, len(data) - 1)
        data[place] ^= 1 << draw.randrange(8)


def _number(data: bytearray, draw: Draw, at: int | None = None) -> None:
    """A number where there may have been one."""
    width = draw.choice((1, 2, 4, 8))
    place = draw.randrange(max(1, len(data) - width)) if at is None else at
    value = draw.choice(EXTREMES) & ((1 << 8 * width) - 1)
    data[place : place + width] = value.to_bytes(width, draw.choice(("little", "big")))


def _cut(data: bytearray, draw: Draw) -> None:
    del data[draw.randrange(len(data) + 1) :]


def _hole(data: bytearray, draw: Draw) -> None:
    begin = draw.randrange(len(data) + 1)
    del data[begin : begin + draw.choice((1, 4, 8, 100))]


def _twice(data: bytearray, draw: Draw) -> None:
    begin = draw.randrange(len(data) + 1)
    data[begin:begin] = data[begin : begin + draw.choice((1, 8, 200))]


def _zeros(data: bytearray, draw: Draw) -> None:
    begin = draw.randrange(len(data) + 1)
    stop = min(len(data), begin + draw.choice((8, 64, 4096)))
    data[begin:stop] = bytes(stop - begin)


def _head(data: bytearray, draw: Draw) -> None:
    draw.choice((_flip, _number))(data, draw, draw.randrange(min(96, len(data)) or 1))


def _foot(data: bytearray, draw: Draw) -> None:
    back = draw.randrange(min(200, len(data)) or 1)
    draw.choice((_flip, _number))(data, draw, max(0, len(data) - 1 - back))


def _mark(data: bytearray, draw: Draw) -> None:
    """Near what says what follows."""
    found = [match.start() for match in re.finditer(b"|".join(MARKS), data)]
    near = (draw.choice(found) if found else 0) + draw.randrange(-12, 72)
    draw.choice((_flip, _number))(data, draw, max(0, near))


# --- what has a shape


def _in_json(value: Any, draw: Draw) -> Any:
    """One value of it, or one key."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.15:
            return {other: item for other, item in value.items() if other != key}
        if draw.random() < 0.1:
            return {**value, key + draw.choice(("/", "x", "\x00")): value[key]}
        return {**value, key: _in_json(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        ways = draw.choice((0, 2, 1, 1))
        changed = [_in_json(value[at], draw)] if ways == 1 else [value[at]] * ways
        return [*value[:at], *changed, *value[at + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "["):
        with suppress(ValueError):
            return json.dumps(_in_json(json.loads(value), draw))
    if draw.random() < 0.03:
        return json.loads("[" * 400 + "]" * 400)
    if isinstance(value, int) and draw.random() < 0.5:
        return value + draw.choice((-1, 1, 1 << 31, 1 << 62, -value, -2 * value))
    return draw.choice(VALUES)


def _json(data: bytearray, draw: Draw) -> None:
    """Of a file of JSON, or one that begins with how long its JSON is."""
    begin = 0 if bytes(data[:1]) in (b"{", b"[") else 8
    stop = len(data) if not begin else begin + int.from_bytes(data[:8], "little")
    try:
        lines = bytes(data[begin:stop]).decode().splitlines() or [""]
        whole = len(lines) > 1 and not _is_json(lines[0])
        at = draw.randrange(len(lines))
        known = json.loads("\n".join(lines) if whole else lines[at])
    except (ValueError, RecursionError):
        _flip(data, draw)
        return
    text = json.dumps(_in_json(known, draw), ensure_ascii=draw.random() < 0.5)
    if not whole:
        text = "\n".join([*lines[:at], text, *lines[at + 1 :]])
    fresh = text.encode("utf-8", "surrogatepass")
    size = struct.pack("<Q", len(fresh)) if begin else b""
    data[:stop] = size + fresh


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _pickle(data: bytearray, draw: Draw) -> None:
    """An instruction, its argument, or one more, which does harm."""
    places = _instructions(bytes(data))
    if not places:
        _flip(data, draw)
        return
    at = draw.choice(places)
    if draw.random() < 0.3:
        data[at:at] = HARM
    elif draw.random() < 0.5:
        data[at] = draw.choice(b"0.(cRbo}]\x93\x81\x85\x86t)uasehjKJMIGXCBUTN\x88\x95\x8a\x80iPQ\x82")
    else:
        _number(data, draw, at + 1)


def _instructions(data: bytes) -> list[int]:
    import pickletools

    found: list[int] = []
    with suppress(Exception):
        for number, (_, _, at) in enumerate(pickletools.genops(data)):
            found.append(at or 0)
            if number > 3000:
                break
    return found


def _zip(data: bytearray, draw: Draw) -> None:
    """A member, spoilt and packed again as if nothing had happened; its name; or its entry."""
    try:
        with zipfile.ZipFile(BytesIO(bytes(data))) as held:
            members = [(info, held.read(info)) for info in held.infolist()[:400]]
    except (zipfile.BadZipFile, ValueError, zlib.error, NotImplementedError, RuntimeError, OSError, EOFError):
        _mark(data, draw)
        return
    if not members or draw.random() < 0.35:
        _mark(data, draw)
        return
    chosen, out = draw.randrange(len(members)), BytesIO()
    renamed = draw.random() < 0.2
    with zipfile.ZipFile(out, "w") as fresh:
        for at, (info, content) in enumerate(members):
            name = info.filename
            if at == chosen and renamed:
                name = draw.choice(("../" + name, "/tmp/" + name, name + "/", name.upper(), "", "x" * 300))  # noqa: S108
            elif at == chosen:
                inner = bytearray(content)
                spoil(inner, draw)
                if draw.random() < 0.05:
                    continue
                with suppress(ValueError, UserWarning, IndexError):
                    fresh.writestr(name, bytes(inner), info.compress_type)
                continue
            with suppress(ValueError, UserWarning, IndexError):
                fresh.writestr(name, content, info.compress_type)
    data[:] = out.getvalue()


def _message(data: bytearray, draw: Draw) -> None:
    """A record of a tfrecord, with its sums as they have to be."""
    from google_crc32c import value as crc32c

    def masked(part: bytes) -> bytes:
        crc = crc32c(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    records, at = list[tuple[int, int]](), 0
    while at + 16 <= len(data) and len(records) < 10_000:
        (size,) = struct.unpack_from("<Q", data, at)
        if at + 16 + size > len(data):
            break
        records.append((at, size))
        at += 16 + size
    if not records:
        _flip(data, draw)
        return
    at, size = draw.choice(records)
    inner = bytearray(data[at + 12 : at + 12 + size])
    draw.choice((_flip, _number, _cut, _hole, _twice, _head))(inner, draw)
    length = struct.pack("<Q", len(inner))
    data[at : at + 16 + size] = length + masked(length) + bytes(inner) + masked(bytes(inner))


ANY: tuple[Callable[[bytearray, Draw], None], ...] = (
    _flip, _number, _cut, _hole, _twice, _zeros, _head, _head, _foot, _mark, _mark, _mark
)  # fmt: skip


def _kind(data: bytearray) -> Callable[[bytearray, Draw], None] | None:
    """How what has a shape is spoilt in it."""
    if bytes(data[:1]) in (b"{", b"[") or (len(data) > 9 and data[8:9] == b"{"):
        return _json
    if data[:1] == b"\x80":
        return _pickle
    if data[:2] == b"PK":
        return _zip
    if len(data) > 16 and 0 < int.from_bytes(data[:8], "little") < len(data) and data[:4] != b"PAR1":
        return _message
    return None


def spoil(data: bytearray, draw: Draw) -> None:
    """Once, in a way that fits it."""
    shaped = _kind(data)
    if shaped is not None and draw.random() < 0.7:
        shaped(data, draw)
    elif data:
        draw.choice(ANY)(data, draw)


# --- files


def _place(path: str, draw: Draw) -> None:
    """What lies there is something else than a file that is as long as it has to be."""
    way = draw.randrange(7)
    if way < 2:
        os.remove(path)
    elif way == 2:
        os.truncate(path, 0)
    elif way == 3:
        os.remove(path)
        os.symlink(draw.choice(("/etc/passwd", "/dev/zero", "nowhere", os.path.basename(path))), path)
    elif way == 4:
        os.remove(path)
        os.mkdir(path)
    elif way == 5:
        os.remove(path)
        os.mkfifo(path)
    else:
        os.truncate(path, 1 << draw.choice((20, 33, 40)))


def _files(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)


def mangled(source: str, target: str, draw: Draw) -> str:
    """A copy of a file or folder, spoilt; what was done, in words."""
    if os.path.isdir(source):
        shutil.copytree(source, target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(source, target)
    told = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        files = [name for name in _files(target) if os.path.isfile(name) and not os.path.islink(name)]
        if not files:
            break
        chosen = draw.choice(files)
        told.append(os.path.relpath(chosen, os.path.dirname(target)))
        with open(chosen, "rb") as file:
            data = bytearray(file.read(64 << 20))
        if draw.random() < 0.06:
            _place(chosen, draw)
        elif data[:4] == b"\x89HDF" and draw.random() < 0.4:
            other_objects(chosen, draw)
        else:
            spoil(data, draw)
            with open(chosen, "wb") as file:
                file.write(data)
    return ", ".join(told)
