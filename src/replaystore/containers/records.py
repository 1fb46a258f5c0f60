"""The form of the commit log, as far as containers know it: records one behind the other, and how much of a
segment of them is read at all.

    record   = magic "RSC1" | crc32c of the rest (u32) | length of the payload (u64) | payload
    payload  = length of the JSON (u32) | JSON | blobs, in the order and with the lengths that the JSON lists

A record is valid if its checksum is; what follows the last valid one is torn or empty. All numbers are
little-endian. What records say is for `arrays` to judge.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google_crc32c import extend, value

from replaystore.errors import CorruptError

__all__ = ["HEADER_BYTES", "MAGIC", "encode_record", "open_payload", "segment_end", "whole_records"]

MAGIC = b"RSC1"
WHOLE = 64 << 20
"""Bytes of a segment that are read without looking at them first: a segment is ended at 256 KiB, or with the
record that exceeds it."""
MOST_RECORD = 1 << 33
"""Bytes of a record: the tables' rows of one commit, of a conversion perhaps."""
_HEADER = struct.Struct("<4sIQ")
HEADER_BYTES = _HEADER.size
_LENGTH = struct.Struct("<Q")
_JSON = struct.Struct("<I")
_BLOCK = 8 << 20

Read = Callable[[int, int], bytes]
"""(offset, length) → bytes of a segment; fewer where it ends."""


def encode_record(meta: Mapping[str, Any], blobs: Mapping[str, bytes]) -> bytes:
    """The bytes of one record."""
    text = json.dumps(
        {**meta, "blobs": [[name, len(blob)] for name, blob in blobs.items()]},
        separators=(",", ":"),
        allow_nan=False,
    ).encode()
    payload = b"".join((_JSON.pack(len(text)), text, *blobs.values()))
    length = _LENGTH.pack(len(payload))
    return b"".join((MAGIC, struct.pack("<I", extend(value(length), payload)), length, payload))


def whole_records(data: bytes) -> Iterator[tuple[bytes, int]]:
    """The payloads of the valid records at the beginning of `data`, each with where the record ends."""
    position = 0
    while position + _HEADER.size <= len(data):
        magic, checksum, length = _HEADER.unpack_from(data, position)
        start = position + _HEADER.size
        if magic != MAGIC or length > len(data) - start or length < _JSON.size:
            return
        payload = data[start : start + length]
        if extend(value(_LENGTH.pack(length)), payload) != checksum:
            return
        position = start + length
        yield payload, position


def open_payload(payload: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON and the blobs of a record; what Python raises for what is none, ValueError among it."""
    (size,) = _JSON.unpack_from(payload)
    meta, blobs, at = json.loads(payload[_JSON.size : _JSON.size + size]), {}, _JSON.size + size
    for name, count in meta.pop("blobs"):
        if type(count) is not int or not 0 <= count <= len(payload) - at or name in blobs:
            raise ValueError(f"{count!r:.40} bytes named {name!r:.80}")
        blobs[name] = payload[at : at + count]
        at += count
    return meta, blobs


def segment_end(read: Read, start: int, size: int, where: str) -> int:
    """Up to where a segment of so many bytes is to be read from `start` on: a file may be of any size, and
    hold nothing.

    All of it if that is little; else to the end of its valid records, and a little of what follows them.
    CorruptError: more follows them than the torn record that a killed writer leaves."""
    at = start
    if size - start <= WHOLE:
        return size
    while at + _HEADER.size <= size:
        magic, checksum, length = _HEADER.unpack(read(at, _HEADER.size))
        begin = at + _HEADER.size
        if magic != MAGIC or length > min(MOST_RECORD, size - begin):
            break
        if length > WHOLE:
            found = extend(0, length.to_bytes(8, "little"))
            for offset in range(begin, begin + length, _BLOCK):
                found = extend(found, read(offset, min(_BLOCK, begin + length - offset)))
            if found != checksum:
                break
        at = begin + length
    if size - at > MOST_RECORD:
        raise CorruptError(
            f"{where}: {size - at} bytes follow the last record of the commit log, more than "
            "a writer leaves; cut them off"
        )
    return min(size, at + WHOLE)
