"""Codecs by name, our own round trip, and checksums."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from codec_samples import CODECS, DTYPES, KINDS, Kind, decoded, rows_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import (
    codec_for,
    crc32c,
    extend,
    hdf5_filters,
    parse_codec,
    zarr_codecs,
)
from replaystore.errors import SchemaError

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
