"""Recorder: rows on their way into a store, and what they say of trajectories.

Whatever is recorded goes through one: `Buffer.append`, a `Writer`, and files of other software that become a
store. It can be used on a store that no `Buffer` has open, such as one that is being made:

    recorder = Recorder(store, schema)
    for block in source.blocks(max_bytes):
        recorder.record(block)
    recorder.cut_all()
    recorder.commit()

Invariants:
1. Nothing else writes rows of `parts` and `trajectories/`; tables that are known whole, since they were
   those of another store, go to a new one through `put_tables` (tables.py).
2. Rows are handed to the store before they are counted. If the store refuses them, nothing was recorded, and
   the same call may be made again.
3. Until `commit` has succeeded, `waiting` is true, whatever part of the work is done already.
4. How steps are cut into blocks changes nothing that is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import forget_entries
from replaystore.buffers.blocked import check_block, pieces_of
from replaystore.buffers.tables import store_tables
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import SchemaError, UnsupportedError
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.trajectories.assembler import Assembler
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.opened import Open, to_numbers
from replaystore.trajectories.pieces import Following, Piece, Pieces
from replaystore.views.layout import column_spec

__all__ = ["NOTHING", "Recorder"]

FINAL_BYTES = 8 << 20
"""Final observations waiting for a commit are handed on beyond this size."""
BLOCK_BYTES = 16 << 20
"""Blocks waiting to be written together take at most about this much memory."""
NOTHING: Mapping[str, Any] = {"open": to_numbers(()), "next": 0, "splits": [""], "finals": 0}
"""What the first commit of a store keeps, before anything is recorded."""

Columns = Mapping[str, Any]


class Recorder:
    """Takes steps, in calls of `record` or `add`, and commits them. For one thread at a time."""

    def __init__(
        self,
        store: ArrayStore,
        schema: Schema,
        *,
        opened: Sequence[Open] = (),
        check: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            store: what is recorded goes on from its last commit.
            opened: the trajectories that are open there.
            check: called before rows are written; it raises if they must not be.
        """
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
        self._splits: list[str] = list(kept["splits"])
        self._check = check
        self._changed = False
        """Something has been handed to the store, or been decided, that no commit has."""
        self.handed_over = False
        """Whether the store has rows of tables that no commit has."""
        self._blocks: list[Block] = []
        self._block_bytes = 0
        self._block_envs = set[int]()
        self.take_schema(schema)

    def take_schema(self, schema: Schema) -> None:
        """Steps are of this schema from now on."""
        self.schema = schema
        self._stored = {name: tree.steps(name) for name in schema.fields}
        self._observations = schema.names("observation")
        self.observed = schema.select(self._observations) if self._observations else None
        """The fields of observations, as a schema of their own; None: there are none."""
        self.assembler.going.take_fields(
            {name: (schema.fields[name].dtype, schema.fields[name].shape) for name in self._observations}
        )
        self._final_bytes = sum(schema.fields[name].row_bytes for name in self._observations)

    # --- steps

    def add(
        self,
        columns: Columns,
        count: int,
        pieces: Pieces,
        rewards: NDArray[Any] | None,
        finals: Mapping[str, NDArray[Any]],
        following: Following,
    ) -> None:
        """Append so many checked rows, of which these are the pieces, as `Assembler.add` takes them; rows of
        no piece are of no trajectory."""
        first = self.rows
        self._append(columns, count)
        self.assembler.add(first, pieces, rewards, finals, following)

    def append(
        self,
        env: int,
        columns: Columns,
        count: int,
        told: list[Piece] | tuple[Pieces, dict[str, NDArray[Any]], Following],
        split: str,
        seeds: int | list[int] | None,
    ) -> None:
        """Append rows of one environment, of which this is told. `seeds`: of the trajectories that begin, or
        of the first one."""
        goes_on, code = self.goes_on(env, columns), self.split_code(split)
        known = int(self.assembler.going.slot(env) is not None)
        begin = len(told if isinstance(told, list) else told[0].env) - known
        if isinstance(seeds, list) and len(seeds) != begin:
            raise SchemaError(
                f"there are {len(seeds)} seeds for {begin} trajectories that begin: give one each"
            )
        each = [-1] * known + (seeds if isinstance(seeds, list) else [-1 if seeds is None else seeds])
        if isinstance(told, list):
            told[0].apart = not goes_on
            for place, piece in enumerate(told):
                piece.split, piece.seed = code, each[place] if place < len(each) else -1
            self.add_few(columns, count, told)
            return
        pieces, finals, following = told
        pieces.split[:] = code
        pieces.seed[: len(each)] = each[: len(pieces.seed)]
        if not goes_on:
            pieces.apart = np.zeros(1, np.int64)
        self.add(columns, count, pieces, self.schema.total_reward(columns), finals, following)

    def add_few(self, columns: Columns, count: int, pieces: Sequence[Piece]) -> None:
        """As `add`, of few pieces."""
        first = self.rows
        self._append(columns, count)
        if pieces:
            self.assembler.add_few(first, pieces)

    def add_one(
        self,
        columns: Columns,
        count: int,
        pieces: Sequence[Piece],
        others: NDArray[np.int64],
        rewards: NDArray[Any] | None,
        following: Mapping[str, NDArray[Any]],
    ) -> None:
        """As `add_few`, and one step of `others`, slots whose parts all go on; what follows that."""
        self.add_few(columns, count, pieces)
        self.assembler.advance(others, 1, rewards)
        self.assembler.going.follow(following, others)

    def advance(
        self,
        columns: Columns,
        count: int,
        slots: slice | NDArray[np.int64],
        steps: int,
        rewards: NDArray[Any] | None,
        all_slots: slice | NDArray[np.int64],
        following: Mapping[str, NDArray[Any]],
    ) -> None:
        """Append so many rows, arrays or their bytes: so many steps of each of these slots, in their order,
        whose parts all go on, as `Going.expected` has said; what follows the last ones, in the order of
        `all_slots`."""
        self._append(columns, count)
        self.assembler.advance(slots, steps, rewards)
        self.assembler.going.follow(following, all_slots)

    def _append(self, columns: Columns, count: int) -> None:
        if count:
            self._check()
            if self.assembler.pending.final_rows * self._final_bytes > FINAL_BYTES:
                self._store_finals()
            self.store.append({self._stored[name]: rows for name, rows in columns.items()}, count)
            self.rows += count
            self._changed = True

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
        )

    def cut(self, envs: Iterable[int]) -> None:
        """End the open trajectories of these environments here, neither terminated nor truncated."""
        self._write_blocks()
        self.assembler.cut(envs)
        self._changed = True

    def cut_all(self) -> None:
        """End all open trajectories here."""
        self._write_blocks()  # which may open some
        going = self.assembler.going
        envs = going.env[going.opened()].tolist()
        if envs:
            self.cut(envs)

    def split_code(self, split: str) -> int:
        """The number that stands for a split; a new one gets the next."""
        if split not in self._splits:
            self._splits.append(split)
        return self._splits.index(split)

    # --- blocks

    def record(self, block: Block) -> None:
        """Take a block; rows of several are written together.

        SchemaError: its arrays are not those of the schema, or it contradicts itself; nothing is recorded
        then."""
        check_block(block, self.schema, self.observed, self.store.container.specs())
        if self._blocks:
            last = self._blocks[-1]
            # The rows of an environment that are written together are a run, which can lack nothing but its
            # beginning.
            again = last.env != block.env and block.env in self._block_envs
            if again or not (last.ends or block.begins or last.final is None):
                self._write_blocks()
        self._blocks.append(block)
        self._block_envs.add(block.env)
        self._block_bytes += sum(rows.nbytes for rows in block.columns.values())
        if self._block_bytes >= BLOCK_BYTES:
            self._write_blocks()

    def _write_blocks(self) -> None:
        blocks = self._blocks
        if not blocks:
            return
        columns = {
            name: blocks[0].columns[name]
            if len(blocks) == 1
            else np.concatenate([block.columns[name] for block in blocks])
            for name in self.schema.fields
        }
        count = self.schema.check(columns)
        pieces, finals, following = pieces_of(
            blocks, self._observations, goes_on=self.goes_on, split_code=self.split_code
        )
        self.add(columns, count, pieces, self.schema.total_reward(columns), finals, following)
        self._blocks, self._block_bytes = [], 0
        self._block_envs.clear()
        forget_entries(self.store)

    # --- commits

    @property
    def waiting(self) -> bool:
        """Whether there is something that no commit has."""
        return self._changed or bool(self._blocks or self.assembler.pending.ended)

    def commit(
        self,
        *,
        first: Mapping[str, int] | None = None,
        name: str | None = None,
        forget: str | None = None,
    ) -> int:
        """Commit what was recorded; the number of the commit, that of the last one if nothing waits, it is
        given no other name, and no name is to be forgotten.

        `first`: the first step to keep, of a ring."""
        state = self.store.state
        if not self.waiting and name in (None, state.name) and forget is None:
            return state.commit
        shows = None if self.waiting else state.shows
        extra, attachments = self.hand_over()
        number = self.store.commit(
            extra, first=first, attachments=attachments, name=name, forget=forget, shows=shows
        )
        self._changed = self.handed_over = False
        return number

    def hand_over(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Hand everything to the store; what its next commit has to keep, as `ArrayStore.commit` takes it."""
        self._write_blocks()
        # Until it is committed, for nothing else tells of tables that have been handed over.
        self._changed = self.handed_over = True
        self._store_finals()
        store_tables(self.store, self.assembler.pending)
        assembler = self.assembler
        extra = {
            "open": assembler.going.kept(),
            "next": assembler.next_trajectory,
            "splits": list(self._splits),
            "finals": assembler.finals,
        }
        return extra, self._attachments()

    def _attachments(self) -> dict[str, bytes]:
        """The observations that follow the last steps of open trajectories, as `attachments_of` has them."""
        going = self.assembler.going
        slots = going.with_steps()
        slots = slots[going.known[slots]]
        if not len(slots):
            return {}
        return {name: going.following[name][slots].tobytes() for name in self._observations}

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

    # --- fields and columns

    def create_fields(
        self, specs: Mapping[str, ArraySpec], fill: Columns, lacking: Iterable[str] = ()
    ) -> None:
        """Add the arrays of fields that are to come. In the rows so far their values are the one row of
        `fill` (default zeros); those of fields that are `lacking` have to be appended."""
        self.store.create_arrays(
            specs,
            fill={tree.steps(name): row for name, row in fill.items()},
            lacking={tree.steps(name) for name in lacking},
        )

    def add_fields(self, schema: Schema) -> None:
        """Steps have these fields from now on, whose arrays have all rows so far."""
        self.take_schema(schema)
        self._changed = True

    def set_values(self, name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Give rows of a field other values, by the next commit."""
        self._changed = True
        self.store.set_values(self._stored[name], rows, values)

    def set_columns(self, at: NDArray[np.int64], columns: Mapping[str, NDArray[Any]]) -> None:
        """Set these columns of the table of trajectories in the rows `at`; none is set if one does not
        fit."""
        arrays = {name: self._checked_column(name, values, len(at)) for name, values in columns.items()}
        for name, array in arrays.items():
            stored = tree.trajectories(name)
            if stored not in self.store.state.arrays:
                self.store.create_arrays({stored: column_spec(array.dtype, self.store.table_specs())})
            self.store.set_rows(stored, at, array)
            self._changed = True

    def _checked_column(self, name: str, values: NDArray[Any], count: int) -> NDArray[Any]:
        """The values of a column of the table, as they are stored."""
        if values.shape != (count,):
            raise SchemaError(
                f"column {name!r} needs one value for each of the {count} ended trajectories, "
                f"not shape {values.shape}"
            )
        if name == "split":
            values = np.array([self.split_code(str(value)) for value in values.tolist()], np.int32)
        stored = tree.trajectories(name)
        spec = self.store.container.specs().get(stored)
        if spec is not None and not spec.mutable:
            raise SchemaError(
                f"column {name!r} is what was recorded, and cannot be changed: choose another name"
            )
        if spec is None or stored not in self.store.state.arrays:
            if values.dtype.kind not in "biuf":
                raise UnsupportedError(
                    f"column {name!r}: columns hold one number or bool each, not {values.dtype}"
                )
        elif values.dtype != spec.dtype:
            raise SchemaError(f"column {name!r} is {spec.dtype}, not {values.dtype}: convert the values")
        return values
