"""A trajectory that has not ended, as a commit keeps it, and as those see it who read one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Open"]


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

    def to_json(self) -> list[Any]:
        """What is kept with a commit; the observation is kept beside it. Numbers as text: JSON has no NaN and
        no infinity."""
        returned = [repr(value) for value in np.atleast_1d(self.returned).tolist()]
        numbers = [
            self.trajectory,
            self.env,
            self.seed,
            self.split,
            self.part_start,
            self.part_length,
            self.stride,
            self.offset,
        ]
        flags = [self.terminated, self.truncated] if self.terminated or self.truncated else []
        return [*numbers, returned, self.known or self.following is not None, *flags]

    @classmethod
    def from_json(cls, values: Sequence[Any], *, components: int | None) -> Open:
        """The inverse, without the observation. `components`: of a reward, if it is not a scalar. ValueError:
        it is none of ours."""
        if not isinstance(values, list) or len(values) not in (10, 12):
            raise ValueError(f"{values!r:.80} is no open trajectory")
        *numbers, returned, known = values[:10]
        flags = values[10:]
        if any(type(number) is not int or not -(1 << 63) <= number < 1 << 62 for number in numbers) or any(
            type(flag) is not bool for flag in (known, *flags)
        ):
            raise ValueError(f"an open trajectory has no numbers such as {numbers!r:.80}")
        trajectory, env, seed, split, part_start, part_length, stride, offset = numbers
        if (
            not isinstance(returned, list)
            or len(returned) != (components or 1)
            or not all(isinstance(value, str) for value in returned)
        ):
            raise ValueError(f"{returned!r:.80} is not the return of an open trajectory")
        if min(trajectory, split, part_start, part_length, stride - 1, offset) < 0:
            raise ValueError(f"an open trajectory has no numbers below 0, or 1, such as {numbers!r:.80}")
        total = [float(value) for value in returned]
        return cls(
            trajectory,
            env,
            seed,
            split,
            total[0] if components is None else total,
            part_start,
            part_length,
            stride,
            offset,
            terminated=bool(flags and flags[0]),
            truncated=bool(flags and flags[1]),
        )
