"""How the steps that a writer has staged become rows: in the order of time, the steps of one environment a
constant stride apart (lanes.py), with what they say of trajectories.

What comes after the last step of each environment is where its next step starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.lanes import Lanes
from replaystore.buffers.placing import Plan
from replaystore.buffers.recorder import Recorder
from replaystore.buffers.staged import one_step, pieces_of, rows_of
from replaystore.buffers.staging import Staging
from replaystore.schema.fields import Schema
from replaystore.trajectories.pieces import NEVER, Following

__all__ = ["HandingOver"]


class HandingOver:
    """Hands the staged steps of `num_envs` environments to a recorder: the part of a writer that does."""

    _schema: Schema
    _staging: Staging

    def __init__(self, recorder: Recorder, num_envs: int, split: str) -> None:
        self.num_envs = num_envs
        self.split = split
        self._recorder = recorder
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
        self._going = False
        """Trajectories are open in all environments, and the next rows go on with all parts."""

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

    def _go_on(self, count: int) -> dict[str, Any]:
        """As `_place`, of so many steps in which all trajectories go on."""
        staging, order, slots, ragged = self._staging, self._order, self._span, self._schema.ragged
        columns: Mapping[str, Any]
        if order is None and not ragged:
            columns, after = staging.plainly()
            rewards = self._schema.total_reward({name: staging.rows(name) for name in staging.rewards})
        else:
            source = None
            if order is not None:
                slots = self._slots[order]
                source = (np.arange(staging.time)[:, None] * self.num_envs + order).reshape(-1)
            columns, after = staging.take(source)
            rewards = self._schema.total_reward(columns)
        plan, following = columns, after
        if ragged:
            lead = self._all if order is None else order
            plan, _, following = self._planned(columns, count, {}, after, lead, lead)
        self._recorder.advance(plan, count, slots, staging.time, rewards, self._span, following)
        return after

    def _planned(
        self,
        columns: Mapping[str, Any],
        count: int,
        finals: Mapping[str, Any],
        after: Mapping[str, Any],
        lead: NDArray[np.int64],
        touched: NDArray[np.int64],
    ) -> tuple[Any, Mapping[str, Any], dict[str, Any]]:
        """The plan of rows with values of any length; the final observations, and by environment what
        follows, as they are stored.

        Args:
            lead: the environments of the leading rows, which may begin with what was said to follow.
            touched: those of which something follows, in the order of their next rows: if their values lie
                so, these can be theirs as well.
        """
        going = self._recorder.assembler.going
        slots = self._slots[lead]
        slots = slots[np.logical_and.accumulate(going.known[slots])]
        taken = {name: rows[slots] for name, rows in going.following.items() if name in self._schema.ragged}
        followed = {name: rows[touched] for name, rows in after.items()}
        plan = self._recorder.plan(columns, count, finals, followed, taken)
        assert isinstance(plan, Plan)
        following = {}
        for name, rows in plan.following.items():
            following[name] = np.zeros((self.num_envs, *rows.shape[1:]), rows.dtype)
            following[name][touched] = rows
            plan.following[name] = following[name][np.sort(touched)]  # as it is told of a plan
        return plan, plan.finals, following

    def _place(self, first: int) -> dict[str, Any]:
        """Hand steps over among which trajectories begin or end, or are not recorded by all environments;
        what the next step starts from."""
        staging, recorder, lanes = self._staging, self._recorder, self._lanes.copy()
        rows = rows_of(staging.time, first, lanes, staging.masks)
        flags = staging.flags("terminated"), staging.flags("truncated")
        pieces, times, envs = pieces_of(rows, staging.time, *flags, staging.resets, self.num_envs)
        pieces.split[:] = recorder.split_code(self.split)
        finals: Mapping[str, Any] = staging.finals(times, envs)
        pieces.final[:] = pieces.final if finals else NEVER
        columns, after = staging.take(rows.source)
        count, touched = len(rows.row), np.unique(pieces.env)
        rewards = self._schema.total_reward(columns)
        rewards = None if rewards is None else rewards[rows.row]
        plan, following = columns, after
        if self._schema.ragged:
            source = np.arange(min(count, self.num_envs)) if rows.source is None else rows.source
            lead = source[: self.num_envs]
            lead = lead[: int(np.logical_and.accumulate(lead < self.num_envs).sum())]
            order = lanes.order(first + count)
            order = order[np.isin(order, touched)]
            plan, finals, following = self._planned(columns, count, finals, after, lead, order)
        told = Following(
            np.full(len(touched), bool(after)), {name: row[touched] for name, row in following.items()}
        )
        recorder.add(plan, count, pieces, rewards, finals, told)
        self._keep_lanes(lanes)
        return after

    def _keep_lanes(self, lanes: Lanes) -> None:
        self._lanes = lanes
        order = lanes.order(self._recorder.rows)
        self._order = None if (order == self._all).all() else order
        expected = self._recorder.assembler.going.expected(self._slots, self.num_envs)
        self._going = bool((expected[order] == self._recorder.rows + self._all).all())

    def _place_one(self, first: int) -> dict[str, Any]:
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
        ended = [piece.env for piece in pieces if piece.ends != NEVER]
        finals: Mapping[str, Any] = staging.finals(0, ended)
        plan, following = columns, after
        if self._schema.ragged:
            told = quiet.copy()
            told[[piece.env for piece in pieces]] = True
            after_it = lanes.order(first + count)
            lead = self._all if order is None else order
            plan, finals, following = self._planned(
                columns, count, finals, after, lead, after_it[told[after_it]]
            )
        for piece in pieces:
            piece.split = code
            if piece.length and rewards is not None:
                piece.rewards = rewards[piece.start : piece.start + 1]
            if piece.ends != NEVER:
                piece.final = {name: row[ended.index(piece.env)].copy() for name, row in finals.items()}
            piece.following = {name: row[piece.env] for name, row in following.items()}
        recorder.add_one(
            plan,
            count,
            pieces,
            self._slots[quiet],
            None if rewards is None else rewards[rows[quiet]],
            {name: row[quiet] for name, row in following.items()},
        )
        if mask is None:
            self._going = all(piece.length and piece.ends == NEVER for piece in pieces)
        else:
            self._keep_lanes(lanes)
        return after
