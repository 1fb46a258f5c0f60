"""A buffer that grows, in plain lists: environments that take turns, with masks and ends, whose rows are told
as a `Growth` tells them; and what its items are, found by plain loops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.trajectories.growth import OpenParts


@dataclass
class Told:
    """A part."""

    start: int
    stride: int
    trajectory: int
    offset: int
    length: int = 0
    final: int = -1

    @property
    def rows(self) -> list[int]:
        return [self.start + self.stride * step for step in range(self.length)]


@dataclass
class Growing:
    """As a recorder: rows of one vector step lie side by side."""

    envs: int
    capacity: int | None = None
    rows: int = 0
    width: int = 0
    switched: int = 0
    """The stride of the newest rows, and since which row."""
    generation: int = 0
    parts: list[Told] = field(default_factory=list)
    """Those that have ended, in this order."""
    open: dict[int, Told] = field(default_factory=dict)
    """By trajectory."""
    of: dict[int, int] = field(default_factory=dict)
    """The open trajectory of each environment."""
    lives: list[list[int]] = field(default_factory=list)
    """The rows of each trajectory."""
    known: list[bool] = field(default_factory=list)
    """Of each trajectory, whether what follows its last step is known."""
    finals: int = 0
    evicted_to: int = 0

    def step(self, envs: list[int], *, stride: int | None = None, followed: bool = True) -> None:
        """One step of these environments."""
        width = self.envs if stride is None else stride
        if width != self.width:  # parts that overlap have one stride
            self.width, self.switched = width, self.rows
        for env in envs:
            if env not in self.of:
                self.of[env] = len(self.lives)
                self.lives.append([])
                self.known.append(False)
            number = self.of[env]
            row = self.rows
            part = self.open.get(number)
            adjacent = part is not None and part.start + part.length * part.stride == row
            if part is None or not adjacent or part.start < self.switched:
                offset = 0
                if part is not None:
                    self.parts.append(part)
                    offset = part.offset + part.length
                part = self.open[number] = Told(row, width, number, offset)
            part.length += 1
            self.lives[number].append(row)
            self.known[number] = followed
            self.rows += 1

    def end(self, env: int, *, known: bool = True) -> None:
        number = self.of.pop(env, None)
        if number is None:
            return
        part = self.open.pop(number)
        self.known[number] = known
        if known:
            part.final, self.finals = self.finals, self.finals + 1
        self.parts.append(part)

    def evict(self) -> None:
        """As a commit of a ring does."""
        if self.capacity is not None:
            self.evicted_to = max(self.evicted_to, self.rows - self.capacity)

    @property
    def first(self) -> int:
        return self.evicted_to

    @property
    def stop(self) -> int:
        return self.rows

    # --- the protocol

    @property
    def bounds(self) -> tuple[int, int]:
        return self.evicted_to, self.rows

    @property
    def oldest_part(self) -> int:
        return 0

    @property
    def closed_parts(self) -> int:
        return len(self.parts)

    def closed(self, since: int) -> np.ndarray[Any, Any]:
        rows = [[p.start, p.length, p.stride, p.trajectory, p.offset, p.final] for p in self.parts[since:]]
        return np.array(rows, np.int64).reshape(-1, 6)

    def opened(self) -> OpenParts:
        parts = [self.open[number] for number in sorted(self.open)]
        columns = [
            np.array([getattr(p, name) for p in parts], np.int64)
            for name in ("start", "length", "stride", "trajectory", "offset")
        ]
        return OpenParts(*columns, followed=np.array([self.known[p.trajectory] for p in parts], np.bool_))

    def following(self, name: str) -> np.ndarray[Any, Any]:
        return np.array([self.lives[number][-1] + 0.5 for number in sorted(self.open)])

    def final_rows(self, name: str, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        ends = {p.final: self.lives[p.trajectory][-1] + 0.5 for p in self.parts if p.final >= 0}
        return np.array([ends[number] for number in numbers.tolist()])

    # --- plain loops

    def kept(self, number: int) -> list[int]:
        return [row for row in self.lives[number] if row >= self.first]

    def items(self, *, span: int, history: int, following: bool) -> dict[int, tuple[int, int]]:
        """The row of each item, with its trajectory and its place among the rows that are kept of it."""
        found = {}
        for number in range(len(self.lives)):
            kept = self.kept(number)
            low = history if len(kept) < len(self.lives[number]) else 0
            high = len(kept) - span + 1 - (1 if following and not self.known[number] else 0)
            for place in range(low, max(low, high)):
                found[kept[place]] = number, place
        return found
