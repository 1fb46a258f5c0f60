"""Readers of an HDF5 file beside its writer see each transaction wholly or not at all."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hdf5_story import (
    ALL,
    IMAGE,
    NAME,
    OBS,
    SPECS,
    STORY,
    State,
    encoded,
    flat,
    read_chunk,
    read_rows,
    reader_of,
    rows_of,
)

import replaystore as rs
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.hdf5 import states
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.located import existing_container
from replaystore.errors import ConflictError, CorruptError
from replaystore.location import parse
from replaystore.storage.local import Files
from replaystore.testing.disks import put
from replaystore.testing.far import far_disk

pytest_plugins = ["hdf5_story"]


class HookedFiles(Files):
    """Calls something before its operations."""

    hook: Callable[[], None] | None = None

    def _run(self) -> None:
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
            self.hook = hook

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if not self.writable:
            self._run()
        return super().read(name, offset, length)

    def read_ranges(self, name: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        return [self.read(name, *place) for place in places]

    def write(self, name: str, offset: int, data: Any) -> None:
        self._run()
        super().write(name, offset, data)

    def resize(self, name: str, size: int) -> None:
        self._run()
        super().resize(name, size)

    def sync_file(self, name: str) -> None:
        self._run()


def test_a_reader_sees_each_step_wholly_or_not_at_all(tmp_path: Path) -> None:
    files = HookedFiles(tmp_path, writable=True)
    state = State({"format_version": 1})
    container = Hdf5Container.create(files, NAME, state.document)
    old = reader_of(container)
    seen: list[bool] = []

    def look() -> None:
        chance = random.Random(len(seen))
        reader = reader_of(container) if chance.random() < 0.5 else old
        reader.refresh()
        try:
            state.check(reader)
            seen.append(False)
        except AssertionError:
            expected[0].check(reader)
            seen.append(True)

    for step in STORY:
        other = tmp_path / "other"
        put(str(other), {NAME: (tmp_path / NAME).read_bytes()})
        expected = [step(Hdf5Container.open(Files(other, writable=True), NAME, writable=True), state)]
        files.hook = look
        after = step(container, state)
        files.hook = None
        state = after
    assert any(seen)
    assert not all(seen)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8, 13, 21, 30, 60])
def test_a_transaction_in_the_middle_of_reading_is_noticed(tmp_path: Path, at: int) -> None:
    container = Hdf5Container.create(Files(tmp_path, writable=True), NAME, {})
    state = State({}, frozenset())
    for step in STORY[:6]:
        state = step(container, state)
    files = HookedFiles(tmp_path, writable=False)
    reader = Hdf5Container.open(files, NAME, writable=False)
    reads = 0

    def transact() -> None:
        nonlocal reads, state
        if reads == at:
            for step in STORY[6:13]:
                state = step(container, state)
        reads += 1

    files.hook = transact
    specs = reader.specs()
    assert set(specs) == set(SPECS)
    rows = read_rows(reader, OBS, 151)
    chunk = read_chunk(reader, IMAGE, 0)
    files.hook = None
    assert state.rows[OBS].startswith(rows)
    assert chunk == state.chunks[IMAGE, 0]
    state.check(reader)


def test_threads_may_read_while_a_writer_grows(container: Hdf5Container) -> None:
    container.begin_segment(0, b"")
    done = threading.Event()

    def watch(own: bool) -> int:
        reader, looks = container if own else reader_of(container), 0
        while not done.is_set():
            rows = len(reader.read_segment(0)) // 8 * 100
            assert read_rows(reader, OBS, rows) == b"".join(
                flat(rows_of(ALL[OBS], 100, n)).tobytes() for n in range(rows // 100)
            )
            if rows:
                assert (
                    read_chunk(reader, IMAGE, rows // 100 - 1)
                    == flat(rows_of(ALL[IMAGE], 8, rows // 100 - 1)).tobytes()
                )
            looks += 1
        return looks

    with ThreadPoolExecutor() as pool:
        watchers = [pool.submit(watch, own) for own in (False, False, True)]
        for n in range(50):
            container.reserve({OBS: (n + 1) * 100})
            container.write_rows(OBS, n * 100, flat(rows_of(ALL[OBS], 100, n)))
            container.write_chunks({IMAGE: {n: encoded(container, IMAGE, n)}})
            container.append_record(b"%8d" % n)
        done.set()
        assert all(watcher.result() for watcher in watchers)


@pytest.mark.parametrize("seed", [10, 20, 30, 49, 58, 59])
def test_a_copy_made_block_by_block_while_the_file_grows_is_a_store(tmp_path: Path, seed: int) -> None:
    """As `cp` makes it: the front first. HDF5's metadata in it are of several moments."""
    chance, small = random.Random(seed), ArraySpec(np.dtype("f4"), (), 16)
    names, rows = [f"steps/{n}" for n in range(4)], 0
    container = Hdf5Container.create(Files(tmp_path / "live", writable=True), NAME, {})
    container.create_arrays(dict.fromkeys(names, small))
    container.begin_segment(0, b"")

    def grow(count: int) -> None:
        nonlocal rows
        container.reserve(dict.fromkeys(names, rows + count))
        for name in names:
            container.write_rows(name, rows, flat(np.arange(rows, rows + count).astype("f4")))
        rows += count
        container.append_record(b"%8d" % rows)
        container.sync()

    grow(chance.choice([10, 100, 1000, 4000]))
    least = rows
    (tmp_path / "copy").mkdir()
    with open(tmp_path / "live" / NAME, "rb") as live, open(tmp_path / "copy" / NAME, "wb") as made:
        while block := os.pread(live.fileno(), 4096, made.tell()):
            made.write(block)
            if chance.choice([0, 260_000]) < made.tell() < 1_600_000 and chance.random() < 0.1:
                grow(chance.choice([10, 100, 1000, 3000]))
    for writable in (False, True):
        found = Hdf5Container.open(Files(tmp_path / "copy", writable=writable), NAME, writable=writable)
        known = int(found.read_segment(0)[-8:])
        assert known >= least
        for name in names:
            assert read_rows(found, name, known) == flat(np.arange(known).astype("f4")).tobytes()
        if writable:
            found.publish(dict.fromkeys(names, known), {})
        found.close()
    with h5py.File(tmp_path / "copy" / NAME) as file:
        for name in names:
            np.testing.assert_array_equal(file[name][:], np.arange(known))


