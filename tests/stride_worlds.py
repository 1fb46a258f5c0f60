"""Recordings of environments that take turns row by row, as a plain list says them: which trajectory each row
is of, and how far apart its rows lie."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from replaystore.trajectories.parts import Parts

__all__ = ["World", "worlds"]


@dataclass
class World:
    """Rows, as they were recorded."""

    owner: list[int | None] = field(default_factory=list)
    """Of each row its trajectory; None: it is of none."""
    stride: list[int] = field(default_factory=list)
    """Of each row how many environments recorded then."""
    finals: dict[int, int] = field(default_factory=dict)
    """Of trajectories whose final observation is known its number."""

    @property
    def rows(self) -> dict[int, list[int]]:
        """By trajectory, its rows in the order of steps."""
        found: dict[int, list[int]] = {}
        for row, trajectory in enumerate(self.owner):
            if trajectory is not None:
                found.setdefault(trajectory, []).append(row)
        return found

    def strides(self, start: int, stop: int) -> set[int]:
        """Those of rows of trajectories."""
        rows = range(start, stop)
        return {self.stride[row] for row in rows if self.owner[row] is not None}

    @property
    def columns(self) -> list[list[int]]:
        """Minimal parts, sorted by start."""
        found = []
        for trajectory, rows in self.rows.items():
            for step, row in enumerate(rows):
                stride, before = self.stride[row], rows[step - 1] if step else row
                if row == before + stride and self.strides(before, row) == {stride}:
                    found[-1][1] += 1
                else:
                    found.append([row, 1, stride, trajectory, step, -1])
            found[-1][5] = self.finals.get(trajectory, -1)
        return sorted(found)

    @property
    def parts(self) -> Parts:
        return Parts(*np.array(self.columns, np.int64).reshape(-1, 6).T)


@st.composite
def worlds(draw: st.DrawFn, recordings: int = 4, steps: int = 8) -> World:
    """Some recordings one behind the other, each of some environments; lanes that are not used, and
    environments that change their lane."""
    count, chance = draw(st.integers(0, recordings)), random.Random(draw(st.integers(0, 2**32)))
    world, number, continuing = World(), 0, dict[int, int]()
    for _ in range(count):
        envs = chance.randint(1, 4)
        lanes = list(range(envs))
        for _ in range(chance.randint(1, steps)):
            if chance.random() < 0.2:
                chance.shuffle(lanes)
            for env in lanes:
                event = chance.choice("....ex")
                if event == "e" or env not in continuing:
                    continuing[env], number = number, number + 1
                world.owner.append(None if event == "x" else continuing[env])
                world.stride.append(envs)
        cut = chance.randrange(envs)  # of the last step, that not all of them took
        del world.owner[len(world.owner) - cut :], world.stride[len(world.stride) - cut :]
    for trajectory in world.rows:
        if chance.random() < 0.5:
            world.finals[trajectory] = len(world.finals)
    return world
