"""Beside a writer that commits, publishes, adds fields, goes back, reopens and lets a ring go on, every
reader of Zarr is shown one commit, or a ConflictError.

Each row tells its history (`replaystore.testing.histories`), so that a wrong one is seen whatever it is.
"""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from zarr_readers import READERS

import replaystore as rs
from replaystore.arrays.reading import StoreReader
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.errors import ConflictError, CorruptError
from replaystore.schema import tree
from replaystore.testing.campaigns.concurrency import Writer
from replaystore.testing.histories import SCHEMA, Shown, few_rows
from replaystore.testing.readers import Ground
from replaystore.testing.samples import shards_of
from replaystore.views.commit_source import CommitSource
from replaystore.views.zarr_store import ZarrStore
from replaystore.views.zarr_tree import ZarrTree

KINDS = {"zarr": (".zarr", None), "hdf5": (".h5", None), "ring": (".zarr", 4000)}


@contextmanager
def few_in_a_shard() -> Iterator[None]:
    with shards_of(8), patch("replaystore.arrays.committing.SEGMENT_BYTES", 30_000):
        yield


def prepared(folder: Path, kind: str) -> Ground:
    suffix, capacity = KINDS[kind]
    ground = Ground(str(folder), suffix, capacity, 0, replacing=False)
    rs.create(ground.live, SCHEMA, storage=few_rows(ground.codec), capacity=ground.capacity).close()
    ground.book().note(Shown())
    return ground


class Watcher:
    """Takes stores of commits, holds some of them, and reads in all ways."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.ground, self.book = ground, ground.book()
        self.generator = np.random.default_rng([seed, 1])
        self.buffer = rs.open(ground.live)
        self.held: list[tuple[Any, Shown]] = []
        self.read = self.refused = 0

    def take(self, buffer: rs.Buffer) -> None:
        """Hold the commit that a buffer shows, here or as another process would."""
        try:
            store = buffer.zarr_store()
            if self.generator.random() < 0.2:
                store = pickle.loads(pickle.dumps(store))
        except ConflictError:
            self.refused += 1
            return
        self.held = [*self.held[-5:], (store, self.book.shown(store.commit_id))]

    def follow(self) -> None:
        try:
            self.buffer.refresh()
        except ConflictError:
            return
        self.take(self.buffer)

    def look(self) -> None:
        """Read an array of one of the commits held."""
        if not self.held:
            return
        store, shown = self.held[int(self.generator.integers(len(self.held)))]
        names = [*SCHEMA.fields, *shown.late, "", ""]
        name = names[int(self.generator.integers(len(names)))]
        way = READERS[str(self.generator.choice(list(READERS)))]
        try:
            found = way(store, tree.steps(name) if name else tree.trajectories("length"))
            held = way(store, tree.values(name)) if name in SCHEMA.ragged else None
        except ConflictError:
            self.refused += 1
            return
        if name:
            expected = shown.column(name, np.arange(shown.first, shown.rows))
        else:
            begins, ends, gone = shown.trajectories()
            expected = (ends - begins + 1)[gone:]
        if held is not None:
            assert [held[begin:end].tolist() for begin, end in found] == expected.tolist()
            self.read += 1
            return
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape, f"{name} of commit {shown.commit}"
        assert np.array_equal(found, expected), f"{name} of commit {shown.commit} by {way.__name__}"
        self.read += 1


def story(folder: Path, kind: str, seed: int, steps: int, going_back: float = 0.6) -> Watcher:
    with few_in_a_shard():
        ground = prepared(folder, kind)
        writer, watcher = Writer(ground, seed, going_back), Watcher(ground, seed)
        for _ in range(steps):
            getattr(writer, str(writer.generator.choice(writer.kinds, p=writer.weights)))()
            if watcher.generator.random() < 0.3:
                watcher.take(writer.buffer)
            if watcher.generator.random() < 0.3:
                watcher.follow()
            watcher.look()
        writer.commit()
        writer.buffer.close()
        watcher.buffer.close()
    return watcher


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_is_shown_one_commit(tmp_path: Path, kind: str) -> None:
    watcher = story(tmp_path, kind, seed=3, steps=60 if kind == "hdf5" else 160)

    assert watcher.read > 25, f"{watcher.refused} were refused"

    archive = tmp_path / f"sealed{watcher.ground.suffix}"
    rs.convert(watcher.ground.live, archive, layout="archive")
    with rs.open(archive) as buffer:
        for read in READERS.values():
            for name in buffer.schema.fields.keys() - buffer.schema.ragged.keys():
                assert np.array_equal(read(buffer.zarr_store(), tree.steps(name)), buffer[name][:])


async def none_instead(self: ZarrStore, *arguments: Any, **named: Any) -> Any:
    try:
        return await right_get(self, *arguments, **named)
    except ConflictError:
        return None


def newest_instead(self: CommitSource, question: Callable[[ZarrTree], Any]) -> Any:
    with rs.open(self.location) as buffer:
        return question(ZarrTree(buffer))


right_get = ZarrStore.get
WRONG = {
    "no value": [(ZarrStore, "get", none_instead)],
    "another commit": [(CommitSource, "ask", newest_instead)],
    "another history": [
        (ZarrContainer, "fork", lambda *_: None),
        (StoreReader, "check_generation", lambda *_: None),
        (StoreReader, "check_missing", lambda *_: None),
    ],
}


def stories(folder: Path, kind: str) -> None:
    for seed in range(8):
        (folder / str(seed)).mkdir()
        story(folder / str(seed), kind, seed, steps=160, going_back=3)


@pytest.mark.parametrize("how", WRONG)
def test_a_store_that_is_wrong_is_found(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or nothing that the test above says would mean anything."""
    for owner, name, instead in WRONG[how]:
        monkeypatch.setattr(owner, name, instead)

    # Values that are wrong, or what should have been a ConflictError.
    found = r"of commit \d+|does not exist|is missing"
    with pytest.raises((AssertionError, ValueError, CorruptError), match=found):
        stories(tmp_path, "ring" if how == "no value" else "zarr")


