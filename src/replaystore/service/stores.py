"""Routes about stores: which there are, what they hold, and their commits as they are made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from replaystore.buffers.buffer import Buffer
from replaystore.errors import ReplayStoreError
from replaystore.service.answers import LOOK_AGAIN, Answer, as_json
from replaystore.service.refused import RefusedError
from replaystore.service.routes import Asked, Flag, Gives, Model, Route
from replaystore.views.describing import Description

__all__ = ["ROUTES"]

MOST_STORES = 1000
"""In one list."""
EVENTS = "text/event-stream"
PERIOD, SILENCE = 0.25, 15.0
"""Seconds between two looks at a store, and after which a line is sent that says nothing."""


def described(buffer: Buffer, store: str) -> dict[str, Any]:
    """What is said of a store; it is known by its path below the root."""
    return {**buffer.describe().to_json(), "location": store}


class ListQuery(Model):
    """Which stores are listed."""

    after: Annotated[str, Field(description="Those behind this path.")] = ""
    limit: Annotated[int, Field(ge=1, le=MOST_STORES, description="At most so many.")] = MOST_STORES


class DescribeQuery(Model):
    """What is said of a store."""

    commits: Annotated[Flag, Field(description="Also the commits that can be opened.")] = False


def list_stores(asked: Asked) -> Answer:
    """What is served to who has this token. What cannot be described has an `error`."""
    wanted, found, more = asked.query(ListQuery), list[dict[str, Any]](), False
    for store in asked.service.root.stores():
        if asked.grant is None or not asked.grant.reaches(store):
            continue
        if wanted.after and store.split("/") <= wanted.after.split("/"):
            continue
        if len(found) == wanted.limit:
            more = True
            break
        found.append({"store": store, **_described_or_not(asked, store)})
    return as_json({"stores": found, "more": more}, headers={"Cache-Control": LOOK_AGAIN})


def _described_or_not(asked: Asked, store: str) -> dict[str, Any]:
    try:
        return asked.service.readers.ask(store, lambda buffer: described(buffer, store))
    except ReplayStoreError as error:
        return {"error": type(error).__name__, "message": asked.service.root.hide(str(error))}


def describe_store(asked: Asked) -> Answer:
    """What a store holds, as of its newest commit."""
    wanted, store = asked.query(DescribeQuery), asked.store

    def question(buffer: Buffer) -> dict[str, Any]:
        commits = {"commits": [asdict(one) for one in buffer.commits()]} if wanted.commits else {}
        return described(buffer, store) | commits

    return as_json(asked.service.readers.ask(store, question), headers={"Cache-Control": LOOK_AGAIN})


async def follow_store(asked: Asked) -> Answer:
    """An event for the newest commit, and for the newest one again whenever there are newer ones."""
    service = asked.service
    if service.open_streams >= service.limits.streams:
        raise RefusedError(503, "there are too many streams: try again later", {"Retry-After": "5"})
    first = await service.in_thread(lambda: _news(asked))
    return Answer(type=EVENTS, headers={"Cache-Control": "no-store"}, pieces=_events(asked, first))


def _news(asked: Asked) -> dict[str, Any]:
    """What an event says."""

    def question(buffer: Buffer) -> dict[str, Any]:
        state = buffer.store.state
        return {"id": buffer.id, "commit": state.commit, "name": state.name, "steps": len(buffer)}

    return asked.service.readers.ask(asked.store, question)


async def _events(asked: Asked, news: dict[str, Any]) -> AsyncIterator[bytes]:
    """Events, until the client or the server ends. A client that is slow misses those in between."""
    service = asked.service
    known = asked.headers.get("last-event-id", "")
    ends = [asyncio.ensure_future(asked.gone()), asyncio.ensure_future(service.ending.wait())]
    service.open_streams += 1
    loop = asyncio.get_running_loop()
    said = loop.time()
    try:
        while not any(end.done() for end in ends):
            number = f"{news['id']}.{news['commit']}"
            if number != known:
                known, said = number, loop.time()
                yield f"event: commit\nid: {number}\ndata: {json.dumps(news)}\n\n".encode()
            elif loop.time() - said > SILENCE:
                said = loop.time()
                yield b": nothing new\n\n"
            await asyncio.wait(ends, timeout=PERIOD, return_when=asyncio.FIRST_COMPLETED)
            try:
                news = await service.in_thread(lambda: _news(asked))
            except ReplayStoreError as error:
                told = {"error": type(error).__name__, "message": service.root.hide(str(error))}
                yield f"event: error\ndata: {json.dumps(told)}\n\n".encode()
                return
    finally:
        service.open_streams -= 1
        for end in ends:
            end.cancel()


DESCRIBED = TypeAdapter(Description).json_schema(ref_template="#/components/schemas/{model}")
DESCRIBED["properties"]["return"] = DESCRIBED["properties"].pop("returns")
DESCRIBED["required"] = ["return" if name == "returns" else name for name in DESCRIBED["required"]]
LISTED = {
    "type": "object",
    "required": ["stores", "more"],
    "properties": {
        "stores": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["store"],
                "properties": {"store": {"type": "string"}},
            },
        },
        "more": {"type": "boolean"},
    },
}

ROUTES = (
    Route(
        "GET",
        "/v1/stores",
        "read",
        list_stores,
        "What is served: the description of each store, by its path below the root.",
        query=ListQuery,
        gives={200: Gives("Stores.", model=LISTED)},
    ),
    Route(
        "GET",
        "/v1/stores/{store}/events",
        "read",
        follow_store,
        "Server-sent events: `commit`, with the newest commit, whenever there is a newer one.",
        gives={200: Gives("Events, until the server ends.", EVENTS)},
    ),
    Route(
        "GET",
        "/v1/stores/{store}",
        "read",
        describe_store,
        "What a store holds as of its newest commit, and how: as `replaystore info --json`.",
        query=DescribeQuery,
        gives={200: Gives("A description.", model=DESCRIBED)},
    ),
)
