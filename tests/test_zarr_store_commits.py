"""A `zarr_store()` shows one commit for ever, or says that it cannot."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr_readers import STEPS, by_zarr, check, opened, write

import replaystore as rs
from replaystore.errors import ConflictError, CorruptError
from replaystore.schema import tree
from replaystore.testing.samples import shards_of, small, storage

pytest_plugins = ["zarr_readers"]


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5", "memory:live"])
def test_it_stays_at_its_commit(tmp_path: Path, kind: str) -> None:
    writer = opened(kind, tmp_path, small())
    name = kind if kind.startswith("memory:") else str(tmp_path / kind)
    reader = rs.open(name)
    kept = [writer.zarr_store(), reader.zarr_store()]
    assert kept[0] == kept[1]
    assert writer.zarr_store() is kept[0]

    writer.commit()
    reader.refresh()

    for store in kept:
        assert zarr.open_group(store, mode="r")["steps/reward"].shape == (STEPS,)
        assert np.array_equal(by_zarr(store, "steps/info/wide"), writer["info/wide"][:STEPS])
    for buffer in (writer, reader):
        assert buffer.zarr_store().commit_id == kept[0].commit_id + 1
        check(buffer, buffer.zarr_store(), by_zarr)
    with rs.open(name, commit=kept[0].commit_id) as pinned:
        check(pinned, kept[0], by_zarr)
        check(pinned, pinned.zarr_store(), by_zarr)
    writer.close()
    reader.close()


def test_a_ring_begins_with_the_oldest_step_that_is_kept(tmp_path: Path, small_chunks: None) -> None:
    schema = small()
    with (
        shards_of(1),
        rs.create(tmp_path / "a.zarr", schema, capacity=100, storage=storage("zstd:1")) as ring,
    ):
        for number in range(5):
            write(ring, schema, 77, number)
            ring.commit()
        store = ring.zarr_store()

        check(ring, store, by_zarr)

        assert by_zarr(store, "steps/action")[0] == ring["action"][0]
        start, length, stride, trajectory, _, _ = by_zarr(store, "parts").T
        assert start.min() == 0
        assert (start + (length - 1) * stride).max() < len(ring)
        assert set(trajectory) >= set(by_zarr(store, "trajectories/trajectory"))
        shown = zarr.open_group(store, mode="r").attrs["replaystore_shown"]
        assert shown == {"commit": ring.commit_id, "first_row": 285}


def test_what_leaves_a_ring_is_an_error_and_no_fill_value(tmp_path: Path) -> None:
    """Nor the end of an iteration, which an IndexError would be."""
    schema = small()
    with (
        shards_of(1),
        rs.create(tmp_path / "a.zarr", schema, capacity=100, storage=storage("zstd:1")) as ring,
    ):
        write(ring, schema, 100, 0)
        ring.commit()
        store = ring.zarr_store()
        group = zarr.open_group(store, mode="r")
        sent = pickle.dumps(store)
        for number in range(4):
            write(ring, schema, 100, number)
            ring.commit()
        for name in ("steps/observation/camera", "steps/info/wide"):
            with pytest.raises(ConflictError, match=r"ring|dropped"):
                group[name][:]
            with pytest.raises(ConflictError, match=r"ring|dropped"):
                list(group[name])
            with pytest.raises(ConflictError, match=r"ring|dropped"):
                by_zarr(pickle.loads(sent), name)
        check(ring, ring.zarr_store(), by_zarr)


def test_a_ring_that_goes_on_gives_what_is_still_there(tmp_path: Path) -> None:
    """Here, and where it is sent to, as long as its files are there."""
    schema = small()
    with rs.create(tmp_path / "a.zarr", schema, capacity=50_000) as ring:
        write(ring, schema, 50_000, 0)
        ring.commit()
        rows, store = ring["reward"][:], ring.zarr_store()
        write(ring, schema, 10, 1)
        ring.commit()

        assert np.array_equal(by_zarr(store, "steps/reward"), rows)
        assert np.array_equal(by_zarr(pickle.loads(pickle.dumps(store)), "steps/reward"), rows)


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5", "memory:live"])
def test_what_is_rolled_back_is_an_error_and_no_other_history(tmp_path: Path, kind: str) -> None:
    with opened(kind, tmp_path, small()) as writer:
        writer.commit()
        rows = {name: writer[name][:] for name in writer.schema.fields}
        group = zarr.open_group(writer.zarr_store(), mode="r")
        read = group["steps/action"]
        assert np.array_equal(read[:], rows["action"])

        writer.rollback(1)
        write(writer, small(), 400, 77)
        writer.commit()

        for name in writer.schema.fields:
            try:
                assert np.array_equal(group[tree.steps(name)][:], rows[name])
            except ConflictError:
                assert name != "action", "its files were open"


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5", "memory:live"])
def test_a_rollback_to_a_later_commit_changes_nothing(tmp_path: Path, kind: str) -> None:
    with opened(kind, tmp_path, small()) as writer:
        rows = {name: writer[name][:] for name in writer.schema.fields}
        store = writer.zarr_store()
        writer.commit()

        writer.rollback(store.commit_id)
        write(writer, small(), 60, 77)
        writer.commit()

        for name in writer.schema.fields:
            assert by_zarr(store, tree.steps(name)).tobytes() == rows[name].tobytes()


@pytest.mark.parametrize("kind", ["live.zarr", "live.h5"])
def test_another_store_in_its_place_is_not_taken_for_it(tmp_path: Path, kind: str) -> None:
    opened(kind, tmp_path, small()).close()
    with rs.open(tmp_path / kind) as buffer:
        store = buffer.zarr_store()
        sent = pickle.dumps(store)
        opened(kind, tmp_path, small()).close()

        with pytest.raises(ConflictError, match="another store"):
            by_zarr(pickle.loads(sent), "steps/reward")
        store.close()
        with pytest.raises(ConflictError, match="another store"):
            by_zarr(store, "steps/reward")


def test_damage_is_an_error_and_no_fill_value(tmp_path: Path) -> None:
    opened("live.zarr", tmp_path, small()).close()
    with rs.open(tmp_path / "live.zarr") as buffer:
        group = zarr.open_group(buffer.zarr_store(), mode="r")
        file = tmp_path / "live.zarr/steps/observation/camera/c.0.0.0"
        data = bytearray(file.read_bytes())
        data[-8:] = bytes(8)
        file.write_bytes(data)
        (tmp_path / "live.zarr/steps/reward/c.0").unlink()

        for name in ("observation/camera", "reward"):
            with pytest.raises(CorruptError, match="replaystore verify"):
                group[f"steps/{name}"][:]
