"""From blocks to the pieces of an assembler, for a recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import SchemaError
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import ragged_of, stacked
from replaystore.schema.ragged import Ragged
from replaystore.schema.values import of_any_length
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.trajectories.pieces import STEP, Following, Pieces

__all__ = ["check_block", "pieces_of"]

TEXT = np.dtype(np.uint8)


def check_block(
    block: Block, schema: Schema, observed: Schema | None, specs: Mapping[str, ArraySpec]
) -> None:
    """SchemaError: its arrays are not those of the schema, or it contradicts itself. `observed`: the fields
    of observations, as a schema of their own; `specs`: the arrays that there are."""
    if not schema.check(block.columns):
        raise SchemaError("a block has no steps: leave out trajectories without steps")
    _check_values(schema, block.columns)
    for name in ("terminated", "truncated"):
        said, flags = getattr(block, name), block.columns.get(name)
        if block.ends and said is not None and flags is not None and bool(flags[-1]) is not bool(said):
            raise SchemaError(
                f"a trajectory of {len(flags)} steps ends with {name}={said}, and its last step has "
                f"{name}={bool(flags[-1])}: leave one of them out"
            )
    if block.final is not None:
        if observed is None:
            raise SchemaError("an observation after the last step is given, and no field holds one")
        try:
            _one_row(observed, block.final)
        except SchemaError as error:
            raise SchemaError(f"the observation after the last step: {error}") from None
    for name, value in block.row.items():
        spec = specs.get(tree.trajectories(name))
        if name in TRAJECTORIES or spec is None:
            raise SchemaError(
                f"the table of trajectories takes no values of column {name!r}: "
                + ("it is made of what is recorded" if name in TRAJECTORIES else "it has none")
            )
        given = np.asarray(value)
        if given.shape != spec.shape or not np.can_cast(given.dtype, spec.dtype, "same_kind"):
            raise SchemaError(
                f"column {name!r} holds {spec.dtype} of shape {spec.shape}, not {given.dtype} of shape "
                f"{given.shape}"
            )


def pieces_of(
    blocks: Sequence[Block],
    observed: Schema | None,
    *,
    goes_on: Callable[[int, Mapping[str, Any]], bool],
    split_code: Callable[[str], int],
) -> tuple[Pieces, dict[str, Any], Following]:
    """The pieces that blocks are, with the observations after them; those of one environment lie together.

    `goes_on`: whether these columns of an environment begin as they were said to; `split_code`: the number of
    a split."""
    runs, apart = list[list[Block]](), list[int]()
    for block in blocks:
        before = runs[-1][-1] if runs else None
        first = before is None or before.env != block.env
        if first and not block.begins and not goes_on(block.env, block.columns):
            apart.append(len(runs))
        if before is None or first or block.begins or before.ends:
            runs.append([])
        runs[-1].append(block)
    pieces, time, stop, finals = Pieces.of(len(runs)), 0, 0, 0
    pieces.apart = np.array(apart, np.int64)
    known = [run[-1].final for run in runs]
    for at, run in enumerate(runs):
        last, length = run[-1], sum(map(len, run))
        flags = [
            bool(last.columns[name][-1]) if said is None and name in last.columns else bool(said)
            for name, said in (("terminated", last.terminated), ("truncated", last.truncated))
        ]
        pieces.terminated[at], pieces.truncated[at] = flags
        pieces.env[at], pieces.start[at], pieces.length[at] = last.env, stop, length
        pieces.when[at] = time * STEP
        if run[0].begins:
            pieces.begins[at] = time * STEP
        pieces.seed[at], pieces.split[at] = run[0].seed, split_code(run[0].split)
        time, stop = time + len(run), stop + length
        if last.ends:
            pieces.ends[at] = (time - 1) * STEP + (STEP - 1)
        if last.final is not None:
            pieces.final[at], finals = finals, finals + 1
        if rows := {key: value for block in run for key, value in block.row.items()}:
            pieces.rows[at] = rows
    lasts = {run[0].env: run[-1] for run in runs}.values()
    after = [None if block.ends else block.final for block in lasts]
    blank = next((final for final in after if final is not None), None)
    if blank is not None and observed is not None:  # values that nobody asks for are not written
        blank = {**blank, **{name: blank[name][:0] for name in observed.ragged}}
    following = _stacked(observed, [final or blank for final in after])
    return (
        pieces,
        _stacked(observed, known),
        Following(np.array([final is not None for final in after]), following),
    )


def _stacked(observed: Schema | None, finals: Sequence[Mapping[str, NDArray[Any]] | None]) -> dict[str, Any]:
    """Observations that are known, one row each."""
    known = [final for final in finals if final is not None]
    if not known or observed is None:
        return {}
    return {
        name: stacked(declared, [_value(name, final[name]) for final in known])
        for name, declared in observed.fields.items()
    }


def _one_row(observed: Schema, final: Mapping[str, Any]) -> None:
    """SchemaError: a single observation is not of these fields."""
    rows: dict[str, Any] = {}
    for name, given in final.items():
        declared, row = observed.ragged.get(name), _value(name, given)
        if declared is not None and np.ndim(row):
            rows[name] = Ragged(row, np.array([0, len(row)]), text=declared.text)
        else:
            rows[name] = row[None]
    observed.check(rows)
    _check_values(observed, rows)


def _check_values(schema: Schema, columns: Mapping[str, Any]) -> None:
    """SchemaError: a text is none, or a value is larger than any may be."""
    for name, declared in schema.ragged.items():
        ragged_of(name, declared, columns[name], None)


def _value(name: str, given: Any) -> Any:
    """A value of a final observation as it is stored: of a text its bytes."""
    return of_any_length(f"field {name!r}", given, TEXT, (), True) if isinstance(given, str) else given
