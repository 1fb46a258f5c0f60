"""How many requests, and rounds of requests that wait for each other, it takes to open, refresh and verify a
Zarr store that is far away. They are counted, so that they are the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.testing import samples
from replaystore.testing.crashes import tiny
from replaystore.testing.far import Asked, far_disk


def cost(asked: Asked) -> tuple[int, int]:
    """(requests, rounds) since the last time."""
    found = asked.requests, asked.rounds
    asked.requests = asked.rounds = 0
    asked.names.clear()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """a.zarr, which a writer has open with unfinished chunks and open trajectories, and archive.zarr."""
    folder = tmp_path_factory.mktemp("stores")
    with tiny():
        buffer = rs.create(folder / "a.zarr", samples.small(), storage=samples.storage("zstd:1"))
        for turn in range(40):
            buffer.append(samples.columns(buffer.schema, 9, seed=turn))
            buffer.commit()
        rs.convert(folder / "a.zarr", folder / "archive.zarr", layout="archive")
        yield folder
        buffer.close()


def test_a_live_store_is_opened_in_three_rounds(folder: Path) -> None:
    assert sum(len(files) for _, _, files in os.walk(folder / "a.zarr")) > 40
    with far_disk() as asked:
        reader = rs.open(folder / "a.zarr")
        requests, rounds = cost(asked)
        assert requests <= 12
        assert rounds <= 3
        assert len(reader) == 360
        assert cost(asked) == (0, 0)
        assert not reader.refresh()
        assert cost(asked) == (2, 1)
        assert reader.num_trajectories == len(reader.trajectories) > 0
        requests, rounds = cost(asked)
        assert rounds <= 1  # all tables at once
        reader.describe()
        reader.close()


def test_no_metadata_of_arrays_are_read_and_no_sizes_asked_for(folder: Path) -> None:
    for name in ("a.zarr", "archive.zarr"):
        with far_disk() as asked:
            with rs.open(folder / name) as reader:
                assert len(reader) == 360
            known = {"zarr.json", "journal/log/zarr.json"}
            assert not {file for file in asked.names if file.endswith("zarr.json")} - known
            assert not [file for file in asked.names if file.startswith(("steps/", "parts/", "checksums/"))]


def test_an_archive_is_opened_in_three_rounds(folder: Path) -> None:
    with far_disk() as asked:
        reader = rs.open(folder / "archive.zarr")
        requests, rounds = cost(asked)
        assert requests <= 8
        assert rounds <= 3
        assert not reader.refresh()
        assert cost(asked) == (2, 1)
        reader.close()


def test_a_commit_that_was_made_meanwhile_costs_a_round_more(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", samples.small()) as buffer:
        buffer.append(samples.columns(buffer.schema, 20, seed=0))
        buffer.commit()
        with far_disk() as asked:
            reader = rs.open(tmp_path / "a.zarr")
        cost(asked)
        buffer.append(samples.columns(buffer.schema, 20, seed=1))
        buffer.commit()
        assert reader.refresh()
        assert cost(asked) <= (4, 2)
        assert len(reader) == 40
        reader.close()


def test_an_older_commit_is_opened_in_a_few_rounds(folder: Path) -> None:
    with far_disk() as asked:
        rs.open(folder / "a.zarr", commit=3).close()
    requests, rounds = cost(asked)
    assert requests <= 12
    assert rounds <= 6


def test_the_commits_are_listed_in_two_rounds(folder: Path) -> None:
    with far_disk() as asked:
        reader = rs.open(folder / "a.zarr")
        cost(asked)
        assert len(reader.commits()) > 20
        assert cost(asked)[1] <= 2 + len(list((folder / "a.zarr/journal/log").glob("[0-9]*"))) // 16
        reader.close()
    with rs.open(folder / "a.zarr") as near, far_disk(), rs.open(folder / "a.zarr") as far:
        assert far.commits() == near.commits()


@pytest.mark.parametrize("name", ["a.zarr", "archive.zarr"])
def test_verify_reads_each_file_of_rows_a_few_times_at_most(folder: Path, name: str) -> None:
    with far_disk() as asked:
        report = rs.verify(folder / name)
    assert report.problems == []
    assert any("cannot be listed" in note for note in report.notes)
    files = sum(len(files) for _, _, files in os.walk(folder / name))
    assert asked.requests < 8 * files


def damaged(store: Path, name: str) -> None:
    with open(store / name, "r+b") as file:
        data = bytearray(file.read())
        at = len(data) - 9
        data[at] ^= 0x55
        file.seek(0)
        file.write(data)


@pytest.mark.parametrize("layout", ["live", "archive"])
def test_verify_finds_from_far_what_it_finds_beside_the_store(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.zarr"
    with tiny():
        with rs.create(path, samples.small(), layout=layout, storage=samples.storage("zstd:1")) as buffer:
            for turn in range(6):
                buffer.append(samples.columns(buffer.schema, 30, seed=turn))
                buffer.commit()
        generator = np.random.default_rng(7)
        files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        skipped = ("journal/tail", "segments", "lock", ".new")
        files = [file for file in files if not any(part in file for part in skipped)]
        for name in generator.permutation(files)[:25].tolist():
            before = (path / name).read_bytes()
            if len(before) < 16:
                continue
            damaged(path, name)
            near = rs.verify(path)
            with far_disk():
                far = rs.verify(path)
            (path / name).write_bytes(before)
            assert bool(near.problems) == bool(far.problems), name
            assert near.damaged.keys() == far.damaged.keys(), name
