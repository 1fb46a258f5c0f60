"""How the chunks of coded arrays are encoded in Zarr shards and in HDF5 files: codec text ("zstd:1") to
stored bytes and back.

    zarr, zstd:L    zstd frame                          crc32c
    zarr, gzip:L    gzip member                         crc32c
    hdf5, zstd:L    zstd frame                          fletcher32
    hdf5, gzip:L    shuffled bytes, as a zlib stream    fletcher32

Every stored chunk is a payload and the 4 bytes of a checksum of the payload, little-endian.

1. What is written here is what the container's own codecs and filters write, so that zarr-python and h5py
   read it.
2. Nothing stored is believed: the checksum is compared first, and nothing larger than the chunk is ever
   decompressed.
3. The heavy parts (zstd, deflate, shuffling) release the GIL. The checksums hold it, at 27 (crc32c) and 3
   GB/s (fletcher32) of encoded bytes.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from replaystore.containers import deflating
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import CorruptError, SchemaError

__all__ = ["ChunkCodec", "codec_for", "crc32c", "extend", "hdf5_filters", "parse_codec", "zarr_codecs"]

Octets = NDArray[np.uint8]

LEVELS = {"zstd": range(1, 23), "gzip": range(1, 10)}
DEFAULT_LEVELS = {"zstd": 1, "gzip": 1}
"""Higher levels gain a few per cent on floats and take two to seven times as long."""

DIRECT_BYTES = 128 << 10
TRAILER = 4
ZSTD_MAGIC = bytes.fromhex("28b52ffd")

HDF5_DEFLATE, HDF5_SHUFFLE, HDF5_FLETCHER32, HDF5_ZSTD = 1, 2, 3, 32015
MANDATORY, OPTIONAL = 0, 1
"""H5Z_FLAG_*: those that HDF5's own H5Pset_* functions set; zstd is optional so that a dataset can be made
without its plugin."""


@dataclass(frozen=True)
class ChunkCodec:
    """A `Codec`: a compressor and the checksum that the container's format puts behind its output."""

    compress: Callable[[Octets], bytes]
    expand: Callable[[Octets, Octets], None]
    seal: Callable[[Octets], bytes]
    """The stored checksum of a payload."""
    expand_all: Callable[[Sequence[bytes], Octets, Sequence[int]], bool] | None = None
    """As `expand`, of several payloads to these places of an array, (chunks, bytes of one), where that is
    quicker; False: it did not."""
    wbits: int = 0
    """Of what inflates to the bytes of rows: as `deflating.inflate` has it."""

    @property
    def apart(self) -> bool:
        """Chunks are decoded into memory of their own first: `content` is quicker, if not all of it is
        wanted."""
        return self.wbits != 0

    def encode(self, rows: Any) -> bytes:
        """The stored bytes of a chunk, from its C-order bytes (any contiguous buffer)."""
        payload = self.compress(_octets(rows))
        return payload + self.seal(_octets(payload))

    def decode(self, data: Any, out: Octets, *, checked: bool = False) -> None:
        """Decode stored bytes into `out`, flat and contiguous, of the chunk's size. CorruptError: they do not
        decode to that.

        `checked`: `checksum` was what it had to be, so that the stored checksum need not be looked at."""
        stored = _octets(data)
        if stored.size <= TRAILER:
            raise CorruptError(f"an encoded chunk cannot have {stored.size} bytes")
        payload = stored[:-TRAILER]
        if not checked and self.seal(payload) != stored[-TRAILER:].tobytes():
            raise CorruptError(
                f"the stored checksum of an encoded chunk is not that of its {payload.size} bytes"
            )
        self.expand(payload, out)

    def decode_all(
        self, stored: Sequence[bytes], checksums: Sequence[int], out: Octets, places: Sequence[int]
    ) -> list[int]:
        """Decode the stored bytes of several chunks to these places of `out`, of shape (chunks, bytes of
        one), each if its checksum is theirs and they decode to its size; which were not."""
        payloads = [data[:-TRAILER] for data in stored]
        wrong = [
            payload == b"" or google_crc32c.value(payload) != known
            for payload, known in zip(payloads, checksums, strict=True)
        ]
        if self.expand_all is not None and not any(wrong) and self.expand_all(payloads, out, places):
            return []
        for number, (payload, place) in enumerate(zip(payloads, places, strict=True)):
            try:
                if not wrong[number]:
                    self.expand(np.frombuffer(payload, np.uint8), out[place])
            except CorruptError:
                wrong[number] = True
        return [number for number, is_wrong in enumerate(wrong) if is_wrong]

    def content(self, data: bytes, checksum: int, size: int) -> Octets | None:
        """The bytes of a chunk, which is `apart`; None: another checksum is theirs, or they do not decode to
        that size."""
        payload = _octets(data[:-TRAILER])
        if not payload.size or google_crc32c.value(payload) != checksum:
            return None
        try:
            return _octets(deflating.inflate(payload, size, self.wbits))
        except CorruptError:
            return None

    def checksum(self, data: Any) -> int:
        """crc32c of the stored bytes less the trailing checksum."""
        return crc32c(_octets(data)[:-TRAILER])


