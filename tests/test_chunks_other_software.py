"""Shards that zarr-python wrote, and chunks of HDF5 files, are mapped and decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from columns import ints, needs_maps, random_rows, same
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from replaystore.columns.coded import CodedColumn
from replaystore.columns.mapped import raw_column
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import codec_for, crc32c, hdf5_filters
from replaystore.containers.protocol import PAGE, ChunkEntry, Extent
from replaystore.storage.local import Files

pytest_plugins = ["columns"]

pytestmark = pytest.mark.usefixtures("_fresh_cache")


@needs_maps
def test_shards_that_zarr_python_wrote_are_read_mapped_and_decoded(tmp_path: Path) -> None:
    spec = ArraySpec(np.dtype("f4"), (16,), 64, 4, codec="zstd:1")
    rows = random_rows(spec, 256 * 2 + 64 * 3)
    codecs: dict[str, list[Any]] = {
        "raw": [BytesCodec()],
        "coded": [BytesCodec(), ZstdCodec(level=1), Crc32cCodec()],
    }
    for name, inner in codecs.items():
        array: Any = zarr.create_array(
            store=str(tmp_path / name),
            shape=rows.shape,
            dtype="f4",
            chunks=(256, 16),
            filters=None,
            compressors=None,
            serializer=ShardingCodec(chunk_shape=(64, 16), codecs=inner, index_location="start"),
        )
        array[:] = rows
    files = Files(tmp_path, writable=True)
    entries: dict[str, dict[int, ChunkEntry]] = {"raw": {}, "coded": {}}
    for name, found in entries.items():
        for chunk in range(11):
            index = np.frombuffer(files.read(f"{name}/c/{chunk // 4}/0", 0, 64), "<u8").reshape(4, 2)
            offset, length = index[chunk % 4].tolist()
            found[chunk] = ChunkEntry(f"{name}/c/{chunk // 4}/0", offset, length)
    column = CodedColumn(files, spec, codec_for("zarr", spec), entries["coded"].get, lambda _: None)
    column.set_tail(len(rows), rows[:0])
    assert same(column.read(0, len(rows)), rows)
    assert same(column.take(ints(5, 700, 5)), rows[[5, 700, 5]])

    raw = raw_column(files, spec)
    extents = []
    for shard in range(3):  # its index is not padded to a page as ours is: move the chunks
        data = files.read(f"raw/c/{shard}/0")
        chunks = [
            data[entry.offset : entry.offset + entry.length]
            for number, entry in entries["raw"].items()
            if number // 4 == shard
        ]
        index = np.full((4, 2), 2**64 - 1, "<u8")
        index[: len(chunks)] = [(PAGE + number * PAGE, PAGE) for number in range(len(chunks))]
        head = index.tobytes() + crc32c(index).to_bytes(4, "little")
        files.replace(f"raw/c/{shard}/0", head.ljust(PAGE, b"\0") + b"".join(chunks))
        extents.append(Extent(f"raw/c/{shard}/0", PAGE, len(chunks) * PAGE))
    raw.extend(extents, len(rows))
    assert raw.mapped
    assert same(raw.read(0, len(rows)), rows)
    assert same(raw.take(ints(5, 700, 255, 256)), rows[[5, 700, 255, 256]])
    assert np.array_equal(zarr.open_array(str(tmp_path / "raw"), mode="r")[:], rows, equal_nan=True)
    files.close()


@needs_maps
def test_chunks_of_an_hdf5_file_are_read_mapped_and_decoded(tmp_path: Path) -> None:
    spec = ArraySpec(np.dtype("f4"), (16,), 64, codec="gzip:2")
    rows = random_rows(spec, 64 * 20)
    entries: dict[str, dict[int, ChunkEntry]] = {}
    with h5py.File(tmp_path / "a.h5", "w", alignment_threshold=PAGE, alignment_interval=PAGE) as file:
        file.create_dataset("raw", data=rows, chunks=(64, 16))
        file.create_dataset(
            "coded",
            data=rows,
            chunks=(64, 16),
            compression="gzip",
            compression_opts=2,
            shuffle=True,
            fletcher32=True,
        )
        assert [code for code, _, _ in hdf5_filters(spec)] == [2, 1, 3]
        for name in ("raw", "coded"):
            found = entries[name] = {}
            file[name].id.chunk_iter(
                lambda info, found=found: found.update(
                    {info.chunk_offset[0] // 64: ChunkEntry("a.h5", info.byte_offset, info.size)}
                )
            )
    files = Files(tmp_path, writable=False)
    column = CodedColumn(files, spec, codec_for("hdf5", spec), entries["coded"].get, lambda _: None)
    column.set_tail(len(rows), rows[:0])
    assert same(column.read(0, len(rows)), rows)
    raw = raw_column(files, spec)
    raw.extend(
        [Extent("a.h5", entries["raw"][chunk].offset, entries["raw"][chunk].length) for chunk in range(20)],
        len(rows),
    )
    assert raw.mapped
    assert same(raw.read(0, len(rows)), rows)
    files.close()
