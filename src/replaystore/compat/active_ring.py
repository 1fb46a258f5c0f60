"""The ring of active_rlhf's replay buffer: rows, and the trajectories that they were added as. It is filled,
saved and loaded as `active_rlhf.py` says, which draws from it."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch

from replaystore.buffers.buffer import Buffer
from replaystore.compat.active_layout import ACTIVE, ActiveState
from replaystore.compat.checks import (
    check_environment,
    check_spaces,
    checked_device,
    checked_rows,
    length_of,
    positive,
    spaces_of,
    width_of,
    zeros,
)
from replaystore.compat.memory_ring import TensorRing, field_attribute
from replaystore.compat.resizing import resized
from replaystore.compat.ring_buffer import RingBuffer
from replaystore.compat.saving import Saved, open_ring, store_of
from replaystore.compat.stored import StoredRing
from replaystore.errors import ArgumentError, FormatError, SchemaError
from replaystore.formats.active_rlhf.pickles import environment_of_folder
from replaystore.formats.finding import find
from replaystore.formats.source import RingSource
from replaystore.location import expanded
from replaystore.schema.environment import environment_of

__all__ = ["DEVICE", "FRAGMENT_LENGTH", "NAMES", "BufferBase", "TrajectoryInfo"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FRAGMENT_LENGTH = 50
NAMES = ("obs", "acts", "rews", "dones")


@dataclass
class TrajectoryInfo:
    """A trajectory of a buffer: rows `start_pos` to `start_pos + length`, which may reach round the end."""

    start_pos: int
    length: int
    split: str
    on_policiness_score: float
    last_updated_step: int


class BufferBase(RingBuffer):
    """A ring of `capacity` rows, and the trajectories in it, as `ReplayBuffer` says."""

    obs = field_attribute("obs")
    acts = field_attribute("acts")
    rews = field_attribute("rews")
    dones = field_attribute("dones")

    IN_MEMORY = "save a pickle and load that"

    def __init__(
        self,
        envs: Any,
        capacity: int = 500000,
        fragment_length: int = FRAGMENT_LENGTH,
        device: torch.device | str = DEVICE,
    ) -> None:
        where = checked_device(device)
        widths = (width_of(envs, "observation"), width_of(envs, "action"))
        capacity = positive("capacity", capacity)
        tensors = zeros(capacity, dict(zip(NAMES, (*widths, 1), strict=False)), where)
        tensors["dones"] = torch.zeros((capacity, 1), dtype=torch.bool, device=where)
        self._set_up(TensorRing(tensors, capacity), ActiveState(fragment_length, 0, ()), device, envs)

    def _set_up(
        self, ring: TensorRing | StoredRing, state: ActiveState, device: torch.device | str, envs: Any
    ) -> None:
        self._ring = ring
        self._saved = Saved()
        self.capacity = ring.capacity
        self.fragment_length = positive("fragment_length", state.fragment_length)
        self.device = device
        self.global_step = state.global_step
        self.trajectories = [TrajectoryInfo(*info) for info in state.infos]
        self.env_obs_shape = (int(ring.tensor("obs").shape[1]),)
        self.env_act_shape = (int(ring.tensor("acts").shape[1]),)
        self.envs = envs
        """The environments that it was made or loaded with; None: it was loaded without."""
        recorded, spaces = ring.recorded if isinstance(ring, StoredRing) else (None, {})
        self._spaces = spaces_of(envs) | spaces
        self.environment = recorded or environment_of(envs)
        """What a store says of the environment: its id, and its spec as far as that can be written down."""

    @property
    def pos(self) -> int:
        """The row that is written next."""
        return self._ring.position

    @pos.setter
    def pos(self, value: int) -> None:
        self._memory("pos").position = value

    # --- adding

    def add(self, obs: Any, act: Any, rew: Any, done: Any, split: str = "train") -> None:
        """Add a trajectory of n rows: obs (n, O), act (n, A), rew and done (n,) or (n, 1). Trajectories whose
        rows are overwritten go.

        SchemaError: shapes that do not fit, or more rows than the ring can hold at once; nothing is changed
        then. Of a buffer in a store: ConflictError if it was loaded for reading, UnsupportedError for no
        rows."""
        if not isinstance(split, str):
            raise ArgumentError(f"split is a string such as 'train', not {split!r}")
        count = length_of("obs", obs)
        rows = {}
        for name, values in zip(NAMES, (obs, act, rew, done), strict=True):
            tensor = self._ring.tensor(name)
            rows[name] = checked_rows(name, values, count, int(tensor.shape[1]), tensor.dtype)
        start, step = self.pos, self.global_step
        if start + count > 2 * self.capacity:
            most = 2 * self.capacity - start
            raise SchemaError(
                f"{count} rows at once do not fit into a ring of capacity {self.capacity} at position "
                f"{start}: add at most {most}"
            )
        kept = [known for known in self.trajectories if not self._overwritten(known, start, start + count)]
        if isinstance(self._ring, StoredRing):
            self._ring.append(rows, split)
        else:
            self._ring.append(rows)
        self.trajectories[:] = kept
        self.trajectories.append(TrajectoryInfo(start, count, split, 0.0, step))
        self.global_step = step + count
        if count > self.capacity:
            # a store lists a trajectory that is longer than the ring only where it is written anew.
            self.commit()

    def _overwritten(self, known: TrajectoryInfo, start: int, end: int) -> bool:
        """Whether writing [start, end) touches a trajectory, whose own end may lie behind that of the
        ring."""
        begin, stop = known.start_pos, known.start_pos + known.length
        if end <= self.capacity:
            return begin < end and stop > start
        return stop > start or begin < end - self.capacity

    # --- saving and loading

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write a pickle, which opens in the original, or a store (`.zarr`, `.h5`), which is loaded without
        being read.

        What was there stays until the new file is complete. StorageError; AlreadyExistsError: something else
        than a store is there; ConflictError: the store is open for writing elsewhere, or this buffer was
        loaded from it for reading. SchemaError: a path of a file that this class does not write."""
        filepath = expanded(filepath)
        place = store_of(filepath)
        if place is None:
            if os.fspath(filepath).lower().endswith(".safetensors"):
                raise SchemaError(
                    f"{filepath}: that is a file of velora; save a store (.zarr, .h5), and make one of it "
                    "with `replaystore convert`"
                )
            ACTIVE.write_file(self._ring, self._state(), os.fspath(filepath))
        else:
            self._saved.save(place, self._subject())

    @classmethod
    def load(
        cls,
        filepath: str | os.PathLike[str],
        envs: Any = None,
        fragment_length: int | None = None,
        device: torch.device | str = DEVICE,
        *,
        mode: Literal["r", "r+"] = "r",
        capacity: int | None = None,
    ) -> Self:
        """Load a pickle into memory, or open a store.

        Args:
            filepath: what was saved, by this class or by the original; any store that was recorded can be
            read, too.
            envs: what the rows were recorded in, as far as the file says; None: that is not compared.
            fragment_length: None: that of the file.
            device: where batches are, and of a pickle the tensors.
            mode: of a store, "r+" to add to it.
            capacity: None: that of the file. A larger one has room for more rows; a smaller one keeps the
                newest, and the trajectories that have all their rows, and a ReplayStoreWarning says what is
                left out. What is loaded is not changed.

        Raises:
            NotFoundError, FormatError, StorageError: no such file, or it is something else, or damaged.
            UnsupportedError: a store of something else, or one that cannot be added to, or not with another
            capacity; or no such device. SchemaError: another environment. ConflictError: another writer.
        """
        filepath = expanded(filepath)
        where, place = checked_device(device), store_of(filepath)
        capacity = None if capacity is None else positive("capacity", capacity)
        if place is None:
            if mode != "r":
                raise ArgumentError(
                    f"{filepath} is read into memory, so mode={mode!r} has no sense: save it "
                    "to a .zarr store and load that"
                )
            found = find(filepath)
            if found is not None and found != ACTIVE.project and os.path.lexists(filepath):
                raise FormatError(
                    f"{filepath} is a buffer of {found}: load it with replaystore.compat.{found}, or "
                    "make a store of it with "
                    f"`replaystore convert` and load that"
                )
            memory, state = ACTIVE.read_file(os.fspath(filepath), where)
            ring: TensorRing | StoredRing = memory
        else:
            ring = stored = open_ring(place, ACTIVE, mode, where)
            numbers = stored.view.numbers
            state = ActiveState(numbers["fragment_length"], numbers["global_step"], stored.view.infos)
        try:
            check_spaces(
                envs, (int(ring.tensor("obs").shape[1]), int(ring.tensor("acts").shape[1])), filepath
            )
            if isinstance(ring, StoredRing):
                check_environment(envs, *ring.recorded, filepath)
            else:
                check_environment(
                    envs, environment_of_folder(os.fspath(filepath)), {}, filepath, guessed=True
                )
            if fragment_length is not None:
                state.fragment_length = fragment_length
            ring, state.infos = resized(ring, capacity, filepath, state.infos)
            buffer = cls.__new__(cls)
            cls._set_up(buffer, ring, state, device, envs)
        except BaseException:
            ring.close()
            raise
        weakref.finalize(buffer, ring.close)
        return buffer

    def _state(self) -> ActiveState:
        return ActiveState(
            self.fragment_length, self.global_step, [_info(known) for known in self.trajectories]
        )

    def _source(self) -> RingSource:
        source = ACTIVE.source(self._ring, self._state(), self._spaces)
        source.environment = self.environment
        return source

    def _append_since(self, buffer: Buffer, count: int) -> bool:
        """Append the newest trajectories, if they are just the last `count` rows."""
        rest, start, newest = count, self.pos, 0
        while rest > 0 and newest < len(self.trajectories):
            known = self.trajectories[-1 - newest]
            rest, start, newest = rest - known.length, (start - known.length) % self.capacity, newest + 1
            if known.length < 1 or known.start_pos != start:
                return False
        if rest:
            return False
        for known in self.trajectories[len(self.trajectories) - newest :]:
            ACTIVE.append_trajectory(buffer, self._ring, known.start_pos, known.length, known.split)
        return True

    def _reconcile(self, buffer: Buffer) -> bool:
        return ACTIVE.reconcile(buffer, self._state())


def _info(known: TrajectoryInfo) -> tuple[int, int, str, float, int]:
    return (
        int(known.start_pos),
        int(known.length),
        known.split,
        float(known.on_policiness_score),
        int(known.last_updated_step),
    )
