"""What a commit costs, however much is behind it: a ring that wrapped long ago, its disk, the bytes of a
record, stalls, and a synced commit beside SQLite's."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Context, Result, interleaved, ratio, remove

import replaystore as rs

__all__ = ["MEASURES"]

ENVS, CAPACITY, BLOCK, ROWS = 8, 10_000, 80, 64
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (4,), "observation"),
        "action": rs.Field("int64", (), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
ROW = sum(field.row_bytes for field in SCHEMA.fields.values())
RING = f"a ring of {CAPACITY}: append {BLOCK} + commit"
SMALL = f"a commit of {ENVS} environments' steps"
SYNCED = f"a synced commit of {ROWS} rows x 5"


def _steps(count: int, *, every: int = 0) -> dict[str, Any]:
    ended = np.zeros(count, np.bool_)
    if every:
        ended[every - 1 :: every] = True
    return {
        "observation": np.ones((count, 4), np.float32),
        "action": np.zeros(count, np.int64),
        "reward": np.ones(count, np.float32),
        "terminated": ended,
        "truncated": np.zeros(count, np.bool_),
    }


def _allocated(place: Path) -> int:
    return sum((Path(at) / name).lstat().st_blocks * 512 for at, _, names in os.walk(place) for name in names)


def ring(context: Context) -> list[Result]:
    """Of a ring the first commits after it has wrapped, and those after millions of rows; and its disk."""
    place, rows = context.folder / "ring.zarr", context.choose(5_000_000, 200_000)
    most, limit = 0, 1.25 * CAPACITY * ROW + 2_000_000
    with rs.create(place, SCHEMA, capacity=CAPACITY, durability="none") as buffer:
        columns = _steps(BLOCK, every=40)
        finals = np.ones((BLOCK // 40, 4), np.float32)
        seconds = []
        for number in range(rows // BLOCK):
            begin = time.perf_counter()
            buffer.append(columns, final_observation=finals)
            buffer.commit()
            seconds.append(time.perf_counter() - begin)
            if number % 500 == 0:
                most = max(most, _allocated(place))
    part = context.choose(5000, 500)
    wrapped = 2 * CAPACITY // BLOCK
    first, last = (statistics.median(times) for times in (seconds[wrapped : wrapped + part], seconds[-part:]))
    remove(place)
    return [
        Result(RING, f"after {rows} rows, to the beginning", last / first, "x", 1.2, seconds=last),
        Result(
            RING,
            "most bytes on the disk, to 1.25 x capacity x row + 2 MB",
            most / limit,
            "x",
            1.0,
            detail=f"{most} bytes",
        ),
    ]


def small(context: Context) -> list[Result]:
    """A commit at each step of eight environments: its bytes in the log, and how even its time is."""
    place, commits = context.folder / "small.zarr", context.choose(20_000, 3000)
    buffer = rs.create(place, SCHEMA, durability="none")
    writer = buffer.writer(ENVS)
    writer.reset(np.zeros((ENVS, 4), np.float32))
    columns, seconds, sizes, slowest = _steps(ENVS), [], [], 0.0
    state = buffer.store.state
    for number in range(commits):
        columns["reward"] = np.full(ENVS, 0.1 * number, np.float32)
        writer.step(**columns)
        before = state.base, state.end
        begin, working = time.perf_counter(), time.thread_time()
        buffer.commit()
        slowest = max(slowest, time.perf_counter() - begin)
        seconds.append(time.thread_time() - working)
        if state.base == before[0]:
            sizes.append(state.end - before[1] - columns["observation"].nbytes)
    buffer.close()
    remove(place)
    middle = statistics.median(seconds)
    slow = float(np.quantile(seconds, 0.99))
    return [
        Result(SMALL, "bytes in the log beside observations", statistics.median(sizes), "B", 250),
        Result(
            SMALL,
            "its 99th percentile, to the median, both without waiting for the disk",
            slow / middle,
            "x",
            3,
            detail=f"the slowest, with waiting for the disk, {slowest * 1e3:.1f} ms",
            seconds=middle,
        ),
    ]


def synced(context: Context) -> list[Result]:
    """A commit that is on the disk when it returns, beside one of SQLite (WAL, synchronous = FULL)."""
    columns, rounds = _steps(ROWS), context.choose(201, 31)
    table = sqlite3.connect(context.folder / "steps.db", isolation_level=None)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = FULL")
    table.execute(
        "CREATE TABLE steps (observation BLOB, action INT, reward REAL, terminated INT, truncated INT)"
    )
    given = [(columns["observation"][row].tobytes(), 0, 1.0, 0, 0) for row in range(ROWS)]

    def insert() -> None:
        table.execute("BEGIN")
        table.executemany("INSERT INTO steps VALUES (?, ?, ?, ?, ?)", given)
        table.execute("COMMIT")

    buffers = {
        name: rs.create(context.folder / file, SCHEMA)
        for name, file in (("replaystore, Zarr", "synced.zarr"), ("replaystore, HDF5", "synced.h5"))
    }

    def commit(buffer: rs.Buffer) -> None:
        buffer.append(columns)
        buffer.commit()

    variants = {"SQLite": _timed(insert)} | {
        name: _timed(lambda buffer=buffer: commit(buffer)) for name, buffer in buffers.items()
    }
    seconds = interleaved(variants, rounds)
    for buffer in buffers.values():
        buffer.close()
    table.close()
    return [
        Result(
            SYNCED,
            name,
            ratio(seconds, name, "SQLite"),
            "x",
            None if name == "SQLite" else 3,
            seconds=statistics.median(seconds[name]),
        )
        for name in variants
    ]


def _timed(action: Any) -> Any:
    def run() -> float:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin

    return run


MEASURES = {"ring commits": ring, "small commits": small, "synced commits": synced}
