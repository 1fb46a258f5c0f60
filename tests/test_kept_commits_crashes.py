"""Segments of the log are removed in steps, and a writer may stop at any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.committing import Committer
from replaystore.checking.verify import verify

SCHEMA = rs.Schema({"reward": rs.Field("float32", (), "reward")})
CHANGES = (
    "create",
    "write",
    "sync_files",
    "sync_file",
    "rename",
    "sync_folder",
    "replace",
    "resize",
    "remove",
)
NAMES = {5: "a", 6: "b", 41: "c"}
FORGOTTEN = {6: 20, 41: 43}
"""Which names are taken back, and before which commit."""


class Stopped(BaseException):
    """The writer is gone."""


def record(buffer: rs.Buffer, commits: range) -> None:
    for number in commits:
        buffer.append({"reward": np.array([number], np.float32)})
        for named, before in FORGOTTEN.items():
            if number == before and NAMES[named] in buffer.names:  # that commit has this row, too
                buffer.forget(NAMES[named])
        buffer.commit(NAMES.get(number))


def stop_at(buffer: rs.Buffer, change: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the writer be gone before the change with this number that removing segments makes; which were
    made."""
    made, inside = list[str](), list[bool]()
    files: Any = buffer.store.container.files

    def counted(name: str, known: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            if inside:
                if len(made) == change:
                    raise Stopped
                made.append(name)
            return known(*given, **named)

        return call

    for name in CHANGES:
        monkeypatch.setattr(files, name, counted(name, getattr(files, name)))
    known = Committer._forget_old  # what is stopped in the midst

    def forget(self: Any) -> None:
        inside.append(True)
        known(self)
        inside.clear()

    monkeypatch.setattr(Committer, "_forget_old", forget)
    return made


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_a_writer_that_stops_while_it_removes_segments_loses_no_name(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 4_000)
    change, stopped = 0, True
    while stopped:
        place = tmp_path / f"{change}.{suffix}"
        buffer = rs.create(place, SCHEMA, durability="none", keep_commits=8)
        with monkeypatch.context() as patched:
            made = stop_at(buffer, change, patched)
            try:
                record(buffer, range(60))
                stopped = False
            except Stopped:
                pass
        last = buffer.store.state.commit
        buffer._lock.release()  # as the system does when a process ends
        if stopped:
            assert verify(place).problems == []
            with rs.open(place) as seen:
                assert seen.commit_id >= last - 1
            with rs.open(place, "r+") as buffer:
                record(buffer, range(buffer.rows_recorded, 70))
                assert len(buffer.store.container.segments()) < 60
        with rs.open(place) as seen:
            count = len(seen)
            for number, name in NAMES.items():
                forgotten = FORGOTTEN.get(number, count) < count
                assert (name in seen.names) == (number < count and not forgotten), (change, made)
                if name in seen.names:
                    with rs.open(place, commit=name) as old:
                        assert old["reward"][:].tolist() == list(range(number + 1)), (change, made)
        assert verify(place).problems == []
        change += 1 if change < 12 else 7
    assert change > 10
