"""A buffer as a dataset of LeRobot v3.0 (plan.py says what is where).

Episodes are written one behind the other into files of about 100 MB of data, none of them over two; a few
blocks are in memory at a time, and of each episode what is said of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from replaystore.formats.blocks import blocks_of
from replaystore.formats.lerobot.episodes import CHUNK_FILES, EpisodesWriter, named, new_table
from replaystore.formats.lerobot.pictures import to_png
from replaystore.formats.lerobot.plan import Plan, has_done, info_of, task_of
from replaystore.formats.options import Options
from replaystore.formats.shared.arrow.fields import column_type, joined, stacked
from replaystore.formats.shared.arrow.together import Told, together
from replaystore.formats.shared.arrow.writing import TableWriter, alias_type, arrow_array, arrow_type
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS
from replaystore.views.reader import BufferReader

__all__ = ["BESIDE", "FINALS", "STEPS", "TRAJECTORIES", "fill"]

BESIDE = "meta/replaystore"
FINALS, STEPS, TRAJECTORIES = (
    f"{BESIDE}/{name}.parquet" for name in ("final_observations", "steps", "trajectories")
)
FILE_BYTES = 100 << 20
"""Of rows in a file of data, about."""
INT, FLOAT = np.dtype(np.int64), np.dtype(np.float32)


def fill(root: str, buffer: BufferReader, options: Options, plan: Plan) -> None:
    """Write all files below a folder."""
    with ExitStack() as stack:
        writing = _Dataset(root, plan, stack)
        row_bytes, done = sum(declared.row_bytes for declared in plan.schema.fields.values()), 0
        for told in together(blocks_of(buffer, options)):
            for part in _at_begins(told, apart=writing.full):
                writing.write(part)
            done += sum(map(len, told))
            if options.progress is not None:
                options.progress(done * row_bytes, plan.steps * row_bytes)
        writing.finish()


def _at_begins(told: list[Told], *, apart: bool) -> list[list[Told]]:
    """In two parts where the first trajectory begins, if a new file is to be begun there."""
    at = next((at for at, one in enumerate(told) if one.block.begins), 0) if apart else 0
    return [part for part in (told[:at], told[at:]) if part]


class _Dataset:
    """The files of a dataset, being written."""

    def __init__(self, root: str, plan: Plan, stack: ExitStack) -> None:
        self.root, self.plan, self._stack = root, plan, stack
        self.info = info_of(plan)
        self.features: dict[str, Any] = self.info["features"]
        self.tasks: dict[str, int] = {}
        self.rows = self.files = self._bytes = 0
        self._frame = 0
        self._data: tuple[TableWriter, ExitStack] | None = None
        self._episodes = EpisodesWriter(root, plan, self.features, stack)
        self._beside: dict[str, TableWriter] = {}
        types = {name: column_type(declared, "parquet") for name, declared in plan.fields("beside").items()}
        if types:
            self._beside[STEPS] = self._new(STEPS, types)
        if plan.finals:
            types = {name: column_type(declared, "parquet") for name, declared in plan.observed.items()}
            self._beside[FINALS] = self._new(FINALS, {"row": arrow_type(INT, ()), **types})
        numbers = dict.fromkeys(("seed", "env"), INT) | dict.fromkeys(FLAGS, np.dtype(np.bool_))
        numbers |= {f"column/{name}": np.dtype(dtype) for name, dtype in plan.columns.items()}
        types = {name: arrow_type(dtype, ()) for name, dtype in numbers.items()}
        self._beside[TRAJECTORIES] = self._new(
            TRAJECTORIES, types | {"split": arrow_type(INT, (), text=True)}
        )

    @property
    def full(self) -> bool:
        """Whether the file of data is full."""
        return self._bytes >= FILE_BYTES

    def _new(self, name: str, types: Mapping[str, Any]) -> TableWriter:
        return self._stack.enter_context(new_table(os.path.join(self.root, name), types))

    def write(self, told: list[Told]) -> None:
        """Rows of some blocks."""
        if self.full and told[0].block.begins:
            self._close_data()
        columns = self._columns(told)
        writer = self._opened_data()
        writer.write(columns)
        self._bytes += sum(rows.nbytes for one in told for rows in one.block.columns.values())
        self._write_beside(told)
        self.rows += sum(map(len, told))

    def _columns(self, told: list[Told]) -> dict[str, Any]:
        """The rows of all columns of data, and what is said of their episodes."""
        plan, found = self.plan, dict[str, Any]()
        for name, declared in plan.fields("values", "text", "image").items():
            feature, way = plan.names[name], plan.ways[name]
            values = joined([one.block.columns[name] for one in told])
            if declared.shape == (1,):
                values = values.reshape(len(values))
            type_ = _type(declared, way)
            found[feature] = arrow_array(_pictures(values, self.rows) if way == "image" else values, type_)
        frames, row = [], self.rows
        for one in told:
            self._frame = 0 if one.block.begins else self._frame
            frames.append(np.arange(self._frame, self._frame + len(one)))
            if one.block.begins:
                self._episodes.begin(one.number, row, self.files if self._data is None else self.files - 1)
            indices = self._indices(one, frames[-1], row)
            self._episodes.add(one, indices)
            for name, values in indices.items():
                found.setdefault(f"\0{name}", []).append(values)
            self._frame += len(one)
            row += len(one)
        for key in [key for key in found if key.startswith("\0")]:
            found[key[1:]] = arrow_array(np.concatenate(found.pop(key)))
        return found

    def _indices(self, one: Told, frames: Any, row: int) -> dict[str, Any]:
        """The columns of a block that are no fields."""
        count, plan = len(one), self.plan
        found = {
            "frame_index": frames,
            "episode_index": np.full(count, one.number),
            "index": np.arange(row, row + count),
            "task_index": self._task_index(one),
        }
        if "timestamp" not in plan.names.values():
            found["timestamp"] = (frames / self.info["fps"]).astype(np.float32)
        if has_done(plan):
            done = np.zeros(count, np.bool_)
            for name in FLAGS:
                if name in plan.schema.fields:
                    done |= one.block.columns[name]
                elif one.block.ends:
                    done[-1] |= bool(getattr(one.block, name))
            found["next.done"] = done
        return found

    def _task_index(self, one: Told) -> Any:
        task = self.plan.task
        if not task:
            self._episodes.tasks.setdefault(task_of(self.plan))
            return np.full(len(one), self.tasks.setdefault(task_of(self.plan), len(self.tasks)))
        texts = one.block.columns[task].tolist()
        for text in dict.fromkeys(texts):
            self.tasks.setdefault(text, len(self.tasks))
        self._episodes.new_tasks = dict.fromkeys(texts)
        return np.array([self.tasks[text] for text in texts], np.int64)

    def _write_beside(self, told: list[Told]) -> None:
        plan = self.plan
        if STEPS in self._beside:
            names = plan.fields("beside")
            types = {one.name: one.type for one in self._beside[STEPS].schema}
            rows = {name: joined([one.block.columns[name] for one in told]) for name in names}
            self._beside[STEPS].write({name: arrow_array(rows[name], types[name]) for name in names})
        if FINALS in self._beside:
            lasts = np.cumsum([len(one) for one in told]) - 1 + self.rows
            known = [(at, one.block.final) for at, one in zip(lasts, told, strict=True) if one.block.final]
            types = {one.name: one.type for one in self._beside[FINALS].schema}
            columns = {
                name: arrow_array(stacked(declared, [final[name] for _, final in known]), types[name])
                for name, declared in plan.observed.items()
            }
            self._beside[FINALS].write({"row": np.array([at for at, _ in known], np.int64), **columns})
        ended = [one for one in told if one.block.ends]
        columns = {name: np.array([one.about[name] for one in ended], np.int64) for name in ("seed", "env")}
        columns |= {flag: np.array([_flag(one, flag) for one in ended], np.bool_) for flag in FLAGS}
        columns["split"] = Ragged.of([one.about["split"] for one in ended], text=True)
        for name, dtype in plan.columns.items():
            columns[f"column/{name}"] = np.array([one.about[name] for one in ended], dtype)
        self._beside[TRAJECTORIES].write(columns)

    def _opened_data(self) -> TableWriter:
        if self._data is None:
            stack = ExitStack()
            path = os.path.join(self.root, named("data", self.files))
            features = {"info": {"features": _hugging(self.features)}}
            self._data = (
                self._stack.enter_context(stack).enter_context(
                    new_table(
                        path,
                        self._types(),
                        metadata={"huggingface": json.dumps(features)},
                        compression="snappy",
                        statistics=True,
                    )
                ),
                stack,
            )
            self.files += 1
        return self._data[0]

    def _types(self) -> dict[str, Any]:
        plan, found = self.plan, {}
        known = {plan.names[name]: name for name in plan.fields("values", "text", "image")}
        for feature, said in self.features.items():
            name = known.get(feature)
            if name is not None:
                found[feature] = _type(plan.schema.fields[name], plan.ways[name])
            else:
                found[feature] = alias_type({"float32": "float", "bool": "bool"}.get(said["dtype"], "int64"))
        return found

    def _close_data(self) -> None:
        if self._data is not None:
            self._data[1].close()
        self._data, self._bytes = None, 0

    def finish(self) -> None:
        """Complete all files, and write those that say what is in them."""
        self._close_data()
        self._episodes.finish()
        plan, count = self.plan, self._episodes.count
        info = {
            **{key: value for key, value in self.info.items() if key != "features"},
            "total_episodes": count,
            "total_frames": self.rows,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "splits": self._episodes.splits(),
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": None,
            "features": self.features,
        }
        self._json("meta/info.json", info)
        self._json("meta/stats.json", self._episodes.whole())
        self._json("meta/replaystore.json", plan.to_json())
        self._write_tasks()

    def _json(self, name: str, content: Any) -> None:
        path = os.path.join(self.root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            json.dump(content, file, indent=4, ensure_ascii=False, allow_nan=False)

    def _write_tasks(self) -> None:
        column = {"metadata": None, "pandas_type": "int64", "numpy_type": "int64"}
        pandas = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": "task_index", "field_name": "task_index", **column},
                {"name": "task", "field_name": "task", "metadata": None, "pandas_type": "unicode"}
                | {"numpy_type": "object"},
            ],
            "attributes": {},
            "creator": {"library": "replaystore", "version": "1"},
            "pandas_version": "2.0.0",
        }
        types = {"task_index": alias_type("int64"), "task": alias_type("string")}
        path = os.path.join(self.root, "meta/tasks.parquet")
        with new_table(path, types, metadata={"pandas": json.dumps(pandas)}, compression="snappy") as writer:
            texts = Ragged.of(list(self.tasks), text=True)
            columns = {"task_index": np.arange(len(self.tasks)), "task": arrow_array(texts, types["task"])}
            writer.write(columns)


def _flag(one: Told, name: str) -> bool:
    said = getattr(one.block, name)
    return bool(one.block.columns[name][-1]) if name in one.block.columns else bool(said)


def _type(declared: Field, way: str) -> Any:
    """The type of the column of a feature."""
    if way == "image":
        return alias_type({"bytes": "binary", "path": "string"})
    if way == "text":
        return alias_type("string")
    if declared.shape in ((), (1,)):
        return arrow_type(declared.dtype, ())
    if len(declared.shape) == 1:
        return arrow_type(declared.dtype, declared.shape)
    return alias_type(_alias(declared.dtype), len(declared.shape))


def _alias(dtype: np.dtype[Any]) -> str:
    return {"float32": "float", "float64": "double"}.get(dtype.name, dtype.name)


def _pictures(values: Any, row: int) -> dict[str, Any]:
    data = [np.frombuffer(to_png(picture), np.uint8) for picture in values]
    names = [f"frame-{at:06d}.png" for at in range(row, row + len(values))]
    return {"bytes": Ragged.of(data, np.uint8, ()), "path": Ragged.of(names, text=True)}


def _hugging(features: Mapping[str, Any]) -> dict[str, Any]:
    """The features as the library `datasets` says them."""
    found: dict[str, Any] = {}
    for name, said in features.items():
        dtype, shape = said["dtype"], said["shape"]
        if dtype == "image":
            found[name] = {"_type": "Image"}
        elif shape == [1]:
            found[name] = {"dtype": dtype, "_type": "Value"}
        elif len(shape) == 1:
            found[name] = {"feature": {"dtype": dtype, "_type": "Value"}, "length": shape[0], "_type": "List"}
        else:
            found[name] = {"shape": shape, "dtype": dtype, "_type": f"Array{len(shape)}D"}
    return found
