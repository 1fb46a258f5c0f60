"""How chunks of Zarr arrays of other software are decoded: the stored bytes to the bytes of a chunk.

1. Only codecs that execute nothing are known, by their names: blosc, zstd, lz4, gzip, zlib, bz2, lzma, and
   the checksum crc32c. Those of objects (pickle, msgpack, vlen-…) and of pictures are refused by name.
2. Nothing stored is believed: no more is ever made of a chunk than its array says that it has.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from replaystore.containers.codecs import crc32c
from replaystore.errors import FormatError, UnsupportedError

__all__ = ["Expand", "expander"]

Expand = Callable[[bytes], Any]
"""The stored bytes of a chunk → its bytes, a buffer."""

_OBJECTS = ("pickle", "msgpack", "msgpack2", "json", "json2", "vlen-utf8", "vlen-bytes", "vlen-array")
_PICTURES = ("imagecodecs", "jpeg", "png", "webp", "tiff", "avif")
_CRC = 4
_LONGEST = 1 << 31
"""Bytes of a buffer of Blosc and LZ4."""


def expander(codecs: list[Mapping[str, Any]], size: int, where: str) -> Expand | None:
    """How chunks of `size` bytes are decoded that these codecs were applied to, one after another; None: they
    are stored as they are. UnsupportedError: a codec that is not read."""
    steps: list[Callable[[bytes], Any]] = []
    known: int | None = size
    for codec in codecs:
        name = str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
        if name == "crc32c":
            steps.append(partial(_checked, where=where))
            known = None if known is None else known + _CRC
            continue
        expand = _COMPRESSORS.get(name)
        if expand is None:
            raise UnsupportedError(_refused(name, where))
        if known is None:
            raise UnsupportedError(
                f"{where}: chunks that are compressed twice are not read: write it with one codec"
            )
        steps.append(partial(_expanded, expand=expand, size=known, where=f"{where}: a chunk of {name}"))
        known = None
    steps.reverse()
    return partial(_through, steps=steps) if steps else None


def _through(data: bytes, *, steps: list[Callable[[bytes], Any]]) -> Any:
    for step in steps:
        data = step(data)
    return data


def _refused(name: str, where: str) -> str:
    if name.startswith(_PICTURES) or "jpeg" in name:
        return (
            f"{where} holds pictures by the codec {name!r}, which needs imagecodecs, and is not read: read "
            "it with the software that wrote it, and write the array uncompressed, or with blosc or zstd"
        )
    if name in _OBJECTS:
        return f"{where} holds objects by the codec {name!r}, and such are not read: write numbers"
    return (
        f"{where} needs the codec {name!r:.80}, and only {', '.join(sorted(_COMPRESSORS))} are read: write "
        "it with one of them"
    )


def _checked(data: bytes, *, where: str) -> bytes:
    """What a checksum is of. FormatError: it is another one's."""
    content = bytes(data[:-_CRC])
    if len(data) < _CRC or crc32c(content) != int.from_bytes(data[-_CRC:], "little"):
        raise FormatError(f"{where}: a chunk does not have its checksum: restore it from a copy")
    return content


def _expanded(data: bytes, *, expand: Callable[[bytes, int], Any], size: int, where: str) -> Any:
    try:
        found = expand(data, size)
    except (RuntimeError, ValueError, TypeError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"{where} cannot be decoded ({error}): restore it from a copy") from error
    if len(found) != size:
        raise FormatError(f"{where} does not hold the {size} bytes that it has: restore it from a copy")
    return found


def _blosc(data: bytes, size: int) -> Any:
    from numcodecs import blosc  # type: ignore[import-untyped]

    # Blosc itself does not know how long its input is, and believes the header.
    if len(data) < 16:
        raise ValueError("it has no header")
    content, stored = int.from_bytes(data[4:8], "little"), int.from_bytes(data[12:16], "little")
    if content != size or stored != len(data) or size > _LONGEST:
        raise ValueError(f"its header says {content} bytes in {stored}")
    found = np.empty(size, np.uint8)
    blosc.decompress(data, found)
    return found


def _lz4(data: bytes, size: int) -> Any:
    from numcodecs import lz4

    if len(data) < 4 or int.from_bytes(data[:4], "little") != size or size > _LONGEST:
        raise ValueError("its header says another size")
    found = np.empty(size, np.uint8)
    lz4.decompress(data, found)
    return found


def _zstd(data: bytes, size: int) -> Any:
    import zstandard

    found = np.empty(size, np.uint8)
    try:
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            done, rest = 0, found.data
            while done < size and (got := reader.readinto(rest[done:])):
                done += got
            more = reader.read(1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    return found if done == size and not more else b""


def _deflated(data: bytes, size: int) -> Any:
    inflater = zlib.decompressobj(wbits=47)  # of zlib or gzip
    found = inflater.decompress(data, size + 1)
    return found if inflater.eof else b""


def _bz2(data: bytes, size: int) -> Any:
    return bz2.BZ2Decompressor().decompress(data, size + 1)


def _lzma(data: bytes, size: int) -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=256 << 20).decompress(data, size + 1)


_COMPRESSORS: Mapping[str, Callable[[bytes, int], Any]] = {
    "blosc": _blosc,
    "bz2": _bz2,
    "gzip": _deflated,
    "lz4": _lz4,
    "lzma": _lzma,
    "zlib": _deflated,
    "zstd": _zstd,
}