def parse_codec(text: str) -> tuple[str, int]:
    """Name and level: ("zstd", 3) of "zstd:3", the default level where none is given. SchemaError: the names
    and levels there are."""
    name, colon, level = text.partition(":")
    if name in LEVELS:
        if not colon:
            return name, DEFAULT_LEVELS[name]
        if level.isascii() and level.isdigit() and int(level) in LEVELS[name] and not level.startswith("0"):
            return name, int(level)
    known = ", ".join(
        f'"{name}:LEVEL" with {levels[0]} <= LEVEL <= {levels[-1]}' for name, levels in LEVELS.items()
    )
    raise SchemaError(f'codec "{text}" is not known; known are "raw", {known}')


def codec_for(kind: Literal["zarr", "hdf5"], spec: ArraySpec) -> ChunkCodec:
    """How the chunks of a coded array are encoded in this kind of container. SchemaError: the codec is
    unknown."""
    name, level = _parsed(spec)
    compress: Callable[[Octets], bytes]
    expand: Callable[[Octets, Octets], None]
    expand_all: Callable[[Sequence[bytes], Octets, Sequence[int]], bool] | None = None
    wbits = 0
    if name == "zstd":
        compress, expand = functools.partial(_compress_zstd, level=level), _expand_zstd
        expand_all = _expand_all_zstd
    elif kind == "zarr":
        compress, expand = functools.partial(_compress_gzip, level=level), _expand_gzip
        wbits = 31
    else:
        item = spec.dtype.itemsize
        compress, expand = (
            functools.partial(_compress_deflate, level=level, item=item),
            functools.partial(_expand_deflate, item=item),
        )
        expand_all = functools.partial(_expand_all_deflate, item=item)
        wbits = -15 if item == 1 else 0  # others are shuffled
    seal = _seal_crc32c if kind == "zarr" else _seal_fletcher32
    return ChunkCodec(compress, expand, seal, expand_all, wbits)


def zarr_codecs(spec: ArraySpec) -> list[dict[str, Any]]:
    """The codecs of a shard's chunks, as `zarr.json` lists them."""
    order: dict[str, Any] = {"name": "bytes"}
    if spec.dtype.itemsize > 1:
        order["configuration"] = {"endian": "little"}
    if spec.codec is None:
        return [order]
    name, level = _parsed(spec)
    configuration = {"level": level, "checksum": False} if name == "zstd" else {"level": level}
    return [order, {"name": name, "configuration": configuration}, {"name": "crc32c"}]


def hdf5_filters(spec: ArraySpec) -> list[tuple[int, int, tuple[int, ...]]]:
    """(filter, flags, options) in the order in which they are to be set on a dataset's creation property
    list."""
    if spec.codec is None:
        return []
    name, level = _parsed(spec)
    filters: list[tuple[int, int, tuple[int, ...]]] = []
    if name == "zstd":
        filters.append((HDF5_ZSTD, OPTIONAL, (level,)))
    else:
        if spec.dtype.itemsize > 1:
            filters.append((HDF5_SHUFFLE, OPTIONAL, ()))  # HDF5 itself adds the size of an element
        filters.append((HDF5_DEFLATE, OPTIONAL, (level,)))
    return [*filters, (HDF5_FLETCHER32, MANDATORY, ())]


def crc32c(data: Any) -> int:
    """crc32c of a contiguous buffer, without copying it."""
    return extend(0, data)


def extend(crc: int, data: Any) -> int:
    """The crc32c of what `crc` is of, followed by the bytes of a contiguous buffer."""
    return int(google_crc32c.extend(crc, _octets(data)))


def _octets(data: Any) -> Octets:
    """A flat view of the bytes of a buffer: google_crc32c takes arrays, but no memoryview and no
    bytearray."""
    if isinstance(data, np.ndarray):
        return data.reshape(-1).view(np.uint8)
    return np.frombuffer(data, dtype=np.uint8)


def _parsed(spec: ArraySpec) -> tuple[str, int]:
    return parse_codec("raw" if spec.codec is None else spec.codec)


# --- compressors


def _compress_zstd(plain: Octets, *, level: int) -> bytes:
    from numcodecs import zstd  # type: ignore[import-untyped]  # 40 ms

    return bytes(zstd.compress(plain, level))


