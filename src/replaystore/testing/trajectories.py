"""Random trajectories, each with all that can be known of one, and the same as it is read from a buffer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replaystore.buffers.buffer import Buffer
from replaystore.formats.report import Fate
from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged
from replaystore.testing.contents import final_by_field
from replaystore.testing.samples import columns, observations

__all__ = ["Told", "told", "trajectories"]

Arrays = Mapping[str, Any]
"""Arrays by field, and a Ragged of each field of any length; of a single text a `str`."""


@dataclass(frozen=True)
class Told:
    """All that there is of a trajectory."""

    columns: Arrays
    final_observation: Arrays | None
    terminated: bool
    truncated: bool
    seed: int
    split: str
    env: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def append_part(self, buffer: Buffer, start: int, stop: int) -> None:
        """Append steps of it, of an environment that has none of another trajectory that goes on."""
        last = stop == len(self)
        final = self.final_observation if last else None
        buffer.append(
            {name: rows[start:stop] for name, rows in self.columns.items()},
            final_observation=final and buffer.schema.unflatten(dict(final), "observation"),
            split=self.split,
            env=self.env,
            ends=[stop - start - 1] if last else [],
        )

    def append(self, buffer: Buffer) -> None:
        """Record it: by a writer if it was seeded, otherwise at once."""
        schema = buffer.schema
        if self.seed == -1 or self.final_observation is None:
            self.append_part(buffer, 0, len(self))
            return
        writer = buffer.writer(self.env + 1, split=self.split)
        mask = np.arange(self.env + 1) == self.env
        names = schema.names("observation")

        def row(values: Arrays, at: int) -> dict[str, Any]:
            return {name: rows[[at] * (self.env + 1)] for name, rows in values.items()}

        def nested(values: Arrays) -> Any:
            return schema.unflatten(dict(values), "observation")

        ends = {name: _one(schema.fields[name], value) for name, value in self.final_observation.items()}
        writer.reset(nested(row({name: self.columns[name] for name in names}, 0)), seed=self.seed, mask=mask)
        for step in range(len(self)):
            last = step == len(self) - 1
            following = row(ends, 0) if last else row({n: self.columns[n] for n in names}, step + 1)
            others = {name: rows for name, rows in self.columns.items() if name not in names}
            values = row(others, step)
            given = {name: values.pop(name, None) for name in ("action", "reward", "terminated", "truncated")}
            writer.step(**given, observation=nested(following), info=values, mask=mask)
        writer.close()

    def difference(self, other: Told, fields: Mapping[str, Fate], named: Collection[str]) -> str:
        """The first thing in which this is not the other, but for fields of which `fields` says something
        else, and for what is `named`; empty if there is none."""
        if len(self) != len(other):
            return f"{len(self)} steps instead of {len(other)}"
        if found := _difference(self.columns, other.columns, fields, ""):
            return found
        if "final_observation" not in named:
            mine, theirs = self.final_observation, other.final_observation
            if (mine is None) != (theirs is None):
                return f"final observation: {mine} instead of {theirs}"
            if found := _difference(mine or {}, theirs or {}, fields, "final "):
                return found
        for name in ("terminated", "truncated", "seed", "split", "env"):
            lost = name in named or (name in fields and fields[name].kind not in ("kept", "derived"))
            if not lost and getattr(self, name) != getattr(other, name):
                return f"{name}: {getattr(self, name)!r} instead of {getattr(other, name)!r}"
        return ""


def _difference(mine: Arrays, theirs: Arrays, fields: Mapping[str, Fate], what: str) -> str:
    for name, values in theirs.items():
        fate = fields.get(name, Fate("kept"))
        if fate.kind == "changed" and fate.max_error is not None and name in mine:
            with np.errstate(all="ignore"):
                apart = np.abs(
                    mine[name].astype(np.float64) - values.astype(np.float64).reshape(mine[name].shape)
                )
            if np.nanmax(apart[np.isfinite(apart)], initial=0.0) > fate.max_error:
                return f"{what}{name} differs by {np.nanmax(apart)}, and the report says {fate.max_error}"
        if fate.kind != "kept":
            continue
        if name not in mine:
            return f"{what}{name} is not there"
        if isinstance(values, Ragged | str):
            if mine[name] != values:
                return f"{what}{name} differs"
            continue
        if mine[name].dtype != values.dtype or mine[name].shape != values.shape:
            return f"{what}{name} is {mine[name].dtype} of shape {mine[name].shape}"
        if mine[name].tobytes() != values.tobytes():
            return f"{what}{name} differs"
    return ""


def _one(declared: Field, value: Any) -> Any:
    """Rows of a field, of which there is one."""
    if declared.ragged:
        return Ragged.of([value], declared.dtype, declared.inner, text=declared.text)
    return value[None]


def told(buffer: Buffer, number: int) -> Told:
    """Row `number` of the table, as it is stored."""
    read, row = buffer.trajectory(number), buffer.trajectories[number]
    return Told(
        read.columns,
        final_by_field(read),
        row["terminated"],
        row["truncated"],
        row["seed"],
        row["split"],
        row["env"],
    )


def trajectories(
    schema: Schema, count: int, seed: int, *, longest: int = 12, shortest: int = 1
) -> list[Told]:
    """So many, of any bits: terminated, truncated, both, or cut off; seeded or not; of several splits and
    environments; some with an unknown final observation. Without rows of flags they are all cut off."""
    generator = np.random.default_rng(seed)
    flagged = {"terminated", "truncated"} <= schema.fields.keys()
    found = []
    for number in range(count):
        length = int(generator.integers(shortest, longest + 1))
        rows = columns(schema, length, seed * 1000 + number, ends=0.0)
        terminated, truncated = (bool(generator.random() < 0.5) and flagged for _ in range(2))
        if flagged:
            rows["terminated"][-1], rows["truncated"][-1] = terminated, truncated
        final = {name: row[0] for name, row in observations(schema, 1, seed * 1000 + 500 + number).items()}
        seeded = generator.random() < 0.5
        found.append(
            Told(
                rows,
                final if seeded or generator.random() < 0.7 else None,
                terminated,
                truncated,
                int(generator.integers(0, 1 << 40)) if seeded else -1,
                ("", "train", "val")[int(generator.integers(3))],
                int(generator.integers(3)),
            )
        )
    return found
