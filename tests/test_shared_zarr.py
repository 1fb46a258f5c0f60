"""Zarr hierarchies of other software are read as zarr-python reads them, and what lies in them is not
believed."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from replaystore.errors import FormatError, NotFoundError, ReplayStoreError, UnsupportedError
from replaystore.formats.shared.zarr.tree import opened

CODECS: dict[str, tuple[int, Any]] = {
    "v2-raw": (2, None),
    "v2-blosc-zstd": (2, numcodecs.Blosc("zstd", 5, 2)),
    "v2-blosc-lz4": (2, numcodecs.Blosc("lz4", 5, 1)),
    "v2-zstd": (2, numcodecs.Zstd(3)),
    "v2-lz4": (2, numcodecs.LZ4()),
    "v2-gzip": (2, numcodecs.GZip()),
    "v2-zlib": (2, numcodecs.Zlib()),
    "v2-bz2": (2, numcodecs.BZ2()),
    "v2-lzma": (2, numcodecs.LZMA()),
    "v3-raw": (3, None),
    "v3-blosc": (3, BloscCodec()),
    "v3-zstd": (3, ZstdCodec()),
    "v3-gzip": (3, GzipCodec()),
    "v3-zstd-crc32c": (3, [ZstdCodec(), Crc32cCodec()]),
}
SHAPES = (((100,), (7,)), ((50, 6), (9, 4)), ((40, 3, 5), (40, 3, 5)), ((0, 3), (5, 3)))


def written(path: str, version: int, codec: Any, *, zipped: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    """A hierarchy that zarr-python has written, and what is in it."""
    store: Any = zarr.storage.ZipStore(path, mode="w") if zipped else path
    root = zarr.create_group(store, zarr_format=version, attributes={"a": 1})  # type: ignore[arg-type]
    generator, found = np.random.default_rng(0), {}
    for number, (shape, chunks) in enumerate(SHAPES):
        for dtype in ("<f4", "|u1", ">i8", "bool", "<f2"):
            rows = (generator.normal(size=shape) * 50).astype("i8").astype(dtype)
            name = f"x/{number}{np.dtype(dtype).name}"
            array = root.create_array(
                name, shape=shape, chunks=chunks, dtype=rows.dtype, compressors=codec, fill_value=0
            )
            array[...] = rows
            found[name] = rows
    root.create_array("unwritten", shape=(5,), chunks=(2,), dtype="f4", fill_value=np.nan)
    found["unwritten"] = np.full(5, np.nan, "f4")
    if zipped:
        store.close()
    return found


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", CODECS)
def test_it_is_read_as_zarr_python_wrote_it(name: str, tmp_path: Path, *, zipped: bool) -> None:
    version, codec = CODECS[name]
    path = str(tmp_path / ("a.zarr.zip" if zipped else "a.zarr"))
    known = written(path, version, codec, zipped=zipped)

    with opened(path) as tree:
        assert tree.attributes() == {"a": 1}
        assert sorted(tree.arrays()) == sorted(known)
        for path_, rows in known.items():
            array = tree.array(path_)
            assert (array.count, array.shape) == (len(rows), rows.shape[1:])
            np.testing.assert_array_equal(array.read(0, len(rows)), rows)
            for start in range(0, len(rows), 11):
                stop = min(len(rows), start + 11)
                np.testing.assert_array_equal(array.read(start, stop), rows[start:stop])


def test_the_other_order_of_axes_and_of_chunks_is_read(tmp_path: Path) -> None:
    rows = np.arange(60, dtype="f8").reshape(20, 3)
    array = zarr.create_array(
        str(tmp_path / "a"), shape=rows.shape, chunks=(7, 2), dtype="f8", zarr_format=2, order="F",
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    array[...] = rows
    with opened(str(tmp_path / "a")) as tree:
        np.testing.assert_array_equal(tree.array("").read(3, 17), rows[3:17])


# --- what must not be believed


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object], codec: Any = None) -> str:
    """A small array of version 2 whose metadata say something else."""
    path = tmp_path / "b.zarr"
    root = zarr.create_group(str(path), zarr_format=2)
    array = root.create_array("x", shape=(64, 4), chunks=(16, 4), dtype="f4", compressors=codec)
    array[...] = 1.5
    metadata = json.loads((path / "x" / ".zarray").read_text())
    change(metadata)
    (path / "x" / ".zarray").write_text(json.dumps(metadata))
    return str(path)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1 << 61, 4]},
        {"shape": [-1, 4]},
        {"shape": [64]},
        {"shape": "64"},
        {"shape": [64.0, 4]},
        {"chunks": [0, 4]},
        {"chunks": [1 << 40, 4], "compressor": {"id": "zstd"}},
        {"shape": [64, 1 << 40], "chunks": [1, 1 << 40]},
        {"dtype": "|O", "filters": [{"id": "pickle"}]},
        {"dtype": "|O"},
        {"dtype": "<U8"},
        {"dtype": "(1000000000,)f4"},
        {"dtype": [["a", "<f4"]]},
        {"dtype": "f4,("},
        {"compressor": {"id": "pickle"}},
        {"compressor": {"id": "imagecodecs_jpeg2k"}},
        {"compressor": {"id": 7}},
        {"compressor": []},
        {"filters": [{"id": "delta", "dtype": "<f4"}]},
        {"order": "G"},
        {"fill_value": {"a": 1}},
        {"fill_value": "x"},
        {"zarr_format": 9},
        {"dimension_separator": "../"},
    ],
)
def test_metadata_that_lie_are_one_error(change: dict[str, Any], tmp_path: Path) -> None:
    path = changed(tmp_path, lambda metadata: metadata.update(change))
    with pytest.raises((FormatError, UnsupportedError)), opened(path) as tree:
        tree.array("x").read(0, 64)


@pytest.mark.parametrize("codec", [c for name, (v, c) in CODECS.items() if v == 2 and c], ids=str)
def test_a_chunk_that_decodes_to_more_is_never_expanded(codec: Any, tmp_path: Path) -> None:
    """Each says by itself, or by its content, that it has a thousand times as many bytes."""
    path = changed(tmp_path, lambda _: None, codec)
    bomb = bytes(codec.encode(np.zeros(64 << 18, np.uint8)))
    Path(path, "x", "0.0").write_bytes(bomb[: 60 << 10] if len(bomb) > 60 << 10 else bomb)
    with pytest.raises(FormatError), opened(path) as tree:
        tree.array("x").read(0, 16)


def test_damaged_chunks_are_one_error_or_values(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    for codec in (c for v, c in CODECS.values() if v == 2 and c):
        path = changed(
            tmp_path / type(codec).__name__ / str(codec.get_config().get("cname")), lambda _: 0, codec
        )
        chunk = Path(path, "x", "1.0")
        whole = chunk.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
            chunk.write_bytes(bytes(data[: int(generator.integers(1, len(data) + 1))]))
            with opened(path) as tree:
                try:
                    assert tree.array("x").read(0, 64).shape == (64, 4)
                except FormatError:
                    continue


def test_links_names_that_leave_and_other_things_are_refused(tmp_path: Path) -> None:
    path = Path(changed(tmp_path, lambda _: None))
    (tmp_path / "elsewhere").mkdir()
    os.rename(path / "x" / "0.0", tmp_path / "elsewhere" / "0.0")
    os.symlink(tmp_path / "elsewhere" / "0.0", path / "x" / "0.0")
    with pytest.raises(FormatError, match="link"), opened(str(path)) as tree:
        tree.array("x").read(0, 16)
    os.rename(path / "x", tmp_path / "elsewhere" / "x")
    os.symlink(tmp_path / "elsewhere" / "x", path / "x")
    with pytest.raises(FormatError, match="link"), opened(str(path)) as tree:
        list(tree.arrays())

    with zipfile.ZipFile(tmp_path / "c.zip", "w") as file:
        file.writestr("../.zgroup", '{"zarr_format": 2}')
    with pytest.raises(FormatError), opened(str(tmp_path / "c.zip")) as tree:
        tree.is_group()
    (tmp_path / "d").write_bytes(b"something else")
    for name, kind in (("d", FormatError), ("nothing", NotFoundError)):
        with pytest.raises(kind), opened(str(tmp_path / name)):
            pass


def test_groups_that_lie_too_deep_and_metadata_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    for _ in range(60):
        folder.mkdir()
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        folder = folder / "a"
    with pytest.raises(FormatError, match="deep"), opened(str(tmp_path / "deep")) as tree:
        list(tree.arrays())
    for text in ("[]", "7", "{", '{"zarr_format": 2, "node_type": 3}', "[" * 100_000):
        (tmp_path / "deep" / "zarr.json").write_text(text)
        with pytest.raises(ReplayStoreError), opened(str(tmp_path / "deep")) as tree:
            tree.is_group()
