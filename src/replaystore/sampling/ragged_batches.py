"""Batches of fields of any length: where the values lie is sampled as if it were a plain field, and becomes
the values when a batch has been gathered, in whatever shape that is.

Invariants:
1. The values are those of the commit, or of the rows, that the batch is of, whatever the buffer goes on to in
   another thread.
2. A step that is padding has an empty value, as all that is padded is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from replaystore.columns.coded import CodedColumn
from replaystore.columns.far import announce_first, drop
from replaystore.columns.plain import PlainColumn
from replaystore.columns.values import Values
from replaystore.sampling.gather import Columns

__all__ = ["Resolver"]


class Resolver:
    """Puts the values of fields of any length in the place of where they lie."""

    def __init__(self, columns: Columns, names: Sequence[str]) -> None:
        self._columns, self._names = columns, names
        self._values: dict[str, Values] = {}
        self.go_on()

    @staticmethod
    def of(columns: Columns, names: Iterable[str]) -> Resolver | None:
        """None: none of these fields is of any length."""
        ragged = [name for name in names if name in columns.schema.ragged]
        return Resolver(columns, ragged) if ragged else None

    def go_on(self) -> None:
        """There are the values of what the columns show now."""
        self._values = {name: self._columns.values_of(name) for name in self._names}

    def resolve(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch as it was gathered, with the values; what was said to follow steps among them."""
        there = [
            (values, key)
            for name, values in self._values.items()
            for key in (name, f"next_{name}")
            if key in batch
        ]
        if self.far and len(there) > 1:
            self._together(batch, there)
            return batch
        for values, key in there:
            batch[key] = values.take(batch[key])
        return batch

    def _together(self, batch: dict[str, Any], there: list[tuple[Values, str]]) -> None:
        """As `resolve`, of values that are far: all of them are asked for side by side, and it is asked once
        whether the store has gone back."""
        wanted = [(values.column, values.wanted(batch[key])) for values, key in there]
        files = wanted[0][0].files
        announce_first(files, [column.lookups(rows) for column, several in wanted for rows in several])
        announce_first(files, [column.places(rows) for column, several in wanted for rows in several])
        unchecked = list[tuple[Callable[[], None], Callable[[], None]]]()
        try:
            for values, key in there:
                batch[key] = values.take(batch[key], unchecked=unchecked)
        except BaseException:
            for column, several in wanted:
                for rows in several:
                    drop(files, column.places(rows))
            raise
        if unchecked:
            unchecked[0][0]()  # they are of one store
            for _, confirm in unchecked:
                confirm()

    @property
    def coded(self) -> bool:
        """Whether values of any field are decoded."""
        return any(isinstance(values.column, CodedColumn) for values in self._values.values())

    @property
    def far(self) -> bool:
        """Whether they come from far away."""
        return any(values.column.files.far for values in self._values.values())

    def explain(self) -> list[str]:
        """A line for each field: how its values are read, once it is known where they lie."""
        return [f"{name}, its values: {_way(values)}" for name, values in self._values.items()]


def _way(values: Values) -> str:
    column = values.column
    if column.files.far:
        return "far, those of a batch asked for together"
    if isinstance(column, PlainColumn):
        return "raw, mapped: copied" if column.mapped else "raw, but not mapped: system calls"
    return "coded: chunks are decoded as they are asked for, and shared with other readers"
