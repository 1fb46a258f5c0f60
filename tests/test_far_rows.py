"""Rows of stores that are far away: what is asked of the storage, and how often one waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from far_stores import CODED, SCHEMA, STEPS, make, since, steps

import replaystore as rs
from replaystore.errors import ConflictError, CorruptError, EvictedError
from replaystore.sampling.sampler import AHEAD, FAR_AHEAD
from replaystore.testing.far import Asked, far_disk


@pytest.fixture
def asked() -> Iterator[Asked]:
    with far_disk() as found:
        yield found


@pytest.fixture(params=["raw", "coded", "archive"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any], str]:
    place = tmp_path / "a.zarr"
    options = {"raw": {}, "coded": {"storage": CODED}, "archive": {"layout": "archive"}}
    return place, make(place, **options[request.param]), request.param


def test_values_are_those_that_were_written(store: Any, asked: Asked) -> None:
    place, columns, _ = store
    rows = np.random.default_rng(1).integers(0, STEPS, 300)
    with rs.open(place) as buffer:
        for wanted in (rows, slice(1000, 2500), slice(19_990, None), slice(0, 0), [3, 1, 1]):
            found = buffer.read(wanted)
            for name, values in columns.items():
                assert np.array_equal(found[name], values[wanted])
                assert np.array_equal(buffer[name][wanted], values[wanted])
        assert np.array_equal(buffer.trajectory(3)["action"], columns["action"][3000:4000])
        mean = buffer.statistics("observation")["observation"].mean
        assert np.allclose(mean, columns["observation"].mean(0, np.float64))


def test_rows_of_all_fields_are_asked_for_at_once(store: Any, asked: Asked) -> None:
    place, _, _ = store
    rows = np.random.default_rng(1).integers(0, STEPS, 256)
    with rs.open(place) as buffer:
        buffer.trajectory(9)  # which reads tables, too
        since(asked)
        buffer.read(rows)
        # raw: ranges, and whether the store has gone back; coded: indexes of shards and chunks, at most.
        assert asked.rounds <= 2
        since(asked)
        buffer.trajectory(2)
        assert asked.rounds <= 2


def test_a_batch_takes_two_rounds(store: Any, asked: Asked) -> None:
    place, _, kind = store
    with rs.open(place) as buffer:
        sampler = buffer.sampler(256, seed=0, prefetch=0)
        since(asked)
        batch = sampler.sample()
        assert asked.rounds <= 2
        with rs.open(place) as again:
            expected = again.sampler(256, seed=0, prefetch=0).sample()
        with_prefetch = buffer.sampler(256, seed=0)
        for name, values in with_prefetch.sample().items():
            assert np.array_equal(values, batch[name])
            assert np.array_equal(values, expected[name])
        assert with_prefetch.prefetch == (FAR_AHEAD if kind == "raw" else AHEAD)
        with_prefetch.close()


@pytest.mark.parametrize("order", ["uniform", "epoch"])
def test_batches_that_are_made_ahead_are_fetched_many_at_a_time(store: Any, order: Any, asked: Asked) -> None:
    place, _, _ = store
    with rs.open(place) as buffer:
        one_by_one = buffer.sampler(256, order=order, seed=5, prefetch=0)
        sampler = buffer.sampler(256, order=order, seed=5)
        for number in range(60):
            if number == 30:
                since(asked)
            found, expected = sampler.sample(), one_by_one.sample()
            assert all(np.array_equal(found[name], values) for name, values in expected.items())
        sampler.close()
        single = 2 * 30  # rounds of the one whose batches are not made ahead
        assert asked.rounds <= single + 16


@pytest.mark.parametrize(
    "settings",
    [
        {"n_step": 3},
        {"fragment_length": 8},
        {"frame_stack": 4},
        {"order": "epoch"},
        {"order": "trajectory"},
        {"weights": np.ones(STEPS)},
    ],
    ids=str,
)
def test_every_way_of_sampling_gives_what_it_gives_near(store: Any, settings: Any) -> None:
    place, _, _ = store
    with rs.open(place) as near:
        expected = [near.sampler(64, seed=3, **settings, prefetch=0).sample() for _ in range(2)]
    with far_disk(), rs.open(place) as far:
        for batch in expected:
            found = far.sampler(64, seed=3, **settings, prefetch=0).sample()
            assert found.keys() == batch.keys()
            assert all(np.array_equal(found[name], values) for name, values in batch.items())


def test_few_rows_of_coded_fields_bring_their_chunks_only(tmp_path: Path, asked: Asked) -> None:
    place = tmp_path / "a.zarr"
    columns = make(place, storage=CODED)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    with rs.open(place) as buffer:
        buffer["observation"][:1]
        since(asked)
        found = buffer["observation"][5000:5200]  # 1 %
        assert np.array_equal(found, columns["observation"][5000:5200])
        assert asked.rounds <= 2
        assert asked.bytes < size / 20


def test_a_column_is_opened_without_asking(tmp_path: Path, asked: Asked) -> None:
    make(tmp_path / "a.zarr")
    with rs.open(tmp_path / "a.zarr") as buffer:
        since(asked)
        buffer.store.column("steps/reward")
        assert not any(name.startswith("steps/") for name in asked.names)


def test_scans_ask_for_what_comes_next(store: Any, asked: Asked) -> None:
    """As many rounds as for one request would be as many waits for the network."""
    place, columns, kind = store
    with rs.open(place) as buffer:
        buffer.read([0])
        since(asked)
        for begin in range(0, STEPS, 500):
            found = buffer["observation"][begin : begin + 500]
            assert np.array_equal(found, columns["observation"][begin : begin + 500])
        names = {name for name in asked.names if name.startswith("steps/")}
        fetched = sum(asked.names[name] for name in names)
        checks = STEPS // 500 if kind == "raw" else 0
        assert asked.rounds - checks <= 12
        assert fetched <= STEPS // 500 + 90


def test_a_rollback_is_a_conflict_and_no_rows_of_another_history(tmp_path: Path, asked: Asked) -> None:
    place = tmp_path / "a.zarr"
    columns = make(place, 4000)
    with rs.open(place, "r+") as writer:
        writer.append(steps(1000, 7), final_observation=np.zeros((1, 17), np.float32))
        commit = writer.commit_id
        writer.commit()
        newer = writer.commit_id
        assert newer > commit
        with rs.open(place) as reader:
            sampler = reader.sampler(64, prefetch=0, seed=0)
            sampler.sample()
            writer.rollback(commit)
            writer.append(steps(1000, 8), final_observation=np.zeros((1, 17), np.float32))
            writer.commit()
            for read in (
                lambda: reader.read([4500, 4600]),
                lambda: reader["reward"][4200:4300],
                lambda: reader["reward"][[1, 2]],
                sampler.sample,
            ):
                with pytest.raises(ConflictError):
                    read()
            assert reader.refresh()
            assert np.array_equal(reader["action"][4000:], steps(1000, 8)["action"])
            assert np.array_equal(reader["action"][:4000], columns["action"])


def test_raw_rows_beside_coded_ones_are_not_of_another_history(tmp_path: Path, asked: Asked) -> None:
    place, finals = tmp_path / "a.zarr", np.zeros((1, 17), np.float32)
    make(place, 4000, storage={"observation": CODED["observation"]})
    with rs.open(place, "r+") as writer:
        before = writer.commit_id
        writer.append(steps(1000, 7), final_observation=finals)
        writer.commit()
        with rs.open(place) as reader:
            for begin in range(0, 3000, 500):  # in order, so that more is read than is asked for
                reader.read(slice(begin, begin + 500))
            writer.rollback(before)
            writer.append(steps(1000, 8), final_observation=finals)
            writer.commit()
            for wanted in ([1, 2], slice(4000, 5000), slice(4000, 4010), [4700]):
                with pytest.raises(ConflictError):
                    reader.read(wanted, ["observation", "reward"])
            assert reader.refresh()
            found = reader.read(slice(4000, None))
            assert all(np.array_equal(found[name], values) for name, values in steps(1000, 8).items())


def test_rows_that_a_ring_has_dropped_are_evicted(tmp_path: Path, asked: Asked) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, SCHEMA, capacity=8192) as writer:
        for seed in range(10):
            writer.append(steps(1000, seed), final_observation=np.zeros((1, 17), np.float32))
        writer.commit()
        with rs.open(place) as reader:
            sampler = reader.sampler(64, prefetch=0, seed=0)
            for seed in range(30):
                writer.append(steps(1000, seed), final_observation=np.zeros((1, 17), np.float32))
            writer.commit()
            for read in (lambda: reader.read([0, 5, 900]), lambda: reader["reward"][:100], sampler.sample):
                with pytest.raises(EvictedError):
                    read()
            assert reader.refresh()
            reader.read([0])


def test_a_file_that_is_missing_or_cut_is_told(tmp_path: Path, asked: Asked) -> None:
    for name, spoil in {
        "missing": lambda file: file.unlink(),
        "cut": lambda file: file.write_bytes(file.read_bytes()[:5000]),
    }.items():
        place = tmp_path / f"{name}.zarr"
        make(place)
        spoil(place / "steps/observation/c.0.0")
        with rs.open(place) as buffer:
            with pytest.raises(CorruptError, match="observation"):
                buffer.read([STEPS - 1])
            assert np.array_equal(buffer["reward"][:10], steps(STEPS)["reward"][:10])


def test_a_log_that_has_gone_on_is_read_once(tmp_path: Path, asked: Asked) -> None:
    make(tmp_path / "a.zarr")
    with rs.open(tmp_path / "a.zarr", "r+") as writer, rs.open(tmp_path / "a.zarr") as reader:
        base = writer.commit()
        writer.append(steps(64), final_observation=np.zeros((1, 17), np.float32))
        writer.commit()
        writer.publish()
        costs = []
        for _ in range(3):
            since(asked)
            reader["reward"][:100]
            costs.append(asked.requests)
        assert costs[1] == costs[2] < costs[0]
        writer.rollback(base)
        with pytest.raises(ConflictError):
            reader["reward"][:100]
