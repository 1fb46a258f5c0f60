"""From rows to trajectories: which rows belong together, where a trajectory begins and ends, what it
returned. NumPy only, no I/O.

Rows arrive in runs of consecutive steps of one environment. `Run.ends` says which rows end a trajectory: made
of flags in buffers/given.py (append) and buffers/staged.py (Writer), of blocks in buffers/recorder.py. What
is known of a trajectory that has not ended (its open part, its return so far, the observation that will
follow) is carried along and kept with each commit, so that neither a commit nor the order in which runs
arrive changes a part more than it must: a part ends when its trajectory ends, or when the trajectory's next
rows are not adjacent to it.

The return is summed step after step in float64, so that it does not depend on how the rows were cut into
runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Assembler", "Begin", "End", "Open", "Pending", "Run"]

Observation = Mapping[str, NDArray[Any]]
"""One observation by field name, without a leading axis."""


@dataclass
class Open:
    """A trajectory that has not ended."""

    trajectory: int
    env: int
    seed: int
    split: int
    returned: Any = 0.0
    """The sum of rewards so far: a float, or a list for vector rewards."""
    part_start: int = 0
    part_length: int = 0
    stride: int = 1
    offset: int = 0
    """The place of the part's first step in the trajectory."""
    following: dict[str, NDArray[Any]] | None = None
    """The observation after its last step, if known."""
    row: dict[str, Any] | None = None
    """Further values of its row of the table, if any are known; not kept with a commit."""
    terminated: bool = False
    truncated: bool = False
    """The flags of its last step. They are set only where the source says that trajectories end elsewhere."""

    @property
    def length(self) -> int:
        return self.offset + self.part_length

    def to_json(self) -> list[Any]:
        """What is kept with a commit; the observation is kept beside it. Numbers as text: JSON has no NaN and
        no infinity."""
        returned = [repr(value) for value in np.atleast_1d(self.returned).tolist()]
        numbers = [
            self.trajectory,
            self.env,
            self.seed,
            self.split,
            self.part_start,
            self.part_length,
            self.stride,
            self.offset,
        ]
        flags = [self.terminated, self.truncated] if self.terminated or self.truncated else []
        return [*numbers, returned, self.following is not None, *flags]

    @classmethod
    def from_json(cls, values: Sequence[Any], *, components: int | None) -> Open:
        """The inverse, without the observation. `components`: of a reward, if it is not a scalar. ValueError:
        it is none of ours."""
        if not isinstance(values, list) or len(values) not in (10, 12):
            raise ValueError(f"{values!r:.80} is no open trajectory")
        *numbers, returned, known = values[:10]
        flags = values[10:]
        if any(type(number) is not int or not -(1 << 63) <= number < 1 << 62 for number in numbers) or any(
            type(flag) is not bool for flag in (known, *flags)
        ):
            raise ValueError(f"an open trajectory has no numbers such as {numbers!r:.80}")
        trajectory, env, seed, split, part_start, part_length, stride, offset = numbers
        if (
            not isinstance(returned, list)
            or len(returned) != (components or 1)
            or not all(isinstance(value, str) for value in returned)
        ):
            raise ValueError(f"{returned!r:.80} is not the return of an open trajectory")
        if min(trajectory, split, part_start, part_length, stride - 1, offset) < 0:
            raise ValueError(f"an open trajectory has no numbers below 0, or 1, such as {numbers!r:.80}")
        total = [float(value) for value in returned]
        return cls(
            trajectory,
            env,
            seed,
            split,
            total[0] if components is None else total,
            part_start,
            part_length,
            stride,
            offset,
            terminated=bool(flags and flags[0]),
            truncated=bool(flags and flags[1]),
        )


TrajectoryRow = tuple[int, int, int, bool, bool, int, Any, int]
"""The values of `columns.TRAJECTORIES`."""


@dataclass
class Pending:
    """Rows of the tables that no commit has yet."""

    parts: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    """The values of `columns.PARTS`."""
    trajectories: list[TrajectoryRow] = field(default_factory=list)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Further values of rows of the table, by trajectory."""
    finals: list[dict[str, NDArray[Any]]] = field(default_factory=list)


Time = tuple[int, int]
"""(step, order): when something happened, within the runs that are added together; what happens before a step
has a lower order."""


@dataclass(frozen=True)
class Begin:
    """A trajectory begins."""

    time: Time
    seed: int
    split: int | None = None
    """None: that of the rows that are added together."""
    row: Mapping[str, Any] | None = None
    """Further values of its row of the table."""


@dataclass(frozen=True)
class End:
    """A trajectory ends, and the observation after its last step, if known."""

    time: Time
    final: Observation | None
    row: Mapping[str, Any] | None = None
    """Further values of its row of the table."""


@dataclass
class Run:
    """Rows start, start + stride, … of an environment; `ends` by the place of their last row, `begins` by
    that of their first."""

    env: int
    start: int
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    reward: NDArray[Any] | None
    ends: dict[int, End] = field(default_factory=dict)
    begins: dict[int, Begin] = field(default_factory=dict)
    following: Observation | None = None
    """The observation after the last row, if its trajectory stays open or has just begun."""
    continues: bool = True
    """The first row's observation is the one that was expected to follow."""
    stride: int = 1


