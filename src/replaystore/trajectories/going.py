"""The trajectories that have not ended, as columns: an environment has a slot in all of them while it has
something open, or for good if somebody asks for its slot again and again.

Columns instead of objects: what a step changes in all environments is one operation for each column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.trajectories.opened import COLUMNS, Open, as_numbers

__all__ = ["Going"]

Ints = NDArray[np.int64]
_NUMBERS = ("env", "trajectory", "seed", "split", "part_start", "part_length", "stride", "offset")
_KEPT = np.array([_NUMBERS.index(name) for name in COLUMNS])
_FLAGS = ("open", "known", "terminated", "truncated")


class Going:
    """Columns by slot. `components` of a return."""

    env: Ints
    trajectory: Ints
    seed: Ints
    split: Ints
    part_start: Ints
    part_length: Ints
    stride: Ints
    offset: Ints
    """The place of the part's first step in the trajectory."""
    open: NDArray[np.bool_]
    known: NDArray[np.bool_]
    """Whether the observation after the last step is known: it is in `following` then."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    """The flags of the last step. They are set only where the source says that trajectories end elsewhere."""

    def __init__(self, components: int) -> None:
        self.returned = np.zeros((0, components))
        self.following: dict[str, NDArray[Any]] = {}
        self.version = 0
        """Another one after other slots are open, or others have a part that grows."""
        self._stride = self._since = 0
        """The stride of the newest rows, and the row from which on there is no other one. A part that began
        before does not go on, so that nothing of another stride lies between its rows."""
        self._slots: dict[int, int] = {}
        self._free: list[int] = []
        self._kept: set[int] = set()
        self._numbers = np.zeros((len(_NUMBERS), 0), np.int64)
        self._flags = np.zeros((len(_FLAGS), 0), np.bool_)
        self._order: tuple[int, Ints] = (-1, np.empty(0, np.int64))
        self._resize(8)

    def _resize(self, slots: int) -> None:
        before = len(self.returned)
        self._free += reversed(range(before, slots))
        self._numbers, self._flags, self.returned = (
            np.concatenate([known, np.zeros((known.shape[0], slots - before), known.dtype)], axis=1)
            for known in (self._numbers, self._flags, self.returned.T)
        )
        self.returned = np.ascontiguousarray(self.returned.T)
        for name, column in zip(_NUMBERS, self._numbers, strict=True):
            setattr(self, name, column)
        for name, flags in zip(_FLAGS, self._flags, strict=True):
            setattr(self, name, flags)
        for name, rows in self.following.items():
            self.following[name] = np.zeros((slots, *rows.shape[1:]), rows.dtype)
            self.following[name][:before] = rows

    def slots(self, envs: Iterable[int], *, keep: bool = False) -> Ints:
        """The slots of these environments; `keep`: they stay theirs whether something is open or not."""
        found = [self.slot_of(env) for env in envs]
        if keep:
            self._kept.update(found)
        return np.array(found, np.int64)

    def slot_of(self, env: int) -> int:
        """The slot of an environment."""
        slot = self._slots.get(env)
        if slot is None:
            if not self._free:
                self._resize(2 * len(self.returned))
            slot = self._slots[env] = self._free.pop()
            self.env[slot], self.open[slot] = env, False
        return slot

    def state(self, slot: int) -> tuple[list[int], list[bool], NDArray[np.float64]]:
        """The numbers of a slot, its flags (each in the order in which they are declared), and its return."""
        return self._numbers[:, slot].tolist(), self._flags[:, slot].tolist(), self.returned[slot]

    def set_state(self, slot: int, numbers: Sequence[int], flags: Sequence[bool], returned: Any) -> None:
        """The inverse of `state`."""
        self._numbers[:, slot], self._flags[:, slot], self.returned[slot] = numbers, flags, returned

    def let_go(self, slots: Ints) -> None:
        """Nobody keeps these slots any more."""
        self._kept.difference_update(slots.tolist())
        self.changed(slots)

    def changed(self, slots: Ints) -> None:
        """Other trajectories are open in these slots; those in which nothing is are for others."""
        self.changed_few(slots[~self.open[slots]].tolist())

    def changed_few(self, slots: Iterable[int]) -> None:
        """As `changed`."""
        self.version += 1
        for slot in slots:
            if (
                not self.open[slot]
                and slot not in self._kept
                and self._slots.pop(int(self.env[slot]), None) is not None
            ):
                self._free.append(slot)

    def slot(self, env: int) -> int | None:
        """The slot of an environment that has something open."""
        slot = self._slots.get(env)
        return slot if slot is not None and self.open[slot] else None

    def opened_envs(self) -> list[int]:
        """The environments that have something open."""
        envs: list[int] = self.env[self.open].tolist()
        return envs

    def length(self, slots: Any) -> Ints:
        """The steps of these trajectories so far."""
        lengths: Ints = self.offset[slots] + self.part_length[slots]
        return lengths

    def take_stride(self, stride: int, first: int) -> None:
        """Rows from `first` on have this stride."""
        if stride != self._stride:
            self._stride, self._since = stride, first

    def expected(self, slots: Any, stride: int) -> Any:
        """The rows of this stride with which the parts of these slots go on; -1 where none does."""
        length = self.part_length[slots]
        rows = self.part_start[slots] + length * stride
        goes_on = self.open[slots] & (length > 0) & (self.stride[slots] == stride)
        if stride != 1:
            goes_on &= (rows - stride >= self._since) & (self._stride == stride)
        return np.where(goes_on, rows, -1)

    def reaches(self, row: int, stride: int) -> bool:
        """Whether a part of this stride goes on with that row, if it comes next: nothing of another stride
        lies between its rows."""
        return stride == 1 or (row - stride >= self._since and self._stride == stride)

    def opened(self) -> Ints:
        """The slots in which a trajectory is open, in the order of the trajectories' numbers; first those in
        which it has no step yet."""
        version, order = self._order
        if version != self.version:
            order = np.flatnonzero(self.open)
            order = order[np.argsort(self.trajectory[order])]
            self._order = self.version, order
        return order

    def with_steps(self) -> Ints:
        """As `opened`, without those in which a trajectory has no step yet."""
        slots = self.opened()
        return slots[self.length(slots) > 0]

    def kept(self) -> Ints:
        """What is open, as a commit keeps it."""
        slots = self.with_steps()
        if not len(slots):
            return np.empty((0, 0), np.int64)
        flags = np.stack([self.terminated[slots], self.truncated[slots], self.known[slots]])
        return as_numbers(self._numbers[:, slots][_KEPT], flags, self.returned[slots])

    def follow(
        self,
        following: Mapping[str, NDArray[Any]],
        slots: slice | Ints,
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        """Keep the observations after the last steps of these slots, by field; of those that are `known`
        (None: as it was)."""
        if known is not None:
            self.known[slots] = known
        for name, rows in following.items():
            self.room(name, rows.dtype, rows.shape[1:])[slots] = rows

    def room(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Where the observations of a field are kept, by slot."""
        rows = self.following.get(name)
        if rows is None:
            rows = self.following[name] = np.zeros((len(self.returned), *shape), dtype)
        return rows

    def resume(self, entry: Open) -> None:
        """Go on with an open trajectory."""
        (slot,) = self.slots([entry.env])
        for name in ("trajectory", "seed", "split", "part_start", "part_length", "stride", "offset"):
            getattr(self, name)[slot] = getattr(entry, name)
        self.terminated[slot], self.truncated[slot] = entry.terminated, entry.truncated
        self.open[slot], self.returned[slot] = True, entry.returned
        rows = {name: value[None] for name, value in (entry.following or {}).items()}
        self.follow(rows, np.array([slot]), np.array([bool(rows)]))
        self.version += 1

    def entry(self, slot: int, shape: tuple[int, ...]) -> Open:
        """What is open in a slot, without the observation that follows; `shape` of a return."""
        found: dict[str, Any] = {name: int(getattr(self, name)[slot]) for name in _NUMBERS}
        found |= {name: bool(getattr(self, name)[slot]) for name in ("known", "terminated", "truncated")}
        returned = self.returned[slot].tolist()
        return Open(**found, returned=returned if shape else returned[0])

    def take_fields(self, fields: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        """Observations are of these fields from now on; those of one that is new are zeros."""
        if self.following:
            count = len(self.returned)
            for name, (dtype, shape) in fields.items():
                if name not in self.following:
                    self.following[name] = np.zeros((count, *shape), dtype)
