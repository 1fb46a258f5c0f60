"""What a plain buffer (plain.py) has as of one commit: steps and trajectories, in lists, and what is seen of
them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged
from replaystore.testing.contents import Contents, Story, bits

__all__ = ["Life", "Row", "State"]

Row = dict[str, Any]
"""Arrays, and a `str` of each text."""


@dataclass
class Life:
    """A trajectory."""

    number: int
    env: int
    seed: int
    split: str
    rows: list[int] = field(default_factory=list)
    """The serial numbers of its steps."""
    returned: Any = 0.0
    terminated: bool = False
    truncated: bool = False
    after: Row | None = None
    """The observation after its last step, if known."""
    user: dict[str, Any] = field(default_factory=dict)


@dataclass
class State:
    """All that a commit keeps, and what is not committed yet."""

    schema: Schema
    rows: dict[int, Row] = field(default_factory=dict)
    """The steps, by serial number (the order in which they happened)."""
    order: list[int] = field(default_factory=list)
    """The order in which they are stored."""
    following: dict[int, Row | None] = field(default_factory=dict)
    """For each step the observation after it, where that is known."""
    ended: list[Life] = field(default_factory=list)
    open: dict[int, Life] = field(default_factory=dict)
    next_number: int = 0
    first: int = 0
    user: dict[str, np.dtype[Any]] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    """The commits that have names."""
    perhaps: set[str] = field(default_factory=set)
    """Names that a rollback gave back to a commit which had lost them: if that commit was kept."""
    newest: str = ""
    """The name of which a ring has kept the rows ever since it was given; none: nobody knows whether it has
    those of any."""

    def copied(self) -> State:
        """A copy that goes its own way, as a commit keeps it: trajectories without steps are left out. Rows
        never change, and are shared."""
        lives: list[Life] = [*self.ended, *self.open.values()]
        twins = {id(life): copy.copy(life) for life in lives}
        for twin in twins.values():
            twin.rows, twin.user = list(twin.rows), dict(twin.user)
        ended = [twins[id(life)] for life in self.ended]
        opened = {env: twins[id(life)] for env, life in self.open.items() if life.rows}
        return State(
            self.schema,
            dict(self.rows),
            list(self.order),
            dict(self.following),
            ended,
            opened,
            self.next_number,
            self.first,
            dict(self.user),
            dict(self.names),
            set(self.perhaps),
            self.newest,
        )

    def kept(self, lives: Iterable[Life]) -> list[Life]:
        """Trajectories of which a step is left."""
        kept = set(self.order[self.first :])
        return [life for life in lives if kept.intersection(life.rows)]

    def contents(self) -> Contents:
        """What is seen of it."""
        schema = self.schema
        kept = self.order[self.first :]
        here = set(kept)
        ended, opened = (
            self.kept(self.ended),
            self.kept(sorted(self.open.values(), key=lambda life: life.number)),
        )
        stories = []
        for life in [*ended, *opened]:
            steps = [self.rows[number] for number in life.rows if number in here]
            columns = {
                name: _stack([row[name] for row in steps], declared)
                for name, declared in schema.fields.items()
            }
            stories.append(Story(columns, life.after))
        pending = {life.rows[-1] for life in opened}
        following: dict[str, list[bytes | None]] = {}
        for name in schema.names("observation"):
            after = [None if number in pending else self.following[number] for number in kept]
            following[name] = [None if row is None else bits(row[name]) for row in after]
        columns = {
            name: _stack([self.rows[number][name] for number in kept], declared)
            for name, declared in schema.fields.items()
        }
        return Contents(columns, self._table(ended, opened), stories, following)

    def _table(self, ended: list[Life], opened: list[Life]) -> dict[str, NDArray[Any]]:
        lives = [*ended, *opened]
        table = {
            "trajectory": np.array([life.number for life in lives], np.int64),
            "env": np.array([life.env for life in lives], np.int64),
            "length": np.array([len(life.rows) for life in lives], np.int64),
            "terminated": np.array([life.terminated for life in lives], np.bool_),
            "truncated": np.array([life.truncated for life in lives], np.bool_),
            "seed": np.array([life.seed for life in lives], np.int64),
            "return": np.array([life.returned for life in lives], np.float64).reshape(
                len(lives), *self.schema.fields["reward"].shape
            ),
            "split": np.array([life.split for life in lives], np.str_),
        }
        for name, dtype in sorted(self.user.items()):
            blank = np.nan if dtype.kind == "f" else 0
            table[name] = np.array([life.user.get(name, blank) for life in lives], dtype)
        return table | {"open": np.arange(len(lives)) >= len(ended)}


def _stack(rows: list[Any], declared: Field) -> Any:
    if declared.ragged:
        return Ragged.of(rows, declared.dtype, declared.inner, text=declared.text)
    return np.array(rows, declared.dtype).reshape(len(rows), *declared.shape)
