"""The same rollouts written by other means. Each function returns the seconds that a rollout took, and checks
what it wrote.

How each is used is how its documentation shows it; chunk sizes are the ones that suit it, not ours.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from measuring import check
from measuring.data import FIELDS, Columns
from numpy.typing import NDArray

__all__ = ["QUICK", "SLOW", "TorchRL", "compare", "memmap_steps", "plain_files"]

WORKER = Path(__file__).with_name("torchrl_worker.py")


def compare(found: Columns, rollouts: list[Columns], count: int, where: str) -> None:
    """`found` holds the first `count` rollouts, taken in turn."""
    for name in FIELDS:
        wanted = np.concatenate([rollouts[number % len(rollouts)][name] for number in range(count)])
        check(np.array_equal(found[name], wanted), where, name)


def plain_files(folder: Path, rollouts: list[Columns], count: int) -> float:
    files = {name: open(folder / f"{name}.bin", "wb") for name in FIELDS}  # noqa: SIM115  # closed when the time is taken
    begin = time.perf_counter()
    for number in range(count):
        for name, rows in rollouts[number % len(rollouts)].items():
            files[name].write(rows.data)
    taken = time.perf_counter() - begin
    found = {}
    for name, (dtype, shape) in FIELDS.items():
        files[name].close()
        found[name] = np.fromfile(folder / f"{name}.bin", dtype).reshape(-1, *shape)
        os.unlink(folder / f"{name}.bin")
    compare(found, rollouts, count, "file.write")
    return taken / count


def memmap(folder: Path, rollouts: list[Columns], count: int) -> float:
    size = len(rollouts[0]["reward"])
    arrays = _memmaps(folder, size * count)
    begin = time.perf_counter()
    for number in range(count):
        for name, rows in rollouts[number % len(rollouts)].items():
            arrays[name][number * size : (number + 1) * size] = rows
    taken = time.perf_counter() - begin
    compare(arrays, rollouts, count, "np.memmap")
    _remove_memmaps(folder, arrays)
    return taken / count


def memmap_steps(folder: Path, steps: list[tuple[NDArray[Any], ...]]) -> float:
    """Seconds a vector step."""
    num_envs = len(steps[0][1])
    arrays = _memmaps(folder, len(steps) * num_envs)
    observations, actions, rewards = arrays["observation"], arrays["action"], arrays["reward"]
    ended, cut = arrays["terminated"], arrays["truncated"]
    begin = time.perf_counter()
    for number, (action, reward, terminated, truncated, observation) in enumerate(steps):
        mine = slice(number * num_envs, (number + 1) * num_envs)
        observations[mine] = observation
        actions[mine] = action
        rewards[mine] = reward
        ended[mine] = terminated
        cut[mine] = truncated
    taken = time.perf_counter() - begin
    check(np.array_equal(observations, np.concatenate([one[4] for one in steps])), "np.memmap", "observation")
    _remove_memmaps(folder, arrays)
    return taken / len(steps)


def _memmaps(folder: Path, rows: int) -> dict[str, NDArray[Any]]:
    return {
        name: np.memmap(folder / f"{name}.map", dtype, "w+", shape=(rows, *shape))
        for name, (dtype, shape) in FIELDS.items()
    }


def _remove_memmaps(folder: Path, arrays: dict[str, NDArray[Any]]) -> None:
    for name in list(arrays):
        del arrays[name]
        os.unlink(folder / f"{name}.map")


def save_at_end(folder: Path, rollouts: list[Columns], count: int) -> float:
    """Kept in memory, written by np.save when all are there."""
    begin = time.perf_counter()
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in FIELDS}
    for number in range(count):
        for name, rows in rollouts[number % len(rollouts)].items():
            kept[name].append(rows.copy())
    for name, pieces in kept.items():
        np.save(folder / f"{name}.npy", np.concatenate(pieces))
    taken = time.perf_counter() - begin
    compare({name: np.load(folder / f"{name}.npy") for name in FIELDS}, rollouts, count, "np.save")
    for name in FIELDS:
        os.unlink(folder / f"{name}.npy")
    return taken / count


def pickle_at_end(folder: Path, rollouts: list[Columns], count: int) -> float:
    """Kept in memory, pickled when all are there."""
    begin = time.perf_counter()
    kept = [
        {name: rows.copy() for name, rows in rollouts[number % len(rollouts)].items()}
        for number in range(count)
    ]
    with open(folder / "all.pickle", "wb") as file:
        pickle.dump(kept, file, protocol=5)
    taken = time.perf_counter() - begin
    found = pickle.loads((folder / "all.pickle").read_bytes())  # noqa: S301  # written above
    compare(
        {name: np.concatenate([one[name] for one in found]) for name in FIELDS}, rollouts, count, "pickle"
    )
    os.unlink(folder / "all.pickle")
    return taken / count


def h5py_append(folder: Path, rollouts: list[Columns], count: int) -> float:
    """resize and write, chunks of 4096 rows."""
    size = len(rollouts[0]["reward"])
    with h5py.File(folder / "peer.h5", "w") as file:
        arrays = {
            name: file.create_dataset(
                name, (0, *shape), dtype, chunks=(4096, *shape), maxshape=(None, *shape)
            )
            for name, (dtype, shape) in FIELDS.items()
        }
        begin = time.perf_counter()
        for number in range(count):
            for name, rows in rollouts[number % len(rollouts)].items():
                array = arrays[name]
                array.resize((number + 1) * size, axis=0)
                array[number * size :] = rows
        taken = time.perf_counter() - begin
        compare({name: array[:] for name, array in arrays.items()}, rollouts, count, "h5py")
    os.unlink(folder / "peer.h5")
    return taken / count


def zarr_append(folder: Path, rollouts: list[Columns], count: int) -> float:
    """Array.append, chunks of 4096 rows, each a file."""
    return _zarr_append(folder, rollouts, count, sharded=False)


def zarr_append_sharded(folder: Path, rollouts: list[Columns], count: int) -> float:
    """Array.append, chunks of 4096 rows, 16 in a shard."""
    return _zarr_append(folder, rollouts, count, sharded=True)


def _zarr_append(folder: Path, rollouts: list[Columns], count: int, *, sharded: bool) -> float:
    group = zarr.open_group(folder / "peer.zarr", mode="w")
    arrays = {}
    for name, (dtype, shape) in FIELDS.items():
        shards = (65536, *shape) if sharded else None
        arrays[name] = group.create_array(
            name,
            shape=(0, *shape),
            dtype=np.dtype(dtype).name,
            chunks=(4096, *shape),
            shards=shards,
            compressors=None,
        )
    begin = time.perf_counter()
    for number in range(count):
        for name, rows in rollouts[number % len(rollouts)].items():
            arrays[name].append(rows)
    taken = time.perf_counter() - begin
    compare({name: array[:] for name, array in arrays.items()}, rollouts, count, "zarr-python")
    shutil.rmtree(folder / "peer.zarr")
    return taken / count


QUICK: dict[str, Callable[[Path, list[Columns], int], float]] = {
    "np.memmap": memmap,
    "np.save at the end": save_at_end,
    "pickle at the end": pickle_at_end,
    "h5py append": h5py_append,
}
SLOW: dict[str, Callable[[Path, list[Columns], int], float]] = {
    "zarr-python append": zarr_append,
    "zarr-python append, sharded": zarr_append_sharded,
}
"""These are given fewer rollouts, which is to the advantage of the sharded one: it rewrites a shard with each
append."""


class TorchRL:
    """TorchRL in a process of its own: it takes seconds to import, and may be installed for another
    interpreter."""

    def __init__(self, python: str, folder: Path, rollouts: list[Columns]) -> None:
        self.reason: str | None = None
        """Why it cannot be measured."""
        data = folder / "rollouts.npz"
        np.savez(
            data,
            **{f"{number}/{name}": rows for number, one in enumerate(rollouts) for name, rows in one.items()},
        )
        self._log = folder / "torchrl.log"
        with open(self._log, "w") as log:
            command = [python, str(WORKER), str(data), str(folder / "torchrl")]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if self._read() != "ready":
            self._process.communicate()
            self.reason = self._last_words()
        data.unlink()

    def extend(self, count: int) -> float:
        """Seconds a rollout."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        answer = self._read()
        if not answer:
            raise SystemExit(f"bench store: TorchRL failed: {self._last_words()}")
        return float(answer) / count

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _last_words(self) -> str:
        return (self._log.read_text().strip().splitlines() or ["its process ended"])[-1]

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate()
