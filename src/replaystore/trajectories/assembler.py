"""From rows to trajectories: which rows belong together, where a trajectory begins and ends, what it
returned. NumPy only, no I/O.

Rows arrive as `Pieces`, made of flags in buffers/given.py (append) and buffers/staged.py (Writer), of blocks
in buffers/recorder.py. What is known of a trajectory that has not ended (its open part, its return so far,
the observation that will follow) is carried along and kept with each commit, so that neither a commit nor the
order in which rows arrive changes a part more than it must: a part ends when its trajectory ends, or when the
trajectory's next row does not lie where the part's stride has it.

The return is summed step after step in float64, so that it does not depend on how the rows were cut into
calls. What closes (parts, and with them final observations and trajectories) is numbered in the order of
time, then environment: that does not depend on it either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.trajectories.columns import RETURN, TRAJECTORIES
from replaystore.trajectories.few import Closed, add_few
from replaystore.trajectories.going import Going
from replaystore.trajectories.opened import Open
from replaystore.trajectories.pieces import NEVER, NO_NUMBER, Following, Piece, Pieces
from replaystore.trajectories.placing import UNKNOWN, Closing, Placed, slots_closing
from replaystore.trajectories.sums import running_sums

__all__ = ["Assembler", "Pending"]

Ints = NDArray[np.int64]
Finals = Mapping[str, NDArray[Any]]


@dataclass
class Pending:
    """Rows of the tables that no commit has yet, in pieces that are concatenated."""

    parts: list[Ints] = field(default_factory=list)
    """(n, 6): the values of `columns.PARTS`."""
    trajectories: list[dict[str, NDArray[Any]] | list[tuple[Any, ...]]] = field(default_factory=list)
    """Columns by the names of `columns.TRAJECTORIES`, or rows of them."""
    ended: int = 0
    """How many trajectories those are."""
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Further values of rows of the table, by trajectory."""
    finals: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    """By observation field, rows."""
    final_rows: int = 0
    """How many."""

    def end(self, trajectories: dict[str, NDArray[Any]] | list[tuple[Any, ...]]) -> None:
        """Take trajectories that have ended."""
        known = self.trajectories
        if isinstance(trajectories, dict):
            known.append(trajectories)
            self.ended += len(trajectories["trajectory"])
        elif trajectories:
            self.ended += len(trajectories)
            if known and isinstance(known[-1], list):
                known[-1].extend(trajectories)
            else:
                known.append(trajectories)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The trajectories; returns as rows of their components."""
        found = list[dict[str, NDArray[Any]]]()
        for known in self.trajectories:
            columns = (
                known
                if isinstance(known, dict)
                else {
                    name: np.array(values)
                    for name, values in zip(TRAJECTORIES, zip(*known, strict=True), strict=True)
                }
            )
            found.append({**columns, RETURN: columns[RETURN].reshape(len(columns[RETURN]), -1)})
        return {name: np.concatenate([known[name] for known in found]) for name in TRAJECTORIES}


class Assembler:
    """Keeps track of the trajectories of all environments.

    Trajectories are numbered in the order of their first steps, and listed in the order in which they end
    (environments in turn where the time is the same), however many steps are added at once. One without steps
    has no number, and no commit keeps it."""

    def __init__(
        self,
        *,
        next_trajectory: int = 0,
        finals: int = 0,
        opened: Sequence[Open] = (),
        shape: tuple[int, ...] = (),
    ) -> None:
        """`shape` of a return."""
        self.next_trajectory = next_trajectory
        self.finals = finals
        """How many final observations there are, those that no commit has yet included."""
        self.pending = Pending()
        self.told: Callable[[Ints, Finals], None] | None = None
        """Whom to tell of parts that close, and of their final observations, beside `pending`."""
        self.shape = shape
        self.going = Going(int(np.prod(shape)))
        self._rows: dict[int, dict[str, Any]] = {}
        """Further values of rows of the table, by open trajectory; not kept with a commit."""
        for entry in opened:
            self.going.resume(entry)

    def opened(self) -> list[Open]:
        """The open trajectories, in the order of their numbers, without the observations that follow."""
        return [self.going.entry(slot, self.shape) for slot in self.going.opened().tolist()]

    # --- rows

    def advance(self, slots: slice | Ints, steps: int, rewards: NDArray[Any] | None) -> None:
        """So many more steps of each of these slots, all of whose parts go on, with these rewards: step after
        step, one slot after the other."""
        going = self.going
        going.part_length[slots] += steps
        if rewards is not None:
            total = going.returned[slots]
            if steps == 1:
                total += rewards.reshape(total.shape)
            else:
                for step in rewards.reshape(steps, *total.shape):
                    total += step
            if not isinstance(slots, slice):  # of a slice it is what stands there
                going.returned[slots] = total

    def add(
        self,
        first: int,
        pieces: Pieces,
        rewards: NDArray[Any] | None,
        finals: Finals,
        following: Following,
    ) -> None:
        """Count the rows of pieces, which begin at row `first`; `rewards` are theirs, one piece behind the
        other. `following`: after the last step of every environment that has a piece, in their order."""
        if not len(pieces.env):
            return
        going, seed, split = self.going, pieces.seed.copy(), pieces.split.copy()
        going.take_stride(pieces.stride, first)
        at = Placed(going, first, pieces)
        on = at.firsts[at.goes_on], at.slots[at.goes_on]
        seed[on[0]], split[on[0]] = going.seed[on[1]], going.split[on[1]]
        number, sums = self._number(pieces, at), self._returns(pieces, at, rewards)
        self._rows_of(pieces, number)
        closes = np.flatnonzero(at.closes)
        head, ended = at.head[closes], at.ends[closes] != NEVER
        part = np.stack([at.start, at.length, at.stride, number, at.offset], axis=1)
        self._close(
            at.old(going, pieces).and_then(
                Closing(
                    np.where(ended, at.ends[closes], at.broken[closes]),
                    pieces.env[closes],
                    part[closes],
                    np.where(ended, pieces.final[closes], UNKNOWN),
                    ended,
                    pieces.terminated[closes],
                    pieces.truncated[closes],
                    seed[head],
                    split[head],
                    sums[at.group[closes]],
                )
            ),
            finals,
        )
        last, slots = at.lasts, at.slots
        going.open[slots] = at.ends[last] == NEVER
        going.seed[slots], going.split[slots] = seed[at.head[last]], split[at.head[last]]
        going.trajectory[slots] = number[last]
        going.part_start[slots] = np.where(at.length[last] > 0, at.start[last], 0)
        going.part_length[slots], going.stride[slots] = at.length[last], pieces.stride
        going.offset[slots], going.returned[slots] = at.offset[last], sums[at.group[last]]
        going.terminated[slots], going.truncated[slots] = pieces.terminated[last], pieces.truncated[last]
        going.follow(following.rows, slots, following.known)
        going.changed(slots)

    def add_few(self, first: int, pieces: Sequence[Piece]) -> None:
        """As `add`, of few pieces, which bring their rewards and final observations."""
        closed, self.next_trajectory, slots = add_few(self.going, first, pieces, self.next_trajectory)
        if closed:
            self._close_few(closed)
        self.going.changed_few(slots)

    def _close_few(self, closed: Sequence[Closed]) -> None:
        """As `_close`, of few parts, in their order."""
        parts: list[tuple[int, ...]] = []
        finals: list[Finals] = []
        ended: list[tuple[Any, ...]] = []
        for _, env, part, final, row in closed:
            start, length, stride, trajectory, offset = part
            number = -1
            if final:
                number = self.finals + len(finals)
                finals.append(final)
            if length:
                parts.append((start, length, stride, trajectory, offset, number))
            if row is not None and length + offset:
                terminated, truncated, seed, returned, split = row
                ended.append((trajectory, env, length + offset, terminated, truncated, seed, returned, split))
        if parts:
            names = finals[0] if finals else ()
            self._list(np.array(parts, np.int64), {n: np.stack([row[n] for row in finals]) for n in names})
        self.pending.end(ended)

    def _number(self, pieces: Pieces, at: Placed) -> Ints:
        """The number of each piece's trajectory; those that have their first step get theirs."""
        number = np.full(len(pieces.env), NO_NUMBER)
        known = at.firsts[at.numbered], at.slots[at.numbered]
        number[known[0]] = self.going.trajectory[known[1]]
        new = (at.head == np.arange(len(number))) & (pieces.length > 0)
        new[known[0]] = False
        fresh = np.flatnonzero(new)
        if len(fresh) > 1:
            fresh = fresh[np.lexsort((pieces.env[fresh], pieces.when[fresh]))]
        number[fresh] = self.next_trajectory + np.arange(len(fresh))
        self.next_trajectory += len(fresh)
        return number[at.head]

    def _returns(self, pieces: Pieces, at: Placed, rewards: NDArray[Any] | None) -> NDArray[np.float64]:
        """What each trajectory has returned, by group of pieces."""
        heads = np.flatnonzero(at.head == np.arange(len(at.head)))
        sums = np.zeros((len(heads), self.going.returned.shape[1]))
        sums[at.group[at.firsts[at.goes_on]]] = self.going.returned[at.slots[at.goes_on]]
        if rewards is None or not len(rewards):
            return sums
        return running_sums(rewards, np.add.reduceat(pieces.length, heads), sums)

    def _rows_of(self, pieces: Pieces, number: Ints) -> None:
        for piece, row in pieces.rows.items():
            self._rows.setdefault(int(number[piece]), {}).update(row)

    def cut(self, envs: Iterable[int]) -> None:
        """End the open trajectories of these environments here, neither terminated nor truncated unless their
        last step is. Those without steps are forgotten."""
        found = [slot for env in envs if (slot := self.going.slot(env)) is not None]
        if found:
            slots = np.array(found, np.int64)
            self._close(slots_closing(self.going, slots, np.zeros(len(slots), np.int64)), {})
            self.going.open[slots] = False
            self.going.changed(slots)

    # --- what closes

    def _close(self, closing: Closing, finals: Finals) -> None:
        """List what closes, in the order of time, then environment."""
        count = len(closing.env)
        if count > 1:
            closing = closing.take(np.lexsort((closing.env, closing.time)))
        pending, has_rows, rows = self.pending, closing.part[:, 1] > 0, dict[str, NDArray[Any]]()
        known = np.flatnonzero((closing.final != UNKNOWN) & has_rows)
        parts = np.full((count, 6), -1, np.int64)
        parts[:, :5] = closing.part
        if len(known):
            parts[known, 5] = self.finals + np.arange(len(known))
            rows = self._final_rows(closing.final[known], finals)
        if has_rows.any():
            self._list(parts if has_rows.all() else parts[has_rows], rows)
        length = closing.part[:, 1] + closing.part[:, 4]
        ended = closing.ended & (length > 0)
        if not ended.any():
            return
        row = closing if ended.all() else closing.take(ended)
        pending.end(
            {
                "trajectory": row.part[:, 3],
                "env": row.env,
                "length": row.part[:, 1] + row.part[:, 4],
                "terminated": row.terminated,
                "truncated": row.truncated,
                "seed": row.seed,
                RETURN: row.returned.reshape(-1, *self.shape),
                "split": row.split,
            }
        )
        for number in row.part[:, 3].tolist() if self._rows else ():
            if number in self._rows:
                pending.rows[number] = self._rows.pop(number)

    def _list(self, parts: Ints, finals: dict[str, NDArray[Any]]) -> None:
        """These parts have closed, some of them with a final observation."""
        self.pending.parts.append(parts)
        if finals:
            self.pending.finals.append(finals)
            count = len(next(iter(finals.values())))
            self.pending.final_rows += count
            self.finals += count
        if self.told is not None:
            self.told(parts, finals)

    def _final_rows(self, final: Ints, finals: Finals) -> dict[str, NDArray[Any]]:
        """The rows of final observations: those of `finals`, or those that slots know."""
        slots = np.flatnonzero(final < UNKNOWN)
        if not len(slots):
            return {name: rows[final] for name, rows in finals.items()}
        found = {}
        for name, following in self.going.following.items():
            found[name] = np.empty((len(final), *following.shape[1:]), following.dtype)
            if len(slots) < len(final):
                found[name][final >= 0] = finals[name][final[final >= 0]]
            found[name][slots] = following[-2 - final[slots]]
        return found
