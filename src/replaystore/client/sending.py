"""Runs of steps on their way to a server: a thread sends what waits, in its order, several in one body, and
the next when that is durable. So single steps go together, the more of them the longer an answer takes.

Invariants:
1. What was given is sent once: a body keeps its number, and is sent as it is until it is acknowledged,
   whatever becomes of the connection or the server meanwhile.
2. Nothing that was given is forgotten before it is durable, but what the server says does not fit: nothing is
   sent any more then.
3. What waits takes a bounded memory: who gives more waits too.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from replaystore import wire
from replaystore.client.runs import BODY_BYTES, Run, packed
from replaystore.client.server import Server
from replaystore.errors import ConflictError, NotFoundError, ReplayStoreError, StorageError

__all__ = ["Sending", "Session"]

MOST_WAITING = 64 << 20
"""Bytes that wait to be sent."""
RESTARTS = 20
"""Of a server, while one question is asked."""


@dataclass
class Session:
    """Environments [first, stop) of this client, which are others of the store."""

    first: int
    stop: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = 1
    """Of the next message."""
    begun: bool = False

    def __contains__(self, env: int) -> bool:
        return self.first <= env < self.stop


@dataclass
class _Waiting:
    session: Session
    run: Run | None
    name: str | None = None
    """For the commit that has it, and all before."""
    nbytes: int = 0


class Sending:
    """What is sent to one store. For one thread at a time, beside its own."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._given = self._durable = 0
        """How many runs were given, and how many of them are durable."""
        self._commit = 0
        """That has all that is durable."""
        self._problem: ReplayStoreError | None = None
        """Why it could not be sent; who wants to know tries again."""
        self._broken: ReplayStoreError | None = None
        """Why nothing is sent any more."""
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.sessions: list[Session] = []

    def session_of(self, env: int, together: int = 1) -> Session:
        """The session of an environment of this client; a new one has as many as are needed."""
        for session in self.sessions:
            if env in session:
                return session
        first = self.sessions[-1].stop if self.sessions else 0
        stop = max(together, env + 1 if env < first + 1 else 1 << env.bit_length())
        self.sessions.append(Session(first, stop))
        return self.sessions[-1]

    def put(self, runs: Sequence[Run], name: str | None = None) -> None:
        """Have runs sent, in this order; nothing of them, if an error is raised. StorageError: too much waits
        already, and cannot be sent."""
        found = [_Waiting(self.session_of(run.env), run, nbytes=run.nbytes) for run in runs]
        if name is not None:
            found.append(_Waiting(found[-1].session if found else self.session_of(0), None, name))
        with self._changed:
            self._check()
            size = sum(one.nbytes for one in found)
            while self._bytes and self._bytes + size > MOST_WAITING:
                self._try_again()
                self._changed.wait()
                self._check()
                if self._problem is not None:
                    raise self._problem
            self._waiting += found
            self._bytes += size
            self._given += len(found)
            self._start()
            self._changed.notify_all()

    def wait(self) -> int:
        """Until all that was given is durable; the commit that has it. StorageError: it could not be sent,
        and is kept: who waits again has it sent again. Else it cannot be sent."""
        with self._changed:
            self._try_again()
            while self._durable < self._given:
                self._check()
                if self._problem is not None:
                    raise self._problem
                self._changed.wait()
            self._check()
            return self._commit

    def end(self) -> int:
        """As `wait`, and end the sessions. Trajectories that are open stay so until another one begins."""
        commit = self.wait()
        for session in [session for session in self.sessions if session.begun]:
            url = f"{self._server.address.server}/v1/writers/{session.id}?keep"
            told = self._asked_of(session, partial(self._server.ask, "DELETE", url), ends=True)
            commit = max(commit, int(told["commit"]))
        self.sessions = []
        return commit

    def stop(self) -> None:
        """Send nothing more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _check(self) -> None:
        if self._broken is not None:
            raise ConflictError(
                f"{self._broken} (steps since then are not sent: close it, and open it again)"
            ) from self._broken

    def _try_again(self) -> None:
        self._problem = None
        self._start()
        self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None and self._waiting:
            self._thread = threading.Thread(target=self._run, name="replaystore-client", daemon=True)
            self._thread.start()

    # --- the thread

    def _run(self) -> None:
        while (bundle := self._next()) is not None:
            session = bundle[0].session
            runs, name = [one.run for one in bundle if one.run is not None], bundle[-1].name
            body, sent = packed(runs, session.first, name), False
            while not sent and not self._stopping:
                try:
                    commit = self._sent(session, body)
                    sent = True
                except StorageError as error:  # it may go on later
                    if not self._stand_still(error):
                        return
                except ReplayStoreError as error:
                    with self._changed:
                        self._broken = error
                        self._changed.notify_all()
                    return
            if sent:
                session.number += 1
                with self._changed:
                    self._bytes -= sum(one.nbytes for one in bundle)
                    self._durable, self._commit = self._durable + len(bundle), commit
                    self._changed.notify_all()

    def _next(self) -> list[_Waiting] | None:
        """What goes into the next body, once there is anything; None: nothing is sent any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if self._stopping:
                return None
            bundle, size = [self._waiting.popleft()], 0
            while self._waiting and bundle[-1].name is None:
                following = self._waiting[0]
                size += following.nbytes
                if following.session is not bundle[0].session or size > BODY_BYTES:
                    break
                bundle.append(self._waiting.popleft())
            return bundle

    def _stand_still(self, error: StorageError) -> bool:
        """Wait until somebody asks; whether anything is to be sent then."""
        with self._changed:
            self._problem = error
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._problem is None or self._stopping)
            return not self._stopping

    def _sent(self, session: Session, body: bytes) -> int:
        """Send the next message of a session; a commit that has it."""
        url = f"{self._server.address.server}/v1/writers/{session.id}/{session.number}"
        told = self._asked_of(session, partial(self._server.ask, "PUT", url, body, wire.ARRAYS))
        return int(told["commit"])

    def _asked_of(
        self, session: Session, ask: Callable[[], dict[str, Any]], *, ends: bool = False
    ) -> dict[str, Any]:
        """What is answered to who asks about a session. A server that was started anew knows none that nobody
        has begun, or gone on with."""
        for left in reversed(range(RESTARTS)):
            if not session.begun:
                self._begin(session, ends=ends)
            try:
                return ask()
            except NotFoundError:
                session.begun = False
                if not left:
                    raise
        raise AssertionError("the last one is raised")

    def _begin(self, session: Session, *, ends: bool) -> None:
        """Begin a session, or go on with it. `ends`: it may have ended. ConflictError: the server has not
        what it has acknowledged."""
        said = {"session": session.id, "environments": session.stop - session.first}
        told = self._server.ask(
            "POST", self._server.address.route("writers"), json.dumps(said).encode("ascii")
        )
        if not ends and told["next"] not in (session.number, session.number + 1):
            raise ConflictError(
                f"{self._server.where} went back to an older commit, or is another store: message "
                f"{session.number} of this writer is the next, and the server says {told['next']}"
            )
        session.begun = True
