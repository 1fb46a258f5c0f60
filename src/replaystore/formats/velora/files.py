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
| capacity, position, size … | `extensions["velora"]` of the document (see `replaystore.views.ring`)       |

The files do not say which rows belong together, and rows of several environments may lie in turn. Where the
next state of a row is, bit for bit, the state of the row after it, and the row is not done, the two are steps
of one trajectory. If that makes trajectories of eight rows or more on average, they become the buffer's, with
the next state after each of them as final observation, and `next_states` is no field. Otherwise rows are of
no trajectory, and `next_states` is a field.

The metadata are in `{prefix}metadata.json` beside `{prefix}state.safetensors`, or in the entry "buffer" of
the metadata.json of an agent's checkpoint. Files of velora 0.1.1 have no hiddens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError, ReplayStoreError
from replaystore.formats.shared.export import Options, Output, Written, refuse_losses
from replaystore.formats.shared.tensors import BLOCK_BYTES, FileRows, opened
from replaystore.formats.shared.writing import NewFiles, replacing, settle
from replaystore.formats.source import Source, no_parts
from replaystore.formats.velora.export import TENSORS, Plan
from replaystore.schema.fields import Field, Schema, role_of
from replaystore.storage.local import read_all
from replaystore.trajectories.table import Parts
from replaystore.views.reader import BufferReader
from replaystore.views.ring import Placement

__all__ = ["Contents", "contents", "read", "replaceable", "sniff", "write", "write_tensors"]

NAME = "a velora buffer"
SUFFIX = ".safetensors"
STATE = "state" + SUFFIX
METADATA = "metadata.json"
EXAMPLE = "buffer_state.safetensors"
GIVEN = "the metadata given"
ATTEMPTS = 20
"""How often files are read that somebody replaces again and again."""
MAX_HEADER = 1 << 20
MAX_METADATA = 64 << 20
MAX_CAPACITY = 1 << 48
ROWS_PER_TRAJECTORY = 8
MAX_FINAL_BYTES = 64 << 20
"""Final observations are kept like a table, which is small."""
FIELDS = {
    "states": "observation",
    "actions": "action",
    "rewards": "reward",
    "dones": "dones",
    "hiddens": "hiddens",
    "next_states": "next_states",
}
_Header = dict[str, tuple[tuple[int, ...], int]]
_KEYS = ("capacity", "state_dim", "action_dim", "hidden_dim", "position", "size")


def sniff(path: str) -> bool:
    """Whether a path names such a file, or a folder with one."""
    return path.lower().endswith(SUFFIX) or (os.path.isdir(path) and bool(_inside(path)))


