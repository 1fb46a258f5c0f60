"""What is asked of a record of the commit log before it is believed: whether it says what a writer would say.
Its checksum tells that nothing has changed since it was written, and nothing about who wrote it.

Checks raise what Python raises for what is not there or of another type, or ValueError; `sound` makes
CorruptErrors of all that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from replaystore.arrays.naming import is_name
from replaystore.arrays.state import State
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.checks import MOST_NUMBER, is_count
from replaystore.errors import CorruptError
from replaystore.schema import tree

__all__ = ["check_arrays", "check_pieces", "check_record", "check_step", "sound"]

MOST_ATTACHED = 1 << 32
"""Bytes of an attachment: an observation of each environment."""
LATEST = 253402300799
"""The last second of the year 9999."""
U32 = (1 << 32) - 1
KINDS = ("keep", "rows", "grow", "at", "set", "mutable", "document", "int")
"""What a blob may be."""

_CHECKSUMS: tuple[np.dtype[Any], tuple[int, ...]] = np.dtype("<u4"), ()
"""The dtype and the shape of a row of checksums."""


@contextmanager
def sound() -> Iterator[None]:
    """CorruptError for a record that has its checksum and is not what a writer writes."""
    try:
        yield
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        struct.error,
    ) as error:
        what = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise CorruptError(
            f"the commit log has a record that no writer has made ({what:.200}); restore it from a copy"
        ) from None


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise ValueError(what)


def check_record(meta: Any, blobs: Mapping[str, bytes]) -> None:
    """A record by itself: what there has to be, types and ranges."""
    if meta.get("forked"):
        _refuse(not is_count(meta["commit"]) or bool(blobs), f"a note about commit {meta['commit']!r:.40}")
        return
    commit, parent, time = meta["commit"], meta["parent"], meta["time"]
    _refuse(
        not is_count(commit) or type(parent) is not int or not -1 <= parent <= commit,
        f"commit {commit!r:.40} after {parent!r:.40}",
    )
    _refuse(type(time) not in (int, float) or not 0 <= time <= LATEST, f"time {time!r:.40}")
    base = bool(meta.get("base"))
    for counts in (meta["lengths"], meta["first"] if base else meta.get("first", {})):
        _refuse(not all(map(is_count, counts.values())), f"numbers of rows {counts!r:.80}")
    _check_names(meta, commit, base=base)
    _refuse(meta.get("synced", True) is not True, "a commit that is synced, or not")
    _refuse(not isinstance(meta["extra"], dict), f"extra that is a {type(meta['extra']).__name__}")
    more = meta.get("more", {})
    _refuse(
        not isinstance(more, dict) or not all("." in key or ":" in key for key in more),
        f"further settings {more!r:.80}",
    )
    _refuse(not all(is_count(crc, U32) for crc in meta["partial"].values()), "checksums that are none")
    for name, known in (meta["tails"] if base else meta.get("tails", {})).items():
        begin, pieces = (0, known) if base else known
        _refuse(
            not is_count(begin) or not all(map(_is_piece, pieces)),
            f"rows of an unfinished chunk of {name!r:.80}",
        )
    for name, entries in (meta["entries"] if base else meta.get("entries", {})).items():
        _refuse(not all(_is_entry(name, *entry) for entry in entries), f"places of chunks of {name!r:.80}")
    attached = meta["attached"] if base else meta.get("attached", {})
    _refuse(
        not all(_is_piece(piece) and piece[1] <= MOST_ATTACHED for piece in attached.values()),
        "places of attachments",
    )
    if base:
        _refuse(not isinstance(meta["store"], str), "a store of no name")
        _refuse(
            not all(
                is_count(rows) and is_count(crc, U32) and is_count(first, rows)
                for rows, crc, first in meta["tables"].values()
            ),
            "tables of no sizes",
        )
        dropped, marks = meta.get("dropped", {}), meta.get("marks", [])
        _refuse(
            not all(map(is_count, dropped.values()))
            or not all(len(mark) == 4 and all(map(is_count, mark)) for mark in marks),
            "rows of tables that are dropped",
        )
        _refuse(
            not all(is_count(first) and is_count(last) for first, last in meta["dead"]),
            "commits that were rolled back",
        )
    arrays = meta["arrays"] if base else meta.get("arrays", {})
    _refuse(
        not all(
            (name.count("/") > 0 or name == tree.PARTS) and {"", ".", ".."}.isdisjoint(name.split("/"))
            for name in arrays
        ),
        "names of arrays",
    )
    _refuse(any(name.partition(":")[0] not in KINDS for name in blobs), "bytes of no known kind")


def _check_names(meta: Mapping[str, Any], commit: int, *, base: bool) -> None:
    """What a record says of names, and of the commit that it shows."""
    shows = meta.get("shows", commit)
    _refuse(not is_count(shows, commit), f"commit {commit} that shows {shows!r:.40}")
    _refuse(not is_count(meta.get("keep_named", 1)), "how many named commits are kept")
    _refuse(
        meta.get("keep_commits", 1) == 0 or not is_count(meta.get("keep_commits", 1)),
        "how many commits are kept",
    )
    _refuse("name" in meta and (base or not is_name(meta["name"])), "a name that no commit can have")
    _refuse(base and "forget" in meta, "a base record that forgets a name")
    if not base:
        return
    _refuse(not is_count(meta.get("pruned", 0), commit), "commits that have gone")
    before = -1
    for name, (named, first) in meta.get("names", {}).items():
        _refuse(
            not is_name(name) or not is_count(named, commit) or named <= before,
            f"commit {named!r:.40} of the name {name!r:.80}",
        )
        _refuse(not all(map(is_count, first.values())), f"numbers of rows {first!r:.80}")
        before = named
    for group, row in meta.get("gone", {}).items():
        _refuse(not is_count(row, meta["first"].get(group, 0)), f"rows of {group!r:.80} that are gone")


def _is_piece(numbers: Any) -> bool:
    start, rows, slot, offset, checksum = numbers
    return (
        is_count(start)
        and is_count(rows)
        and is_count(offset)
        and is_count(slot, 1)
        and is_count(checksum, U32)
    )


def _is_entry(name: str, number: Any, place: Any, offset: Any, length: Any) -> bool:
    """A chunk lies in a file of its own array, or in the one file that a container is."""
    inside = isinstance(place, str) and ("/" not in place.removeprefix(name + "/c.")) and "\0" not in place
    return inside and is_count(number) and is_count(offset) and is_count(length)


def check_step(state: State, meta: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
    """A record that follows a state, with the next commit (`expand` says so) or a note about this one:
    nothing gets shorter, and the rows of tables are whole rows of theirs."""
    forked = bool(meta.get("forked"))
    _refuse(
        bool(meta.get("base")) or (forked and meta["commit"] != state.commit),
        f"commit {meta['commit']} follows {state.commit}",
    )
    if forked:
        return
    for before, now in ((state.lengths, meta["lengths"]), (state.first, meta.get("first", {}))):
        _refuse(
            any(rows < before.get(group, 0) for group, rows in now.items()),
            "fewer rows than the commit before",
        )
    _refuse("forget" in meta and meta["forget"] not in state.names, "a name to forget that no commit has")
    specs = state.arrays | dict.fromkeys(meta.get("arrays", {}))
    for name, blob in blobs.items():
        kind, _, array = name.partition(":")
        if kind in ("rows", "grow", "at", "set"):
            spec = specs[array]
            _refuse(
                spec is not None and kind != "at" and len(blob) % spec.row_bytes > 0,
                f"rows of {array!r:.80} that are not whole",
            )
        if kind == "at":  # one that is too large is an IndexError
            first = state.dropped.get(_group(array), 0)
            _refuse(bool((np.frombuffer(blob, "<i8") < first).any()), f"rows of {array!r:.80}")


def check_arrays(state: State) -> None:
    """A state, after its arrays or pieces have changed: each array has what belongs to it, and pieces are of
    arrays that there are."""
    arrays: Mapping[str, ArraySpec] = state.arrays
    for name, spec in arrays.items():
        if tree.is_checksums(name):
            of = arrays.get(tree.checked_by(name))
            right = (
                of is not None
                and spec.journaled
                and not spec.mutable
                and (spec.dtype, spec.shape) == _CHECKSUMS
            )
        else:
            summed = spec.journaled or tree.is_journal(name) or tree.checksums(name) in arrays
            right = summed or state.lengths.get(_group(name), 0) < spec.chunk_rows
        _refuse(
            not right or (spec.mutable and not spec.journaled),
            f"array {name!r:.80} without its checksums, or of another kind",
        )
    check_pieces(state)


def check_pieces(state: State) -> None:
    """A state whose arrays have not changed: tables have all their rows, and pieces are of arrays that there
    are."""
    arrays: Mapping[str, ArraySpec] = state.arrays
    for name, spec in arrays.items():
        if spec.mutable:
            group, found = _group(name), state.mutable.get(name, ())
            rows = state.lengths.get(group, 0) - state.dropped.get(group, 0)
            wrong = len(found) != rows or (
                isinstance(found, np.ndarray) and rows > 0 and found.shape[1] != spec.row_bytes
            )
            _refuse(wrong, f"{len(found)} rows of {name!r:.80}, not {rows} of {spec.row_bytes} bytes")
    for gone in (state.first, state.dropped):
        for group, first in gone.items():
            _refuse(
                first > state.lengths.get(group, 0),
                f"dropped {first} rows of {group!r:.80}, which there were not",
            )
    for name, pieces in state.tails.items():
        for piece in pieces:
            spec = arrays[name]
            wrong = tree.tail(piece.slot) not in arrays or piece.rows > spec.chunk_rows
            _refuse(
                wrong or piece.offset + piece.rows * spec.row_bytes > MOST_NUMBER,
                f"rows of an unfinished chunk of {name!r:.80}",
            )
    for kept in state.attached.values():
        _refuse(
            not isinstance(kept, bytes) and tree.tail(kept.slot) not in arrays,
            "attachments that lie nowhere",
        )
    for name, (rows, _, first) in state.tables.items():
        _refuse(
            rows > state.lengths.get(_group(name), 0)
            or not arrays[name].journaled
            or first % arrays[name].shard_rows > 0,
            f"table {name!r:.80}",
        )


def _group(name: str) -> str:
    return tree.group_of(tree.checked_by(name))
