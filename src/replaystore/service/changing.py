"""Routes by which a store is changed, beside what is appended: older commits are gone back to, fields and
values come later, columns are set. They need the scope admin, commit all that was sent before, and are
durable when they are answered.

An answer that was lost is asked for again: the same values, columns, names and metadata may be given twice; a
field that is there already is refused (409); who goes back twice gives up what others have appended between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from replaystore import wire
from replaystore.buffers.buffer import Buffer
from replaystore.errors import AlreadyExistsError, ArgumentError, ConflictError
from replaystore.service.answers import Answer, as_json
from replaystore.service.appending import CommitAnswer, schema_of, unpacked
from replaystore.service.routes import Asked, Gives, Model, Route
from replaystore.service.sessions import sessions_in

__all__ = ["ROUTES"]

Json = dict[str, Any]


class Back(Model):
    """What to go back to."""

    commit: Annotated[int | str, Field(description="The number of a commit, or its name.")]
    session: Annotated[
        str | None, Field(pattern="^[0-9a-f]{32}$", description="The client's own, which goes on.")
    ] = None


class NewMetadata(Model):
    """The user's metadata."""

    metadata: Json


class ValuesAnswer(BaseModel):
    """What became of values."""

    gone: Annotated[int, Field(description="So many of these steps have left the ring.")]
    commit: int


async def _changed(asked: Asked, change: Callable[[Buffer], Json]) -> Answer:
    """Change a store, and commit."""

    def do(buffer: Buffer) -> Json:
        said = change(buffer)
        return {**said, "commit": buffer.commit(), "shows": buffer.shows}

    future = await asked.service.in_thread(lambda: asked.service.writers.of(asked.store).do(do))
    return as_json(await asyncio.wrap_future(future))


async def roll_back(asked: Asked) -> Answer:
    """Go back to an older commit; refused (409) while writers other than the client's own have sessions."""
    wanted = asked.json(Back)

    def change(buffer: Buffer) -> Json:
        others = [one for one in sessions_in(buffer.more) if one != wanted.session]
        if others:
            raise ConflictError(
                f"{len(others)} sessions of writers go on in this store: end them before rolling back"
            )
        buffer.rollback(wanted.commit)
        return {}

    return await _changed(asked, change)


async def forget_name(asked: Asked) -> Answer:
    """Take its name from a commit."""

    def change(buffer: Buffer) -> Json:
        buffer.forget(asked.path["name"])
        return {}

    return await _changed(asked, change)


async def add_fields(asked: Asked) -> Answer:
    """Add fields: `fields` (as in a schema), `fill` and `storage` are said, `values` are arrays of the
    fields' names, one value for each step that is kept."""
    arrays, said = await asked.service.in_thread(lambda: unpacked(asked.body))
    known = {key: value for key, value in said.items() if key[:1] != "%"}
    if not isinstance(known.get("fields"), list) or known.keys() - {"fields", "fill", "storage"}:
        raise ArgumentError("fields are said as a list, with fill and storage by their names, if needed")
    declared = schema_of({"fields": known["fields"]}).fields

    def change(buffer: Buffer) -> Json:
        if there := declared.keys() & buffer.schema.fields.keys():
            raise AlreadyExistsError(f"there is a field {min(there)!r} already: choose another name")
        buffer.add_fields(
            declared, values=arrays, fill=known.get("fill") or {}, storage=known.get("storage") or {}
        )
        return {}

    return await _changed(asked, change)


async def set_values(asked: Asked) -> Answer:
    """Give steps of a mutable field, which is said as `field`, other values: the arrays `index` (the numbers
    that steps have for ever) and `values`."""
    arrays, said = await asked.service.in_thread(lambda: unpacked(asked.body))
    name = said.get("field")
    if not isinstance(name, str) or arrays.keys() != {"index", "values"}:
        raise ArgumentError("field is said, and the arrays are index and values")

    def change(buffer: Buffer) -> Json:
        return {"gone": buffer.set_values(name, arrays["index"], arrays["values"])}

    return await _changed(asked, change)


async def set_columns(asked: Asked) -> Answer:
    """Set columns of the table of trajectories: arrays by their names; texts are said, as `texts`."""
    arrays, said = await asked.service.in_thread(lambda: unpacked(asked.body))
    texts = said.get("texts", {})
    if not isinstance(texts, dict) or not all(
        isinstance(column, list) and all(isinstance(one, str) for one in column) for column in texts.values()
    ):
        raise ArgumentError("texts are lists of texts, by the names of columns")

    def change(buffer: Buffer) -> Json:
        buffer.set_trajectory_columns({**arrays, **{name: np.array(one) for name, one in texts.items()}})
        return {}

    return await _changed(asked, change)


async def set_metadata(asked: Asked) -> Answer:
    """Replace the user's metadata."""
    given = asked.json(NewMetadata).metadata

    def change(buffer: Buffer) -> Json:
        buffer.metadata = given
        return {}

    return await _changed(asked, change)


async def publish(asked: Asked) -> Answer:
    """Let other software that opens the files itself see all steps."""

    def change(buffer: Buffer) -> Json:
        buffer.publish()
        return {}

    return await _changed(asked, change)


COMMIT = Gives("The commit that has it.", model=CommitAnswer)


def _route(path: str, handle: Any, says: str, takes: Any, **more: Any) -> Route:
    return Route(
        more.pop("method", "POST"),
        "/v1/stores/{store}" + path,
        more.pop("scope", "admin"),
        handle,
        says,
        takes=takes,
        gives={200: more.pop("gives", COMMIT)},
        writes=True,
    )


ROUTES = (
    _route("/rollback", roll_back, "Go back to an older commit.", Back),
    _route("/commits/{name}", forget_name, "Take its name from a commit.", "", method="DELETE"),
    _route("/fields", add_fields, "Add fields.", wire.ARRAYS),
    _route(
        "/values",
        set_values,
        "Give steps other values.",
        wire.ARRAYS,
        gives=Gives("They are set.", model=ValuesAnswer),
    ),
    _route("/columns", set_columns, "Set columns of the table of trajectories.", wire.ARRAYS),
    _route("/metadata", set_metadata, "Replace the user's metadata.", NewMetadata),
    _route("/publish", publish, "Let other software see all steps.", "", scope="append"),
)
