"""A store that is being written is read by what FORMAT.md says, without replaystore's own reader."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest
from numcodecs.zstd import Zstd

import replaystore as rs

STEPS = 3000


def u64(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def records(log: bytes) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """The valid records of a segment."""
    while log[:4] == b"RSC1":
        length = u64(log, 8)
        assert google_crc32c.value(log[8 : 16 + length]) == int.from_bytes(log[4:8], "little")
        payload = log[16 : 16 + length]
        size = int.from_bytes(payload[:4], "little")
        meta = json.loads(payload[4 : 4 + size])
        blobs, at = {}, 4 + size
        for name, count in meta["blobs"]:
            blobs[name] = payload[at : at + count]
            at += count
        yield meta, blobs
        log = log[16 + length :]


def zarr_log(store: Path) -> bytes:
    segments = sorted(
        (file for file in (store / "journal/log").iterdir() if file.name.isdigit()),
        key=lambda file: int(file.name),
    )
    return segments[-1].read_bytes()


def hdf5_log(file: Path) -> bytes:
    """By the newest head in the user block."""
    data, heads = file.read_bytes(), []
    for slot in (4096, 8192):
        if data[slot : slot + 8] == b"RSHEAD01":
            sequence, _, used, count = (u64(data, slot + at) for at in (8, 16, 24, 32))
            end = slot + 40 + 16 * count
            assert google_crc32c.value(data[slot:end]) == int.from_bytes(data[end : end + 4], "little")
            pieces = [(u64(data, slot + 40 + 16 * at), u64(data, slot + 48 + 16 * at)) for at in range(count)]
            heads.append(
                (sequence, b"".join(data[offset : offset + length] for offset, length in pieces)[:used])
            )
    assert data[12288:12296] == b"RSJOURN1"
    assert data[16384:16392] == b"RSAPPLY1"
    assert u64(data, 12296) == u64(data, 16392), "no journal is pending"
    return max(heads)[1]


def write(location: Path) -> rs.Buffer:
    """A buffer that is still open for writing, and its rows."""
    schema = rs.Schema(
        {
            "observation": rs.Field(np.uint8, (80, 80), "observation"),
            "action": rs.Field(np.int64, (), "action"),
            "reward": rs.Field(np.float32, (3,), "reward"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
            "truncated": rs.Field(np.bool_, (), "truncated"),
        }
    )
    buffer = rs.create(location, schema)
    rows = np.arange(STEPS)
    columns = {
        "observation": np.broadcast_to(rows[:, None, None] % 251, (STEPS, 80, 80)).astype(np.uint8),
        "action": rows,
        "reward": np.stack([rows, rows + 1, rows + 2], axis=1).astype(np.float32),
        "terminated": rows % 100 == 99,
        "truncated": np.zeros(STEPS, np.bool_),
    }
    for start in range(0, STEPS, 700):
        buffer.append({name: column[start : start + 700] for name, column in columns.items()})
        buffer.commit()
    buffer.append({name: column[:5] for name, column in columns.items()})  # never committed
    return buffer


def zarr_spec(store: Path, array: str) -> tuple[dict[str, Any], int, int]:
    """(zarr.json, rows of a chunk, chunks of a shard)."""
    metadata = json.loads((store / array / "zarr.json").read_bytes())
    rows = metadata["codecs"][0]["configuration"]["chunk_shape"][0]
    return metadata, rows, metadata["chunk_grid"]["configuration"]["chunk_shape"][0] // rows


def table(name: str, log: list[tuple[dict[str, Any], dict[str, bytes]]]) -> np.ndarray:
    assert log[0][0]["tables"].get(name, [0])[0] == 0, "all rows are in the log"
    return np.frombuffer(b"".join(blobs.get("rows:" + name, b"") for _, blobs in log), np.int64)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_the_log_says_what_is_committed(name: str, tmp_path: Path) -> None:
    buffer = write(tmp_path / name)

    log = list(records(zarr_log(tmp_path / name) if name == "a.zarr" else hdf5_log(tmp_path / name)))

    assert log[0][0]["base"]
    assert log[-1][0]["commit"] == buffer.commit_id
    added = [record[0].get("add", {}).get("steps", 0) for record in log[1:]]
    assert log[0][0]["lengths"].get("steps", 0) + sum(added) == STEPS
    assert table("trajectories/length", log).tolist() == [100] * 30
    assert table("parts", log)[::6].tolist() == list(range(0, STEPS, 100))
    buffer.abandon()


def test_rows_of_a_zarr_store_lie_where_the_format_says(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    buffer = write(store)
    log = list(records(zarr_log(store)))

    _, rows, chunks = zarr_spec(store, "steps/action")
    header = -(-(16 * chunks + 4) // 4096) * 4096
    actions = np.frombuffer((store / "steps/action/c.0").read_bytes()[header : header + 8 * STEPS], np.int64)
    assert rows * chunks >= STEPS
    assert actions.tolist() == list(range(STEPS))

    metadata, rows, chunks = zarr_spec(store, "steps/observation")
    entries = {
        chunk: place
        for meta, _ in log
        for chunk, *place in meta.get("entries", {}).get("steps/observation", [])
    }
    assert [codec["name"] for codec in metadata["codecs"][0]["configuration"]["codecs"]] == [
        "bytes",
        "zstd",
        "crc32c",
    ]
    for chunk in range(STEPS // rows):
        if chunk in entries:
            file, offset, length = entries[chunk]
        else:  # of a shard that is complete
            file = f"steps/observation/c.{chunk // chunks}.0.0"
            offset, length = struct.unpack_from("<QQ", (store / file).read_bytes(), 16 * (chunk % chunks))
        data = (store / file).read_bytes()[offset : offset + length]
        assert google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little")
        frames = np.frombuffer(Zstd().decode(data[:-4]), np.uint8).reshape(rows, 80, 80)
        assert (frames == (np.arange(chunk * rows, (chunk + 1) * rows) % 251)[:, None, None]).all()
    buffer.abandon()


def test_the_unfinished_chunk_lies_in_the_tail(tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    buffer = write(store)
    log = list(records(zarr_log(store)))
    _, rows, _ = zarr_spec(store, "steps/observation")
    _, tail_rows, tail_chunks = zarr_spec(store, "journal/tail/0")
    header = -(-(16 * tail_chunks + 4) // 4096) * 4096
    assert tail_rows > 1 << 12

    pieces: list[list[int]] = []
    for meta, _ in log[1:]:
        if meta.get("tail_reset"):
            pieces = []
        pieces += meta.get("tails", {}).get("steps/observation", [])
    pieces = [piece for piece in pieces if piece[0] >= STEPS // rows * rows]
    found = b""
    for start, count, slot, offset, checksum in pieces:
        assert start == STEPS // rows * rows + len(found) // 6400
        data = (store / f"journal/tail/{slot}/c.0").read_bytes()[
            header + offset : header + offset + count * 6400
        ]
        assert google_crc32c.value(data) == checksum
        found += data

    assert np.frombuffer(found, np.uint8)[::6400].tolist() == [
        row % 251 for row in range(STEPS // rows * rows, STEPS)
    ]
    buffer.abandon()


def test_an_hdf5_store_is_an_ordinary_file_behind_its_user_block(tmp_path: Path) -> None:
    write(tmp_path / "a.h5").close()

    with h5py.File(tmp_path / "a.h5") as file:
        assert file.userblock_size == 65536
        assert json.loads(file.attrs["replaystore"])["format"] == "replaystore"
        assert file["steps/action"][:].tolist() == [*range(STEPS), *range(5)]
