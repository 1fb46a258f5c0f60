"""Where steps lie among the rows of a buffer of TorchRL: in rings, of several environments side by side, and
in the compact layouts, which have each observation once and one more for each trajectory.

A `Grid` has steps that follow each other in time, from the oldest on, of one or more environments ("lanes").
Rows of all grids are those of the first axes of a tensor, as one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.torchrl.leaves import Rows
from replaystore.formats.torchrl.trees import Key, Tree

__all__ = ["BLOCK", "FLAGS", "Grid", "Held", "compact", "flags_of", "transitions"]

FLAGS = ("done", "terminated", "truncated")
BLOCK = 1 << 20
"""So many flags are read at once."""
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Grid:
    """Steps, from the oldest on."""

    base: int
    """The row of the first place of the ring."""
    lanes: int
    steps: int
    """Places of the ring, in each lane."""
    first: int
    """The place of the oldest step."""
    count: int
    """How many steps there are, in each lane."""
    env: int = 0
    """The environment of the first lane."""
    packed: int = 0
    """Of a compact layout: the row of the first observation."""
    ends: NDArray[np.int64] = field(default_factory=lambda: NONE)
    """Of a compact layout: after which steps one more observation lies."""

    def read(self, rows: Rows, start: int, stop: int) -> NDArray[Any]:
        """Steps [start, stop) of all lanes: shape (steps, lanes, …)."""
        first = (self.first + start) % self.steps if self.steps else 0
        head = min(stop - start, self.steps - first)
        found = [self._rows(rows, first, first + head)]
        if head < stop - start:
            found.append(self._rows(rows, 0, stop - start - head))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _rows(self, rows: Rows, start: int, stop: int) -> NDArray[Any]:
        found = rows.read(self.base + start * self.lanes, self.base + stop * self.lanes)
        return found.reshape(stop - start, self.lanes, *found.shape[1:])

    def packed_pair(self, rows: Rows, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of a compact layout: what was observed before and after steps [start, stop)."""
        steps = np.arange(start, stop)
        at = steps + np.searchsorted(self.ends, steps)
        if not len(at):
            found = rows.read(self.packed, self.packed)
            return found[:, None], found[:, None]
        low = int(at[0])
        found = rows.read(self.packed + low, self.packed + int(at[-1]) + 2)
        return found[at - low][:, None], found[at - low + 1][:, None]


