"""How a buffer lies in a dataset of LeRobot: which feature each field is, and what LeRobot does not know and
does not look at: `meta/replaystore.json` and the tables in `meta/replaystore/`.

* `observation` is `observation.state` or `observation.image`; `observation/a/b` is `observation.a.b`; reward,
  terminated and truncated are `next.reward`, `next.terminated`, `next.truncated`, and `next.done` is either.
* Pictures (uint8 of 1, 3 or 4 channels, which are last) are PNG in the columns, lossless; no videos are made.
* A text called `task` becomes the tasks of frames, other texts are features of strings.
* What no feature is (values of any length, complex numbers, float16, uint64) is in `steps.parquet`; final
  observations, and seeds, splits and columns of trajectories are in tables beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.blocks import BLANK, beside_fields, chosen_fields
from replaystore.formats.lerobot.features import INDICES, RESULTS
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.names import split_path
from replaystore.schema.roles import FLAGS
from replaystore.schema.spaces import DTYPES
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["TOLD", "Plan", "Way", "plan_of"]

VERSION = 1
TOLD = ("seed", "split", "env")
TASKS = ("task", "language_instruction", "instruction")
HELD = frozenset(
    {"bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"}
)
"""Dtypes of features."""
MOST_DIMENSIONS = 5
FPS = 30
Way = Literal["values", "text", "image", "task", "beside"]
WAYS = ("values", "text", "image", "task", "beside")
NO_FEATURE = ("task", "beside")


@dataclass(frozen=True)
class Plan:
    """What is written, and what is said of it in `meta/replaystore.json`."""

    schema: Schema
    ways: Mapping[str, Way]
    names: Mapping[str, str]
    """Field → feature, of those that are features."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of the table of trajectories, the user's: their dtypes."""
    flags: tuple[str, ...] = ()
    """Those of how trajectories ended that are no fields."""
    finals: bool = False
    environment: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    trajectories: int = 0

    def fields(self, *ways: Way) -> dict[str, Field]:
        """The fields that go these ways."""
        return {name: self.schema.fields[name] for name, way in self.ways.items() if way in ways}

    @property
    def task(self) -> str:
        """The field that is the task; "" for none."""
        return next(iter(self.fields("task")), "")

    @property
    def observed(self) -> dict[str, Field]:
        """The fields of final observations, if there are any."""
        names = self.schema.names("observation") if self.finals else ()
        return {name: self.schema.fields[name] for name in names}

    def to_json(self) -> dict[str, Any]:
        """What is in the file."""
        return {
            "version": VERSION,
            "schema": self.schema.to_json(),
            "ways": dict(self.ways),
            "names": dict(self.names),
            "columns": dict(self.columns),
            "flags": list(self.flags),
            "finals": self.finals,
            "environment": self.environment,
            "metadata": self.metadata,
            "steps": self.steps,
            "trajectories": self.trajectories,
        }

    @classmethod
    def from_json(cls, said: Any, path: str) -> Plan:
        """The inverse. FormatError: it is no such thing, or of a newer version."""
        if not isinstance(said, dict) or type(said.get("version")) is not int:
            raise FormatError(
                f"{path} is nothing that replaystore writes: remove it to read the dataset as it is"
            )
        if said["version"] > VERSION:
            raise FormatError(f"{path} is of version {said['version']}: upgrade replaystore, or remove it")
        numbers = {name for name, dtype in DTYPES.items() if dtype.kind != "c"}
        ways: Any = said.get("ways")
        names: Any = said.get("names")
        columns: Any = said.get("columns")
        sound = (
            isinstance(said.get("schema"), dict)
            and isinstance(ways, dict)
            and isinstance(names, dict)
            and isinstance(columns, dict)
            and all(isinstance(word, str) for said_of in (ways, names, columns) for word in said_of.values())
            and all(way in WAYS for way in ways.values())
            and all(dtype in numbers for dtype in columns.values())
            and isinstance(said.get("flags"), list)
            and all(flag in FLAGS for flag in said["flags"])
            and isinstance(said.get("environment"), dict | None)
            and isinstance(said.get("metadata"), dict)
            and all(type(said.get(key)) is int for key in ("steps", "trajectories"))
        )
        schema = Schema.from_json(said["schema"]) if sound else None
        features = {name for name, way in ways.items() if way not in NO_FEATURE} if sound else set()
        if schema is None or ways.keys() != schema.fields.keys() or names.keys() != features:
            raise FormatError(f"{path} is damaged: restore it from a copy, or remove it to do without")
        return cls(
            schema,
            ways,
            names,
            columns,
            tuple(said["flags"]),
            said.get("finals") is True,
            said["environment"],
            said["metadata"],
            said["steps"],
            said["trajectories"],
        )


