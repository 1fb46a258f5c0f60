"""What a buffer says of itself, and what its columns tell other software."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.cli import main
from replaystore.errors import EvictedError, SchemaError, UnsupportedError
from replaystore.testing import samples

SUFFIXES = ["zarr", "h5"]
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("uint8", (4, 3, 2), "observation"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)


def rows(count: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "observation": rng.integers(0, 255, (count, 4, 3, 2), np.uint8),
        "reward": rng.normal(size=count).astype(np.float32),
        "terminated": np.arange(1, count + 1) % 10 == 0,
    }


@pytest.fixture(params=SUFFIXES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store of two commits, of 25 and 40 steps; the image is coded."""
    found = tmp_path / f"a.{request.param}"
    with rs.create(
        found,
        SCHEMA,
        storage={"observation": {"codec": "gzip:1", "chunk_rows": 8}},
        metadata={"b": 1, "a": 2},
    ) as buffer:
        buffer.append(rows(25), split="train")
        buffer.commit()
        buffer.append(rows(15, 1))
    return found


def test_a_description_is_plain_and_what_the_buffer_says_piece_by_piece(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with rs.open(place) as buffer:
        found = buffer.describe()
        assert (found.location, found.steps, found.commit) == (str(place), 40, buffer.commit_id)
        assert found.trajectories == {"count": 4, "ended": 3, "open": 1}
        assert found.ends == {"terminated": 3, "truncated": 0, "cut_off": 0}
        assert found.length == {"mean": 35 / 3, "std": float(np.std([10, 10, 15])), "min": 10, "max": 15}
        assert found.returns is not None
        assert found.returns["max"] == float(buffer.trajectories["return"][:3].max())
        assert found.splits == {"train": 3}
        assert found.metadata == ["a", "b"]
        assert [(field.name, field.shape, field.codec) for field in found.fields] == [
            ("observation", [4, 3, 2], "gzip:1"),
            ("reward", [], "raw"),
            ("terminated", [], "raw"),
        ]
        assert [field.bytes for field in found.fields] == [40 * 24, 160, 40]
        assert found.disk_bytes > 0
        assert [commit.steps for commit in buffer.commits()][-2:] == [25, 40]
        assert buffer.commits()[-1].commit == buffer.commit_id
        plain = found.to_json()
    assert json.loads(json.dumps(plain)) == plain
    with pytest.raises(SystemExit):
        main(["info", str(place), "--json"])
    assert json.loads(capsys.readouterr().out) == plain


def test_columns_are_indexed_by_steps_and_by_what_these_hold(place: Path) -> None:
    with rs.open(place) as buffer:
        column, whole = buffer["observation"], buffer["observation"][:]
        assert (column.shape, column.ndim, column.size) == (whole.shape, whole.ndim, whole.size)
        assert column.chunks == (8, 4, 3, 2)
        keys: list[Any] = [
            *(3, -1, slice(2, 30, 3), [5, 1, 1], np.array([True] * 40)),
            *(
                (slice(None), 0),
                (slice(4, 20), slice(1, 3), 0, -1),
                (7, 1),
                (7, 1, 2, 0),
                ([3, 1], slice(None), 2),
                (2, [0, 3]),
            ),
            *(..., (..., 0), (3, ...), (slice(0, 9), ..., 1), (slice(None), [0, 3]), ()),
        ]
        for key in keys:
            expected = whole[tuple(key) if isinstance(key, tuple) else key]
            found = column[key]
            assert np.array_equal(found, expected), key
            assert np.asarray(found).dtype == whole.dtype
        assert buffer["reward"][..., 3:5].tolist() == buffer["reward"][3:5].tolist()
        for wrong, error in (
            *(
                ((None, 0), SchemaError),
                ((0, 0, 0, 0, 0), IndexError),
                ((..., ...), SchemaError),
                (([0, 1], [0, 1]), SchemaError),
            ),
            *(((0, 9), IndexError), (40, IndexError), ((slice(None), 7), IndexError)),
        ):
            with pytest.raises(error, match="observation"):
                column[wrong]


def test_arrays_are_made_of_columns_by_copying_and_only_so(place: Path) -> None:
    with rs.open(place) as buffer:
        column = buffer["reward"]
        assert np.asarray(column, np.float64).dtype == np.float64
        assert np.array(column, copy=True).tolist() == column[:].tolist()
        with pytest.raises(ValueError, match="'reward' is read into new memory"):
            np.asarray(column, copy=False)


def test_a_column_is_sent_to_another_process_as_of_its_commit(place: Path) -> None:
    with rs.open(place, commit=1) as buffer:
        sent, expected = pickle.dumps(buffer["observation"]), buffer["observation"][:]
    with rs.open(place, "r+") as buffer:
        buffer.append(rows(9, 3))
    found = pickle.loads(sent)
    assert np.array_equal(found[:], expected)
    program = "import pickle, sys; print(int(pickle.load(sys.stdin.buffer)[:].sum()))"
    answer = subprocess.run(
        [sys.executable, "-c", program], input=sent, capture_output=True, check=True
    ).stdout
    assert int(answer) == int(expected.sum())


def test_a_relative_location_is_described_and_sent_from_wherever_the_process_has_gone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with rs.open(place.name) as buffer:
        size, expected = buffer.describe().disk_bytes, buffer["reward"][:]
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert buffer.describe().disk_bytes == size > 0
        assert np.array_equal(pickle.loads(pickle.dumps(buffer["reward"]))[:], expected)


def test_what_cannot_be_sent_says_so(tmp_path: Path) -> None:
    with (
        rs.create("memory:sent", SCHEMA) as buffer,
        pytest.raises(UnsupportedError, match="memory of this process"),
    ):
        pickle.dumps(buffer["reward"])
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=20) as buffer:
        buffer.append(rows(10))
        buffer.commit()
        sent = pickle.dumps(buffer["reward"])
        buffer.append(rows(5000))
    with pytest.raises(EvictedError):
        pickle.loads(sent)


