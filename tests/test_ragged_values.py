"""Reading values of any length: from files that are mapped, read, decoded or far away, and never where none
of the commit are; and the disk of a ring whose steps have values of any length."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.columns import mapped, values
from replaystore.columns.values import Values
from replaystore.errors import CorruptError, EvictedError
from replaystore.schema.ragged import Ragged
from replaystore.testing.far import far_disk

SCHEMA = rs.Schema(
    {
        "text": rs.Field.of_text("extra"),
        "tokens": rs.Field("int32", (None,), "extra"),
        "points": rs.Field("float64", (None, 2), "extra"),
        "frames": rs.Field("uint8", (None, 72, 64), "extra"),
        "at": rs.Field("int64", (), "extra"),
    }
)
STEPS = 600


def columns(count: int = STEPS, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    lengths = random.choice([0, 1, 2, 9, 150, 3000], count, p=[0.2, 0.2, 0.2, 0.2, 0.19, 0.01])
    return {
        "text": ["é" * int(n) + "x" for n in lengths],
        "tokens": [random.integers(0, 99, n, np.int32) for n in lengths],
        "points": [random.random((n, 2)) for n in lengths // 2],
        "frames": [random.integers(0, 255, (min(n, 3), 72, 64), np.uint8) for n in lengths],
        "at": np.arange(count),
    }


@contextlib.contextmanager
def nothing_mapped() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mapped, "_mapping_works", lambda: False)
        yield


WAYS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "mapped": ("a.zarr", {}, contextlib.nullcontext),
    "read": ("a.zarr", {}, nothing_mapped),
    "decoded": ("a.zarr", {"layout": "archive"}, contextlib.nullcontext),
    "far": ("a.zarr", {}, far_disk),
    "far, decoded": ("a.zarr", {"layout": "archive"}, far_disk),
    "hdf5": ("a.h5", {}, contextlib.nullcontext),
    "hdf5, decoded": ("a.h5", {"layout": "archive"}, contextlib.nullcontext),
    "far hdf5": ("a.h5", {}, far_disk),
}


@pytest.mark.parametrize("way", WAYS)
def test_values_are_read_in_any_order_wherever_they_lie(tmp_path: Path, way: str) -> None:
    name, options, reading = WAYS[way]
    rows, random = columns(), np.random.default_rng(3)
    with rs.create(tmp_path / name, SCHEMA, **options) as buffer:
        for start in range(0, STEPS, 50):
            buffer.append({key: part[start : start + 50] for key, part in rows.items()})
        buffer.commit()
    with reading(), rs.open(tmp_path / name) as buffer:
        for field, declared in SCHEMA.ragged.items():
            whole = Ragged.of(rows[field], declared.dtype, declared.inner, text=declared.text)
            assert buffer[field][:] == whole
            for chosen in (
                random.integers(0, STEPS, 64),
                np.arange(5, 200, 7),
                np.array([STEPS - 1, 0, 0]),
                np.empty(0, np.int64),
            ):
                assert buffer[field][chosen] == whole[chosen]
            assert buffer.read(slice(100, 103))[field] == whole[100:103]


def test_few_rounds_are_asked_for_of_values_that_are_far(tmp_path: Path) -> None:
    rows = columns()
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(rows)
    with far_disk() as asked, rs.open(tmp_path / "a.zarr") as buffer:
        buffer["tokens"][0]
        asked.rounds = 0
        found = buffer["tokens"][np.random.default_rng(0).integers(0, STEPS, 64)]
        assert len(found) == 64
        assert asked.rounds <= 4  # spans and values, and after each whether the store has gone on


def small(tmp_path: Path) -> tuple[rs.Buffer, Values]:
    buffer = rs.create(tmp_path / "a.zarr", SCHEMA.select(["tokens"]))
    buffer.append({"tokens": [np.arange(60, dtype=np.int32)]})
    buffer.commit()
    column = buffer.values_of("tokens").column
    return buffer, Values(column, SCHEMA.fields["tokens"], first=10)


@pytest.mark.parametrize(
    "span",
    [(9, 12), (0, 1), (50, 61), (60, 61), (20, 19), (-1, 20), (12, -3), (1 << 61, 1 << 62), (-(1 << 63), 60)],
)
def test_what_is_not_there_is_not_read(tmp_path: Path, span: tuple[int, int]) -> None:
    buffer, found = small(tmp_path)
    good = [[10, 12], [20, 20], [0, 0], [99, 99], [59, 60]]
    assert found.take(np.array(good)).tolist() == [[10, 11], [], [], [], [59]]
    for spans in ([span], [*good, span], [span, *good], [[0, 0], span]):
        with pytest.raises(CorruptError, match="tokens has steps with values"):
            found.take(np.array(spans, np.int64))
        with pytest.raises(CorruptError):
            found.wanted(np.array(spans, np.int64))
    buffer.close()


def test_values_are_arranged_as_is_said(tmp_path: Path) -> None:
    buffer, found = small(tmp_path)
    spans = np.array([[[10, 11], [12, 14]], [[0, 0], [30, 33]]])
    assert found.take(spans).lead == (2, 2)
    assert found.take(spans, lead=(4,)).tolist() == [[10], [12, 13], [], [30, 31, 32]]
    assert found.take(np.empty((0, 2), np.int64)).lead == (0,)
    taken = found.take(np.array([[10, 60]]))
    taken.values[:] = 0
    assert found.take(np.array([[10, 11]])).tolist() == [[10]]  # what is taken is new memory
    buffer.close()


def test_values_that_lie_in_each_other_are_refused_where_they_are_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, found = small(tmp_path)
    monkeypatch.setattr(values, "WIDE", 400)
    assert len(found.take(np.array([[10, 60]] * 9))) == 9  # the same step, asked for again
    assert len(found.take(np.array([[10, 20], [15, 25]]))) == 2  # which is little
    with pytest.raises(CorruptError, match="in each other"):
        found.take(np.array([[10, 60], [11, 60], [12, 60]]))
    monkeypatch.setattr(values, "MOST_BYTES", 199)
    with pytest.raises(CorruptError, match="a value of 200 bytes"):
        found.take(np.array([[10, 60]]))
    buffer.close()


# --- the disk of a ring

CAPACITY = 2000


def taken(folder: Path) -> int:
    return sum(os.stat(folder / path).st_blocks * 512 for path in os.listdir(folder) if path != "zarr.json")


@pytest.mark.parametrize("mean", [3, 200])
def test_a_ring_takes_what_its_steps_take(tmp_path: Path, mean: int) -> None:
    """`mean` numbers a value: the files are those of the window, and at most one shard more."""
    random, schema = np.random.default_rng(mean), SCHEMA.select(["tokens", "at"])
    with rs.create(tmp_path / "a.zarr", schema, capacity=CAPACITY, durability="none") as buffer:
        spec = buffer.store.spec("values/tokens")
        written = 0
        for turn in range(120):
            lengths = random.integers(0, 2 * mean, 100)
            buffer.append({"tokens": [np.full(n, turn, np.int32) for n in lengths], "at": np.full(100, turn)})
            buffer.commit()
            written += int(lengths.sum())
        window = int(buffer["tokens"].lengths[:].sum())
        assert written > 4 * window
        assert buffer.store.first("values/tokens") == written - window
        shard = spec.shard_rows * 4 + 4096
        assert taken(tmp_path / "a.zarr" / "values" / "tokens") <= 1.25 * 4 * window + 2 * shard
        assert [set(one.tolist()) for one in buffer["tokens"][::100]] == [
            {turn} if len(buffer["tokens"][100 * place]) else set()
            for place, turn in enumerate(range(100, 120))
        ]
    assert rs.verify(tmp_path / "a.zarr").problems == []


def test_what_values_take_is_told(tmp_path: Path) -> None:
    schema = SCHEMA.select(["tokens", "at"])
    given = {"tokens": [np.zeros(500, np.int32)] * 10, "at": np.arange(10)}
    with rs.create(tmp_path / "a.zarr", schema, capacity=10) as buffer:
        buffer.append(given)
        buffer.commit("kept")
        buffer.append(given)
        buffer.commit()
        told, plain = buffer.describe().fields
        assert (told.shape, told.bytes, told.stored_bytes) == ([None], 10 * (16 + 2000), 10 * (16 + 2000))
        assert (plain.shape, plain.bytes) == ([], 80)
        ring = buffer.describe().ring
        assert ring is not None
        assert (ring["kept_for_names"], ring["kept_bytes"]) == (10, 10 * (16 + 2000 + 8))


def test_a_named_commit_keeps_the_values_of_its_steps(tmp_path: Path) -> None:
    schema = SCHEMA.select(["tokens", "at"])
    given = {"tokens": [np.full(500, n, np.int32) for n in range(100)], "at": np.arange(100)}
    with rs.create(tmp_path / "a.zarr", schema, capacity=100) as buffer:
        buffer.append(given)
        buffer.commit("kept")
        for _ in range(30):
            buffer.append(given)
            buffer.commit()
        with rs.open(tmp_path / "a.zarr", commit="kept") as kept:
            assert kept["tokens"][7].tolist() == [7] * 500
        older = buffer.commits()[-1].commit - 1
        reader = rs.open(tmp_path / "a.zarr")
        buffer.forget("kept")
        buffer.append(given)
        buffer.commit()
        assert buffer.store.state.needed("values/tokens") == buffer.store.first("values/tokens")
        with pytest.raises(EvictedError):
            rs.open(tmp_path / "a.zarr", commit=older)
        with contextlib.suppress(EvictedError):  # values, or that they have left: never others
            assert reader["tokens"][7].tolist() == [7] * 500
        reader.refresh()
        assert reader["tokens"][7].tolist() == [7] * 500
        reader.close()
        buffer.rollback(buffer.commit_id)
    assert rs.verify(tmp_path / "a.zarr").problems == []
