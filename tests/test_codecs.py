"""Encoded chunks: zarr-python and h5py read ours and we read theirs, and nothing damaged or oversized is
taken."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs import zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from replaystore.containers.codecs import (
    ChunkCodec,
    codec_for,
    crc32c,
    extend,
    hdf5_filters,
    parse_codec,
    zarr_codecs,
)
from replaystore.containers.protocol import ArraySpec, Codec
from replaystore.errors import CorruptError, SchemaError

Kind = Literal["zarr", "hdf5"]
KINDS: list[Kind] = ["zarr", "hdf5"]
CODECS = ["zstd:1", "zstd:9", "gzip:1", "gzip:6"]
DTYPES = ["bool", "u1", "i1", "f2", "u2", "i4", "f4", "i8", "f8", "c8", "c16"]

_protocols: list[type[Codec]] = [ChunkCodec]


def spec_of(
    dtype: str, codec: str | None, *, shape: tuple[int, ...] = (3, 5), chunk_rows: int = 7
) -> ArraySpec:
    return ArraySpec(np.dtype(dtype), shape, chunk_rows, chunks_per_shard=4, codec=codec)


def rows_of(spec: ArraySpec, count: int, seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).integers(0, 3, (count, *spec.shape))
    rows: NDArray[Any] = (values.astype(spec.dtype) * (1 + 2j) if spec.dtype.kind == "c" else values).astype(
        spec.dtype
    )
    return rows


def decoded(codec: ChunkCodec, data: Any, spec: ArraySpec) -> NDArray[Any]:
    out = np.full(spec.chunk_bytes, 255, np.uint8)
    codec.decode(data, out)
    return out.view(spec.dtype).reshape(spec.chunk_rows, *spec.shape)


# --- names


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("zstd:1", ("zstd", 1)),
        ("zstd:22", ("zstd", 22)),
        ("gzip:5", ("gzip", 5)),
        ("zstd", ("zstd", 1)),
        ("gzip", ("gzip", 1)),
    ],
)
def test_a_codec_is_a_name_and_a_level(text: str, parsed: tuple[str, int]) -> None:
    assert parse_codec(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "raw",
        "lz4:1",
        "zstd:",
        "zstd:0",
        "zstd:23",
        "zstd:-1",
        "zstd:1:1",
        "gzip:10",
        "gzip:01",
        "gzip:²",
        "ZSTD:1",
    ],
)
def test_an_unknown_codec_or_level_is_refused_with_the_list_of_those_known(text: str) -> None:
    with pytest.raises(
        SchemaError,
        match=(
            r'known are "raw", "zstd:LEVEL" with 1 <= LEVEL <= 22, '
            r'"gzip:LEVEL" with 1 <= LEVEL <= 9'
        ),
    ):
        parse_codec(text)


def test_a_raw_array_has_no_codec() -> None:
    with pytest.raises(SchemaError, match="raw"):
        codec_for("zarr", spec_of("f4", None))
    assert zarr_codecs(spec_of("f4", None)) == [{"name": "bytes", "configuration": {"endian": "little"}}]
    assert hdf5_filters(spec_of("f4", None)) == []


# --- our own round trip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_encoded_is_decoded_to_the_same_bytes(kind: Kind, codec: str, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=5))
    spec = ArraySpec(dtype, shape, data.draw(st.integers(1, 9)), codec=codec)
    plain = np.frombuffer(
        data.draw(st.binary(min_size=spec.chunk_bytes, max_size=spec.chunk_bytes)), np.uint8
    )
    chunk_codec = codec_for(kind, spec)
    stored = chunk_codec.encode(plain)
    assert chunk_codec.encode(plain.data) == chunk_codec.encode(bytearray(plain)) == stored
    out = np.empty(spec.chunk_bytes, np.uint8)
    for buffer in (stored, memoryview(stored), np.frombuffer(stored, np.uint8)):
        out[:] = 0
        chunk_codec.decode(buffer, out)
        assert np.array_equal(out, plain)
        assert chunk_codec.checksum(buffer) == crc32c(stored[:-4])


def test_gzip_members_have_no_time_in_them() -> None:
    spec = spec_of("f4", "gzip:3")
    stored = codec_for("zarr", spec).encode(rows_of(spec, 7))
    assert stored[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


def test_zstd_frames_say_how_large_their_content_is() -> None:
    for size in (1, 255, 256, 65_791, 65_792, 300_000):
        spec = ArraySpec(np.dtype("u1"), (), size, codec="zstd:1")
        codec, plain = codec_for("zarr", spec), np.random.default_rng(size).integers(0, 256, size, np.uint8)
        assert np.array_equal(decoded(codec, codec.encode(plain), spec), plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zstd:1", "gzip:1"])
def test_several_threads_may_use_one_codec(kind: Kind, name: str) -> None:
    spec = spec_of("f4", name, chunk_rows=500)
    codec = codec_for(kind, spec)
    chunks = [rows_of(spec, 500, seed) for seed in range(16)]
    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(codec.encode, chunks))
        back = list(pool.map(lambda data: decoded(codec, data, spec), stored))
    assert all(np.array_equal(one, chunk) for one, chunk in zip(back, chunks, strict=True))


# --- Zarr


def sharded(spec: ArraySpec) -> Any:
    codec, level = parse_codec(spec.codec or "")
    inner = [
        BytesCodec(),
        ZstdCodec(level=level) if codec == "zstd" else GzipCodec(level=level),
        Crc32cCodec(),
    ]
    return ShardingCodec(chunk_shape=(spec.chunk_rows, *spec.shape), codecs=inner, index_location="start")


def create_zarr(path: Path, spec: ArraySpec, rows: int) -> Any:
    return zarr.create_array(
        store=str(path), shape=(rows, *spec.shape), dtype=spec.dtype, chunks=(spec.shard_rows, *spec.shape),
        filters=None, compressors=None, serializer=sharded(spec), config={"write_empty_chunks": True},
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["zstd:1", "gzip:4"])
def test_zarr_python_reads_our_chunks_and_we_read_its(tmp_path: Path, dtype: str, codec: str) -> None:
    spec = spec_of(dtype, codec)
    rows = rows_of(spec, spec.shard_rows)
    ours, array = codec_for("zarr", spec), create_zarr(tmp_path, spec, spec.shard_rows)
    array[:] = rows
    shard = tmp_path / "c" / "0" / "0" / "0"
    theirs = shard.read_bytes()
    index = np.frombuffer(theirs, "<u8", 8).reshape(4, 2)
    for number, (offset, length) in enumerate(index.tolist()):
        part = rows[number * 7 : number * 7 + 7]
        stored = theirs[offset : offset + length]
        assert np.array_equal(decoded(ours, stored, spec), part)
        if codec.startswith("zstd"):
            assert ours.encode(part) == stored

    chunks = [ours.encode(part) for part in np.split(rows[::-1], 4)]
    index = np.array(
        [(68 + sum(map(len, chunks[:number])), len(chunk)) for number, chunk in enumerate(chunks)], "<u8"
    )
    shard.write_bytes(index.tobytes() + crc32c(index).to_bytes(4, "little") + b"".join(chunks))
    assert np.array_equal(zarr.open_array(str(tmp_path), mode="r")[:], rows[::-1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["zstd:3", "gzip:4"])
def test_our_list_of_codecs_is_what_zarr_python_writes(tmp_path: Path, dtype: str, codec: str) -> None:
    spec = spec_of(dtype, codec)
    create_zarr(tmp_path, spec, 7)
    stored = json.loads((tmp_path / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
    assert zarr_codecs(spec) == stored


# --- HDF5


def create_hdf5(file: Any, spec: ArraySpec, rows: int) -> Any:
    chunks = (spec.chunk_rows, *spec.shape)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(chunks)
    for code, flags, options in hdf5_filters(spec):
        properties.set_filter(code, flags, options)
    space = h5py.h5s.create_simple((rows, *spec.shape))
    h5py.h5d.create(file.id, b"rows", h5py.h5t.py_create(spec.dtype, logical=True), space, properties)
    return file["rows"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["gzip:1", "gzip:7"])
def test_h5py_reads_our_chunks_and_we_read_its(tmp_path: Path, dtype: str, codec: str) -> None:
    spec = spec_of(dtype, codec)
    rows = rows_of(spec, 14)
    ours = codec_for("hdf5", spec)
    with h5py.File(tmp_path / "ours.h5", "w") as file:
        dataset = create_hdf5(file, spec, 14)
        dataset.id.write_direct_chunk((0, 0, 0), ours.encode(rows[:7]))
        dataset.id.write_direct_chunk((7, 0, 0), ours.encode(rows[7:]))
    with h5py.File(tmp_path / "ours.h5") as file:
        assert file["rows"].dtype == spec.dtype
        assert np.array_equal(file["rows"][:], rows)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file.create_dataset(
            "rows", data=rows, chunks=(7, 3, 5), compression="gzip", shuffle=True, fletcher32=True
        )
        for start in (0, 7):
            _, stored = file["rows"].id.read_direct_chunk((start, 0, 0))
            assert np.array_equal(decoded(ours, stored, spec), rows[start : start + 7])


def test_h5py_sees_the_filters_that_it_would_set_itself(tmp_path: Path) -> None:
    for dtype in DTYPES:
        spec = spec_of(dtype, "gzip:4")
        with h5py.File(tmp_path / f"{dtype}.h5", "w") as file:
            ours = create_hdf5(file, spec, 7).id.get_create_plist()
            theirs = file.create_dataset(
                "theirs",
                (7, 3, 5),
                spec.dtype,
                chunks=(7, 3, 5),
                compression="gzip",
                shuffle=spec.dtype.itemsize > 1,
                fletcher32=True,
            ).id.get_create_plist()
            found = [
                [plist.get_filter(number) for number in range(plist.get_nfilters())]
                for plist in (ours, theirs)
            ]
            assert found[0] == sorted(found[0], key=lambda one: (2, 1, 3).index(one[0]))
            assert sorted(found[0]) == sorted(found[1])


def test_zstd_in_hdf5_is_filter_32015_and_needs_no_plugin_to_be_written(tmp_path: Path) -> None:
    spec = spec_of("f4", "zstd:3")
    rows = rows_of(spec, 7)
    ours = codec_for("hdf5", spec)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        create_hdf5(file, spec, 7).id.write_direct_chunk((0, 0, 0), ours.encode(rows))
    with h5py.File(tmp_path / "a.h5") as file:
        plist = file["rows"].id.get_create_plist()
        assert [plist.get_filter(number)[0] for number in range(plist.get_nfilters())] == [32015, 3]
        mask, stored = file["rows"].id.read_direct_chunk((0, 0, 0))
    assert mask == 0
    assert bytes(zstd.decompress(stored[:-4])) == rows.tobytes()
    assert stored[:-4] == zstd.compress(rows, 3)
    assert np.array_equal(decoded(ours, stored, spec), rows)


@settings(max_examples=40, deadline=None)
@given(payload=st.binary(min_size=1, max_size=2000) | st.integers(1, 2000).map(lambda size: b"\xff" * size))
def test_the_checksum_behind_hdf5_chunks_is_what_hdf5_computes(payload: bytes) -> None:
    codec = codec_for("hdf5", ArraySpec(np.dtype("u1"), (), len(payload), codec="zstd:1"))
    with h5py.File("checksum", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("rows", (len(payload),), "u1", chunks=(len(payload),), fletcher32=True)
        dataset.id.write_direct_chunk((0,), payload + codec.seal(np.frombuffer(payload, np.uint8)))
        assert dataset[:].tobytes() == payload


# --- damage


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
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * len(data) + (1 << 20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["zstd:1", "gzip:1"])
@pytest.mark.parametrize("chunk_rows", [7, 4000, 50_000])
@pytest.mark.parametrize("places", [[7, 0, 3, 2, 11, 8], [3, 4, 5, 6, 7, 8]])
def test_of_several_chunks_those_that_are_wrong_are_told(
    kind: Kind, name: str, chunk_rows: int, places: list[int]
) -> None:
    spec = spec_of("f4", name, chunk_rows=chunk_rows)
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


# --- the rest


def test_crc32c_is_the_one_of_rfc_3720_for_every_kind_of_buffer() -> None:
    digits = b"123456789"
    for buffer in (
        digits,
        bytearray(digits),
        memoryview(digits),
        np.frombuffer(digits, np.uint8),
        memoryview(bytearray(digits))[:],
    ):
        assert crc32c(buffer) == 0xE3069283
    assert crc32c(np.frombuffer(digits[:8], "<u4").reshape(2, 1)) == crc32c(digits[:8])
    assert crc32c(b"") == 0


@given(first=st.binary(), second=st.binary())
def test_a_checksum_can_be_extended(first: bytes, second: bytes) -> None:
    assert extend(crc32c(first), memoryview(second)) == crc32c(first + second)


def test_numcodecs_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys, replaystore.containers.codecs, replaystore.columns.coded; sys.exit('numcodecs' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
