"""`meta/episodes` of a dataset of LeRobot, a row an episode, and the statistics of all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from replaystore.formats.lerobot.plan import Plan, task_of
from replaystore.formats.lerobot.statistics import Running, numbers_of
from replaystore.formats.shared.arrow.together import Told
from replaystore.formats.shared.arrow.writing import TableWriter, alias_type, listed

__all__ = ["CHUNK_FILES", "EpisodesWriter", "named", "new_table", "place"]

CHUNK_FILES = 1000
EPISODES_A_FILE, EPISODES_TOGETHER = 4096, 128
MOST_COMPONENTS = 1024
"""Of a value whose statistics are said for each episode."""


def place(number: int) -> tuple[int, int]:
    """The chunk and the file in it that the file of this number is."""
    return number // CHUNK_FILES, number % CHUNK_FILES


def named(folder: str, number: int) -> str:
    """The path of a file, in the dataset."""
    chunk, file = place(number)
    return f"{folder}/chunk-{chunk:03d}/file-{file:03d}.parquet"


@contextmanager
def new_table(path: str, types: Mapping[str, Any], **more: Any) -> Iterator[TableWriter]:
    """A new file of a table, in a folder that is made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file, TableWriter(file, types, **more) as writer:
        yield writer


class EpisodesWriter:
    """What is said of each episode, in `meta/episodes`, and of all of them."""

    def __init__(self, root: str, plan: Plan, features: Mapping[str, Any], stack: ExitStack) -> None:
        self.root, self.plan, self.features, self._stack = root, plan, features, stack
        self.count = 0
        self.tasks: dict[str, None] = {}
        self.new_tasks: dict[str, None] = {}
        self._numbers = {
            feature: tuple(said["shape"]) for feature, said in features.items() if said["dtype"] != "string"
        }
        self._all = {feature: Running() for feature in self._numbers}
        self._now: dict[str, Any] | None = None
        self._running: dict[str, Running] = {}
        self._waiting: list[dict[str, Any]] = []
        self._file: tuple[ExitStack, TableWriter, dict[str, Any]] | None = None
        self._splits: list[tuple[str, int]] = []

    def begin(self, number: int, row: int, file: int) -> None:
        """An episode begins with this row, in this file."""
        self._complete()
        chunk, place_ = place(file)
        self._now = {
            "episode_index": number,
            "length": 0,
            "data/chunk_index": chunk,
            "data/file_index": place_,
            "dataset_from_index": row,
        }
        self.tasks, self._running = {}, {}

    def add(self, one: Told, indices: Mapping[str, Any]) -> None:
        """A block of the episode."""
        assert self._now is not None, "the first block of a trajectory begins it"
        if one.block.begins:
            self._splits.append((one.about["split"], one.number))
        self._now["length"] += len(one)
        self.tasks |= self.new_tasks or {task_of(self.plan): None}
        self.new_tasks = {}
        by_feature = {feature: name for name, feature in self.plan.names.items()}
        for feature in self._numbers:
            values = indices[feature] if feature in indices else one.block.columns[by_feature[feature]]
            picture = self.features[feature]["dtype"] == "image"
            rows = numbers_of(values, picture=picture)
            self._all[feature].add(rows, len(one))
            if picture or rows.shape[1] <= MOST_COMPONENTS:
                self._running.setdefault(feature, Running()).add(rows, len(one))

    def _complete(self) -> None:
        if self._now is None:
            return
        now, self._now = self._now, None
        file = self.count // EPISODES_A_FILE
        now |= {
            "tasks": list(self.tasks),
            "dataset_to_index": now["dataset_from_index"] + now["length"],
            "meta/episodes/chunk_index": place(file)[0],
            "meta/episodes/file_index": place(file)[1],
        }
        for feature, running in self._running.items():
            picture = self.features[feature]["dtype"] == "image"
            told = running.told(self._numbers[feature], picture=picture)
            now |= {f"stats/{feature}/{name}": value for name, value in told.items()}
        self._waiting.append(now)
        self.count += 1
        if len(self._waiting) == EPISODES_TOGETHER or self.count % EPISODES_A_FILE == 0:
            self._write()
        if self.count % EPISODES_A_FILE == 0:
            self.close()

    def _write(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        if self._file is None:
            types = {name: _said_type(name, value) for name, value in self._waiting[0].items()}
            path = os.path.join(self.root, named("meta/episodes", (self.count - 1) // EPISODES_A_FILE))
            stack = ExitStack()
            writer = self._stack.enter_context(stack).enter_context(
                new_table(path, types, compression="snappy")
            )
            self._file = stack, writer, types
        _, writer, types = self._file
        writer.write(
            {name: listed([one[name] for one in self._waiting], type_) for name, type_ in types.items()}
        )
        self._waiting = []

    def close(self) -> None:
        """Complete a file."""
        if self._file is not None:
            self._file[0].close()
        self._file = None

    def finish(self) -> None:
        """Write the rest."""
        self._complete()
        self._write()
        self.close()

    def whole(self) -> dict[str, Any]:
        """The statistics of all episodes."""
        return {
            feature: running.told(self._numbers[feature], picture=self.features[feature]["dtype"] == "image")
            for feature, running in self._all.items()
            if running.rows
        }

    def splits(self) -> dict[str, str]:
        """Splits whose episodes lie together; all are "train" where there are none."""
        found: dict[str, list[int]] = {}
        for split, number in self._splits:
            found.setdefault(split, []).append(number)
        if set(found) <= {""}:
            return {"train": f"0:{self.count}"}
        return {
            split: f"{numbers[0]}:{numbers[-1] + 1}"
            for split, numbers in found.items()
            if split and numbers[-1] - numbers[0] + 1 == len(numbers)
        }


def _said_type(name: str, value: Any) -> Any:
    """The type of a column of `meta/episodes`."""
    if not isinstance(value, list):
        return alias_type("int64")
    inner = "string" if name == "tasks" else "int64" if name.endswith("/count") else "double"
    levels = 0
    while isinstance(value, list):
        levels, value = levels + 1, value[0] if value else None
    return alias_type(inner, levels)