def plan_of(buffer: BufferReader, options: Options) -> tuple[Plan, Report]:
    """How a buffer is to be written, and what becomes of it."""
    schema = buffer.schema.select(chosen_fields(buffer, options))
    table = buffer.trajectories if options.trajectories is None else options.trajectories
    parts = buffer.parts
    taken = parts.parts_of(table["trajectory"])
    columns = {
        name: table[name].dtype.name for name in table.columns if name not in TRAJECTORIES and name != "open"
    }
    task = next((name for name in TASKS if name in schema.fields and schema.fields[name].text), None)
    ways: dict[str, Way] = {
        name: "task" if name == task else _way(declared) for name, declared in schema.fields.items()
    }
    known = any(entry.following is not None for entry in buffer.open_trajectories())
    plan = Plan(
        schema,
        ways,
        _names(schema, ways),
        columns,
        tuple(name for name in FLAGS if name not in schema.fields and bool(table[name].any())),
        bool(schema.names("observation")) and (known or bool((parts.final[taken] >= 0).any())),
        buffer.environment,
        dict(buffer.document.user),
        int(parts.length[taken].sum()),
        len(table),
    )
    fields = dict.fromkeys(schema.fields, KEPT)
    holds = {*BLANK, *FLAGS, "final_observation", "metadata", "environment", *columns}
    rest = beside_fields(buffer, options, holds=holds, fields=fields)
    return plan, Report(plan.steps, plan.trajectories, fields, rest, _remarks(plan))


def _remarks(plan: Plan) -> list[str]:
    found = []
    if "fps" not in _lerobot(plan):
        found.append(f"it is said to have {FPS} frames a second, which the buffer does not say")
    if not plan.task:
        found.append(f"the task of each frame is {task_of(plan)!r:.80}, since there is no text field 'task'")
    if beside := list(plan.fields("beside")):
        found.append(f"LeRobot does not see {', '.join(beside)}, which are in meta/replaystore")
    return found


def _lerobot(plan: Plan) -> dict[str, Any]:
    """What was said of a dataset of LeRobot that the buffer was made of."""
    said = plan.metadata.get("lerobot")
    fps = said.get("fps") if isinstance(said, dict) else None
    sound = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < 1e6
    return said if isinstance(said, dict) and sound else {}


def task_of(plan: Plan) -> str:
    """The task, where no field says one."""
    return str((plan.environment or {}).get("id") or "unspecified")


def info_of(plan: Plan) -> dict[str, Any]:
    """`meta/info.json`, without what is counted."""
    known = _lerobot(plan)
    names = known.get("names") if isinstance(known.get("names"), dict) else {}
    features: dict[str, Any] = {}
    for name, declared in plan.fields("values", "text", "image").items():
        feature, way = plan.names[name], plan.ways[name]
        if feature in INDICES:
            continue
        dtype = {"text": "string", "image": "image"}.get(way, declared.dtype.name)
        shape = [1] if way == "text" else list(declared.shape or (1,))
        called = ["height", "width", "channels"] if way == "image" else (names or {}).get(feature)
        features[feature] = {"dtype": dtype, "shape": shape, "names": called}
    if has_done(plan):
        features["next.done"] = {"dtype": "bool", "shape": [1], "names": None}
    for name in INDICES:
        dtype = "float32" if name == "timestamp" else "int64"
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    robot = known.get("robot_type")
    return {
        "codebase_version": "v3.0",
        "robot_type": robot if isinstance(robot, str) else None,
        "fps": known.get("fps", FPS),
        "features": features,
    }


def has_done(plan: Plan) -> bool:
    """Whether there is a column `next.done` that says terminated or truncated."""
    either = any(name in plan.schema.fields or name in plan.flags for name in FLAGS)
    return either and "next.done" not in plan.names.values()


def _way(declared: Field) -> Way:
    if declared.text:
        return "text"
    if declared.ragged or declared.dtype.name not in HELD or len(declared.shape) > MOST_DIMENSIONS:
        return "beside"
    picture = declared.dtype == np.uint8 and len(declared.shape) == 3 and declared.shape[2] in (1, 3, 4)
    return "image" if picture else "values"


def _names(schema: Schema, ways: Mapping[str, Way]) -> dict[str, str]:
    """The feature of each field that is one; no two are called the same."""
    results = {name: feature for feature, name in RESULTS.items()}
    found: dict[str, str] = {}
    reserved = {*INDICES, *results.values()}
    for name, declared in schema.fields.items():
        way = ways[name]
        if way in NO_FEATURE:
            continue
        if name in results:
            found[name] = results[name]
            continue
        if name == "timestamp" and declared.dtype == np.float32 and declared.shape == ():
            found[name] = name
            continue
        called = ".".join(split_path(name)).replace("/", "_")
        if name == "observation":
            called = "observation.image" if way == "image" else "observation.state"
        while called in reserved or called in found.values() or called == "task":
            called += "_"
        found[name] = called
    return found
