"""What a conversion takes out of a buffer: which rows, and the tables that describe them in a buffer of their
own.

`whole` keeps rows, trajectories and their numbers as they are (a ring is its window, whose rows then count
from 0). `selection` takes trajectories, in the order of the table, each as one run of rows; they keep their
numbers (column `trajectory`), so that what was selected into several buffers can be told apart and found
again in the source. A selected trajectory that is still open is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SchemaError
from replaystore.schema import tree
from replaystore.trajectories.opened import Open, to_numbers
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.table import Trajectories
from replaystore.views.followed import stored_parts
from replaystore.views.reader import BufferReader

__all__ = ["Excerpt", "chosen", "selection", "whole"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Excerpt:
    """Rows of a buffer, and all else that a buffer of these rows holds."""

    starts: Rows
    lengths: Rows
    strides: Rows
    """The rows, run after run, as the source's arrays number them."""
    parts: Parts
    table: dict[str, NDArray[Any]]
    """The columns of ended trajectories, by name, as they are stored."""
    finals: Rows
    """Rows of the source's final observations, in their new order."""
    pending: Sequence[dict[str, NDArray[Any]]]
    """Further final observations, which follow: those of trajectories that are cut off."""
    opened: Sequence[Open]
    """The trajectories that go on, with the observations that follow their last steps, if known."""
    next_trajectory: int
    splits: list[str]
    notes: list[str]
    """What is not as it was."""
    window: int | None = None
    """So many rows of the source are the same in another order, then the next ones; None: any may be
    anywhere."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.lengths.sum())

    @property
    def trajectories(self) -> int:
        """How many have steps here."""
        return len(
            np.union1d(
                self.parts.trajectory, [entry.trajectory for entry in self.opened if entry.part_length]
            )
        )

    @property
    def extra(self) -> dict[str, Any]:
        """What is kept with the commit."""
        finals = len(self.finals) + len(self.pending)
        return {
            "open": to_numbers(self.opened),
            "next": self.next_trajectory,
            "splits": self.splits,
            "finals": finals,
        }

    def attachments(self, observations: Sequence[str]) -> dict[str, bytes]:
        """The observations that follow the last steps of open trajectories, one behind the other."""
        known = [entry.following for entry in self.opened if entry.following is not None]
        return (
            {name: b"".join(row[name].tobytes() for row in known) for name in observations} if known else {}
        )


# --- all of it


def whole(buffer: BufferReader, observations: Sequence[str]) -> Excerpt:
    """Everything that a buffer shows; of observations only these fields."""
    store, first = buffer.store, buffer.first_row
    stop, extra = first + len(buffer), store.state.extra
    start, length, stride, trajectory, offset, final = np.ascontiguousarray(stored_parts(store).T)
    cut = -(-np.maximum(first - start, 0) // stride)
    kept = cut < length
    finals = np.arange(extra["finals"]) if not first else np.unique(final[kept & (final >= 0)])
    if not observations:
        finals = finals[:0]
    number = np.searchsorted(finals, final)
    final = np.where(final >= 0, number, -1) if observations else np.full(len(final), -1)
    start, length, offset = start + cut * stride - first, length - cut, offset + cut
    parts = Parts(*(column[kept] for column in (start, length, stride, trajectory, offset, final)))
    stored = [name for name in store.specs() if tree.is_trajectories(name)]
    table = {tree.column_of(name): store.table(name) for name in stored}
    if first:
        remaining = np.isin(table["trajectory"], parts.trajectory)
        table = {name: column[remaining] for name, column in table.items()}
    notes = []
    if buffer.capacity is not None:
        notes.append(
            f"the ring of capacity {buffer.capacity} is written as its window of {stop - first} "
            "steps, and is no ring any more"
        )
    opened = [_since(entry, first, observations) for entry in buffer.open_trajectories()]
    return Excerpt(
        starts=np.array([first]),
        lengths=np.array([stop - first]),
        strides=np.array([1]),
        parts=parts,
        table=table,
        finals=finals,
        pending=[],
        opened=opened,
        next_trajectory=extra["next"],
        splits=list(extra["splits"]),
        notes=notes,
    )


def _since(entry: Open, first: int, observations: Sequence[str]) -> Open:
    """An open trajectory in a window that begins with row `first`."""
    if entry.part_length:
        cut = min(-(-max(first - entry.part_start, 0) // entry.stride), entry.part_length)
        entry.offset, entry.part_length = entry.offset + cut, entry.part_length - cut
        entry.part_start = entry.part_start + cut * entry.stride - first if entry.part_length else 0
    entry.following = _following(entry, observations)
    return entry


def _following(entry: Open, observations: Sequence[str]) -> dict[str, NDArray[Any]] | None:
    """The observation after its last step in these fields; None unless all of them are known."""
    known = entry.following
    return (
        {name: known[name] for name in observations}
        if observations and known and known.keys() >= set(observations)
        else None
    )


# --- some trajectories


def chosen(buffer: BufferReader, where: str | None, split: str | None) -> Trajectories:
    """The trajectories of this split for which this is true. SchemaError: there is none, or nothing can be
    selected so."""
    table = buffer.trajectories
    selected = table.where(where, **({} if split is None else {"split": split}))
    if len(selected):
        return selected
    asked = " and ".join(
        f"{name} {value!r}" for name, value in (("split", split), ("where", where)) if value is not None
    )
    known = sorted(set(table["split"].tolist()))
    named = ", ".join(map(repr, known)) if any(known) else "none"
    if not len(table):
        reason = "there are no trajectories at all"
    elif split is not None and split not in known:
        reason = f"no trajectory has split {split!r}; splits are {named}"
    else:
        lengths = table["length"]
        reason = (
            f"none of {len(table)} trajectories has {asked}; their lengths are from {lengths.min()} to "
            f"{lengths.max()}, splits are {named}"
        )
    raise SchemaError(f"{buffer.where}: nothing is selected: {reason}")


def selection(buffer: BufferReader, chosen: Trajectories, observations: Sequence[str]) -> Excerpt:
    """The steps of these trajectories of a buffer; of observations only these fields."""
    parts = buffer.parts
    taken = parts.parts_of(chosen["trajectory"])
    merged, pending = _merged(parts, taken, observations, buffer.open_trajectories())
    table = {name: column for name, column in chosen.columns.items() if name != "open"}
    splits: list[str] = list(buffer.store.state.extra["splits"])
    codes = {split: code for code, split in enumerate(splits)}
    table["split"] = np.array([codes[str(split)] for split in chosen["split"].tolist()], np.int32)
    finals = parts.final[taken]
    notes = []
    if len(chosen) < buffer.num_trajectories:
        notes.append(
            f"{buffer.num_trajectories - len(chosen)} of {buffer.num_trajectories} trajectories are left out"
        )
    cut = int(np.count_nonzero(chosen.open))
    if cut:
        notes.append(f"{cut} trajectories that were still open are cut off")
    return Excerpt(
        starts=parts.start[taken],
        lengths=parts.length[taken],
        strides=parts.stride[taken],
        parts=merged,
        table=table,
        finals=finals[finals >= 0] if observations else finals[:0],
        pending=pending,
        opened=[],
        next_trajectory=buffer.store.state.extra["next"],
        splits=splits,
        notes=notes,
    )


def _merged(
    parts: Parts, taken: Rows, observations: Sequence[str], opened: Sequence[Open]
) -> tuple[Parts, list[dict[str, NDArray[Any]]]]:
    """The parts when their rows lie side by side, and the final observations of trajectories that are cut
    off.

    A part that has a final observation of its own ends even where its trajectory goes on: the next row's is
    another one."""
    length, trajectory, final = parts.length[taken], parts.trajectory[taken], parts.final[taken]
    ends = np.append(trajectory[1:] != trajectory[:-1], True)[: len(taken)] | (final >= 0)
    last = np.flatnonzero(ends)
    begin = np.concatenate([[0], last[:-1] + 1])[: len(last)]
    sums = np.concatenate([[0], np.cumsum(length)])
    numbered = np.where(final[last] >= 0, np.cumsum(final[last] >= 0) - 1, -1)
    pending: list[dict[str, NDArray[Any]]] = []
    if not observations:
        numbered[:] = -1
    count = int((numbered >= 0).sum())
    owner = trajectory[last]
    for entry in opened:
        following, mine = _following(entry, observations), np.flatnonzero(owner == entry.trajectory)
        if following is not None and len(mine):
            numbered[mine[-1]] = count + len(pending)
            pending.append(following)
    merged = Parts(
        sums[begin],
        sums[last + 1] - sums[begin],
        np.ones_like(owner),
        owner,
        parts.offset[taken][begin],
        numbered,
    )
    return merged, pending
