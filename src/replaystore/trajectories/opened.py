"""A trajectory that has not ended, as a commit keeps it, and as those see it who read one.

A commit keeps a matrix of int64, with a column for each of them, in the order of their numbers, which are its
first row. Its rows are `COLUMNS`, flags, and the return, component by component, as the bits of float64
numbers. The observations after their last steps are kept beside it, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLUMNS",
    "Open",
    "as_numbers",
    "attachments_of",
    "check_numbers",
    "followed",
    "from_numbers",
    "to_numbers",
]

COLUMNS = ("trajectory", "env", "seed", "split", "part_start", "part_length", "stride", "offset")
TERMINATED, TRUNCATED, FOLLOWED = 1, 2, 4
"""Flags: of the last step, and that the observation after it is kept."""
MOST = 1 << 62


@dataclass
class Open:
    """A trajectory that has not ended."""

    trajectory: int
    env: int
    seed: int
    split: int
    returned: Any = 0.0
    """The sum of rewards so far: a float, or a list for vector rewards."""
    part_start: int = 0
    part_length: int = 0
    stride: int = 1
    offset: int = 0
    """The place of the part's first step in the trajectory."""
    following: dict[str, NDArray[Any]] | None = None
    """The observation after its last step, if known."""
    known: bool = False
    """Whether that is known, also where it is kept elsewhere."""
    terminated: bool = False
    truncated: bool = False
    """The flags of its last step. They are set only where the source says that trajectories end elsewhere."""

    @property
    def length(self) -> int:
        return self.offset + self.part_length


def check_numbers(kept: Any, *, components: int | None) -> None:
    """ValueError: it is no matrix of open trajectories. `components`: of a reward that is not a scalar."""
    if not isinstance(kept, np.ndarray) or kept.dtype != np.int64 or kept.ndim != 2:
        raise ValueError(f"{kept!r:.80} are no open trajectories")
    if not kept.size:
        return
    count = len(COLUMNS) + 1
    if len(kept) != count + (components or 1):
        raise ValueError(f"{len(kept)} numbers of an open trajectory")
    trajectory, env, flags = kept[0], kept[1], kept[count - 1]
    low, most = kept[:count].min(axis=1).tolist(), int(kept[:count].max())
    if min(low[0], *low[3:6], low[6] - 1, low[7]) < 0 or most >= MOST or min(low[1], low[2]) < -2 * MOST:
        raise ValueError("numbers that no open trajectory has")
    most_flags = TERMINATED | TRUNCATED | FOLLOWED
    if (trajectory[1:] <= trajectory[:-1]).any() or low[8] < 0 or int(flags.max()) > most_flags:
        raise ValueError("open trajectories that are not in order, or have flags that none has")
    if len(set(env.tolist())) < kept.shape[1]:
        raise ValueError("several open trajectories of one environment")


def from_numbers(kept: Any, *, components: int | None) -> list[Open]:
    """The trajectories of a matrix, without the observations. `components`: of a reward, if it is not a
    scalar. ValueError: it is none of ours."""
    check_numbers(kept, components=components)
    if not kept.size:
        return []
    count, numbers, flags = len(COLUMNS) + 1, dict(zip(COLUMNS, kept, strict=False)), kept[len(COLUMNS)]
    returned: list[Any] = np.ascontiguousarray(kept[count:].T).view(np.float64).tolist()
    entries = []
    for at, (told, total) in enumerate(zip(flags.tolist(), returned, strict=True)):
        trajectory, env, seed, split, start, length, stride, offset = (
            int(column[at]) for column in numbers.values()
        )
        known = total[0] if components is None else total
        entry = Open(trajectory, env, seed, split, known, start, length, stride, offset)
        entry.terminated, entry.truncated = bool(told & TERMINATED), bool(told & TRUNCATED)
        entries.append(entry)
    return entries


def followed(kept: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each trajectory of a matrix, whether an observation is kept that follows its last step."""
    found: NDArray[np.bool_] = (kept[len(COLUMNS)] & FOLLOWED) > 0 if kept.size else np.empty(0, np.bool_)
    return found


def to_numbers(opened: Iterable[Open]) -> NDArray[np.int64]:
    """The inverse; of none an empty one."""
    entries = sorted(opened, key=lambda entry: entry.trajectory)
    if not entries:
        return np.empty((0, 0), np.int64)
    numbers = [[getattr(entry, name) for entry in entries] for name in COLUMNS]
    flags = [[getattr(entry, name) for entry in entries] for name in ("terminated", "truncated")]
    known = [entry.known or entry.following is not None for entry in entries]
    returned = np.array([entry.returned for entry in entries], np.float64).reshape(len(entries), -1)
    return as_numbers(np.array(numbers, np.int64), np.array([*flags, known]), returned)


def as_numbers(
    numbers: NDArray[np.int64], flags: NDArray[np.bool_], returned: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The matrix, of `COLUMNS`, of (terminated, truncated, known), and of the return of each."""
    told = flags[0] * TERMINATED + flags[1] * TRUNCATED + flags[2] * FOLLOWED
    bits = np.ascontiguousarray(returned.T).view(np.int64)
    return np.concatenate([numbers, told[None].astype(np.int64), bits])


def attachments_of(opened: Sequence[Open], observations: Iterable[str]) -> dict[str, bytes]:
    """What a commit keeps beside its record: the observations that follow the last steps of open
    trajectories, one behind the other, by field."""
    known = [entry.following for entry in opened if entry.following is not None]
    return {name: b"".join(row[name].tobytes() for row in known) for name in observations} if known else {}
