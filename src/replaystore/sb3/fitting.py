"""Whether what lies at a place can be gone on with by a ring of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

from replaystore.errors import SchemaError
from replaystore.schema.fields import Schema
from replaystore.views.reader import BufferReader

__all__ = ["check_fits"]


def check_fits(buffer: BufferReader, schema: Schema, rows: int, envs: int) -> None:
    """SchemaError: the steps of a store are not those of so many environments, of these fields, or it keeps
    fewer than `rows` of each."""
    mine, theirs = schema.fields, buffer.schema.fields
    for name in mine.keys() | theirs.keys():
        one, other = mine.get(name), theirs.get(name)
        if one is None or other is None or (one.dtype, one.shape) != (other.dtype, other.shape):
            raise SchemaError(
                f"{buffer.where} has other steps: {name} is {_told(other)} there, and {_told(one)} here; "
                "choose another location, or the environment that it was recorded with"
            )
        if None not in (one.space, other.space) and one.space != other.space:
            raise SchemaError(
                f"{buffer.where}: the space of {name} is another there: choose another location, or the "
                "environment that it was recorded with"
            )
    wanted, stop = rows * envs, buffer.first_row + len(buffer)
    if buffer.capacity is not None and buffer.capacity < wanted:
        raise SchemaError(
            f"{buffer.where} keeps {buffer.capacity} steps, and {wanted} are wanted: give "
            f"buffer_size={buffer.capacity}, or choose another location"
        )
    parts = buffer.parts
    first = max(0, stop - wanted)
    inside = parts.last >= first
    strides = parts.stride[inside & (parts.length > 1)]
    in_turn = bool((strides == envs).all()) and stop % envs == 0
    if not in_turn or buffer.first_row > first or len(buffer) != int(parts.length.sum()):
        raise SchemaError(
            f"{buffer.where}: its steps are not those of {envs} environments in turn, one behind the "
            "other: choose another location, or as many environments as it was recorded with"
        )


def _told(declared: Any) -> str:
    return "not" if declared is None else f"{declared.dtype}{list(declared.shape)}"
