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
from replaystore.buffers.adding import Adding, Columns
from replaystore.buffers.blocked import check_block, pieces_of
from replaystore.buffers.given import Given
from replaystore.buffers.table_columns import checked_columns, set_columns
from replaystore.buffers.tables import store_tables
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import SchemaError
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import joined
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.opened import Open, to_numbers
from replaystore.trajectories.pieces import Following, Piece, Pieces

__all__ = ["NOTHING", "Recorder"]

BLOCK_BYTES = 16 << 20
"""Blocks waiting to be written together take at most about this much memory."""
NOTHING: Mapping[str, Any] = {"open": to_numbers(()), "next": 0, "splits": [""], "finals": 0}
"""What the first commit of a store keeps, before anything is recorded."""


class Recorder(Adding):
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
        super().__init__(store, schema, opened, check)
        self._splits: list[str] = list(store.state.extra["splits"])
        self._blocks: list[Block] = []
        self._block_bytes = 0
        self._block_envs = set[int]()

    # --- steps

    def fit(self, given: Iterable[Given]) -> None:
        """SchemaError: one of these, appended in this order, has not a seed for each trajectory that begins
        in it."""
        is_open: dict[int, bool] = {}
        for steps in given:
            known = is_open.get(steps.env, self.assembler.going.slot(steps.env) is not None)
            known = known and not steps.cut
            pieces, seeds = steps.pieces, steps.seeds
            if isinstance(seeds, list) and len(seeds) != pieces - known:
                raise SchemaError(
                    f"there are {len(seeds)} seeds for {pieces - known} trajectories that begin: give one "
                    "each"
                )
            is_open[steps.env] = steps.stays_open if steps.count else known

    def append_given(self, given: Sequence[Given]) -> None:
        """Append what `fit`, one after the other. Single steps of several environments, one behind the other,
        are those of one moment: they are written together, and the next ones go on with their parts."""
        start = 0
        while start < len(given):
            stop, envs = start, set[int]()
            while stop < len(given) and self._is_single(given[stop]) and given[stop].env not in envs:
                envs.add(given[stop].env)
                stop += 1
            if stop - start > 1:
                self._append_moment(given[start:stop])
            else:
                stop = start + 1
                steps = given[start]
                if steps.cut:
                    self.cut([steps.env])
                if steps.count:
                    self.append(steps.env, steps.columns, steps.count, steps.told, steps.split, steps.seeds)
            start = stop

    def _is_single(self, steps: Given) -> bool:
        """Whether it is a step that `_append_moment` takes."""
        return steps.count == 1 and not steps.cut and self._placing is None

    def _append_moment(self, given: Sequence[Given]) -> None:
        """Append one step of each of several environments."""
        pieces: list[Piece] = []
        for place, steps in enumerate(given):
            assert isinstance(steps.told, list), "of one step"
            piece = self._told(steps.env, steps.columns, steps.told, steps.split, steps.seeds)[0]
            piece.start, piece.stride = place, len(given)
            pieces.append(piece)
        columns = {
            name: np.concatenate([steps.columns[name] for steps in given]) for name in self.schema.fields
        }
        self.add_few(columns, len(given), pieces)

    def _told(
        self, env: int, columns: Columns, told: list[Piece], split: str, seeds: int | list[int] | None
    ) -> list[Piece]:
        """Few pieces, with their splits and seeds."""
        known, code = int(self.assembler.going.slot(env) is not None), self.split_code(split)
        each = [-1] * known + (seeds if isinstance(seeds, list) else [-1 if seeds is None else seeds])
        told[0].apart = not self.goes_on(env, columns)
        for place, piece in enumerate(told):
            piece.split, piece.seed = code, each[place] if place < len(each) else -1
        return told

    def append(
        self,
        env: int,
        columns: Columns,
        count: int,
        told: list[Piece] | tuple[Pieces, dict[str, NDArray[Any]], Following],
        split: str,
        seeds: int | list[int] | None,
    ) -> None:
        """Append rows of one environment, of which this is told. `seeds`: of the trajectories that begin, as
        many as `fit` asks for, or of the first one."""
        if isinstance(told, list):
            taken = self._taken(env)
            self.add_few(columns, count, self._told(env, columns, told, split, seeds), taken)
            return
        goes_on, code = self.goes_on(env, columns), self.split_code(split)
        known = int(self.assembler.going.slot(env) is not None)
        each = [-1] * known + (seeds if isinstance(seeds, list) else [-1 if seeds is None else seeds])
        pieces, finals, following = told
        pieces.split[:] = code
        pieces.seed[: len(each)] = each[: len(pieces.seed)]
        if not goes_on:
            pieces.apart = np.zeros(1, np.int64)
        rewards = self.schema.total_reward(columns)
        self.add(columns, count, pieces, rewards, finals, following, self._taken(env))

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
            else joined([block.columns[name] for block in blocks])
            for name in self.schema.fields
        }
        count = self.schema.check(columns)
        pieces, finals, following = pieces_of(
            blocks, self.observed, goes_on=self.goes_on, split_code=self.split_code
        )
        rewards, taken = self.schema.total_reward(columns), self._taken(blocks[0].env)
        self.add(columns, count, pieces, rewards, finals, following, taken)
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
        more: Mapping[str, Any] | None = None,
    ) -> int:
        """Commit what was recorded; the number of the commit, that of the last one if nothing waits, it is
        given no other name, no name is to be forgotten, and there is no `more`.

        `first`: the first step to keep, of a ring. `more`: as `ArrayStore.commit` takes it."""
        state = self.store.state
        if not self.waiting and name in (None, state.name) and forget is None and not more:
            return state.commit
        shows = None if self.waiting else state.shows
        extra, attachments = self.hand_over()
        number = self.store.commit(
            extra, first=first, attachments=attachments, name=name, forget=forget, shows=shows, more=more
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

    # --- fields and columns

    def create_fields(
        self, specs: Mapping[str, ArraySpec], fill: Columns, lacking: Iterable[str] = ()
    ) -> None:
        """Add the arrays of fields that are to come. In the rows so far their values are the one row of
        `fill` (default zeros); those of fields that are `lacking` have to be appended."""
        self.store.create_arrays(
            specs,
            fill={stored(name): row for name, row in fill.items() for stored in (tree.steps, tree.final)},
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
        checked = checked_columns(self.store, columns, len(at), self.split_code)
        self._changed = self._changed or bool(checked)
        set_columns(self.store, at, checked)
