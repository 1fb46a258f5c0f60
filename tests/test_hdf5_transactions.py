"""The HDF5 container beside readers: its log, bytes that are never overwritten, and what is seen of a
transaction."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hdf5_story import (
    ALL,
    FLAG,
    IMAGE,
    NAME,
    OBS,
    SPECS,
    STORY,
    State,
    encoded,
    flat,
    fresh,
    plain,
    read_chunk,
    read_rows,
    reader_of,
    rows_of,
)

import replaystore as rs
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.containers.protocol import ArraySpec, ChunkEntry, Extent
from replaystore.errors import ConflictError, CorruptError, NotFoundError
from replaystore.storage.local import Files
from replaystore.testing.disks import Disk, put
from replaystore.testing.faults import RecordingFiles


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Hdf5Container]:
    made = fresh(tmp_path / "store")
    yield made
    made.files.close()


# --- the log


def test_records_follow_each_other_over_pieces_and_segments(container: Hdf5Container) -> None:
    reader = reader_of(container)
    assert container.segments() == reader.segments() == []
    container.begin_segment(0, b"base")
    stream = b"base"
    for size in (10, 60_000, 70_000, 1, 300_000, 5):
        record = random.Random(size).randbytes(size)
        container.append_record(record)
        stream += record
        for one in (container, reader):
            assert one.read_segment(0) == stream
            assert one.read_segment(0, 65_000) == stream[65_000:]
    container.begin_segment(6, b"six")
    container.append_record(b"seven")
    for one in (container, reader, reader_of(container)):
        assert one.segments() == [0, 6]
        assert one.read_segment(0) == stream
        assert one.read_segment(0, 100_000) == stream[100_000:]
        assert one.read_segment(6) == b"sixseven"
        assert one.read_segment(6, 100) == b""
        with pytest.raises(NotFoundError, match="commit 3"):
            one.read_segment(3)


def test_a_cut_record_is_forgotten(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"wrong")
    container.cut_segment(0, 4)
    assert reader_of(container).read_segment(0) == b"base"
    container.append_record(b"ok")
    assert reader_of(container).read_segment(0) == b"baseok"
    with pytest.raises(CorruptError, match="no byte 100"):
        container.cut_segment(0, 100)


def test_a_cut_may_go_back_to_an_older_segment(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"a" * 70_000)
    container.begin_segment(5, b"five")
    container.begin_segment(9, b"nine")
    reader = reader_of(container)
    assert reader.segments() == [0, 5, 9]
    with pytest.raises(CorruptError, match="no byte 99999"):
        container.cut_segment(0, 99_999)
    container.cut_segment(0, 30_000)
    container.append_record(b"more")
    for one in (container, reader, reader_of(container)):
        assert one.segments() == [0]
        assert one.read_segment(0) == b"base" + b"a" * 29_996 + b"more"


def test_after_power_loss_no_record_follows_that_was_cut(tmp_path: Path) -> None:
    recorder, crash = RecordingFiles(), tmp_path / "crash"
    container = Hdf5Container.create(recorder.files(tmp_path / "live", writable=True), NAME, {})
    container.begin_segment(0, b"base")
    container.append_record(b"old1")
    container.append_record(b"old2")
    container.sync()
    disk = Disk()
    for operation in recorder.operations:
        disk.do(operation)
    recorder.operations.clear()
    container.cut_segment(0, 4)
    container.append_record(b"new1")
    for operation in recorder.operations:
        disk.do(operation)
    chance, found = np.random.default_rng(0), set()
    for _ in range(40):
        put(str(crash), disk.cut(chance))
        found.add(Hdf5Container.open(Files(crash, writable=False), NAME, writable=False).read_segment(0))
    assert found == {b"base", b"basenew1"} | ({b"baseold1"} & found)


def test_a_sealed_file_has_no_older_segments_and_no_tails(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"x" * 100_000)
    container.begin_segment(3, b"newest")
    container.create_arrays({"journal/tail/0": SPECS[FLAG], "journal/tail/1": SPECS[FLAG]})
    container.seal()
    for one in (container, reader_of(container)):
        assert one.segments() == [3]
        assert one.read_segment(3) == b"newest"
        assert dict(one.specs()) == ALL
    with plain(container) as file:
        assert list(file["journal"]) == ["log"]
        assert list(file["journal/log"]) == ["3"]


def test_arrays_that_no_commit_knows_of_are_trimmed(container: Hdf5Container) -> None:
    container.create_arrays({"steps/left/over": ALL[OBS], "journal/tail/0": SPECS[FLAG]})
    container.trim(dict.fromkeys(ALL, 0))
    assert (
        dict(container.specs())
        == {**ALL, "journal/tail/0": SPECS[FLAG]}
        == dict(reader_of(container).specs())
    )
    with plain(container) as file:
        assert "left" not in file["steps"]


def test_segments_from_the_new_one_on_are_replaced(container: Hdf5Container) -> None:
    for commit in (0, 5, 9):
        container.begin_segment(commit, b"old%d" % commit)
    container.begin_segment(5, b"new")
    assert container.segments() == reader_of(container).segments() == [0, 5]
    assert reader_of(container).read_segment(5) == b"new"
    assert reader_of(container).read_segment(0) == b"old0"
    container.begin_segment(12, b"newer")
    assert container.segments() == reader_of(container).segments() == [0, 5, 12]


def test_reading_the_end_of_the_log_needs_no_hdf5(
    container: Hdf5Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.begin_segment(0, b"base")
    reader = reader_of(container)
    assert reader.segments() == [0]
    monkeypatch.setattr(h5py, "File", None)
    container.append_record(b"more")
    assert reader.segments() == [0]
    assert reader.read_segment(0, 4) == b"more"


# --- nothing that was committed is overwritten


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


# --- readers beside a writer


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
