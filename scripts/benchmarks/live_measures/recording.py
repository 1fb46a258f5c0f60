"""What recording adds to a loop over environments, with real ends of episodes and infos and a commit every
500 steps; and what a trajectory costs that is appended."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from measuring import Context, Result, check, interleaved, ratio, remove, skipped
from measuring.data import frames

import replaystore as rs
from live_measures.floors import Blocks
from replaystore.gymnasium import RecordVector

__all__ = ["MEASURES"]

ENVS, COMMIT = 8, 500
FLOOR = "written and synced, a bare loop"
"""What has to be done at the least."""


def loops(context: Context) -> list[Result]:
    """CartPole and HalfCheetah, eight at a time, bare and recorded."""
    found = list[Result]()
    for name, limit in (("CartPole-v1", 10.0), ("HalfCheetah-v5", None)):
        try:
            gymnasium.make(name).close()
        except (ImportError, gymnasium.error.Error) as error:
            found.append(skipped(name, "recorded", str(error).splitlines()[0]))
            continue
        found += _recording(context, name, limit)
    return found


def _recording(context: Context, name: str, limit: float | None) -> list[Result]:
    steps, what = context.choose(2000, 300), f"{name} x {ENVS}, a vector step"
    first: dict[str, list[float]] = {variant: [] for variant in ("bare", ".zarr", ".h5")}
    variants: dict[str, Callable[[], float]] = {
        "bare": lambda: _bare(name, steps, first["bare"]),
        "copied into NumPy": lambda: _copied(name, steps),
        "looked at and kept": lambda: _kept(name, steps),
        "written, a bare loop": lambda: _written(context, name, steps, sync=False),
        FLOOR: lambda: _written(context, name, steps, sync=True),
        "recorded, .zarr": lambda: _recorded(context, name, steps, ".zarr", first[".zarr"]),
        "recorded, .h5": lambda: _recorded(context, name, steps, ".h5", first[".h5"]),
    }
    context.say(what)
    seconds = interleaved(variants, context.choose(7, 2))
    middle, found = {variant: statistics.median(each) for variant, each in seconds.items()}, list[Result]()
    added = {
        variant: statistics.median(map(operator.sub, each, seconds["bare"])) / steps * 1e6
        for variant, each in seconds.items()
    }
    for variant in list(variants)[1:]:
        ours = variant.startswith("recorded")
        detail = f"{middle[variant] / steps * 1e6:.1f} µs in all"
        if ours:
            detail += f"; {added[variant] / added[FLOOR]:.1f} times '{FLOOR}'"
        value = round(added[variant], 2)
        found.append(Result(what, f"{variant}: added", value, "µs", limit if ours else None, detail=detail))
    for suffix in (".zarr", ".h5"):
        more = statistics.median(map(operator.sub, first[suffix], first["bare"])) * 1e3
        found.append(Result(what, f"up to the first commit, {suffix}: added", round(more, 2), "ms"))
    return found


def _loop(
    env: Any, steps: int, each: Callable[..., object] = lambda *_: None, first: list[float] | None = None
) -> float:
    """Seconds of so many vector steps, with actions that were drawn before; behind those up to the first
    commit, in which the fields of infos are made: what these take is put to `first`."""
    steps, first = steps + COMMIT, [] if first is None else first
    rng = np.random.default_rng(0)
    space = env.single_action_space
    if hasattr(space, "n"):
        actions = rng.integers(0, space.n, (steps, ENVS))
    else:
        actions = rng.uniform(-1, 1, (steps, ENVS, *space.shape)).astype(space.dtype)
    env.reset(seed=0)
    begin = time.perf_counter()
    for number, action in enumerate(actions):
        if number == COMMIT:
            first.append(time.perf_counter() - begin)
            begin = time.perf_counter()
        each(action, *env.step(action))
    return time.perf_counter() - begin


def _bare(name: str, steps: int, first: list[float]) -> float:
    env = gymnasium.make_vec(name, num_envs=ENVS, vectorization_mode="sync")
    taken = _loop(env, steps, first=first)
    env.close()
    return taken


def _copied(name: str, steps: int) -> float:
    """The same columns into arrays that are there, infos and their masks included."""
    rooms, place = dict[str, Any](), 0

    def copy(columns: dict[str, Any]) -> None:
        nonlocal place
        for key, value in columns.items():
            room = rooms.get(key)
            if room is None:
                room = rooms[key] = np.zeros((steps + COMMIT, *np.shape(value)), np.asarray(value).dtype)
            room[place] = value
        place += 1

    return _by_columns(name, steps, copy)


def _kept(name: str, steps: int) -> float:
    """What has to be done in Python, at the least: the dtype and shape of each column compared, its bytes
    kept."""
    known, kept = dict[str, tuple[Any, ...]](), dict[str, list[bytes]]()

    def keep(columns: dict[str, Any]) -> None:
        for key, value in columns.items():
            if key not in known:
                known[key], kept[key] = (value.dtype, value.shape), []
            assert (value.dtype, value.shape) == known[key]
            kept[key].append(value.tobytes())

    return _by_columns(name, steps, keep)


def _by_columns(name: str, steps: int, take: Callable[[dict[str, Any]], None]) -> float:
    env = gymnasium.make_vec(name, num_envs=ENVS, vectorization_mode="sync")

    def each(action: Any, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        take({"o": observation, "a": action, "r": reward, "t": terminated, "u": truncated, **info})

    taken = _loop(env, steps, each)
    env.close()
    return taken


def _written(context: Context, name: str, steps: int, *, sync: bool) -> float:
    """As recorded, by a loop that only copies, writes and syncs."""
    env = gymnasium.make_vec(name, num_envs=ENVS, vectorization_mode="sync")
    place = context.folder / "written"
    blocks = Blocks(place, COMMIT, sync=sync)
    seen = np.zeros(env.observation_space.shape, env.observation_space.dtype)

    def each(action: Any, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> None:
        nonlocal seen
        ended = terminated | truncated
        columns = {"o": seen, "a": action, "r": reward, "t": terminated, "u": truncated, **info}
        blocks.put(columns, observation, ended)
        seen = observation

    taken = _loop(env, steps, each)
    blocks.close()
    env.close()
    remove(place)
    return taken


def _recorded(context: Context, name: str, steps: int, suffix: str, first: list[float]) -> float:
    env = gymnasium.make_vec(name, num_envs=ENVS, vectorization_mode="sync")
    place = context.folder / f"recorded{suffix}"
    with rs.create(place, env) as buffer:
        taken = _loop(RecordVector(env, buffer, commit_every=COMMIT), steps, first=first)
        buffer.commit()
        check(int(buffer.trajectories["length"].sum()) == len(buffer), str(place), "lengths")
    env.close()
    remove(place)
    return taken


FIELDS = {
    "observation": rs.Field("float32", (4,), "observation"),
    "action": rs.Field("int64", (), "action"),
    "reward": rs.Field("float64", (), "reward"),
    "terminated": rs.Field("bool", (), "terminated"),
    "truncated": rs.Field("bool", (), "truncated"),
}


def steps_of_a_writer(context: Context) -> list[Result]:
    """One vector step of eight environments, staged; flushed; with an end in it; committed without syncs."""
    count, found = context.choose(1000, 100), list[Result]()
    observation, action = np.random.default_rng(0).random((ENVS, 4), np.float32), np.zeros(ENVS, np.int64)
    reward, no, one = np.ones(ENVS), np.zeros(ENVS, np.bool_), np.arange(ENVS) == 3
    for suffix in (".zarr", ".h5"):
        with rs.create(context.folder / f"steps{suffix}", rs.Schema(FIELDS), durability="none") as buffer:
            writer = buffer.writer(ENVS)
            writer.reset(observation)

            def step(terminated: Any, after: Callable[[], object], writer: Any = writer) -> float:
                begin = time.perf_counter()
                for _ in range(count):
                    writer.step(action, reward, terminated, no, observation)
                    if terminated is one:
                        writer.reset(observation, mask=one)
                    after()
                return time.perf_counter() - begin

            variants = {
                "staged": lambda: step(no, lambda: None),
                "staged, an end in each": lambda: step(one, lambda: None),
                "flushed": lambda: step(no, writer.flush),  # noqa: B023
                "flushed, an end in each": lambda: step(one, writer.flush),  # noqa: B023
                "committed": lambda: step(no, buffer.commit),
            }
            seconds = interleaved(variants, context.choose(7, 2))
        for variant, each in seconds.items():
            value = round(statistics.median(each) / count * 1e6, 2)
            found.append(Result(f"one step of {ENVS} environments, {suffix}", variant, value, "µs"))
    return found


def trajectories(context: Context) -> list[Result]:
    """Appended in one call, and one by one."""
    many, few = context.choose(100_000, 5000), context.choose(2000, 100)
    rows = {name: np.zeros((2 * many, *field.shape), field.dtype) for name, field in FIELDS.items()}
    rows["terminated"][1::2] = True
    finals, single = np.zeros((many, 4), np.float32), {name: values[:2] for name, values in rows.items()}
    together, alone = list[float](), list[float]()
    for number in range(context.choose(5, 1)):
        place = context.folder / f"many{number}.zarr"
        with rs.create(place, rs.Schema(FIELDS), durability="none") as buffer:
            begin = time.perf_counter()
            buffer.append(rows, final_observation=finals)
            together.append((time.perf_counter() - begin) / many * 1e6)
            begin = time.perf_counter()
            for _ in range(few):
                buffer.append(single, final_observation=finals[0])
            alone.append((time.perf_counter() - begin) / few * 1e6)
            buffer.commit()
            check(len(buffer.trajectories) == many + few, str(place), "trajectories")
        remove(place)
    what = "a trajectory of 2 steps, appended"
    return [
        Result(what, f"{many} in one call", round(statistics.median(together), 2), "µs", 1.5),
        Result(what, "one call each", round(statistics.median(alone), 2), "µs"),
    ]


def pictures(context: Context) -> list[Result]:
    """Frames of 84 x 84 pixels that move, of eight environments."""
    count = context.choose(1500, 100)
    shown = frames(count, ENVS)
    fields = FIELDS | {"observation": rs.Field("uint8", shown.shape[2:], "observation")}
    action, reward, no = np.zeros(ENVS, np.int64), np.ones(ENVS), np.zeros(ENVS, np.bool_)
    sizes = dict[str, int]()

    def record(suffix: str) -> float:
        place = context.folder / f"frames{suffix}"
        with rs.create(place, rs.Schema(fields)) as buffer:
            writer = buffer.writer(ENVS)
            writer.reset(shown[0])
            begin = time.perf_counter()
            for number, frame in enumerate(shown):
                writer.step(action, reward, no, no, frame)
                if number % COMMIT == COMMIT - 1:
                    buffer.commit()
            buffer.commit()
            taken = time.perf_counter() - begin
        sizes[suffix] = sum(file.stat().st_size for file in _files(place))
        remove(place)
        return taken

    seconds = interleaved({s: lambda s=s: record(s) for s in (".zarr", ".h5")}, context.choose(3, 1))  # type: ignore[misc]
    what = f"frames x {ENVS}, a vector step"
    for suffix, each in seconds.items():
        context.say(
            f"{what}, {suffix}: {statistics.median(each) / count * 1e6:.0f} µs, {sizes[suffix]} bytes"
        )
    slower = round(ratio(seconds, ".h5", ".zarr"), 2)
    return [
        Result(what, "HDF5, to Zarr", slower, "x", 2.0, detail=f"{sizes['.h5']} and {sizes['.zarr']} bytes")
    ]


def _files(place: Any) -> list[Any]:
    return [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]


MEASURES = {
    "recording": loops,
    "recording-steps": steps_of_a_writer,
    "recording-trajectories": trajectories,
    "recording-frames": pictures,
}
