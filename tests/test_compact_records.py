"""Records of the commit log say what is new, in few bytes, and mean everything."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.differences import NO_NUMBERS, difference, summed
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import decode_records
from replaystore.containers.records import encode_record, open_payload, whole_records
from replaystore.errors import CorruptError
from replaystore.trajectories.opened import Open, followed, from_numbers, to_numbers

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FEW = st.integers(-3, 3)


@st.composite
def tables(draw: st.DrawFn, rows: int) -> np.ndarray[Any, Any]:
    """A table of numbers, whose first row names its columns."""
    keys = sorted(draw(st.sets(st.integers(0, 9), max_size=6)))
    if not keys:
        return NO_NUMBERS
    numbers = draw(
        arrays.arrays(np.int64, (rows - 1, len(keys)), elements=draw(st.sampled_from([INT64, FEW])))
    )
    return np.concatenate([np.array([keys], np.int64), numbers])


@given(st.data(), st.integers(1, 5))
def test_a_table_of_numbers_comes_back_from_its_difference(data: st.DataObject, rows: int) -> None:
    before, now = data.draw(tables(rows)), data.draw(tables(rows))
    for known in (before, now, NO_NUMBERS):
        found = summed(difference(now, known), known)
        assert found.dtype == np.int64
        assert found.tolist() == now.tolist()


@given(st.data(), st.integers(1, 4))
def test_no_other_bytes_are_a_difference_of_another_length(data: st.DataObject, rows: int) -> None:
    before, now = data.draw(tables(rows)), data.draw(tables(rows))
    told = difference(now, before)
    for wrong in (told[:-1], told + b"\0"):
        with pytest.raises((ValueError, IndexError, struct.error)):
            summed(wrong, before)


def steps(envs: int, number: int) -> dict[str, Any]:
    return {
        "observation": np.full((envs, 4), number, np.float32),
        "action": np.arange(envs),
        "reward": np.linspace(0.1, 1.7, envs).astype(np.float32) + np.float32(number),
        "terminated": np.zeros(envs, np.bool_),
        "truncated": np.zeros(envs, np.bool_),
    }


SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (4,), "observation"),
        "action": rs.Field("int64", (), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


def recorded(place: Path, *, envs: int, commits: int, capacity: int | None = None) -> rs.Buffer:
    """A buffer in which each vector step has a commit, and no trajectory ends."""
    buffer = rs.create(place, SCHEMA, capacity=capacity, durability="none")
    writer = buffer.writer(envs)
    writer.reset(np.zeros((envs, 4), np.float32))
    for number in range(commits):
        writer.step(**steps(envs, number))
        buffer.commit()
    return buffer


def payloads(store: StoreReader) -> Iterator[tuple[int, dict[str, Any], dict[str, bytes]]]:
    """(bytes, JSON, blobs) of the records of the newest segment, as they are written."""
    last = 0
    for payload, end in whole_records(store.container.read_segment(store.state.base)):
        yield end - last, *open_payload(payload)
        last = end


@pytest.mark.parametrize("capacity", [None, 10_000])
def test_a_plain_commit_takes_250_bytes_beside_what_it_carries(tmp_path: Path, capacity: int | None) -> None:
    buffer = recorded(tmp_path / "a.zarr", envs=8, commits=300, capacity=capacity)
    sizes = [
        size - sum(len(blob) for name, blob in blobs.items() if name.startswith("keep:"))
        for size, meta, blobs in payloads(buffer.store)
        if not meta.get("base") and not any(name.startswith("rows:") for name in blobs)
    ]
    assert len(buffer.open_trajectories()) == 8
    assert len(sizes) > 100
    assert max(sizes[2:]) <= 250, sizes
    buffer.close()


def test_the_log_says_what_its_writer_knows(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=64) as buffer:
        writer = buffer.writer(3)
        reader = rs.open(tmp_path / "a.zarr")
        writer.reset(np.zeros((3, 4), np.float32))
        rng = np.random.default_rng(0)
        for number in range(60):
            columns = steps(3, number)
            columns["terminated"] = rng.random(3) < 0.2
            writer.step(**columns)
            if columns["terminated"].any():
                writer.reset(np.zeros((3, 4), np.float32), mask=columns["terminated"])
            if number % 3 == 0:
                buffer.commit()
                reader.refresh()
                known, seen = buffer.store.state, reader.store.state
                loaded = StoreReader.load(reader.store.container)
                for name in ("commit", "time", "lengths", "first", "partial", "attached", "arrays", "gone"):
                    assert getattr(known, name) == getattr(seen, name) == getattr(loaded, name), name
                assert known.extra["open"].tolist() == seen.extra["open"].tolist()
                assert loaded.extra["open"].tolist() == seen.extra["open"].tolist()
                shown = [(entry.env, entry.length, entry.returned) for entry in reader.open_trajectories()]
                assert shown == [(e.env, e.length, e.returned) for e in buffer.open_trajectories()]
        reader.close()


def test_open_trajectories_are_numbers_and_come_back() -> None:
    entries = [
        Open(7, 2, -1, 0, returned=0.1, part_start=3, part_length=4, stride=8, offset=5, truncated=True),
        Open(6, 9, 1 << 40, 1, returned=float("nan"), following={"x": np.zeros(1)}),
        Open(1, 0, 3, 2, returned=float("-inf"), terminated=True),
    ]
    kept = to_numbers(entries)
    found = from_numbers(kept, components=None)
    assert [entry.trajectory for entry in found] == [1, 6, 7]
    assert followed(kept).tolist() == [False, True, False]
    for entry, was in zip(found, [entries[2], entries[1], entries[0]], strict=True):
        assert repr(entry.returned) == repr(was.returned)
        for name in ("env", "seed", "split", "part_start", "part_length", "stride", "offset"):
            assert getattr(entry, name) == getattr(was, name)
        assert (entry.terminated, entry.truncated) == (was.terminated, was.truncated)
    vector = Open(0, 0, 0, 0, returned=[1.5, -2.0])
    (again,) = from_numbers(to_numbers([vector]), components=2)
    assert again.returned == [1.5, -2.0]
    assert from_numbers(to_numbers([]), components=2) == []


@pytest.mark.parametrize(
    ("row", "value"),
    [(0, 0), (0, -1), (1, 0), (3, -1), (4, 1 << 62), (5, -1), (6, 0), (7, -5), (8, 8), (8, -1)],
)
def test_open_trajectories_that_cannot_be_are_refused(row: int, value: int) -> None:
    numbers = to_numbers([Open(1, 0, 3, 2), Open(2, 1, 3, 2)])
    numbers[row, 1] = value
    with pytest.raises(ValueError, match="open traject"):
        from_numbers(numbers, components=None)
    with pytest.raises(ValueError, match="open traject"):
        from_numbers(to_numbers([Open(1, 0, 3, 2)]), components=3)
    twice = to_numbers([Open(1, 0, 3, 2), Open(2, 0, 3, 2)])
    with pytest.raises(ValueError, match="one environment"):
        from_numbers(twice, components=None)


def test_what_writers_that_know_more_keep_is_carried_along(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    recorded(place, envs=2, commits=3).close()
    (log,) = [path for path in (place / "journal" / "log").iterdir() if path.name.isdigit()][-1:]
    newest = max(int(path.name) for path in log.parent.iterdir() if path.name.isdigit())
    log = log.with_name(str(newest))
    data = log.read_bytes()
    (payload, end), *_ = whole_records(data)
    meta, blobs = open_payload(payload)
    log.write_bytes(encode_record(meta | {"more": {"org.example.x": [1, 2]}}, blobs) + data[end:])

    with rs.open(place, mode="r+") as buffer:
        assert isinstance(buffer.store, ArrayStore)
        buffer.append(steps(4, 9))
        buffer.commit()
        buffer.store.begin_segment()
        assert buffer.store.state.more == {"org.example.x": [1, 2]}
    with rs.open(place) as buffer:
        assert buffer.store.state.more == {"org.example.x": [1, 2]}
    assert rs.verify(place).problems == []


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_conversions_and_writers_keep_what_other_software_has_put_there(tmp_path: Path, suffix: str) -> None:
    """In the document and in the log, through containers and layouts."""
    place, note = tmp_path / ("a" + suffix), {"org.example.x": [1, 2]}
    with recorded(place, envs=2, commits=3) as buffer:
        assert isinstance(buffer.store, ArrayStore)
        document = buffer.document.to_json() | note
        for section in (document["schema"], document["schema"]["fields"][0], document["layout"]):
            section.update(note)
        buffer.store.container.replace_document(document)
        buffer.store.state.more = dict(note)
        buffer.store.begin_segment()
    with rs.open(place, mode="r+") as buffer:
        buffer.add_field("info/late", rs.Field("float32", (), "info"), fill=0)
        buffer.metadata = {"a": 1}
        buffer.append({**steps(4, 9), "info/late": np.zeros(4, np.float32)})
        buffer.commit()
    other = ".h5" if suffix == ".zarr" else ".zarr"
    for target, layout in ((tmp_path / ("b" + other), "live"), (tmp_path / ("c" + suffix), "archive")):
        rs.convert(place, target, layout=layout)
        place = target
        assert rs.verify(place).problems == []
        with rs.open(place) as buffer:
            found = buffer.document.to_json()
            assert buffer.store.state.more == note
        sections = (found, found["schema"], found["schema"]["fields"][0], found["layout"])
        assert [{key: section.get(key) for key in note} for section in sections] == [note] * 4


def test_a_record_after_another_commit_than_its_own_is_refused(tmp_path: Path) -> None:
    buffer = recorded(tmp_path / "a.zarr", envs=2, commits=4)
    data = buffer.store.container.read_segment(buffer.store.state.base)
    ends = [0, *(end for _, end in whole_records(data))]
    pieces = [data[begin:end] for begin, end in pairwise(ends)]
    assert len(list(decode_records(data))) == len(pieces) > 3
    for wrong in (pieces[:1] + pieces[2:], [*pieces, pieces[-1]], pieces[1:]):
        with pytest.raises(CorruptError, match="no writer has made"):
            list(decode_records(b"".join(wrong)))
    buffer.close()