def _expand_zstd(payload: Octets, out: Octets) -> None:
    """Large chunks straight into place by numcodecs; small ones with a context kept for each thread, which
    numcodecs makes anew each time: that takes as long as decoding 30 KB."""
    import zstandard
    from numcodecs import zstd

    known = _headers.get(out.size, b"-")
    if payload[: len(known)].tobytes() != known:
        head = payload[:18].tobytes()
        size, length = _zstd_content_size(head)
        if size != out.size:
            raise CorruptError(f"a zstd frame says that it holds {size} bytes where a chunk has {out.size}")
        _headers[out.size] = head[:length]
    try:
        # Bounded by `out`, or the size that the header says: a frame that holds more, or a second frame, is
        # an error.
        if out.size >= DIRECT_BYTES:
            zstd.decompress(payload, out)
        else:
            out[:] = np.frombuffer(_decompressor().decompress(payload, allow_extra_data=False), np.uint8)
    except (zstandard.ZstdError, RuntimeError, ValueError) as error:
        raise CorruptError(f"the zstd frame of a chunk cannot be read ({error})") from error


def _expand_all_zstd(payloads: Sequence[bytes], out: Octets, places: Sequence[int]) -> bool:
    """Chunks as one stream of frames, by one call: straight into place if they go side by side, else, if they
    are small, through other memory by one assignment. One by one they ask for the GIL so often that two
    threads are slower than one, and a learner beside them waits for it as long as for the batches themselves.

    Each begins with the header of a frame of its size, and all together have the sizes of all: none can hold
    more or less than that."""
    from numcodecs import zstd

    size, count = out.shape[1], len(payloads)
    known = _headers.get(size, b"")
    if not count or not known or any(payload[: len(known)] != known for payload in payloads):
        return False
    begin = places[0]
    side_by_side = list(places) == list(range(begin, begin + count))
    if size >= DIRECT_BYTES and not side_by_side:  # copying them once more takes longer than a call for each
        return False
    found = out[begin : begin + count].reshape(-1) if side_by_side else _scratch(count * size)
    try:
        zstd.decompress(b"".join(payloads), found)
    except (RuntimeError, ValueError):
        return False
    if not side_by_side:
        # Rows of bytes: of items the GIL would be kept.
        out[np.asarray(places, np.intp)] = found.reshape(count, size)
    return True


def _scratch(size: int) -> Octets:
    """This thread's memory, of so many bytes."""
    found: Octets | None = getattr(_threads, "scratch", None)
    if found is None or found.size < size:
        found = _threads.scratch = np.empty(size, np.uint8)
    return found[:size]


def _decompressor() -> Any:
    """This thread's context."""
    try:
        return _threads.decompressor
    except AttributeError:
        import zstandard

        _threads.decompressor = zstandard.ZstdDecompressor()
        return _threads.decompressor


_threads = threading.local()
_headers: dict[int, bytes] = {}
"""The frame header last seen for each size of chunks: understanding it in Python takes a fifth of the time of
decoding a small chunk."""


def _zstd_content_size(head: bytes) -> tuple[int | None, int]:
    """The content size that a zstd frame header gives (RFC 8878, 3.1.1.1), None if it gives none or is none;
    the header's length."""
    if len(head) < 6 or head[:4] != ZSTD_MAGIC:
        return None, 0
    descriptor = head[4]
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    length = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    field = head[start : start + length]
    if not length or len(field) < length:
        return None, 0
    return int.from_bytes(field, "little") + (256 if length == 2 else 0), start + length


def _compress_gzip(plain: Octets, *, level: int) -> bytes:
    return deflating.gzip_member(plain, level)


def _expand_gzip(payload: Octets, out: Octets) -> None:
    out[:] = np.frombuffer(deflating.inflate(payload, out.size, 31), dtype=np.uint8)


def _compress_deflate(plain: Octets, *, level: int, item: int) -> bytes:
    if item == 1:
        return deflating.deflate(plain, level)
    return deflating.deflate_planes(np.ascontiguousarray(plain.reshape(-1, item).T), level)


def _expand_deflate(payload: Octets, out: Octets, *, item: int, wbits: int = 15) -> None:
    planes = np.frombuffer(deflating.inflate(payload, out.size, wbits), dtype=np.uint8).reshape(item, -1)
    if item == 1:
        out[:] = planes[0]
        return
    items = out.reshape(-1, item)
    # One plane at a time: three times as fast as assigning the transposed array.
    for number, plane in enumerate(planes):
        items[:, number] = plane


def _expand_all_deflate(payloads: Sequence[bytes], out: Octets, places: Sequence[int], *, item: int) -> bool:
    """One after the other; the Adlers of payloads whose checksums were compared say nothing new."""
    try:
        for payload, place in zip(payloads, places, strict=True):
            _expand_deflate(np.frombuffer(payload, np.uint8), out[place], item=item, wbits=-15)
    except CorruptError:
        return False
    return True


# --- checksums


def _seal_crc32c(payload: Octets) -> bytes:
    return crc32c(payload).to_bytes(TRAILER, "little")


def _seal_fletcher32(payload: Octets) -> bytes:
    from numcodecs.fletcher32 import Fletcher32  # type: ignore[import-untyped]

    return bytes(Fletcher32().encode(payload)[-TRAILER:])
