"""How a buffer grows in the process that writes it, steps that no commit has yet included: what a sampler
follows that shows steps when they are there.

It costs nothing until somebody asks; from then on each part that closes is kept, 48 bytes, until it has left
a ring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.recorder import Recorder
from replaystore.schema import tree
from replaystore.trajectories.growth import OpenParts
from replaystore.views.followed import stored_parts

__all__ = ["Growing"]

Rows = NDArray[np.int64]
FinalRows = Callable[[str, Rows], NDArray[Any]]


class Growing:
    """The growth of a buffer, by what its recorder knows; as `trajectories.growth.Growth` has it."""

    def __init__(self, recorder: Recorder, capacity: int | None, final_rows: FinalRows) -> None:
        """`final_rows`: committed final observations by number."""
        self._capacity, self._final_rows = capacity, final_rows
        self.generation = 0
        self._begin(recorder)

    def _begin(self, recorder: Recorder) -> None:
        self._recorder, store = recorder, recorder.store
        self._staged_stop, self._envs = 0, 1
        """The row behind those that are going to be rows as they are staged, and how many a step has."""
        none = np.empty(0, np.int64)
        self._version, self._opened = -1, (none, none, none, none)
        """What the parts that still grow are, as long as all that is open has steps, and nothing else is:
        first rows, strides, trajectories and offsets."""
        committed = stored_parts(store)
        self._parts = np.concatenate([committed, *recorder.assembler.pending.parts])
        self._base = store.rows(tree.PARTS) - len(committed)
        """The number of the first part in `_parts`, of which `_count` count."""
        self._count = len(self._parts)
        pending = recorder.assembler.pending
        self._finals: dict[str, NDArray[Any]] = {}
        self._final_base, self._final_count = recorder.assembler.finals - pending.final_rows, 0
        """The number of the first final observation in `_finals`, of which `_final_count` count."""
        for rows in pending.finals:
            self._keep(rows)
        recorder.assembler.told = self._extend

    def renew(self, recorder: Recorder) -> None:
        """Rows were given up: another recorder goes on from an older commit."""
        self.generation += 1
        self._begin(recorder)

    def count_in(self, steps: int, envs: int) -> bool:
        """Count so many staged steps, in which all trajectories go on, as if they were rows already; False if
        others are open, too: that is known when they are rows."""
        if steps and len(self._recorder.assembler.going.opened()) != envs:
            return False
        self._staged_stop, self._envs = self._recorder.rows + steps * envs, envs
        return True

    def _extend(self, parts: Rows, finals: Mapping[str, NDArray[Any]]) -> None:
        if finals:
            self._keep(finals)
        stop = self._count + len(parts)
        if stop > len(self._parts):
            kept = self._parts[self._gone() : self._count]
            self._base += self._count - len(kept)
            self._count, stop = len(kept), len(kept) + len(parts)
            self._parts = np.concatenate([kept, np.empty((max(2 * stop, 256) - len(kept), 6), np.int64)])
        self._parts[self._count : stop] = parts
        self._count = stop

    def _keep(self, finals: Mapping[str, NDArray[Any]]) -> None:
        """Final observations are kept at least until a commit has them."""
        before, more = self._final_count, len(next(iter(finals.values())))
        if not self._finals or before + more > len(next(iter(self._finals.values()))):
            committed = self._recorder.store.state.lengths.get("final", 0)
            gone = min(max(committed - self._final_base, 0), before)
            before, self._final_base = before - gone, self._final_base + gone
            room = max(2 * (before + more), 64)
            for name, rows in finals.items():
                grown = np.empty((room, *rows.shape[1:]), rows.dtype)
                if before:
                    grown[:before] = self._finals[name][gone : gone + before]
                self._finals[name] = grown
        for name, rows in finals.items():
            self._finals[name][before : before + more] = rows
        self._final_count = before + more

    def _gone(self) -> int:
        """How many of the oldest parts have left the ring with all their rows."""
        known = self._parts[: self._count]
        here = known[:, 0] + (known[:, 1] - 1) * known[:, 2] >= self.bounds[0]
        return int(here.argmax()) if here.any() else self._count

    # --- what Growth asks for

    @property
    def bounds(self) -> tuple[int, int]:
        """The oldest row that counts, and the row behind the newest one."""
        stop, capacity = self._recorder.rows, self._capacity
        if stop < self._staged_stop:
            stop = self._staged_stop
        return (0 if capacity is None or stop < capacity else stop - capacity), stop

    @property
    def oldest_part(self) -> int:
        """The number of the oldest part that `closed` can still tell."""
        return self._base

    @property
    def closed_parts(self) -> int:
        """How many parts have ended, those that have left a ring included."""
        return self._base + self._count

    def closed(self, since: int) -> Rows:
        """The parts from number `since` on, in the order in which they have ended; not to be changed."""
        found = self._parts[max(0, since - self._base) : self._count]
        found.flags.writeable = False
        return found

    def opened(self) -> OpenParts:
        """The parts that still grow, in the order of their trajectories' numbers."""
        going, known = self._recorder.assembler.going, self._opened
        slots = self._slots()
        if going.version != self._version:  # else they are the same parts
            self._version = going.version if len(slots) == len(going.opened()) else -1
            known = self._opened = (
                going.part_start[slots],
                going.stride[slots],
                going.trajectory[slots],
                going.offset[slots],
            )
        start, stride, trajectory, offset = known
        length, followed = going.part_length.take(slots), going.known.take(slots)
        staged = self._staged_stop - self._recorder.rows
        if staged > 0:
            length += staged // self._envs
        return OpenParts(start, length, stride, trajectory, offset, followed)

    def _slots(self) -> Rows:
        going = self._recorder.assembler.going
        slots = going.opened()
        if going.version == self._version:
            return slots
        return slots[going.part_length[slots] > 0]

    def following(self, name: str) -> NDArray[Any]:
        """The observations after the last steps of `opened()`."""
        dtype, shape = self._recorder.schema.fields[name].stored
        rows: Mapping[str, NDArray[Any]] = self._recorder.assembler.going.following
        slots = self._slots()
        if name not in rows:
            return np.zeros((len(slots), *shape), dtype)
        return rows[name][slots]

    def final_rows(self, name: str, numbers: Rows) -> NDArray[Any]:
        """Final observations by number: those that no commit has are in memory."""
        first = self._final_base
        committed = numbers < first
        told = committed.tobytes()
        if not self._final_count or (told and 0 not in told):
            return self._final_rows(name, numbers)
        kept = self._finals[name]
        if 1 not in told:
            found: NDArray[Any] = kept.take(numbers - first, 0)
            return found
        found = np.empty((len(numbers), *kept.shape[1:]), kept.dtype)
        found[committed] = self._final_rows(name, numbers[committed])
        found[~committed] = kept[numbers[~committed] - first]
        return found
