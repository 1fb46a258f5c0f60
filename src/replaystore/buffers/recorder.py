"""Recorder: rows on their way into a store, and what they say of trajectories.

Whatever is recorded goes through one: `Buffer.append`, a `Writer`, and files of other software that become a
store. It can be used on a store that no `Buffer` has open, such as one that is being made:

    recorder = Recorder(store, schema)
    for block in source.blocks(max_bytes):
        recorder.record(block)
    recorder.cut_all()
    recorder.commit()

Invariants:
1. Nothing else writes rows of `parts/` and `trajectories/`; tables that are known whole, since they were
   those of another store, go to a new one through `put_tables`.
2. Rows are handed to the store before they are counted. If the store refuses them, nothing was recorded, and
   the same call may be made again.
3. Until `commit` has succeeded, `waiting` is true, whatever part of the work is done already.
4. How steps are cut into blocks changes nothing that is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import append_rows, forget_entries
from replaystore.containers.protocol import ArraySpec
from replaystore.errors import SchemaError, UnsupportedError
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.trajectories.assembler import Assembler, Begin, End, Open, Run
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.columns import PARTS, TRAJECTORIES
from replaystore.trajectories.parts import Parts
from replaystore.views.layout import column_spec

__all__ = ["NOTHING", "Recorder", "attachments_of", "put_tables"]

FINAL_BYTES = 8 << 20
"""Final observations waiting for a commit are handed on beyond this size."""
BLOCK_BYTES = 16 << 20
"""Blocks waiting to be written together take at most about this much memory."""
NOTHING: Mapping[str, Any] = {"open": [], "next": 0, "splits": [""], "finals": 0}
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
        kept, shape = store.state.extra, schema.return_shape
        self.store = store
        self.assembler = Assembler(
            next_trajectory=kept["next"],
            finals=kept["finals"],
            opened=opened,
            components=int(np.prod(shape)) if shape else None,
        )
        self._splits: list[str] = list(kept["splits"])
        self._check = check
        self._changed = False
        """Something has been handed to the store, or been decided, that no commit has."""
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
        self._final_bytes = sum(schema.fields[name].row_bytes for name in self._observations)

    # --- steps

    @property
    def rows(self) -> int:
        """Steps of the store, committed or not, dropped or not."""
        return self.store.next_row("steps")

    def add(self, columns: Columns, count: int, runs: Sequence[Run], *, split: str = "") -> None:
        """Append so many checked rows, of which these runs are; rows of no run are of no trajectory.

        Each run's `start` counts from the first of the rows; `split` is that of trajectories that begin where
        nothing else is said."""
        first = self.rows
        if count:
            self._check()
            if len(self.assembler.pending.finals) * self._final_bytes > FINAL_BYTES:
                self._store_finals()
            self.store.append({self._stored[name]: rows for name, rows in columns.items()})
            self._changed = True
        self.assembler.add_together(first, runs, split=self.split_code(split))

    def goes_on(self, env: int, columns: Columns) -> bool:
        """Whether the first observation is, bit for bit, the one that was said to follow the environment's
        last step."""
        entry = self.assembler.open.get(env)
        if entry is None or entry.following is None:
            return True
        return all(
            np.ascontiguousarray(columns[name][0]).tobytes() == row.tobytes()
            for name, row in entry.following.items()
        )

    def cut(self, env: int) -> None:
        """End the open trajectory of an environment here, neither terminated nor truncated."""
        self._write_blocks()
        self.assembler.cut(env)
        self._changed = True

    def cut_all(self) -> None:
        """End all open trajectories here."""
        self._write_blocks()  # which may open some
        for env in sorted(self.assembler.open):
            self.cut(env)

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
        self._check_block(block)
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

    def _check_block(self, block: Block) -> None:
        if not self.schema.check(block.columns):
            raise SchemaError("a block has no steps: leave out trajectories without steps")
        for name in ("terminated", "truncated"):
            said, flags = getattr(block, name), block.columns.get(name)
            if block.ends and said is not None and flags is not None and bool(flags[-1]) is not bool(said):
                raise SchemaError(
                    f"a trajectory of {len(flags)} steps ends with {name}={said}, and its last step has "
                    f"{name}={bool(flags[-1])}: leave one of them out"
                )
        if block.final is not None:
            if self.observed is None:
                raise SchemaError("an observation after the last step is given, and no field holds one")
            try:
                self.observed.check({name: row[None] for name, row in block.final.items()})
            except SchemaError as error:
                raise SchemaError(f"the observation after the last step: {error}") from None
        for name, value in block.row.items():
            spec = self.store.container.specs().get(tree.trajectories(name))
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
        self.add(columns, count, self._runs(blocks, columns, count))
        self._blocks, self._block_bytes = [], 0
        self._block_envs.clear()
        forget_entries(self.store)

    def _runs(self, blocks: Sequence[Block], columns: Columns, count: int) -> list[Run]:
        """The rows of each environment; those of one lie together in the blocks."""
        flags = {
            name: columns[name].copy() if name in columns else np.zeros(count, np.bool_)
            for name in ("terminated", "truncated")
        }
        rewards = self.schema.total_reward(columns)
        runs, start, time = list[Run](), 0, 0
        for env, together in groupby(blocks, key=lambda block: block.env):
            run = Run(env, start, flags["terminated"][start:], flags["truncated"][start:], None)
            going, place = env in self.assembler.open, 0
            for block in together:
                if going and block.begins and place:  # what was going on is cut off
                    run.ends[place - 1] = End((time, 0), run.following)
                if block.begins or not going:
                    split = self.split_code(block.split)
                    run.begins[place] = Begin((time, 0), block.seed, split, block.row)
                elif not place:
                    run.continues = self.goes_on(env, block.columns)
                place += len(next(iter(block.columns.values())))
                if block.ends:
                    for known, said in ((run.terminated, block.terminated), (run.truncated, block.truncated)):
                        known[place - 1] = known[place - 1] if said is None else said
                    run.ends[place - 1] = End((time, 1), block.final, block.row)
                run.following = None if block.ends else block.final
                going, time = not block.ends, time + 1
            run.terminated, run.truncated = run.terminated[:place], run.truncated[:place]
            run.reward = None if rewards is None else rewards[start : start + place]
            runs.append(run)
            start += place
        return runs

    # --- commits

    @property
    def waiting(self) -> bool:
        """Whether there is something that no commit has."""
        return self._changed or bool(self._blocks or self.assembler.pending.trajectories)

    def commit(self, *, first: Mapping[str, int] | None = None, name: str | None = None) -> int:
        """Commit what was recorded; the number of the commit, that of the last one if nothing waits, and it
        is given no other name.

        `first`: the first step to keep, of a ring."""
        state = self.store.state
        if not self.waiting and name in (None, state.name):
            return state.commit
        shows = None if self.waiting else state.shows
        extra, attachments = self.hand_over()
        number = self.store.commit(extra, first=first, attachments=attachments, name=name, shows=shows)
        self._changed = False
        return number

    def hand_over(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Hand everything to the store; what its next commit has to keep, as `ArrayStore.commit` takes it."""
        self._write_blocks()
        # Until it is committed, for nothing else tells of tables that have been handed over.
        self._changed = True
        self._store_finals()
        self._store_tables()
        assembler = self.assembler
        opened = sorted(assembler.open.values(), key=lambda entry: entry.trajectory)
        extra = {
            "open": [entry.to_json() for entry in opened],
            "next": assembler.next_trajectory,
            "splits": self._splits,
            "finals": assembler.finals,
        }
        return extra, attachments_of(opened, self._observations)

    def _store_finals(self) -> None:
        finals = self.assembler.pending.finals
        if not finals:
            return
        specs = self.store.container.specs()
        columns = {tree.final(name): np.stack([row[name] for row in finals]) for name in self._observations}
        self.store.append({name: rows for name, rows in columns.items() if not specs[name].journaled})
        self.store.append_table({name: rows for name, rows in columns.items() if specs[name].journaled})
        self.assembler.pending.finals = []

    def _store_tables(self) -> None:
        pending, store = self.assembler.pending, self.store
        if pending.parts:
            columns = zip(PARTS.items(), zip(*pending.parts, strict=True), strict=True)
            store.append_table(
                {tree.parts(name): np.array(values, dtype) for (name, dtype), values in columns}
            )
        if pending.trajectories:
            rows = dict(zip(TRAJECTORIES, zip(*pending.trajectories, strict=True), strict=True))
            count = len(pending.trajectories)
            for stored, spec in self._trajectory_specs().items():
                name = tree.column_of(stored)
                if name in rows:
                    values = np.array(rows[name], spec.dtype).reshape(count, *spec.shape)
                else:
                    values = np.full(
                        (count, *spec.shape), np.nan if spec.dtype.kind == "f" else 0, spec.dtype
                    )
                    for at, number in enumerate(rows["trajectory"] if pending.rows else ()):
                        if name in pending.rows.get(number, {}):
                            values[at] = pending.rows[number][name]
                store.append_table({stored: values})
        pending.parts, pending.trajectories, pending.rows = [], [], {}

    def _trajectory_specs(self) -> dict[str, ArraySpec]:
        specs = self.store.table_specs()
        return {name: spec for name, spec in specs.items() if tree.is_trajectories(name)}

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
                self.store.create_arrays({stored: column_spec(array.dtype, self._trajectory_specs())})
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


def attachments_of(opened: Sequence[Open], observations: Iterable[str]) -> dict[str, bytes]:
    """What a commit keeps beside its record: the observations that follow the last steps of open
    trajectories, one behind the other, by field."""
    known = [entry.following for entry in opened if entry.following is not None]
    return {name: b"".join(row[name].tobytes() for row in known) for name in observations} if known else {}


def put_tables(store: ArrayStore, parts: Parts, columns: Mapping[str, NDArray[Any]]) -> None:
    """Append whole tables to a new store: its parts, and the columns of its ended trajectories by name.

    The caller answers for the rows that they speak of, and for what the commit keeps (`NOTHING` has its
    keys)."""
    specs = store.container.specs()
    for name in PARTS:
        append_rows(store, tree.parts(name), getattr(parts, name))
    for name, column in columns.items():
        stored = tree.trajectories(name)
        append_rows(store, stored, np.asarray(column, specs[stored].dtype))
