"""Records of the log of commits as a stranger would craft them: of the right checksum and wrong content."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

import google_crc32c
import numpy as np

from replaystore.testing.odd_values import NUMBERS, mutated

__all__ = ["changed_log", "crc", "packed", "records"]


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
    return b"RSC1" + crc(length + payload) + length + payload


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
                draw.choice(("rows:x", "at:steps/action", "keep:", "x", "mutable:parts", "grow:steps/x")),
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


def crc(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))
