"""The buffers of velora: `ReplayBuffer.save(folder)` makes buffer_state.safetensors, and buffer_metadata.json
beside it.

| in the files               | in a buffer                                                                   |
|----------------------------|-------------------------------------------------------------------------------|
| states, actions            | `observation`, `action`                                                       |
| rewards                    | `reward`, one number a step                                                   |
| dones                      | the extra field `dones`, float32: terminated or truncated, nobody knows which |
| hiddens                    | the extra field `hiddens`                                                     |
| next_states                | the next row's observation or the final observation, or the extra field       |
|                            | `next_states`; see below                                                      |
| capacity, position, size … | the state of the ring in the document (`replaystore.views.foreign_ring`)      |

The files do not say which rows belong together, and those that velora writes of several environments lie in
turn; what is written here lies trajectory by trajectory. Where the next state of a row is, bit for bit, the
state of the row after it, and the row is not done, the two are steps of one trajectory. If that makes
trajectories of eight rows or more on average, they become the buffer's, with the next state after each of
them as final observation, and `next_states` is no field. Otherwise rows are of no trajectory, and
`next_states` is a field.

The metadata are in `{prefix}metadata.json` beside `{prefix}state.safetensors`, or in the entry "buffer" of
the metadata.json of an agent's checkpoint. Files of velora 0.1.1 have no hiddens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, lost, refuse_losses
from replaystore.formats.shared.file_rows import BLOCK_BYTES, FileRows, opened
from replaystore.formats.shared.new_files import NewFiles, listed
from replaystore.formats.shared.outgoing import Output
from replaystore.formats.source import RingSource, no_parts
from replaystore.formats.velora.export import TENSORS, Plan, forms_trajectories
from replaystore.formats.velora.pair import (
    KEYS,
    STATE,
    checked,
    header_of,
    metadata_beside,
    opened_pair,
)
from replaystore.schema.fields import Field, Schema
from replaystore.schema.roles import role_of
from replaystore.trajectories.parts import Parts
from replaystore.views.foreign_ring import LAST_STEP, Placement
from replaystore.views.reader import BufferReader

__all__ = ["Contents", "Velora", "contents", "read", "write", "write_tensors"]

FIELDS = {
    "states": "observation",
    "actions": "action",
    "rewards": "reward",
    "dones": "dones",
    "hiddens": "hiddens",
    "next_states": "next_states",
}


def _inside(folder: str) -> list[str]:
    """The files in a folder that may be buffers."""
    try:
        names = sorted(name for name in listed(folder) if name.endswith(STATE))
    except OSError:
        return []
    return [name for name in names if name not in ("model_state.safetensors", "optim_state.safetensors")]


# --- reading


@dataclass(frozen=True)
class Contents:
    """What the files of a buffer hold, checked. Rows are read while they are open."""

    size: int
    """Bytes of the tensors' file."""
    known: dict[str, Any]
    """`capacity`, `state_dim`, `action_dim`, `hidden_dim` (where there are hiddens), `position`, `size`,
    `device`."""
    tensors: Mapping[str, FileRows]
    """By the names of the file."""
    beside: str
    """Where the metadata are."""
    unknown: list[str]
    """Other tensors."""
    more: list[str]
    """Other metadata."""


@contextmanager
def contents(path: str, metadata: Mapping[str, Any] | None = None) -> Iterator[Contents]:
    """Open a file of tensors, without its rows in memory. `metadata`: those that belong to it; None: they are
    looked for beside it.

    NotFoundError, StorageError; FormatError: it is something else, or damaged, or the metadata are of another
    one.
    """
    with opened_pair(path, metadata) as (descriptor, size, header, given, beside):
        known = checked(given, header, path, beside)
        tensors = {}
        for name in TENSORS:
            if name in header:
                shape, offset = header[name]
                row = () if name in ("rewards", "dones") else (shape[1],)
                tensors[name] = FileRows(
                    descriptor, f"{path}, {name!r}", np.dtype("<f4"), row, known["capacity"], offset
                )
        more = sorted(map(str, given.keys() - {*KEYS, "device"}))
        yield Contents(size, known, tensors, beside, sorted(header.keys() - set(TENSORS)), more)


@contextmanager
def read(path: str) -> Iterator[RingSource]:
    """Open a buffer, or the folder with it, as a source of rows. The errors of `contents`."""
    if os.path.isdir(path):
        names = _inside(path)
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise FormatError(
                f"{path}: of the files *{STATE} one must be a buffer, and there is {found}: "
                "give the path of the file"
            )
        path = os.path.join(path, names[0])
    with contents(path) as held:
        yield _source(held, path)


