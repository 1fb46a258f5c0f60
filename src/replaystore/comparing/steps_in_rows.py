"""A digest of rows as they lie: of a store, or of a ring of other software. Each row is read once, in the
order of rows, whatever trajectory it is of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.comparing.leaves import Crew, turn_bytes
from replaystore.comparing.tally import Story, Tally, Window, one_row, texts
from replaystore.formats.source import RingSource
from replaystore.schema.field import Field
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.table import Trajectories
from replaystore.views.blocks import rows_of_bytes
from replaystore.views.reader import BufferReader

__all__ = ["LaidRing", "LaidStore", "RowTally", "in_order"]

Rows = NDArray[np.int64]
SOME = 4096
"""Parts, or trajectories, that are looked at one by one at a time."""


class Laid(Protocol):
    """Rows, and what they are. Rows count from 0."""

    @property
    def fields(self) -> Mapping[str, Field]:
        """Those that count."""

    @property
    def table(self) -> Mapping[str, NDArray[Any]]:
        """Of the trajectories that count: columns, with one called "open"."""

    @property
    def parts(self) -> Parts:
        """Which rows are whose."""

    def __len__(self) -> int:
        """How many rows there are."""

    def windows(self) -> Iterator[tuple[int, int]]:
        """From where to where to read at once."""

    def read(self, start: int, stop: int) -> Mapping[str, Any]:
        """These rows of all fields."""

    def finals(self, numbers: Rows) -> Mapping[str, Any]:
        """What followed parts, by the numbers that parts have for it: rows by field."""

    def following(self) -> Mapping[int, Mapping[str, Any]]:
        """What followed the last steps of open trajectories, by trajectory, as far as it is known."""


class LaidStore:
    """A store, or some of its trajectories."""

    def __init__(
        self, view: BufferReader, names: Collection[str], trajectories: Trajectories | None = None
    ) -> None:
        self._view = view
        self.fields = {name: view.schema.fields[name] for name in names}
        self._observations = [name for name in view.schema.names("observation") if name in self.fields]
        self.table = dict((view.trajectories if trajectories is None else trajectories).columns)
        first, parts = view.first_row, view.parts
        self.parts = parts if not first else _moved(parts, first)

    def __len__(self) -> int:
        return len(self._view)

    def windows(self) -> Iterator[tuple[int, int]]:
        return rows_of_bytes(self._view, self.fields, turn_bytes())

    def read(self, start: int, stop: int) -> Mapping[str, Any]:
        view = self._view
        # Rows that a writer may drop meanwhile are copied, and those of far files asked for together.
        if view.capacity is not None or view.store.container.files.far:
            return view.read(slice(start, stop), self.fields)
        ragged = self.fields.keys() & view.schema.ragged.keys()
        found = view.read(slice(start, stop), ragged) if ragged else {}
        first = view.first_row
        for name in self.fields.keys() - ragged:
            found[name] = view.column(name).rows(first + start, first + stop)
        return found

    def finals(self, numbers: Rows) -> Mapping[str, Any]:
        return {name: self._view.final_values(name, numbers) for name in self._observations}

    def following(self) -> Mapping[int, Mapping[str, Any]]:
        view = self._view
        return {
            entry.trajectory: {
                name: view.values_of(name).take(entry.following[name][None])
                if self.fields[name].ragged
                else one_row(self.fields[name], entry.following[name])
                for name in self._observations
            }
            for entry in view.open_trajectories()
            if entry.following is not None
        }


class LaidRing:
    """A ring of other software, as the store that it becomes."""

    def __init__(self, source: RingSource, names: Collection[str]) -> None:
        self._source = source
        self.fields = {name: source.schema.fields[name] for name in names}
        count = len(source.table["trajectory"])
        blank = {
            "env": np.zeros(count, np.int64),
            "seed": np.full(count, -1),
            "terminated": np.zeros(count, np.bool_),
            "truncated": np.zeros(count, np.bool_),
            "open": np.zeros(count, np.bool_),
        }
        self.table = {**blank, **source.table}
        self.table["split"] = np.array(source.splits)[source.table["split"]] if count else np.zeros(0, "U1")
        self.parts = source.parts

    def __len__(self) -> int:
        return self._source.rows

    def windows(self) -> Iterator[tuple[int, int]]:
        step = max(1, turn_bytes() // sum(declared.row_bytes for declared in self.fields.values()))
        for start in range(0, len(self), step):
            yield start, min(start + step, len(self))

    def read(self, start: int, stop: int) -> Mapping[str, Any]:
        return {name: self._source.read(name, start, stop) for name in self.fields}

    def finals(self, numbers: Rows) -> Mapping[str, Any]:
        assert self._source.read_finals is not None
        rows = self._source.finals[numbers]
        first = int(rows.min())
        return {"observation": self._source.read_finals(first, int(rows.max()) + 1)[rows - first]}

    def following(self) -> Mapping[int, Mapping[str, Any]]:
        return {}


def _moved(parts: Parts, first: int) -> Parts:
    return Parts(parts.start - first, parts.length, parts.stride, parts.trajectory, parts.offset, parts.final)


class RowTally:
    """Counts the trajectories of rows: in the order of the table, open ones after those that have ended and
    in the order of their environments; or, if those are to be taken as `cut` off, in that of the table."""

    def __init__(
        self,
        laid: Laid,
        crew: Crew,
        *,
        cut: bool = False,
        loose: bool = True,
        each: Collection[str] | None = None,
    ) -> None:
        """`loose`: whether rows of no trajectory count; `each` as a Tally takes it."""
        self._laid, table = laid, laid.table
        self._user = [name for name in table if name not in TRAJECTORIES and name != "open"]
        columns = {name: Field(table[name].dtype, table[name].shape[1:], "extra") for name in self._user}
        self.tally = Tally(laid.fields, columns, crew, each=each)
        self._table = in_order(table, cut=cut)
        self._place = _places_of(laid.parts, self._table["trajectory"])
        """For each part the place of its trajectory; -1: it does not count."""
        self._last = _last_parts(laid.parts)
        self._following = laid.following()
        self._stories: dict[int, Story] = {}
        self._loose = self.tally.story() if loose else None
        self._goes_on = np.zeros(0, np.int64)
        """Parts that the next window has rows of."""
        self._next = 0
        """The first part that no window has had a row of."""

    def run(self) -> tuple[dict[str, str], dict[str, str]]:
        """As `Tally.finish`."""
        laid, tally, loose = self._laid, self.tally, self._loose or self.tally.story()
        gaps, lengths = laid.parts.between(0, len(laid))
        if self._loose is None:
            gaps, lengths = gaps[:0], lengths[:0]
        for start, stop in laid.windows():
            pieces = self._pieces(start, stop)
            low, high = np.searchsorted(gaps + lengths, start, "right"), np.searchsorted(gaps, stop)
            free = list(zip(gaps[low:high].tolist(), lengths[low:high].tolist(), strict=True))
            if not len(pieces[0]) and not free:
                continue
            windows = tally.windows(laid.read(start, stop))
            part, first, after, done = pieces
            for at in range(0, len(part), SOME):
                some = slice(at, at + SOME)
                self._take(part[some], first[some], after[some], done[some], windows)
            for gap, length in free:
                begin, end = max(gap, start), min(gap + length, stop)
                tally.add(loose, windows, begin - start, end - start)
            tally.turn()
        self._tell()
        return tally.finish(self._loose)

    def _pieces(self, start: int, stop: int) -> tuple[Rows, Rows, Rows, NDArray[np.bool_]]:
        """(part, first row and row after the last one in the window, whether it ends there) of the parts that
        count and have rows in a window; windows come in order."""
        parts = self._laid.parts
        end = int(np.searchsorted(parts.start, stop))
        part = np.concatenate([self._goes_on, np.arange(self._next, end)])
        self._next = end
        begin, stride, length = parts.start[part], parts.stride[part], parts.length[part]
        low = np.maximum(0, -(-(start - begin) // stride))
        high = np.minimum(length, -(-(stop - begin) // stride))
        done = high == length
        self._goes_on = part[~done]
        kept = (high > low) & (self._place[part] >= 0)
        first, after = begin + low * stride - start, begin + (high - 1) * stride + 1 - start
        return part[kept], first[kept], after[kept], done[kept]

    def _take(
        self, part: Rows, first: Rows, after: Rows, done: NDArray[np.bool_], windows: list[Window]
    ) -> None:
        parts, tally = self._laid.parts, self.tally
        final = parts.final[part]
        ends = done & (final >= 0)
        seen = iter(tally.seen(self._laid.finals(final[ends])) if ends.any() and tally.observations else ())
        columns = (part, first, after, parts.stride[part], done, self._place[part], self._last[part], final)
        for _, begin, end, stride, whole, place, last, number in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            story = self._stories.get(place)
            if story is None:
                story = self._stories[place] = tally.story()
            tally.add(story, windows, begin, end, stride)
            if not whole:
                continue
            if number >= 0 and tally.observations:
                story.follow(next(seen))
            if last:
                self._close(self._stories.pop(place), place, followed=number >= 0)

    def _close(self, story: Story, place: int, *, followed: bool) -> None:
        tally, table = self.tally, self._table
        after = self._following.get(int(table["trajectory"][place])) if not followed else None
        if after is not None and tally.observations:
            story.follow(tally.seen(after)[0])
        told = {name: np.ascontiguousarray(table[name][place]).tobytes() for name in self._named}
        if "split" in told:
            told["split"] = str(table["split"][place]).encode()
        story.labels = tally.named(told)
        tally.close(story, place)

    @cached_property
    def _named(self) -> list[str]:
        """Columns that are part of a trajectory's own digest."""
        every = set(self.tally.each)
        return [name for name in self._table if name in every or f"column {name}" in every]

    def _tell(self) -> None:
        table = self._table
        for name in ("seed", "env", "terminated", "truncated", "open"):
            dtype = np.int64 if name in ("seed", "env") else np.bool_
            self.tally.label(name, np.asarray(table[name], dtype))
        for at in range(0, len(table["split"]), SOME):
            self.tally.label("split", texts(table["split"][at : at + SOME].tolist()))
        for name in self._user:
            self.tally.label(name, table[name])


