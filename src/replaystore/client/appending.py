"""A served buffer that is open for writing: it is read as any, by ranges of its files, and what is written
goes to the server, which has the one writer of the store.

What `append` and writers are given is sent at once, in the background, and is durable, and seen by others,
soon after. `commit` waits until all of it is; the buffer shows it then.

Environments are this buffer's own: the store has other numbers for them, which no other writer has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Never

from replaystore.arrays.naming import check_name
from replaystore.arrays.reading import StoreReader
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.given import Given, given_steps
from replaystore.client.addresses import Address
from replaystore.client.runs import Run, cut, run_of
from replaystore.client.sending import Sending
from replaystore.client.server import Server
from replaystore.client.writer import ServedWriter
from replaystore.errors import ConflictError, SchemaError, UnsupportedError
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema.fields import Schema
from replaystore.storage.locks import Lock
from replaystore.trajectories.parts import Parts
from replaystore.views.column import Column
from replaystore.views.ragged_column import RaggedColumn
from replaystore.views.reader import BufferReader

__all__ = ["ServedSteps"]

Columns = Mapping[str, Any]


class ServedSteps(Buffer):
    """What is appended to a store that a server writes."""

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
        self._newest = 0
        """The commit to be shown."""
        super().__init__(place, store, document, lock=lock, reopen=reopen, open_commit=open_commit)
        self._server = Server(Address.of(place.path), str(place))
        self._sending = Sending(self._server)
        self._of: tuple[Schema | None, Schema | None] = None, None
        """A schema, and that of its observations alone."""
        self._open: set[int] = set()
        """Environments in which a trajectory is open, as what was sent has them."""

    @property
    def mode(self) -> str:
        return "r+"

    # --- what is shown

    def check_open(self) -> None:
        super().check_open()
        if self._newest > self._store.state.commit:
            self._catch_up()

    def _catch_up(self) -> None:
        self._newest = 0
        BufferReader.refresh(self)

    def __len__(self) -> int:
        self.check_open()
        return super().__len__()

    @property
    def commit_id(self) -> int:
        if not self._closed:
            self.check_open()
        return super().commit_id

    @property
    def shows(self) -> int:
        self.check_open()
        return super().shows

    @property
    def names(self) -> list[str]:
        self.check_open()
        return super().names

    @property
    def parts(self) -> Parts:
        self.check_open()
        return super().parts

    @property
    def first_row(self) -> int:
        self.check_open()
        return super().first_row

    def refresh(self) -> bool:
        """Go on to the newest commit, which others may have made; whether there was one."""
        return BufferReader.refresh(self)

    # --- steps

    def given(self, columns: Columns, **told: Any) -> Given:
        schema = self.schema
        if schema is not self._of[0]:
            names = schema.names("observation")
            self._of = schema, schema.select(names) if names else None
        return given_steps(schema, self._of[1], columns, **told)

    def fit(self, given: Sequence[Given]) -> None:
        self._writable()
        is_open = set(self._open)
        for steps in given:
            if any(steps.env < writer.num_envs for writer in self._writers):
                raise ConflictError(
                    f"{self._place}: environment {steps.env} belongs to the writer: close it first, "
                    "or append as another environment"
                )
            begin = steps.pieces - (steps.env in is_open and not steps.cut)
            if isinstance(steps.seeds, list) and len(steps.seeds) != begin:
                raise SchemaError(
                    f"there are {len(steps.seeds)} seeds for {begin} trajectories that begin: give one each"
                )
            (is_open.add if steps.count and steps.stays_open else is_open.discard)(steps.env)

    def append_given(self, given: Sequence[Given]) -> None:
        self._writable()
        with self._operations("append"):
            for writer in self._writers:
                writer.hand_over()
            runs = list[Run]()
            is_open = set(self._open)
            for steps in given:
                run = run_of(steps)
                runs += cut(run, self.schema, begins_open=run.env in is_open)
                (is_open.add if run.stays_open else is_open.discard)(run.env)
            self._sending.put(runs)
            self._open = is_open

    def append_loose(self, columns: Columns) -> Never:
        self._cannot("steps of no trajectory are appended")

    @property
    def rows_recorded(self) -> int:
        """Steps that the commit which is shown has, dropped or not: those that are sent get their rows from
        the server."""
        self._writable()
        return self._stop

    @property
    def growth(self) -> Never:
        self._cannot("what no commit has is followed")

    def look(self) -> None:
        self.flush()

    def writer(self, num_envs: int = 1, *, split: str = "") -> Any:
        """A writer for the steps of several environments, which are sent from time to time. Trajectories that
        an earlier recording left open are cut off."""
        self._writable()
        if self._writers:
            raise ConflictError(
                f"{self._place} has a writer already, of buffer.writer(), Record or RecordVector: close that "
                "first"
            )
        writer: Any = ServedWriter(
            self.schema,
            num_envs,
            self._sending.put,
            split=split,
            writable=self._writable,
            operations=self._operations,
            closed=self._writers.remove,
        )
        self._sending.session_of(0, num_envs)
        self._sending.put([Run(env, {}, 0, [], cut=True) for env in sorted(self._open)])
        self._open = set()
        self._writers.append(writer)
        return writer

    def commit(self, name: str | None = None, *, more: Mapping[str, Any] | None = None) -> int:
        """Wait until all steps written so far are durable, and visible to everybody; the number of a commit
        that has them, which is shown from now on.

        `name`: a word for that commit. StorageError: the server does not answer, or its disk refuses; nothing
        is lost, and `commit` may be tried again."""
        self._writable()
        if more is not None:
            self._cannot("more is kept with commits")
        if name is not None:
            check_name(name)
        for writer in self._writers:
            writer.hand_over()
        if name is not None:
            self._sending.put([], name)
        commit = self._sending.wait()
        self._newest = max(self._newest, commit)
        return max(commit, self._store.state.commit)

    def _cannot(self, what: str) -> Never:
        raise UnsupportedError(
            f"{self._place}: {what} on the files alone: open the store itself where the server is"
        )

    # --- its end

    def _is_interrupted(self) -> bool:
        if not self._gone_back and (what := self._operations.interrupted):
            self._gone_back = (
                f"{self._place}: {what} was interrupted, so that the last steps may be there or not; close "
                "it, and open it again to go on"
            )
        return bool(self._gone_back)

    def _writable(self) -> None:
        super().check_open()
        if self._gone_back:
            raise ConflictError(self._gone_back)
        if os.getpid() != self._process:
            raise ConflictError(
                f"{self._place} was opened for writing by the process that this one was "
                "forked from: only that one writes"
            )

    def close(self) -> None:
        """Have everything sent, and wait until it is durable."""
        try:
            if not self._closed and os.getpid() == self._process and not self._is_interrupted():
                for writer in list(self._writers):
                    writer.finish()
                self._sending.end()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Release everything without waiting: what was not sent yet is given up."""
        self._sending.stop()
        super().abandon()
