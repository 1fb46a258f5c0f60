"""Which part of the past the commit log keeps: the newest commits, so many as `State.keep_commits` says, and
those that have names.

Segments that hold only older commits go when a new one begins. Of a named commit among them one record is
kept, in a segment of its own, which says all of it. So the log has at most that many commits (and those that
share a segment with them), and a record for each name.

Invariants:
1. What a named commit needs is durable before the segment that it was in goes.
2. Half of it done is no damage: each segment that is there is whole, and the next time goes on.
3. What has gone is known: the base record says so before it goes.
4. It costs what is new: of segments that were looked at before, their numbers alone are looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from google_crc32c import extend

from replaystore.arrays import records
from replaystore.arrays.appending import Appender
from replaystore.arrays.naming import Named
from replaystore.arrays.state import State, Stored
from replaystore.containers.protocol import Container
from replaystore.containers.records import encode_record
from replaystore.errors import CorruptError, NotFoundError

__all__ = ["Keeper"]


class Keeper(Appender):
    """A store whose commit log is kept short."""

    def __init__(self, container: Container, state: State, *, durable: bool) -> None:
        super().__init__(container, state, durable=durable)
        self._settings: dict[str, int] = {}
        """What the next commit says of how much of the past is kept."""
        self._looked_at = 0
        """Of segments of the log before this commit, what nobody needs has gone."""
        self._begun: list[tuple[int, int]] = []
        """Of a ring: the newest segments that this writer has begun, and the first step that each showed."""

    def keep(self, *, commits: int | None = None, named: int | None = None) -> None:
        """Keep so many of the newest commits, and in a ring the rows of so many of the newest named ones,
        from now on. The next commit says so."""
        wanted = {"keep_commits": commits, "keep_named": named}
        self._settings = {
            key: value
            for key, value in wanted.items()
            if value is not None and value != getattr(self.state, key)
        }

    def _settle(self, state: State) -> None:
        """Have a state, which a base record is to say, keep what is wanted from now on."""
        for setting, value in self._settings.items():
            setattr(state, setting, value)

    def _horizon(self) -> int:
        """Commits before this one need not be kept, once a segment begins with the newest; those that have
        gone never come back."""
        state = self.state
        horizon = max(state.pruned, state.commit - state.keep_commits + 1)
        if "steps" not in state.first or state.names:
            return horizon
        # No commit of a ring can be opened some of whose rows have gone; the newest segments help repairs.
        if not self._begun or self._begun[-1][0] < state.commit:
            self._begun.append((state.commit, state.first["steps"]))
        gone = [base for base, first in self._begun[:-1] if first < state.gone.get("steps", 0)]
        self._begun = self._begun[max(0, len(gone) - 1) :]
        return max(horizon, *gone[-1:], 0)

    def _forget_old(self) -> None:
        """Remove the segments of the log that nobody needs; after a new one has begun."""
        names = sorted((named.commit, name) for name, named in self.state.names.items())
        numbers = [commit for commit, _ in names]
        horizon, kept, removed = self.state.pruned, dict[int, bytes](), list[int]()
        before, self._looked_at = self._looked_at, horizon
        for segment, successor in pairwise(self.container.segments()):
            if successor > horizon:
                break
            inside = names[bisect_left(numbers, segment) : bisect_left(numbers, successor)]
            if [commit for commit, _ in inside] != [segment] or segment >= before:
                try:
                    kept |= self._records(segment, inside) if inside else {}
                except (CorruptError, NotFoundError):  # all stays as it is, for repairs
                    return
                if not inside or inside[0][0] != segment:
                    removed.append(segment)
        if kept or removed:
            self.container.replace_segments(kept, removed)

    def _records(self, segment: int, names: Sequence[tuple[int, str]]) -> dict[int, bytes]:
        """A record for each of these commits of a segment, which says all of it."""
        found: dict[int, bytes] = {}
        wanted, state = dict(names), State()
        for meta, blobs, _ in records.decode_records(self.container.read_segment(segment)):
            if meta.get("base"):
                state = records.begin(meta, blobs)
            else:
                records.follow(state, meta, blobs)
            name = wanted.get(state.commit)
            if name is not None and state.commit not in found:
                found[state.commit] = encode_record(*_alone(state, name).to_base())
        for commit in wanted.keys() - found.keys():  # it has been left in an older one
            state = self._as_of(commit, self.container.segments(), f"{self}: commit {commit}")
            found[commit] = encode_record(*_alone(state, wanted[commit]).to_base())
        return found


def _alone(state: State, name: str) -> State:
    """A state whose tables' rows are all in their arrays, as they are when a newer segment has begun; it
    knows no other name."""
    for table, blobs in state.appended.items():
        rows, checksum, first = state.tables.get(table, Stored())
        data = b"".join(blobs)
        count = len(data) // state.arrays[table].row_bytes
        state.tables[table] = Stored(rows + count, extend(checksum, data), first)
    state.appended = {}
    state.names, state.dead = {name: Named(state.commit, dict(state.first))}, []
    return state