def in_order(table: Mapping[str, NDArray[Any]], *, cut: bool = False) -> dict[str, NDArray[Any]]:
    """A table of trajectories in the order in which they count: open ones come after those that have ended,
    in the order of their environments. `cut`: they have ended, where they are."""
    going = np.zeros(len(table["open"]), np.bool_) if cut else np.asarray(table["open"], np.bool_)
    order = np.lexsort((np.where(going, table["env"], 0), going))
    columns = {**table, "open": going}
    if (order[1:] > order[:-1]).all():
        return columns
    return {name: column[order] for name, column in columns.items()}


def _places_of(parts: Parts, trajectories: Rows) -> Rows:
    if not len(trajectories):
        return np.full(len(parts), -1)
    order = np.argsort(trajectories, kind="stable")
    at = np.minimum(np.searchsorted(trajectories, parts.trajectory, sorter=order), len(order) - 1)
    return np.where(trajectories[order[at]] == parts.trajectory, order[at], -1)


def _last_parts(parts: Parts) -> NDArray[np.bool_]:
    """Whether each part is the last one of its trajectory."""
    owner = parts.trajectory[parts.order]
    found = np.zeros(len(parts), np.bool_)
    found[parts.order] = np.append(owner[1:] != owner[:-1], True)[: len(owner)]
    return found
