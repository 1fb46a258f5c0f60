"""Routes by which steps are appended: making a store, sessions of writers, what they send, and names of
commits."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from replaystore import wire
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import create
from replaystore.errors import ArgumentError, FormatError
from replaystore.schema.fields import Schema
from replaystore.service.answers import Answer, as_json
from replaystore.service.jobs import Acknowledged
from replaystore.service.refused import RefusedError
from replaystore.service.routes import Asked, Flag, Gives, Model, Route
from replaystore.service.sent import Sent
from replaystore.service.sessions import MOST_ENVIRONMENTS

__all__ = ["ROUTES", "schema_of", "unpacked"]

SMALL = 1 << 16
"""Bytes of a message that is read at once: to hand it to a thread takes longer."""
Json = dict[str, Any]


class NewStore(Model):
    """A store that is to be made; as `replaystore.create` takes it."""

    schema_: Annotated[Json, Field(alias="schema", description="What a step holds, as describe() says it.")]
    capacity: Annotated[int | None, Field(ge=1, lt=1 << 62)] = None
    layout: Literal["live", "archive"] = "live"
    storage: Annotated[dict[str, Json] | None, Field(description="Settings by field.")] = None
    durability: Literal["commit", "none"] = "commit"
    metadata: Json | None = None
    environment: Annotated[Json | str | None, Field(description="The id of one, or the section of it.")] = (
        None
    )
    keep_commits: Annotated[int | None, Field(ge=1, lt=1 << 40)] = None
    keep_named: Annotated[int | None, Field(ge=0, lt=1 << 40)] = None
    overwrite: Annotated[bool, Field(description="Replace a store that is there; needs the scope admin.")] = (
        False
    )


class NewSession(Model):
    """A session that is to begin, or to go on."""

    session: Annotated[str, Field(pattern="^[0-9a-f]{32}$", description="Random digits of the client's.")]
    environments: Annotated[int, Field(ge=1, le=MOST_ENVIRONMENTS)] = 1
    first: Annotated[
        int | None, Field(ge=0, le=MOST_ENVIRONMENTS, description="Its first one in the store, if not any.")
    ] = None
    cut: Annotated[
        bool, Field(description="Cut off trajectories that are open where no session has environments.")
    ] = True


class SessionAnswer(BaseModel):
    """A session."""

    session: str
    first: Annotated[int, Field(description="Its first environment in the store.")]
    environments: int
    next: Annotated[int, Field(description="The number of the message that comes next.")]


class AppendAnswer(BaseModel):
    """What is durable."""

    number: Annotated[int, Field(description="The last message of the session that is.")]
    commit: Annotated[int, Field(description="A commit that has it.")]


class EndQuery(Model):
    """How a session ends."""

    keep: Annotated[Flag, Field(description="Its open trajectories stay open.")] = False


class NewName(Model):
    """A name for a commit."""

    name: Annotated[str, Field(min_length=1, max_length=80)]


class CommitAnswer(BaseModel):
    """A commit."""

    commit: int
    shows: Annotated[int, Field(description="The commit that shows the same.")]


def unpacked(body: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a body. ArgumentError: it has none."""
    try:
        return wire.unpack(body)
    except FormatError as error:
        raise ArgumentError(str(error)) from None


def schema_of(said: dict[str, Any]) -> Schema:
    """A schema that a client describes. ArgumentError: it is none."""
    try:
        return Schema.from_json(said)
    except FormatError as error:
        raise ArgumentError(str(error)) from None


async def create_store(asked: Asked) -> Answer:
    """Make a store. 409: there is one already."""
    wanted, service, store = asked.json(NewStore), asked.service, asked.store
    if wanted.overwrite and (asked.grant is None or not asked.grant.allows("admin", store)):
        raise RefusedError(403, f"the token does not give 'admin' for {store}, which replacing it takes")
    schema = schema_of(wanted.schema_)

    def make() -> Json:
        buffer = create(
            service.root.path(store),
            schema,
            capacity=wanted.capacity,
            layout=wanted.layout,
            storage=wanted.storage,
            durability=wanted.durability,
            metadata=wanted.metadata,
            environment=wanted.environment,
            keep_commits=wanted.keep_commits,
            keep_named=wanted.keep_named,
            overwrite=wanted.overwrite,
        )
        try:
            return {**buffer.describe().to_json(), "location": store}
        finally:
            buffer.abandon()  # its first commit is there; an archive would be sealed by closing it

    def replace() -> Any:
        return service.writers.of(store).apart(make)

    if wanted.overwrite and await service.in_thread(lambda: service.root.exists(store)):
        return as_json(await asyncio.wrap_future(await service.in_thread(replace)), 201)
    return as_json(await service.in_thread(make), 201)


