"""Rows that say where they come from, by (history, row), and a book that says what each commit shows.

1. A rollback begins a new history: the rows from there on are of it, those before keep theirs.
2. The writer notes in the book what a commit will show before it makes it, so that whoever sees the commit
   finds the note; the last note of a number counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged

__all__ = ["LATE", "SCHEMA", "Book", "Rows", "Shown", "few_rows", "values"]

Rows = NDArray[np.int64]

SCHEMA = Schema(
    {
        "observation/place": Field(np.dtype(np.float32), (3,), "observation"),
        "observation/frame": Field(np.dtype(np.uint8), (64,), "observation"),
        "observation/tokens": Field(np.dtype(np.int64), (None,), "observation"),
        "action": Field(np.dtype(np.int64), (), "action"),
        "reward": Field(np.dtype(np.float64), (), "reward"),
        "terminated": Field(np.dtype(np.bool_), (), "terminated"),
        "truncated": Field(np.dtype(np.bool_), (), "truncated"),
    }
)
LATE = Field(np.dtype(np.int32), (), "info")
"""Fields that are added later: zeros up to a row."""


def few_rows(codec: str) -> dict[str, dict[str, Any]]:
    """Settings for chunks of few rows."""
    return {
        "observation/frame": {"codec": codec, "chunk_rows": 32},
        "observation/tokens": {"chunk_rows": 512},
        "action": {"chunk_rows": 512},
    }


def values(name: str, history: Rows, row: Rows) -> Any:
    """The values of a field in these rows of these histories: an array, or a Ragged."""
    if name == "observation/tokens":
        lengths = (row * 5 + history) % 7
        offsets = np.append(0, np.cumsum(lengths))
        own = np.repeat(history << 40 | row << 4, lengths)  # and which of them it is
        return Ragged(own + np.arange(len(own)) - np.repeat(offsets[:-1], lengths), offsets)
    if name == "observation/place":
        return np.stack([history, row >> 12, row & 4095], axis=1).astype(np.float32)
    if name == "observation/frame":
        return np.tile(np.stack([history, row], axis=1).astype("<i8").view(np.uint8), (1, 4))
    if name == "action":
        return history << 32 | row
    if name == "reward":
        return (history * 10_000_000 + row).astype(np.float64)
    terminated: NDArray[Any] = (row + history) % 10 == 9
    if name == "terminated":
        return terminated
    if name == "truncated":
        truncated: NDArray[Any] = ((row * 7 + history) % 97 == 0) & ~terminated
        return truncated
    return (history << 20 ^ row).astype(np.int32)


@dataclass
class Shown:
    """What a commit shows."""

    commit: int = 0
    rows: int = 0
    first: int = 0
    """Rows before this one have left the ring."""
    segments: list[list[int]] = field(default_factory=lambda: [[0, 1]])
    """[row, history]: from this row on, up to the next segment."""
    late: dict[str, int] = field(default_factory=dict)
    """Fields that were added, and the rows from which on they are not zero."""

    def histories(self, rows: Rows) -> Rows:
        """The history of each row."""
        starts = np.array([start for start, _ in self.segments])
        return np.array([history for _, history in self.segments])[np.searchsorted(starts, rows, "right") - 1]

    def column(self, name: str, rows: Rows) -> Any:
        """What a field holds in these rows, which count from the first ever written."""
        found = values(name, self.histories(rows), rows)
        if name in self.late:
            found[rows < self.late[name]] = 0
        return found

    def wrong(self, rows: Rows, columns: Mapping[str, Any]) -> str:
        """What is wrong with what was read of these rows; empty if nothing is."""
        for name, found in columns.items():
            expected = self.column(name, rows)
            if found.dtype != expected.dtype or found.shape != expected.shape:
                return f"commit {self.commit}: {name} is {found.dtype}{list(found.shape)}"
            if isinstance(expected, Ragged):
                if found != expected:
                    pairs = zip(rows.tolist(), found.tolist(), expected.tolist(), strict=True)
                    row, one, other = next(pair for pair in pairs if pair[1] != pair[2])
                    what = f"{name} of row {row} is {one} instead of {other}"
                    return f"commit {self.commit}: {what}; histories {self.segments}"
            elif not np.array_equal(found, expected):
                differs = (found != expected).reshape(len(rows), -1).any(axis=1)
                at = int(np.flatnonzero(differs)[0])
                both = [column[at].ravel()[:3].tolist() for column in (found, expected)]
                many = f"commit {self.commit}: {int(differs.sum())} of {len(rows)} rows of {name} are wrong"
                return f"{many}; row {rows[at]} is {both[0]} instead of {both[1]}; histories {self.segments}"
        return ""

    def wrong_batch(self, batch: Mapping[str, Any]) -> str:
        """What is wrong with a batch of single steps: each says in its action which row it is."""
        rows = batch["action"] & 0xFFFFFFFF
        if rows.min() < self.first or rows.max() >= self.rows:
            return f"commit {self.commit} gives rows {rows.min()} to {rows.max()}"
        if not np.array_equal(batch["index"], rows):
            return f"commit {self.commit}: the index of its rows is wrong"
        columns, following = dict[str, Any](), dict[str, Any]()
        for name, column in batch.items():
            if name != "index":
                (following if name.startswith("next_") else columns)[name.removeprefix("next_")] = column
        return self.wrong(rows, columns) or self.wrong(rows + 1, following)

    def wrong_table(self, table: Mapping[str, NDArray[Any]]) -> str:
        """What is wrong with a table of trajectories."""
        begins, ends, _ = self.trajectories()
        everything = np.arange(self.rows)
        rewards = np.append(0, np.cumsum(self.column("reward", everything)))
        kept = ends >= self.first
        ended = np.flatnonzero(kept)
        expected = {
            "length": (ends - begins + 1)[kept],
            "return": (rewards[ends + 1] - rewards[begins])[kept],
            "terminated": self.column("terminated", ends[kept]),
        }
        is_open = self.rows > (int(ends[-1]) + 1 if len(ends) else 0)
        if len(table["length"]) != len(ended) + is_open:
            return f"commit {self.commit}: {len(table['length'])} trajectories, not {len(ended) + is_open}"
        for name, column in expected.items():
            if not np.array_equal(table[name][: len(ended)], column):
                return f"commit {self.commit}: the column {name} of the table is wrong"
        return ""

    def trajectories(self) -> tuple[Rows, Rows, int]:
        """First and last rows of the trajectories that have ended, and how many have left the ring."""
        rows = np.arange(self.rows)
        ends = np.flatnonzero(self.column("terminated", rows) | self.column("truncated", rows))
        return np.append(0, ends + 1)[: len(ends)], ends, int((ends < self.first).sum())


class Book:
    """Notes of what commits show, in a file: one process writes, others read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[int, Shown] = {}
        self._at = 0

    def note(self, shown: Shown) -> None:
        """Write down what a commit will show."""
        line = json.dumps(asdict(shown)).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def shown(self, commit: int) -> Shown:
        """What a commit that exists shows."""
        self._read()
        return self._known[commit]

    def commits(self) -> list[int]:
        """All numbers noted so far, ascending."""
        self._read()
        return sorted(self._known)

    def _read(self) -> None:
        with open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            shown = Shown(**json.loads(line))
            self._known[shown.commit] = shown
