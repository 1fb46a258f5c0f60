"""Readers far away while a writer removes segments of the log that they are about to ask for: whichever
request it comes before, they are shown a commit whole, or are told that it is gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from far_stores import before_request

import replaystore as rs
from replaystore.errors import EvictedError, NotFoundError
from replaystore.testing.far import far_disk
from replaystore.testing.samples import shards_of

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (256,), "observation"),
        "info/frame": rs.Field("uint8", (64,), "info"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
STORAGE = {"info/frame": {"chunk_rows": 4, "codec": "zstd:1"}, "observation": {"chunk_rows": 8}}
KINDS: dict[str, dict[str, Any]] = {
    "ring.zarr": {"capacity": 64, "storage": STORAGE},
    "a.zarr": {"storage": STORAGE},
    "a.h5": {"storage": {"info/frame": {"chunk_rows": 4, "codec": "gzip:1"}}},
}
BEFORE, MORE, ROWS = 12, 8, 10


def append(buffer: rs.Buffer, name: str | None = None) -> None:
    numbers = np.arange(buffer.rows_recorded, buffer.rows_recorded + ROWS)
    buffer.append(
        {
            "observation": np.repeat(numbers[:, None], 256, axis=1).astype("f4"),
            "info/frame": np.repeat(numbers[:, None], 64, axis=1).astype("u1"),
            "truncated": numbers % 7 == 6,
        }
    )
    buffer.commit(name)


def whole(buffer: rs.Buffer, commits: dict[int, int]) -> None:
    """What is shown is all that the commit has, by its number of rows."""
    stop, table = commits[buffer.commit_id] * ROWS, buffer.trajectories.columns
    rows = np.arange(stop - len(buffer), stop)
    assert (buffer["observation"][:] == rows[:, None]).all()
    assert (buffer["info/frame"][:] == rows[:, None] % 256).all()
    ends = np.flatnonzero(np.arange(stop) % 7 == 6)
    lengths = np.diff(ends, prepend=-1)[ends >= rows[0]].tolist()
    assert table["length"][~table["open"]].tolist() == lengths


def newest(path: Path, commits: dict[int, int]) -> None:
    there = max(commits)
    with rs.open(path) as reader:
        assert reader.commit_id >= there
        whole(reader, commits)


def named(path: Path, commits: dict[int, int]) -> None:
    with rs.open(path, commit="kept") as reader:
        assert commits[reader.commit_id] == BEFORE - 1
        whole(reader, commits)


def older(path: Path, commits: dict[int, int]) -> None:
    with rs.open(path, commit=BEFORE - 2) as reader:
        whole(reader, commits)


def moved(path: Path, commits: dict[int, int]) -> None:
    """A name that another commit gets meanwhile."""
    with rs.open(path, commit="moves") as reader:
        whole(reader, commits)


def listed(path: Path, commits: dict[int, int]) -> None:
    with rs.open(path) as reader:
        assert {known.commit for known in reader.commits()} <= commits.keys()
        assert {"kept", "moves"} == set(reader.names)


def followed(path: Path, commits: dict[int, int]) -> None:
    with rs.open(path) as reader:
        reader.refresh()
        sampler = reader.sampler(16, seed=0, fields=["observation"])
        sampler.refresh()
        assert (sampler.sample()["observation"][:, 0] < commits[reader.commit_id] * ROWS).all()
        whole(reader, commits)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("look", [newest, named, older, moved, listed, followed])
def test_whichever_request_segments_are_removed_before(
    tmp_path: Path, kind: str, look: Callable[[Path, dict[int, int]], None]
) -> None:
    number, asked, outcomes, begun = 0, [""], set[str](), tmp_path / kind
    with patch("replaystore.arrays.committing.SEGMENT_BYTES", 1200), shards_of(2):
        made = dict[int, int]()
        with rs.create(begun, SCHEMA, keep_commits=2, **KINDS[kind]) as writer:
            for commit in range(BEFORE):
                append(writer, {BEFORE - 2: "kept", 2: "moves"}.get(commit))
                made[writer.commit_id] = writer.rows_recorded // ROWS
        while number < len(asked):
            path, commits = tmp_path / f"{number}-{kind}", dict(made)
            shutil.copytree(begun, path) if begun.is_dir() else shutil.copy(begun, path)
            with rs.open(path, "r+") as writer:

                def go_on(writer: rs.Buffer = writer, commits: dict[int, int] = commits) -> None:
                    for commit in range(MORE):
                        append(writer, "moves" if commit == 1 else None)
                        commits[writer.commit_id] = writer.rows_recorded // ROWS

                with far_disk(), before_request(number, go_on) as asked:
                    try:
                        look(path, commits)
                        outcomes.add("shown")
                    except (NotFoundError, EvictedError) as error:
                        outcomes.add(type(error).__name__)
            number += 4 if number > 10 else 1
    assert "shown" in outcomes or look is older  # which is gone before it is asked for
    assert "NotFoundError" not in outcomes or look is older
    assert "EvictedError" not in outcomes or "capacity" in KINDS[kind]
