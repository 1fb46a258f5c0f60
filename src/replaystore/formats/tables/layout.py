"""How a buffer lies in a table: one row a step, trajectory after trajectory, and a column for each field,
under its own name, `observation/camera`.

* `trajectory` says which one a row is of: 0, 1, 2, …; `trajectory/seed`, `/split`, `/env` and the columns of
  the user's (`trajectory/score`) say the same in each row of a trajectory, which takes next to no room.
* `final_observation`, `final_observation/camera` have what was observed after a row and is in no other: where
  a trajectory ends. Elsewhere there is no value (null). Arrays are flat lists there.
* Where the schema has no `terminated` and `truncated`, there are columns of these names for how trajectories
  ended.
* Images (uint8 of two dimensions or more) are in Parquet bytes of a fixed size; other arrays are lists of a
  fixed size; values of any length are lists, texts and bytes; complex numbers pairs of floats.
* What is said of the whole is JSON under "replaystore" in the metadata of the schema: `schema`, `columns`,
  `splits`, `environment`, `metadata`, `steps`, `trajectories`, `names` (the first two of those above, in case
  a field has one of them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.shared.arrow.fields import BYTES, column_type, sparse_column_type
from replaystore.formats.shared.arrow.reading import Kind
from replaystore.formats.shared.arrow.writing import arrow_type
from replaystore.schema.fields import Schema
from replaystore.schema.roles import FLAGS
from replaystore.schema.spaces import DTYPES

__all__ = ["KEY", "Layout"]

KEY = "replaystore"
VERSION = 1
TOLD = ("seed", "split", "env")


@dataclass(frozen=True)
class Layout:
    """What is said of the whole."""

    schema: Schema
    columns: Mapping[str, str] = field(default_factory=dict)
    """Of the table of trajectories, the user's: their dtypes."""
    splits: tuple[str, ...] = ()
    environment: dict[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    trajectories: int = 0
    told: tuple[str, ...] = ()
    """Of seed, split and env those that are not always the same nothing."""
    flags: tuple[str, ...] = ()
    """Columns of this name that are no fields."""
    finals: bool = False
    """Whether there are columns of final observations."""
    number: str = "trajectory"
    final: str = "final_"
    """What the columns of these are called, or how they begin."""

    @classmethod
    def named(cls, schema: Schema, **said: Any) -> Layout:
        """With names that no field has."""
        layout = cls(schema, **said)
        number, final = layout.number, layout.final
        while any(name == number or name.startswith(f"{number}/") for name in schema.fields):
            number += "_"
        while any(name.startswith(final) for name in schema.fields):
            final += "_"
        return cls(schema, **said, number=number, final=final)

    def about(self, what: str) -> str:
        """The column that says this of a row's trajectory."""
        return f"{self.number}/{what}"

    def after(self, name: str) -> str:
        """The column of what followed of a field of observations."""
        return self.final + name

    @property
    def observed(self) -> tuple[str, ...]:
        """The fields that have columns of what followed."""
        return self.schema.names("observation") if self.finals else ()

    def types(self, kind: Kind) -> dict[str, Any]:
        """The columns of a file, with their types."""
        found = {name: column_type(declared, kind) for name, declared in self.schema.fields.items()}
        found |= {name: arrow_type(np.dtype(np.bool_), ()) for name in self.flags}
        for name in self.observed:
            declared = self.schema.fields[name]
            found[self.after(name)] = sparse_column_type(declared)
        found[self.number] = arrow_type(np.dtype(np.int64), ())
        told: dict[str, np.dtype[Any]] = {"seed": np.dtype("i8"), "env": np.dtype("i8"), "split": BYTES}
        found |= {self.about(name): arrow_type(told[name], (), text=name == "split") for name in self.told}
        return found | {
            self.about(name): arrow_type(np.dtype(dtype), ()) for name, dtype in self.columns.items()
        }

    def to_json(self) -> dict[str, Any]:
        """What is in the metadata of the file."""
        return {
            "version": VERSION,
            "steps": self.steps,
            "trajectories": self.trajectories,
            "schema": self.schema.to_json(),
            "columns": dict(self.columns),
            "splits": list(self.splits),
            "told": list(self.told),
            "flags": list(self.flags),
            "finals": self.finals,
            "names": [self.number, self.final],
            "environment": self.environment,
            "metadata": self.metadata,
        }

    @classmethod
    def from_json(cls, said: Any, path: str) -> Layout:
        """The inverse. FormatError: it is no such thing, or of a newer version."""
        wrong = FormatError(
            f"{path}: what its metadata say under {KEY!r} is nothing that replaystore writes: restore it "
            "from a copy, or remove the metadata to have it read as a table of others"
        )
        if not isinstance(said, dict) or type(said.get("version")) is not int:
            raise wrong
        if said["version"] > VERSION:
            raise FormatError(
                f"{path} is a table of version {said['version']}, and this replaystore reads up to "
                f"{VERSION}: upgrade replaystore"
            )
        names: Any = said.get("names")
        columns = said.get("columns", {})
        environment, metadata = said.get("environment"), said.get("metadata") or {}
        if (
            not isinstance(said.get("schema"), dict)
            or not _texts(names, 2)
            or not _texts(said.get("splits", []))
            or not _texts(said.get("told", []), within=TOLD)
            or not _texts(said.get("flags", []), within=FLAGS)
            or not isinstance(columns, dict)
            or not all(dtype in _NUMBERS for dtype in columns.values())
            or not isinstance(environment, dict | None)
            or not isinstance(metadata, dict)
            or not all(type(said.get(key)) is int and said[key] >= 0 for key in ("steps", "trajectories"))
        ):
            raise wrong
        return cls(
            Schema.from_json(said["schema"]),
            columns,
            tuple(said.get("splits", ())),
            environment,
            metadata,
            said["steps"],
            said["trajectories"],
            tuple(said.get("told", ())),
            tuple(said.get("flags", ())),
            said.get("finals") is True,
            names[0],
            names[1],
        )


_NUMBERS = {name for name, dtype in DTYPES.items() if dtype.kind != "c"}


def _texts(given: Any, count: int | None = None, within: Iterable[str] | None = None) -> bool:
    return (
        isinstance(given, list)
        and all(isinstance(one, str) for one in given)
        and (count is None or len(given) == count)
        and (within is None or set(given) <= set(within))
    )
