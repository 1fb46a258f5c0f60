"""Chunks with flipped bits, cut, of another size, or made to take memory, are refused."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from codec_samples import KINDS, Kind, decoded, rows_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd  # type: ignore[import-untyped]

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import (
    codec_for,
)
from replaystore.errors import CorruptError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zstd:1", "gzip:1"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_and_any_cut_is_found(kind: Kind, name: str, data: st.DataObject) -> None:
    spec = spec_of("f4", name)
    codec = codec_for(kind, spec)
    stored = codec.encode(rows_of(spec, 7))
    place = data.draw(st.integers(0, len(stored) - 1))
    flipped = bytearray(stored)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    out = np.empty(spec.chunk_bytes, np.uint8)
    for damaged in (bytes(flipped), stored[:place], stored[place + 1 :]):
        with pytest.raises(CorruptError):
            codec.decode(damaged, out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zstd:1", "gzip:1"])
@settings(max_examples=60, deadline=None)
@given(payload=st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_chunk_are_refused_though_their_checksum_is_right(
    kind: Kind, name: str, payload: bytes
) -> None:
    spec = spec_of("f4", name)
    codec = codec_for(kind, spec)
    if name.startswith("zstd"):
        payload = codec.encode(rows_of(spec, 7))[:6] + payload
    with pytest.raises(CorruptError):
        codec.decode(
            payload + codec.seal(np.frombuffer(payload, np.uint8)), np.empty(spec.chunk_bytes, np.uint8)
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zstd:1", "gzip:1"])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_chunk_of_another_size_is_refused(kind: Kind, name: str, change: int) -> None:
    spec = spec_of("f4", name)
    other = ArraySpec(spec.dtype, spec.shape, spec.chunk_rows + change, codec=name)
    stored = codec_for(kind, other).encode(rows_of(other, other.chunk_rows))
    with pytest.raises(CorruptError, match="chunk"):
        codec_for(kind, spec).decode(stored, np.empty(spec.chunk_bytes, np.uint8))


def zstd_bomb(blocks: int, header: bytes) -> bytes:
    """A frame of so many blocks of 128 KiB in four bytes each."""
    frame = b"\x28\xb5\x2f\xfd" + header
    for number in range(blocks):
        frame += ((1 << 17) << 3 | 1 << 1 | (number == blocks - 1)).to_bytes(3, "little") + b"x"
    return frame


@pytest.mark.parametrize("kind", KINDS)
def test_a_decompression_bomb_is_refused_before_it_takes_memory(kind: Kind) -> None:
    spec = ArraySpec(np.dtype("u1"), (), 1000, codec="zstd:1")
    codec = codec_for(kind, spec)
    intact = codec.encode(np.zeros(1000, np.uint8))
    good = intact[:-4]
    zeros = bytes(64 << 20)
    deflated = zlib.compress(zeros, 1, wbits=31 if kind == "zarr" else 15)
    bombs = [
        ("zstd:1", zstd.compress(zeros, 1)),  # says its size
        ("zstd:1", zstd_bomb(4000, b"\x00\x58")),  # does not say it
        # Says the chunk's size and holds more.
        ("zstd:1", zstd_bomb(4000, b"\x60" + (1000 - 256).to_bytes(2, "little"))),
        ("zstd:1", good + zstd_bomb(4000, b"\x00\x58")),  # a second frame
        ("gzip:1", deflated),
    ]
    del zeros
    out = np.zeros(1000, np.uint8)
    for name, payload in bombs:
        codec = codec_for(kind, ArraySpec(np.dtype("u1"), (), 1000, codec=name))
        data = payload + codec.seal(np.frombuffer(payload, np.uint8))
        tracemalloc.start()
        with pytest.raises(CorruptError):
            codec.decode(data, out)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(data) + (1 << 20)
        stored = [intact, data, intact] if name == "zstd:1" else [data]
        checksums = [codec.checksum(one) for one in stored]
        tracemalloc.start()
        assert codec.decode_all(stored, checksums, np.zeros((3, 1000), np.uint8), range(len(stored))) == [
            len(stored) // 2
        ]
        if codec.apart:
            assert codec.content(data, checksums[0], 1000) is None
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(data) + (1 << 20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zstd:1", "gzip:1"])
@pytest.mark.parametrize("chunk_rows", [7, 4000, 50_000])
@pytest.mark.parametrize("places", [[7, 0, 3, 2, 11, 8], [3, 4, 5, 6, 7, 8]])
@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_of_several_chunks_those_that_are_wrong_are_told(
    kind: Kind, name: str, chunk_rows: int, places: list[int], dtype: str
) -> None:
    spec = spec_of(dtype, name, chunk_rows=chunk_rows)
    codec = codec_for(kind, spec)
    chunks = [rows_of(spec, chunk_rows, seed) for seed in range(6)]
    stored = [codec.encode(chunk) for chunk in chunks]
    checksums = [codec.checksum(data) for data in stored]

    def decoded_all() -> tuple[list[int], list[bytes]]:
        out = np.zeros((2 * len(stored), spec.chunk_bytes), np.uint8)
        wrong = codec.decode_all(stored, checksums, out, places)
        assert not out[[place for place in range(len(out)) if place not in places]].any()
        return wrong, [out[place].tobytes() for place in places]

    for _ in range(2):  # the second time the frames' header is known
        assert codec.decode_all([], [], np.zeros((1, spec.chunk_bytes), np.uint8), []) == []
        assert decoded_all() == ([], [chunk.tobytes() for chunk in chunks])
    short = ArraySpec(spec.dtype, spec.shape, chunk_rows - 1, codec=name)
    stored[1] = codec.encode(rows_of(short, chunk_rows - 1))
    checksums[1] = codec.checksum(stored[1])
    stored[3] = stored[3][:9] + bytes([stored[3][9] ^ 1]) + stored[3][10:]
    stored[4] = b""
    wrong, outs = decoded_all()
    assert wrong == [1, 3, 4]
    assert [outs[number] for number in (0, 2, 5)] == [chunks[number].tobytes() for number in (0, 2, 5)]
    assert codec.apart == (name == "gzip:1" and (kind == "zarr" or dtype == "u1"))
    if codec.apart:
        apart = [codec.content(*chunk, spec.chunk_bytes) for chunk in zip(stored, checksums, strict=True)]
        assert [found is None for found in apart] == [number in wrong for number in range(6)]
        assert [found.tobytes() for found in apart if found is not None] == [outs[n] for n in (0, 2, 5)]


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_apart_are_compared_with_their_checksums(kind: Kind) -> None:
    spec = spec_of("u1", "gzip:1")
    codec = codec_for(kind, spec)
    stored = [codec.encode(rows_of(spec, 7, seed)) for seed in range(2)]
    checksums = [codec.checksum(data) for data in stored]
    assert codec.content(stored[0], checksums[0], spec.chunk_bytes) is not None
    assert codec.content(stored[0], checksums[1], spec.chunk_bytes) is None  # a chunk, and another one


@pytest.mark.parametrize("dtype", ["f4", "u1"])
def test_adler_is_looked_at_but_where_rows_are_sampled(dtype: str) -> None:
    """There the checksum that was committed has been compared; whoever verifies sees what HDF5 refuses."""
    spec = spec_of(dtype, "gzip:1")
    codec = codec_for("hdf5", spec)
    rows = rows_of(spec, 7)
    payload = bytearray(codec.encode(rows)[:-4])
    payload[-1] ^= 1
    data = bytes(payload) + codec.seal(np.frombuffer(payload, np.uint8))
    out = np.zeros((1, spec.chunk_bytes), np.uint8)
    assert codec.decode_all([data], [codec.checksum(data)], out, [0]) == []
    assert out.tobytes() == rows.tobytes()
    with pytest.raises(CorruptError, match="cannot be read"):
        codec.decode(data, out[0])
    for place, change in ((0, 1), (1, 1), (1, 0x20)):  # no header, or one that asks for more
        header = bytearray(payload)
        header[place] ^= change
        data = bytes(header) + codec.seal(np.frombuffer(header, np.uint8))
        assert codec.decode_all([data], [codec.checksum(data)], out, [0]) == [0]


def test_a_zstd_frame_without_its_size_is_refused() -> None:
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + (1000 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"x"
    codec = codec_for("zarr", ArraySpec(np.dtype("u1"), (), 1000, codec="zstd:1"))
    with pytest.raises(CorruptError, match="says that it holds None bytes where a chunk has 1000"):
        codec.decode(frame + codec.seal(np.frombuffer(frame, np.uint8)), np.empty(1000, np.uint8))


@pytest.mark.parametrize("second", [b"", b"\0", b"more"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_may_follow_a_deflated_chunk(kind: Kind, second: bytes) -> None:
    spec = spec_of("f4", "gzip:1")
    codec = codec_for(kind, spec)
    payload = codec.encode(rows_of(spec, 7))[:-4] + second
    data = payload + codec.seal(np.frombuffer(payload, np.uint8))
    if second:
        with pytest.raises(CorruptError, match="do not hold"):
            decoded(codec, data, spec)
    else:
        assert np.array_equal(decoded(codec, data, spec), rows_of(spec, 7))
