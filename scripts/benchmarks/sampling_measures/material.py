"""What is sampled: steps of HalfCheetah and frames of Atari games, in memory and in stores. Each is made
once, when first asked for.

Some of it is recorded, and the stores hold that again and again: which no way of reading can see, nor any
codec.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Context
from measuring.data import BLOCK, Columns, cheetah_steps, frames, warm, write
from numpy.typing import NDArray

import replaystore as rs
from replaystore.sampling.sampler import Sampler
from replaystore.views.column import Trajectory

__all__ = ["CODEC", "Frames", "Vectors", "atari", "cheetah", "drawn"]

CODEC = "zstd:3"
GAMES = ("ALE/MsPacman-v5", "ALE/Breakout-v5")
SHAPE = (84, 84)
EPISODE = 900
"""Frames of an episode that is not one of a game."""


@dataclass(frozen=True)
class Vectors:
    """Steps of five small fields, 98 bytes together."""

    columns: Columns
    """In memory."""
    source: str
    raw: Path
    hdf5: Path
    """Raw, too."""
    coded: Path


@dataclass(frozen=True)
class Frames:
    """Steps with a frame of 84 x 84 bytes each."""

    observations: NDArray[np.uint8]
    """In memory."""
    source: str
    raw: Path
    coded: Path
    """In chunks as the library chooses them."""
    small: Path
    """Coded, in chunks of 4 rows."""
    hdf5: Path
    """The same in HDF5."""
    first: NDArray[np.int64]
    """Of each step, the first row of its episode."""
    finals: dict[int, NDArray[np.uint8]]
    """Final frames, by the row of the last step."""

    def stacks(self, rows: NDArray[np.int64], depth: int) -> NDArray[np.uint8]:
        """What a stack of frames and the next frame are to be: shape (len(rows), depth + 1, 84, 84)."""
        shown = self.observations
        earlier = np.maximum(rows[:, None] - np.arange(depth - 1, -1, -1), self.first[rows, None])
        following = np.stack(
            [self.finals[row] if row in self.finals else shown[row + 1] for row in rows.tolist()]
        )
        return np.concatenate([shown[earlier], following[:, None]], axis=1)


def cheetah(context: Context) -> Vectors:
    context.say("steps of HalfCheetah")
    found = _cheetah(context.shared, context.choose(BLOCK, BLOCK // 10), context.choose(10, 20))
    warm(found.raw, found.hdf5, found.coded)
    return found


@functools.cache
def _cheetah(folder: Path, recorded: int, times: int) -> Vectors:
    columns, source = cheetah_steps(recorded)
    found = Vectors(
        {name: np.concatenate([rows] * times) for name, rows in columns.items()},
        source,
        *(folder / name for name in ("vectors.zarr", "vectors.h5", "coded.zarr")),
    )
    write(found.raw, recorded * times, columns)
    write(found.hdf5, recorded * times, columns)
    write(found.coded, recorded * times, columns, storage={name: {"codec": CODEC} for name in columns})
    return found


def atari(context: Context) -> Frames:
    context.say("frames of Atari games")
    found = _atari(context.shared, context.choose(15000, 1500), context.choose(4, 2))
    warm(found.raw, found.coded, found.small, found.hdf5)
    return found


@functools.cache
def _atari(folder: Path, recorded: int, times: int) -> Frames:
    place = folder / "recorded.zarr"
    source = _record(place, recorded)
    found = [
        folder / name for name in ("frames.zarr", "frames-coded.zarr", "frames-small.zarr", "frames-small.h5")
    ]
    storage: tuple[dict[str, Any], ...] = (
        {"codec": "raw"},
        {"codec": CODEC},
        {"codec": CODEC, "chunk_rows": 4},
        {"codec": CODEC, "chunk_rows": 4},
    )
    with rs.open(place) as buffer:
        columns = buffer.read(slice(None))
        lengths = buffer.trajectories["length"]
        finals = [_final(buffer.trajectory(number)) for number in range(len(lengths))]
        for target, setting in zip(found, storage, strict=True):
            with rs.create(
                target, buffer.schema, storage={"observation": setting}, durability="none"
            ) as copy:
                for _ in range(times):
                    copy.append(
                        columns, final_observation=np.stack(finals), ends=(np.cumsum(lengths) - 1).tolist()
                    )
                    copy.commit()
    lengths = np.concatenate([lengths] * times)
    stops = np.cumsum(lengths)
    last = dict(zip((stops - 1).tolist(), finals * times, strict=True))
    shown, first = np.concatenate([columns["observation"]] * times), np.repeat(stops - lengths, lengths)
    return Frames(shown, source, found[0], found[1], found[2], found[3], first, last)


def _final(trajectory: Trajectory) -> NDArray[Any]:
    assert trajectory.final_observation is not None
    return np.asarray(trajectory.final_observation)


def _record(place: Path, count: int) -> str:
    """Record so many steps of each game; where the frames come from."""
    if importlib.util.find_spec("ale_py") is None or importlib.util.find_spec("cv2") is None:
        _generate(place, count * len(GAMES))
        return "generated frames (ale-py and opencv-python-headless are not installed)"
    from replaystore.gymnasium import Record

    buffer = None
    for game in GAMES:
        env = _game(game)
        if buffer is None:
            buffer = rs.create(place, env)
        env = Record(env, buffer, info=False)
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(count):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        env.close()
    assert buffer is not None
    buffer.close()
    return ", ".join(game.partition("/")[2] for game in GAMES)


def _game(name: str) -> Any:
    import ale_py
    import gymnasium
    from gymnasium.wrappers import AtariPreprocessing

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)
    return AtariPreprocessing(gymnasium.make(name, frameskip=1, full_action_space=True))


def _generate(place: Path, count: int) -> None:
    schema = rs.Schema(
        {
            "observation": rs.Field(np.uint8, SHAPE, "observation"),
            "action": rs.Field(np.int64, (), "action"),
            "reward": rs.Field(np.float64, (), "reward"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
            "truncated": rs.Field(np.bool_, (), "truncated"),
        }
    )
    no = np.zeros(1, np.bool_)
    with rs.create(place, schema) as buffer:
        writer = buffer.writer()
        writer.reset(frames(0, 1))
        for step in range(count):
            ended = (step + 1) % EPISODE == 0
            writer.step(np.array([step % 6]), np.zeros(1), no ^ ended, no, frames(step + 1, 1))
            if ended:
                writer.reset(frames(step + 1, 1))


def drawn(sampler: Sampler) -> Iterator[tuple[dict[str, Any], NDArray[np.int64]]]:
    """Batches, and the rows that each was made of."""
    while True:
        batch = sampler.sample()
        yield batch, batch["index"]
