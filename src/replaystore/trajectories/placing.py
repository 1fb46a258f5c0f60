"""Where pieces lie that are added to what is open: which of them go on, which begin, and which parts close by
it. What it amounts to is for the assembler to say, which changes what is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.trajectories.going import Going
from replaystore.trajectories.pieces import NEVER, STEP, Pieces

__all__ = ["UNKNOWN", "Closing", "Placed", "slots_closing"]

Ints = NDArray[np.int64]
UNKNOWN = -1
"""No final observation is known."""


@dataclass
class Closing:
    """Parts that close, one entry each."""

    time: Ints
    env: Ints
    part: Ints
    """(n, 5): start, length, stride, trajectory, offset."""
    final: Ints
    """The row of the observation after it among those that come with the pieces; UNKNOWN; or -2 - slot, for
    what follows in that slot."""
    ended: NDArray[np.bool_]
    """Whether the trajectory ends with it; what follows is of its row of the table."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    seed: Ints
    split: Ints
    returned: NDArray[np.float64]

    def take(self, chosen: Any) -> Closing:
        """Some of them."""
        return Closing(*(column[chosen] for column in vars(self).values()))

    def and_then(self, other: Closing) -> Closing:
        """These and those."""
        if not len(self.env) or not len(other.env):
            return self if len(self.env) else other
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return Closing(*(np.concatenate(both) for both in columns))


def slots_closing(going: Going, slots: Ints, time: Ints, *, ended: Any = True, known: Any = None) -> Closing:
    """What is open in these slots, as it closes now. `ended`: the trajectory does; `known`: what follows is
    kept (otherwise where it is known)."""
    known = going.known[slots] if known is None else going.known[slots] & known
    columns = going.part_start, going.part_length, going.stride, going.trajectory, going.offset
    return Closing(
        time,
        going.env[slots],
        np.stack([column[slots] for column in columns], axis=1),
        np.where(known, -2 - slots, UNKNOWN),
        np.full(len(slots), True) & ended,
        going.terminated[slots],
        going.truncated[slots],
        going.seed[slots],
        going.split[slots],
        going.returned[slots],
    )


class Placed:
    """Pieces beside what is open, which has not changed yet."""

    def __init__(self, going: Going, first: int, pieces: Pieces) -> None:
        count, env = len(pieces.env), pieces.env
        new = np.empty(count, np.bool_)
        new[0] = True
        np.not_equal(env[1:], env[:-1], out=new[1:])
        self.firsts = np.flatnonzero(new)
        """The first piece of each environment; `lasts`: the last one."""
        self.lasts = np.append(self.firsts[1:], count) - 1
        self.slots = going.slots(env[self.firsts].tolist())
        """By environment, as all that is asked of `firsts`."""
        self.stride = np.full(count, pieces.stride)
        self._begin_and_end(going, pieces, new)
        begins = self.begins != NEVER
        was_open = going.open[self.slots]
        steps = going.length(self.slots)
        self.goes_on = was_open & ~begins[self.firsts]
        """Where the first piece belongs to what is open."""
        self.numbered = self.goes_on & (steps > 0)
        """Where that has steps, and so a number."""
        self.cut = was_open & ~self.goes_on & (steps > 0)
        head = begins | new
        places = np.arange(count)
        self.head = np.maximum.accumulate(np.where(head, places, 0))
        """The first piece here of each piece's trajectory, and the number of that."""
        self.group = np.cumsum(head) - 1
        self._extend(going, first, pieces)
        goes_on = np.append(~new[1:] & ~begins[1:], False)
        self.closes = (self.ends != NEVER) | goes_on
        """Whose part closes: the trajectory ends, or goes on elsewhere, when `broken` says."""
        self.broken = np.append(pieces.when[1:], 0) + (STEP - 3)

    def _begin_and_end(self, going: Going, pieces: Pieces, new: NDArray[np.bool_]) -> None:
        """Where nothing is open a trajectory begins; one that is open ends where another one begins."""
        self.begins, self.ends = pieces.begins.copy(), pieces.ends.copy()
        before = np.empty(len(new), np.bool_)
        before[self.firsts] = going.open[self.slots]
        inner = np.flatnonzero(~new)
        before[inner] = self.ends[inner - 1] == NEVER
        implied = ~before & (self.begins == NEVER)
        self.begins[implied] = pieces.when[implied] + (STEP - 1)
        cut = inner[before[inner] & (self.begins[inner] != NEVER)]
        self.ends[cut - 1] = self.begins[cut]

    def _extend(self, going: Going, first: int, pieces: Pieces) -> None:
        """The parts that the pieces are the ends of: `start`, `length`, `offset`."""
        slots, firsts, on, length = self.slots, self.firsts, self.goes_on, going.part_length[self.slots]
        self.start, self.length = pieces.start + first, pieces.length.copy()
        joins = on & (going.expected(slots, pieces.stride) == self.start[firsts])
        self.apart = np.zeros(len(firsts), np.bool_)
        """Where the first observation is not the one that was said to follow."""
        if len(pieces.apart):
            self.apart[np.searchsorted(firsts, pieces.apart)] = True
            joins &= ~self.apart
        self.leaves = on & ~joins & (length > 0)
        """Where what is open goes on elsewhere."""
        self.start[firsts[joins]] = going.part_start[slots[joins]]
        self.length[firsts[joins]] += length[joins]
        base = np.zeros(len(self.start), np.int64)
        base[firsts[on]] = going.offset[slots[on]] + np.where(joins, 0, length)[on]
        sums = np.cumsum(self.length) - self.length
        self.offset = base[self.head] + sums - sums[self.head]

    def old(self, going: Going, pieces: Pieces) -> Closing:
        """The parts that were open, and close: the trajectory is cut off, or goes on elsewhere."""
        closes = np.flatnonzero(self.cut | self.leaves)
        firsts, ended = self.firsts[closes], self.cut[closes]
        time = np.where(ended, self.begins[firsts], pieces.when[firsts] + (STEP - 3))
        return slots_closing(going, self.slots[closes], time, ended=ended, known=ended | self.apart[closes])
