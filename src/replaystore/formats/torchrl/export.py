"""A buffer as the checkpoint of a replay buffer of TorchRL: what `ReplayBuffer.dumps` makes of a storage of
transitions, without its pickles.

| in the folder                          | what it is                                                    |
|----------------------------------------|---------------------------------------------------------------|
| storage/<key>.memmap, meta.json        | a tensor for each field, and one for each `next` observation  |
| storage/next/{reward,done,terminated…} | (steps, 1), as TorchRL has them                               |
| storage/collector/traj_ids             | the number of the trajectory                                  |
| storage/storage_metadata.json, writer/ | how many rows are used, and which is written next             |
| replaystore/                           | what TorchRL has no place for (formats/shared/zarr/kept.py)   |

Files are written one block after another; one of each tensor is open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.blocks import planned_counts
from replaystore.formats.options import Options
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.zarr.kept import NewKept
from replaystore.formats.shared.zarr.writing import FolderSink
from replaystore.formats.source import Block
from replaystore.formats.torchrl.trees import Key, encoded
from replaystore.schema.fields import Field
from replaystore.schema.names import split_path
from replaystore.views.reader import BufferReader

__all__ = ["BATCH_SIZE", "capacity_of", "fill", "keys_of", "unknown_finals"]

BATCH_SIZE = 256
"""What `loads` sets the batch size of a buffer to: a checkpoint has one."""
TENSORDICT = "<class 'tensordict._td.TensorDict'>"
IDS: Key = ("collector", "traj_ids")
FLAGS = ("done", "terminated", "truncated")
TAKEN = frozenset(("next", "collector", "reward", *FLAGS, "observation", "action"))
"""Keys that mean something to TorchRL, where a field of ours does not."""
META = frozenset(("shape", "device", "_type"))
"""What tensordict says of itself beside its keys."""
MOST_OPEN = 256


def keys_of(fields: Mapping[str, Field]) -> dict[str, Key]:
    """Where each field lies in the tensordict."""
    found: dict[str, Key] = {}
    for name, declared in fields.items():
        key = tuple(f"{part}_" if part in META else part for part in split_path(name))
        if declared.role in ("reward", "terminated", "truncated"):
            key = ("next", *key)
        elif key[0] in TAKEN and declared.role not in ("observation", "action"):
            key = ("extra", *key)
        while key in found.values():
            key = ("extra", *key)
        found[name] = key
    return found


def capacity_of(buffer: BufferReader, options: Options) -> int:
    """How many rows the storage has."""
    steps, _ = planned_counts(buffer, options)
    known = buffer.capacity if options.trajectories is None else None
    return max(steps, known or 1)


def unknown_finals(buffer: BufferReader, options: Options) -> int:
    """Of how many trajectories nobody knows what was observed after their last steps."""
    table = buffer.trajectories if options.trajectories is None else options.trajectories
    parts = buffer.parts
    taken = parts.parts_of(table["trajectory"])
    owner = parts.trajectory[taken]
    last = taken[np.append(owner[1:] != owner[:-1], True)[: len(taken)]]
    going = [entry.trajectory for entry in buffer.open_trajectories() if entry.following is not None]
    unknown = (parts.final[last] < 0) & ~np.isin(parts.trajectory[last], going)
    return int(unknown.sum())


def fill(root: str, buffer: BufferReader, options: Options) -> None:
    """Write all files below a folder, which is there."""
    chosen, capacity = Chosen(buffer, options), capacity_of(buffer, options)
    keys, steps = keys_of(chosen.fields), chosen.steps
    with _Tensors(os.path.join(root, "storage"), capacity).opened() as tensors:
        rows = _Rows(tensors, chosen.fields, keys)
        for _, block in chosen.blocks():
            rows.add(block)
    NewKept(FolderSink(root), chosen, finals=False).close({name: list(key) for name, key in keys.items()})
    state = {"metadata": {}, "is_pytree": False, "len": steps}
    _json(root, "storage/storage_metadata.json", state)
    _json(root, "writer/metadata.json", {"cursor": steps % capacity, "write_count": steps})
    _json(root, "buffer_metadata.json", {"batch_size": BATCH_SIZE, "consume_after_n_samples": None})


def _json(root: str, name: str, content: Mapping[str, Any]) -> None:
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


class _Tensors:
    """The files of a tensordict, which are written one behind the other."""

    def __init__(self, root: str, capacity: int) -> None:
        self._root, self._capacity = root, capacity
        self._known: dict[Key, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._files: dict[Key, BinaryIO] = {}
        self._stack = ExitStack()

    @contextmanager
    def opened(self) -> Iterator[_Tensors]:
        """While they are written; in the end they have all their rows, and are described."""
        with self._stack:
            yield self
        self._describe()

    def declare(self, key: Key, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        """A tensor of rows of this shape."""
        self._known[key] = dtype, shape
        os.makedirs(os.path.dirname(self._path(key)), exist_ok=True)
        file = open(self._path(key), "wb")  # noqa: SIM115  # the stack closes it
        if len(self._known) > MOST_OPEN:
            file.close()
            return
        self._files[key] = self._stack.enter_context(file)

    def _path(self, key: Key) -> str:
        return os.path.join(self._root, *map(encoded, key)) + ".memmap"

    def append(self, key: Key, rows: NDArray[Any]) -> None:
        """Write further rows."""
        dtype, _ = self._known[key]
        data = np.ascontiguousarray(rows, dtype).reshape(-1).view(np.uint8).data
        if key in self._files:
            self._files[key].write(data)
            return
        with open(self._path(key), "ab") as file:
            file.write(data)

    def _describe(self) -> None:
        folders: dict[Key, dict[str, Any]] = {(): {}}
        for key, (dtype, shape) in self._known.items():
            whole = [self._capacity, *shape]
            os.truncate(self._path(key), int(np.prod(whole, dtype=np.int64)) * dtype.itemsize)
            for depth in range(1, len(key)):
                folders.setdefault(key[:depth], {})
                folders[key[: depth - 1]][key[depth - 1]] = {"type": "TensorDict"}
            folders[key[:-1]][key[-1]] = {
                "device": "cpu",
                "shape": whole,
                "dtype": f"torch.{dtype.name}",
                "is_nested": False,
            }
        about = {"shape": [self._capacity], "device": "cpu", "_type": TENSORDICT}
        for folder, inside in folders.items():
            name = os.path.join(*map(encoded, folder), "meta.json") if folder else "meta.json"
            _json(self._root, name, {**inside, **about})


class _Rows:
    """Blocks, as rows of the tensors."""

    def __init__(self, tensors: _Tensors, fields: Mapping[str, Field], keys: Mapping[str, Key]) -> None:
        self._tensors, self._keys, self._number = tensors, keys, -1
        self._observed = [name for name, declared in fields.items() if declared.role == "observation"]
        self._zeros = {
            name: np.zeros((1, *fields[name].shape), fields[name].dtype) for name in self._observed
        }
        flags = np.dtype(np.bool_)
        for name, declared in fields.items():
            shape = declared.shape or ((1,) if keys[name][0] == "next" else ())
            tensors.declare(keys[name], declared.dtype, shape)
        for name in self._observed:
            tensors.declare(("next", *keys[name]), fields[name].dtype, fields[name].shape)
        for name in FLAGS:
            tensors.declare((name,), flags, (1,))
            if name not in fields:
                tensors.declare(("next", name), flags, (1,))
        tensors.declare(IDS, np.dtype("<i8"), ())
        self._fields: Collection[str] = fields

    def add(self, block: Block) -> None:
        """Write a block."""
        tensors, columns, count = self._tensors, block.columns, len(block)
        self._number += block.begins
        for name, key in self._keys.items():
            tensors.append(key, columns[name])
        for name in self._observed:
            key, rows = ("next", *self._keys[name]), columns[name]
            if not block.begins:
                tensors.append(key, rows[:1])
            tensors.append(key, rows[1:])
            if block.ends:
                final = None if block.final is None else np.asarray(block.final[name])[None]
                tensors.append(key, self._zeros[name] if final is None else final)
        flags = {}
        for name in ("terminated", "truncated"):
            flags[name] = np.zeros(count, np.bool_)
            if name in self._fields:
                flags[name] = columns[name]
                continue
            flags[name][-1:] = block.ends and bool(getattr(block, name))
            tensors.append(("next", name), flags[name])
        tensors.append(("next", "done"), flags["terminated"] | flags["truncated"])
        for name in FLAGS:
            tensors.append((name,), np.zeros(count, np.bool_))
        tensors.append(IDS, np.full(count, self._number, np.int64))