def test_going_through_a_buffer_says_what_could_be_meant(place: Path) -> None:
    with rs.open(place) as buffer, pytest.raises(TypeError, match=r"buffer\.trajectories"):
        iter(buffer)


def test_samples_of_every_kind_are_described(tmp_path: Path) -> None:
    schema = samples.small()
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        assert buffer.describe().length is None
        buffer.append(samples.columns(schema, 30, 1))
        buffer.commit()
        assert json.dumps(buffer.describe().to_json())


def test_dask_computes_on_two_processes_what_statistics_say(place: Path) -> None:
    from dask import array

    with rs.open(place) as buffer:
        column, known = buffer["observation"], buffer.statistics()["observation"]
        lazy = array.from_array(column, chunks=column.chunks)
        assert lazy.chunks[0] == (8,) * 5
        mean, largest = lazy.mean(axis=0), lazy.max(axis=0)
        found = [one.compute(scheduler="processes", num_workers=2) for one in (mean, largest, lazy[3:20, 1])]
        assert np.allclose(found[0], known.mean)
        assert np.array_equal(found[1], known.max)
        assert np.array_equal(found[2], column[3:20, 1])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_software_computes_on_lengths_and_is_told_where_there_is_no_array(
    suffix: str, tmp_path: Path
) -> None:
    from dask import array

    fields = {"action": rs.Field("int32", (None,), "action"), "info": rs.Field.of_text("info")}
    with rs.create(tmp_path / f"a.{suffix}", rs.Schema(fields)) as buffer:
        buffer.append({"action": [[1, 2], [], [3] * 9], "info": ["a", "é", ""]})
        buffer.commit()
        lazy = array.from_array(buffer["action"].lengths, chunks=2)
        assert (lazy.dtype, lazy.shape) == (np.int64, (3,))
        assert lazy.sum().compute(scheduler="processes", num_workers=2) == 11
        assert pickle.loads(pickle.dumps(buffer["info"].lengths))[:].tolist() == [1, 2, 0]
        for name in fields:
            with pytest.raises(TypeError, match="to_padded"):
                array.from_array(buffer[name], chunks=2).compute()


def test_going_through_a_column_does_not_end_where_a_ring_has_dropped_rows(tmp_path: Path) -> None:
    """An EvictedError is an IndexError, which Python takes for the end of what has no iterator of its own."""
    schema = rs.Schema({"reward": rs.Field("float32", (1024,), "reward")})
    rows = np.arange(600, dtype=np.float32).repeat(1024).reshape(600, 1024)
    with rs.create(tmp_path / "a.zarr", schema, capacity=64, storage={"reward": {"codec": "zstd:1"}}) as ring:
        ring.append({"reward": rows[:64]})
        ring.commit()
        with rs.open(tmp_path / "a.zarr") as reader:
            for start in range(64, 600, 64):
                ring.append({"reward": rows[start : start + 64]})
                ring.commit()
            with pytest.raises(EvictedError):
                list(reader["reward"])
            reader.refresh()
            assert [row[0] for row in reader["reward"]] == list(range(536, 600))
