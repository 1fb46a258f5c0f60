"""The commits of a store: the one that is shown, what it says there is, and going on to newer ones.

A reader needs no lock and no recovery: it believes the newest valid record of the commit log and nothing
beyond it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from replaystore.arrays import records
from replaystore.arrays.records import decode_records
from replaystore.arrays.state import State
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Container
from replaystore.errors import ConflictError, CorruptError, EvictedError, NotFoundError
from replaystore.forks import renew_in_children
from replaystore.refusals import named
from replaystore.schema import tree

__all__ = ["ATTEMPTS", "History"]

ATTEMPTS = 16
"""How often a reader looks again when a writer is faster than it."""


class History:
    """A container as of a commit of its log."""

    def __init__(self, container: Container, state: State, *, newest: State | None = None) -> None:
        self.container = container
        self.state = state
        self._learn(newest or state)
        self._identity = container.identity()
        self._newest = newest
        """For a reader of an older commit: the commit that knows where everything lies by now."""
        self._compared: tuple[int, int] | None = None
        """A newer segment of the log than that of the commit, and the generation that it has."""
        self.stays = newest is not None
        """Whether `refresh` leaves it at its commit."""
        self.state_lock = threading.RLock()
        """Held while the state changes, and while a table is made of it: a thread may sample while another
        one commits."""
        renew_in_children(self, "state_lock")

    @classmethod
    def load(cls, container: Container, *, skip_damaged: bool = False) -> State:
        """The newest state. `skip_damaged`: of the newest segment of the log that can be read, for
        repairs."""
        for _ in range(ATTEMPTS):
            segments = container.segments()
            if not segments:
                raise CorruptError(f"{container.path}: there is no commit log; run `replaystore repair`")
            for segment in reversed(segments):
                try:
                    return cls._replay(container, segment)
                except (FileNotFoundError, CorruptError):
                    if skip_damaged and segment != segments[0]:
                        continue
                    if container.segments() == segments:
                        raise
                    break
        raise ConflictError(
            f"{container.path}: the commit log changed {ATTEMPTS} times while it was read; try again"
        )

    @staticmethod
    def _replay(container: Container, segment: int, *, until: int | None = None) -> State:
        """The state at the end of a segment, or at a commit of it."""
        state = records.replay(container.read_segment(segment), container.path, until=until)
        if state.base != segment:
            what = (
                f"the segment of the commit log that is to begin with commit {segment} begins with "
                f"commit {state.base}"
            )
            raise CorruptError(f"{container.path}: {what}; run `replaystore repair`")
        return state

    def __str__(self) -> str:
        return named(self.container.path)

    # --- what there is

    def _learn(self, state: State) -> None:
        """Where metadata of arrays are far, what the log says of them is believed without reading them."""
        if self.container.files.far:
            self.container.learn(state.arrays)

    def check_arrays(self) -> None:
        """CorruptError: an array that the commit speaks of is missing, or its metadata say something else
        than the commit."""
        for name, what in self.array_problems():
            raise CorruptError(f"{self}: the array {name} {what}; run `replaystore repair`")

    def array_problems(self) -> Iterator[tuple[str, str]]:
        """In what the metadata of arrays are not what the commit log, which has a checksum, says of them."""
        specs = self.container.specs()
        for name, spec in self.state.arrays.items():
            found = specs.get(name)
            if found is None:
                yield name, "or its metadata is missing"
            elif found != spec:
                was, now = spec.to_json(), found.to_json()
                differing = [key for key in {**was, **now} if was.get(key) != now.get(key)]
                told = ", ".join(f"{key} {now.get(key)}, not {was.get(key)}" for key in differing)
                yield name, f"is described as something else than what was made: {told}"

    def spec(self, name: str) -> ArraySpec:
        """How an array is stored: of the commit, or one that is to be part of the next."""
        known = self.state.arrays.get(name) or self.container.specs().get(name)
        if known is None:
            self.check_generation()
            raise CorruptError(f"{self}: there is no array {name}; run `replaystore verify`")
        return known

    def specs(self) -> dict[str, ArraySpec]:
        """The arrays that hold rows of the user's, by name."""
        specs = self.container.specs()
        return {
            name: specs[name]
            for name in self.state.arrays
            if name in specs and not (tree.is_checksums(name) or tree.is_journal(name))
        }

    @property
    def places(self) -> State:
        """The state that says where chunks lie: the newest one known."""
        return self._newest or self.state

    def rows(self, name: str) -> int:
        """Rows of an array as of the commit, dropped ones included."""
        if tree.is_checksums(name):
            array = tree.checked_by(name)
            return self.rows(array) // self.spec(array).chunk_rows
        return self.state.lengths.get(tree.group_of(name), 0)

    def changes(self, name: str) -> int:
        """How many changes of its rows an array has as of the commit."""
        return self.state.lengths.get(tree.group_of(tree.changes_of(name)[0]), 0)

    def first(self, name: str) -> int:
        """The first row of an array that is kept: `table` begins with it."""
        group = tree.group_of(name)
        if tree.is_checksums(name):
            array = tree.checked_by(name)
            return self.state.dropped.get(tree.group_of(array), 0) // self.spec(array).chunk_rows
        return (self.state.first if tree.has_first(group) else self.state.dropped).get(group, 0)

    def kept(self, name: str) -> int:
        """The first row of an array that is there, for the commit or for named ones."""
        return self.state.needed(tree.group_of(name))

    # --- commits

    def refresh(self) -> bool:
        """Go on to the newest commit; whether there was one. A reader of an older commit stays where it
        is."""
        if self.stays:
            return False
        with self.state_lock:
            return self._refresh()

    def _refresh(self) -> bool:
        before = self.state.commit
        for _ in range(ATTEMPTS):
            if self.container.files.far:
                self.container.announce_segments({self.state.base: self.state.end}, look=True)
            place, segments = self._look()
            if segments and segments[-1] == self.state.base and place == self._identity:
                try:
                    data = self.container.read_segment(self.state.base, self.state.end)
                except (FileNotFoundError, NotFoundError, CorruptError):
                    if self._look()[1][-1:] == segments[-1:]:
                        raise
                    continue  # a writer has begun another one, and removed this
                start = self.state.end
                for meta, blobs, end in decode_records(data, self.state):
                    if meta.get("arrays") or meta.get("forked"):
                        self.container.refresh()
                    records.follow(self.state, meta, blobs)
                    self.state.end = start + end
                records.check(self.state, arrays=False)
                self._learn(self.state)
                break
            self.container.refresh()
            identity = self.state.identity
            place, found = self.container.identity(), self.load(self.container)
            self._check_store(found, place)
            self._learn(found)
            self.state, self._identity = found, place
            if found.identity != identity:
                self._forget_tables()
            if self.state.identity == identity and self.container.segments()[-1] == self.state.base:
                break
        if self.state.commit != before:
            self._forget_tails()
        return self.state.commit != before

    def _look(self) -> tuple[object, list[int]]:
        """Who has the place, and the segments of the log that are there: no older than that."""
        if self.container.files.lists:
            return self.container.identity(), self.container.segments()
        segments = self.container.segments()  # which says who has the place, too
        return self.container.identity(), segments

    def _forget_tables(self) -> None:
        """Forget what was made of another segment of the log."""

    def _forget_tails(self) -> None:
        """Forget what was read for another commit."""

    # --- what another process has done meanwhile

    def check_generation(self) -> None:
        """ConflictError if another process has rolled the store back: what was opened last may not fit what
        was opened before.

        To be called *after* opening: a rollback is in the log before any object gets a new identity, as the
        base of a new segment."""
        if self.container.writable:
            return
        place, segments = self._look()
        generation = self.places.generation
        if place == self._identity and (
            segments[-1:] == [self.places.base] or (*segments[-1:], generation) == self._compared
        ):
            return
        found = self.load(self.container)
        self._check_store(found, place)
        self._identity = place
        if found.generation != generation:
            raise ConflictError(f"{self}: another process went back to an older commit; refresh or reopen")
        self._compared = found.base, generation

    def _check_store(self, found: State, place: object) -> None:
        """ConflictError if what is under the name now is another store; CorruptError if it is this one, with
        a log that is not its own."""
        if found.store == self.state.store:
            return
        if place == self._identity == self._look()[0]:
            raise CorruptError(
                f"{self}: a segment of the commit log is that of another store; run `replaystore repair`"
            )
        raise ConflictError(f"{self}: another store has taken its place; open it again")

    def check_missing(self) -> None:
        """Why something that the commit speaks of is not there: ConflictError, or EvictedError if a ring has
        gone on; else it is damage."""
        self.check_generation()
        if not self.container.writable:
            newest = self.load(self.container)
            for gone, known in ((newest.gone, self.state.first), (newest.dropped, self.state.dropped)):
                for group, row in gone.items():
                    if row > known.get(group, 0):
                        raise EvictedError(f"{self}: {group} rows before {row} have left the ring; refresh")

    def close(self) -> None:
        self.container.close()
