"""The writing half of a buffer: steps, fields and columns, and the commits that make them safe.

A buffer open for writing goes on to each commit that it makes. Writing is for one thread, and one process, at
a time: an operation that was interrupted half way takes the buffer back to its last commit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.naming import check_more, check_name
from replaystore.arrays.reading import StoreReader
from replaystore.buffers.given import Given, checked_columns, given_steps
from replaystore.buffers.growing import Growing
from replaystore.buffers.opening import open_container
from replaystore.buffers.recorder import Recorder
from replaystore.buffers.writer import Writer
from replaystore.errors import (
    ConflictError,
    SchemaError,
    UnsupportedError,
)
from replaystore.interrupts import Operations
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.storage.locks import Lock
from replaystore.storage.places import places_of
from replaystore.trajectories.opened import attachments_of, to_numbers
from replaystore.trajectories.pieces import NOTHING_FOLLOWS, Pieces
from replaystore.views.column import Column
from replaystore.views.foreign_ring import counts_appends
from replaystore.views.ragged_column import RaggedColumn
from replaystore.views.reader import BufferReader

__all__ = ["Recording"]

Columns = Mapping[str, Any]
_BRINGING = "a function that makes the values of a new field only reads: write when it has ended"


class Recording(BufferReader):
    """What can be written to a buffer."""

    def __init__(
        self,
        place: Location,
        store: StoreReader,
        document: documents.Document,
        *,
        lock: Lock | None,
        reopen: Callable[[str, int, str], Column | RaggedColumn],
        open_commit: Callable[[str, int], BufferReader],
    ) -> None:
        """`reopen`: (location, commit, field) → the column, in another process. `open_commit`: (location,
        commit) → another buffer, which shows that."""
        super().__init__(place, store, document)
        self._reopen, self._open_commit = reopen, open_commit
        self._lock = lock or Lock()
        self._process = os.getpid()
        self._operations = Operations(place)
        self._gone_back = ""
        """Says what was interrupted, and given up by it, once the last commit is shown again."""
        self._writers: list[Writer] = []
        self._growing: Growing | None = None
        self._bringing = False
        """Values of new fields are made, by a function that may read."""
        if isinstance(store, ArrayStore):
            self._start(store)

    def _start(self, store: ArrayStore) -> None:
        """Be ready to write."""
        store.whole_tables = counts_appends(self._document.extensions)
        self._recorder = Recorder(
            store,
            self.schema,
            opened=self.open_trajectories(),
            check=self._check_rows,
        )
        if self._growing is not None:
            self._growing.renew(self._recorder)

    def _check_rows(self) -> None:
        """Whether rows may be written now."""
        self._lock.check(often=True)
        if self._bringing:
            raise ConflictError(_BRINGING)

    def reopened(self, name: str) -> tuple[Any, ...]:
        """As `Source.reopened` says; of a commit of a store that other processes can open."""
        if not places_of(self._place).shared_between_processes:
            raise UnsupportedError(
                f"{self.where} is in the memory of this process: convert it to a store on a disk, and "
                "send that"
            )
        return self._reopen, (self.whereabouts.text, self.commit_id, name)

    @property
    def mode(self) -> str:
        """ "r+" if the buffer is open for writing, else "r"."""
        return "r+" if isinstance(self._store, ArrayStore) else "r"

    def append(
        self,
        columns: Columns,
        *,
        final_observation: Any = None,
        env: int = 0,
        split: str = "",
        ends: Sequence[int] | None = None,
        seed: int | Sequence[int | None] | None = None,
    ) -> None:
        """Append consecutive steps of one environment. They are safe, and visible, after `commit`.

        Args:
            columns: one array or tensor of shape (steps, *field shape) for each field, of exactly its dtype
                (a tensor of bfloat16 is one of float32, which holds it); nested observations, actions and
                rewards as dicts or tuples of them, or by field name.
            final_observation: one row for each trajectory that the steps touch, in order: the observation
                after its last step here. For a single trajectory also a single observation. Without it, what
                followed the last steps is unknown.
            env: which environment; what follows the last end is an open trajectory that its next `append`
            continues.
            split: the split of trajectories that begin here.
            ends: where trajectories end (places of their last steps in `columns`), if not where `terminated`
            or `truncated` says so.
            seed: what the environment was reset with, where the first trajectory begins that begins here; or
            a list of seeds (None: unknown), one for each that begins.

        Raises:
            SchemaError: a missing or unknown field, a wrong dtype or shape; nothing is appended then.
            StorageError: the disk refused; nothing is appended then.
        """
        self._writable()
        given = self.given(
            columns, final_observation=final_observation, env=env, split=split, ends=ends, seed=seed
        )
        self.fit([given])
        if given.count:
            self.append_given([given])

    def given(self, columns: Columns, **told: Any) -> Given:
        """Steps as `append` takes them, checked, for `append_given`; any thread may call this. `cut`: the
        trajectory that is open in their environment is cut off before them; they may be none then."""
        return given_steps(self.schema, self._recorder.observed, columns, **told)

    def fit(self, given: Sequence[Given]) -> None:
        """Whether these can be appended now, in this order. SchemaError, ConflictError: not so."""
        self._writable()
        for steps in given:
            if any(steps.env < writer.num_envs for writer in self._writers):
                raise ConflictError(
                    f"{self._place}: environment {steps.env} belongs to the writer: close it first, "
                    "or append as another environment"
                )
            if steps.schema is not self.schema:
                raise SchemaError(f"{self._place}: fields were added meanwhile: steps have these too")
        self._recorder.fit(given)

    def append_given(self, given: Sequence[Given]) -> None:
        """Append what fits; single steps of several environments, one behind the other, as those of one
        moment. After an error some of them may have been appended."""
        self._writable()
        with self._operations("append"):
            for writer in self._writers:
                writer.hand_over()  # rows lie in the order of calls, however often a writer is flushed
            self._recorder.append_given(given)

    def open_environments(self) -> list[int]:
        """The environments in which a trajectory is open, as what was appended has them."""
        self._writable()
        return sorted(self._recorder.assembler.going.opened_envs())

    def append_loose(self, columns: Mapping[str, Any]) -> None:
        """Append steps of no trajectory; an open one of environment 0 is cut off."""
        self._writable()
        flat, count = checked_columns(self.schema, columns)
        with self._operations("append"):
            for writer in self._writers:
                writer.hand_over()
            self._recorder.cut([0])
            self._recorder.add(flat, count, Pieces.of(0), None, {}, NOTHING_FOLLOWS)

    @property
    def rows_recorded(self) -> int:
        """Steps written so far, committed or not, dropped or not; of a buffer open for writing."""
        self._writable()
        return self._recorder.rows + sum(writer.staged for writer in self._writers)

    def flush(self) -> None:
        """Hand over what writers have staged: the steps are rows then, which a commit makes safe."""
        self._writable()
        for writer in self._writers:
            writer.hand_over()

    def look(self) -> None:
        """Have `growth` tell of what writers have staged, as if it were rows already; who reads those calls
        `flush` first.

        Most steps are seen by many batches before one of them draws it: what one call for each step costs is
        then paid once for several."""
        self._writable()
        for writer in self._writers:
            steps = writer.going_on
            if steps is None or self._growing is None or not self._growing.count_in(steps, writer.num_envs):
                writer.hand_over()

    @property
    def growth(self) -> Growing:
        """How the buffer grows while it is written to, for who follows it in this process; staged steps are
        part of it after `flush` or `look`."""
        self._writable()
        if self._growing is None:
            if self._recorder.handed_over:
                self.commit()
            self._growing = Growing(self._recorder, self.capacity, self.final_rows)
        return self._growing

    def writer(self, num_envs: int = 1, *, split: str = "") -> Writer:
        """A writer for the steps of several environments. Trajectories that an earlier recording left open
        are cut off."""
        self._writable()
        if self._writers:
            raise ConflictError(
                f"{self._place} has a writer already, of buffer.writer(), Record or RecordVector: close that "
                "first"
            )
        with self._operations("writer"):
            self._recorder.cut_all()
            writer = Writer(
                self._recorder,
                num_envs,
                split=split,
                writable=self._writable,
                operations=self._operations,
                closed=self._writers.remove,
            )
            self._writers.append(writer)
        return writer

    def commit(self, name: str | None = None, *, more: Mapping[str, Any] | None = None) -> int:
        """Make all steps written so far safe and visible, at once; return the number of the commit (the last
        one if nothing is new).

        `name`: a word for the commit, such as "epoch-12", by which it can be opened and gone back to for
        ever. A name that another commit had is that of this one from now on. With a name there is a commit
        even if nothing is new, and so with `more`: what is to be kept in `buffer.more` from this commit on,
        by keys with a dot or a colon (None: no more).

        ArgumentError: no commit can have that name, or keep that. StorageError: the disk refused; what was
        committed before is safe, nothing is lost, and `commit` may be tried again (after a failed sync only
        by opening the buffer anew)."""
        self._writable()
        if name is not None:
            check_name(name)
        kept = None if more is None else check_more(more)
        with self._operations("commit"), self.turn:
            return self._commit(name, more=kept)

    def forget(self, name: str) -> int:
        """Take its name from a commit, which from then on is kept no longer than one that never had a name; a
        ring gives back the rows that it kept for it. Everything written so far is committed with this;
        return the number of the commit.

        A name that was taken back stays so, also when an older commit is gone back to. NotFoundError: no
        commit has the name."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        self._store.number_of(check_name(name))
        with self._operations("forget"), self.turn:
            return self._commit(forget=name)

    def _commit(
        self,
        name: str | None = None,
        forget: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> int:
        self._lock.check()
        for writer in self._writers:
            writer.hand_over()
        recorder = self._recorder
        first = None
        if self.capacity is not None:
            first = {"steps": max(0, recorder.rows - self.capacity)}
        if not recorder.waiting and name is None and forget is None and not more:
            return self.commit_id
        number = recorder.commit(first=first, name=name, forget=forget, more=more)
        self._moved()
        return number

    def publish(self) -> None:
        """Commit, and let other software that opens the files itself (h5py, zarr-python, …) see all steps;
        `close` does this too, and `zarr_store` needs neither."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        with self._operations("publish"), self.turn:
            self._commit()
            self._store.publish()

    def rollback(self, commit: int | str) -> None:
        """Go back to an older commit, given by its number or its name: what was committed after it, and what
        is not committed, is given up, names of such commits too.

        A new commit shows then what that one showed. Steps that are given up have no number any more: those
        that come then get theirs, so that an `index` drawn before is not to be used. Samplers go on by their
        `refresh`, with priorities as they were set last, and by `load_state_dict` as they were at the commit.

        Readers that have the buffer open go on seeing what they saw, or get a ConflictError until they
        refresh. NotFoundError, EvictedError: there is no such commit, or not any more; of a buffer that has
        got no name yet, and is to begin again with nothing, `create(…, overwrite=True)` makes another."""
        self._writable()
        if self._writers:
            raise ConflictError(f"{self._place} has a writer: close it before rolling back")
        assert isinstance(self._store, ArrayStore)
        self._lock.check()
        commit = self._store.number_of(commit)
        older = BufferReader(self._place, self._store.pin(commit), self._document)
        opened = older.open_trajectories()
        attachments = attachments_of(opened, older.schema.names("observation"))
        told = {"open": to_numbers(opened)}  # of what follows that has left a ring nothing is told any more
        before = self._store.state
        with self._operations("rollback"), self.turn:
            try:
                self._store.rollback(commit, attachments=attachments, extra=told)
            finally:
                # It is done, even if the disk refuses what tidies up after it.
                if self._store.state is not before:
                    self._forget_columns()
                    self._moved()
                    self._schema = self._visible_schema()
                    self._start(self._store)

    def _replace_document(self, **sections: Any) -> None:
        assert isinstance(self._store, ArrayStore)
        self._lock.check()
        document = self._document.replace(**sections)
        with self._store.storage("replace the document"):
            self._store.container.replace_document(document.to_json())
        self._document = document

    def _is_interrupted(self) -> bool:
        """Whether an operation was interrupted, so that what is in memory may be half of it. Then the last
        commit is shown again."""
        if self._gone_back or not (what := self._operations.interrupted):
            return bool(self._gone_back)
        half = self._store
        container = open_container(self.whereabouts, writable=False)
        try:
            self._store = StoreReader(container, StoreReader.load(container))
            self._store.keep_tails()
            self._document = documents.parse(container.document(), self.where)
            self._forget_columns()
            self._moved()
            self._schema = self._visible_schema()
        except BaseException:
            container.close()
            self._store = half
            raise
        self._gone_back = (
            f"{self._place}: {what} was interrupted, so that steps since commit {self.commit_id} that were "
            "not committed are lost; "
            "close it, and open it again to go on"
        )
        half.close()
        return True

    def check_open(self) -> None:
        super().check_open()
        self._is_interrupted()

    def _writable(self) -> None:
        self.check_open()
        if self._gone_back:
            raise ConflictError(self._gone_back)
        if not isinstance(self._store, ArrayStore):
            raise ConflictError(f'{self._place} is open for reading: open it with mode="r+" to write')
        if self._bringing:
            raise ConflictError(f"{self._place}: {_BRINGING}")
        # Two processes that believe to be the writer would write over each other's commits.
        if os.getpid() != self._process:
            raise ConflictError(
                f"{self._place} was opened for writing by the process that this one was "
                "forked from: only that one writes"
            )
