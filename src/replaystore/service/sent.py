"""What a writer sends under one number: runs of steps, each of one environment, as arrays of all of them one
behind the other, with what is told of each run.

    arrays      <field>         the rows of all runs, one behind the other
                final/<field>   the observations after the trajectories that they touch, where they are known
    said        runs            [{"env", "steps", "ends", "seed", "split", "finals", "cut"}, …], as `Run` has
                                it; left out: one run, of environment 0
                name            the word for the commit that has all this, if it is to have one
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from replaystore.arrays.naming import check_name
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.given import Given
from replaystore.errors import ArgumentError, SchemaError
from replaystore.schema import tree

__all__ = ["Run", "Sent"]

MOST_RUNS = 1 << 16


class Run(BaseModel):
    """Consecutive steps of one environment of a session."""

    model_config = ConfigDict(extra="forbid", strict=True)

    env: int = Field(0, ge=0, lt=1 << 32)
    """Of the session's, from 0 on."""
    steps: int = Field(ge=0, lt=1 << 40)
    """How many rows."""
    ends: list[int] | None = None
    """Where trajectories end, counted from the run's first step; None: where the flags say so."""
    seed: int | list[int | None] | None = None
    """As `Buffer.append` takes it."""
    split: str = ""
    finals: int = Field(0, ge=0, lt=1 << 40)
    """How many rows of `final/…` are of this run: one for each trajectory that it touches, or none."""
    cut: bool = False
    """The environment's open trajectory is cut off before these steps, of which there may be none."""


_RUNS = TypeAdapter(list[Run])


@dataclass(frozen=True)
class Sent:
    """One message of a writer."""

    columns: Mapping[str, Any]
    finals: Mapping[str, Any]
    """By field."""
    runs: Sequence[Run]
    name: str | None = None
    """Of the commit that has this."""
    most: int = 0
    """The environments that it has steps of come before this one."""

    @classmethod
    def of(cls, arrays: Mapping[str, Any], said: Mapping[str, Any]) -> Sent:
        """What `wire.unpack` has found. ArgumentError: it is not what a writer sends."""
        if unknown := said.keys() - {"runs", "name"} - {key for key in said if key[:1] == "%"}:
            raise ArgumentError(f"what is said of steps has no {min(unknown)!r:.80}: it is runs and name")
        finals = {
            name[len(tree.FINAL) :]: rows for name, rows in arrays.items() if name.startswith(tree.FINAL)
        }
        columns = {name: rows for name, rows in arrays.items() if not name.startswith(tree.FINAL)}
        if "runs" in said:
            try:
                runs: list[Run] = _RUNS.validate_python(said["runs"])
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise ArgumentError(f"runs: {where}: {first['msg']}") from None
            if len(runs) > MOST_RUNS:
                raise ArgumentError(f"there are {len(runs)} runs: send at most {MOST_RUNS} at a time")
        else:
            runs = [Run.model_construct(steps=_rows(columns), finals=_rows(finals))] if columns else []
        name = said.get("name")
        most = max((run.env + 1 for run in runs), default=0)
        return cls(columns, finals, runs, None if name is None else check_name(name), most)

    def given(self, buffer: Buffer, first: int) -> list[Given]:
        """The runs as a buffer takes them; `first`: the session's first environment. SchemaError: they do not
        fit."""
        if any(name.startswith(tree.FINAL) for name in buffer.schema.fields):
            raise SchemaError(
                f"a field is called {tree.FINAL}…: such steps can only be appended to the files"
            )
        _check_rows(self.columns, sum(run.steps for run in self.runs), "")
        _check_rows(self.finals, sum(run.finals for run in self.runs), tree.FINAL)
        found, row, final = list[Given](), 0, 0
        for run in self.runs:
            stop, last = row + run.steps, final + run.finals
            alone = len(self.runs) == 1
            columns = self.columns if alone else {n: rows[row:stop] for n, rows in self.columns.items()}
            finals = self.finals if alone else {n: rows[final:last] for n, rows in self.finals.items()}
            found.append(
                buffer.given(
                    columns if run.steps else {},
                    final_observation=finals if run.finals else None,
                    env=first + run.env,
                    split=run.split,
                    ends=run.ends,
                    seed=run.seed,
                    cut=run.cut,
                )
            )
            row, final = stop, last
        return found


def _rows(columns: Mapping[str, Any]) -> int:
    """The rows of the first of some arrays."""
    first = next(iter(columns.values()), ())
    try:
        return len(first)
    except TypeError:  # a number
        return 0


def _check_rows(columns: Mapping[str, Any], count: int, prefix: str) -> None:
    for name, rows in columns.items():
        if (found := _rows({name: rows})) != count:
            raise SchemaError(f"{prefix + name!r:.80} has {found} rows, and the runs have {count}")
