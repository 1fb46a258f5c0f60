"""Steps of several environments, staged until there are enough of them, become rows.

A step is staged as the bytes of its arrays, which is the quickest copy there is; when there are enough steps,
or at a commit, they become rows in the order of time: the steps of one environment lie a constant stride
apart, whatever the rhythm of commits (lanes.py). So the cost of a step is that of copying it, and a
trajectory is one part.

The observation after a step is that of the next step. When a trajectory ends, `reset` puts the first
observation of the next one in its place; the one that was there is kept as the final observation of the
trajectory that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.given import check_writer, chosen_envs, seeds_of
from replaystore.buffers.lanes import Lanes
from replaystore.buffers.recorder import Recorder
from replaystore.buffers.staged import Reset, one_step, pieces_of, rows_of
from replaystore.buffers.staging import PLAIN, Staging
from replaystore.errors import ConflictError, SchemaError
from replaystore.interrupts import Operations
from replaystore.schema.fields import Schema
from replaystore.schema.names import listed
from replaystore.schema.values import array_of
from replaystore.trajectories.pieces import NEVER, Following

__all__ = ["Writer"]


class Writer:
    """Writes the steps of `num_envs` environments, which take turns in one call. Made by `buffer.writer`.

    Call `reset` with the first observations, then `step` after each step of the environments. After a step in
    which a trajectory ended, call `reset` for it (`mask`); otherwise the observation passed with the step is
    also the first of the next trajectory. Without fields of flags in the schema, it is `reset` alone that
    ends a trajectory.

    What the schema has no fields of (actions, rewards, flags, observations) is left out, or None. Values are
    arrays, tensors or what NumPy makes an array of the field's dtype of, nested as Gymnasium does it or by
    field name (`{"reward/a0": …}` as well as `{"a0": …}`).
    """

    def __init__(
        self,
        recorder: Recorder,
        num_envs: int,
        *,
        split: str = "",
        writable: Callable[[], None],
        operations: Operations,
        closed: Callable[[Writer], None],
    ) -> None:
        """`writable` raises if nothing is to be written (any more); handing rows over is one of the
        `operations`; `closed` is called when the writer has been closed."""
        check_writer(num_envs, split)
        self.num_envs = num_envs
        self.split = split
        self._recorder = recorder
        self._writable, self._operations, self._on_closed = writable, operations, closed
        self._slots = recorder.assembler.going.slots(range(num_envs), keep=True)
        self._span: slice | NDArray[np.int64] = self._slots
        """The slots; adjacent ones as a slice, by which NumPy finds them several times as fast."""
        if (np.diff(self._slots) == 1).all():
            self._span = slice(int(self._slots[0]), int(self._slots[0]) + num_envs)
        self._all = np.arange(num_envs)
        self._lanes = Lanes(num_envs, recorder.rows)
        self._next = -1
        """The row behind the last one that was handed over; -1: the lanes begin with the next row."""
        self._order: NDArray[np.int64] | None = None
        """The environments in the order of their rows; None: in that of their numbers."""
        self._going = self._started = self._closed = False
        """`_going`: trajectories are open in all environments, and the next rows go on with all parts."""
        self._staging = Staging(recorder.schema, num_envs, {})
        self.take_schema(recorder.schema)

    def take_schema(self, schema: Schema) -> None:
        """Be ready for steps of this schema; nothing is staged."""
        self._schema = schema
        self._staging = Staging(schema, self.num_envs, self._staging.start)
        self._expected = self._staging.expected
        self._staging.open(self._started)

    def reset(
        self,
        observation: Any = None,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Trajectories begin with these observations, in all environments or in those where `mask` (shape
        (num_envs,)) is True.

        Those that are open there are cut off: they end neither terminated nor truncated. Observations are
        batched as Gymnasium does (first dimension num_envs; dict or tuple of such arrays). `seed`: what the
        environments were reset with.

        After a reset of all in one call rows do not depend on what was before: a writer that goes on from a
        commit so, with the same steps, gets the rows of one that has never stopped."""
        self._check_open()
        if mask is None:
            envs = self._all
        elif self._staging.is_mask(mask):
            (envs,) = mask.nonzero()
        else:
            envs = chosen_envs(mask, self.num_envs)
        if type(observation) is np.ndarray and self._expected.get("observation") == (
            observation.dtype,
            observation.shape,
        ):
            values = {"observation": observation}
        else:
            values = self._checked(self._given("observation", observation), self._staging.observations)
        seeds = None if seed is None else seeds_of(seed, envs, self.num_envs)
        if len(envs) == self.num_envs and (self._order is not None or self._staging.masks):
            # Their order comes from steps that a writer which goes on from a commit has not seen.
            self.flush()
            self._next = -1
        begins = {name: value[envs] for name, value in values.items()}
        self._staging.resets.append(Reset(self._staging.time, envs, seeds, begins))
        self._staging.rewind()
        self._started = True
        self._staging.open()

    def step(
        self,
        action: Any = None,
        reward: Any = None,
        terminated: NDArray[np.bool_] | None = None,
        truncated: NDArray[np.bool_] | None = None,
        observation: Any = None,
        info: Mapping[str, NDArray[Any]] | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """One step of each environment, as arrays with first dimension num_envs.

        Args:
            reward: of several fields of rewards a dict of them.
            observation: the observation after the action; for a trajectory that ends here its final one, not
            that of the next.
            info: all further fields, by field name ("info/speed").
            mask: shape (num_envs,); environments where it is False record nothing.

        Raises:
            SchemaError: a wrong dtype or shape, a missing or unknown field; nothing is recorded then.
            StorageError: the disk refused; nothing is lost, and the step may be repeated.
        """
        if self.offer(action, reward, terminated, truncated, observation, info, mask):
            return
        columns: dict[str, Any] = {}
        for role, value in zip(PLAIN, (observation, action, reward, terminated, truncated), strict=True):
            if type(value) is np.ndarray:
                columns[role] = value
            else:
                columns |= self._given(role, value)
        self._stage({**columns, **info} if info else columns, mask)

    def offer(
        self,
        action: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        observation: Any,
        info: Mapping[str, Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> bool:
        """As `step`, of what is just as it is stored, such as nearly every step: arrays of the fields' dtypes
        and shapes. Whether it is: else nothing is recorded, and nothing told."""
        staging = self._staging
        if staging.time >= staging.limit:
            self.flush()
        return staging.offer(action, reward, terminated, truncated, observation, info, mask)

    def _given(self, role: str, value: Any) -> dict[str, Any]:
        """{field name: value} of what is given for a role; nothing of None or an empty dict."""
        nothing = value is None or (isinstance(value, Mapping | tuple) and not value)
        return {} if nothing else self._schema.flatten(value, role)

    def _stage(self, columns: Mapping[str, Any], mask: NDArray[np.bool_] | None) -> None:
        """Check a step and stage it."""
        self._check_open()
        if not self._started:
            raise SchemaError("step before reset: call reset with the first observations")
        if mask is not None and not self._staging.is_mask(mask):
            raise SchemaError(
                f"mask is a bool array of shape ({self.num_envs},), True where a step is "
                f"recorded, not {mask!r:.80}"
            )
        staged = self._staging.bytes_of(columns)
        if staged is None:
            staged = self._staging.bytes_of(self._checked(columns, self._schema.fields))
            assert staged is not None
        self._staging.stage(staged, mask)

    def _checked(self, columns: Mapping[str, Any], names: Any) -> dict[str, NDArray[Any]]:
        dtypes = {name: dtype for name, (dtype, _) in self._expected.items()}
        arrays = {
            name: array_of(f"field {name!r}", value, dtypes.get(name)) for name, value in columns.items()
        }
        if not names:
            if arrays:
                raise SchemaError(
                    f"there is no field {next(iter(arrays))!r} in the schema "
                    f"({listed(self._schema.fields)}): leave it out"
                )
            return {}
        self._schema.select(names).check(arrays)
        for name, array in arrays.items():
            if array.shape[0] != self.num_envs:
                raise SchemaError(
                    f"field {name!r} has {array.shape[0]} rows for {self.num_envs} environments"
                )
        return arrays

    # --- from steps to rows

    @property
    def staged(self) -> int:
        """Steps that are staged."""
        return self._staging.steps

    @property
    def going_on(self) -> int | None:
        """How many steps are staged, if all trajectories go on in all of them, behind the newest row."""
        staging = self._staging
        staging.rewind()
        goes_on = self._going and self._next == self._recorder.rows and staging.quiet
        return staging.time if goes_on else None

    def flush(self) -> None:
        """Hand the staged steps over as rows. They are safe after the next commit."""
        if self._staging:
            self._writable()
            self.hand_over()

    def hand_over(self) -> None:
        """As `flush`, in whatever operation this is a part of."""
        if self._staging:
            with self._operations("flush"):
                self._flush()

    def _flush(self) -> None:
        staging, recorder = self._staging, self._recorder
        staging.rewind()
        first, count = recorder.rows, staging.time * self.num_envs
        if first != self._next:  # rows of others lie between, or all was reset: no part goes on
            self._lanes, self._order, self._going = Lanes(self.num_envs, first), None, False
        if self._going and staging.quiet:
            after = self._go_on(count)
            self._next = first + count
        else:
            after = self._place_one(first) if staging.time == 1 else self._place(first)
            self._next = recorder.rows
        staging.handed_over(after)

    def _go_on(self, count: int) -> dict[str, NDArray[Any]]:
        """As `_place`, of so many steps in which all trajectories go on."""
        staging, order, slots = self._staging, self._order, self._span
        columns: Mapping[str, Any]
        if order is None:
            columns, after = staging.plainly()
            rewards = self._schema.total_reward({name: staging.rows(name) for name in staging.rewards})
        else:
            slots = self._slots[order]
            source = (np.arange(staging.time)[:, None] * self.num_envs + order).reshape(-1)
            columns, after = staging.take(source)
            rewards = self._schema.total_reward(columns)
        self._recorder.advance(columns, count, slots, staging.time, rewards, self._span, after)
        return after

    def _place(self, first: int) -> dict[str, NDArray[Any]]:
        """Hand steps over among which trajectories begin or end, or are not recorded by all environments;
        what the next step starts from."""
        staging, recorder, lanes = self._staging, self._recorder, self._lanes.copy()
        rows = rows_of(staging.time, first, lanes, staging.masks)
        flags = staging.flags("terminated"), staging.flags("truncated")
        pieces, times, envs = pieces_of(rows, staging.time, *flags, staging.resets, self.num_envs)
        pieces.split[:] = recorder.split_code(self.split)
        finals = {name: staging.view(name)[times, envs] for name in staging.observations}
        pieces.final[:] = pieces.final if finals else NEVER
        columns, after = staging.take(rows.source)
        touched = np.unique(pieces.env)
        following = Following(
            np.full(len(touched), bool(after)), {name: row[touched] for name, row in after.items()}
        )
        rewards = self._schema.total_reward(columns)
        rewards = None if rewards is None else rewards[rows.row]
        recorder.add(columns, len(rows.row), pieces, rewards, finals, following)
        self._keep_lanes(lanes)
        return after

    def _keep_lanes(self, lanes: Lanes) -> None:
        self._lanes = lanes
        order = lanes.order(self._recorder.rows)
        self._order = None if (order == self._all).all() else order
        expected = self._recorder.assembler.going.expected(self._slots, self.num_envs)
        self._going = bool((expected[order] == self._recorder.rows + self._all).all())

    def _place_one(self, first: int) -> dict[str, NDArray[Any]]:
        """As `_place`, of one step, of which few environments have more to tell than that they go on."""
        staging, recorder, lanes = self._staging, self._recorder, self._lanes
        mask, count, going = staging.masks.get(0), self.num_envs, recorder.assembler.going
        if mask is None:
            rows, order = lanes.places(first), self._order
        else:
            lanes = lanes.copy()
            lanes.move(first, mask)
            rows = np.where(mask, lanes.places(first), -1)
            order = np.argsort(rows)[(rows < 0).sum() :]
            count = len(order)
        columns, after = staging.take(order)
        pieces, quiet = one_step(
            rows,
            going.expected(self._slots, self.num_envs) - first,
            {name: columns[name] for name in ("terminated", "truncated") if name in columns},
            staging.resets,
        )
        rewards, code = self._schema.total_reward(columns), recorder.split_code(self.split)
        finals = {name: staging.view(name)[0] for name in staging.observations}
        for piece in pieces:
            piece.split = code
            if piece.length and rewards is not None:
                piece.rewards = rewards[piece.start : piece.start + 1]
            if piece.ends != NEVER:
                piece.final = {name: row[piece.env].copy() for name, row in finals.items()}
            piece.following = {name: row[piece.env] for name, row in after.items()}
        recorder.add_one(
            columns,
            count,
            pieces,
            self._slots[quiet],
            None if rewards is None else rewards[rows[quiet]],
            {name: row[quiet] for name, row in after.items()},
        )
        if mask is None:
            self._going = all(piece.length and piece.ends == NEVER for piece in pieces)
        else:
            self._keep_lanes(lanes)
        return after

    def close(self) -> None:
        """Hand over what is staged, and cut off the open trajectories. The buffer stays open; commit it to
        make all of it safe."""
        if not self._closed:
            self._writable()
            self.finish()

    def finish(self) -> None:
        """As `close`, in whatever operation this is a part of."""
        with self._operations("close the writer"):
            self.hand_over()
            self._recorder.cut(range(self.num_envs))
            self._recorder.assembler.going.let_go(self._slots)
            self._closed = True
            self._staging.open(False)
            self._on_closed(self)

    def _check_open(self) -> None:
        if self._closed:
            raise ConflictError("this writer is closed: make another with buffer.writer()")
