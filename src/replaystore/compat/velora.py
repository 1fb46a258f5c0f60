"""A drop-in replacement for `velora.buffer`: change the import, and a buffer may lie in a store.

    from replaystore.compat.velora import ReplayBuffer

An agent of velora makes its own buffer; one line puts ours in its place: `agent.buffer =
ReplayBuffer.adopt(agent.buffer, "b.zarr")`.

Results, seeded batches and errors are those of velora 0.2.0, except that hidden states may be left out
(zeros), that an error leaves the buffer as it was, that `warm` refuses what it could never reach, and that
`load` checks what it loads.

`save` and `load` go by the suffix: a folder as velora does it (two files), or a store ("runs/x/buffer.zarr",
"buffer.h5"):

* A buffer loaded from a store is lazy: `states`, `actions`, … are `LazyTensor`s, of which only the rows asked
  for are read.
* `load(..., mode="r+")` opens the store for writing: `add` writes to it. Rows become safe, and visible to
  others, in blocks of `PENDING_ROWS`, and at `save` to the same place, `commit` and `close`.
* Saving again to the same store, from the same process, writes only what is new; see
  `replaystore.compat.saving`.

Longer than 400 lines because the original's class is taken over whole, with what a store adds to it. More
than 25 methods because those of that class are all here.
"""

from __future__ import annotations

import importlib
import json
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import gymnasium
import torch

from replaystore.buffers.buffer import Buffer
from replaystore.compat.checks import checked_device, positive, zeros
from replaystore.compat.memory_ring import TensorRing, field_attribute, is_plain, is_plain_number
from replaystore.compat.resizing import resized
from replaystore.compat.saving import Saved, Subject, commit_in_place, open_ring, store_of
from replaystore.compat.stored import StoredRing
from replaystore.compat.velora_layout import VELORA
from replaystore.errors import ArgumentError, FormatError, NotFoundError, SchemaError
from replaystore.formats.finding import find
from replaystore.formats.source import RingSource
from replaystore.location import Location

__all__ = ["BatchExperience", "BufferBase", "BufferConfig", "ReplayBuffer"]

FIELDS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")
FILES = (("state", ".safetensors"), ("metadata", ".json"))
KEYS = ("capacity", "state_dim", "action_dim", "hidden_dim", "position", "size", "device")


@dataclass
class BatchExperience:
    """A batch of transitions; each tensor has the shape (batch_size, features) and is float32."""

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    dones: torch.Tensor
    hiddens: torch.Tensor


@dataclass(frozen=True)
class BufferConfig:
    """What `ReplayBuffer.config` gives where velora is not installed; otherwise it is velora's own model of
    the same fields."""

    type: str
    capacity: int
    state_dim: int
    action_dim: int
    hidden_dim: int


