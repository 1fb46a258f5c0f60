"""The files of a dataset of LeRobot, and what they say of its episodes.

    meta/info.json                             version, features, frames a second, splits
    meta/tasks.parquet                         texts of tasks, by number (v2: tasks.jsonl)
    meta/episodes/chunk-*/file-*.parquet       a row an episode (v2: episodes.jsonl), needed for videos alone
    data/chunk-*/*.parquet                     rows, episode after episode
    videos/<key>/chunk-*/file-*.mp4            (v2: videos/chunk-*/<key>/episode_*.mp4)

Files of data are opened one at a time, since v2 has one an episode. What was recorded and never finalised has
files without a footer: they are left out if others are whole, and the report says so.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.lerobot.features import INDICES, Feature, features_of
from replaystore.formats.shared.arrow.reading import Table, opened_table
from replaystore.formats.shared.arrow.values import leaf_of, numbers, ragged
from replaystore.formats.shared.file_rows import opened
from replaystore.schema import strict_json
from replaystore.storage.local import read_all

__all__ = ["INFO", "OWN", "Dataset", "Episodes", "json_file"]

INFO, OWN = "meta/info.json", "meta/replaystore.json"
VERSION = re.compile(r"v?(\d+)\.(\d+)")
PASS_BYTES = 1 << 20
MOST_FILES = 1 << 20


@dataclass
class Episodes:
    """What the rows of all files say, before they are read in earnest."""

    lengths: list[int] = field(default_factory=list)
    steps: int = 0
    timed: bool = True
    """Whether each timestamp is the number of its frame over the frames a second."""
    counted: bool = True
    """Whether frames are counted from 0 in each episode."""
    done: bool = True
    """Whether `next.done` is what the other two flags say."""


class Dataset:
    """A folder that is a dataset."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.info_path = os.path.join(path, INFO)
        info = json_file(self.info_path)
        if not isinstance(info, dict):
            raise FormatError(f"{self.info_path} holds no object: it is damaged")
        self.info: dict[str, Any] = info
        found = VERSION.match(str(info.get("codebase_version", "")))
        if found is None:
            raise FormatError(f"{self.info_path} names no version: it is damaged, or not of LeRobot")
        self.version = int(found[1]), int(found[2])
        if self.version[0] not in (2, 3):
            raise FormatError(
                f"{path} is a dataset of version {found[0]} of LeRobot, and 2.0 to 3.x are read: convert it "
                "with LeRobot's own scripts"
            )
        self.features = features_of(info, self.info_path)
        fps = info.get("fps")
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
            raise FormatError(f"{self.info_path}: 'fps' is {fps!r:.40}, not a number: it is damaged")
        self.fps = fps
        self.remarks: list[str] = []
        self.broken: list[str] = []
        self.files = self._whole(self._listed("data"))
        self.tasks = self._tasks()

    @property
    def stored(self) -> list[Feature]:
        """The features that have columns."""
        return [one for one in self.features.values() if one.kind != "video"]

    @property
    def videos(self) -> list[Feature]:
        """The features that are videos."""
        return [one for one in self.features.values() if one.kind == "video"]

    def _listed(self, folder: str) -> list[str]:
        """The files of Parquet in the folders of a folder, in order."""
        found: list[str] = []
        root = os.path.join(self.path, folder)
        for chunk in sorted(os.listdir(root)) if os.path.isdir(root) else ():
            inside = os.path.join(root, chunk)
            names = sorted(os.listdir(inside)) if os.path.isdir(inside) else []
            found += [os.path.join(inside, name) for name in names if name.endswith(".parquet")]
        if len(found) > MOST_FILES:
            raise FormatError(f"{root} holds {len(found)} files, which no dataset does")
        return found

    def _whole(self, files: list[str]) -> list[str]:
        """The files that have been completed."""
        whole: list[str] = []
        for path in files:
            with opened(path) as (descriptor, size):
                end = read_all(descriptor, max(0, size - 4), min(4, size))
            (whole if end == b"PAR1" and size >= 12 else self.broken).append(path)
        if self.broken and not whole:
            raise FormatError(
                f"{self.path} was never finalised: {os.path.relpath(self.broken[0], self.path)} has no "
                "footer, since whoever recorded it was stopped before `finalize()`: record it again"
            )
        if self.broken:
            names = ", ".join(os.path.relpath(path, self.path) for path in self.broken[:4])
            self.remarks.append(
                f"{len(self.broken)} of {len(files)} files of data have no footer, since the recording was "
                f"never finalised; what is whole was read ({names} left out)"
            )
        return whole

    def _tasks(self) -> list[str] | None:
        """Texts by number; None: nobody knows them."""
        place = os.path.join(self.path, "meta", "tasks.parquet")
        if os.path.exists(place):
            with opened_table(place) as table:
                return _tasks_in(table)
        place = os.path.join(self.path, "meta", "tasks.jsonl")
        if not os.path.exists(place):
            return None
        known = {}
        for line in _lines(place):
            if not isinstance(line.get("task"), str) or type(line.get("task_index")) is not int:
                raise FormatError(f"{place}: a line has no task and its number: it is damaged")
            known[line["task_index"]] = line["task"]
        return _in_order(known, place)

    # --- episodes

    def rows(self, columns: list[str], max_bytes: int) -> Iterator[tuple[str, Any]]:
        """Batches of all rows, with the file that each is of."""
        for path in self.files:
            with opened_table(path) as table:
                missing = [name for name in columns if name not in table.types]
                if missing:
                    raise FormatError(f"{path} has no column {missing[0]!r}: it is damaged")
                for batch in table.batches(max_bytes, columns):
                    yield path, batch

    def episodes(self) -> Episodes:
        """What the rows say of episodes."""
        found, last, seen = Episodes(), None, set[int]()
        done = [f"next.{name}" for name in ("done", "terminated", "truncated")]
        found.done = set(done) <= self.features.keys() and all(_is_flag(self.features[name]) for name in done)
        columns = [name for name in INDICES if name in self.features] + (done if found.done else [])
        if "episode_index" not in columns:
            raise FormatError(f"{self.info_path} has no feature 'episode_index': it is damaged")
        found.timed, found.counted = "timestamp" in columns, "frame_index" in columns
        frame = -1
        for path, batch in self.rows(columns, PASS_BYTES):
            read = {name: numbers(batch[name], f"{path}, column {name!r}", ()) for name in columns}
            number = read["episode_index"]
            starts = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
            if last is not None and number[0] == last:
                starts = starts[1:]
            for value in number[starts].tolist():
                if value in seen:
                    raise FormatError(
                        f"{path}: the rows of episode {value} do not lie together: it is damaged"
                    )
                seen.add(value)
            frames = _frames(starts, len(number), frame)
            last, frame = number[-1], int(frames[-1])
            self._count(found, starts, len(number))
            if found.counted:
                found.counted = np.array_equal(read["frame_index"], frames)
            if found.timed:
                found.timed = np.array_equal(read["timestamp"], (frames / self.fps).astype(np.float32))
            if found.done:
                found.done = np.array_equal(read[done[0]], read[done[1]] | read[done[2]])
        return found

    @staticmethod
    def _count(found: Episodes, starts: NDArray[np.int64], count: int) -> None:
        bounds = [*starts.tolist(), count]
        if found.lengths:
            found.lengths[-1] += bounds[0]
        found.lengths += [stop - start for start, stop in pairwise(bounds)]
        found.steps += count

    def places(self, columns: list[str]) -> dict[str, NDArray[Any]]:
        """Columns of `meta/episodes`, an entry an episode. FormatError: they are not there."""
        found: dict[str, list[Any]] = {name: [] for name in columns}
        for path in self._listed(os.path.join("meta", "episodes")):
            with opened_table(path) as table:
                missing = [name for name in columns if name not in table.types]
                if missing:
                    raise FormatError(f"{path} has no column {missing[0]!r}: it is damaged")
                for batch in table.batches(PASS_BYTES, columns):
                    for name in columns:
                        found[name].append(numbers(batch[name], f"{path}, column {name!r}", ()))
        return {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in found.items()}

    def splits(self, count: int) -> list[str]:
        """The split of each of so many episodes, "" for none."""
        found = [""] * count
        given = self.info.get("splits")
        for name, text in given.items() if isinstance(given, dict) else ():
            bounds = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text) if isinstance(text, str) else None
            if bounds is None:
                self.remarks.append(f"the split {name!r:.40} is said as {text!r:.40}, and was left out")
                continue
            start, stop = int(bounds[1]), min(count, int(bounds[2]))
            found[start:stop] = [name] * max(0, stop - start)
        return found


