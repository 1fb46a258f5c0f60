"""A dataset of LeRobot as blocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.lerobot.dataset import Dataset, Episodes
from replaystore.formats.lerobot.features import INDICES, Feature, field_name
from replaystore.formats.lerobot.pictures import Frames, from_picture, opened_video
from replaystore.formats.report import Fate, derived, lost
from replaystore.formats.shared.arrow.values import members, numbers, ragged
from replaystore.formats.shared.cutting import Run, begins_of_numbers, cut
from replaystore.formats.source import Block, Source
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.ragged import Ragged

__all__ = ["Foreign", "values_of_feature"]

TASK = "task"
"""The field of the texts of tasks."""


class Foreign:
    """A dataset that others recorded."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.episodes = dataset, dataset.episodes()
        self.fields: dict[str, Fate] = {}
        self.names: dict[str, str] = {}
        """Feature → field."""
        self.declared: dict[str, Field] = {}
        hidden = self._hidden()
        for name, feature in dataset.features.items():
            if name in hidden:
                self.fields[name] = derived(hidden[name])
                continue
            called = field_name(name, self.declared)
            declared = feature.field(called)
            if declared is None or (called in ("terminated", "truncated") and declared.dtype != bool):
                self.fields[name] = lost(f"no field holds {feature.dtype!r} of shape {feature.shape}")
                continue
            self.names[name], self.declared[called] = called, declared
        self.task = TASK if dataset.tasks is not None and "task_index" in dataset.features else ""
        if self.task:
            while self.task in self.declared:
                self.task += "_"
            self.declared[self.task] = Field.of_text("extra")
        if not self.declared:
            raise FormatError(f"{dataset.info_path} has no features that fields can hold")

    def _hidden(self) -> dict[str, str]:
        """Features that follow from others."""
        episodes, hidden = self.episodes, {"episode_index": "the number of the trajectory"}
        hidden["index"] = "the number of the step"
        if self.dataset.tasks is not None:
            hidden["task_index"] = "which text the task has"
        if episodes.counted:
            hidden["frame_index"] = "the number of the step in its trajectory"
        if episodes.timed:
            hidden["timestamp"] = f"the number of the step over {self.dataset.fps:g}"
        if episodes.done:
            hidden["next.done"] = "terminated or truncated"
        return hidden

    def source(self) -> Source:
        """As a format gives it."""
        dataset, info = self.dataset, self.dataset.info
        count = len(self.episodes.lengths)
        splits = dataset.splits(count)
        remarks = _doubts(dataset, self.episodes) + dataset.remarks
        told = {"fps": dataset.fps, "robot_type": info.get("robot_type")}
        names = {
            name: one.get("names")
            for name, one in info["features"].items()
            if one.get("names") is not None and name not in INDICES
        }
        return Source(
            Schema(self.declared),
            self.blocks(splits),
            metadata={"lerobot": {**told, "names": names} if names else told},
            splits=[name for name in dict.fromkeys(splits) if name],
            steps=self.episodes.steps,
            trajectories=count,
            details={"version": info["codebase_version"]},
            fields=self.fields,
            rest={"steps": lost("of files without a footer")} if dataset.broken else {},
            remarks=remarks,
        )

    def blocks(self, splits: Sequence[str]) -> Callable[[int], Iterator[Block]]:
        """All steps; `splits`: that of each episode."""
        return lambda max_bytes: cut(self.runs(max_bytes, splits))

    def runs(self, max_bytes: int, splits: Sequence[str]) -> Iterator[Run]:
        """All rows."""
        dataset = self.dataset
        used = [dataset.features[name] for name in self.names]
        columns = list(dict.fromkeys([one.name for one in used if one.kind != "video"] + self._indices()))
        width = sum(declared.row_bytes for declared in self.declared.values())
        most = max(1, max_bytes // max(1, width))
        episode, before = -1, None
        with _Videos(dataset, [one for one in used if one.kind == "video"]) as videos:
            for path, whole in dataset.rows(columns, max_bytes):
                for start in range(0, whole.num_rows, most):
                    batch = whole.slice(start, most)
                    number = numbers(batch["episode_index"], f"{path}, column 'episode_index'", ())
                    begins = begins_of_numbers(number, before)
                    before = number[-1]
                    each = np.cumsum(begins) + episode
                    episode = int(each[-1])
                    found = self._columns(batch, path, used)
                    if videos.features:
                        times = numbers(batch["timestamp"], f"{path}, column 'timestamp'", ())
                        found |= {self.names[name]: rows for name, rows in videos.read(number, times).items()}
                    told = {"split": np.array([splits[at] for at in each.tolist()], object)}
                    yield Run(found, begins, told=told)

    def _indices(self) -> list[str]:
        wanted = ["episode_index", *(["task_index"] if self.task else [])]
        return wanted + (["timestamp"] if self.dataset.videos else [])

    def _columns(self, batch: Any, path: str, used: Sequence[Feature]) -> dict[str, Any]:
        found = {}
        for one in used:
            if one.kind == "video":
                continue
            called = self.names[one.name]
            where = f"{path}, column {one.name!r}"
            found[called] = values_of_feature(batch[one.name], one, self.declared[called], where)
        if self.task:
            tasks, where = self.dataset.tasks or [], f"{path}, column 'task_index'"
            number = numbers(batch["task_index"], where, ())
            if len(number) and not 0 <= number.min() <= number.max() < len(tasks):
                raise FormatError(f"{where}: there is no task {number.max()}, of {len(tasks)}: it is damaged")
            found[self.task] = Ragged.of(tasks, text=True).take(number)
        return found


def _doubts(dataset: Dataset, episodes: Episodes) -> list[str]:
    """Where what is said of the whole is not what the rows are."""
    found = []
    for key, count in (("total_episodes", len(episodes.lengths)), ("total_frames", episodes.steps)):
        said = dataset.info.get(key)
        if said and not count:
            raise FormatError(
                f"{dataset.path}: meta/info.json says that {key} is {said!r:.40}, and there are no rows of "
                "data: their files are missing, or of another kind than Parquet; copy all of the dataset"
            )
        if said != count:
            found.append(f"meta/info.json says {key} is {said!r:.40}, and the files of data hold {count}")
    if not os.path.isdir(os.path.join(dataset.path, "meta", "episodes")) and dataset.version[0] == 3:
        found.append(
            "there is no meta/episodes, since the recording was never finalised: rows tell all of it"
        )
    return found


def values_of_feature(array: Any, feature: Feature, declared: Field, where: str) -> Any:
    """The values of a feature that has a column. FormatError: they are not of it."""
    if feature.kind == "text":
        return ragged(array, where)
    if feature.kind == "image":
        inside = members(array, where) if array.type.num_fields else {"bytes": array}
        if "bytes" not in inside:
            raise FormatError(f"{where}: pictures are not in the file: it is damaged")
        data = ragged(inside["bytes"], where)
        values = np.empty((len(data), *declared.shape), np.uint8)
        for at in range(len(data)):
            values[at] = from_picture(data[at].tobytes(), declared.shape, where)
        return values
    values = numbers(array, where, declared.shape, nan=True)
    if values.dtype != declared.dtype:
        raise FormatError(
            f"{where}: holds {values.dtype}, and meta/info.json says {declared.dtype}: it is damaged"
        )
    return values


class _Videos:
    """The frames of episodes, which are read in order."""

    def __init__(self, dataset: Dataset, features: Sequence[Feature]) -> None:
        self.dataset, self.features = dataset, {one.name: one for one in features}
        self._stack = ExitStack()
        self._open: dict[str, tuple[str, Frames, ExitStack]] = {}
        self._places: Mapping[str, Any] = {}
        self._at: dict[int, int] = {}
        for name in self.features:
            if "/" in name or name.startswith("."):
                raise FormatError(f"{dataset.info_path}: a feature {name!r:.80} has no place for videos")
        if features and dataset.version[0] == 3:
            keys = ("chunk_index", "file_index", "from_timestamp")
            wanted = [f"videos/{name}/{key}" for name in self.features for key in keys]
            self._places = dataset.places(["episode_index", *wanted])
            self._at = {int(number): at for at, number in enumerate(self._places["episode_index"])}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for known in self._open.values():
            known[2].close()

    def read(self, episodes: Any, times: Any) -> dict[str, Any]:
        """The frames of these rows, by feature."""
        found = {}
        for name, feature in self.features.items():
            rows = np.empty((len(episodes), *feature.picture), np.uint8)
            path: str
            for at, (episode, seconds) in enumerate(zip(episodes.tolist(), times.tolist(), strict=True)):
                path, begin = self._place(name, int(episode))
                rows[at] = self._frames(name, path, feature).at(begin + seconds, 0.5 / self.dataset.fps)
            found[name] = rows
        return found

    def _place(self, name: str, episode: int) -> tuple[str, float]:
        """The file that has an episode, and when it begins there."""
        root = os.path.join(self.dataset.path, "videos")
        if self.dataset.version[0] == 2:
            size = self.dataset.info.get("chunks_size")
            chunk = episode // size if isinstance(size, int) and size > 0 else 0
            return os.path.join(root, f"chunk-{chunk:03d}", name, f"episode_{episode:06d}.mp4"), 0.0
        at = self._at.get(episode)
        if at is None:
            raise FormatError(
                f"{self.dataset.path}: meta/episodes does not say where the video {name!r} of episode "
                f"{episode} is: the recording was never finalised, or is damaged"
            )
        chunk, file, begin = (
            self._places[f"videos/{name}/{key}"][at]
            for key in ("chunk_index", "file_index", "from_timestamp")
        )
        return os.path.join(root, name, f"chunk-{int(chunk):03d}", f"file-{int(file):03d}.mp4"), float(begin)

    def _frames(self, name: str, path: str, feature: Feature) -> Frames:
        known = self._open.get(name)
        if known is not None and known[0] == path:
            return known[1]
        if known is not None:
            known[2].close()
        stack = ExitStack()
        frames = stack.enter_context(opened_video(path, feature.picture))
        self._open[name] = path, frames, stack
        return frames
