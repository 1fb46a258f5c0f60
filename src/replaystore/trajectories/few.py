"""A few pieces added to what is open, one after the other: what `Assembler.add` does to many at once, which
takes as long for one as for a thousand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from replaystore.trajectories.going import Going
from replaystore.trajectories.pieces import NEVER, STEP, Piece
from replaystore.trajectories.sums import running_sum

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
) -> tuple[list[Closed], int]:
    """What closes by these pieces, in the order of time, then environment, and the number of the next
    trajectory; what is open has changed."""
    numbers = _numbers(going, pieces, next_trajectory)
    going.take_stride(pieces[0].stride, first)
    closed: list[Closed] = []
    for at, piece in enumerate(pieces):
        (slot,) = going.slots([piece.env]).tolist()
        if piece.begins != NEVER:
            if going.open[slot] and going.length(slot):
                closed.append(_closed(going, slot, piece.begins, _following(going, slot), ended=True))
            _begin(going, slot, numbers.get(at), piece)
        if piece.length:
            moved = _extend(going, slot, first, piece)
            if moved is not None:
                closed.append(moved)
        if piece.ends != NEVER:
            going.terminated[slot], going.truncated[slot] = piece.terminated, piece.truncated
            closed.append(_closed(going, slot, piece.ends, piece.final, ended=True))
            going.open[slot] = False
        if piece.following is not None:
            for name, row in piece.following.items():
                going.room(name, row.dtype, row.shape)[slot] = row
        going.known[slot] = bool(piece.following)
    closed.sort(key=lambda part: part[:2])
    return closed, next_trajectory + len(numbers)


def _numbers(going: Going, pieces: Sequence[Piece], number: int) -> dict[int, int]:
    """The numbers of the trajectories that begin, by piece; one that is reset again before its first step
    keeps its own."""
    begun, is_open = list[tuple[int, int, int]](), dict[int, bool]()
    for at, piece in enumerate(pieces):
        slot = going.slot(piece.env)
        known = is_open.get(piece.env, slot is not None)
        if piece.begins == NEVER and not known:
            piece.begins = piece.when + (STEP - 1)
        again = piece.env not in is_open and slot is not None and not going.length(slot)
        if piece.begins != NEVER and not again:
            begun.append((piece.begins, piece.env, at))
        is_open[piece.env] = piece.ends == NEVER
    return {at: number + place for place, (_, _, at) in enumerate(sorted(begun))}


def _begin(going: Going, slot: int, number: int | None, piece: Piece) -> None:
    if number is not None:
        going.trajectory[slot] = number
    going.open[slot], going.seed[slot], going.split[slot] = True, piece.seed, piece.split
    going.part_length[slot], going.offset[slot], going.returned[slot] = 0, 0, 0.0
    going.part_start[slot], going.stride[slot] = 0, piece.stride
    going.terminated[slot] = going.truncated[slot] = False


def _extend(going: Going, slot: int, first: int, piece: Piece) -> Closed | None:
    """Add a piece's rows to what is open; the part that they do not go on with."""
    start, length = first + piece.start, int(going.part_length[slot])
    moved = None
    if length and (piece.apart or int(going.expected(slot, piece.stride)) != start):
        final = _following(going, slot) if piece.apart else None
        moved = _closed(going, slot, piece.when + (STEP - 3), final, ended=False)
        going.offset[slot] += length
        length = 0
    if not length:
        going.part_start[slot], going.stride[slot] = start, piece.stride
    going.part_length[slot] = length + piece.length
    if piece.rewards is not None:
        before = going.returned[slot : slot + 1]
        if piece.length == 1:
            before += piece.rewards.reshape(1, -1)
        else:
            before[:] = running_sum(piece.rewards, before)
    going.terminated[slot], going.truncated[slot] = piece.terminated, piece.truncated
    return moved


def _following(going: Going, slot: int) -> dict[str, NDArray[Any]] | None:
    if not going.known[slot]:
        return None
    return {name: rows[slot].copy() for name, rows in going.following.items()}


def _closed(
    going: Going, slot: int, time: int, final: Mapping[str, NDArray[Any]] | None, *, ended: bool
) -> Closed:
    columns = going.part_start, going.part_length, going.stride, going.trajectory, going.offset
    start, length, stride, trajectory, offset = (int(column[slot]) for column in columns)
    row = None
    if ended:
        terminated, truncated = bool(going.terminated[slot]), bool(going.truncated[slot])
        seed, split = int(going.seed[slot]), int(going.split[slot])
        row = terminated, truncated, seed, going.returned[slot].copy(), split
    return Closed(time, int(going.env[slot]), (start, length, stride, trajectory, offset), final, row)