def _is_flag(feature: Feature) -> bool:
    return feature.dtype == "bool" and feature.shape == (1,)


def _frames(starts: NDArray[np.int64], count: int, before: int) -> NDArray[np.int64]:
    """The number of each row in its episode, where episodes begin at these rows and the first one goes on
    after frame `before` unless one begins."""
    frames = np.arange(count) + before + 1
    lengths = np.diff(np.append(starts, count))
    if len(starts):
        frames[starts[0] :] = np.arange(count - starts[0]) - np.repeat(starts - starts[0], lengths)
    return frames


def _tasks_in(table: Table) -> list[str]:
    """Texts by number: the column of texts, whatever it is called."""
    leaves = {name: leaf_of(type_) for name, type_ in table.types.items()}
    text = next((name for name, leaf in leaves.items() if leaf is not None and leaf.text), None)
    if text is None or "task_index" not in leaves:
        raise FormatError(f"{table.path} has no texts of tasks and their numbers: it is damaged")
    known: dict[int, str] = {}
    for batch in table.batches(PASS_BYTES, ["task_index", text]):
        texts = ragged(batch[text], f"{table.path}, column {text!r}")
        for number, words in zip(numbers(batch["task_index"], table.path, ()).tolist(), texts, strict=True):
            known[int(number)] = words
    return _in_order(known, table.path)


def _in_order(known: Mapping[int, str], path: str) -> list[str]:
    if known and sorted(known) != list(range(len(known))):
        raise FormatError(f"{path}: the numbers of tasks are not 0, 1, 2, …: it is damaged")
    return [known[number] for number in range(len(known))]


def json_file(path: str) -> Any:
    """What a file of JSON says. NotFoundError, StorageError; FormatError: it is none, or too large."""
    with opened(path) as (descriptor, size):
        if size > strict_json.MAX_BYTES:
            raise FormatError(f"{path} has {size} bytes, which no such file has: check which file it is")
        data = read_all(descriptor, 0, size)
    try:
        return strict_json.decoded(data)
    except ValueError as error:
        raise FormatError(f"{path} is no JSON ({error}): restore it from a copy") from None


def _lines(path: str) -> Iterator[dict[str, Any]]:
    """The objects of a file with one in each line."""
    if not os.path.isfile(path):
        raise NotFoundError(f"{path} is missing: copy it there")
    with open(path, "rb") as file:
        while line := file.readline(strict_json.MAX_BYTES):
            if not line.strip():
                continue
            try:
                content = strict_json.decoded(line)
            except (ValueError, json.JSONDecodeError) as error:
                raise FormatError(f"{path}: a line is no JSON ({error}): restore it from a copy") from None
            if not isinstance(content, dict):
                raise FormatError(f"{path}: a line holds no object: it is damaged")
            yield content
