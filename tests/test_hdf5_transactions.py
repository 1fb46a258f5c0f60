"""Nothing that was committed to an HDF5 file is overwritten."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hdf5_story import (
    ALL,
    FLAG,
    IMAGE,
    NAME,
    OBS,
    SPECS,
    encoded,
    flat,
    read_rows,
    reader_of,
    rows_of,
)

from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.protocol import ChunkEntry, Extent
from replaystore.storage.local import Files

pytest_plugins = ["hdf5_story"]


class GuardedFiles(Files):
    """Refuses writes over bytes that are guarded."""

    guarded: list[tuple[int, int]]

    def write(self, name: str, offset: int, data: Any) -> None:
        stop = offset + len(data)
        assert not any(first < stop and offset < last for first, last in self.guarded), (
            f"bytes {offset} to {stop} are in use"
        )
        super().write(name, offset, data)


def guard(files: GuardedFiles, *places: ChunkEntry | Extent) -> None:
    files.guarded += [(place.offset, place.offset + place.length) for place in places]


@pytest.mark.parametrize("seed", range(6))
def test_stored_bytes_are_never_overwritten(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = GuardedFiles(tmp_path, writable=True)
    files.guarded = []
    container = Hdf5Container.create(files, NAME, {})
    container.create_arrays(SPECS)
    container.begin_segment(0, b"base")
    rows, chunks, entries = 0, 0, dict[int, ChunkEntry]()
    content: dict[ChunkEntry, bytes] = {}
    for step in range(40):
        action = chance.choice(
            ["rows", "rows", "chunks", "again", "publish", "document", "segment", "arrays", "reopen"]
        )
        if action == "rows":
            count = chance.randint(1, 200)
            container.reserve({OBS: rows + count, FLAG: rows + count})
            container.write_rows(OBS, rows, flat(rows_of(SPECS[OBS], count, step)))
            guard(files, *container.extents(OBS, rows // 64 * 64, rows + count)[1:])
            rows += count
        elif action in ("chunks", "again"):
            numbers = (
                range(max(0, chunks - 1), chunks)
                if action == "again"
                else range(chunks, chunks + chance.randint(1, 4))
            )
            stored = {n: chance.choice([encoded(container, IMAGE, n), bytes([step]) * 700]) for n in numbers}
            placed = container.write_chunks({IMAGE: stored}).get(IMAGE, {})
            guard(files, *placed.values())
            content |= {placed[n]: stored[n] for n in placed}
            entries |= placed
            chunks = max([chunks, *(n + 1 for n in placed)])
        elif action == "publish":
            length = max(0, chunks * 8 - chance.randint(0, 9))
            container.publish(
                {OBS: rows, FLAG: rows, IMAGE: length},
                {IMAGE: {n: e for n, e in entries.items() if n * 8 < length}},
            )
            chunks = -(-length // 8)
            entries = {n: e for n, e in entries.items() if n < chunks}
        elif action == "document":
            container.replace_document({"text": "x" * chance.choice([10, 5_000, 100_000])})
        elif action == "segment":
            container.append_record(b"r" * chance.randint(1, 90_000))
            container.begin_segment(step + 1, b"base")
        elif action == "arrays":
            container.create_arrays({f"steps/extra{chance.randint(0, 2)}": SPECS[OBS]})
        else:
            container = Hdf5Container.open(files, NAME, writable=True)
    for entry, data in content.items():
        assert files.read(entry.object, entry.offset, entry.length) == data


def test_a_chunk_of_the_same_size_gets_a_place_of_its_own(container: Hdf5Container) -> None:
    entries = [container.write_chunks({IMAGE: {0: bytes([n]) * 500}})[IMAGE][0] for n in range(4)]
    for n, entry in enumerate(entries):
        assert container.files.read(entry.object, entry.offset, entry.length) == bytes([n]) * 500
    assert container.entry(IMAGE, 0) == entries[-1]


def test_the_last_bytes_of_the_file_are_not_given_away(container: Hdf5Container) -> None:
    entry = container.write_chunks({IMAGE: {0: b"a" * 5000}})[IMAGE][0]
    container.publish({IMAGE: 0}, {})  # HDF5 finds the end of the file free
    other = container.write_chunks({IMAGE: {0: b"b" * 4000}})[IMAGE][0]
    assert other.offset >= entry.offset + entry.length
    assert container.files.read(NAME, entry.offset, entry.length) == b"a" * 5000


def test_forked_readers_keep_the_old_bytes_and_find_the_new(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.reserve({OBS: 128})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 128, 1)))
    container.publish({OBS: 128}, {})
    reader = reader_of(container)
    extent = reader.extents(OBS, 64, 128)[0]
    assert reader.segments() == [0]
    descriptor = os.open(container.files.path(NAME), os.O_RDONLY)
    container.fork({OBS: 64})
    container.write_rows(OBS, 64, flat(rows_of(ALL[OBS], 64, 2)))
    container.append_record(b"forked")
    assert (
        os.pread(descriptor, extent.length, extent.offset) == flat(rows_of(ALL[OBS], 128, 1)[64:]).tobytes()
    )
    os.close(descriptor)
    assert reader.read_segment(0) == b"baseforked"
    expected = flat(rows_of(ALL[OBS], 128, 1)).tobytes()[: 64 * 64] + flat(rows_of(ALL[OBS], 64, 2)).tobytes()
    assert read_rows(reader, OBS, 128) == expected
    assert dict(reader.specs()) == ALL
    assert os.listdir(container.files.root) == [NAME]


def test_a_reader_that_follows_to_a_copy_forgets_where_chunks_lay(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.reserve({OBS: 640})
    container.write_rows(OBS, 0, flat(rows_of(ALL[OBS], 640, 1)))
    reader = reader_of(container)
    assert read_rows(reader, OBS, 640) == flat(rows_of(ALL[OBS], 640, 1)).tobytes()
    assert dict(reader.specs()) == ALL
    container.fork({OBS: 64})
    container.publish({OBS: 64}, {})
    container.create_arrays({"steps/new": ALL[OBS]})
    container.reserve({OBS: 640})
    container.write_rows(OBS, 64, flat(rows_of(ALL[OBS], 576, 2)))
    assert reader.segments() == [0]
    assert dict(reader.specs()) == {**ALL, "steps/new": ALL[OBS]}
    expected = (
        flat(rows_of(ALL[OBS], 640, 1)).tobytes()[: 64 * 64] + flat(rows_of(ALL[OBS], 576, 2)).tobytes()
    )
    assert read_rows(reader, OBS, 640) == expected
