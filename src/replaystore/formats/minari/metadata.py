"""The metadata.json of a dataset: where it is, what it says, and how one is written.

It is JSON that may have Infinity, with the spaces and the spec of the environment as JSON in strings. What
it says of numbers of episodes and steps is not believed: they are counted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replaystore.errors import FormatError, NotFoundError, StorageError
from replaystore.formats.minari.spaces import from_minari
from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.spaces import Space
from replaystore.schema import strict_json
from replaystore.schema.document import MAX_USER_BYTES

__all__ = ["CONTAINERS", "FILE", "MAIN", "VERSION", "Metadata", "data_folder", "dataset_id", "read_json"]

FILE = "metadata.json"
MAIN = "main_data.hdf5"
CONTAINERS = ("hdf5", "arrow", "parquet")
VERSION = "0.5.4"
"""Of Minari, which opens datasets of versions that it knows; the first that can be told that images are no
JPEG."""
MOST_BYTES = 256 << 20
ROOT = "MINARI_DATASETS_PATH"
_ID = re.compile(r"(?:[-_\w][-_\w/]*[-_\w]+/)?[-_\w]+?-v\d+", re.ASCII)
_OURS = frozenset(
    [
        "total_episodes",
        "total_steps",
        "data_format",
        "jpeg_encoding",
        "observation_space",
        "action_space",
        "env_spec",
        "dataset_size",
    ]
)
"""What is known of a dataset without being told."""


def root() -> str:
    """The folder of all datasets, as Minari has it."""
    given = os.environ.get(ROOT)
    return given if given is not None else os.path.join(os.path.expanduser("~"), ".minari", "datasets")


def data_folder(path: str) -> str | None:
    """The folder of data of a dataset that is named by its folder, this one, its HDF5 file, or its name in
    Minari; None: there is none."""
    if os.path.isdir(path):
        found = [folder for folder in (path, os.path.join(path, "data")) if _is_data(folder)]
        return found[0] if found else None
    if os.path.isfile(path):
        above = os.path.dirname(path) or "."
        return above if os.path.basename(path) == MAIN and _is_data(above) else None
    name = path.removeprefix("minari:")
    if not os.path.lexists(path) and _ID.fullmatch(name):
        folder = os.path.join(root(), *name.split("/"), "data")
        return folder if _is_data(folder) else None
    return None


def _is_data(folder: str) -> bool:
    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        return False
    try:
        known = read_json(path)
    except (FormatError, StorageError, NotFoundError):
        return False
    return isinstance(known, dict) and "total_episodes" in known and "total_steps" in known


def read_json(path: str) -> Any:
    """A file of JSON, strict or not. NotFoundError, StorageError, FormatError."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise FormatError(f"{path} is no regular file: put the dataset's own file there")
    try:
        with open(path, "rb") as file:
            # No more than there is: Python makes room for all that may come.
            data = file.read(min(os.fstat(file.fileno()).st_size, MOST_BYTES) + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}", error.errno) from error
    if len(data) > MOST_BYTES:
        raise FormatError(f"{path} has more than {MOST_BYTES >> 20} MiB, which no metadata have")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise FormatError(f"{path} is no JSON: {reason}; restore it from a copy") from None


@dataclass(frozen=True)
class Metadata:
    """What metadata.json says, looked at."""

    folder: str
    container: str
    """One of `CONTAINERS`."""
    known: Mapping[str, Any]
    observation: Space | None
    action: Space | None
    jpeg: bool
    """Whether values of spaces of images are JPEG."""

    @classmethod
    def read(cls, path: str) -> Metadata:
        """That of a dataset. NotFoundError, StorageError; FormatError: it is none, or damaged."""
        folder = data_folder(path)
        if folder is None:
            if not os.path.lexists(path):
                raise NotFoundError(
                    f"{path} does not exist, and no dataset of this name is in {root()}: check the path"
                )
            if not os.path.isdir(path) or not _has_metadata(path):
                raise FormatError(
                    f"{path} is no dataset of Minari: give the folder that has data/{FILE} in it"
                )
            folder = path if os.path.isfile(os.path.join(path, FILE)) else os.path.join(path, "data")
        where = os.path.join(folder, FILE)
        known = read_json(where)
        if not isinstance(known, dict) or "total_episodes" not in known:
            raise FormatError(f"{where} does not say what metadata of Minari say: check which file it is")
        container = known.get("data_format", "hdf5")
        if container not in CONTAINERS:
            raise FormatError(
                f"{where}: data in {container!r:.60} are not known, but in {', '.join(CONTAINERS)} they are"
            )
        spaces = {
            role: from_minari(known[f"{role}_space"], f"{where}: {role}_space")
            if known.get(f"{role}_space") is not None
            else None
            for role in ("observation", "action")
        }
        jpeg = bool(known.get("jpeg_encoding", True))
        return cls(folder, container, known, spaces["observation"], spaces["action"], jpeg)

    def environment(self) -> tuple[dict[str, Any] | None, dict[str, Fate]]:
        """The environment that is told of, and what is lost of it."""
        text = self.known.get("env_spec")
        if text is None:
            return None, {}
        try:
            spec = strict_json.strict(json.loads(text, parse_constant=str))
            if not isinstance(spec, dict) or not isinstance(spec.get("id"), str):
                raise ValueError("it has no id")
        except (TypeError, ValueError, RecursionError) as error:
            return None, {"environment": lost(f"its spec is no JSON of Gymnasium: {error}"[:200])}
        section = {"id": spec["id"], "spec": spec, "spec_error": None, "num_envs": 1, "autoreset": None}
        return section, {}

    def user(self) -> tuple[dict[str, Any], dict[str, Fate]]:
        """What authors have said of the dataset, and what is lost of it."""
        told = {key: value for key, value in self.known.items() if key not in _OURS}
        try:
            told = strict_json.strict(_spelled(told))
            if strict_json.encoded_size(told) > MAX_USER_BYTES // 2:
                raise ValueError("they are too large")
        except (TypeError, ValueError, RecursionError) as error:
            return {}, {"metadata": lost(f"of {FILE}: {error}"[:200])}
        return {"minari": told}, {}

    def count(self, key: str) -> int | None:
        """A number that it says, if it does."""
        found = self.known.get(key)
        return found if type(found) is int else None


def _has_metadata(path: str) -> bool:
    return any(os.path.isfile(os.path.join(path, *parts)) for parts in ((FILE,), ("data", FILE)))


def _spelled(value: Any) -> Any:
    """JSON with numbers that are not finite as texts."""
    if isinstance(value, dict):
        return {key: _spelled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def dataset_id(path: str) -> tuple[str, bool]:
    """The id of a dataset that is written there, and whether Minari finds it under it."""
    full, above = os.path.realpath(path), os.path.realpath(root())
    inside = full.startswith(above + os.sep)
    name = os.path.relpath(full, above).replace(os.sep, "/") if inside else os.path.basename(full)
    if _ID.fullmatch(name):
        return name, inside
    base = re.sub(r"[^-\w]+", "-", os.path.basename(full), flags=re.ASCII).strip("-") or "dataset"
    return (base if re.search(r"-v\d+$", base) and _ID.fullmatch(base) else f"{base}-v0"), False
