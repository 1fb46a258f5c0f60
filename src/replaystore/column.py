"""What reading gives: one field over all steps, read as it is asked for, and the steps of one trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SchemaError
from replaystore.names import unknown

if TYPE_CHECKING:
    from replaystore.reader import BufferReader

__all__ = ["Column", "Rows", "Trajectory"]

Rows = slice | NDArray[Any] | Sequence[int]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """The steps of one trajectory, in memory, as `buffer.trajectory(i)` gives them.

    `trajectory["reward"]` is the array of a field, `trajectory["next_observation"]` that of the observations after each step.

    Attributes:
        info: its row of the table of trajectories: length, env, terminated, truncated, seed, return, split, …
        columns: one array of shape (steps, *field shape) for each field. In a ring, without the steps that were dropped.
        final_observation: the observation after the last step, or None if it is not known: an array where the observation is one field,
            else a dict by field name.
    """

    info: dict[str, Any]
    columns: dict[str, NDArray[Any]]
    final_observation: Any
    _following: Mapping[int, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """By step, what followed it where that is not the observation of the next one: after the last, and where a recording was resumed."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: object) -> bool:
        """Whether `trajectory[name]` is an array."""
        return isinstance(name, str) and (name in self.columns or self._followed(name) in self.columns)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The array of a field, shape (steps, *field shape), or `next_` and the name of an observation field.

        SchemaError: it is not known what followed the last step. UnknownFieldError: there is no such field."""
        if name in self.columns:
            return self.columns[name]
        observed = self._followed(name)
        if observed not in self.columns:
            raise unknown(name, [*self.columns, *(f"next_{other}" for other in self.columns if self._followed(f"next_{other}"))])
        rows, last = self.columns[observed], len(self) - 1
        if last >= 0 and observed not in self._following.get(last, {}):
            raise SchemaError(f"it is not known what was observed after the last step: use trajectory[{observed!r}][1:]")
        following = np.concatenate([rows[1:], rows[-1:]])
        for step, known in self._following.items():
            following[step] = known[observed]
        return following

    @staticmethod
    def _followed(name: object) -> str:
        """The observation field that a name is the next one of; "" if it is none."""
        top, _, _ = name.partition("/") if isinstance(name, str) else ("", "", "")
        return str(name).removeprefix("next_") if top == "next_observation" else ""

    def __repr__(self) -> str:
        ends = [flag for flag in ("terminated", "truncated", "open") if self.info.get(flag)]
        said = [f"{name} {self.info[name]:.6g}" for name in ("return",) if isinstance(self.info.get(name), float)] + ends
        which = f" {self.info['trajectory']}" if "trajectory" in self.info else ""
        return f"<Trajectory{which}: {len(self)} steps of {', '.join(self.columns)}{''.join('; ' + text for text in said)}>"


class Column:
    """One field over all steps, read as it is asked for: `column[i]`, `column[a:b]`, `column[[3, 1, 1]]` give arrays in memory."""

    def __init__(self, reader: BufferReader, name: str) -> None:
        self._reader = reader
        self.name = name
        declared = reader.schema.fields[name]
        self.dtype: np.dtype[Any] = declared.dtype
        self._row_shape = declared.shape

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def shape(self) -> tuple[int, ...]:
        """Steps first."""
        return (len(self), *self._row_shape)

    @property
    def ndim(self) -> int:
        return 1 + len(self._row_shape)

    def __getitem__(self, key: int | Rows) -> Any:
        given: object = key
        if isinstance(given, tuple) or given is Ellipsis or given is None:
            raise SchemaError(f"{self.name!r} is indexed by steps alone: write column[steps][:, ...] for parts of what they hold")
        if isinstance(key, (int, np.integer)):
            row = int(key) + (len(self) if key < 0 else 0)
            if not 0 <= row < len(self):
                raise IndexError(f"step {key} of {self.name!r}: there are {len(self)} steps")
            return self._reader.read(slice(row, row + 1), [self.name])[self.name][0]
        return self._reader.read(key, [self.name])[self.name]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"<Column {self.name!r} {self.dtype} {self.shape}>"
