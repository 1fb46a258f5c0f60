"""A few pieces added to what is open, one after the other: what `Assembler.add` does to many at once, which
takes as long for one as for a thousand.

What is open in a slot is looked at once, as Python's numbers, and put back once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.trajectories.going import Going
from replaystore.trajectories.pieces import NEVER, NO_NUMBER, STEP, Piece
from replaystore.trajectories.sums import running_sum, running_total

__all__ = ["Closed", "add_few"]


class Closed(NamedTuple):
    """A part that has closed."""

    time: int
    env: int
    part: tuple[int, int, int, int, int]
    """start, length, stride, trajectory, offset."""
    final: Mapping[str, NDArray[Any]] | None
    row: tuple[bool, bool, int, Any, int] | None
    """If its trajectory has ended with it: terminated, truncated, seed, return, split."""


def add_few(
    going: Going, first: int, pieces: Sequence[Piece], next_trajectory: int
) -> tuple[list[Closed], int, list[int]]:
    """What closes by these pieces, in the order of time, then environment; the number of the next trajectory;
    the slots in which what is open has changed."""
    numbers = _numbers(going, pieces, next_trajectory)
    going.take_stride(pieces[0].stride, first)
    closed: list[Closed] = []
    slots: list[int] = []
    at: _Slot | None = None
    for place, piece in enumerate(pieces):
        if at is None or at.env != piece.env:
            if at is not None:
                at.put_back()
            at = _Slot(going, piece.env)
            slots.append(at.slot)
        at.take(first, piece, numbers.get(place), closed)
    if at is not None:
        at.put_back()
    if len(closed) > 1:
        closed.sort(key=itemgetter(0, 1))
    return closed, next_trajectory + len(numbers), slots


def _numbers(going: Going, pieces: Sequence[Piece], number: int) -> dict[int, int]:
    """The numbers of the trajectories that have their first step, by piece."""
    begun: list[tuple[int, int, int]] = []
    opened: dict[int, tuple[bool, bool]] = {}
    for at, piece in enumerate(pieces):
        env = piece.env
        if env not in opened:
            slot = going.slot(env)
            opened[env] = slot is not None, slot is not None and bool(going.length(slot))
        is_open, numbered = opened[env]
        if piece.begins == NEVER and not is_open:
            piece.begins = piece.when + (STEP - 1)
        if piece.length and (piece.begins != NEVER or not numbered):
            begun.append((piece.when, env, at))
        opened[env] = piece.ends == NEVER, bool(piece.length)
    return {at: number + place for place, (_, _, at) in enumerate(sorted(begun))}


class _Slot:
    """What is open in one."""

    __slots__ = (
        "_going",
        "_total",
        "env",
        "known",
        "length",
        "offset",
        "open",
        "seed",
        "slot",
        "split",
        "start",
        "stride",
        "terminated",
        "trajectory",
        "truncated",
    )

    def __init__(self, going: Going, env: int) -> None:
        self._going = going
        slot = self.slot = going.slot_of(env)
        numbers, flags, returned = going.state(slot)
        self.env, self.trajectory, self.seed, self.split = numbers[:4]
        self.start, self.length, self.stride, self.offset = numbers[4:]
        self.open, self.known, self.terminated, self.truncated = flags
        self._total: float | NDArray[Any] = float(returned[0]) if len(returned) == 1 else returned.copy()

    def put_back(self) -> None:
        """Let the columns say it."""
        self._going.set_state(
            self.slot,
            (
                self.env,
                self.trajectory,
                self.seed,
                self.split,
                self.start,
                self.length,
                self.stride,
                self.offset,
            ),
            (self.open, self.known, self.terminated, self.truncated),
            self._total,
        )

    def take(self, first: int, piece: Piece, number: int | None, closed: list[Closed]) -> None:
        """Add a piece, and to `closed` what that closes; `number` of the trajectory that begins."""
        if piece.begins != NEVER:
            if self.open and self.offset + self.length:
                closed.append(self._closed(piece.begins, self._following(), ended=True))
            self._begin(piece)
        if number is not None:
            self.trajectory = number
        if piece.length:
            moved = self._extend(first, piece)
            if moved is not None:
                closed.append(moved)
        if piece.ends != NEVER:
            self.terminated, self.truncated = piece.terminated, piece.truncated
            closed.append(self._closed(piece.ends, piece.final, ended=True))
            self.open = False
        if piece.following is not None:
            for name, row in piece.following.items():
                self._going.room(name, row.dtype, row.shape)[self.slot] = row
        self.known = bool(piece.following)

    def _begin(self, piece: Piece) -> None:
        """A trajectory begins, which has no number yet."""
        self.trajectory, self.open, self.seed, self.split = NO_NUMBER, True, piece.seed, piece.split
        self.length = self.offset = self.start = 0
        self.stride = piece.stride
        self._total = 0.0 if isinstance(self._total, float) else np.zeros_like(self._total)
        self.terminated = self.truncated = False

    def _extend(self, first: int, piece: Piece) -> Closed | None:
        """Add a piece's rows to what is open; the part that they do not go on with."""
        start, moved = first + piece.start, None
        if self.length and (piece.apart or self._expected(piece.stride) != start):
            moved = self._closed(
                piece.when + (STEP - 3), self._following() if piece.apart else None, ended=False
            )
            self.offset += self.length
            self.length = 0
        if not self.length:
            self.start, self.stride = start, piece.stride
        self.length += piece.length
        rewards = piece.rewards
        if rewards is not None:
            if not isinstance(self._total, float):
                self._total = running_sum(rewards, self._total[None])
            elif piece.length == 1:
                self._total += float(rewards.item())
            else:
                self._total = running_total(rewards, self._total)
        self.terminated, self.truncated = piece.terminated, piece.truncated
        return moved

    def _expected(self, stride: int) -> int:
        """As `Going.expected`."""
        row = self.start + self.length * stride
        return row if self.open and self.stride == stride and self._going.reaches(row, stride) else -1

    def _following(self) -> dict[str, NDArray[Any]] | None:
        """The observation that was said to follow the last step."""
        if not self.known:
            return None
        return {name: rows[self.slot].copy() for name, rows in self._going.following.items()}

    def _closed(self, time: int, final: Mapping[str, NDArray[Any]] | None, *, ended: bool) -> Closed:
        """The part, and the trajectory if that has `ended`."""
        part = self.start, self.length, self.stride, self.trajectory, self.offset
        row = None
        if ended:
            total = self._total if isinstance(self._total, float) else self._total.copy()
            row = self.terminated, self.truncated, self.seed, total, self.split
        return Closed(time, self.env, part, final, row)
