"""What a reader from far away shows beside a writer is what one shows that is there: while commits are made,
rolled back, dropped by a ring, published, sealed, and the store is replaced."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.buffers.buffer import Buffer
from replaystore.errors import ConflictError, CorruptError, EvictedError, NotFoundError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.far import far_disk
from replaystore.testing.samples import small, storage
from replaystore.testing.workloads import Workload, act

SCHEMA = rs.Schema(
    {
        "observation": rs.Field(np.dtype("f4"), (1024,), "observation"),
        "info/frame": rs.Field(np.dtype("u1"), (64,), "info"),
    }
)
STORAGE = {"info/frame": {"codec": "zstd:1", "chunk_rows": 8}, "observation": {"chunk_rows": 16}}


def rows(first: int, count: int = 10) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count)
    return {
        "observation": np.repeat(numbers[:, None], 1024, axis=1).astype("f4"),
        "info/frame": np.repeat(numbers[:, None], 64, axis=1).astype("u1"),
    }


def from_far(path: Path, **options: int) -> Buffer:
    with far_disk():
        return rs.open(path, **options)


def alike(far: Buffer, near: Buffer) -> None:
    assert far.commit_id == near.commit_id
    assert Contents.of(far).difference(Contents.of(near)) == ""


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_a_reader_beside_it_shows(tmp_path: Path, seed: int) -> None:
    path, moved = tmp_path / "a.zarr", 0
    work = Workload(seed, 8, capacity=60 if seed % 3 == 0 else None)
    with tiny():
        buffer = rs.create(path, small(), storage=storage("zstd:1"), capacity=work.plain.capacity)
        with from_far(path) as reader:
            for action in work.actions:
                buffer = act(buffer, action, reopen=lambda _: rs.open(path, "r+"))
                moved += reader.refresh()
                with rs.open(path) as near:
                    alike(reader, near)
                with from_far(path) as another, rs.open(path) as near:
                    alike(another, near)
                    assert another.commits() == near.commits()
        for known in buffer.commits():
            with from_far(path, commit=known.commit) as far, rs.open(path, commit=known.commit) as near:
                alike(far, near)
        buffer.close()
    assert moved
    with from_far(path) as reader, rs.open(path) as near:
        alike(reader, near)
    with far_disk():
        assert rs.verify(path).problems == []


def test_rows_that_were_rolled_back_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    buffer = rs.create(path, SCHEMA, storage=STORAGE)
    for commit in range(4):
        buffer.append(rows(10 * commit))
        buffer.commit()
    reader = from_far(path)
    assert reader["observation"][35, 0] == 35
    buffer.rollback(2)
    buffer.append(rows(500))
    buffer.commit()

    with pytest.raises(ConflictError, match="went back"):
        _ = reader["observation"][25]
    assert reader.refresh()
    assert reader["observation"][25, 0] == 505
    assert reader["info/frame"][25, 0] == 505 % 256
    reader.close()
    buffer.close()


@pytest.mark.parametrize("field", ["observation", "info/frame"])
@pytest.mark.parametrize("opened", [True, False])
def test_rows_that_a_ring_dropped_are_evicted(tmp_path: Path, field: str, opened: bool) -> None:
    path = tmp_path / "a.zarr"
    with tiny():
        buffer = rs.create(path, SCHEMA, storage=STORAGE, capacity=64)
        buffer.append(rows(0, 60))
        buffer.commit()
        reader = from_far(path)
        if opened:
            assert reader[field][0, 0] == 0
        for turn in range(12):
            buffer.append(rows(0, 60 + turn))
            buffer.commit()

        with pytest.raises(EvictedError, match="refresh"):
            _ = reader[field][20:30]
        assert reader.refresh()
        with rs.open(path) as near:
            alike(reader, near)
        reader.close()
        buffer.close()


def test_an_older_commit_is_opened_and_one_that_was_given_up_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with tiny():
        buffer = rs.create(path, SCHEMA, storage=STORAGE)
        for commit in range(5):
            buffer.append(rows(10 * commit))
            buffer.commit()
        buffer.rollback(3)
        with from_far(path, commit=2) as reader:
            assert len(reader) == 20
            assert reader["observation"][19, 0] == 19
            assert reader["info/frame"][19, 0] == 19
        with pytest.raises(NotFoundError, match="rolled back"):
            from_far(path, commit=4)
        buffer.close()


def test_a_store_that_is_sealed_meanwhile_goes_on_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with tiny():
        buffer = rs.create(path, SCHEMA, layout="archive", storage=STORAGE)
        buffer.append(rows(0, 35))
        buffer.commit()
        reader = from_far(path)
        buffer.append(rows(35, 5))
        buffer.close()
        assert reader["info/frame"][34, 0] == 34
        assert reader.refresh()
        with rs.open(path) as near:
            alike(reader, near)
        reader.close()


TAGGED = rs.Schema(
    {
        "observation": rs.Field(np.dtype("i8"), (512,), "observation"),
        "info/frame": rs.Field(np.dtype("i8"), (8,), "info"),
    }
)


def goes_on(buffer: Buffer, seed: int) -> None:
    """A writer whose rows say their number and the commit that they were written for."""
    generator = np.random.default_rng(seed)
    for _ in range(60):
        if generator.random() < 0.2 and buffer.capacity is None:
            buffer.rollback(int(generator.choice([known.commit for known in buffer.commits()][-5:])))
            continue
        count = int(generator.integers(1, 40))
        tags = np.empty((count, 2), "i8")
        tags[:, 0] = buffer.first_row + len(buffer) + np.arange(count)
        tags[:, 1] = buffer.commit_id + 1
        buffer.append({name: np.tile(tags, field.shape[0] // 2) for name, field in TAGGED.fields.items()})
        buffer.commit()


def check_tags(reader: Buffer, generator: np.random.Generator) -> None:
    """Some rows are those that the commit which is shown has."""
    state, wanted = reader.store.state, np.sort(generator.integers(0, len(reader), 20))
    for name in TAGGED.fields:
        found = reader[name][wanted]
        assert (found[:, 0] == wanted + reader.first_row).all(), name
        assert (found[:, 0::2] == found[:, :1]).all(), name
        assert (found[:, 1::2] == found[:, 1:2]).all(), name
        assert not [tag for tag in found[:, 1].tolist() if tag > state.commit or state.is_dead(tag)], name


@pytest.mark.parametrize("capacity", [None, 200])
def test_beside_a_writer_no_row_is_one_of_another_commit(tmp_path: Path, capacity: int | None) -> None:
    path, generator, right = tmp_path / "a.zarr", np.random.default_rng(0), 0
    with tiny(), ThreadPoolExecutor(1) as pool:
        buffer = rs.create(path, TAGGED, storage=STORAGE, capacity=capacity)
        goes_on(buffer, 1)
        reader = from_far(path)
        writing = pool.submit(goes_on, buffer, 2)
        while not writing.done() or not right:
            try:
                reader.refresh()
                check_tags(reader, generator)
                right += 1
            except (ConflictError, EvictedError):
                pass
        writing.result()
        reader.refresh()
        assert reader.commit_id == buffer.commit_id
        check_tags(reader, generator)
        reader.close()
        buffer.close()


@pytest.mark.parametrize("layout", ["live", "archive"])
def test_another_store_that_takes_the_name_is_not_mixed_with_it(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.zarr"
    for first in (0, 100):
        with rs.create(path, SCHEMA, layout=layout, storage=STORAGE, overwrite=bool(first)) as buffer:
            buffer.append(rows(first, 40))
        if not first:
            reader = from_far(path)

    with pytest.raises(ConflictError):
        reader.refresh()
    for field in SCHEMA.fields:
        with pytest.raises((ConflictError, CorruptError)):
            _ = reader[field][3]
    reader.close()
    with from_far(path) as reader:
        assert reader["info/frame"][3, 0] == 103
