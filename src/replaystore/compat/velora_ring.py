"""The ring of velora's buffers: transitions are added to it, and it is saved and loaded, as `velora.py` says,
which draws from it."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch

from replaystore.buffers.buffer import Buffer
from replaystore.compat.checks import checked_device, positive, zeros
from replaystore.compat.memory_ring import TensorRing, field_attribute, is_plain, is_plain_number
from replaystore.compat.resizing import resized
from replaystore.compat.ring_buffer import RingBuffer
from replaystore.compat.saving import Saved, open_ring, store_of
from replaystore.compat.stored import StoredRing
from replaystore.compat.velora_layout import VELORA, state_file
from replaystore.errors import ArgumentError, SchemaError
from replaystore.formats.source import RingSource
from replaystore.formats.velora.pair import KEYS
from replaystore.location import Location, expanded

__all__ = ["FIELDS", "BufferBase"]

FIELDS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")
FILES = (("state", ".safetensors"), ("metadata", ".json"))


class BufferBase(RingBuffer):
    """A ring of `capacity` transitions: of tensors on `device`, or, after `load` from a store, of rows on the
    disk.

    All that `ReplayBuffer` does but `sample`, `warm` and `config`: for buffers of one's own that sample
    otherwise.

    Args:
        capacity: how many newest transitions are kept.
        state_dim, action_dim, hidden_dim: the numbers of components of a state, an action and a hidden state.
        device: where tensors and batches are; None: the CPU.

    Raises:
        SchemaError: a capacity or dimension that is no positive number. UnsupportedError: no such device.
    """

    states = field_attribute("states")
    actions = field_attribute("actions")
    rewards = field_attribute("rewards")
    next_states = field_attribute("next_states")
    dones = field_attribute("dones")
    hiddens = field_attribute("hiddens")

    IN_MEMORY = "load a copy that was saved to a folder"

    def __init__(
        self,
        capacity: int,
        state_dim: int,
        action_dim: int,
        hidden_dim: int,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        self._set_up(capacity, state_dim, action_dim, hidden_dim, device)
        self._ring = TensorRing(zeros(capacity, self._widths, self._device), capacity)

    def _set_up(
        self,
        capacity: int,
        state_dim: int,
        action_dim: int,
        hidden_dim: int,
        device: torch.device | str | None,
    ) -> None:
        given = {
            "capacity": capacity,
            "state_dim": state_dim,
            "action_dim": action_dim,
            "hidden_dim": hidden_dim,
        }
        for name, value in given.items():
            positive(name, value)
        self._device = checked_device(device)
        self.capacity = capacity
        self.state_dim = state_dim
        self.action_dim = action_dim
        self.hidden_dim = hidden_dim
        self.device = device
        self._widths = dict(zip(FIELDS, (state_dim, action_dim, 1, state_dim, 1, hidden_dim), strict=True))
        self._row_shapes = [
            frozenset({(width,), (1, width), (), (1,), (1, 1)}) for width in self._widths.values()
        ]
        self._saved = Saved()

    # --- state

    @property
    def position(self) -> int:
        """The row that is written next."""
        return self._ring.position

    @position.setter
    def position(self, value: int) -> None:
        self._memory("position").position = value

    def __len__(self) -> int:
        return self.size

    def metadata(self) -> dict[str, Any]:
        """What velora writes to buffer_metadata.json."""
        return {name: getattr(self, name) for name in KEYS} | {
            "device": str(self.device) if self.device else None
        }

    def state_dict(self) -> dict[str, Any]:
        """The tensors by name; of a buffer in a store all its rows are read into memory."""
        if isinstance(self._ring, StoredRing):
            return {name: self._ring.tensor(name).materialize() for name in FIELDS}
        return {name: self._ring.tensor(name) for name in FIELDS}

    # --- adding

    def add(
        self,
        state: torch.Tensor,
        action: torch.Tensor | float,
        reward: torch.Tensor | float,
        next_state: torch.Tensor,
        done: torch.Tensor | bool,
        hidden: torch.Tensor | None = None,
    ) -> None:
        """Add one transition; each value must broadcast to its row. `hidden` None: zeros. Torch's errors;
        nothing is added then."""
        if self._set_row((state, action, reward, next_state, done, 0.0 if hidden is None else hidden)):
            return
        float32 = torch.float32
        values = (
            state.to(float32),
            action,
            reward,
            next_state.to(float32),
            done,
            0.0 if hidden is None else hidden,
        )
        rows = self._rows(1)
        for row, value in zip(rows.values(), values, strict=True):
            row[0] = value
        self._ring.append(rows)

    def add_multi(
        self,
        states: torch.Tensor,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        next_states: torch.Tensor,
        dones: torch.Tensor,
        hiddens: torch.Tensor | None = None,
    ) -> None:
        """Add as many transitions as `states` has rows; actions, rewards and dones may have one dimension
        only. `hiddens` None: zeros.

        Torch's errors (hidden states must be float32 already); nothing is added then."""
        if hiddens is not None and self._set_rows((states, actions, rewards, next_states, dones, hiddens)):
            return
        columns = [
            values.unsqueeze(-1) if values.dim() == 1 else values for values in (actions, rewards, dones)
        ]
        plain = (states, columns[0], columns[1], next_states, columns[2])
        values = [value.to(torch.float32) for value in plain]
        rows = self._rows(states.shape[0])
        index = torch.arange(states.shape[0])
        if hiddens is not None:
            values.append(hiddens)
        else:
            rows["hiddens"].zero_()
        for row, value in zip(rows.values(), values, strict=False):
            row[index] = value
        self._ring.append(rows)

    def _set_row(self, values: tuple[Any, ...]) -> bool:
        """Add a transition of plain numbers, in which nothing can fail once the first value is set; False,
        with nothing done, if others."""
        if type(values[0]) is not torch.Tensor or type(values[3]) is not torch.Tensor:
            return False
        for value, shapes in zip(values, self._row_shapes, strict=True):
            if not (
                value.shape in shapes and is_plain(value)
                if type(value) is torch.Tensor
                else is_plain_number(value)
            ):
                return False
        ring = self._ring
        place = ring.room(1)
        if place < 0:
            return False
        tensors = ring.room_tensors
        for name, value in zip(FIELDS, values, strict=True):
            tensors[name][place] = value
        ring.advance(1)
        return True

    def _set_rows(self, values: tuple[Any, ...]) -> bool:
        """The same for `add_multi`: tensors (n, width), or (n,) where one number is enough."""
        if (
            not all(type(value) is torch.Tensor and is_plain(value) for value in values)
            or values[5].dtype != torch.float32
        ):
            return False
        count = len(values[0]) if values[0].dim() == 2 else 0
        states, *given, following, dones, hiddens = values
        actions, rewards, dones = (
            value.unsqueeze(-1) if value.dim() == 1 else value for value in (*given, dones)
        )
        values = states, actions, rewards, following, dones, hiddens
        for value, width in zip(values, self._widths.values(), strict=True):
            if value.shape != (count, width):
                return False
        ring = self._ring
        place = ring.room(count)
        if not count or place < 0:
            return False
        tensors = ring.room_tensors
        for name, value in zip(FIELDS, values, strict=True):
            tensors[name][place : place + count] = value
        ring.advance(count)
        return True

    def _rows(self, count: int) -> dict[str, torch.Tensor]:
        """Room for rows, in which they are complete before the first of them is written."""
        known = {name: self._ring.tensor(name) for name in FIELDS}
        return {
            name: torch.empty((count, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device)
            for name, tensor in known.items()
        }

    # --- saving and loading

    def save(self, dirpath: str | os.PathLike[str], prefix: str = "buffer_") -> None:
        """Write `{prefix}state.safetensors` and `{prefix}metadata.json` into a folder, as velora does, or a
        store (`.zarr`, `.h5`).

        Nothing is half-written. StorageError; AlreadyExistsError: something else than a store is there;
        ConflictError: the store is open for writing elsewhere, or this buffer was loaded from it for
        reading."""
        dirpath = expanded(dirpath)
        place = store_of("." if dirpath == "" else dirpath)
        if place is not None:
            self._saved.save(place, self._subject())
            return
        state, metadata = (str(Path(dirpath, prefix + name).with_suffix(suffix)) for name, suffix in FILES)
        VELORA.write_files(self._ring, state, metadata, json.dumps(self.metadata(), indent=2))

    @classmethod
    def load(
        cls,
        state_path: str | os.PathLike[str],
        metadata: Mapping[str, Any] | None = None,
        *,
        device: torch.device | str | None = None,
        mode: Literal["r", "r+"] = "r",
        capacity: int | None = None,
    ) -> Self:
        """Load the files of a buffer into memory, or open a store.

        Args:
            state_path: the safetensors file, with any suffix or none; or a store, also one that was recorded.
            metadata: what buffer_metadata.json, or the entry "buffer" of an agent's metadata.json, holds.
                None: it is looked for beside the file. A store has its own, which these must not contradict.
            device: where batches are, and of files the tensors; None: the one that the metadata name.
            mode: of a store, "r+" to add to it.
            capacity: None: that of the metadata. A larger one has room for more transitions; a smaller one
                keeps the newest, and a ReplayStoreWarning says how many are left out. What is loaded is not
                changed.

        Raises:
            NotFoundError, FormatError, StorageError: no such file, it is something else, damaged, or without
            metadata. SchemaError: metadata that are incomplete or not of this file. UnsupportedError: no such
            device, or a store of something else, or one that cannot be added to, or not with another
            capacity. ConflictError: another writer.
        """
        state_path = expanded(state_path)
        place = store_of(state_path)
        if metadata is not None and not isinstance(metadata, Mapping):
            raise ArgumentError(
                f"metadata is the dict that json.load gives for buffer_metadata.json, not {metadata!r:.60}"
            )
        if device is not None:
            checked_device(device)
        capacity = None if capacity is None else positive("capacity", capacity)
        if place is not None:
            return cls._load_store(place, metadata, device, mode, capacity)
        if mode != "r":
            raise ArgumentError(
                f"{state_path} is read into memory, so mode={mode!r} has no sense: save it to "
                "a .zarr store and load that"
            )
        path = state_file(os.fspath(state_path))
        loaded, known = VELORA.read_file(path, metadata, device)
        ring, _ = resized(loaded, capacity, path)
        dimensions = {key: known[key] for key in KEYS[:4]} | {"capacity": ring.capacity}
        return cls._of(ring, dimensions, checked_device(device or known["device"]))

    @classmethod
    def _load_store(
        cls,
        place: Location,
        metadata: Mapping[str, Any] | None,
        device: torch.device | str | None,
        mode: Literal["r", "r+"],
        capacity: int | None,
    ) -> Self:
        named = (metadata or {}).get("device")
        stored = open_ring(place, VELORA, mode, checked_device(device or named))
        known = dict(stored.view.numbers)
        try:
            for key in KEYS:
                if metadata is not None and key in metadata and metadata[key] != known[key]:
                    hint = f", and capacity={metadata[key]!r} beside them" if key == "capacity" else ""
                    raise SchemaError(
                        f"{place} has {key}={known[key]}, and the metadata say {metadata[key]!r}: leave "
                        f"them out, or pass its own{hint}"
                    )
            chosen = checked_device(device or named or known["device"])
            stored.move(chosen)
            ring, _ = resized(stored, capacity, str(place), stacklevel=4)
            buffer = cls._of(
                ring, {key: known[key] for key in KEYS[:4]} | {"capacity": ring.capacity}, chosen
            )
        except BaseException:
            stored.close()
            raise
        weakref.finalize(buffer, ring.close)
        return buffer

    @classmethod
    def _of(cls, ring: TensorRing | StoredRing, dimensions: Mapping[str, int], device: torch.device) -> Self:
        if cls.__init__ is BufferBase.__init__:
            buffer = cls.__new__(cls)
            cls._set_up(buffer, **dimensions, device=device)
        else:  # a class of the user's, which may set up more
            buffer = cls(**dimensions, device=device)
        cls._hold(buffer, ring)
        return buffer

    def _hold(self, ring: TensorRing | StoredRing) -> None:
        self._ring = ring

    def _source(self) -> RingSource:
        return VELORA.source(self._ring, str(self.device) if self.device else None)

    def _append_since(self, buffer: Buffer, count: int) -> bool:
        VELORA.append_newest(buffer, self._ring, count)
        return True

    def _reconcile(self, buffer: Buffer) -> bool:
        return True