def test_a_reader_is_not_kept_waiting_by_a_writer_that_never_pauses(tmp_path: Path) -> None:
    """Each transaction comes before the library has read one state; what it read is fetched at once then."""
    path = tmp_path / "a.h5"
    schema = rs.Schema({"observation": rs.Field(np.dtype("u1"), (4,), "observation")})
    buffer = rs.create(path, schema, storage={"observation": {"codec": "gzip:1", "chunk_rows": 8}})
    buffer.append({"observation": np.zeros((800, 4), "u1")})
    buffer.commit()
    with rs.open(path) as reader:
        file, looked = reader._store.container._file, []

        def look(overlay: Overlay) -> int:
            looked.append(overlay)
            overlay.seek(USERBLOCK)
            found = overlay.read(64)
            overlay.seek(USERBLOCK + 96)
            found += overlay.read(512)
            if len(looked) < 100:  # while it reads, the writer makes another transaction
                buffer.append({"observation": np.zeros((8, 4), "u1")})
                buffer.commit()
            return len(found)

        assert file.read(look)[0] == 576
        assert len(looked) < 5
    buffer.close()


def test_the_library_is_never_given_bytes_of_two_states(tmp_path: Path) -> None:
    """It may not survive structures each of which is whole, and which do not fit together."""
    path = tmp_path / "a.h5"
    schema = rs.Schema({"observation": rs.Field(np.dtype("u1"), (4,), "observation")})
    buffer = rs.create(path, schema, storage={"observation": {"codec": "gzip:1", "chunk_rows": 8}})
    with rs.open(path) as reader:
        seen: list[tuple[bytes, BaseException | None]] = []

        def look(overlay: Overlay) -> bytes:
            overlay.seek(USERBLOCK)
            overlay.read(64)
            if not seen:
                buffer.append({"observation": np.zeros((80, 4), "u1")})
                buffer.commit()
            overlay.seek(USERBLOCK + 64)
            seen.append((overlay.read(4096), overlay.failure))
            overlay.seek(USERBLOCK)
            assert any(overlay.read(64)) is (overlay.failure is None), "what was wrong once stays wrong"
            if overlay.failure is not None:
                raise overlay.failure
            return seen[-1][0]

        found, _ = reader._store.container._file.read(look)
    (stopped, why), (whole, nothing) = seen
    assert not any(stopped)
    assert isinstance(why, ConflictError)
    assert nothing is None
    assert found == whole == path.read_bytes()[USERBLOCK + 64 : USERBLOCK + 64 + 4096]
    buffer.close()


@pytest.mark.parametrize("away", [False, True])
def test_a_superblock_that_is_read_while_it_is_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: bool
) -> None:
    schema = rs.Schema({"reward": rs.Field("float32", (), "reward")})
    with rs.create(tmp_path / "a.h5", schema) as writer, far_disk() if away else nullcontext():
        real, torn = states.superblock, [True]

        def superblock(*args: Any) -> Any:
            if torn:
                torn.clear()
                writer.metadata = {"gone": "on"}
                raise CorruptError("torn")
            return real(*args)

        monkeypatch.setattr(states, "superblock", superblock)
        container = existing_container(parse(tmp_path / "a.h5"), writable=False)
        assert container.published() == {}
        assert not torn
        container.close()
