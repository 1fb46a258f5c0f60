"""Writing: whole rollouts, single vector steps, and commits that are safe."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import Context, Result, check, interleaved, ratio, remove, skipped
from measuring.data import FIELDS, Columns, cheetah_steps, schema, vector_steps

import replaystore as rs
from store_measures import peers

__all__ = ["append", "commit", "step"]

ROLLOUT = 2048


def append(context: Context) -> list[Result]:
    """Rollouts of 2048 steps, appended one after the other."""
    what = f"append rollouts of {ROLLOUT} steps"
    columns, source = cheetah_steps(4 * ROLLOUT)
    starts = range(0, 4 * ROLLOUT, ROLLOUT)
    rollouts = [{name: rows[start : start + ROLLOUT] for name, rows in columns.items()} for start in starts]
    many, few = 256, context.choose(16, 8)
    context.say(f"{what}: {many} of them, {source}")
    folder = context.folder
    variants: dict[str, Callable[[], float]] = {
        "file.write": lambda: peers.plain_files(folder, rollouts, many),
        "replaystore, Zarr": lambda: _append(folder / "ours.zarr", rollouts, many),
        "replaystore, HDF5": lambda: _append(folder / "ours.h5", rollouts, many),
    }
    variants |= {
        name: lambda measure=measure: measure(folder, rollouts, many) for name, measure in peers.QUICK.items()
    }
    variants |= {
        name: lambda measure=measure: measure(folder, rollouts, few) for name, measure in peers.SLOW.items()
    }
    torchrl = peers.TorchRL(context.torchrl, folder, rollouts)
    if torchrl.reason is None:
        variants["TorchRL LazyMemmapStorage.extend"] = lambda: torchrl.extend(many)
    try:
        seconds = interleaved(variants, context.choose(9, 3))
    finally:
        torchrl.close()
    plain = statistics.median(seconds["file.write"]) / ROLLOUT * 1e6
    results = [
        Result(
            what,
            "file.write, one file for each field",
            1.0,
            "x",
            detail=(f"{plain:.3f} us a step; the reference"),
        )
    ]
    targets = {"replaystore, Zarr": 2.5, "replaystore, HDF5": 6.0}
    for name in list(variants)[1:]:
        per_step = statistics.median(seconds[name]) / ROLLOUT * 1e6
        results.append(
            Result(
                what,
                name,
                ratio(seconds, name, "file.write"),
                "x",
                targets.get(name),
                detail=f"{per_step:.3f} us a step",
            )
        )
    if torchrl.reason is not None:
        results.append(skipped(what, "TorchRL LazyMemmapStorage.extend", torchrl.reason))
    return results


def _append(place: Path, rollouts: list[Columns], count: int) -> float:
    """Seconds a rollout."""
    with rs.create(place, schema(), durability="none") as buffer:
        begin = time.perf_counter()
        for number in range(count):
            buffer.append(rollouts[number % len(rollouts)])
        taken = time.perf_counter() - begin
        buffer.commit()
        peers.compare(buffer.read(slice(None)), rollouts, count, str(place))
    remove(place)
    return taken / count


def step(context: Context) -> list[Result]:
    """One step of 8 environments."""
    what, num_envs = "one step of 8 environments", 8
    columns, _ = cheetah_steps(num_envs * 256)
    columns["truncated"][:] = False
    # The same few steps again and again: an environment's arrays have just been written, too, and are in the
    # processor's cache.
    steps = vector_steps(columns, num_envs) * 32
    last = list(steps[-1])
    last[3] = ~last[3]
    steps[-1] = tuple(last)
    context.say(f"{what}: {len(steps)} of them")
    # Touched, so that it exists.
    room = {name: np.ones((len(steps), num_envs, *shape), dtype) for name, (dtype, shape) in FIELDS.items()}

    def reference() -> float:
        observations, actions, rewards = room["observation"], room["action"], room["reward"]
        ended, cut = room["terminated"], room["truncated"]
        begin = time.perf_counter()
        for number, (action, reward, terminated, truncated, observation) in enumerate(steps):
            observations[number] = observation
            actions[number] = action
            rewards[number] = reward
            ended[number] = terminated
            cut[number] = truncated
        return (time.perf_counter() - begin) / len(steps)

    stores = {
        "replaystore, Zarr": _Stepping(context.folder / "steps.zarr", steps),
        "replaystore, HDF5": _Stepping(context.folder / "steps.h5", steps),
    }
    memmap = {"np.memmap": lambda: peers.memmap_steps(context.folder, steps)}
    seconds = interleaved(
        {"NumPy": reference, **{name: store.run for name, store in stores.items()}, **memmap},
        context.choose(15, 5),
    )
    for store in stores.values():
        store.close()
    micro = {name: statistics.median(values) * 1e6 for name, values in seconds.items()}
    results = [
        Result(
            what,
            "copies into preallocated NumPy arrays",
            1.0,
            "x",
            detail=f"{micro['NumPy']:.2f} us; the reference",
        )
    ]
    for name, target in (("replaystore, Zarr", 2.0), ("replaystore, HDF5", 2.0), ("np.memmap", None)):
        results.append(
            Result(
                what,
                name,
                ratio(seconds, name, "NumPy"),
                "x",
                target,
                detail=f"{micro[name]:.2f} us, writing included",
            )
        )
    return results


class _Stepping:
    """A buffer that is given the same steps in each round; each round ends all trajectories."""

    def __init__(self, place: Path, steps: list[tuple[np.ndarray, ...]]) -> None:
        self._place, self._steps, self._rounds = place, steps, 0
        self._buffer = rs.create(place, schema(), durability="none")
        self._writer = self._buffer.writer(len(steps[0][1]))
        self._writer.reset(steps[-1][4])

    def run(self) -> float:
        """Seconds a step, with everything but the commit."""
        writer = self._writer
        begin = time.perf_counter()
        for action, reward, terminated, truncated, observation in self._steps:
            writer.step(action, reward, terminated, truncated, observation)
        writer.flush()
        taken = time.perf_counter() - begin
        self._buffer.commit()
        self._rounds += 1
        return taken / len(self._steps)

    def close(self) -> None:
        """Compare the trajectories with the steps."""
        steps, place = self._steps, str(self._place)
        wanted = {
            name: np.stack([one[at] for one in steps])
            for at, name in enumerate(("action", "reward", "terminated", "truncated"))
        }
        wanted["observation"] = np.stack([steps[-1][4], *(one[4] for one in steps[:-1])])
        self._writer.close()
        self._buffer.commit()
        num_envs = len(steps[0][1])
        check(self._buffer.num_trajectories == self._rounds * num_envs, place, "trajectories")
        for number in range(self._buffer.num_trajectories):
            trajectory = self._buffer.trajectory(number)
            for name in FIELDS:
                check(np.array_equal(trajectory[name], wanted[name][:, trajectory.info["env"]]), place, name)
        self._buffer.close()
        remove(self._place)


def commit(context: Context) -> list[Result]:
    """Commits of 64 rows that survive a power cut."""
    what, rows = "commit of 64 rows x 5 fields, synced", 64
    columns, _ = cheetah_steps(rows)
    times: dict[str, list[float]] = {"bare": [], "replaystore, Zarr": [], "replaystore, HDF5": []}
    places = {
        "replaystore, Zarr": context.folder / "commits.zarr",
        "replaystore, HDF5": context.folder / "commits.h5",
    }
    buffers = {name: rs.create(place, schema()) for name, place in places.items()}
    bare = os.open(context.folder / "bare", os.O_RDWR | os.O_CREAT)
    data = b"".join(values.tobytes() for values in columns.values())
    count = context.choose(300, 60)
    context.say(f"{what}: {count} of them")
    for number in range(count + 10):
        begin = time.perf_counter()
        os.pwrite(bare, data, number * (len(data) + 512))
        os.fdatasync(bare)
        os.pwrite(bare, data[:512], number * (len(data) + 512) + len(data))
        os.fdatasync(bare)
        times["bare"].append(time.perf_counter() - begin)
        for name, buffer in buffers.items():
            begin = time.perf_counter()
            buffer.append(columns)
            buffer.commit()
            times[name].append(time.perf_counter() - begin)
    os.close(bare)
    results = []
    for name, all_seconds in times.items():
        seconds = all_seconds[10:]
        middle, tail = statistics.median(seconds) * 1e3, f"p95 {np.percentile(seconds, 95) * 1e3:.2f} ms"
        if name == "bare":
            results.append(Result(what, "one file, written and synced twice", middle, "ms", detail=tail))
        else:
            results.append(Result(what, name, middle, "ms", 3.0, detail=f"{tail}; append included"))
    for name, buffer in buffers.items():
        peers.compare(buffer.read(slice(None)), [columns], count + 10, name)
        buffer.close()
        remove(places[name])
    os.unlink(context.folder / "bare")
    return results
