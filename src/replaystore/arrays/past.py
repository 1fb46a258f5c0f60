"""The commits that can be opened: what there are, and the state of a store as of one of them.

The log loses segments while it is looked at, when a writer goes on: then it is looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from replaystore.arrays.history import ATTEMPTS, History
from replaystore.arrays.naming import check_commit
from replaystore.arrays.records import decode_records
from replaystore.arrays.state import State, first_row
from replaystore.errors import ConflictError, CorruptError, EvictedError, NotFoundError
from replaystore.schema import tree

__all__ = ["Commit", "Past"]

AHEAD = 16
"""Segments of a log that is far away which are asked for at once."""

ANEW = "to begin with nothing, create another buffer in its place (overwrite=True)"
Found = TypeVar("Found")


@dataclass(frozen=True)
class Commit:
    """A commit of the log, in short."""

    commit: int
    time: float
    lengths: dict[str, int]
    first: dict[str, int]
    name: str | None = None

    def rows(self, group: str) -> int:
        """Rows of a group that it shows."""
        return self.lengths.get(group, 0) - self.first.get(group, 0)


class Past(History):
    """A container as of a commit of its log, and the older commits of that."""

    def commits(self) -> list[Commit]:
        """The commits that can be opened, oldest first."""
        return self._settled(self._commits)

    def _settled(self, look: Callable[[list[int]], Found]) -> Found:
        """What is found in the log's segments, looked for again while a writer goes on and removes some."""
        segments = self.container.segments()
        for _ in range(ATTEMPTS):
            try:
                return look(segments)
            except (FileNotFoundError, NotFoundError, CorruptError):
                if self.container.writable:
                    raise
                self.container.refresh()
                before, segments = segments, self.container.segments()
                if segments == before:
                    raise
        raise ConflictError(f"{self}: the commit log changed {ATTEMPTS} times while it was read; try again")

    def _commits(self, segments: Sequence[int]) -> list[Commit]:
        newest, found = self.state, dict[int, Commit]()
        names = {named.commit: name for name, named in newest.names.items()}
        for at, segment in enumerate(segments):
            if at % AHEAD == 0 and self.container.files.far:
                self.container.announce_segments(dict.fromkeys(segments[at : at + AHEAD], 0))
            first: dict[str, int] = {}
            for meta, _, _ in decode_records(self.container.read_segment(segment)):
                if meta.get("forked"):
                    continue
                number, first = meta["commit"], first | meta.get("first", {})
                evicted = any(row > first_row(first, group, row) for group, row in newest.gone.items())
                if number <= newest.commit and not newest.is_dead(number) and not evicted:
                    lengths, name = dict(meta["lengths"]), names.get(number)
                    found[number] = Commit(number, meta["time"], lengths, first, name)
        return [found[number] for number in sorted(found)]

    def number_of(self, commit: int | str) -> int:
        """The number of a commit that is given by it, or by its name. NotFoundError: none has that name.
        ArgumentError: it is neither."""
        commit = check_commit(commit)
        if not isinstance(commit, str):
            return commit
        names = self.places.names
        if commit not in names:
            known = (
                f"the newest of {len(names)} names is {next(reversed(names))!r}"
                if names
                else "none has a name"
            )
            raise NotFoundError(
                f"{self}: no commit has the name {commit!r:.100}; {known} "
                "(buffer.commits(), or `replaystore info --commits`, lists what can be opened)"
            )
        return names[commit].commit

    def find(self, commit: int | str, *, whole: bool = True) -> State:
        """As `at`, of a commit that is given by its number or its name. ConflictError: a writer has taken the
        name from it meanwhile, so that it may be gone."""
        number = self.number_of(commit)
        try:
            return self.at(number, whole=whole)
        except (NotFoundError, EvictedError) as error:
            if isinstance(commit, str) and not self.container.writable:
                self.container.refresh()
                named = self.load(self.container).names.get(commit)
                if named is None or named.commit != number:
                    now = "of none" if named is None else f"of commit {named.commit}"
                    raise ConflictError(
                        f"{self}: {commit!r} is the name {now} by now, not of {number}; open it again"
                    ) from error
            raise

    def at(self, commit: int, *, whole: bool = True) -> State:
        """The state as of an older commit. NotFoundError: it cannot be had any more; EvictedError: nor can
        all of its rows, if it is to be `whole`."""
        newest = self.state
        if commit == newest.commit:
            return newest
        where = f"{self}: commit {commit}"
        if commit > newest.commit or commit < 0:
            raise NotFoundError(f"{where} does not exist; the newest is {newest.commit}")
        if newest.is_dead(commit):
            raise NotFoundError(f"{where} was rolled back; buffer.commits() lists what can be opened")
        state = self._settled(lambda segments: self._as_of(commit, segments, where))
        left = [
            (group, row) for group, row in newest.gone.items() if row > first_row(state.first, group, row)
        ]
        if whole and left:
            group, row = left[0]
            needs = f"{where} needs {group} rows before {row}, which have left the ring"
            if state.lengths.get(group, 0) > state.first.get(group, 0):
                raise EvictedError(
                    f"{needs}; of its named commits a ring keeps the rows of the newest {newest.keep_named} "
                    "(keep_named says how many; buffer.commits(), or `replaystore info --commits`, lists "
                    "what can be opened)"
                )
            raise EvictedError(f"{needs}, to have no steps; {ANEW}")
        # Of tables it is told all that the commit shows, or that some of it is not there any more.
        state.drop({group: row for group, row in newest.dropped.items() if tree.has_first(group) or not left})
        return state

    def rows_since(self, generation: int, group: str) -> int:
        """How many rows of a group are those that there were in that generation: no rollback since has given
        them up. 0: nobody knows any more."""
        later = self.state.dead[generation:]
        if not later:
            return self.state.lengths.get(group, 0) if self.state.generation == generation else 0
        first = min(first for first, _ in later)
        last = max(last for begin, last in later if begin == first)
        for commit in (last + 1, first - 1):  # that of the rollback has the rows of the one that it went to
            with suppress(NotFoundError):
                return self.at(commit, whole=False).lengths.get(group, 0)
        return 0

    def _as_of(self, commit: int, there: Sequence[int], where: str) -> State:
        segments = [base for base in there if base <= commit]
        named = any(known.commit == commit for known in self.places.names.values())
        # A writer that was killed while it kept named commits of a segment has left others of them behind.
        for base in reversed(segments if named else segments[-1:]):
            state = self._replay(self.container, base, until=commit)
            if state.commit == commit:
                return state
        raise NotFoundError(
            f"{where} is older than the history that is kept, which are the commits from "
            f"{self.places.pruned} on and those that have names (keep_commits, {self.places.keep_commits}, "
            "says how many of the newest)" + (f"; {ANEW}" if commit == 0 else "")
        )
