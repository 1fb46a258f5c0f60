"""Sequences of different lengths appended, beside writing the same bytes, the values and where each ends, to
a file each, and nothing else; and beside what cannot be left out: that, spans, and checksums of both.

Files are begun anew in each round, so that they get the memory that the last ones have left: memory that
nobody has had takes some times as long to write to, and on a rented machine longer still.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from measuring import Context, Result, check, clean, interleaved
from measuring.timing import results
from measuring.tokens import TOKENS, sequences

import replaystore as rs
from live_measures.floors import File

__all__ = ["MEASURES"]

SCHEMA = rs.Schema({"tokens": rs.Field("int32", (None,), "extra")})
ROUND = 2048
"""Sequences that are appended in a round: 8 MB."""
WRITE, FLOOR = "a raw write", "a raw write, spans and checksums"
ZARR, LISTED = "replaystore, Zarr", "replaystore, Zarr: a list of arrays"


class Writer(Protocol):
    """Something that sequences are written to."""

    def add(self, block: rs.Ragged) -> None:
        """Write sequences behind those that there are."""

    def close(self) -> None:
        """Be done with it."""


class Raw:
    """The values, and where each ends."""

    def __init__(self, folder: Path) -> None:
        self._values, self._ends = (
            os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("values", "ends")
        )
        self._at = [0, 0]

    def add(self, block: rs.Ragged) -> None:
        self._at[0] += os.pwrite(self._values, block.values.data, self._at[0])
        self._at[1] += os.pwrite(self._ends, block.offsets[1:].data, self._at[1])

    def close(self) -> None:
        os.close(self._values)
        os.close(self._ends)


class Least:
    """The values and their spans, with checksums."""

    def __init__(self, folder: Path) -> None:
        self._values, self._spans, self._there = File(folder / "values"), File(folder / "spans"), 0

    def add(self, block: rs.Ragged) -> None:
        spans = np.empty((len(block), 2), np.int64)
        np.add(block.offsets[:-1], self._there, out=spans[:, 0])
        np.add(block.offsets[1:], self._there, out=spans[:, 1])
        self._values.add(block.values)
        self._spans.add(spans)
        self._there += len(block.values)

    def close(self) -> None:
        self._values.close()
        self._spans.close()


class Store:
    """A buffer, with or without a commit after each block."""

    def __init__(self, place: Path, *, commits: bool) -> None:
        self._place, self._commits = place, commits
        self._buffer = rs.create(place, SCHEMA, durability="none")

    def add(self, block: Any) -> None:
        self._buffer.append({"tokens": block})
        if self._commits:
            self._buffer.commit()

    def check(self, last: rs.Ragged) -> None:
        """What was written last is there."""
        self._buffer.commit()
        check(self._buffer["tokens"][-len(last) :] == last, self._place.name, "tokens")

    def close(self) -> None:
        self._buffer.close()


def appending(context: Context) -> list[Result]:
    """In calls of a megabyte and of four, without commits; and with one after each call, not synced.

    Not of HDF5: a young file grows in steps, each of which is synced; `append` measures old ones."""
    found = []
    given = sequences(ROUND, TOKENS)
    for size, commits in ((256, False), (1024, False), (256, True)):
        what = f"append {size} sequences of {TOKENS[0]} to {TOKENS[1]} int32 tokens"
        what += " and commit, durability none" if commits else ""
        context.say(what)
        blocks = [given[begin : begin + size].compact() for begin in range(0, len(given), size)]
        makers: dict[str, Callable[[Path], Writer]] = {
            WRITE: Raw,
            FLOOR: Least,
            ZARR: lambda folder, commits=commits: Store(folder / "a.zarr", commits=commits),
        }
        makers[LISTED] = makers[ZARR]
        writers: dict[str, Writer] = {}
        given_as = dict.fromkeys(makers, blocks) | {LISTED: [list(block) for block in blocks]}
        variants = {name: _timed(writers, name, given_as[name]) for name in makers}
        seconds = interleaved(
            variants,
            context.choose(41, 3),
            before=partial(_anew, context.folder, makers, writers, blocks[0]),
        )
        found += results(what, seconds, WRITE, {} if commits else {ZARR: 1.5})
        for writer in writers.values():
            if isinstance(writer, Store):
                writer.check(blocks[-1])
            writer.close()
        clean(context.folder)
    return found


def _anew(
    folder: Path, makers: Mapping[str, Callable[[Path], Writer]], writers: dict[str, Writer], first: rs.Ragged
) -> None:
    """Files that have a block already, so that there is nothing to be made while time is taken."""
    for writer in writers.values():
        writer.close()
    clean(folder)
    for name, make in makers.items():
        place = folder / name
        place.mkdir()
        writers[name] = make(place)
        writers[name].add(first)


def _timed(writers: dict[str, Writer], name: str, blocks: Sequence[Any]) -> Callable[[], float]:
    def run() -> float:
        add = writers[name].add
        begin = time.perf_counter()
        for block in blocks:
            add(block)
        return (time.perf_counter() - begin) / len(blocks)

    return run


MEASURES = {"ragged-append": appending}