def _source(held: Contents, path: str) -> RingSource:
    known = dict(held.known)
    capacity, used, position = known["capacity"], known["size"], known["position"]
    tensors = {FIELDS[name]: rows for name, rows in held.tensors.items()}
    begin = position if used == capacity else 0
    count = max(tensor.used(used) for tensor in tensors.values())
    known["rows"] = count
    living = count == used and (begin + count - position) % capacity == 0
    ends = _ends(tensors, begin, count) if count == used else None
    names = [name for name in FIELDS.values() if name in tensors and (name != "next_states" or ends is None)]
    fields = {name: Field(tensors[name].dtype, tensors[name].shape, role_of(name)) for name in names}
    parts, table = _trajectories(ends)
    source = RingSource(
        schema=Schema(fields),
        rows=count,
        read=lambda name, start, stop: tensors[name].read_around(begin, start, stop),
        parts=parts,
        table=table,
        splits=[""],
        ring={"format": "velora", "ends": ["dones", LAST_STEP], **known},
        details={"format": "velora", "location": path, "metadata": held.beside, "bytes": held.size},
        capacity=capacity if living else None,
        position=position if living else None,
        finals=np.zeros(0, np.int64) if ends is None else ends,
        read_finals=lambda start, stop: tensors["next_states"].read_around(begin, start, stop),
    )
    if count > used:
        source.remarks.append(
            f"{count - used} rows beyond those in use are not zeros: they are kept as rows of no trajectory"
        )
    if ends is None and count:
        source.remarks.append(
            "most next states are not the state of the next row: next_states is a field, "
            "and rows are of no trajectory"
        )
    if held.unknown:
        source.fields |= dict.fromkeys(held.unknown, lost())
    if held.more:
        source.rest |= dict.fromkeys(held.more, lost())
    return source


def _ends(tensors: Mapping[str, FileRows], begin: int, count: int) -> NDArray[np.int64] | None:
    """The last rows of trajectories, if rows form any; None: they do not."""
    states, following, dones = tensors["observation"], tensors["next_states"], tensors["dones"]
    step, found, total = max(1, BLOCK_BYTES // states.row_bytes), [], 0
    for start in range(0, count, step):
        stop = min(start + step, count)
        ends = dones.read_around(begin, start, stop) != 0
        here = following.read_around(begin, start, stop).view(np.uint8)
        more = min(stop + 1, count)
        after = states.read_around(begin, start + 1, more).view(np.uint8) if more > start + 1 else here[:0]
        ends[: len(after)] |= (here[: len(after)] != after).any(axis=1)
        if stop == count:
            ends[-1] = True
        places = np.flatnonzero(ends) + start
        found.append(places)
        total += len(places)
        if not forms_trajectories(total, count, states.row_bytes):
            return None
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)


def _trajectories(ends: NDArray[np.int64] | None) -> tuple[Parts, dict[str, NDArray[Any]]]:
    if ends is None:
        ends, parts = np.zeros(0, np.int64), no_parts()
    else:
        start = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
        number = np.arange(len(ends))
        parts = Parts(start, ends + 1 - start, np.ones_like(start), number, np.zeros_like(start), number)
    return parts, {
        "trajectory": np.arange(len(ends)),
        "length": parts.length,
        "split": np.zeros(len(ends), np.int64),
    }


# --- writing


def write(buffer: BufferReader, path: str, options: Options) -> Report:
    """Write a buffer and its metadata.

    Where the buffer was such a file, it is one again, with what was appended since: the same bytes, if
    nothing was. SchemaError, UnsupportedError: it cannot be one (or not exactly, if that is wanted).
    AlreadyExistsError, StorageError: there are no new files then.
    """
    plan = Plan(buffer, options, path)
    refuse_losses(plan.out.became, plan.out.rest, path, strict=options.strict)
    total, written = sum(tensor.row_bytes for tensor in plan.tensors.values()) * plan.placement.capacity, 0

    def done(count: int) -> None:
        nonlocal written
        written += count
        if options.progress is not None:
            options.progress(written, total)

    paths = [path, metadata_beside(path)]
    with NewFiles(paths, overwrite=options.overwrite) as new:
        state, metadata = new.files
        write_tensors(state, plan.tensors, plan.placement, done)
        metadata.write(json.dumps(plan.metadata, indent=2).encode())
    return plan.out.report(plan.metadata["size"], len(plan.out.table))


def write_tensors(
    file: IO[bytes], tensors: Mapping[str, Output], placement: Placement, done: Callable[[int], None]
) -> None:
    """Write float32 tensors, in this order, byte for byte as the safetensors library does. `done` is told
    bytes of rows."""
    content, end = {}, 0
    for name, tensor in tensors.items():
        size = placement.capacity * tensor.row_bytes
        content[name] = {
            "dtype": "F32",
            "shape": [placement.capacity, tensor.width],
            "data_offsets": [end, end + size],
        }
        end += size
    data = json.dumps(content, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    file.write(len(data).to_bytes(8, "little") + data)
    for tensor in tensors.values():
        tensor.write(file, placement, done)


class Velora(Format):
    """The format, as `replaystore.formats` knows it."""

    example = "buffer_state.safetensors"
    limits = (
        "observations and actions of more than one array, or of another dtype than float32",
        "terminated and truncated apart",
        "splits, seeds, environments, further fields, and columns of trajectories",
        "final observations beside next states",
        "metadata and the environment",
    )

    def read(self, path: str) -> AbstractContextManager[RingSource]:
        return read(path)

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        made = Plan(buffer, options, path)
        return made.out.report(made.metadata["size"], len(made.out.table))

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return write(buffer, path, options)

    def recognizes(self, path: str) -> bool:
        if os.path.isdir(path):
            return bool(_inside(path))
        try:
            with opened(path) as (descriptor, size):
                header_of(descriptor, size, path)
        except (FormatError, NotFoundError):
            return False
        return True

    def written(self, path: str) -> list[str]:
        return [path, metadata_beside(path)]
