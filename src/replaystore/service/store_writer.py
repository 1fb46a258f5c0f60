"""The writing side of one store: messages of many sessions, taken one after the other and committed together.

A thread takes what has come, waits a moment for those that usually come along, commits all of it with the
numbers of the sessions, and only then tells the clients: one sync is shared by all of them.

Invariants:
1. That thread alone touches the writing buffer, which is open while somebody sends.
2. A message is acknowledged when a commit that has it is durable; sent again, it is acknowledged again, and
   is not in the store twice.
3. Whatever the disk refuses: the buffer is given up, and opened anew as of its last commit. Who waits is told
   so, and sends again: the number of the session in that commit says what is there already.
4. A message that does not fit changes nothing, and its number is still the next.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.given import Given
from replaystore.errors import (
    ConflictError,
    ReplayStoreError,
    SchemaError,
)
from replaystore.service.jobs import (
    Acknowledged,
    Begin,
    Begun,
    Do,
    End,
    Job,
    Message,
    OwnError,
    own_faults,
)
from replaystore.service.sent import Sent
from replaystore.service.sessions import Session, Sessions

__all__ = ["StoreWriter"]

Answer = TypeVar("Answer")
DELAY, IDLE = 0.002, 60.0
"""Seconds: for others that usually come along; until the buffer is closed, when nothing has come."""
_log = logging.getLogger("replaystore.service")
Kind = TypeVar("Kind", bound=Job)


class StoreWriter:
    """Takes what is sent to one store."""

    def __init__(
        self,
        opening: Callable[[], Buffer],
        *,
        delay: float = DELAY,
        idle: float = IDLE,
        committed: Callable[[float], object] = lambda _: None,
    ) -> None:
        """`opening` opens it for writing; `committed` is told of each commit: the seconds that it took."""
        self._opening, self._delay, self._idle, self._committed = opening, delay, idle, committed
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False
        # What follows belongs to the thread.
        self._buffer: Buffer | None = None
        self._sessions = Sessions()
        self._waiting: list[tuple[Job, Callable[[int], Any]]] = []
        """Jobs whose answers, made of the number of the commit, come with it."""
        self._batch: list[tuple[int, list[Given]]] = []
        """What is to be appended, by the first environment of its session."""
        self._envs: set[int] = set()
        """The environments of that."""
        self._together: set[str] = set()
        """The sessions that the last commit had messages of, and those of this one."""
        self._here: set[str] = set()

    # --- what others call

    def begin(
        self, session: str, environments: int, first: int | None = None, *, cut: bool = True
    ) -> Future[Begun]:
        """Begin a session, or look at it. `first`: its first environment, if that is to be a certain one.
        `cut`: when it begins, trajectories are cut off that are open in environments of no session."""
        return self._put(Begin(session, environments, first, cut)).future

    def send(self, session: str, number: int, sent: Sent) -> Future[Acknowledged]:
        """Append a message, once, in its order. SchemaError, ConflictError (others come before),
        NotFoundError (no such session), StorageError (it is to be sent again): nothing was appended."""
        message = Message(session, number, sent)
        buffer, known = self._buffer, self._sessions.get(session)
        if buffer is not None and known is not None:  # what is not the same any more is checked again
            message.given, message.of = _given(buffer, known, sent), known
        return self._put(message).future

    def end(self, session: str, *, cut: bool = True) -> Future[Acknowledged]:
        """End a session, if it has not ended. `cut`: its open trajectories end here."""
        return self._put(End(session, cut)).future

    def do(self, action: Callable[[Buffer], Answer]) -> Future[Answer]:
        """Do something else with the writing buffer, between commits; everything sent before is committed."""
        future: Future[Answer] = self._put(Do(action)).future
        return future

    def apart(self, action: Callable[[], Answer]) -> Future[Answer]:
        """Do something while the store is not open for writing here."""
        future: Future[Answer] = self._put(Do(None, action)).future
        return future

    @property
    def sessions(self) -> int:
        """How many go on, while the store is open for writing."""
        return len(self._sessions)

    def close(self) -> None:
        """Take nothing more, commit what was sent, and close the buffer."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _put(self, job: Kind) -> Kind:
        with self._changed:
            if self._closing:
                raise ConflictError("the server is about to end, and takes nothing more: send it again later")
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="replaystore-writer", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job

    # --- the thread

    def _run(self) -> None:
        while True:
            if jobs := self._come(self._idle):
                self._handle(jobs)
                continue
            self._close_buffer()
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    return

    def _come(self, seconds: float) -> list[Job]:
        """The jobs that have come, once there are any; none after so many seconds, or at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing, seconds)
            jobs = [job for job in self._jobs if job.future.set_running_or_notify_cancel()]
            self._jobs.clear()
        return jobs

    def _handle(self, jobs: list[Job]) -> None:
        """Do what jobs ask for, with those that come meanwhile, up to a commit."""
        deadline = time.monotonic() + self._delay
        try:
            while jobs:
                buffer = self._opened()
                while jobs:
                    self._take(buffer, jobs[0])
                    jobs.pop(0)
                    if self._buffer is not buffer:
                        break
                left = deadline - time.monotonic()
                if not jobs and self._waiting and left > 0 and not self._together <= self._here:
                    jobs = self._come(left)
            if self._waiting:
                self._commit()
        except BaseException as error:  # noqa: BLE001  # whatever it is, those who wait are told
            self._give_up(error, jobs)

    def _opened(self) -> Buffer:
        if self._buffer is None:
            buffer = self._opening()
            self._sessions.load(buffer.more)
            self._buffer = buffer
            for session in self._sessions.long_gone():
                self._cut(buffer, filter(session.has, buffer.open_environments()))
                self._sessions.end(session)
        return self._buffer

    def _take(self, buffer: Buffer, job: Job) -> None:
        """Do one job, but for the commit that it may wait for."""
        try:
            if isinstance(job, Message):
                self._take_message(buffer, job)
            elif isinstance(job, Begin):
                self._take_begin(buffer, job)
            elif isinstance(job, End):
                self._take_end(buffer, job)
            else:
                self._do(buffer, job)
        except OwnError as fault:
            job.future.set_exception(fault.error)

    def _take_message(self, buffer: Buffer, job: Message) -> None:
        with own_faults():
            session = self._sessions[job.session]
            new = self._sessions.is_next(session, job.number)
        if not new and job.number <= session.committed:
            job.future.set_result(Acknowledged(session.committed, buffer.commit_id))
            return
        if new:
            with own_faults():
                given = job.given
                fresh = job.of is session and all(one.schema is buffer.schema for one in given or ())
                if given is None or not fresh:
                    given = _given(buffer, session, job.sent)
            envs = {steps.env for steps in given}
            if envs & self._envs:
                self._append(buffer)
            with own_faults():
                buffer.fit(given)
            self._batch.append((session.first, given))
            self._envs |= envs
            self._sessions.take(session)
        self._here.add(session.id)
        self._waiting.append((job, lambda commit: Acknowledged(session.committed, commit)))
        if new and job.sent.name is not None:
            self._commit(job.sent.name)

    def _take_begin(self, buffer: Buffer, job: Begin) -> None:
        with own_faults():
            session, new = self._sessions.begin(job.session, job.environments, job.first)
        if new and job.cut:
            self._append(buffer)
            is_open = buffer.open_environments()
            self._cut(buffer, [*filter(session.has, is_open), *self._sessions.nobodys(is_open)])
        self._waiting.append(
            (job, lambda _: Begun(session.first, session.environments, session.committed + 1))
        )

    def _take_end(self, buffer: Buffer, job: End) -> None:
        last = 0
        if job.session in self._sessions:
            session = self._sessions[job.session]
            last = session.taken
            self._append(buffer)
            if job.cut:
                self._cut(buffer, filter(session.has, buffer.open_environments()))
            self._sessions.end(session)
        self._together.discard(job.session)
        self._waiting.append((job, lambda commit: Acknowledged(last, commit)))

    def _do(self, buffer: Buffer, job: Do) -> None:
        if self._waiting:
            self._commit()
        with own_faults():
            if job.action is not None:
                job.future.set_result(job.action(buffer))
                return
        self._close_buffer()
        assert job.apart is not None
        with own_faults():
            job.future.set_result(job.apart())

    def _cut(self, buffer: Buffer, envs: Iterable[int]) -> None:
        """Cut off the open trajectories of some environments."""
        buffer.append_given([buffer.given({}, env=env, cut=True) for env in envs])

    def _append(self, buffer: Buffer) -> None:
        """Append what was taken, sessions in the order of their environments: as long as the same ones come
        along, the steps of an environment lie a constant stride apart."""
        if self._batch:
            self._batch.sort(key=lambda one: one[0])
            buffer.append_given([steps for _, given in self._batch for steps in given])
        self._batch, self._envs = [], set()

    def _commit(self, name: str | None = None) -> None:
        """Make what was taken durable, and tell those who wait."""
        buffer = self._buffer
        assert buffer is not None
        self._append(buffer)
        began = time.perf_counter()
        number = buffer.commit(name, more=self._sessions.changes())
        self._committed(time.perf_counter() - began)
        self._sessions.are_committed()
        waiting, self._waiting = self._waiting, []
        self._together, self._here = self._here, set()
        for job, answer in waiting:
            job.future.set_result(answer(number))

    def _give_up(self, error: BaseException, jobs: list[Job]) -> None:
        """Go back to the last commit: nothing that waits is in the store."""
        if not isinstance(error, ReplayStoreError):
            _log.error("a store was given up while it was written to", exc_info=error)
        waiting = [job for job, _ in self._waiting] + jobs
        buffer, self._buffer = self._buffer, None
        self._forget()
        if buffer is not None:
            with contextlib.suppress(ReplayStoreError, OSError):  # of what is given up nothing is needed
                buffer.abandon()
        for job in waiting:
            if not job.future.done():
                job.future.set_exception(error)

    def _forget(self) -> None:
        self._waiting, self._batch, self._envs = [], [], set()
        self._together, self._here = set(), set()
        self._sessions.load({})

    def _close_buffer(self) -> None:
        """Close it; all that was acknowledged is in its last commit."""
        buffer, self._buffer = self._buffer, None
        if buffer is None:
            return
        archive = buffer.layout == "archive" and len(self._sessions) > 0  # which closing would seal
        self._forget()
        try:
            if archive:
                buffer.commit()
                buffer.abandon()
            else:
                buffer.close()
        except Exception as error:  # noqa: BLE001  # this thread has to go on
            _log.warning("a store was not closed in order: %s", error)
            with contextlib.suppress(ReplayStoreError, OSError):
                buffer.abandon()


def _given(buffer: Buffer, session: Session, sent: Sent) -> list[Given]:
    if sent.most > session.environments:
        raise SchemaError(
            f"environment {sent.most - 1} is not the session's, which has {session.environments}, from 0 on"
        )
    return sent.given(buffer, session.first)