class Assembler:
    """Keeps track of the trajectories of all environments.

    Trajectories are numbered in the order in which they begin, and listed in the order in which they end
    (environments in turn where the time is the same), however many steps are added at once."""

    def __init__(
        self,
        *,
        next_trajectory: int = 0,
        finals: int = 0,
        opened: Sequence[Open] = (),
        components: int | None = None,
    ) -> None:
        self.next_trajectory = next_trajectory
        self.open: dict[int, Open] = {entry.env: entry for entry in opened}
        self.pending = Pending()
        self._finals = finals
        self._components = components
        """The number of components of a reward, if it is not a scalar."""
        self._ended: list[tuple[Time, int, TrajectoryRow]] = []
        self._stride = self._since = 0
        """The stride of the newest rows, and the row from which on there is no other one. A part that began
        before does not go on, so that nothing of another stride lies between its rows."""

    @property
    def finals(self) -> int:
        """How many final observations there are, those that no commit has yet included."""
        return self._finals

    def add_together(self, first: int, runs: Sequence[Run], *, split: int = 0) -> None:
        """Count the rows of several environments; each run's `start` is relative to row `first`. All are of
        one stride."""
        if runs and runs[0].stride != self._stride:
            self._stride, self._since = runs[0].stride, first
        numbers: dict[tuple[int, int], int] = {}
        for _, env, place in sorted(
            (begin.time, run.env, place) for run in runs for place, begin in run.begins.items()
        ):
            known = self.open.get(env)
            if place == 0 and known is not None and not known.length:
                numbers[env, place] = known.trajectory  # reset again before its first step
            else:
                numbers[env, place] = self.next_trajectory
                self.next_trajectory += 1
        for run in runs:
            self._add(first, run, numbers, split)
        self._settle()

    def cut(self, env: int) -> None:
        """End the open trajectory of an environment here, neither terminated nor truncated unless its last
        step is. One without steps is forgotten."""
        self._cut(env, (0, 0))
        self._settle()

    def _add(self, first: int, run: Run, numbers: Mapping[tuple[int, int], int], split: int) -> None:
        count, env = len(run.terminated), run.env
        rewards = None if run.reward is None else np.asarray(run.reward)
        begin = 0
        if 0 in run.begins:
            self._begin(env, run.begins[0], numbers[env, 0], split)
        for place in sorted(run.ends):
            self._extend(run, first, begin, place + 1, rewards, split)
            end = run.ends[place]
            if end.row:
                self.open[env].row = {**(self.open[env].row or {}), **end.row}
            self._end(
                self.open.pop(env),
                end.time,
                bool(run.terminated[place]),
                bool(run.truncated[place]),
                end.final,
            )
            begin = place + 1
            if begin in run.begins:
                self._begin(env, run.begins[begin], numbers[env, begin], split)
        if begin < count:
            self._extend(run, first, begin, count, rewards, split)
            entry = self.open[env]
            entry.terminated, entry.truncated = bool(run.terminated[-1]), bool(run.truncated[-1])
        if env in self.open:
            self.open[env].following = None if run.following is None else dict(run.following)

    def _begin(self, env: int, begin: Begin, number: int, split: int) -> None:
        self._cut(env, begin.time)
        zero = 0.0 if self._components is None else [0.0] * self._components
        split = split if begin.split is None else begin.split
        row = dict(begin.row) if begin.row else None
        self.open[env] = Open(number, env, begin.seed, split, returned=zero, row=row)

    def _cut(self, env: int, time: Time) -> None:
        entry = self.open.pop(env, None)
        if entry is not None and entry.length:
            self._end(entry, time, entry.terminated, entry.truncated, entry.following)

    def _extend(self, run: Run, first: int, begin: int, stop: int, rewards: Any, split: int) -> None:
        """Add rows to the open trajectory of an environment, or to a new one."""
        if run.env not in self.open:
            self._begin(run.env, Begin((0, 0), -1), self.next_trajectory, split)
            self.next_trajectory += 1
        entry, continues = self.open[run.env], run.continues or begin > 0
        start = first + run.start + begin * run.stride
        goes_on = run.stride == entry.stride and start == entry.part_start + entry.part_length * run.stride
        goes_on = goes_on and (run.stride == 1 or start - run.stride >= self._since)
        if entry.part_length and not (goes_on and continues):
            self._close_part(entry, None if continues else entry.following)
        if not entry.part_length:
            entry.part_start, entry.stride = start, run.stride
        entry.part_length += stop - begin
        if rewards is not None and stop > begin:
            sums = rewards[begin:stop].astype(np.float64)
            sums[0] += (
                entry.returned if self._components is None else np.reshape(entry.returned, sums[0].shape)
            )
            # One after the other, as if each step came alone: `sum` adds in another order.
            total = np.add.accumulate(sums, axis=0, out=sums)[-1]
            entry.returned = float(total) if self._components is None else total.reshape(-1).tolist()

    def _close_part(self, entry: Open, final: Observation | None) -> None:
        number = -1
        if final is not None:
            number = self._finals
            self._finals += 1
            self.pending.finals.append(dict(final))
        self.pending.parts.append(
            (entry.part_start, entry.part_length, entry.stride, entry.trajectory, entry.offset, number)
        )
        entry.offset += entry.part_length
        entry.part_length = 0

    def _end(
        self, entry: Open, time: Time, terminated: bool, truncated: bool, final: Observation | None
    ) -> None:
        length = entry.length
        self._close_part(entry, final)
        row = (
            entry.trajectory,
            entry.env,
            length,
            terminated,
            truncated,
            entry.seed,
            entry.returned,
            entry.split,
        )
        self._ended.append((time, entry.env, row))
        if entry.row:
            self.pending.rows[entry.trajectory] = entry.row

    def _settle(self) -> None:
        """List what has ended in the order of time."""
        self._ended.sort(key=lambda ended: ended[:2])
        self.pending.trajectories += [row for _, _, row in self._ended]
        self._ended = []