WRITER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from test_zarr_store_live import Writer, few_in_a_shard, prepared, Path
with few_in_a_shard():
    ground = prepared(Path(sys.argv[2]), sys.argv[3])
    print("ready", flush=True)
    writer = Writer(ground, int(sys.argv[4]), 0.6)
    working = threading.Thread(target=writer.run)
    working.start()
    while sys.stdin.read(1): pass
    ground.numbers[0] = 1
    working.join()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_is_shown_one_commit_beside_another_process(tmp_path: Path, kind: str) -> None:
    program = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(tmp_path), kind, "5"]
    suffix, capacity = KINDS[kind]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            watcher = Watcher(Ground(str(tmp_path), suffix, capacity, 0, replacing=False), 5)
            until = time.monotonic() + 60
            while watcher.read < 40 and time.monotonic() < until:
                watcher.follow()
                for _ in range(3):
                    watcher.look()
            watcher.buffer.close()
        finally:
            process.stdin.close()
            assert process.wait(60) == 0

    assert watcher.read >= 20, f"{watcher.refused} were refused"


def test_a_commit_that_left_a_ring_shows_whole_tables_or_none(tmp_path: Path) -> None:
    schema = rs.Schema({"reward": rs.Field("f8", (), "reward")})
    refused = 0
    refusing = patch.object(ZarrContainer, "replace_segments", side_effect=OSError(errno.EACCES, "refused"))
    # Segments of the log that nobody needs stay if they cannot be removed, and tables have fewer rows.
    with few_in_a_shard(), refusing, rs.create(tmp_path / "a.zarr", schema, capacity=400) as buffer:
        for number in range(200):
            buffer.append({"reward": np.arange(50.0)}, ends=range(9, 50, 10))
            buffer.commit()
            if number == 20:
                held = pickle.dumps(buffer.zarr_store())
            if number > 20:
                store = pickle.loads(held)
                try:
                    found = READERS["by_zarr"](store, tree.trajectories("length"))
                except ConflictError:
                    refused += 1
                else:
                    assert len(found) == 40, number
                store.close()
    assert refused
