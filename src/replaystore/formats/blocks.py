"""A buffer as blocks of steps, for formats that write one trajectory after another; and what a buffer holds
beside its fields, which a format has or has not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.options import Options
from replaystore.formats.report import Fate, lost
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.trajectories.table import Trajectories
from replaystore.views.blocks import rows_of_bytes
from replaystore.views.reader import BufferReader

__all__ = ["beside_fields", "blocks_of", "chosen_fields", "planned_counts"]

BLANK = {"env": 0, "seed": -1, "split": ""}
"""Columns of the table that do not follow from the steps, and what is there if nothing was said."""


def chosen_fields(buffer: BufferReader, options: Options) -> list[str]:
    """The names of the fields that are to be written."""
    chosen = buffer.schema if options.fields is None else buffer.schema.select(options.fields)
    return list(chosen.fields)


def _chosen_trajectories(buffer: BufferReader, options: Options) -> Trajectories:
    return buffer.trajectories if options.trajectories is None else options.trajectories


def planned_counts(buffer: BufferReader, options: Options) -> tuple[int, int]:
    """(steps, trajectories) that `blocks_of` is going to give."""
    parts = buffer.parts
    taken = parts.parts_of(_chosen_trajectories(buffer, options)["trajectory"])
    return int(parts.length[taken].sum()), len(np.unique(parts.trajectory[taken]))


def blocks_of(buffer: BufferReader, options: Options, max_bytes: int = 4 << 20) -> Iterator[Block]:
    """The steps that are to be written: all of one trajectory, in order, before those of the next, in blocks
    of about `max_bytes`.

    What each trajectory began with is said with its first block, how it ended with its last; a trajectory
    that was still open is cut off. Rows of no trajectory are not among them."""
    names, table = chosen_fields(buffer, options), _chosen_trajectories(buffer, options)
    finals = _Finals(buffer, names)
    parts, first = buffer.parts, buffer.first_row
    order = parts.parts_of(table["trajectory"])
    owner = parts.trajectory[order]
    begins = np.append(True, owner[1:] != owner[:-1])[: len(order)]
    ends = np.append(owner[1:] != owner[:-1], True)[: len(order)]
    row = -1
    for part, is_first, is_last in zip(order.tolist(), begins.tolist(), ends.tolist(), strict=True):
        row += is_first
        going = {"begins": False, "env": int(table["env"][row])}
        about = _beginning(table, row) if is_first else going
        rows = range(int(parts.start[part]) - first, int(parts.stop[part]) - first, int(parts.stride[part]))
        for start, stop in rows_of_bytes(buffer, names, max_bytes, rows.start, rows.stop, rows.step):
            columns = buffer.read(slice(start, stop, rows.step), names)
            if stop < rows.stop:
                yield Block(columns, ends=False, **about)
            elif not is_last:
                yield Block(columns, ends=False, final=finals.after(part), **about)
            else:
                flags = bool(table["terminated"][row]), bool(table["truncated"][row])
                yield Block(
                    columns, final=finals.after(part), terminated=flags[0], truncated=flags[1], **about
                )
            about = going


def _beginning(table: Trajectories, row: int) -> dict[str, Any]:
    user = [name for name in table.columns if name not in TRAJECTORIES and name != "open"]
    known = {
        "env": int(table["env"][row]),
        "seed": int(table["seed"][row]),
        "split": str(table["split"][row]),
    }
    return {**known, "row": {name: table[name][row] for name in user}}


class _Finals:
    """Observations after the last steps of parts."""

    def __init__(self, buffer: BufferReader, names: Collection[str]) -> None:
        self._buffer = buffer
        self._names = [name for name in buffer.schema.names("observation") if name in names]
        opened = buffer.open_trajectories()
        self._open = {entry.trajectory: entry.following for entry in opened if entry.following is not None}

    def after(self, part: int) -> Mapping[str, NDArray[Any]] | None:
        """None: nobody knows."""
        parts = self._buffer.parts
        row = parts.final[part : part + 1]
        if row[0] >= 0:
            return self._rows({name: self._buffer.final_rows(name, row)[0] for name in self._names})
        known = self._open.get(int(parts.trajectory[part]))
        if known is None or int(parts.parts_of(parts.trajectory[part])[-1]) != part:
            return None
        return self._rows({name: known[name] for name in self._names})

    def _rows(self, stored: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]] | None:
        """The observation in rows as they are stored; of any length its values, of a text its bytes."""
        buffer, ragged = self._buffer, self._buffer.schema.ragged
        return {
            name: buffer.values_of(name).take(row[None]).named if name in ragged else row
            for name, row in stored.items()
        } or None


def beside_fields(
    buffer: BufferReader, options: Options, *, holds: Collection[str], fields: Collection[str]
) -> dict[str, Fate]:
    """What a buffer has beside its fields and the format does not hold, which is lost.

    `holds`: of "env", "seed", "split", "final_observation", "open", "metadata", "environment", "steps" (of no
    trajectory), "terminated", "truncated" and the columns of the user's those that the format has. `fields`:
    the names of those that it has."""
    table, document = _chosen_trajectories(buffer, options), buffer.document
    there = {name: table[name] != blank for name, blank in BLANK.items()}
    there |= {name: table[name] for name in ("terminated", "truncated", "open") if name not in fields}
    user = [name for name in table.columns if name not in TRAJECTORIES and name != "open"]
    found = {name: bool(np.any(some)) for name, some in there.items()} | dict.fromkeys(user, True)
    parts = buffer.parts
    taken = parts.parts_of(table["trajectory"])
    found["final_observation"] = bool((parts.final[taken] >= 0).any())
    found["metadata"], found["environment"] = bool(document.user), buffer.environment is not None
    rows = len(buffer) - int(parts.length.sum()) if options.trajectories is None else 0
    found["steps"] = rows > 0
    why = {"steps": f"{rows} of no trajectory", "open": "they are cut off"}
    return {name: lost(why.get(name, "")) for name, some in found.items() if some and name not in holds}
