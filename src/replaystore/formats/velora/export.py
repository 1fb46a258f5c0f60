"""What the files of a velora buffer say of a buffer: where each row goes, what follows it, and what the
metadata are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, changed, derived, lost, made_up
from replaystore.formats.shared.outgoing import Outgoing, Output
from replaystore.views.foreign_ring import AFTER_IT, Placement, Ring, ring_of
from replaystore.views.reader import BufferReader

__all__ = ["TENSORS", "Plan", "forms_trajectories"]

TENSORS = ("actions", "dones", "hiddens", "next_states", "rewards", "states")
"""Of a velora buffer, in the order of the file."""

ROWS_PER_TRAJECTORY = 8
MAX_FINAL_BYTES = 64 << 20
"""Final observations are kept like a table, which is small."""
_FLOAT = np.dtype("<f4")
_BLOCK = 1 << 20
Rows = NDArray[np.int64]


def forms_trajectories(count: int, rows: int, row_bytes: int) -> bool:
    """Whether so many ends in so many rows, of so large states, are those of trajectories."""
    most = max(rows, 4 * ROWS_PER_TRAJECTORY)
    return count * ROWS_PER_TRAJECTORY <= most and count * row_bytes <= MAX_FINAL_BYTES


class Plan:
    """Everything that goes into the files: `tensors` with their `placement`, and `metadata`. `out` says
    what becomes of the buffer."""

    def __init__(self, buffer: BufferReader, options: Options, where: str) -> None:
        self.out = out = Outgoing(buffer, options)
        self.known: Mapping[str, Any] = out.ring_of("velora")
        ring = ring_of(buffer, self.known) if self.known and options.trajectories is None else None
        states, actions, rewards = (out.joined(role) for role in ("observation", "action", "reward"))
        if states is None or actions is None:
            raise UnsupportedError(
                f"{where}: a buffer of velora has observations and actions, and these are not both here"
            )
        if rewards is None or rewards.width != 1:
            if rewards is not None:
                raise UnsupportedError(
                    f"{where}: a buffer of velora has one reward a step, not {rewards.width}"
                )
            rewards = self._made_up("reward", 1, "0")
        self.states = states
        self.stored = out.kept("next_states", ("<f4",)) if self.known else None
        if self.stored is not None and self.stored.width != states.width:
            self.stored = None
        dones = self._dones()
        self.placement = self._in_a_new_ring() if ring is None else ring.placement
        next_states = self.stored or self._next_states(ring)
        hiddens = out.kept("hiddens", ("<f4",)) if self.known else None
        if hiddens is None:
            hiddens = self._made_up("hiddens", 1, "one number a step, 0")
        made = {
            "actions": actions,
            "dones": dones,
            "hiddens": hiddens,
            "next_states": next_states,
            "rewards": rewards,
            "states": states,
        }
        self.tensors = {name: made[name] for name in TENSORS}
        self.metadata = self._metadata(ring)
        flags = lost() if out.became.get("dones") == KEPT else changed("told apart no more in dones")
        out.note_losses(holds={"final_observation", "open", "steps"}, flags=flags)

    def _metadata(self, ring: Ring | None) -> dict[str, Any]:
        tensors, capacity = self.tensors, self.placement.capacity
        size = int(self.placement.count.sum()) if ring is None else ring.size
        return {
            "capacity": capacity,
            "state_dim": tensors["states"].width,
            "action_dim": tensors["actions"].width,
            "hidden_dim": tensors["hiddens"].width,
            "position": size % capacity if ring is None else ring.position,
            "size": size,
            "device": self.known.get("device") if ring is not None else "cpu",
        }

    def _made_up(self, name: str, width: int, what: str) -> Output:
        self.out.became[name] = made_up(what)
        return Output(_FLOAT, width, lambda rows: np.zeros((len(rows), width), _FLOAT))

    # --- dones

    def _dones(self) -> Output:
        out = self.out
        kept = out.kept("dones", ("<f4",)) if self.known else None
        if kept is not None:
            return kept
        flags = [name for name in ("terminated", "truncated") if name in out.fields]
        if flags:
            return Output(
                _FLOAT,
                1,
                lambda rows: np.logical_or.reduce([out.field(name, rows) for name in flags]).astype(_FLOAT)[
                    :, None
                ],
            )
        if self._flagged:
            out.became[self._flagged] = changed(
                "moved to the step before, and rows that only hold observations after episodes are left out"
            )
            return Output(_FLOAT, 1, self._flagged_after)
        return self._made_up("dones", 1, "no step is the last of its episode")

    @property
    def _flagged(self) -> str:
        """The field that flags rows which hold the observation after the last step of an episode; "" if there
        is none."""
        flag, what = self.out.ends or ("", "")
        return flag if what == AFTER_IT else ""

    def _flagged_after(self, rows: Rows) -> NDArray[Any]:
        """An episode has ended where the next observation is flagged as its last."""
        following = self.out.following(rows)
        steps = (following >= 0) & (following < self.out.count)
        found = np.zeros((len(rows), 1), _FLOAT)
        if steps.any():
            found[steps, 0] = self.out.field(self._flagged, following[steps])
        return found

    # --- any other buffer

    def _in_a_new_ring(self) -> Placement:
        """One trajectory after another, but for transitions whose next state is not known. Rows of a ring
        that says itself what follows, or which rows are flagged, stay in the order in which they lie."""
        out = self.out
        start, length, part = out.in_pieces()
        count = int(length.sum())
        if self.stored is None:
            start, length, part = start[part >= 0], length[part >= 0], part[part >= 0]
            length = length - (out.following(start + length - 1) < 0)
            if length.sum() < count:
                left = count - int(length.sum())
                out.rest["steps"] = lost(f"{left} of them, after which nothing was observed")
            out.became["next_states"] = derived("from the observations that follow")
        stop = start + length
        if self._flagged or self.stored is not None:
            order = np.argsort(start)
            start, stop, part = start[order], stop[order], part[order]
        if self._flagged and self.stored is None:
            start, stop = _without(start, stop, self._flagged_rows())
        elif self.stored is None:
            self._note_short(part[stop > start], int((stop - start).sum()))
        kept = stop > start
        start, length = start[kept], (stop - start)[kept]
        total = int(length.sum())
        capacity = (
            max(total, 1) if out.options.trajectories is not None else max(total, out.buffer.capacity or 1)
        )
        out.rest.setdefault("trajectories", changed("they end where dones and next_states say so"))
        out.rest["ring"] = made_up(f"capacity {capacity}")
        return Placement(capacity, np.cumsum(length) - length, start, length)

    def _note_short(self, part: Rows, rows: int) -> None:
        """Of rows of these parts no trajectories are read again, if there are so many."""
        count = len(np.unique(self.out.parts.trajectory[part]))
        if not forms_trajectories(count, rows, self.states.row_bytes):
            why = "they are too short to be told from chance"
            if count * ROWS_PER_TRAJECTORY <= max(rows, 4 * ROWS_PER_TRAJECTORY):
                why = "there are too many for their next states to be kept apart"
            self.out.rest["trajectories"] = lost(f"{why}: read again, steps are of none, with next_states")

    def _flagged_rows(self) -> Rows:
        """Those that are flagged: they hold the last observation of an episode, and no step."""
        blocks = [np.arange(at, min(at + _BLOCK, self.out.count)) for at in range(0, self.out.count, _BLOCK)]
        found = [block[self.out.field(self._flagged, block)] for block in blocks]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _next_states(self, ring: Ring | None) -> Output:
        """The observation that follows; where it is not known, which can only be in a ring that keeps its
        rows, zeros."""
        out, states = self.out, self.states
        if ring is not None:
            last = out.parts.last - out.first
            unknown = out.count - int(out.parts.length.sum()) + int((out.following(last) < 0).sum())
            if unknown:
                out.became["next_states"] = made_up(
                    f"0 in {unknown} of them, because it is not known what was observed then"
                )

        def read(rows: Rows) -> NDArray[Any]:
            found = np.zeros((len(rows), states.width), _FLOAT)
            following = out.following(rows)
            known = following >= 0
            if known.any():
                found[known] = states.read(following[known])
            return found

        return Output(_FLOAT, states.width, read)


def _without(start: Rows, stop: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Runs [start, stop), sorted, with these rows, sorted, cut out of them."""
    at = np.searchsorted(start, rows, side="right") - 1
    inside = rows[(at >= 0) & (rows < np.append(stop, 0)[at])]
    return np.sort(np.concatenate([start, inside + 1])), np.sort(np.concatenate([stop, inside]))
