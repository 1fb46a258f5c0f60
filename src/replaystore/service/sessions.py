"""Sessions of writers: whose environments are whose, and which message of each comes next.

A session has an id that its client has chosen, environments of its own in the store, and numbers its messages
from 1 on. The number of the last one that a commit has is kept in the record of that commit, so that a client
and a server agree about it whoever of them was killed, and whatever got lost between them.

Invariants:
1. committed <= taken: messages up to `taken` are in the buffer, those up to `committed` are durable.
2. What a session keeps in a record changes in the commit that has the steps, and in no other way.
3. Two sessions share no environment.
"""

from __future__ import annotations

import bisect
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replaystore.errors import ArgumentError, ConflictError, NotFoundError

__all__ = ["MOST_ENVIRONMENTS", "Session", "Sessions", "sessions_in"]

PREFIX = "replaystore.session:"
MOST_ENVIRONMENTS = 1 << 32
MOST_SESSIONS = 1 << 12
LONG = 30 * 24 * 3600
"""Seconds after which a session from which nothing has come is forgotten."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(slots=True)
class Session:
    """One of them."""

    id: str
    first: int
    """Its first environment in the store."""
    environments: int
    committed: int = 0
    """The last message that is durable."""
    taken: int = 0
    """The last one that is in the buffer."""
    seen: int = 0
    """When a message was taken last, in seconds since 1970."""

    @property
    def stop(self) -> int:
        return self.first + self.environments

    def has(self, env: int) -> bool:
        """Whether an environment is its own."""
        return self.first <= env < self.stop

    def kept(self) -> list[int]:
        """What a record has of it."""
        return [self.first, self.environments, self.taken, self.seen]


class Sessions:
    """Those of one store."""

    def __init__(self) -> None:
        self._known: dict[str, Session] = {}
        self._changed: dict[str, None] = {}

    def load(self, more: Mapping[str, Any]) -> None:
        """Those that the newest commit has."""
        self._known, self._changed = {}, {}
        for name, (first, environments, last, seen) in sessions_in(more).items():
            self._known[name] = Session(name, first, environments, last, last, seen)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, session: object) -> bool:
        return session in self._known

    def get(self, session: str) -> Session | None:
        """One of them."""
        return self._known.get(session)

    def __getitem__(self, session: str) -> Session:
        """NotFoundError: there is none of this id."""
        found = self._known.get(session)
        if found is None:
            raise NotFoundError(
                f"there is no session {session:.40}: it has ended, or was never begun; "
                "POST …/writers begins one, or tells which number is the next"
            )
        return found

    def begin(self, session: str, environments: int, first: int | None) -> tuple[Session, bool]:
        """A session, and whether it is new. ArgumentError, ConflictError: there can be none like it."""
        check(session, environments, first)
        known = self._known.get(session)
        if known is not None:
            if known.environments != environments or first not in (None, known.first):
                raise ConflictError(
                    f"session {session} has environments {known.first} to {known.stop - 1} already: begin "
                    "another one with another id"
                )
            return known, False
        if len(self._known) >= MOST_SESSIONS:
            raise ConflictError(f"there are {MOST_SESSIONS} sessions: end those that nobody needs")
        place = self._free(environments) if first is None else first
        for other in self._known.values():
            if place < other.stop and other.first < place + environments:
                raise ConflictError(
                    f"environments {other.first} to {other.stop - 1} are those of another session: leave out "
                    "`first`, or wait until that has ended"
                )
        found = self._known[session] = Session(session, place, environments, seen=int(time.time()))
        self._changed[session] = None
        return found, True

    def _free(self, environments: int) -> int:
        """The first of so many environments that are nobody's."""
        first = 0
        for other in sorted(self._known.values(), key=lambda one: one.first):
            if other.first - first >= environments:
                break
            first = max(first, other.stop)
        return first

    def nobodys(self, envs: Iterable[int]) -> list[int]:
        """Those of these environments that no session has."""
        known = sorted(self._known.values(), key=lambda one: one.first)
        firsts = [one.first for one in known]
        before = ((env, bisect.bisect_right(firsts, env)) for env in envs)
        return [env for env, place in before if not place or not known[place - 1].has(env)]

    def is_next(self, session: Session, number: int) -> bool:
        """Whether this number is to be taken now; else it was taken. ConflictError: others come before."""
        if number > session.taken + 1:
            raise ConflictError(
                f"message {number} of session {session.id} comes too early: {session.taken + 1} is the next"
            )
        return number == session.taken + 1

    def take(self, session: Session) -> None:
        """One more message is in the buffer."""
        session.taken, session.seen = session.taken + 1, int(time.time())
        self._changed[session.id] = None

    def end(self, session: Session) -> None:
        """There is no such session any more."""
        del self._known[session.id]
        self._changed[session.id] = None

    def long_gone(self) -> Iterable[Session]:
        """Those from which nothing has come for very long."""
        now = int(time.time())
        return [one for one in self._known.values() if now - one.seen > LONG]

    def changes(self) -> dict[str, Any]:
        """What the next commit is to keep."""
        return {
            PREFIX + one: self._known[one].kept() if one in self._known else None for one in self._changed
        }

    def are_committed(self) -> None:
        """A commit has what was taken."""
        for one in self._changed:
            if one in self._known:
                self._known[one].committed = self._known[one].taken
        self._changed = {}


def sessions_in(more: Mapping[str, Any]) -> dict[str, list[int]]:
    """What a commit keeps of sessions, by their ids."""
    return {key[len(PREFIX) :]: kept for key, kept in more.items() if key.startswith(PREFIX)}


def check(session: object, environments: object, first: object) -> None:
    """ArgumentError: no session has these."""
    if not isinstance(session, str) or not _ID.fullmatch(session):
        raise ArgumentError("the id of a session is 32 random hexadecimal digits that its client has made")
    for name, number, least in (("environments", environments, 1), ("first", first, 0)):
        if number is None and name == "first":
            continue
        if (
            not isinstance(number, int)
            or isinstance(number, bool)
            or not least <= number <= MOST_ENVIRONMENTS
        ):
            raise ArgumentError(f"{name} is a number from {least} to {MOST_ENVIRONMENTS}, not {number!r:.40}")
