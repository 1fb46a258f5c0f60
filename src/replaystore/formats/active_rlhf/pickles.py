"""The pickles of active_rlhf: `ReplayBuffer.save("replay_buffer.pkl")`.

| in the file           | in a buffer                                                                       |
|-----------------------|-----------------------------------------------------------------------------------|
| obs, acts             | `observation`, `action`                                                           |
| rews                  | `reward`, one number a step                                                       |
| dones                 | the extra field `dones`, because it does not say what `terminated` says: that     |
|                       | the observation of this very row was the last one of the episode before           |
| trajectories          | the table of trajectories, in the order of the list, with their splits and the    |
|                       | columns `on_policiness_score` and `last_updated_step`; each is what was added at  |
|                       | once, episodes end inside it, and so none is marked as terminated or truncated    |
| capacity, pos, size … | the state of the ring in the document (`replaystore.views.foreign_ring`)          |

Rows of no trajectory stay rows of no trajectory. Of a trajectory that is longer than the ring (`longer`) the
first rows are gone. What cannot be a trajectory here (no rows, rows of another one, rows on both sides of the
position) is kept literally in the state of the ring, as `irregular`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore import not_stores
from replaystore.errors import CorruptError, FormatError, NotFoundError
from replaystore.formats.active_rlhf.export import Plan
from replaystore.formats.active_rlhf.pickling import write_pickle
from replaystore.formats.active_rlhf.unpickling import Infos, Tensor, scan
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, lost, refuse_losses
from replaystore.formats.shared.file_rows import FileRows, opened
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import RingSource
from replaystore.schema.fields import Field, Schema
from replaystore.schema.roles import role_of
from replaystore.storage.local import read_all
from replaystore.trajectories.parts import Parts
from replaystore.views.foreign_ring import AFTER_IT
from replaystore.views.reader import BufferReader

__all__ = ["ActiveRlhf", "Contents", "Table", "contents", "read", "trajectories_of", "write"]

MAX_CAPACITY = 1 << 48
MAX_IRREGULAR = 10_000
NUMBERS = ("capacity", "fragment_length", "size", "pos", "global_step")
TENSORS = {"obs": "observation", "acts": "action", "rews": "reward", "dones": "dones"}
_OPTIONAL = ("fragment_length", "env_obs_shape", "env_act_shape")


# --- reading


@dataclass(frozen=True)
class Contents:
    """What a pickle holds, checked. Rows are read while the file is open."""

    size: int
    """Bytes of the file."""
    known: dict[str, Any]
    """`capacity`, `size`, `position`, `global_step`; where the file has them, `fragment_length`,
    `env_obs_shape`, `env_act_shape`."""
    tensors: Mapping[str, FileRows]
    """By the names of the file."""
    infos: Infos
    unknown: list[str]
    """Other keys."""


@contextmanager
def contents(path: str) -> Iterator[Contents]:
    """Open a pickle, without running anything in it, and without its rows in memory.

    NotFoundError, StorageError; FormatError: it is something else, or damaged, or hostile.
    """
    with opened(path) as (descriptor, size):
        if not size:
            raise FormatError(f"{path} is empty: the program that saved it was stopped; save it again")
        try:
            content = scan(descriptor, size, path)
        except FormatError as error:
            damaged = isinstance(error, CorruptError)
            if not damaged and (strange := not_stores.addition(path)):
                raise FormatError(f"{error}{strange}") from error
            raise
        needed = [*NUMBERS, *TENSORS, "trajectories"]
        missing = [key for key in needed if key not in content and key not in _OPTIONAL]
        if missing:
            raise FormatError(
                f"{path}: the key {missing[0]!r} is missing: this is not a buffer of active_rlhf"
            )
        capacity = _number(content, "capacity", path, 1, MAX_CAPACITY)
        known: dict[str, Any] = {
            "capacity": capacity,
            "size": _number(content, "size", path, 0, capacity + 1),
        }
        known["position"] = _number(content, "pos", path, 0, capacity)
        known["global_step"] = _number(content, "global_step", path, 0, 1 << 62)
        if "fragment_length" in content:
            known["fragment_length"] = _number(content, "fragment_length", path, -(1 << 62), 1 << 62)
        for key in ("env_obs_shape", "env_act_shape"):
            if key in content:
                known[key] = _shape(content, key, path)
        infos = content["trajectories"]
        if type(infos) is not Infos:
            raise FormatError(f"{path}: 'trajectories' is no list: the file is damaged")
        tensors = {key: _rows(content, key, path, descriptor, capacity) for key in TENSORS}
        unknown = sorted(content.keys() - {*NUMBERS, *TENSORS, "trajectories", *_OPTIONAL})
        yield Contents(size, known, tensors, infos, unknown)


@contextmanager
def read(path: str) -> Iterator[RingSource]:
    """Open a pickle as a source of rows. The errors of `contents`."""
    with contents(path) as found:
        yield _source(found, path)


def _source(found: Contents, path: str) -> RingSource:
    known = dict(found.known)
    capacity, used, position = known["capacity"], known["size"], known["position"]
    tensors = {name: found.tensors[key] for key, name in TENSORS.items()}
    begin = position if used == capacity else 0
    rows = known["rows"] = max(tensor.used(used) for tensor in tensors.values())
    table = trajectories_of(found.infos, capacity, used, position, path)
    fields = {name: Field(rows.dtype, rows.shape, role_of(name)) for name, rows in tensors.items()}
    # What is appended then goes where the ring would have put it.
    living = rows == used and (begin + rows - position) % capacity == 0
    source = RingSource(
        schema=Schema(fields),
        rows=rows,
        read=lambda name, start, stop: tensors[name].read_around(begin, start, stop),
        parts=table.parts,
        table=table.columns,
        splits=["", *found.infos.splits],
        ring={"format": "active_rlhf", "ends": ["dones", AFTER_IT], **known, **table.known},
        details={"format": "active_rlhf", "location": path, "bytes": found.size},
        capacity=capacity if living else None,
        position=position if living else None,
        environment=environment_of_folder(path),
    )
    _note(source, found.unknown, used)
    return source


def _note(source: RingSource, unknown: list[str], used: int) -> None:
    if source.rows > used:
        source.remarks.append(
            f"{source.rows - used} rows beyond those in use are not zeros: they are kept as "
            "rows of no trajectory"
        )
    irregular = source.ring["irregular"]
    if irregular:
        source.remarks.append(
            f"{len(irregular)} trajectories without rows of their own are kept in the state of the ring only"
        )
    if source.environment:
        source.remarks.append(
            f"the environment {source.environment['id']} is taken from the name of the folder"
        )
    if unknown:
        source.fields |= dict.fromkeys(unknown, lost())


def _number(content: Mapping[str, Any], key: str, path: str, low: int, stop: int) -> int:
    value = content[key]
    if type(value) is not int or not low <= value < stop:
        raise FormatError(
            f"{path}: {key!r} is {value!r:.60}, not an integer from {low} to {stop - 1}: the file is damaged"
        )
    return value


def _shape(content: Mapping[str, Any], key: str, path: str) -> list[int]:
    value = content[key]
    if type(value) is not tuple or not all(
        type(length) is int and 0 <= length < MAX_CAPACITY for length in value
    ):
        raise FormatError(f"{path}: {key!r} is {value!r:.60}, not a shape: the file is damaged")
    return list(value)


def _rows(content: Mapping[str, Any], key: str, path: str, descriptor: int, capacity: int) -> FileRows:
    tensor = content[key]
    if type(tensor) is not Tensor:
        raise FormatError(f"{path}: {key!r} is no tensor: the file is damaged")
    shape, one = tensor.shape, key in ("rews", "dones")
    if len(shape) != 2 or shape[0] != capacity or shape[1] < 1 or (one and shape[1] != 1):
        wanted = f"({capacity}, {'1' if one else 'n'})"
        raise FormatError(
            f"{path}: {key!r} has the shape {shape}, and with a capacity of {capacity} it must be {wanted}: "
            "the file is damaged"
        )
    if (tensor.dtype == np.bool_) != (key == "dones"):
        raise FormatError(f"{path}: {key!r} has the dtype {tensor.dtype}: the file is damaged")
    return FileRows(
        descriptor, f"{path}, {key!r}", tensor.dtype, () if one else (shape[1],), capacity, tensor.offset
    )


def environment_of_folder(path: str) -> dict[str, Any] | None:
    """Training scripts put the file into a folder `<environment>__<experiment>__<seed>__<time>`, and say
    nowhere else what it was."""
    parts = os.path.basename(os.path.dirname(os.path.abspath(path))).split("__")
    return {"id": parts[0]} if len(parts) >= 4 and parts[0] else None


# --- trajectories


@dataclass(frozen=True)
class Table:
    """The list of trajectories, as far as these are trajectories here."""

    parts: Parts
    columns: dict[str, NDArray[Any]]
    known: dict[str, Any]
    """What the extension says of the list: `trajectories`, how many there are here; `longer`; `irregular`,
    the others."""


def trajectories_of(infos: Infos, capacity: int, used: int, position: int, where: str) -> Table:
    """The trajectories of a ring of which `used` rows are in use. FormatError: so many have no rows that the
    ring, `where`, is damaged."""
    start, length = np.array(infos.start, np.int64), np.array(infos.length, np.int64)
    full = used == capacity
    with np.errstate(over="ignore"):
        row = (start - position) % capacity if full else start
        regular = (start >= 0) & (start < capacity) & (length > 0) & (length <= used) & (row <= used - length)
        longer = (
            full
            & (start >= 0)
            & (start < capacity)
            & (length > capacity)
            & ((start + length) % capacity == position)
        )
    offset = np.zeros(len(infos), np.int64)
    if longer.any():  # it alone has all rows, but for its first ones
        regular[:] = False
        chosen = int(np.flatnonzero(longer)[-1])
        regular[chosen], row[chosen], offset[chosen] = True, 0, length[chosen] - capacity
    order = np.flatnonzero(regular)[np.argsort(row[regular], kind="stable")]
    end = 0
    if len(order) and (row[order][1:] < (row + length)[order][:-1]).any():
        for place in order.tolist():  # of trajectories that overlap, those that begin first
            if row[place] < end:
                regular[place] = False
            else:
                end = int(row[place] + length[place])
        order = order[regular[order]]
    number = np.cumsum(regular) - 1
    parts = Parts(
        row[order],
        (length - offset)[order],
        np.ones(len(order), np.int64),
        number[order],
        offset[order],
        np.full(len(order), -1, np.int64),
    )
    columns: dict[str, NDArray[Any]] = {
        "trajectory": np.arange(int(regular.sum())),
        "length": length[regular],
        "split": np.array(infos.split, np.int64)[regular] + 1,
        "on_policiness_score": np.array(infos.score, np.float64)[regular],
        "last_updated_step": np.array(infos.updated, np.int64)[regular],
    }
    known: dict[str, Any] = {"trajectories": int(regular.sum()), "longer": None}
    if len(parts) and parts.offset[0]:
        at = int(np.flatnonzero(regular)[0])
        known["longer"] = [0, infos.start[at], infos.length[at]]  # its number, start_pos, length
    known["irregular"] = _irregular(infos, regular, where)
    return Table(parts, columns, known)


def _irregular(infos: Infos, regular: NDArray[np.bool_], path: str) -> list[list[Any]]:
    """The others: [number of the trajectory they come before, start_pos, length, split, score,
    last_updated_step]."""
    places = np.flatnonzero(~regular).tolist()
    if len(places) > MAX_IRREGULAR:
        raise FormatError(
            f"{path}: {len(places)} of {len(infos)} trajectories have no rows of their own: "
            "the file is damaged"
        )
    before = np.cumsum(regular)
    return [
        [
            int(before[at]),
            infos.start[at],
            infos.length[at],
            infos.splits[infos.split[at]],
            infos.score[at].hex(),
            infos.updated[at],
        ]
        for at in places
    ]


# --- writing


def write(buffer: BufferReader, path: str, options: Options) -> Report:
    """Write a buffer.

    Where the buffer was such a file, it is one again, with what was appended since. SchemaError,
    UnsupportedError: it cannot be one (or not exactly, if that is wanted). AlreadyExistsError, StorageError:
    there is no new file then.
    """
    plan = Plan(buffer, options, path)
    refuse_losses(plan.out.became, plan.out.rest, path, strict=options.strict)
    total, written = sum(tensor.row_bytes for tensor in plan.tensors.values()) * plan.placement.capacity, 0

    def done(count: int) -> None:
        nonlocal written
        written += count
        if options.progress is not None:
            options.progress(written, total)

    with NewFiles([path], overwrite=options.overwrite) as new:
        write_pickle(new.files[0], plan.numbers, plan.tensors, plan.placement, plan.infos, plan.shapes, done)
    return plan.out.report(plan.numbers["size"], len(plan.infos))


class ActiveRlhf(Format):
    """The format, as `replaystore.formats` knows it."""

    example = "replay_buffer.pkl"
    limits = (
        "observations and actions of more than one array, or that are no floats",
        "terminated and truncated apart, unless flagged rows are made for final observations",
        "seeds, environments, further fields, and further columns of trajectories",
        "metadata and the environment",
    )

    def read(self, path: str) -> AbstractContextManager[RingSource]:
        return read(path)

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        made = Plan(buffer, options, path)
        return made.out.report(made.numbers["size"], len(made.infos))

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return write(buffer, path, options)

    def recognizes(self, path: str) -> bool:
        try:
            with opened(path) as (descriptor, _):
                return read_all(descriptor, 0, 1) == b"\x80" and b"capacity" in read_all(descriptor, 0, 64)
        except (FormatError, NotFoundError):
            return False
