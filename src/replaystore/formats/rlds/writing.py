"""A buffer as a dataset of TFDS: one tf.train.Example a trajectory, in files of some hundred megabytes.

1. A trajectory has one step more than were taken where its last observation is known, or where it terminated:
   the last one, flagged `is_last`, has that observation, and zeros for all else. What has been cut off, and
   nobody knows where it went on, ends without a step that is flagged.
2. Whatever TFDS has no place for is in metadata.json and in episode_metadata (own.py).
3. A few blocks are in memory at a time, whatever the length of a trajectory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.blocks import beside_fields, blocks_of
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report, refuse_losses
from replaystore.formats.rlds.describing import Written, features_json, info_json, name_of, split_names
from replaystore.formats.rlds.encoding import Building, feature_of
from replaystore.formats.rlds.features import EPISODE, STEPS, Feature
from replaystore.formats.rlds.folder import FEATURES, INFO, METADATA
from replaystore.formats.rlds.own import FINAL, INDEX, OWN, Own
from replaystore.formats.rlds.plan import MARKS
from replaystore.formats.shared.new_folder import NewFolder
from replaystore.formats.source import Block
from replaystore.schema import document as documents
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import split_path
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["plan", "write"]

SHARD_BYTES = 256 << 20


def plan(buffer: BufferReader, path: str, options: Options) -> Report:
    """What becomes of a buffer."""
    return _Target(buffer, path, options).report()


def write(buffer: BufferReader, path: str, options: Options) -> Report:
    """Write a buffer to a new folder."""
    target = _Target(buffer, path, options)
    report = target.report()
    refuse_losses(report.fields, report.rest, path, strict=options.strict)
    with NewFolder(path, overwrite=options.overwrite) as new:
        target.fill(new.root)
    return report


class _Target:
    """A dataset that is being written."""

    def __init__(self, buffer: BufferReader, path: str, options: Options) -> None:
        self.buffer, self.path, self.options = buffer, path, options
        schema = buffer.schema if options.fields is None else buffer.schema.select(options.fields)
        self.schema = schema
        table = buffer.trajectories if options.trajectories is None else options.trajectories
        self.table = table
        self.splits = split_names(dict.fromkeys(map(str, table["split"].tolist())))
        self.own = Own(
            schema,
            _paths(schema),
            _columns(table),
            {name: split for split, name in self.splits.items()},
            buffer.environment,
            documents.to_plain(buffer.document.user),
        )
        self.steps = {
            name: feature_of(declared, path, f"{STEPS}/{'/'.join(path)}")
            for (name, declared), path in zip(schema.fields.items(), self.own.features.values(), strict=True)
        }
        self.marks = {name: _mark(name) for name in MARKS}
        self.episode = {key: _number(key, dtype) for key, dtype in OWN.items()}
        self.episode |= {key: _number(key, dtype) for key, dtype in self.own.columns.values()}

    def report(self) -> Report:
        """What becomes of the buffer."""
        schema, parts, remarks = self.schema, self.buffer.parts, list[str]()
        holds = {"env", "seed", "split", "final_observation", "metadata", "environment", *self.own.columns}
        rest = beside_fields(
            self.buffer, self.options, holds={*holds, "terminated", "truncated"}, fields=schema.fields
        )
        order = parts.parts_of(self.table["trajectory"])
        owner, known = parts.trajectory[order], parts.final[order] >= 0
        lasts = np.append(owner[1:] != owner[:-1], np.ones(min(1, len(owner)), np.bool_))
        if padded := int(np.count_nonzero(self.table["terminated"] & ~known[lasts])):
            remarks.append(
                f"{padded} trajectories have terminated, and what was observed then is not known: zeros "
                f"stand in their last step, where {FINAL} in episode_metadata is False"
            )
        return Report(
            int(parts.length[order].sum()), len(self.table), dict.fromkeys(schema.fields, KEPT), rest, remarks
        )

    # --- writing

    def fill(self, root: str) -> None:
        """All files."""
        with ExitStack() as stack:
            files = {name: _Files(root, name, stack) for name in self.splits.values()}
            self._episodes(root, files)
        name = name_of(self.options.place or self.path)
        written = [files[split].named(root, name) for split in files]
        for file, content in (
            (FEATURES, features_json([*self.steps.values(), *self.marks.values()], self.episode.values())),
            (INFO, info_json(name, written)),
            (METADATA, self.own.to_json()),
        ):
            with open(os.path.join(root, file), "w", encoding="utf-8") as opened:
                json.dump(content, opened, indent=2, allow_nan=False)

    def _episodes(self, root: str, files: Mapping[str, _Files]) -> None:
        building, about = None, dict[str, Any]()
        steps = trajectories = length = 0
        width = sum(declared.row_bytes for declared in self.schema.fields.values())
        total = self.report().steps or 0
        features = [*self.steps.values(), *self.marks.values(), *self.episode.values()]
        for block in blocks_of(self.buffer, self.options, 1 << 20):
            if block.begins or building is None:
                building, length = Building(features, root, self.path), 0
                about = {"seed": block.seed, "env": block.env, INDEX: trajectories, **block.row}
                split = self.splits[block.split]
            length += len(block)
            if not block.ends:
                building.add(self._rows(block, length == len(block)))
            else:
                self._end(building, block, length == len(block))
                building.add(self._about(about, block))
                files[split].take(building)
                building, trajectories = None, trajectories + 1
            steps += len(block)
            if self.options.progress is not None:
                self.options.progress(steps * width, total * width)

    def _end(self, building: Building, block: Block, begins: bool) -> None:
        """The last steps of a trajectory, and the observation after them."""
        building.add(self._rows(block, begins))
        over = bool(block.terminated)
        if block.final is not None or over:
            building.add(self._last(block.final or {}))
            building.add(self._marks([False], [True], [over]))

    def _rows(self, block: Block, begins: bool) -> dict[str, Any]:
        """The values of steps that go on."""
        nothing = np.zeros(len(block), np.bool_)
        first = nothing.copy()
        first[0] = begins
        rows = {self.steps[name].key: values for name, values in block.columns.items()}
        return rows | self._marks(first, nothing, nothing)

    def _marks(self, *flags: Any) -> dict[str, Any]:
        """Values of `MARKS`."""
        return {
            feature.key: np.array(values, np.bool_)
            for feature, values in zip(self.marks.values(), flags, strict=True)
        }

    def _last(self, final: Mapping[str, Any]) -> dict[str, Any]:
        """The step that has the last observation."""
        found = dict[str, Any]()
        for name, declared in self.schema.fields.items():
            given = final.get(name)
            if declared.ragged:
                values = np.zeros((0, *declared.inner), declared.dtype) if given is None else given
                row: Any = Ragged(values, np.array([0, len(values)]), text=declared.text)
            else:
                row = np.zeros(declared.shape, declared.dtype) if given is None else np.asarray(given)
                row = row[None]
            found[self.steps[name].key] = row
        return found

    def _about(self, about: Mapping[str, Any], block: Block) -> dict[str, NDArray[Any]]:
        """What episode_metadata has of a trajectory."""
        known = {
            **about,
            "terminated": bool(block.terminated),
            "truncated": bool(block.truncated),
            FINAL: block.final is not None,
        }
        keys = {**{name: name for name in OWN}, **{name: key for name, (key, _) in self.own.columns.items()}}
        return {
            self.episode[key].key: np.array([known[name]], self.episode[key].dtype)
            for name, key in keys.items()
        }


class _Files:
    """The files of a split, in the making."""

    def __init__(self, root: str, split: str, stack: ExitStack) -> None:
        self._root, self._stack = root, stack
        self.written = Written(split)
        self._file: IO[bytes] | None = None
        self._bytes = 0

    def take(self, building: Building) -> None:
        """Write a record, to a new file if the last one is large enough."""
        written = self.written
        if self._file is None or self._bytes >= SHARD_BYTES:
            if self._file is not None:
                self._file.close()
            written.lengths.append(0)
            path = self._path(len(written.lengths) - 1)
            self._file = self._stack.enter_context(open(path, "xb"))  # noqa: SIM115
            self._bytes = 0
        size = building.write(self._file)
        written.lengths[-1] += 1
        written.size, self._bytes = written.size + size, self._bytes + size

    def _path(self, number: int) -> str:
        return os.path.join(self._root, f"{self.written.name}.{number}.partial")

    def named(self, root: str, name: str) -> Written:
        """Give the files, which are closed, the names that TFDS wants, now that their number is known."""
        count = len(self.written.lengths)
        for number in range(count):
            shard = f"{name}-{self.written.name}.tfrecord-{number:05}-of-{count:05}"
            os.rename(self._path(number), os.path.join(root, shard))
        return self.written


def _paths(schema: Schema) -> dict[str, tuple[str, ...]]:
    """Where each field is in a step: where its name says, unless that is the place of something else."""
    taken = {split_path(name)[0] for name in schema.fields} | set(MARKS)
    found = {}
    for name in schema.fields:
        top, *rest = name.split("/")
        if top in MARKS:
            while top in taken:
                top = f"field_{top}"
        found[name] = (top, *rest)
    return found


def _columns(table: Any) -> dict[str, tuple[str, str]]:
    """The columns of the user's: their names in episode_metadata, and their dtypes."""
    found: dict[str, tuple[str, str]] = {}
    for name in table.columns:
        if name not in TRAJECTORIES and name != "open":
            key = name if name.isidentifier() else f"column_{len(found)}"
            while key in OWN or key in (key for key, _ in found.values()):
                key += "_"
            found[name] = (key, table[name].dtype.name)
    return found


def _mark(name: str) -> Feature:
    return Feature((name,), f"{STEPS}/{name}", np.dtype(bool), (), "none")


def _number(key: str, dtype: str) -> Feature:
    return feature_of(Field(dtype, (), "extra"), (key,), f"{EPISODE}/{key}")
