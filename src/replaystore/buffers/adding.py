"""Rows, and what they say of trajectories, on their way into a store: the part of a recorder that takes them.

Rows are handed to the store before they are counted, and the values of fields of any length with them, where
a plan says (placing.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.buffers.placing import Finals, Placing, Plan
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import joined
from replaystore.trajectories.assembler import Assembler
from replaystore.trajectories.opened import Open
from replaystore.trajectories.pieces import Following, Piece, Pieces

__all__ = ["Adding", "Columns", "Taken"]

FINAL_BYTES = 8 << 20
"""Final observations waiting for a commit are handed on beyond this size."""

Columns = Mapping[str, Any]
Taken = Mapping[str, NDArray[np.int64]]
"""By field, where the values lie that were said to follow, and that the leading rows may be."""
NO_PLACES: Taken = {}


class Adding:
    """Takes rows of a schema."""

    def __init__(
        self, store: ArrayStore, schema: Schema, opened: Sequence[Open], check: Callable[[], object]
    ) -> None:
        """As `Recorder`."""
        kept = store.state.extra
        self.store = store
        self.rows = store.next_row("steps")
        """Steps of the store, committed or not, dropped or not."""
        self.assembler = Assembler(
            next_trajectory=kept["next"],
            finals=kept["finals"],
            opened=opened,
            shape=schema.return_shape,
        )
        self._check = check
        self._changed = False
        """Something has been handed to the store, or been decided, that no commit has."""
        self.handed_over = False
        """Whether the store has rows of tables that no commit has."""
        self._placing: Placing | None = None
        """Of a schema that has, or had, fields of any length."""
        self.take_schema(schema)

    def take_schema(self, schema: Schema) -> None:
        """Steps are of this schema from now on."""
        self.schema = schema
        self._stored = {name: tree.steps(name) for name in schema.fields}
        self._observations = schema.names("observation")
        self.observed = schema.select(self._observations) if self._observations else None
        """The fields of observations, as a schema of their own; None: there are none."""
        self.assembler.going.take_fields({name: schema.fields[name].stored for name in self._observations})
        self._final_bytes = sum(schema.fields[name].row_bytes for name in self._observations)
        if self._placing is not None:
            self._placing.take_schema(schema)
        elif schema.ragged:
            self._placing = Placing(self.store, schema)

    def plan(
        self,
        columns: Columns | Plan,
        count: int,
        finals: Finals,
        following: Finals,
        taken: Taken = NO_PLACES,
    ) -> Columns | Plan:
        """Where the values of so many rows, and of the observations after them, are going to lie, if the
        schema has fields of any length; else the columns. `taken`: by field, where the values lie that were
        said to follow, and that the leading rows may be.

        All that take columns take a plan of them as well: what is said beside it has its spans then."""
        if self._placing is None or isinstance(columns, Plan):
            return columns
        return self._placing.plan(columns, count, finals, following, taken=taken)

    def add(
        self,
        columns: Columns | Plan,
        count: int,
        pieces: Pieces,
        rewards: NDArray[Any] | None,
        finals: Finals,
        following: Following,
        taken: Taken = NO_PLACES,
    ) -> None:
        """Append so many checked rows, of which these are the pieces, as `Assembler.add` takes them; rows of
        no piece are of no trajectory."""
        first = self.rows
        plan = self.plan(columns, count, finals, following.rows, taken)
        self._append(plan, count)
        if isinstance(plan, Plan):
            finals, following = plan.finals, Following(following.known, plan.following)
        self.assembler.add(first, pieces, rewards, finals, following)

    def _taken(self, env: int) -> Taken:
        """Where the values lie that were said to follow the last step of an environment."""
        slot = None if self._placing is None else self.assembler.going.slot(env)
        if slot is None or not self.assembler.going.known[slot]:
            return NO_PLACES
        following = self.assembler.going.following
        return {name: following[name][slot][None] for name in self.schema.ragged if name in following}

    def add_few(
        self, columns: Columns | Plan, count: int, pieces: Sequence[Piece], taken: Taken = NO_PLACES
    ) -> None:
        """As `add`, of few pieces."""
        self._add_few(columns, count, pieces, {}, taken)

    def _add_few(
        self,
        columns: Columns | Plan,
        count: int,
        pieces: Sequence[Piece],
        following: Finals,
        taken: Taken,
    ) -> Finals:
        """As `add_few`; what follows others, as it is stored."""
        first = self.rows
        if self._placing is not None and not isinstance(columns, Plan):
            finals, own = self._placing.of_pieces(pieces)
            known = len(next(iter(own.values()))) if own else 0
            after = (
                {name: joined([own[name], rows]) for name, rows in following.items()} if own else following
            )
            columns = self._placing.plan(columns, count, finals, after or own, taken=taken)
            self._append(columns, count)
            columns.into(pieces)
            following = {name: rows[known:] for name, rows in columns.following.items()}
        else:
            self._append(columns, count)
        if pieces:
            self.assembler.add_few(first, pieces)
        return following

    def add_one(
        self,
        columns: Columns | Plan,
        count: int,
        pieces: Sequence[Piece],
        others: NDArray[np.int64],
        rewards: NDArray[Any] | None,
        following: Finals,
        taken: Taken = NO_PLACES,
    ) -> None:
        """As `add_few`, and one step of `others`, slots whose parts all go on; what follows that."""
        stored = self._add_few(columns, count, pieces, following, taken)
        self.assembler.advance(others, 1, rewards)
        self.assembler.going.follow(stored, others)

    def advance(
        self,
        columns: Columns | Plan,
        count: int,
        slots: slice | NDArray[np.int64],
        steps: int,
        rewards: NDArray[Any] | None,
        all_slots: slice | NDArray[np.int64],
        following: Finals,
        taken: Taken = NO_PLACES,
    ) -> None:
        """Append so many rows, arrays or their bytes: so many steps of each of these slots, in their order,
        whose parts all go on, as `Going.expected` has said; what follows the last ones, in the order of
        `all_slots`."""
        plan = self.plan(columns, count, {}, following, taken)
        self._append(plan, count)
        self.assembler.advance(slots, steps, rewards)
        self.assembler.going.follow(plan.following if isinstance(plan, Plan) else following, all_slots)

    def _append(self, columns: Columns | Plan, count: int) -> None:
        if isinstance(columns, Plan):
            self._append_planned(columns, count)
        elif count:
            self._check()
            if self.assembler.pending.final_rows * self._final_bytes > FINAL_BYTES:
                self._store_finals()
            self.store.append({self._stored[name]: rows for name, rows in columns.items()}, count)
            self.rows += count
            self._changed = True

    def _append_planned(self, plan: Plan, count: int) -> None:
        placing = self._placing
        assert placing is not None, "it has made the plan"
        if plan.stored:
            self._check()
            if self.assembler.pending.final_rows * self._final_bytes > FINAL_BYTES:
                self._store_finals()
            self.store.append(plan.stored)
            self.rows += count
            # Values alone, of what follows a reset, are nothing that a commit shows.
            self._changed = self._changed or count > 0
        placing.placed(plan)
        if placing.many:
            going = self.assembler.going
            slots = going.opened()[going.known[going.opened()]]
            placing.keep({name: rows[slots] for name, rows in going.following.items()})

    def goes_on(self, env: int, columns: Columns) -> bool:
        """Whether the first observation is, bit for bit, the one that was said to follow the environment's
        last step."""
        going = self.assembler.going
        slot = going.slot(env)
        if slot is None or not going.known[slot]:
            return True
        return all(
            np.ascontiguousarray(columns[name][0]).tobytes() == rows[slot].tobytes()
            for name, rows in going.following.items()
            if name not in self.schema.ragged
        ) and (
            self._placing is None
            or all(
                self._placing.follows(name, spans[0], columns[name])
                for name, spans in self._taken(env).items()
            )
        )

    def _store_finals(self) -> None:
        pending = self.assembler.pending
        if not pending.finals:
            return
        specs = self.store.container.specs()
        columns = {
            tree.final(name): np.concatenate([rows[name] for rows in pending.finals])
            for name in self._observations
        }
        self.store.append({name: rows for name, rows in columns.items() if not specs[name].journaled})
        self.store.append_table({name: rows for name, rows in columns.items() if specs[name].journaled})
        pending.finals, pending.final_rows, self.handed_over = [], 0, True