@dataclass
class Held:
    """The transitions of a buffer."""

    where: str
    columns: dict[Key, Rows]
    """By the keys that they have in a buffer in memory."""
    pairs: dict[Key, tuple[Rows, Rows]]
    """What is observed before and after each step; the same rows twice in a compact layout."""
    grids: list[Grid]
    compact: bool = False
    lost: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return sum(grid.count * grid.lanes for grid in self.grids)

    def pair(self, grid: Grid, key: Key, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """What was observed before and after steps [start, stop): shape (steps, lanes, …)."""
        before, after = self.pairs[key]
        if self.compact:
            return grid.packed_pair(before, start, stop)
        return grid.read(before, start, stop), grid.read(after, start, stop)


def flags_of(values: NDArray[Any], where: str, name: str) -> NDArray[np.bool_]:
    """One flag a step and lane. FormatError: there are more, or they are no flags."""
    if values.dtype != np.bool_ or math.prod(values.shape[2:]) != 1:
        raise FormatError(
            f"{where}: {name} is {values.dtype} of shape {values.shape[2:]}, and one flag for each step is "
            "expected"
        )
    return values.reshape(values.shape[:2])


# --- every step with what followed it


def transitions(tree: Tree, length: int | None, cursor: int | None, *, storage: bool) -> Held:
    """A tensordict of transitions, of which the first `length` rows are used; `cursor`: the place that is
    written next. `storage`: it is that of a buffer, whose first axis is time."""
    batch = tree.batch or _common(tree)
    flat = {
        key: leaf.flat(len(batch)) for key, leaf in tree.leaves.items() if leaf.shape[: len(batch)] == batch
    }
    for key in tree.leaves.keys() - flat.keys():
        tree.lost["/".join(key)] = f"it has not the {list(batch)} rows of the others"
    columns, pairs = _split(flat)
    held = Held(tree.where, columns, pairs, [], lost=tree.lost)
    lanes = math.prod(batch[1:])
    if not storage and len(batch) > 1 and _time_is_last(tree, pairs, batch):
        time, others = batch[-1], math.prod(batch[:-1])
        held.grids = [Grid(lane * time, 1, time, 0, time, lane) for lane in range(others)]
        return held
    capacity = batch[0]
    count = capacity if length is None else length // max(1, lanes)
    if not 0 <= count <= capacity:
        raise FormatError(
            f"{tree.where} says that {length} of its {capacity * lanes} rows are used: it is damaged"
        )
    first = 0
    if count == capacity and cursor is not None and length is not None:
        first = cursor % max(1, capacity)
    elif count == capacity and storage and count:
        held.remarks.append("nobody knows at which row the buffer began: they are taken from the first on")
    held.grids = [Grid(0, lanes, capacity, first, count)]
    return held


def _common(tree: Tree) -> tuple[int, ...]:
    """The rows that all tensors have, of a tensordict that says of no axis what it is."""
    counts = [leaf.shape[0] for leaf in tree.leaves.values() if leaf.shape]
    if not counts or len(set(counts)) != 1 or any(not leaf.shape for leaf in tree.leaves.values()):
        raise FormatError(f"{tree.where}: its tensors have no rows in common, as those of transitions have")
    return (counts[0],)


def _split(flat: Mapping[Key, Rows]) -> tuple[dict[Key, Rows], dict[Key, tuple[Rows, Rows]]]:
    """What was seen before and after each step, and all else."""
    pairs = {}
    for key, rows in flat.items():
        after = flat.get(("next", *key))
        if key[0] == "next" or key[-1] in (*FLAGS, "reward") or after is None:
            continue
        if (after.dtype, after.shape) == (rows.dtype, rows.shape):
            pairs[key] = (rows, after)
    taken = {*pairs, *(("next", *key) for key in pairs)}
    columns = {key: rows for key, rows in flat.items() if key not in taken}
    if not any(key[0] == "next" for key in flat):  # nothing is said of what follows: flags are of the step
        columns = {
            ("next", *key) if key[-1] in FLAGS and len(key) == 1 else key: rows
            for key, rows in columns.items()
        }
    return columns, pairs


def _time_is_last(tree: Tree, pairs: Mapping[Key, tuple[Rows, Rows]], batch: Sequence[int]) -> bool:
    """Whether steps follow each other along the last axis, and not along the first."""
    if "time" in tree.names:
        return tree.names[0] != "time"
    last, lanes = batch[-1], math.prod(batch[1:])
    for before, after in pairs.values():
        many = max(0, min(before.count, 4 * max(last, lanes), BLOCK))
        old, new = before.read(0, many), after.read(0, many)
        matches = [
            sum(np.array_equal(new[at], old[at + apart]) for at in range(0, many - apart, 1 + many // 256))
            for apart in (1, lanes)
        ]
        return matches[0] >= matches[1]
    return True


# --- compact layouts


def compact(
    tree: Tree,
    rows: Mapping[Key, Rows],
    shape: object,
    shift: object,
    full: object,
) -> Held:
    """The layouts of FlatStorageCheckpointer and what is made of it: `rows` lie from the oldest on, lane
    after lane, and what is observed has one row more after each step that ends a trajectory."""
    lengths = [shape] if type(shape) is int else shape
    if not isinstance(lengths, list) or not lengths or any(type(n) is not int or n < 0 for n in lengths):
        raise FormatError(f"{tree.where}: {shape!r:.80} is no shape of a storage: it is damaged")
    steps, lanes = int(lengths[0]), math.prod(lengths[1:])
    if type(shift) is not int or not isinstance(full, bool) or not 0 <= shift <= steps:
        raise FormatError(f"{tree.where}: shift {shift!r:.40} of {steps} places is none: it is damaged")
    done = rows.get(("done",))
    if done is None or done.count != steps * lanes:
        there = "is not there" if done is None else f"has {done.count} rows instead of {steps * lanes}"
        raise FormatError(f"{tree.where}: done {there}: it is damaged, or something else")
    count, packed, grids = (steps if full else shift), 0, []
    for lane in range(lanes):
        base = lane * steps
        ends = _packed_ends(done, base, steps, count - 1 if count else steps - 1, tree.where)
        grids.append(Grid(base, 1, steps, 0, count, lane, packed, ends))
        packed += steps + len(ends)
    columns: dict[Key, Rows] = {}
    pairs: dict[Key, tuple[Rows, Rows]] = {}
    for key, some in rows.items():
        if some.count == packed and packed != steps * lanes:
            pairs[key] = (some, some)
        elif some.count == steps * lanes:
            columns[("next", *key) if key[-1] in (*FLAGS, "reward") else key] = some
        else:
            raise FormatError(
                f"{tree.where}: {'/'.join(key)} has {some.count} rows, where {steps * lanes} or {packed} are "
                "expected: it is damaged"
            )
    return Held(tree.where, columns, pairs, grids, compact=True, lost=tree.lost)


def _packed_ends(done: Rows, base: int, steps: int, last: int, where: str) -> NDArray[np.int64]:
    """The steps of a lane after which one more observation lies."""
    found = [NONE]
    for start in range(0, steps, BLOCK):
        stop = min(steps, start + BLOCK)
        flags = flags_of(done.read(base + start, base + stop)[:, None], where, "done")[:, 0]
        if start <= last < stop:
            flags = flags.copy()
            flags[last - start] = True
        found.append(start + np.flatnonzero(flags))
    return np.concatenate(found)
