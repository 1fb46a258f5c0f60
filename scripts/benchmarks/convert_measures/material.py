"""Stores that are written to files of other software, and the real libraries' own ways to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import replaystore as rs

__all__ = ["READERS", "Reader", "episodes"]

Reader = Callable[[Path], int]
"""Reads all of a file with the library that it is of, as its users do: arrays in memory, and of formats that
are flat arrays slices of them for each trajectory; how many steps there were."""


def episodes(place: Path, count: int, length: int) -> Path:
    """A store of so many episodes of so many steps of a small environment, made at `place` with the suffix
    .zarr; what is there is taken as it is."""
    store = place.with_suffix(".zarr")
    if store.exists():
        return store
    import gymnasium

    rng = np.random.default_rng(0)
    environment = gymnasium.make("CartPole-v1")
    with rs.create(store, environment) as buffer:
        total, step = count * length, max(1, (1 << 20) // length)
        for start in range(0, count, step):
            many = min(step, count - start) * length
            ends = np.arange(length - 1, many, length)
            terminated = np.zeros(many, np.bool_)
            terminated[ends] = True
            buffer.append(
                {
                    "observation": rng.normal(size=(many, 4)).astype(np.float32),
                    "action": rng.integers(0, 2, many),
                    "reward": np.ones(many, buffer.schema.fields["reward"].dtype),
                    "terminated": terminated,
                    "truncated": np.zeros(many, np.bool_),
                },
                ends=ends,
                final_observation=rng.normal(size=(len(ends), 4)).astype(np.float32),
            )
            buffer.commit()
        if len(buffer) != total:
            raise SystemExit("bench: the store has not the steps that were written")
    return store


def _cut(read: Mapping[str, Any], stops: NDArray[np.int64]) -> int:
    """Arrays of all steps as arrays of each trajectory, which is what we give: slices, nothing is copied."""
    found = begin = 0
    for stop in stops.tolist():
        piece = slice(begin, stop)
        found += len({name: values[piece] for name, values in read.items()}["actions"])
        begin = stop
    return found


def _cut_at_flags(read: Mapping[str, Any]) -> int:
    steps = {name: values for name, values in read.items() if len(values) == len(read["actions"])}
    return _cut(steps, np.flatnonzero(steps["terminals"] | steps["timeouts"]) + 1)


def _minari(path: Path) -> int:
    import minari

    data = minari.MinariDataset(path / "data")
    return sum(len(episode.rewards) for episode in data.iterate_episodes())


def _d4rl(path: Path) -> int:
    import h5py

    with h5py.File(path) as file:  # as `get_dataset` does it
        data = {name: file[name][:] for name in file if isinstance(file[name], h5py.Dataset)}
    return _cut_at_flags(data)


def _robomimic(path: Path) -> int:
    import h5py

    found = 0
    with h5py.File(path) as file:  # as SequenceDataset.load_dataset_in_memory does it
        for demo in file["data"].values():
            read = {
                "obs": {key: values[()] for key, values in demo["obs"].items()},
                **{key: demo[key][()] for key in ("actions", "rewards", "dones")},
            }
            found += len(read["actions"])
    return found


def _tianshou(path: Path) -> int:
    from tianshou.data import ReplayBuffer

    return len(ReplayBuffer.load_hdf5(str(path)))


def _d3rlpy(path: Path) -> int:
    from d3rlpy.dataset import InfiniteBuffer, ReplayBuffer

    with path.open("rb") as file:
        return int(ReplayBuffer.load(file, InfiniteBuffer()).transition_count)


def _sb3(path: Path) -> int:
    from stable_baselines3.common.save_util import load_from_pkl

    buffer: Any = load_from_pkl(path)
    return int(buffer.size() * buffer.n_envs)


def _torchrl(path: Path) -> int:
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

    (capacity, *_) = json.loads((path / "storage" / "meta.json").read_text())["shape"]
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(capacity))
    buffer.loads(path)
    return len(buffer[:])


def _tfds(path: Path) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(str(path))
    found = 0
    for split in builder.info.splits:
        for episode in tensorflow_datasets.as_numpy(builder.as_dataset(split=split)):
            found += sum(1 for _ in episode["steps"])
    return found


def _lerobot(path: Path) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("bench/data", root=path)
    data.hf_dataset.with_format("numpy")[:]
    return len(data)


def _diffusion_policy(path: Path) -> int:
    import zarr

    group: Any = zarr.open_group(str(path), mode="r")
    read = {name: array[:] for name, array in group["data"].arrays()}
    return len(next(iter(read.values())))


def _npz(path: Path) -> int:
    with np.load(path) as file:
        read = {name: file[name] for name in file.files}
    return _cut_at_flags(read)


def _pickled(path: Path) -> int:
    import pickle

    with path.open("rb") as file:
        read = pickle.load(file)  # noqa: S301  # we wrote it
    return _cut_at_flags(read)


def _parquet(path: Path) -> int:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    for column in table.columns:
        column.combine_chunks().to_numpy(zero_copy_only=False)
    return int(table.num_rows)


READERS: dict[str, tuple[str, Reader]] = {
    "minari": ("minari-v0", _minari),
    "minari_arrow": ("minari_arrow-v0", _minari),
    "minari_parquet": ("minari_parquet-v0", _minari),
    "d4rl": ("d4rl.hdf5", _d4rl),
    "robomimic": ("robomimic.hdf5", _robomimic),
    "tianshou": ("tianshou.hdf5", _tianshou),
    "d3rlpy": ("d3rlpy.h5", _d3rlpy),
    "sb3": ("sb3.pkl", _sb3),
    "torchrl": ("torchrl", _torchrl),
    "rlds": ("rlds/1.0.0", _tfds),
    "lerobot": ("lerobot", _lerobot),
    "diffusion_policy": ("diffusion.zarr", _diffusion_policy),
    "npz": ("data.npz", _npz),
    "pickled_dict": ("data.dict.pkl", _pickled),
    "parquet": ("data.parquet", _parquet),
}
"""For each format what its file is called, and how its own library reads it."""