async def begin_session(asked: Asked) -> Answer:
    """Begin a session of a writer, or learn where it is. The client chooses the id, and may ask again."""
    wanted, writers, store = asked.json(NewSession), asked.service.writers, asked.store
    future = await asked.service.in_thread(
        lambda: writers.begin(store, wanted.session, wanted.environments, wanted.first, cut=wanted.cut)
    )
    begun = await asyncio.wrap_future(future)
    answer = SessionAnswer(
        session=wanted.session, first=begun.first, environments=begun.environments, next=begun.next
    )
    return as_json(answer.model_dump())


async def append(asked: Asked) -> Answer:
    """Append what a session sends under a number, which counts from 1. Answered once it is durable; whoever
    has got no answer sends it again, and it is there once. 409: others come before, and the message says
    which is the next; 404: begin the session again; 507, 503: nothing was appended, send it again later."""
    service, session, number = asked.service, asked.path["session"], int(asked.path["number"])
    writer = service.writers.of(_store(asked, session))

    def send() -> tuple[Any, int]:
        sent = Sent.of(*unpacked(asked.body))
        return writer.send(session, number, sent), sum(run.steps for run in sent.runs)

    future, steps = send() if len(asked.body) <= SMALL else await service.in_thread(send)
    done: Acknowledged = await asyncio.wrap_future(future)
    service.metrics.count("replaystore_appended_steps_total", steps)
    return as_json({"number": done.number, "commit": done.commit})


async def end_session(asked: Asked) -> Answer:
    """End a session: its environments are free, its open trajectories are cut off. It may be ended again."""
    session, keep = asked.path["session"], asked.query(EndQuery).keep
    writer = asked.service.writers.of(_store(asked, session))
    done = await asyncio.wrap_future(writer.end(session, cut=not keep))
    return as_json({"number": done.number, "commit": done.commit})


def _store(asked: Asked, session: str) -> str:
    """The store of a session. RefusedError: the token is not for that."""
    store = asked.service.writers.store_of(session)
    if asked.grant is not None and not asked.grant.reaches(store):
        raise RefusedError(403, f"the token {asked.grant.name!r} is not for the store of this session")
    return store


async def name_commit(asked: Asked) -> Answer:
    """Commit all that was sent, and name the commit. (A writer names one in the order of its messages: by
    `name` of one of them.)"""
    name = asked.json(NewName).name

    def commit(buffer: Buffer) -> Json:
        return {"commit": buffer.commit(name), "shows": buffer.shows}

    future = await asked.service.in_thread(lambda: asked.service.writers.of(asked.store).do(commit))
    return as_json(await asyncio.wrap_future(future), 201)


MESSAGE = Gives("It is durable.", model=AppendAnswer)
ROUTES = (
    Route(
        "POST",
        "/v1/stores/{store}/writers",
        "append",
        begin_session,
        "Begin a session of a writer.",
        takes=NewSession,
        gives={200: Gives("The session.", model=SessionAnswer)},
        writes=True,
    ),
    Route(
        "POST",
        "/v1/stores/{store}/commits",
        "append",
        name_commit,
        "Name a commit of all that was appended.",
        takes=NewName,
        gives={201: Gives("The commit.", model=CommitAnswer)},
        writes=True,
    ),
    Route(
        "POST",
        "/v1/stores/{store}",
        "append",
        create_store,
        "Make a store.",
        takes=NewStore,
        gives={201: Gives("What it is.")},
        writes=True,
    ),
    Route(
        "PUT",
        "/v1/writers/{session}/{number}",
        "append",
        append,
        "Append steps, once, however often they are sent.",
        takes=wire.ARRAYS,
        gives={200: MESSAGE},
        writes=True,
    ),
    Route(
        "DELETE",
        "/v1/writers/{session}",
        "append",
        end_session,
        "End a session.",
        query=EndQuery,
        gives={200: MESSAGE},
        writes=True,
    ),
)
