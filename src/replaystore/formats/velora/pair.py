"""The two files of a velora buffer, which belong together: tensors, and metadata beside them. What is read of
both is of one save, whatever others do meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from replaystore.errors import FormatError, NotFoundError, ReplayStoreError
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.shared.new_files import held, replacing, settle
from replaystore.formats.velora.export import TENSORS
from replaystore.storage.local import read_all

__all__ = ["GIVEN", "KEYS", "STATE", "SUFFIX", "checked", "header_of", "metadata_beside", "opened_pair"]

SUFFIX = ".safetensors"
STATE = "state" + SUFFIX
METADATA = "metadata.json"
GIVEN = "the metadata given"
ATTEMPTS = 4
"""How often files are read, the last time alone."""
MAX_HEADER = 1 << 20
MAX_METADATA = 64 << 20
MAX_CAPACITY = 1 << 48
KEYS = ("capacity", "state_dim", "action_dim", "hidden_dim", "position", "size")
"""Of the metadata, beside the device."""
Header = dict[str, tuple[tuple[int, ...], int]]
"""Tensor → shape, and place in the file."""


@contextmanager
def opened_pair(
    path: str, metadata: Mapping[str, Any] | None
) -> Iterator[tuple[int, int, Header, Mapping[str, Any], str]]:
    """The file, open, its size and tensors, and the metadata that belong to it, and where they are: all of
    one save, whatever others do.

    Files are read as they lie. Where somebody may have replaced them meanwhile, they are read once more, in
    the end while nobody else can."""
    places = _places(path)
    for attempt in range(ATTEMPTS):
        for place in places[:2]:
            settle([path, place])
        with ExitStack() as stack:
            problem = None
            with held([path]) if attempt == ATTEMPTS - 1 else nullcontext():
                beside, known, busy = places[0], metadata or {}, False
                read: list[tuple[str, os.stat_result]] = []
                try:
                    descriptor, size = stack.enter_context(opened(path))
                    read.append((path, os.fstat(descriptor)))
                    header = header_of(descriptor, size, path)
                    busy = any(map(replacing, places[:2]))
                    if metadata is None:
                        beside = next(filter(os.path.lexists, places), places[0])
                        known, identity = _metadata(path, beside)
                        read.append((beside, identity))
                except ReplayStoreError as error:
                    problem = error
                    busy = busy or (not read and isinstance(error, NotFoundError))
                if attempt < ATTEMPTS - 1 and (busy or not _steady(places, read)):
                    continue
            if problem is not None:
                raise problem
            yield descriptor, size, header, known, beside if metadata is None else GIVEN
            return


def _steady(places: Sequence[str], read: Sequence[tuple[str, os.stat_result]]) -> bool:
    """Whether names are still those of the files that were read, and nobody is just replacing them.

    Who replaces the pair takes the metadata away while it gives the tensors' name to another file, and a new
    file of metadata lies beside them all the time. So metadata that are missing when nobody was there before
    they were looked for, and nobody is now, are missed in earnest if the tensors are the same still: an open
    file keeps its number."""
    try:
        return not any(map(replacing, places[:2])) and all(
            os.path.samestat(os.stat(path), status) for path, status in read
        )
    except OSError:
        return False


def header_of(descriptor: int, size: int, path: str) -> Header:
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
            "buffer_state.safetensors: check which file it is"
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
    if not path.lower().endswith(SUFFIX):
        return [metadata_beside(path), os.path.join(os.path.dirname(path), METADATA)]
    stem = path[: -len(SUFFIX)]  # a prefix with a dot, of which velora leaves out what follows the dot
    return [metadata_beside(path), stem + ".json", os.path.join(os.path.dirname(path), METADATA)]


def _metadata(path: str, place: str) -> tuple[dict[str, Any], os.stat_result]:
    """The metadata that belong to a file, and which file has them."""
    folder, wanted = os.path.split(metadata_beside(path))
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


def metadata_beside(path: str) -> str:
    """Where the metadata of a file belong."""
    folder, name = os.path.split(path)
    if name.endswith(STATE):
        prefix = name[: -len(STATE)]
    elif name.lower().endswith(SUFFIX):
        prefix = name[: -len(SUFFIX)] + "_"
    else:  # all of it, so that no two files have the same metadata
        prefix = name + "_"
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


def checked(
    metadata: Mapping[str, Any], header: Mapping[str, tuple[tuple[int, ...], int]], path: str, beside: str
) -> dict[str, Any]:
    """The metadata, if they are of these tensors."""
    known: dict[str, Any] = {}
    for key in KEYS:
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
