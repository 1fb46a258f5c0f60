"""Where the values of fields of any length come to lie: a recorder of a schema with such fields plans each of
its calls before it writes anything.

A plan is made of what a call is to record, and changes nothing; the recorder hands what it says is stored to
the store, all of it at once, and then says that it is `placed`. So a call that is refused may be made again.

Invariants, which FORMAT.md promises:
1. Values lie in the order of rows: the begins of spans of rows never decrease, so that where the oldest row
   of a ring begins says which values have left.
2. What follows a row, in `final/` or after an open trajectory, lies behind where that row begins, and is
   there as long as the row.
3. A value is written once, though it is first what follows a step and then the next row's: the leading rows
   of a call take its place over if it is bit for bit theirs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import stacked
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.pieces import Piece

__all__ = ["Finals", "Placing", "Plan", "as_stored", "row_of"]

Spans = NDArray[np.int64]
Finals = Mapping[str, Any]
"""Observations by field, one row each: arrays, and a Ragged of each field of any length."""
MOST_REGIONS = 16


@dataclass
class Plan:
    """What a call is to store, and where its values are going to lie."""

    stored: dict[str, NDArray[Any]]
    """By array."""
    finals: dict[str, NDArray[Any]]
    """Of observations of any length their spans, of others the rows that were given."""
    following: dict[str, NDArray[Any]]
    begins: dict[str, int] = field(default_factory=dict)
    """Of each field of any length: where the newest row begins,"""
    regions: dict[str, tuple[int, NDArray[Any]]] = field(default_factory=dict)
    """and the values of what follows, with where they begin."""

    def into(self, pieces: Sequence[Piece]) -> None:
        """Have pieces name the places of what they said, as `Placing.of_pieces` took it out of them."""
        ended = [piece for piece in pieces if piece.final is not None]
        for at, piece in enumerate(ended):
            piece.final = {name: rows[at] for name, rows in self.finals.items()}
        followed = [piece for piece in pieces if piece.following is not None]
        for at, piece in enumerate(followed):
            piece.following = {name: rows[at] for name, rows in self.following.items()}


class Placing:
    """Where values lie that a recorder hands to a store."""

    def __init__(self, store: ArrayStore, schema: Schema) -> None:
        self._store, self._schema = store, schema
        self._begins = {name: self._next(name) for name in schema.ragged}
        """Where the newest row of each field begins, or more."""
        self._regions: dict[str, list[tuple[int, NDArray[Any]]]] = {name: [] for name in schema.ragged}
        """Values of what follows open trajectories, which may not be read from the store before a commit:
        begin and rows of each region, in order."""
        self._most = MOST_REGIONS

    def take_schema(self, schema: Schema) -> None:
        """Steps are of this schema from now on, which has more fields."""
        self._schema = schema
        for name in schema.ragged.keys() - self._begins.keys():
            self._begins[name], self._regions[name] = self._next(name), []

    def _next(self, name: str) -> int:
        return self._store.next_row(tree.values(name))

    # --- plans

    def plan(
        self,
        columns: Mapping[str, Any],
        count: int,
        finals: Finals,
        following: Finals,
        *,
        taken: Mapping[str, Spans] | None = None,
    ) -> Plan:
        """The plan of so many rows, and of what follows them. `taken`: the spans of what was said to follow,
        and the leading rows may be."""
        ragged = self._schema.ragged
        plan = Plan(
            {tree.steps(name): columns[name] for name in columns if name not in ragged},
            {name: rows for name, rows in finals.items() if name not in ragged},
            {name: rows for name, rows in following.items() if name not in ragged},
        )
        for name in ragged:
            at = self._next(name)
            pieces: list[NDArray[Any]] = []
            if count:
                rows, spans = columns[name], (taken or {}).get(name)
                known = 0 if spans is None else self._same(name, spans[:count], rows)
                rows = rows[known:] if known else rows
                placed = _spans(rows, at)
                pieces.append(rows.named)
                at += len(pieces[-1])
                if known and spans is not None:
                    placed = np.concatenate([spans[:known], placed])
                plan.stored[tree.steps(name)] = placed
                plan.begins[name] = int(placed[-1, 0])
            for given, told in ((finals, plan.finals), (following, plan.following)):
                rows = given.get(name)
                if isinstance(rows, Ragged):
                    told[name] = _spans(rows, at)
                    pieces.append(rows.named)
                    if given is following:
                        plan.regions[name] = at, rows.named.copy()
                    at += len(pieces[-1])
            filled = [piece for piece in pieces if len(piece)]
            if filled:
                plan.stored[tree.values(name)] = filled[0] if len(filled) == 1 else np.concatenate(filled)
        return plan

    def _same(self, name: str, spans: Spans, rows: Ragged) -> int:
        """How many of the leading rows are, bit for bit, the values of these spans, and may have their
        places."""
        if not len(spans):
            return 0
        before = self._begins[name]
        begins, ends = spans[:, 0], spans[:, 1]
        begin, whole = int(begins[0]), rows[: len(spans)]
        if begin >= before and (begins[1:] == ends[:-1]).all():  # one behind the other, as nearly always
            known = self.value(name, np.array([begin, ends[-1]]))
            if (
                known is not None
                and np.array_equal(whole.lengths, ends - begins)
                and _equal(known, whole.named)
            ):
                return len(spans)
        for place, span in enumerate(spans):
            begin = int(span[0])
            known = None if begin < before else self.value(name, span)
            if known is None or not _equal(known, _value(rows, place)):
                return place
            before = begin
        return len(spans)

    def of_pieces(self, pieces: Sequence[Piece]) -> tuple[Finals, Finals]:
        """The observations that few pieces end with, and those that follow them."""
        ended = [piece.final for piece in pieces if piece.final is not None]
        followed = [piece.following for piece in pieces if piece.following is not None]
        return self._stacked(ended), self._stacked(followed)

    def _stacked(self, values: Sequence[Mapping[str, NDArray[Any]]]) -> Finals:
        fields = self._schema.fields
        return {name: stacked(fields[name], [one[name] for one in values]) for name in (values or [{}])[0]}

    def placed(self, plan: Plan) -> None:
        """The store has what the plan says."""
        self._begins |= plan.begins
        for name, region in plan.regions.items():
            self._regions[name].append(region)

    # --- what follows open trajectories

    def value(self, name: str, span: Spans) -> NDArray[Any] | None:
        """What follows an open trajectory, by where it lies; None: it has left the ring."""
        begin, end, stored = int(span[0]), int(span[1]), tree.values(name)
        if begin == end:
            declared = self._schema.fields[name]
            return np.empty((0, *declared.inner), declared.dtype)
        regions = self._regions[name]
        place = bisect_right(regions, begin, key=lambda region: region[0]) - 1
        if place >= 0:
            start, rows = regions[place]
            if end <= start + len(rows):
                return rows[begin - start : end - start]
        if begin < self._store.first(stored) or end > self._store.rows(stored):
            return None  # nor is what no trajectory has any more
        column = self._store.column(stored)  # of before this was opened
        try:
            return column.read(begin, end)
        finally:
            column.close()

    def follows(self, name: str, span: Spans, rows: Ragged) -> bool:
        """Whether the first of these rows is, bit for bit, what was said to follow; or that is not known any
        more."""
        known = self.value(name, span)
        return known is None or _equal(known, _value(rows, 0))

    @property
    def many(self) -> bool:
        """Whether it is time to `keep` what is still asked for alone."""
        return any(len(regions) > self._most for regions in self._regions.values())

    def keep(self, following: Mapping[str, Spans]) -> None:
        """Forget values but for those that these spans name, and the newest."""
        for name, regions in self._regions.items():
            spans = following.get(name)
            spans = np.empty((0, 2), np.int64) if spans is None else spans[spans[:, 0] < spans[:, 1]]
            kept = list[tuple[int, NDArray[Any]]]()
            for number, (start, rows) in enumerate(regions):
                inside = spans[(spans[:, 0] >= start) & (spans[:, 0] < start + len(rows))]
                if number == len(regions) - 1 or len(inside) > 1:
                    kept.append((start, rows))
                elif len(inside):
                    begin, end = inside[0].tolist()
                    kept.append((begin, rows[begin - start : end - start].copy()))
            self._regions[name] = kept
        self._most = max(MOST_REGIONS, 2 * max(map(len, self._regions.values()), default=0))


def as_stored(store: ArrayStore, name: str, rows: NDArray[Any] | Ragged) -> dict[str, NDArray[Any]]:
    """Rows of a field by the array that they are appended to; behind what that has of values."""
    if not isinstance(rows, Ragged):
        return {tree.steps(name): rows}
    stored = tree.values(name)
    values = {stored: rows.named} if len(rows.named) else {}
    return {tree.steps(name): _spans(rows, store.next_row(stored)), **values}


def row_of(rows: NDArray[Any] | Ragged, place: int) -> NDArray[Any]:
    """A row as it is stored, copied: of a Ragged a value, a text as its bytes."""
    found = _value(rows, place) if isinstance(rows, Ragged) else rows[place]
    return np.array(found)


def _value(rows: Ragged, place: int) -> NDArray[Any]:
    found: NDArray[Any] = rows.values[int(rows.offsets[place]) : int(rows.offsets[place + 1])]
    return found


def _spans(rows: Ragged, at: int) -> Spans:
    """Where values are going to lie, the first of them at `at`."""
    offsets = rows.offsets
    spans, shift = np.empty((len(offsets) - 1, 2), np.int64), at - int(offsets[0])
    np.add(offsets[:-1], shift, out=spans[:, 0])
    np.add(offsets[1:], shift, out=spans[:, 1])
    return spans


def _equal(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()
