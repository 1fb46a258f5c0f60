"""Environments that follow a script, a model of the buffer that records them, and the trajectories by
hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import strategies as st
from numpy.typing import NDArray

import replaystore as rs
from replaystore.gymnasium import RecordVector
from replaystore.schema.fields import Field, Schema
from replaystore.testing.contents import final_by_field

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

MODES = list(AutoresetMode)
Row = dict[str, Any]


@dataclass
class Trail:
    """One trajectory. Rows have a value for each field, as nested lists; info keys that are missing in a step
    are not in its row."""

    env: int
    seed: int = -1
    rows: list[Row] = field(default_factory=list)
    final: Row = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = False
    split: str = ""


# --- a model of the buffer


class Model:
    """What the recorders need of a buffer, done literally."""

    closed = False

    def __init__(self, env: Any, extra: Mapping[str, Field] | None = None) -> None:
        self.schema = Schema.from_env(env, extra=extra)
        self.trails: list[Trail] = []
        self.commits: list[int] = []

    @property
    def rows_recorded(self) -> int:
        return sum(len(trail.rows) for trail in self.trails)

    def writer(self, num_envs: int, *, split: str = "") -> ModelWriter:
        return ModelWriter(self, num_envs, split)

    def add_fields(self, declared: Mapping[str, Field], *, fill: Mapping[str, int]) -> None:
        self.schema = self.schema.with_fields(declared)
        for trail in self.trails:
            for row in trail.rows:
                for name, kind in declared.items():
                    row[name] = np.full(kind.shape, fill[name], kind.dtype).tolist()

    def commit(self) -> int:
        self.commits.append(self.rows_recorded)
        return len(self.commits)


class ModelWriter:
    def __init__(self, buffer: Model, num_envs: int, split: str) -> None:
        self.buffer, self.num_envs, self.split = buffer, num_envs, split
        self.open: dict[int, Trail] = {}
        self.seen: dict[int, Row] = {}
        self.is_closed = False

    def reset(
        self,
        observation: Any,
        *,
        seed: Sequence[int | None] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        leaves = self.buffer.schema.flatten(observation, "observation")
        assert self.buffer.schema.select(["observation"]).check(leaves) == self.num_envs
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                if env in self.open:
                    self.open[env].final = self.seen[env]
                self.seen[env] = row_of(leaves, env)
                given = None if seed is None else seed[env]
                self.open[env] = Trail(env, -1 if given is None else given, split=self.split)
                self.buffer.trails.append(self.open[env])

    def offer(self, *_: object) -> bool:
        """Nothing is quick here: each step is checked."""
        return False

    def step(
        self,
        action: Any,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observation: Any,
        info: Mapping[str, NDArray[Any]],
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        leaves = self.buffer.schema.flatten(observation, "observation")
        others = {
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            **self.buffer.schema.flatten(action, "action"),
            **info,
        }
        assert self.buffer.schema.check({**leaves, **others}) == self.num_envs
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                trail = self.open[env]
                trail.rows.append(self.seen[env] | row_of(others, env))
                self.seen[env] = row_of(leaves, env)
                if terminated[env] or truncated[env]:
                    trail.terminated, trail.truncated = bool(terminated[env]), bool(truncated[env])
                    trail.final = self.seen[env]
                    del self.open[env]

    def close(self) -> None:
        for env, trail in self.open.items():
            trail.final = self.seen[env]
        self.open = {}


def row_of(columns: Mapping[str, NDArray[Any]], place: int) -> Row:
    return {name: plain(values[place]) for name, values in columns.items()}


def plain(value: Any) -> Any:
    """A value of a row, as lists and Python's own numbers; a text as it is."""
    return value if isinstance(value, str) else value.tolist()


places = cycle(f"memory:recorded-{number}" for number in range(4))
buffers: dict[str, Buffer] = {}


def buffer_for(env: Any, kind: str = "model", extra: Mapping[str, Field] | None = None) -> Buffer:
    """An empty buffer; of the real ones only the last four are kept."""
    if kind == "model":
        return cast("Buffer", Model(env, extra))
    place = next(places)
    if place in buffers:
        buffers[place].close()
    buffers[place] = rs.create(place, Schema.from_env(env, extra=extra) if extra else env, overwrite=True)
    return buffers[place]


def trails_of(buffer: Any) -> dict[int, list[Trail]]:
    """The trajectories of each environment, in order; without those that have no steps, which a buffer does
    not keep."""
    if isinstance(buffer, Model):
        trails = [
            replace(trail, rows=[dict(row) for row in trail.rows]) for trail in buffer.trails if trail.rows
        ]
    else:
        trails = []
        for trajectory in map(buffer.trajectory, range(buffer.num_trajectories)):
            rows = [row_of(trajectory.columns, place) for place in range(len(trajectory))]
            ending = final_by_field(trajectory)
            assert ending is not None
            final = {name: plain(value) for name, value in ending.items()}
            info = trajectory.info
            trails.append(
                Trail(
                    info["env"],
                    info["seed"],
                    rows,
                    final,
                    bool(info["terminated"]),
                    bool(info["truncated"]),
                    info["split"],
                )
            )
    masks = {
        name: name.replace("/_", "/")
        for name, declared in buffer.schema.fields.items()
        if declared.role == "mask"
    }
    missing = dict.fromkeys(masks, False)
    for trail in trails:
        for row in trail.rows:
            for mask, name in masks.items():
                if not row.pop(mask):
                    missing[mask] = True
                    assert not np.any(row.pop(name))
    assert all(missing.values()), "masks are for keys that are missing somewhere"
    return {env: [trail for trail in trails if trail.env == env] for env in {trail.env for trail in trails}}