class BufferBase:
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

    _ring: TensorRing | StoredRing

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

    @property
    def size(self) -> int:
        """How many transitions there are."""
        return self._ring.size

    @size.setter
    def size(self, value: int) -> None:
        self._memory("size").size = value

    def _memory(self, what: str) -> TensorRing:
        """The ring, in memory."""
        if isinstance(self._ring, StoredRing):
            raise SchemaError(
                f"{what} of a buffer in a store follows from its rows: add rows, or load a "
                "copy that was saved to a folder"
            )
        return self._ring

    def __len__(self) -> int:
        return self.size

    def metadata(self) -> dict[str, Any]:
        """What velora writes to buffer_metadata.json."""
        return {name: getattr(self, name) for name in KEYS[:-1]} | {
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
        if metadata is not None:
            missing = [key for key in KEYS if key not in metadata]
            if missing:
                raise SchemaError(
                    f"the metadata have no {missing[0]!r}: pass what buffer_metadata.json "
                    f"holds, which has {', '.join(KEYS)}"
                )
        path = _state_file(os.fspath(state_path))
        with VELORA.read_file(path, metadata) as (known, files):
            missing = [name for name in FIELDS if name not in files]
            if missing:
                raise FormatError(
                    f"{path} has no {missing[0]}, as buffers of velora 0.1 have none: `replaystore convert` "
                    "makes a store of it"
                )
            chosen = checked_device(device or known["device"])
            dimensions = {key: known[key] for key in KEYS[:4]}
            loaded = TensorRing(VELORA.tensors(files, chosen), known["capacity"])
        loaded.size, loaded.position = known["size"], known["position"]
        ring, _ = resized(loaded, capacity, path)
        return cls._of(ring, dimensions | {"capacity": ring.capacity}, chosen)

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
            for key in KEYS[:-1]:
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

    def commit(self) -> None:
        """Make everything safe in the store that the buffer was loaded from; of a buffer in memory there is
        nothing to do."""
        if isinstance(self._ring, StoredRing):
            commit_in_place(self._ring, self._subject())

    def close(self) -> None:
        """Commit, if the buffer was loaded for writing, and release its store."""
        if isinstance(self._ring, StoredRing) and self._ring.writable:
            commit_in_place(self._ring, self._subject())
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _subject(self) -> Subject:
        return Subject(self._ring, self._source, self._append_since, self._reconcile)

    def _source(self) -> RingSource:
        return VELORA.source(self._ring, str(self.device) if self.device else None)

    def _append_since(self, buffer: Buffer, count: int) -> bool:
        VELORA.append_newest(buffer, self._ring, count)
        return True

    def _reconcile(self, buffer: Buffer) -> bool:
        return True


class ReplayBuffer(BufferBase):
    """A buffer that is sampled from uniformly. See `BufferBase` for its arguments."""

    @classmethod
    def adopt(cls, buffer: Any, path: str | os.PathLike[str] | None = None) -> Self:
        """One of ours in the place of the buffer that an agent of velora has made, with the transitions that
        are in it.

            agent.buffer = ReplayBuffer.adopt(agent.buffer, "runs/x/buffer.zarr")

        Args:
            buffer: any buffer with velora's `metadata()` and `state_dict()`.
            path: the store that it is to lie in. One that is there is gone on with, if `buffer` is empty.
            None: it stays in memory.

        Raises:
            SchemaError: the store is of other dimensions, or not for a buffer that has transitions. All that
            `save` and `load` raise.
        """
        known = dict(buffer.metadata())
        place = None if path is None else store_of(path)
        if path is not None and place is None:
            raise ArgumentError(f"{path} is not the name of a store: choose one that ends in .zarr or .h5")
        ours = cls._adopted(buffer, known, place)
        ours.device = getattr(buffer, "device", ours.device)  # None is kept: the agent's checkpoints say so
        return ours

    @classmethod
    def _adopted(cls, buffer: Any, known: Mapping[str, Any], place: Location | None) -> Self:
        if place is not None and (found := cls._found(place, known)) is not None:
            return found
        state = {name: tensor.detach().clone() for name, tensor in buffer.state_dict().items()}
        ring = TensorRing({name: state[name] for name in FIELDS}, known["capacity"])
        ring.size, ring.position = known["size"], known["position"]
        ours = cls._of(ring, {key: known[key] for key in KEYS[:4]}, checked_device(known["device"]))
        if place is None:
            return ours
        ours.save(str(place))
        return cls.load(str(place), mode="r+", device=known["device"])

    @classmethod
    def _found(cls, place: Location, known: Mapping[str, Any]) -> Self | None:
        """The buffer of a store that is to go on instead of an empty one; None: there is no store."""
        try:
            found = cls.load(str(place), mode="r+", device=known["device"])
        except NotFoundError:
            return None
        have = {key: getattr(found, key) for key in KEYS[:4]}
        differing = [key for key in KEYS[:4] if have[key] != known[key]]
        if differing or known["size"]:
            found.close()
        if differing:
            key = differing[0]
            raise SchemaError(
                f"{place} has {key}={have[key]}, and the agent's buffer {key}={known[key]}: "
                "choose another name"
            )
        if known["size"]:
            raise SchemaError(
                f"{place} is there, and the agent's buffer has {known['size']} transitions: "
                "choose another name"
            )
        return found

    def config(self) -> Any:
        """What the buffer is, as velora's `BufferConfig` (or, without velora, as ours of the same fields)."""
        try:
            model = importlib.import_module("velora.models.config").BufferConfig
        except ImportError:
            model = BufferConfig
        dimensions = {
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            "hidden_dim": self.hidden_dim,
        }
        return model(type="ReplayBuffer", capacity=self.capacity, **dimensions)

    # --- sampling

    def warm(self, agent: Any, n_samples: int, num_envs: int = 8) -> None:
        """Let the agent act in `num_envs` copies of its environment until there are `n_samples` transitions,
        or a few more.

        ValueError: `num_envs` below 2. SchemaError: more samples than the capacity."""
        if num_envs < 2:
            raise ValueError(f"'{num_envs=}' cannot be smaller than 2.")
        if n_samples > self.capacity:
            raise ArgumentError(
                f"n_samples={n_samples} is more than the capacity of {self.capacity}: ask for "
                "at most that many"
            )
        envs = gymnasium.make_vec(agent.env.spec.id, num_envs=num_envs, vectorization_mode="sync")
        try:
            hidden = None
            states = self._seen(envs.reset()[0], agent.device)
            while len(self) < n_samples:
                actions, hidden = agent.predict(states, hidden, train_mode=True)
                after, *outcome, _ = envs.step(actions.detach().cpu().numpy())
                next_states, rewards, terminated, truncated = (
                    self._seen(values, agent.device) for values in (after, *outcome)
                )
                self.add_multi(states, actions, rewards, next_states, terminated | truncated, hidden)
                states = next_states
        finally:
            envs.close()

    @staticmethod
    def _seen(values: Any, device: torch.device | str | None) -> torch.Tensor:
        return torch.tensor(values, device=device)  # a copy: the environments use their arrays again

    def sample(self, batch_size: int) -> BatchExperience:
        """Transitions drawn with replacement by torch's global generator (that of `device`).

        ValueError: there are fewer than `batch_size`."""
        if len(self) < batch_size:
            raise ValueError(
                f"Buffer does not contain enough experiences. Available: {len(self)}, Requested: {batch_size}"
            )
        indices = torch.randint(0, self.size, (batch_size,), device=self.device)
        return BatchExperience(**self._ring.gather(FIELDS, indices))


def _state_file(given: str) -> str:
    """The file that velora would load: with the suffix .safetensors, whatever is given. NotFoundError or
    FormatError: what is given is there, and is something else."""
    if not Path(given).name:
        raise ArgumentError(
            f"{given!r} is no file: give the path of one, such as 'checkpoints/nf/buffer_state'"
        )
    path = str(Path(given).with_suffix(".safetensors"))
    if not os.path.lexists(path) and os.path.lexists(given):
        if os.path.isdir(given):
            raise NotFoundError(
                f"{given} is a folder: give the path of the file in it, such as "
                f"{os.path.join(given, 'buffer_state')}"
            )
        found = find(given)
        if found is not None:
            raise FormatError(
                f"{given} is a file of {found}: make a store of it with `replaystore convert`, and load that"
            )
    return path
