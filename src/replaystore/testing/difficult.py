"""Stores with every difficulty that a conversion meets, made from a seed; and those of recorded truths.

`DIFFICULT` has them by name, from what every format holds (`plain`) to all at once (`everything`), so that a
format that must refuse the last is tried with the others. Each begins with three environments in turn,
seeded, of three splits, and then has trajectories that are terminated, truncated, both, or cut off, a single
step, one that is still open, columns of the user's, metadata and an environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text, Tuple

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import create
from replaystore.buffers.writer import Writer
from replaystore.gymnasium import RecordVector
from replaystore.schema.fields import Field, Schema
from replaystore.testing.samples import Step, columns, observations, recording
from replaystore.testing.trajectories import trajectories

__all__ = ["DIFFICULT", "METADATA", "Difficulty", "made", "rollouts", "truth"]

METADATA = {"made by": ["a test", 1.5, None], "日": {"nested": True, "big": 2**53 - 1}}
ENVIRONMENT = "Difficult-v0"
SPLITS = ("train", "val", "")


def _flags() -> dict[str, Field]:
    return {name: Field("bool", (), name) for name in ("terminated", "truncated")}


def plain() -> Schema:
    """What nearly every format holds."""
    return Schema.from_spaces(
        Box(-np.inf, np.inf, (4,), np.float32), Box(-1, 1, (2,), np.float32), reward_dtype=np.float32
    )


def wide() -> Schema:
    """float64 observations and rewards, actions that are numbers, and infos."""
    return Schema.from_spaces(
        Box(-np.inf, np.inf, (3,), np.float64),
        Discrete(5),
        reward_dtype=np.float64,
        extra={
            "info/speed": Field("float16", (2,), "info"),
            "info/step": Field("int32", (), "info"),
            "logprob": Field("float64", (), "extra"),
        },
    )


def integers() -> Schema:
    """Nothing but integers and bits: also the rewards."""
    return Schema.from_spaces(Box(0, 255, (5,), np.uint8), MultiBinary(3), reward_dtype=np.int64)


def images() -> Schema:
    """Frames that libraries like to make lossy."""
    return Schema.from_spaces(Box(0, 255, (32, 32, 3), np.uint8), Discrete(4), reward_dtype=np.float32)


def nested() -> Schema:
    """Dicts and tuples, in one another."""
    pose = Tuple((Box(-1, 1, (2,), np.float64), Dict({"deep": Box(0, 9, (), np.int32)})))
    return Schema.from_spaces(
        Dict({"image": Box(0, 255, (8, 6, 3), np.uint8), "pose": pose, "on": MultiBinary(2)}),
        Dict({"arm": Box(-1, 1, (3,), np.float32), "grip": Discrete(2)}),
        reward_dtype=np.float64,
    )


def texts() -> Schema:
    """Texts and tokens of any length."""
    return Schema.from_spaces(
        Dict({"text": Text(64), "at": Box(-1, 1, (2,), np.float32)}),
        Discrete(3),
        reward_dtype=np.float32,
        extra={
            "tokens": Field("int32", (None,), "extra"),
            "info/points": Field("float32", (None, 3), "info"),
        },
    )


def unflagged() -> Schema:
    """Demonstrations: neither rewards nor flags."""
    return Schema(
        {"observation": Field("float32", (3,), "observation"), "action": Field("float64", (2,), "action")}
    )


def everything() -> Schema:
    """All of these."""
    merged: dict[str, Field] = {}
    for schema in (wide(), nested(), texts()):
        merged |= {name: f for name, f in schema.fields.items() if name not in ("observation", "action")}
    return Schema(merged, frozenset({"observation/pose"}))


@dataclass(frozen=True)
class Difficulty:
    """One kind of store."""

    schema: Callable[[], Schema]
    count: int = 12
    """So many trajectories beside those that lie in turn."""
    longest: int = 9
    steps: int = 14
    """So many of each of the three environments that take turns."""
    loose: int = 0
    """So many steps of no trajectory."""


DIFFICULT: dict[str, Difficulty] = {
    "plain": Difficulty(plain),
    "wide": Difficulty(wide),
    "integers": Difficulty(integers),
    "images": Difficulty(images, count=4, longest=4, steps=6),
    "nested": Difficulty(nested),
    "texts": Difficulty(texts),
    "unflagged": Difficulty(unflagged, steps=0),
    "everything": Difficulty(everything),
    "loose": Difficulty(plain, loose=3),
    "empty": Difficulty(plain, count=0, steps=0),
    "short": Difficulty(plain, count=5000, longest=4, steps=0),
}
"""By name. `short` takes seconds; the others less than one."""


def made(location: str, name: str, seed: int = 0) -> None:
    """Make the store of this name."""
    difficulty = DIFFICULT[name]
    schema = difficulty.schema()
    with create(location, schema, metadata=METADATA, environment=ENVIRONMENT) as buffer:
        _in_turn(buffer, schema, difficulty.steps, seed)
        _one_by_one(buffer, schema, difficulty, seed)
        if difficulty.loose:
            buffer.append_loose(columns(schema, difficulty.loose, seed + 6, ends=0.0))
        if difficulty.count:
            _user_columns(buffer, seed)
            buffer.append(columns(schema, 3, seed + 5, ends=0.0), env=3, ends=[], split="val")


def _in_turn(buffer: Buffer, schema: Schema, steps: int, seed: int) -> None:
    """Three environments, whose rows lie side by side, of each split one after another."""
    if not steps:
        return
    for number, split in enumerate(SPLITS):
        writer = buffer.writer(3, split=split)
        for step in recording(schema, 3, steps // 3 + 1, seed + number):
            _play(writer, step, schema)
        buffer.commit()
        writer.close()


def _play(writer: Writer, step: Step, schema: Schema) -> None:
    """Make a call, of any schema."""
    given: dict[str, Any] = {}
    for role in ("observation", "action"):
        held = {name: step.columns[name] for name in schema.names(role) if name in step.columns}
        given[role] = schema.unflatten(held, role) if held else None
    if given["action"] is None:
        writer.reset(given["observation"], seed=step.seeds, mask=step.mask)
        return
    given |= {name: step.columns.get(name) for name in ("reward", "terminated", "truncated")}
    known = {*schema.names("observation"), *schema.names("action"), *given}
    info = {name: values for name, values in step.columns.items() if name not in known}
    writer.step(**given, info=info, mask=step.mask)


def _one_by_one(buffer: Buffer, schema: Schema, difficulty: Difficulty, seed: int) -> None:
    given = trajectories(schema, difficulty.count, seed + 1, longest=difficulty.longest)
    if given:  # the difficulties that chance might leave out
        given += trajectories(schema, 1, seed + 2, longest=1)
    for one in given:
        final = one.final_observation and schema.unflatten(dict(one.final_observation), "observation")
        buffer.append(
            one.columns,
            final_observation=final,
            split=one.split,
            env=one.env,
            seed=one.seed if one.seed >= 0 else None,
            ends=[len(one) - 1],
        )
    if not given or not {"terminated", "truncated"} <= schema.fields.keys():
        return
    rows = columns(schema, 4, seed + 3, ends=0.0)
    rows["terminated"][-1] = rows["truncated"][-1] = True
    final = {name: values[0] for name, values in observations(schema, 1, seed + 4).items()}
    buffer.append(rows, final_observation=schema.unflatten(final, "observation"), split="train", env=1)


def _user_columns(buffer: Buffer, seed: int) -> None:
    buffer.commit()
    count = int(np.count_nonzero(~buffer.trajectories.open))
    generator = np.random.default_rng(seed)
    buffer.set_trajectory_columns(
        {
            "success": generator.random(count) < 0.5,
            "score": generator.normal(size=count).astype(np.float32),
            "level": generator.integers(0, 1 << 40, count),
        }
    )


# --- what was recorded


def rollouts(location: str, seed: int = 0, *, steps: int = 120) -> None:
    """Two CartPoles that really ran."""
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    with create(location, envs, metadata=METADATA) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=seed)
        generator = np.random.default_rng(seed)
        for _ in range(steps):
            recorder.step(generator.integers(0, 2, 2))
    envs.close()


def truth(location: str, samples: str, name: str) -> None:
    """A store of the rollouts in a folder of samples, `truth/<name>.npz`: the observations of each episode,
    the last one included, are rows behind those of the one before."""
    with np.load(os.path.join(samples, "truth", f"{name}.npz")) as file:
        held: dict[str, Any] = {key: file[key] for key in file.files}
    with open(os.path.join(samples, "truth", f"{name}.facts.json"), encoding="utf-8") as facts:
        environment = str(json.loads(json.load(facts)["env_spec_json"])["id"])
    observed = {
        key.replace("obs.", "observation/").replace("obs", "observation", key == "obs"): rows
        for key, rows in held.items()
        if key == "obs" or key.startswith("obs.")
    }
    stepped = {"action": held["act"], "reward": held["rew"]}
    stepped |= {name: held[name] for name in ("terminated", "truncated")}
    fields = {key: Field(rows.dtype, rows.shape[1:], "observation") for key, rows in observed.items()}
    fields |= {key: Field(rows.dtype, rows.shape[1:], key) for key, rows in stepped.items()}  # type: ignore[arg-type]
    schema = Schema(fields)
    with create(location, schema, environment=environment) as buffer:
        begin = 0
        for episode, length in enumerate(held["ep_len"].tolist()):
            stop, shift = begin + length, begin + episode
            steps = {key: rows[begin:stop] for key, rows in stepped.items()}
            steps |= {key: rows[shift : shift + length] for key, rows in observed.items()}
            final = {key: rows[shift + length] for key, rows in observed.items()}
            buffer.append(
                steps,
                final_observation=schema.unflatten(final, "observation"),
                seed=int(held["seed"][episode]),
                ends=[length - 1],
            )
            begin = stop
