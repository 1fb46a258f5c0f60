"""Sampling from stores that change meanwhile: that grow, lose their oldest steps, are cut short, or
damaged."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_steps import FIELDS, append, check

import replaystore as rs
from replaystore.errors import ConflictError, CorruptError, EvictedError, ReplayStoreError, ReplayStoreWarning
from replaystore.schema.fields import Field

pytestmark = pytest.mark.filterwarnings("ignore:.*more than slab_bytes")

CODED = {"observation": {"codec": "zstd:1", "chunk_rows": 16}}
KINDS: dict[str, dict[str, Any]] = {
    "a.zarr": {},
    "coded.zarr": {"storage": CODED},
    "a.h5": {},
    "coded.h5": {"storage": CODED},
}


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("name", KINDS)
def test_sampling_goes_on_while_the_store_grows(tmp_path: Path, name: str, prefetch: int) -> None:
    with rs.create(tmp_path / name, rs.Schema(FIELDS), durability="none", **KINDS[name]) as writer:
        append(writer, 100)
        done = threading.Event()

        def write() -> None:
            for size in np.random.default_rng(0).integers(1, 90, 60).tolist():
                append(writer, size)
            done.set()

        thread = threading.Thread(target=write)
        with rs.open(tmp_path / name) as reader:
            sampler = reader.sampler(32, seed=0, prefetch=prefetch)
            thread.start()
            refreshed, number = 0, 0
            while not done.is_set() or number < 50:
                check(sampler.sample(), 0, len(reader))
                number += 1
                refreshed += number % 5 == 0 and sampler.refresh()
            thread.join()
            sampler.refresh()
            assert sampler.num_items == len(writer)
            assert max(sampler.sample()["action"].max() for _ in range(40)) > 1500
            assert refreshed > 0


@pytest.mark.parametrize("order", ["uniform", "epoch", "weights"])
@pytest.mark.parametrize("name", ["a.zarr", "coded.zarr"])
def test_what_has_left_a_ring_is_not_sampled_after_refreshing(tmp_path: Path, name: str, order: str) -> None:
    with rs.create(tmp_path / name, rs.Schema(FIELDS), capacity=200, **KINDS[name]) as writer:
        for _ in range(4):
            append(writer, 80)
        with rs.open(tmp_path / name) as reader:
            chosen: dict[str, Any] = (
                {"weights": np.ones(len(reader))} if order == "weights" else {"order": order}
            )
            sampler = reader.sampler(32, seed=0, **chosen)
            for _ in range(30):
                low = writer.rows_recorded - len(writer)
                assert sampler.refresh() or low == 320 - len(reader)
                for _ in range(10):
                    check(sampler.sample(), low, writer.rows_recorded)
                append(writer, 50)


@pytest.mark.parametrize(
    "recipe", [{}, {"order": "prioritized"}, {"order": "epoch"}, {"where": "length > 1"}]
)
def test_refreshing_keeps_up_with_a_ring_that_goes_round_meanwhile(
    tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring may drop all that the newest commit shows while one goes on to it."""
    wide = FIELDS | {"observation": Field("i8", (64,), "observation")}
    with rs.create(tmp_path / "a.zarr", rs.Schema(wide), capacity=200, durability="none") as writer:
        append(writer, 300)
        with rs.open(tmp_path / "a.zarr") as reader:
            sampler = reader.sampler(32, seed=0, **recipe)
            rounds, refresh = iter([True] * 3), reader.refresh

            def refresh_slowly() -> bool:
                found = refresh()
                if next(rounds, False):
                    for _ in range(12):
                        append(writer, 1000)
                return found

            monkeypatch.setattr(reader, "refresh", refresh_slowly)
            append(writer, 3000)  # which lie in files that nobody has opened
            assert sampler.refresh()
            assert next(rounds, None) is None  # it had to look again
            for _ in range(4):
                low = writer.rows_recorded - len(writer)
                check(sampler.sample(), low, writer.rows_recorded)
                append(writer, 50)
                assert sampler.refresh()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_chunks_that_have_left_the_ring_are_said_to_have(tmp_path: Path, prefetch: int) -> None:
    storage = {name: {"codec": "zstd:1", "chunk_rows": 16} for name in FIELDS}
    with rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS), capacity=200, storage=storage) as writer:
        append(writer, 200)
        with rs.open(tmp_path / "a.zarr") as reader:
            sampler = reader.sampler(32, seed=0, prefetch=prefetch, slab_bytes=1)
            for _ in range(20):
                append(writer, 100)
            with pytest.raises(EvictedError, match=r"left the ring; call the sampler's refresh\(\)"):
                sampler.sample()
            sampler.refresh()
            for _ in range(5):
                check(sampler.sample(), writer.rows_recorded - len(writer), writer.rows_recorded)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_file_that_was_cut_is_an_error_and_not_the_end_of_the_process(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with rs.create(path, rs.Schema(FIELDS), durability="none") as writer:
        for _ in range(3):
            append(writer, 40_000)
    rows = path / "steps" / "observation" / "c.0.0" if path.is_dir() else path
    kept = rows.read_bytes()
    for length in (len(kept) // 2, 4096, 0):
        os.truncate(rows, length)
        with warnings.catch_warnings(action="ignore", category=ReplayStoreWarning):
            try:
                with rs.open(path) as reader:  # perhaps as of an earlier commit, of which everything is there
                    for number in range(10):
                        check(reader.sampler(64, seed=number).sample(), 0, len(reader))
                    assert reader.commit_id < 3
            except ReplayStoreError as error:
                assert path.name in str(error)  # noqa: PT017  # an error there may be, and nothing else
        rows.write_bytes(kept)
    with rs.open(path) as reader:
        check(reader.sampler(64, seed=0).sample(), 0, 120_000)


def test_a_file_that_was_cut_before_refreshing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with rs.create(path, rs.Schema(FIELDS), durability="none") as writer:
        append(writer, 40_000)
        with rs.open(path) as reader:
            sampler = reader.sampler(64, seed=0)
            append(writer, 40_000)
            rows = path / "steps" / "observation" / "c.0.0"
            size = rows.stat().st_size
            os.truncate(rows, size // 2)
            with pytest.raises(CorruptError, match="cut"):
                sampler.refresh()
            os.truncate(rows, size)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_damaged_chunk_is_an_error_each_time(tmp_path: Path, prefetch: int) -> None:
    path = tmp_path / "a.zarr"
    with rs.create(path, rs.Schema(FIELDS), storage=CODED) as writer:
        append(writer, 1000)
    chunks = path / "steps" / "observation" / "c.0.0"
    data = bytearray(chunks.read_bytes())
    data[-len(data) // 8] ^= 1  # of a chunk, and not of the checksum behind one
    chunks.write_bytes(data)
    with rs.open(path) as reader:
        sampler = reader.sampler(500, order="epoch", seed=0, prefetch=prefetch)
        for _ in range(3):
            with pytest.raises(CorruptError, match="run `replaystore verify`"):
                list(sampler)


@pytest.mark.parametrize("order", ["uniform", "epoch"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_only_batches_that_show_a_damaged_chunk_are_errors(tmp_path: Path, prefetch: int, order: str) -> None:
    path = tmp_path / "a.zarr"
    with rs.create(path, rs.Schema(FIELDS), storage=CODED) as writer:
        append(writer, 4000)
        entry = writer._store.locate("steps/observation", 100)
        assert entry is not None
    with open(path / entry.object, "r+b") as file:
        file.seek(entry.offset + 8)
        file.write(b"\xff\x00\xff")
    with rs.open(path) as reader:
        sampler = reader.sampler(8, order=order, seed=0, prefetch=prefetch)
        rows = reader.sampler(
            8, order=order, seed=0, fields=["action", "observation"], next_observation=True, prefetch=0
        )._batches
        refused = 0
        for number in range(500):
            drawn = rows._plan(0, number // rows._ahead * rows._ahead).planned.drawn.rows[
                number % rows._ahead * 8 :
            ][:8]
            needed = bool(((drawn // 16 == 100) | ((drawn + 1) // 16 == 100) & (drawn % 10 != 9)).any())
            try:
                check(sampler.sample(), 0, 4000)
                assert not needed
            except CorruptError:
                assert needed
                refused += 1
                sampler.load_state_dict(sampler.state_dict() | {"epoch": 0, "batch": number + 1})
        assert refused


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("depth", [None, 3])
def test_only_batches_that_show_a_damaged_final_observation_are_errors(
    tmp_path: Path, prefetch: int, depth: int | None
) -> None:
    # Final observations that are small are kept in a journal.
    path, wide = tmp_path / "a.zarr", Field("i8", (600,), "observation")
    with rs.create(path, rs.Schema(FIELDS | {"observation": wide})) as writer:
        append(writer, 4000)
        entry, chunk_rows = (
            writer._store.locate("final/observation", 5),
            writer._store.container.specs()["final/observation"].chunk_rows,
        )
        assert entry is not None
    with open(path / entry.object, "r+b") as file:
        file.seek(entry.offset + 8)
        file.write(b"\xff\x00\xff")
    with rs.open(path) as reader:
        sampler = reader.sampler(8, seed=0, frame_stack=depth, prefetch=prefetch)
        plan = reader.sampler(8, seed=0, frame_stack=depth, prefetch=0)._batches
        refused = shown = 0
        for number in range(500):
            rows = plan._plan(0, number // plan._ahead * plan._ahead).planned.drawn.rows[
                number % plan._ahead * 8 :
            ][:8]
            final = rows[rows % 10 == 9] // 10
            damaged = bool((final // chunk_rows == 5).any())
            try:
                batch = sampler.sample()
                assert not damaged
                following = batch["next_observation"] if depth is None else batch["next_observation"][:, -1]
                assert (following == rows[:, None] + 1).all()
                shown += len(final)
            except CorruptError:
                assert damaged
                refused += 1
                sampler.load_state_dict(sampler.state_dict() | {"epoch": 0, "batch": number + 1})
        assert refused
        assert shown


def test_a_state_is_not_taken_up_once_the_buffer_has_moved_on(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS)) as writer:
        append(writer, 100)
        sampler = writer.sampler(32, seed=0)
        state = sampler.state_dict()
        append(writer, 100)
        with pytest.raises(ConflictError, match=r"shows commit 2 by now.*commit=1"):
            sampler.load_state_dict(state)
        check(sampler.sample(), 0, 100)


def test_a_ring_may_be_smaller_than_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    storage = {"observation": {"codec": "zstd:1", "chunk_rows": 64}}
    with rs.create(path, rs.Schema(FIELDS), capacity=20, storage=storage, durability="none") as writer:
        for count in range(1, 40):
            append(writer, 5)
            with rs.open(path) as reader:
                for buffer in (reader, writer):
                    low, high = max(0, 5 * count - 20), 5 * count
                    assert (
                        buffer["action"][:].tolist()
                        == buffer["observation"][:][:, 0].tolist()
                        == list(range(low, high))
                    )
                    check(buffer.sampler(64, seed=count).sample(), low, high)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_was_decoded_ahead_may_leave_the_ring(tmp_path: Path, prefetch: int) -> None:
    path = tmp_path / "a.zarr"
    with rs.create(path, rs.Schema(FIELDS), capacity=6000, storage=CODED, durability="none") as writer:
        append(writer, 6000)
        with rs.open(path) as reader:
            sampler = reader.sampler(32, order="epoch", seed=0, prefetch=prefetch, slab_bytes=100 * 16 * 24)
            for refreshes in range(1, 5):
                for _ in range(30):
                    sampler.sample()
                append(writer, 6000)
                assert sampler.refresh()
                assert sampler.epoch == refreshes
                seen = np.concatenate([batch["action"] for batch in sampler])
                assert sorted(seen.tolist()) == list(range(6000 * refreshes, 6000 * refreshes + 6000))
                sampler.load_state_dict(sampler.state_dict() | {"epoch": refreshes, "batch": 0})


def test_a_sampler_that_nobody_has_any_more_ends_its_thread(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS), storage=CODED) as writer:
        append(writer, 1000)
        sampler = writer.sampler(32, prefetch=3)
        sampler.sample()
        assert sampler._thread is not None
        thread = sampler._thread._thread
        del sampler
        thread.join(5)
        assert not thread.is_alive()
