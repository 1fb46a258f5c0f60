"""Decoded chunks that are kept on the local disk (`open(cache=N)`)."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from far_stores import CODED, STEPS, make, since, steps

import replaystore as rs
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.errors import ArgumentError, ConflictError, CorruptError, ReplayStoreWarning
from replaystore.testing.far import Asked, far_disk

ROOM = 1 << 30
KINDS: dict[str, dict[str, Any]] = {"raw": {}, "coded": {"storage": CODED}, "archive": {"layout": "archive"}}


@pytest.fixture
def asked() -> Iterator[Asked]:
    with far_disk() as found:
        yield found


def chunk(number: int, size: int = 1000) -> np.ndarray[Any, Any]:
    return np.full(size, number % 251, np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_epoch_asks_for_nothing(kind: str, tmp_path: Path, asked: Asked) -> None:
    columns = make(tmp_path / "a.zarr", **KINDS[kind])
    with rs.open(tmp_path / "a.zarr", cache=ROOM) as buffer:
        sampler = buffer.sampler(256, order="epoch", seed=0, prefetch=0, slab_bytes=1)
        seen = np.sort(np.concatenate([batch["reward"] for batch in sampler]))
        assert np.array_equal(seen, np.sort(columns["reward"]))
        since(asked)
        list(sampler)
        for name, values in columns.items():
            assert np.array_equal(buffer[name][:], values)
            assert np.array_equal(buffer[name][[5, 3, STEPS - 1]], values[[5, 3, STEPS - 1]])
        assert asked.requests == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_cache_keeps_what_came_last_and_values_stay_right(
    kind: str, tmp_path: Path, asked: Asked
) -> None:
    columns = make(tmp_path / "a.zarr", **KINDS[kind])
    rows = np.random.default_rng(0).integers(0, STEPS, 200)
    with rs.open(tmp_path / "a.zarr", cache=700_000) as buffer:
        for _ in range(3):
            for name, values in columns.items():
                assert np.array_equal(buffer[name][:], values)
                assert np.array_equal(buffer[name][rows], values[rows])


def test_raw_rows_are_compared_with_their_checksums(tmp_path: Path, asked: Asked) -> None:
    place = tmp_path / "a.zarr"
    make(place)
    file = place / "steps/observation/c.0.0"
    data = bytearray(file.read_bytes())
    data[200_000] ^= 1
    file.write_bytes(data)
    with rs.open(place, cache=ROOM) as buffer, pytest.raises(CorruptError, match="observation"):
        buffer["observation"][:10]


def test_a_rollback_is_noticed_where_it_matters(tmp_path: Path, asked: Asked) -> None:
    place, final = tmp_path / "a.zarr", np.zeros((1, 17), np.float32)
    columns = make(place)
    with rs.open(place, "r+") as writer:
        before = writer.commit_id
        writer.append(steps(20_000, 7), final_observation=np.zeros((20, 17), np.float32))
        writer.commit()
        with rs.open(place, cache=ROOM) as reader:
            reader["observation"][:STEPS]
            writer.rollback(before)
            writer.append(steps(1000, 8), final_observation=final)
            writer.commit()
            with pytest.raises(ConflictError):
                reader["observation"][STEPS:]
            assert reader.refresh()
            assert np.array_equal(reader["observation"][STEPS:], steps(1000, 8)["observation"])
            assert np.array_equal(reader["observation"][:STEPS], columns["observation"])


def test_threads_share_it(tmp_path: Path, asked: Asked) -> None:
    columns = make(tmp_path / "a.zarr", storage=CODED)
    problems: list[BaseException] = []

    def read(seed: int, buffer: rs.Buffer) -> None:
        try:
            rng = np.random.default_rng(seed)
            for _ in range(20):
                rows = rng.integers(0, STEPS, 50)
                assert np.array_equal(buffer["action"][rows], columns["action"][rows])
        except BaseException as error:  # noqa: BLE001  # told below
            problems.append(error)

    with rs.open(tmp_path / "a.zarr", cache=100_000) as buffer:
        threads = [threading.Thread(target=read, args=(seed, buffer)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "1 GB"])
def test_a_wrong_size_is_an_argument_error(wrong: Any, tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", 1000)
    with pytest.raises(ArgumentError, match="cache"):
        rs.open(tmp_path / "a.zarr", cache=wrong)


def test_a_writer_has_none(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", 1000)
    with pytest.raises(ArgumentError, match="cache"):
        rs.open(tmp_path / "a.zarr", "r+", cache=1000)


def test_pickles_do_not_carry_it(tmp_path: Path) -> None:
    columns = make(tmp_path / "a.zarr", layout="archive")
    with rs.open(tmp_path / "a.zarr", cache=ROOM) as buffer:
        other = pickle.loads(pickle.dumps(buffer["action"]))  # ours
        assert np.array_equal(other[:10], columns["action"][:10])


# --- the ring


def test_it_never_takes_more_than_its_limit_and_keeps_what_came_last() -> None:
    rng, cache, out = np.random.default_rng(0), ChunkCache(10_000), np.empty(0, np.uint8)
    sizes = {}
    for number in range(2000):
        size = int(rng.integers(1, 3000))
        cache.put(("a", number, 1), chunk(number, size))
        sizes[number] = size
        there = [known for known in sizes if ("a", known, 1) in cache]
        assert number in there
        assert there == sorted(there)
        assert sum(sizes[known] for known in there) <= 10_000
        for known in there:
            out = np.empty(sizes[known], np.uint8)
            assert cache.get(("a", known, 1), out)
            assert (out == known % 251).all()
    assert not cache.get(("a", 0, 1), out)
    cache.put(("a", 5000, 1), chunk(1, 10_001))
    assert ("a", 5000, 1) not in cache
    cache.close()
    assert not cache.get(("a", 1999, 1), out)


def test_no_name_is_left_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache = ChunkCache(10_000)
    cache.put(("a", 1, 1), chunk(1))
    assert os.listdir(tmp_path) == []
    cache.close()


def test_a_full_disk_is_told_once_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = make(tmp_path / "a.zarr", layout="archive")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with rs.open(tmp_path / "a.zarr", cache=ROOM) as buffer:
        with pytest.warns(ReplayStoreWarning, match="No space left on device"):
            assert np.array_equal(buffer["action"][:], columns["action"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(buffer["reward"][:], columns["reward"])


def test_a_forked_child_has_one_of_its_own() -> None:
    cache, out = ChunkCache(10_000), np.empty(1000, np.uint8)
    cache.put(("a", 1, 1), chunk(1))

    def child(answers: Any) -> None:
        found = cache.get(("a", 1, 1), np.empty(1000, np.uint8))
        for number in range(20):
            cache.put(("a", number, 1), chunk(99))
        answers.put((found, cache.get(("a", 19, 1), np.empty(1000, np.uint8))))

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    assert answers.get(timeout=30) == (False, True)
    process.join()
    assert cache.get(("a", 1, 1), out)
    assert (out == 1).all()
    cache.close()
    gc.collect()
