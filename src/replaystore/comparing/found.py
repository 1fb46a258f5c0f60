"""What differs between two buffers, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["SIDES", "Diff", "Difference"]

SIDES = ("first", "second")
"""What messages call them: as they were named."""
SHOWN = 60
"""Characters of a value."""


@dataclass(frozen=True)
class Difference:
    """The first place where two buffers have something else."""

    thing: str
    """A field, or what is beside steps, as `Digest.rest` names it."""
    trajectory: int | None = None
    """Its place among all, in the order of ending, open ones last; None: it is of none, or of the whole."""
    step: int | None = None
    """In the trajectory; of steps of no trajectory, among these."""
    at: tuple[int, ...] = ()
    """Of the value of a step, the first element that differs."""
    mine: Any = None
    theirs: Any = None
    """What each has there; None: nothing."""
    column: bool = False
    """Whether it is of a column of the table of trajectories; of no trajectory: only one has the column."""

    def __str__(self) -> str:
        if self.column and self.trajectory is None:
            return f"only the {SIDES[self.mine is None]} has the column {self.thing!r}"
        element = str(list(self.at)) if self.at else ""
        places = [
            f"the column {self.thing!r}" if self.column else f"{self.thing}{element}",
            *([] if self.trajectory is None else [f"trajectory {self.trajectory}"]),
            *([] if self.step is None else [f"step {self.step}"]),
        ]
        if self.mine is None and self.theirs is None:
            return f"{', '.join(places)}: not the same in both"
        nothing = "nothing" if self.step is None else "no such step"
        said = [_shown(value, nothing) for value in (self.mine, self.theirs)]
        return f"{', '.join(places)}: {said[0]} in the {SIDES[0]}, {said[1]} in the {SIDES[1]}"

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "thing": self.thing,
            "trajectory": self.trajectory,
            "step": self.step,
            "at": list(self.at),
            "mine": self.mine,
            "theirs": self.theirs,
        }


def _shown(value: Any, nothing: str) -> str:
    if value is None:
        return nothing
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


@dataclass(frozen=True)
class Diff:
    """What differs between two buffers: `mine`, which was named first, and `theirs`."""

    schema: list[str] = field(default_factory=list)
    """In words: fields that only one has, or that are of another dtype or shape; numbers of trajectories."""
    fields: Mapping[str, Difference] = field(default_factory=dict)
    """The first difference of each field that both have, by name."""
    rest: Mapping[str, Difference] = field(default_factory=dict)
    """The first difference of each thing beside steps."""

    @property
    def equal(self) -> bool:
        """Whether both hold the same."""
        return not (self.schema or self.fields or self.rest)

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        return not self.equal

    @property
    def first(self) -> Difference | None:
        """The first of all, by trajectory and step; what is beside steps comes after them."""
        if self.fields:
            return min(self.fields.values(), key=_place)
        return min(self.rest.values(), key=_place, default=None)

    def lines(self) -> list[str]:
        """All of it in words, a line each: of the whole, then by trajectory and step, then of what is beside
        steps."""
        fields = sorted(self.fields.values(), key=_place)
        return [*self.schema, *map(str, fields), *map(str, self.rest.values())]

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        first = self.first
        return {
            "equal": self.equal,
            "first": None if first is None else first.to_json(),
            "schema": list(self.schema),
            "fields": {name: one.to_json() for name, one in self.fields.items()},
            "rest": {name: one.to_json() for name, one in self.rest.items()},
        }


def _place(one: Difference) -> tuple[bool, int, int]:
    return one.trajectory is None, one.trajectory or 0, -1 if one.step is None else one.step