def _inside(folder: str) -> list[str]:
    """The files in a folder that may be buffers."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(STATE))
    except OSError:
        return []
    return [name for name in names if name not in ("model_state.safetensors", "optim_state.safetensors")]


def replaceable(path: str) -> bool:
    """Whether there is such a file, which may be replaced by a new one."""
    try:
        with opened(path) as (descriptor, size):
            _header(descriptor, size, path)
    except (FormatError, NotFoundError):
        return False
    return True


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
    with _pair(path, metadata) as (descriptor, size, header, given, beside):
        known = _checked(given, header, path, beside)
        tensors = {}
        for name in TENSORS:
            if name in header:
                shape, offset = header[name]
                row = () if name in ("rewards", "dones") else (shape[1],)
                tensors[name] = FileRows(
                    descriptor, f"{path}, {name!r}", np.dtype("<f4"), row, known["capacity"], offset
                )
        more = sorted(map(str, given.keys() - {*_KEYS, "device"}))
        yield Contents(size, known, tensors, beside, sorted(header.keys() - set(TENSORS)), more)


@contextmanager
def read(path: str) -> Iterator[Source]:
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


@contextmanager
def _pair(
    path: str, metadata: Mapping[str, Any] | None
) -> Iterator[tuple[int, int, _Header, Mapping[str, Any], str]]:
    """The file, open, its size and tensors, and the metadata that belong to it, and where they are: all of
    one save, whatever others do."""
    places = _places(path)
    for attempt in range(ATTEMPTS):
        for place in places[:2]:
            settle([path, place])
        with ExitStack() as stack:
            there, problem = _there(places), None
            beside = next((place for place in places if place in there), places[0])
            known: Mapping[str, Any] = metadata or {}
            read: list[tuple[str, os.stat_result]] = []
            try:
                descriptor, size = stack.enter_context(opened(path))
                read.append((path, os.fstat(descriptor)))
                header = _header(descriptor, size, path)
                if metadata is None:
                    known, identity = _metadata(path, beside)
                    read.append((beside, identity))
            except ReplayStoreError as error:
                problem = error
            missed = isinstance(problem, NotFoundError) and os.path.lexists(path) and os.path.lexists(beside)
            if attempt < ATTEMPTS - 1 and (missed or _there(places) != there or not _steady(places, read)):
                continue
            if problem is not None:
                raise problem
            yield descriptor, size, header, known, beside if metadata is None else GIVEN
            return


def _there(places: Sequence[str]) -> list[str]:
    return [place for place in places if os.path.lexists(place)]


def _steady(places: Sequence[str], read: Sequence[tuple[str, os.stat_result]]) -> bool:
    """Whether names are still those of the files that were read, and nobody is just replacing them."""
    try:
        return not any(map(replacing, places[:2])) and all(
            os.path.samestat(os.stat(path), status) for path, status in read
        )
    except OSError:
        return False


def _header(descriptor: int, size: int, path: str) -> _Header:
    """The tensors of a buffer: shape, and place in the file."""
    length = int.from_bytes(read_all(descriptor, 0, 8), "little")
    if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
        raise FormatError(f"{path} is not a safetensors file, or it ends in its header: save it again")
    try:
        content = json.loads(read_all(descriptor, 8, length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise FormatError(
            f"{path}: its header is no JSON: it is damaged, or not a safetensors file"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise FormatError(f"{path}: its header does not describe tensors: it is damaged")
    content.pop("__metadata__", None)
    missing = [name for name in TENSORS if name not in content and name != "hiddens"]
    if missing:
        raise FormatError(
            f"{path} has no tensor {missing[0]!r}: it is not a buffer of velora, which are called "
            "buffer_state.safetensors; "
            "read it with safetensors.numpy.load_file"
        )
    found, end = {}, 0
    for name, entry in sorted(content.items(), key=lambda item: _begin(item[1])):
        shape, offsets = entry.get("shape"), entry.get("data_offsets")
        if (
            not _numbers(shape)
            or not _numbers(offsets)
            or len(offsets) != 2
            or offsets[0] != end
            or offsets[1] < end
        ):
            raise FormatError(
                f"{path}: the tensor {name!r} has no proper shape or place: the file is damaged"
            )
        if name in TENSORS:
            if entry.get("dtype") != "F32":
                raise FormatError(
                    f"{path}: the tensor {name!r} is {entry.get('dtype')!r:.20}, and a buffer of velora has "
                    "F32: convert it first"
                )
            if len(shape) != 2 or shape[0] < 1 or shape[1] < 1 or shape[0] * shape[1] * 4 != offsets[1] - end:
                raise FormatError(
                    f"{path}: the tensor {name!r} of shape {shape!r:.60} has "
                    f"{offsets[1] - end} bytes: the file is damaged"
                )
        found[name] = tuple(shape), 8 + length + end
        end = offsets[1]
    if 8 + length + end != size:
        raise FormatError(
            f"{path} has {size} bytes, and its header speaks of {8 + length + end}: it is damaged, or was "
            "not written to its end"
        )
    return found


def _begin(entry: Mapping[str, Any]) -> int:
    offsets = entry.get("data_offsets")
    return offsets[0] if _numbers(offsets) and offsets else -1


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 62 for number in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is there twice")
    return found


def _places(path: str) -> list[str]:
    """Where metadata of a file may be, the likeliest first; the last one is that of an agent."""
    stem = path[: -len(SUFFIX)]  # a prefix with a dot, of which velora leaves out what follows the dot
    return [_beside(path), stem + ".json", os.path.join(os.path.dirname(path), METADATA)]


def _metadata(path: str, place: str) -> tuple[dict[str, Any], os.stat_result]:
    """The metadata that belong to a file, and which file has them."""
    folder, wanted = os.path.split(_beside(path))
    if not os.path.lexists(place):
        raise NotFoundError(
            f"{os.path.join(folder, wanted)} is missing, without which the buffer {path} "
            "cannot be read: copy it there"
        )
    content, identity = _json(place)
    if "capacity" in content:
        return content, identity
    if isinstance(content.get("buffer"), dict):  # of an agent's checkpoint
        return content["buffer"], identity
    raise FormatError(
        f"{place} has neither a capacity nor an entry 'buffer': the agent was saved without its buffer, or "
        f"{wanted} is missing"
    )


def _beside(path: str) -> str:
    """Where the metadata of a file belong."""
    folder, name = os.path.split(path)
    prefix = name[: -len(STATE)] if name.endswith(STATE) else name[: -len(SUFFIX)] + "_"
    return os.path.join(folder, prefix + METADATA)


def _json(place: str) -> tuple[dict[str, Any], os.stat_result]:
    with opened(place) as (descriptor, size):
        identity = os.fstat(descriptor)
        if size > MAX_METADATA:
            raise FormatError(f"{place} has {size} bytes, which no such file has: check which file it is")
        data = read_all(descriptor, 0, size)
    try:
        content = json.loads(data.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise FormatError(f"{place} is no JSON, or not written to its end: restore it from a copy") from None
    if not isinstance(content, dict):
        raise FormatError(f"{place} holds no object: check which file it is")
    return content, identity


def _source(held: Contents, path: str) -> Source:
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
    source = Source(
        schema=Schema(fields),
        rows=count,
        read=lambda name, start, stop: tensors[name].read_around(begin, start, stop),
        parts=parts,
        table=table,
        splits=[""],
        extensions={"velora": known},
        details={"format": "velora", "location": path, "metadata": held.beside, "bytes": held.size},
        capacity=capacity if living else None,
        position=position if living else None,
        finals=np.zeros(0, np.int64) if ends is None else ends,
        read_finals=lambda start, stop: tensors["next_states"].read_around(begin, start, stop),
    )
    if count > used:
        source.notes.append(
            f"{count - used} rows beyond those in use are not zeros: they are kept as rows of no trajectory"
        )
    if ends is None and count:
        source.notes.append(
            "most next states are not the state of the next row: next_states is a field, "
            "and rows are of no trajectory"
        )
    if held.unknown:
        source.lost.append(f"tensors left out: {', '.join(held.unknown)}")
    if held.more:
        source.lost.append(f"metadata left out: {', '.join(held.more)}")
    return source


def _checked(
    metadata: Mapping[str, Any], header: Mapping[str, tuple[tuple[int, ...], int]], path: str, beside: str
) -> dict[str, Any]:
    """The metadata, if they are of these tensors."""
    known: dict[str, Any] = {}
    for key in _KEYS:
        if key == "hidden_dim" and "hiddens" not in header and key not in metadata:
            continue
        value = metadata.get(key)
        if type(value) is not int or not 0 <= value < MAX_CAPACITY:
            raise FormatError(
                f"{beside}: {key!r} is {value!r:.40}, not a number: restore the file from a copy"
            )
        known[key] = value
    device = metadata.get("device")
    if device is not None and not (isinstance(device, str) and len(device) <= 100):
        raise FormatError(
            f"{beside}: 'device' is {device!r:.40}, not the name of one: restore the file from a copy"
        )
    known["device"] = device
    wanted = {
        "states": "state_dim",
        "actions": "action_dim",
        "next_states": "state_dim",
        "hiddens": "hidden_dim",
    }
    for name in TENSORS:
        shape = header[name][0] if name in header else None
        width = known.get(wanted[name]) if name in wanted else 1
        if (shape is not None or width is not None) and shape != (known["capacity"], width):
            said = (known["capacity"], width)
            problem = (
                f"{path}: the tensor {name!r} has the shape {shape}, and {beside} says {said}: they "
                "are not of one buffer"
            )
            if beside == GIVEN and shape is not None and shape[1:] == said[1:]:
                problem += (
                    "; to load it with another capacity, leave that of the metadata as it was, and "
                    f"pass capacity={said[0]}"
                )
            raise FormatError(problem)
    if known["position"] >= known["capacity"] or known["size"] > known["capacity"]:
        raise FormatError(
            f"{beside}: size {known['size']} or position {known['position']} is beyond the capacity "
            f"{known['capacity']}: it is damaged"
        )
    return known


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
        if (
            total * ROWS_PER_TRAJECTORY > max(count, 4 * ROWS_PER_TRAJECTORY)
            or total * states.row_bytes > MAX_FINAL_BYTES
        ):
            return None
    return np.concatenate(found).astype(np.int64) if found else np.zeros(0, np.int64)


def _trajectories(ends: NDArray[np.int64] | None) -> tuple[Parts, dict[str, NDArray[Any]]]:
    if ends is None:
        ends, parts = np.zeros(0, np.int64), no_parts()
    else:
        start = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
        number = np.arange(len(ends))
        parts = Parts(start, ends + 1 - start, number, np.zeros(len(ends), np.int64), number)
    return parts, {
        "trajectory": np.arange(len(ends)),
        "length": parts.length,
        "split": np.zeros(len(ends), np.int64),
    }


# --- writing


def write(buffer: BufferReader, path: str, options: Options) -> Written:
    """Write a buffer and its metadata.

    Where the buffer was such a file, it is one again, with what was appended since: the same bytes, if
    nothing was. SchemaError, UnsupportedError: it cannot be one (or not exactly, if that is wanted).
    AlreadyExistsError, StorageError: there are no new files then.
    """
    plan = Plan(buffer, options, path)
    refuse_losses(plan.out.lost, path, strict=options.strict)
    total, written = sum(tensor.row_bytes for tensor in plan.tensors.values()) * plan.placement.capacity, 0

    def done(count: int) -> None:
        nonlocal written
        written += count
        if options.progress is not None:
            options.progress(written, total)

    paths = [path, _beside(path)]
    with NewFiles(paths, overwrite=options.overwrite) as new:
        state, metadata = new.files
        write_tensors(state, plan.tensors, plan.placement, done)
        metadata.write(json.dumps(plan.metadata, indent=2).encode())
    return Written(paths, plan.metadata["size"], len(plan.out.table), sorted(plan.out.used), plan.out.lost)


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
