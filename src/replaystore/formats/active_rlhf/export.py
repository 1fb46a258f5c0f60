"""What a pickle of active_rlhf says of a buffer: where each row goes, and what its list of trajectories
is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError
from replaystore.formats.active_rlhf.pickling import Info
from replaystore.formats.options import Options
from replaystore.formats.report import changed, derived, lost, made_up
from replaystore.formats.shared.outgoing import Outgoing, Output
from replaystore.views.foreign_ring import LAST_STEP, Placement, Ring, ring_of, survives
from replaystore.views.reader import BufferReader

__all__ = ["FRAGMENT_LENGTH", "Plan"]

FRAGMENT_LENGTH = 50
"""What active_rlhf does without being told otherwise."""

_COLUMNS = ("on_policiness_score", "last_updated_step")
_FLOATS = ("<f4", "<f8", "<f2")


class Plan:
    """Everything that goes into the file: `numbers`, `tensors` with their `placement`, `infos`, `shapes`.
    `out` says what becomes of the buffer."""

    def __init__(self, buffer: BufferReader, options: Options, where: str) -> None:
        self.out = out = Outgoing(buffer, options)
        self.known: Mapping[str, Any] = out.ring_of("active_rlhf")
        ring = ring_of(buffer, self.known) if self.known and options.trajectories is None else None
        observation, action, reward = (
            out.joined(role, dtypes=_FLOATS) for role in ("observation", "action", "reward")
        )
        if observation is None or action is None:
            raise UnsupportedError(
                f"{where}: a buffer of active_rlhf has observations and actions, and these are not both here"
            )
        if reward is None or reward.width != 1:
            if reward is not None:
                raise UnsupportedError(
                    f"{where}: a buffer of active_rlhf has one reward a step, not {reward.width}"
                )
            reward = _zeros(np.dtype("<f4"))
            out.became["reward"] = made_up("0")
        if ring is None:
            self._in_a_new_ring()
        else:
            self._in_its_ring(ring)
        self.tensors = {"obs": observation, "acts": action, "rews": reward, "dones": self._dones()}
        self.shapes = {"env_obs_shape": (observation.width,), "env_act_shape": (action.width,)}
        if ring is not None:
            self.shapes |= {key: tuple(self.known[key]) for key in self.shapes if key in self.known}
        flags = changed("told apart no more in dones") if ring is None else lost()
        holds = {"split", "steps", *_COLUMNS, *(("open",) if ring else ("final_observation",))}
        out.note_losses(holds=holds, flags=flags)

    def _dones(self) -> Output:
        out = self.out
        kept = out.kept("dones", ("?",)) if self.known else None
        flagged = "terminated" in out.fields or "truncated" in out.fields
        if kept is None and (self.known or not flagged):
            out.became["dones"] = made_up("no episode ends")
        elif kept is None:
            out.became.setdefault("dones", derived("rows of last observations are flagged"))
        return kept or Output(np.dtype(np.bool_), 1, lambda rows: (rows >= out.count)[:, None])

    # --- a buffer that was such a file

    def _in_its_ring(self, ring: Ring) -> None:
        known = self.known
        self.placement = ring.placement
        if "fragment_length" not in known:
            self.out.rest["fragment_length"] = made_up(str(FRAGMENT_LENGTH))
        step = known["global_step"] + ring.added
        self.numbers = {
            "capacity": ring.capacity,
            "fragment_length": known.get("fragment_length", FRAGMENT_LENGTH),
        }
        self.numbers |= {"size": ring.size, "pos": ring.position, "global_step": step}
        self.infos = list(self._ring_infos(ring))

    def _ring_infos(self, ring: Ring) -> Iterator[Info]:
        """Its own trajectories that still have all their rows, then those appended since (each part of one by
        itself)."""
        out, table, parts = self.out, self.out.table, self.out.parts
        row, length, order = parts.runs(parts.parts_of(table["trajectory"]))
        offset = parts.offset[order] + (row - parts.start[order]) // parts.stride[order]
        kept = row >= out.first + out.count - ring.capacity
        kept &= (row != out.first) | (offset == 0)  # else its first rows have left the ring
        own, place = row < ring.rows, ring.place(row)
        number, *_ = self.known.get("longer") or [-1]
        longer = own & (parts.trajectory[order] == number)
        whole = np.where(longer, offset, 0)
        start, length = (place - whole) % ring.capacity, length + whole
        for at in np.flatnonzero(own & (longer | (not ring.orderly))).tolist():
            kept[at] = survives(ring, int(start[at]), int(length[at])) and bool(kept[at] or longer[at])
        # As lists: NumPy swallows an interrupt that comes while it makes a string of its own into one of
        # Python's.
        splits = dict(zip(table["trajectory"].tolist(), table["split"].tolist(), strict=True))
        scores, updates = self._columns(self.known["global_step"] + row - ring.rows, parts.trajectory[order])
        irregular = [entry for entry in self.known["irregular"] if survives(ring, entry[1], entry[2])]
        for at in np.flatnonzero(kept).tolist():
            number = int(parts.trajectory[order[at]])
            while irregular and irregular[0][0] <= number:
                yield _irregular_info(irregular.pop(0))
            yield int(start[at]), int(length[at]), splits[number], float(scores[at]), int(updates[at])
        yield from map(_irregular_info, irregular)

    def _columns(
        self, begun: NDArray[np.int64], numbers: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Scores and when they were last updated, of the trajectories with these numbers, which began at
        these steps."""
        table = self.out.table
        scores, updates = np.zeros(len(numbers)), begun.copy()
        if not all(name in table.columns for name in _COLUMNS):
            self.out.rest |= dict.fromkeys(_COLUMNS, made_up("0, and when they began"))
            return scores, updates
        order = np.argsort(table["trajectory"])
        at = order[np.searchsorted(table["trajectory"], numbers, sorter=order)]
        score, updated = table["on_policiness_score"][at].astype(np.float64), table["last_updated_step"][at]
        # Ended since; nobody has set them.
        never = (numbers >= self.known.get("trajectories", 0)) & np.isnan(score) & (updated == 0)
        return np.where(never, scores, score), np.where(never, updates, updated).astype(np.int64)

    # --- any other buffer

    def _in_a_new_ring(self) -> None:
        """Trajectory after trajectory, behind the rows of none. Of episodes that ended, the last observation
        becomes a row of its own, as active_rlhf has it: flagged in `dones`, with an action and a reward that
        mean nothing."""
        out = self.out
        start, length, part = out.in_pieces()
        number = (
            np.where(part >= 0, out.parts.trajectory[part], -1) if len(out.parts) else np.full(len(part), -1)
        )
        last = (np.append(number[1:] != number[:-1], True)[: len(part)]) & (part >= 0)
        ended = np.zeros(len(part), np.bool_)
        ended[last] = self._ended(number[last], (start + length - 1)[last])
        after = out.after[part] if len(out.parts) else np.zeros(len(part), np.bool_)
        added = ended & after
        lengths = length + added
        place = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        capacity = (
            max(total, 1)
            if self.out.options.trajectories is not None
            else max(total, out.buffer.capacity or 1)
        )
        places = np.concatenate([place, (place + length)[added]])
        order = np.argsort(places, kind="stable")
        rows = np.concatenate([start, out.count + part[added]])
        counts = np.concatenate([length, np.ones(int(added.sum()), np.int64)])
        self.placement = Placement(capacity, places[order], rows[order], counts[order])
        step = {"size": total, "pos": total % capacity, "global_step": total}
        self.numbers = {"capacity": capacity, "fragment_length": FRAGMENT_LENGTH, **step}
        left = int((last & ~ended & after).sum())
        self._note(capacity, int(added.sum()), int((ended & ~after).sum()), left, start, length)
        first = (part >= 0) & np.append(True, number[1:] != number[:-1])[: len(part)]
        owner = np.cumsum(first) - 1
        whole = np.bincount(owner[part >= 0], lengths[part >= 0], int(first.sum())).astype(np.int64)
        scores, updates = self._columns(place[first], number[first])
        splits = dict(zip(out.table["trajectory"].tolist(), out.table["split"].tolist(), strict=True))
        columns = (
            place[first].tolist(),
            whole.tolist(),
            [splits[n] for n in number[first].tolist()],
            scores.tolist(),
            updates.tolist(),
        )
        self.infos = list(zip(*columns, strict=True))

    def _ended(self, numbers: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether an episode ended with these trajectories, whose last rows are given."""
        table = self.out.table
        flag, what = self.out.ends or ("", "")
        if what == LAST_STEP and len(last):
            return np.asarray(self.out.field(flag, last) != 0)
        order = np.argsort(table["trajectory"])
        at = (
            order[np.searchsorted(table["trajectory"], numbers, sorter=order)]
            if len(numbers)
            else np.zeros(0, np.int64)
        )
        return np.asarray(table["terminated"][at] | table["truncated"][at])

    def _note(
        self,
        capacity: int,
        added: int,
        unknown: int,
        left: int,
        start: NDArray[np.int64],
        length: NDArray[np.int64],
    ) -> None:
        rest = self.out.rest
        rest["ring"] = made_up(f"capacity {capacity}, fragment_length {FRAGMENT_LENGTH}")
        if added:
            rest["steps"] = made_up(
                f"{added} rows of last observations of episodes, flagged in dones, with action and reward 0"
            )
        if left:
            rest["final_observation"] = lost(f"those of {left} trajectories that were cut off")
        if unknown:
            self.out.became["dones"] = changed(
                f"{unknown} episodes that ended, whose last observation is not known, are not flagged"
            )
        if (start[1:] < (start + length)[:-1]).any():
            rest["order"] = changed("one trajectory after another")


def _irregular_info(entry: list[Any]) -> Info:
    _, start, length, split, score, updated = entry
    return int(start), int(length), str(split), float.fromhex(score), int(updated)


def _zeros(dtype: np.dtype[Any]) -> Output:
    return Output(dtype, 1, lambda rows: np.zeros((len(rows), 1), dtype))
