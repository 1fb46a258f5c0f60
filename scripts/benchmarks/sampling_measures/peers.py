"""Batches of transitions made by other means, each used as its documentation shows.

A reader is given rows; the caller draws them. A sampler draws by itself. Either is made from the same steps
as ours, and raises ImportError if its library is not installed. Readers of Zarr and HDF5 read the files that
this library wrote, uncompressed, but for h5py, which gets a file that suits it better.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from measuring.data import EPISODE, FIELDS, Columns
from numpy.typing import NDArray

from sampling_measures.material import Vectors

__all__ = [
    "CACHE",
    "READERS",
    "SAMPLERS",
    "Reader",
    "memmap",
    "memmaps",
    "rows_of",
    "taken",
    "tensorstore_array",
    "torchrl_storage",
]

Reader = Callable[[NDArray[np.int64]], Mapping[str, NDArray[Any]]]
Sampler = Callable[[], Mapping[str, NDArray[Any]]]

CACHE = 256 << 20
"""Memory for decoded chunks, where a library has such a cache; as much as ours takes."""
EPISODES = 8
"""Minari gives whole episodes: so many for a batch."""


def rows_of(columns: Columns, rows: NDArray[np.int64]) -> Columns:
    """As NumPy gives them."""
    return {name: values[rows] for name, values in columns.items()}


def taken(columns: Columns, rows: NDArray[np.int64]) -> Columns:
    """As NumPy gives them soonest, the next observation too, of rows that have one behind them."""
    found = {name: values.take(rows, axis=0) for name, values in columns.items()}
    return found | {"next_observation": columns["observation"].take(rows + 1, axis=0)}


def memmaps(folder: Path, columns: Columns) -> Columns:
    """The columns, in files of their own."""
    found: Columns = {}
    for name, rows in columns.items():
        path = folder / f"{name}.map"
        rows.tofile(path)
        found[name] = np.memmap(path, rows.dtype, "r", shape=rows.shape)
    return found


def memmap(folder: Path, vectors: Vectors) -> Reader:
    maps = memmaps(folder, vectors.columns)
    return lambda rows: rows_of(maps, rows)


def h5py_sorted(folder: Path, vectors: Vectors) -> Reader:
    """Contiguous datasets; rows must be given in ascending order, each once."""
    file = h5py.File(folder / "peer.h5", "w")
    for name, rows in vectors.columns.items():
        file[name] = rows
    arrays = {name: file[name] for name in FIELDS}

    def read(rows: NDArray[np.int64]) -> Columns:
        distinct, places = np.unique(rows, return_inverse=True)
        return {name: array[distinct][places] for name, array in arrays.items()}

    return read


def zarr_python(_folder: Path, vectors: Vectors) -> Reader:
    return _zarr(vectors)


def zarr_zarrs(_folder: Path, vectors: Vectors) -> Reader:
    """zarr-python with the codecs of zarrs."""
    import zarrs  # noqa: F401

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return _zarr(vectors)


def _zarr(vectors: Vectors) -> Reader:
    arrays = {name: zarr.open_array(vectors.raw / "steps" / name, mode="r") for name in FIELDS}
    return lambda rows: {name: array.oindex[rows] for name, array in arrays.items()}


def tensorstore_array(path: Path) -> Any:
    """An array with a cache; several have one each."""
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "context": {"cache_pool": {"total_bytes_limit": CACHE}},
        "recheck_cached_data": "open",
    }
    return tensorstore.open(spec, read=True).result()


def tensorstore_zarr(_folder: Path, vectors: Vectors) -> Reader:
    arrays = {name: tensorstore_array(vectors.raw / "steps" / name) for name in FIELDS}

    def read(rows: NDArray[np.int64]) -> Columns:
        reading = {name: array[rows].read() for name, array in arrays.items()}
        return {name: future.result() for name, future in reading.items()}

    return read


def torchrl_storage(folder: Path, vectors: Vectors, size: int) -> Any:
    """A replay buffer that gives batches of this size; torch uses one thread, which is quicker for batches so
    small."""
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # else it tells of each storage that it makes
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, ReplayBuffer

    torch.set_num_threads(1)
    count = len(vectors.columns["reward"])
    buffer = ReplayBuffer(
        storage=LazyMemmapStorage(count, scratch_dir=str(folder / "torchrl")), batch_size=size
    )
    buffer.extend(
        TensorDict({name: torch.from_numpy(rows) for name, rows in vectors.columns.items()}, [count])
    )
    return buffer


def torchrl(folder: Path, vectors: Vectors, size: int) -> Sampler:
    buffer = torchrl_storage(folder, vectors, size)
    return lambda: {name: tensor.numpy() for name, tensor in buffer.sample().items() if name in FIELDS}


def stable_baselines3(_folder: Path, vectors: Vectors, size: int) -> Sampler:
    """In memory; it has no separate flag for episodes that were cut off, and stores the next observation."""
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    columns = vectors.columns
    count = len(columns["reward"])
    spaces = [Box(-np.inf, np.inf, FIELDS[name][1], np.float32) for name in ("observation", "action")]
    buffer = ReplayBuffer(count, *spaces, device="cpu")
    buffer.observations[:, 0], buffer.actions[:, 0], buffer.rewards[:, 0] = (
        columns[name] for name in ("observation", "action", "reward")
    )
    buffer.next_observations[:-1, 0] = columns["observation"][1:]
    buffer.dones[:, 0], buffer.full = columns["terminated"], True

    def sample() -> Columns:
        found = buffer.sample(size)
        terminated = found.dones.numpy().reshape(-1) > 0
        names = {
            "observation": found.observations,
            "action": found.actions,
            "reward": found.rewards.reshape(-1),
        }
        return {name: tensor.numpy() for name, tensor in names.items()} | {"terminated": terminated}

    return sample


def minari(folder: Path, vectors: Vectors, size: int) -> Sampler:
    """It gives whole episodes: the batch is taken from a few of them."""
    dataset = minari_dataset(folder, vectors)
    rng = np.random.default_rng(0)

    def sample() -> Columns:
        pieces: list[Columns] = []
        for episode in dataset.sample_episodes(EPISODES):
            rows = rng.integers(0, len(episode), size // EPISODES)
            pieces.append(
                {
                    "observation": episode.observations[rows],
                    "action": episode.actions[rows],
                    "reward": episode.rewards[rows],
                }
            )
            pieces[-1] |= {"terminated": episode.terminations[rows], "truncated": episode.truncations[rows]}
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in FIELDS}

    return sample


def minari_dataset(folder: Path, vectors: Vectors) -> Any:
    """All steps as a dataset of Minari's."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    from gymnasium.spaces import Box
    from minari import create_dataset_from_buffers
    from minari.data_collector import EpisodeBuffer

    columns = vectors.columns
    episodes = []
    for number, start in enumerate(range(0, len(columns["reward"]), EPISODE)):
        rows = slice(start, start + EPISODE)
        shown = columns["observation"][rows]
        episodes.append(
            EpisodeBuffer(
                id=number,
                observations=np.concatenate([shown, shown[:1]]),
                actions=columns["action"][rows],
                rewards=columns["reward"][rows],
                terminations=columns["terminated"][rows],
                truncations=columns["truncated"][rows],
            )
        )
    spaces = {name: Box(-np.inf, np.inf, FIELDS[name][1], np.float32) for name in ("observation", "action")}
    return create_dataset_from_buffers(
        "bench/cheetah-v0",
        episodes,
        observation_space=spaces["observation"],
        action_space=spaces["action"],
        author="",
        description="",
    )


READERS: dict[str, Callable[[Path, Vectors], Reader]] = {
    "h5py": h5py_sorted,
    "zarr-python": zarr_python,
    "zarr-python with zarrs": zarr_zarrs,
    "tensorstore": tensorstore_zarr,
}
SAMPLERS: dict[str, Callable[[Path, Vectors, int], Sampler]] = {
    "TorchRL LazyMemmapStorage": torchrl,
    "Stable-Baselines3, in memory": stable_baselines3,
    f"Minari, of {EPISODES} episodes": minari,
}
