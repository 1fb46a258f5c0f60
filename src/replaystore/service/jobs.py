"""What the thread of a store's writing side is asked to do, what it answers, and what is wrong with one
request alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.given import Given
from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    EvictedError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    UnsupportedError,
)
from replaystore.service.sent import Sent
from replaystore.service.sessions import Session

__all__ = ["Acknowledged", "Begin", "Begun", "Do", "End", "Job", "Message", "OwnError", "own_faults"]

OWN_FAULTS = (
    SchemaError,
    NotFoundError,
    AlreadyExistsError,
    ConflictError,
    UnsupportedError,
    EvictedError,
)
"""What is wrong with a request, and not with the store."""


@dataclass(frozen=True)
class Acknowledged:
    """A message is durable."""

    number: int
    """The last message of the session that is."""
    commit: int
    """A commit that has it."""


@dataclass(frozen=True)
class Begun:
    """A session as it is."""

    first: int
    """Its first environment in the store."""
    environments: int
    next: int
    """The number of the message that comes next."""


@dataclass
class Message:
    session: str
    number: int
    sent: Sent
    given: list[Given] | None = None
    """Checked already, by another thread,"""
    of: Session | None = None
    """as steps of this session."""
    future: Future[Acknowledged] = field(default_factory=Future)


@dataclass
class Begin:
    session: str
    environments: int
    first: int | None
    cut: bool
    future: Future[Begun] = field(default_factory=Future)


@dataclass
class End:
    session: str
    cut: bool
    future: Future[Acknowledged] = field(default_factory=Future)


@dataclass
class Do:
    action: Callable[[Buffer], Any] | None
    apart: Callable[[], Any] | None = None
    """To be done while the store is not open for writing."""
    future: Future[Any] = field(default_factory=Future)


Job = Message | Begin | End | Do


class OwnError(Exception):
    """What is wrong with one job alone."""

    def __init__(self, error: ReplayStoreError) -> None:
        super().__init__(str(error))
        self.error = error


class own_faults:  # noqa: N801  # as `contextlib` spells such
    """What is wrong inside is the job's fault."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OWN_FAULTS):
            raise OwnError(error) from None
