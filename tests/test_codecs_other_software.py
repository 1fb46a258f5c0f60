"""zarr-python and h5py read the chunks that we encode, and we read theirs."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from codec_samples import DTYPES, decoded, rows_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, ZstdCodec

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import (
    codec_for,
    crc32c,
    hdf5_filters,
    parse_codec,
    zarr_codecs,
)

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


def mixtures(count: int) -> dict[str, NDArray[Any]]:
    """Rows whose bytes are noise, or all alike, or something between, in any of their places."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (count, 8), np.uint8)
    wide = np.zeros((count, 8), np.uint8)
    wide[:, 3], wide[:, 6] = noise[:, 0], noise[:, 1] % 3
    return {
        "zeros": np.zeros(count, "<f8"),
        "noise": noise.reshape(-1).view("<f8"),
        "some of both": wide.reshape(-1).view("<i8"),
        "floats": generator.normal(size=count).astype("<f4"),
        "counters": np.arange(count, dtype="<i8"),
        "runs": np.repeat(generator.integers(0, 9, -(-count // 50)), 50)[:count].astype("<u2"),
        "bytes": noise[:, 0].copy(),
    }


@pytest.mark.parametrize("count", [1023, 1024, 5000, 65535, 65536, 200_001])
@pytest.mark.parametrize("what", list(mixtures(1)))
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_h5py_inflates_what_was_deflated_in_planes(tmp_path: Path, what: str, count: int, level: int) -> None:
    rows = mixtures(count)[what]
    spec = ArraySpec(rows.dtype, (), count, codec=f"gzip:{level}")
    ours = codec_for("hdf5", spec)
    stored = ours.encode(rows)
    assert len(stored) <= rows.nbytes * 1.01 + 64
    planes = np.frombuffer(zlib.decompress(stored[:-4]), np.uint8).reshape(rows.itemsize, -1)
    assert planes.T.tobytes() == rows.tobytes()
    out = np.empty(rows.nbytes, np.uint8)
    ours.decode(stored, out)
    assert out.tobytes() == rows.tobytes()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        create_hdf5(file, spec, count).id.write_direct_chunk((0,), stored)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["rows"][:].tobytes() == rows.tobytes()


def test_without_isa_l_zlib_writes_and_reads_the_same() -> None:
    code = (
        "import sys; sys.modules['isal'] = None; import numpy as np\n"
        "from replaystore.containers import deflating\n"
        "plain = np.arange(20_000, dtype='<i4').view(np.uint8).reshape(4, -1)\n"
        "stream = deflating.deflate_planes(plain, 1)\n"
        "assert deflating.fast.__name__ == 'zlib'\n"
        "assert deflating.inflate(np.frombuffer(stream, np.uint8), plain.size, 15) == plain.tobytes()\n"
        "member = deflating.gzip_member(plain.reshape(-1), 1)\n"
        "assert deflating.inflate(np.frombuffer(member, np.uint8), plain.size, 31) == plain.tobytes()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
