"""Deflate for HDF5's filters and for gzip members: written quickly, and never inflated beyond what is
expected. Any reader of zlib streams reads what is written here.

Levels 1 to 3 are made by ISA-L (1 five to ten times as fast as zlib's, and smaller), higher ones by zlib. Of
shuffled bytes each plane is compressed by itself, and stored where it would not become smaller: the low bytes
of floats are noise, which costs most of the time there and back and gains nothing. Compressed together with
the others, they also spoil their codes: planes are 1 to 6 % smaller by themselves.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import CorruptError

fast: Any
igzip: Any
try:
    from isal import igzip_lib as igzip
    from isal import isal_zlib as fast
except ImportError:  # no wheel of it for this machine
    fast, igzip = zlib, None

__all__ = ["deflate", "deflate_planes", "gzip_member", "inflate"]

Octets = NDArray[np.uint8]

LEAST_PLANE = 1024
"""Bytes: a plane by itself costs 20 µs more."""
FAST_LEVELS = 3
"""ISA-L's highest level."""
WORTH = 0.97
"""What a plane has to shrink to."""
STORED = 65535
"""The most bytes of a block that is not compressed."""
HEADER, LAST_BLOCK = b"\x78\x01", b"\x03\x00"
"""Of a zlib stream; and an empty last block."""
ADLER, PRESET = 4, 0x20
"""Bytes of the checksum at its end; the bit of its header that says that more belongs there."""


def gzip_member(plain: Octets, level: int) -> bytes:
    """A gzip member. Its time is 0, so that equal bytes give equal ones."""
    return bytes(_by(level).compress(plain.data, level, 31))


def deflate(plain: Octets, level: int) -> bytes:
    """A zlib stream."""
    return bytes(_by(level).compress(plain.data, level))


def deflate_planes(planes: Octets, level: int) -> bytes:
    """A zlib stream of the rows of an array, one after the other."""
    if planes.shape[1] < LEAST_PLANE or _by(level) is zlib:
        return deflate(planes.reshape(-1), level)
    parts = [HEADER]
    for plane in planes:
        compressor = fast.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        part = compressor.compress(plane.data) + compressor.flush(zlib.Z_SYNC_FLUSH)
        parts.append(part if len(part) <= WORTH * plane.size else _stored(plane))
    return b"".join([*parts, LAST_BLOCK, fast.adler32(planes.reshape(-1).data).to_bytes(4, "big")])


def inflate(payload: Octets, size: int, wbits: int) -> bytes:
    """The content of a zlib stream or gzip member, of which at most one byte too many is ever made.
    CorruptError: it does not hold so many bytes.

    With -15 for `wbits`, of a zlib stream whose Adler is not looked at, an eighth of the time of frames: for
    payloads that were compared with a checksum of their own."""
    inflater, begin, after = _inflater(wbits), 0, 0
    if wbits < 0:
        begin, after = len(HEADER), ADLER
        head = payload[:begin].tobytes()
        if int.from_bytes(head, "big") % 31 or head[:1] != HEADER[:1] or head[1] & PRESET:
            raise CorruptError("the deflated bytes of a chunk begin with no header of theirs")
    try:
        plain: bytes = inflater.decompress(payload[begin:].data, size + 1)
    except (zlib.error, fast.error) as error:
        raise CorruptError(f"the deflated bytes of a chunk cannot be read ({error})") from error
    if len(plain) != size or not inflater.eof or len(inflater.unused_data) != after:
        raise CorruptError(f"the deflated bytes of a chunk do not hold the {size} bytes that it has")
    return plain


def _inflater(wbits: int) -> Any:
    if igzip is None:
        return zlib.decompressobj(wbits)
    # It takes memory once where `decompressobj` begins with little: 7 % of the time of 32 frames.
    kinds = {-zlib.MAX_WBITS: igzip.DECOMP_DEFLATE, zlib.MAX_WBITS: igzip.DECOMP_ZLIB}
    return igzip.IgzipDecompressor(kinds.get(wbits, igzip.DECOMP_GZIP))


def _by(level: int) -> Any:
    """Who makes this level."""
    return fast if level <= FAST_LEVELS else zlib


def _stored(plane: Octets) -> bytes:
    """Blocks that are not compressed."""
    parts = []
    for begin in range(0, plane.size, STORED):
        block = plane[begin : begin + STORED].tobytes()
        length = len(block)
        parts += [b"\0", length.to_bytes(2, "little"), (length ^ 0xFFFF).to_bytes(2, "little"), block]
    return b"".join(parts)