# --- an environment that follows a script

Script = Sequence[tuple[int, str]]
"""For each episode its length, and what ends it."""


class Scripted(gymnasium.Env[NDArray[np.float64], int]):
    """Observations say where they are: environment, episode, steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space: spaces.Space[Any] = spaces.Discrete(5)

    def __init__(self, index: int, script: Script) -> None:
        self.index, self.script = index, script
        self.episode, self.t, self.over = -1, 0, True

    def observe(self) -> NDArray[np.float64]:
        return np.array([self.index, self.episode, self.t], dtype=np.float64)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        self.episode, self.t, self.over = self.episode + 1, 0, False
        return self.observe(), {"t": -1, "speed": -1.0, "bit": np.bool_(True), "fresh": 1}

    def step(self, action: int) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        assert not self.over
        length, ending = self.script[self.episode % len(self.script)]
        self.t += 1
        self.over = self.t == length
        info: dict[str, Any] = {
            "t": self.t,
            "speed": self.t / 2,
            "bit": np.bool_(self.t % 2),
            "n": {"v": np.full(2, action, np.int16)},
        }
        if self.over:
            info["episode"] = {"l": self.t}
        return (
            self.observe(),
            10.0 * self.episode + self.t,
            self.over and ending != "cut",
            self.over and ending != "end",
            info,
        )


def policy(observation: NDArray[np.float64]) -> Any:
    return (observation.sum(axis=-1) % 5).astype(np.int64)


Resets = Mapping[int, tuple[int | None, set[int]]]
"""Resets by the user, before some turns: the seed given and the environments."""


def by_hand(index: int, script: Script, mode: AutoresetMode, turns: int, resets: Resets) -> list[Trail]:
    """The plain loop over one environment, which is reset when the mode says so: at an end, or in the next
    turn, with a step or without."""
    env = Scripted(index, script)
    observation, _ = env.reset()
    trails = [Trail(index, 100 + index)]
    ended = False
    for turn in range(turns):
        seed, members = resets.get(turn, (None, set()))
        if index in members:
            observation, _ = env.reset()
            trails.append(Trail(index, -1 if seed is None else seed + index))
        elif ended and mode != AutoresetMode.SAME_STEP:
            observation, _ = env.reset()
            trails.append(Trail(index))
            if mode == AutoresetMode.NEXT_STEP:
                ended = False
                continue
        action = policy(observation)
        following, reward, terminated, truncated, info = env.step(action)
        info = {
            name: np.asarray(value).tolist()
            for key, inner in info.items()
            for name, value in nested(f"info/{key}", inner)
        }
        values = {"observation": observation.tolist(), "action": int(action), "reward": reward}
        trails[-1].rows.append({**values, "terminated": terminated, "truncated": truncated, **info})
        trails[-1].terminated, trails[-1].truncated, trails[-1].final = (
            terminated,
            truncated,
            {"observation": following.tolist()},
        )
        observation = following
        ended = terminated or truncated
        if ended and mode == AutoresetMode.SAME_STEP:
            observation, _ = env.reset()
            trails.append(Trail(index))
    return [trail for trail in trails if trail.rows]


def nested(name: str, value: Any) -> list[tuple[str, Any]]:
    return (
        [(f"{name}/{key}", inner) for key, inner in value.items()]
        if isinstance(value, dict)
        else [(name, value)]
    )


def record_vector(
    env: Any, buffer: Buffer, mode: AutoresetMode, turns: int, resets: Resets, **options: Any
) -> None:
    recorded = RecordVector(env, buffer, **options)
    everyone = set(range(env.num_envs))
    observation, _ = recorded.reset(seed=100)
    ended = np.zeros(env.num_envs, dtype=bool)
    for turn in range(turns):
        seed, members = resets.get(turn, (None, set()))
        members &= everyone
        if members:
            mask = np.array([place in members for place in range(env.num_envs)])
            observation, _ = recorded.reset(
                seed=seed, options=None if members == everyone else {"reset_mask": mask}
            )
            ended &= ~mask
        if mode == AutoresetMode.DISABLED and ended.any():
            observation, _ = recorded.reset(options={"reset_mask": ended})
        observation, _, terminated, truncated, _ = recorded.step(policy(observation))
        ended = terminated | truncated
    recorded.close()


episodes = st.tuples(st.integers(1, 4), st.sampled_from(["end", "cut", "both"]))
scripts = st.lists(st.lists(episodes, min_size=1, max_size=3), min_size=1, max_size=4)
members = st.sets(st.integers(0, 3), min_size=1)
user_resets = st.dictionaries(
    st.integers(0, 12), st.tuples(st.none() | st.integers(0, 99), members), max_size=2
)
ENDINGS: list[Script] = [[(1, "end"), (3, "cut")], [(2, "both"), (1, "cut")], [(5, "end")]]


def trails_by_hand(
    scripts: Sequence[Script], mode: AutoresetMode, turns: int, resets: Resets
) -> dict[int, list[Trail]]:
    trails = {index: by_hand(index, script, mode, turns, resets) for index, script in enumerate(scripts)}
    return {index: some for index, some in trails.items() if some}
