"""What a buffer in files has to do at the least, in Python and NumPy: loops that copy, write with `pwrite`,
and take checksums. They check nothing and have no commits, so that nobody could read what a kill leaves: what
ours takes beyond them is the price of that, and of what could be better."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import extend
from numpy.typing import NDArray

__all__ = ["Blocks", "Written"]


class File:
    """Bytes that are added to a file, and their checksum."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        self._size = self._checksum = 0

    def add(self, values: NDArray[Any]) -> None:
        """Write values behind those that there are."""
        data = values.reshape(-1).view(np.uint8)
        self._size += os.pwrite(self._descriptor, data.data, self._size)
        self._checksum = extend(self._checksum, data)

    def sync(self) -> None:
        """Bring it to the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Be done with it."""
        os.close(self._descriptor)


class Blocks:
    """Columns of vector steps, kept until a block of steps is full, a file for each.

    Steps in which an environment was only reset are taken out when a block is written; what was observed last
    in a trajectory is kept beside it."""

    def __init__(self, folder: Path, steps: int, *, sync: bool) -> None:
        folder.mkdir()
        self._folder, self._steps, self._sync = folder, steps, sync
        self._rooms: dict[str, NDArray[Any]] = {}
        self._files: dict[str, File] = {}
        self._place = 0
        self._finals: list[NDArray[Any]] = []
        self._reset: NDArray[np.bool_] | None = None
        self._left_out: list[tuple[int, NDArray[np.bool_]]] = []
        """Steps, and in which environments they were a reset."""

    def put(self, columns: Mapping[str, Any], observation: Any, ended: NDArray[np.bool_]) -> None:
        """A step: columns, and what was observed after it."""
        place, rooms = self._place, self._rooms
        for name, value in columns.items():
            room = rooms.get(name)
            if room is None:
                room = rooms[name] = np.zeros((self._steps, *value.shape), value.dtype)
                self._files[name] = File(self._folder / str(len(self._files)))
            room[place] = value
        if self._reset is not None:
            self._left_out.append((place, self._reset))
            self._reset = None
        if ended.any():
            self._finals.append(observation[ended])
            self._reset = ended
        self._place = place + 1
        if self._place == self._steps:
            self.write()

    def write(self) -> None:
        """Write what there is."""
        recorded: Any = slice(self._place)
        if self._left_out:
            recorded = np.ones((self._place, len(self._left_out[0][1])), np.bool_)
            for place, reset in self._left_out:
                recorded[place] = ~reset
        for name, room in self._rooms.items():
            self._files[name].add(room[: self._place][recorded] if self._left_out else room[: self._place])
        if self._finals:
            self._files.setdefault("finals", File(self._folder / "finals")).add(np.concatenate(self._finals))
        for file in self._files.values() if self._sync else ():
            file.sync()
        self._place = 0
        self._finals, self._left_out = [], []

    def close(self) -> None:
        """Be done with it."""
        for file in self._files.values():
            file.close()


class Written:
    """A ring of arrays that are written to files as well, with what `Ring` draws: each observation is stored
    once, and the next one is that of the next row, or a final one; rows are written before a batch shows
    them."""

    def __init__(self, capacity: int, batch: int, folder: Path) -> None:
        import torch

        folder.mkdir()
        self._tensor, self._batch = torch.from_numpy, batch
        self._rng, self._room, self.count, self._written = np.random.default_rng(0), capacity + 2, 0, 0
        self._columns: dict[str, NDArray[Any]] = {
            "observation": np.zeros((self._room, 4), np.float32),
            "action": np.zeros(self._room, np.int64),
            "reward": np.zeros(self._room, np.float64),
            "terminated": np.zeros(self._room, np.bool_),
            "truncated": np.zeros(self._room, np.bool_),
        }
        self._files = [File(folder / name) for name in (*self._columns, "finals")]
        self._final = np.full(self._room, -1, np.int64)
        self._finals = np.zeros((self._room, 4), np.float32)
        self._ended = 0
        self._capacity = capacity

    def add(self, observation: Any, following: Any, action: Any, reward: Any, terminated: Any) -> None:
        """A step; the next observation may be that of another trajectory."""
        place = self.count % self._room
        values = observation, action, reward, terminated, False
        for column, value in zip(self._columns.values(), values, strict=True):
            column[place] = value
        self._final[place] = -1
        self._columns["observation"][(place + 1) % self._room] = following
        if terminated:
            self._final[place] = at = self._ended % self._room
            self._finals[at] = following
            self._ended += 1
        self.count += 1

    def sample(self) -> Mapping[str, Any]:
        """A batch of tensors."""
        stop = self.count
        first = max(0, stop - self._capacity)
        index = self._rng.integers(first, stop, self._batch)
        if int(index.max()) >= self._written:
            self._write()
        rows = index % self._room
        batch = {name: column.take(rows, axis=0) for name, column in self._columns.items()}
        following = self._columns["observation"].take((index + 1) % self._room, axis=0)
        final = self._final.take(rows)
        at = (final >= 0).nonzero()[0]
        if len(at):
            following[at] = self._finals.take(final[at], axis=0)
        batch |= {"next_observation": following, "index": index}
        return {name: self._tensor(values) for name, values in batch.items()}

    def _write(self) -> None:
        begin, end = self._written % self._room, self.count % self._room
        pieces = [slice(begin, end)] if begin < end else [slice(begin, None), slice(0, end)]
        for file, column in zip(self._files, self._columns.values(), strict=False):
            for piece in pieces:
                file.add(column[piece])
        self._written = self.count

    def close(self) -> None:
        """Be done with it."""
        for file in self._files:
            file.close()
