"""Routes of what a commit holds, decoded: steps as arrays, and the table of trajectories."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Asks

from replaystore import wire
from replaystore.errors import ArgumentError
from replaystore.extras import require
from replaystore.schema import strict_json
from replaystore.schema.fields import Field
from replaystore.service.answers import FOR_EVER, Answer, as_json, matches
from replaystore.service.refused import RefusedError
from replaystore.service.routes import Asked, Gives, Model, Route
from replaystore.views.reader import BufferReader

__all__ = ["ROUTES"]

ARROW = "application/vnd.apache.arrow.stream"
SMALL = 256 << 10
"""Bytes that are read without asking for room."""
MOST_TRAJECTORIES = 100_000
"""In one answer."""


class RowsQuery(Model):
    """Which steps."""

    start: Annotated[int, Asks(ge=0, description="The first step, counted from the oldest kept.")] = 0
    stop: Annotated[int | None, Asks(ge=0, description="The step behind the last; none: to the end.")] = None
    fields: Annotated[
        str | None,
        Asks(description="Names, or beginnings of paths, with commas between; or a JSON list of them."),
    ] = None

    def names(self) -> list[str] | None:
        """The fields. ArgumentError: it is no list."""
        if self.fields is None or not self.fields.startswith("["):
            return None if self.fields is None else self.fields.split(",")
        try:
            found = strict_json.decoded(self.fields)
        except ValueError as error:
            raise ArgumentError(f"fields: it is no JSON ({error})") from None
        if not all(isinstance(name, str) for name in found):
            raise ArgumentError("fields: it is no list of names")
        return [str(name) for name in found]


class TrajectoriesQuery(Model):
    """Which trajectories."""

    where: Annotated[str | None, Asks(max_length=4096, description="Such as `return > 100`.")] = None
    start: Annotated[int, Asks(ge=0, description="The first of those.")] = 0
    stop: Annotated[int | None, Asks(ge=0, description="The one behind the last.")] = None


async def read_rows(asked: Asked) -> Answer:
    """Steps of a commit, as arrays by field."""
    if matches(asked.headers, asked.pin.tag):
        return Answer(status=304, headers=_kept(asked))
    wanted, pin, service = asked.query(RowsQuery), asked.pin, asked.service
    names = wanted.names()

    def look(view: BufferReader) -> tuple[int, bytes | None]:
        steps = slice(*slice(wanted.start, wanted.stop).indices(len(view)))
        size = _size(view, names, steps, service.limits.answer)
        return size, read(view) if size <= SMALL else None

    def read(view: BufferReader) -> bytes:
        start, stop, _ = slice(wanted.start, wanted.stop).indices(len(view))
        said = {"id": pin.id, "commit": pin.commit, "start": start, "stop": max(start, stop)}
        said["first_row"] = view.first_row
        return wire.pack(view.read(slice(start, stop), names), said)

    taken, body = await service.in_thread(lambda: service.readers.at(pin, lambda tree: look(tree.view)))
    if body is None:
        await asked.hold(2 * taken)
        body = await service.in_thread(lambda: service.readers.at(pin, lambda tree: read(tree.view)))
    return Answer(body, type=wire.ARRAYS, headers=_kept(asked))


def _kept(asked: Asked) -> dict[str, str]:
    return {"ETag": asked.pin.tag, "Cache-Control": FOR_EVER}


def _size(view: BufferReader, names: list[str] | None, steps: slice, most: int) -> int:
    """The bytes of steps. RefusedError: too many for one answer."""
    schema = view.schema if names is None else view.schema.select(names)
    count = max(0, steps.stop - steps.start)
    each = sum(field.row_bytes for field in schema.fields.values())
    size: int = count * each
    if size <= most:
        for name, field in schema.ragged.items():
            spans = view.rows(name, steps)
            size += int((spans[:, 1] - spans[:, 0]).sum()) * _inner(field)
    if size > most:
        raise RefusedError(
            413,
            f"{count} steps take {size} bytes, and at most {most} are sent at once: ask for fewer steps",
        )
    return size


def _inner(field: Field) -> int:
    """The bytes of one of the values of a step."""
    inner: tuple[int, ...] = field.shape[1:]
    return math.prod(inner) * field.dtype.itemsize


def read_trajectories(asked: Asked) -> Answer:
    """The table of trajectories of a commit, or those for which something holds."""
    arrow = _wants_arrow(asked.headers.get("accept", ""))
    wanted = asked.query(TrajectoriesQuery)

    def select(view: BufferReader) -> tuple[int, int, dict[str, NDArray[Any]]]:
        found = view.trajectories
        if wanted.where is not None:
            found = found.where(wanted.where)
        start, stop, _ = slice(wanted.start, wanted.stop).indices(len(found))
        if stop - start > MOST_TRAJECTORIES:
            raise RefusedError(
                413, f"at most {MOST_TRAJECTORIES} trajectories are sent at once: ask with start and stop"
            )
        part = found[start : max(start, stop)]
        return len(found), start, {"index": part.index, **part.columns}

    count, start, columns = asked.service.readers.at(asked.pin, lambda tree: select(tree.view))
    headers = _kept(asked) | {"Vary": "Accept"}
    headers["ETag"] = f'{asked.pin.tag[:-1]}-{"arrow" if arrow else "json"}"'
    if arrow:
        return Answer(_as_arrow(columns, {"count": count, "start": start}), type=ARROW, headers=headers)
    listed = {name: _plain(values) for name, values in columns.items()}
    return as_json({"count": count, "start": start, "columns": listed}, headers=headers)


def _wants_arrow(accept: str) -> bool:
    """RefusedError: neither is wanted."""
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if ARROW in kinds:
        return True
    if kinds & {"", "*/*", "application/*", "application/json"}:
        return False
    raise RefusedError(406, f"the table is sent as application/json or {ARROW}: say so in Accept")


def _plain(values: NDArray[Any]) -> list[Any]:
    """As JSON has them: what is not known, or no number, is null."""
    if values.dtype.kind != "f":
        return list(values.tolist())
    found = values.astype(object)
    found[~np.isfinite(values)] = None
    return list(found.tolist())


def _as_arrow(columns: dict[str, NDArray[Any]], said: dict[str, int]) -> memoryview:
    arrow = require("pyarrow", f"a table as {ARROW}", "arrow")
    arrays = {}
    for name, values in columns.items():
        flat = arrow.array(values.reshape(-1))
        for length in values.shape[:0:-1]:
            flat = arrow.FixedSizeListArray.from_arrays(flat, length)
        arrays[name] = flat
    table = arrow.table(arrays).replace_schema_metadata({"replaystore": json.dumps(said)})
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


TABLE = {
    "type": "object",
    "required": ["count", "start", "columns"],
    "properties": {
        "count": {"type": "integer"},
        "start": {"type": "integer"},
        "columns": {"type": "object", "additionalProperties": {"type": "array"}},
    },
}

ROUTES = (
    Route(
        "GET",
        "/v1/stores/{store}/@{id}.{commit}/rows",
        "read",
        read_rows,
        "Steps of the commit, decoded, as arrays by field.",
        query=RowsQuery,
        gives={
            200: Gives("Arrays, as safetensors has them.", wire.ARRAYS),
            304: Gives("The client has them."),
        },
    ),
    Route(
        "GET",
        "/v1/stores/{store}/@{id}.{commit}/trajectories",
        "read",
        read_trajectories,
        "The table of trajectories of the commit: JSON, or a stream of Arrow if `Accept` says so.",
        query=TrajectoriesQuery,
        gives={
            200: Gives(
                "Columns by name, and how many trajectories there are in all.", model=TABLE, also=ARROW
            )
        },
    ),
)
