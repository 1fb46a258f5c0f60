"""The folder of a dataset of TFDS: which files are which.

Only what lies in the folder under the names that TFDS gives is opened; no name and no path that stands in a
file is followed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from replaystore.errors import FormatError, NotFoundError, StorageError, UnsupportedError
from replaystore.formats.shared.file_rows import opened
from replaystore.schema.strict_json import MAX_BYTES, decoded
from replaystore.storage.local import read_all

__all__ = ["FEATURES", "INFO", "METADATA", "Files", "Split", "content_of", "files_of", "located"]

FEATURES, INFO, METADATA = "features.json", "dataset_info.json", "metadata.json"
SHARD = re.compile(r"(?:.+-)?(?P<split>[^-]+)\.(?P<kind>\w+)-(?P<number>\d{5,9})(?:-of-(?P<count>\d{5,9}))?")
"""What a writer that goes on, such as EnvLogger's, makes has no `-of-`: only dataset_info.json says how many
there are."""
MOST_SHARDS = 1 << 17


@dataclass(frozen=True)
class Split:
    """The files of a split."""

    name: str
    paths: list[str]
    """Those that are there, in order."""
    count: int
    """How many there are to be."""
    lengths: list[int] | None
    """How many records each has, as dataset_info.json says."""


@dataclass(frozen=True)
class Files:
    """What is in the folder."""

    folder: str
    features: bytes
    info: dict[str, Any]
    metadata: bytes | None
    splits: list[Split]


def located(path: str) -> str:
    """The folder with features.json: this one, or the only one below it, of a dataset with one config and
    version. FormatError, NotFoundError: there is none."""
    for _ in range(3):
        if os.path.lexists(os.path.join(path, FEATURES)):
            return path
        try:
            inside = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        except FileNotFoundError:
            raise NotFoundError(f"{path} does not exist: check the path") from None
        except NotADirectoryError:
            raise FormatError(f"{path} is no folder with {FEATURES} in it, as TFDS makes them") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}", error.errno) from error
        if len(inside) != 1:
            break
        path = os.path.join(path, inside[0])
    raise FormatError(
        f"{path} holds no {FEATURES}, as the folder of a version of a dataset of TFDS does: give the path of "
        "that folder, such as name/1.0.0"
    )


def content_of(path: str) -> bytes:
    """The content of a small file. NotFoundError, StorageError; FormatError: it is too large, or no file."""
    with opened(path) as (descriptor, size):
        if size > MAX_BYTES:
            raise FormatError(f"{path} has {size} bytes, and more than {MAX_BYTES} are not read")
        try:
            return read_all(descriptor, 0, size)
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}", error.errno) from error


def files_of(path: str) -> Files:
    """What is in the folder of a dataset. The errors of `located` and of `content_of`."""
    folder = located(path)
    features = content_of(os.path.join(folder, FEATURES))
    info, metadata = _info(folder), None
    if os.path.lexists(os.path.join(folder, METADATA)):
        metadata = content_of(os.path.join(folder, METADATA))
    return Files(folder, features, info, metadata, _splits(folder, info))


def _info(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, INFO)
    if not os.path.lexists(path):
        return {}
    try:
        found = decoded(content_of(path))
        if not isinstance(found, dict):
            raise TypeError("it is no object")
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path} is not what TFDS writes: {error}") from error
    return found


def _splits(folder: str, info: dict[str, Any]) -> list[Split]:
    """The splits in the order of dataset_info.json, then those that only files tell of."""
    shards: dict[str, dict[int, str]] = {}
    counts: dict[str, int] = {}
    for name in sorted(os.listdir(folder)):
        if (named := SHARD.fullmatch(name)) is None:
            continue
        if named["kind"] != "tfrecord":
            raise UnsupportedError(
                f"{os.path.join(folder, name)}: files of {named['kind']} are not read: let TFDS write the "
                "dataset as tfrecord"
            )
        split, number, count = named["split"], int(named["number"]), int(named["count"] or MOST_SHARDS)
        if number >= count or count > MOST_SHARDS or counts.setdefault(split, count) != count:
            raise FormatError(
                f"{os.path.join(folder, name)}: the files of a split say of how many they are, and these "
                "do not agree: remove those that do not belong there"
            )
        shards.setdefault(split, {})[number] = os.path.join(folder, name)
    said = _said(info)
    order = [name for name in said if name in shards] + [name for name in shards if name not in said]
    found = []
    for name in order:
        numbers, lengths, count = sorted(shards[name]), said.get(name), counts[name]
        if count == MOST_SHARDS:
            count = max(numbers[-1] + 1, len(lengths or ()))
        known = [lengths[number] for number in numbers] if lengths and len(lengths) == count else None
        found.append(Split(name, [shards[name][number] for number in numbers], count, known))
    if gone := [name for name, lengths in said.items() if name not in shards and any(lengths or ())]:
        if not found:
            raise FormatError(f"{folder}: the files of the split {gone[0]!r:.60} are not there")
        found += [Split(name, [], len(said[name] or []), None) for name in gone]
    return found


def _said(info: dict[str, Any]) -> dict[str, list[int] | None]:
    """What dataset_info.json says of splits: how many records each file has."""
    found: dict[str, list[int] | None] = {}
    splits = info.get("splits", [])
    for given in splits if isinstance(splits, list) else []:
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            continue
        try:
            lengths = [int(length) for length in given.get("shardLengths", [])]
        except (TypeError, ValueError):
            lengths = None
        found[given["name"]] = lengths
    return found
