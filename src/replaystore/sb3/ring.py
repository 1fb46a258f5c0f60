"""A ring of the steps of several environments in a store, as Stable-Baselines3 counts them: `rows` places,
written round and round, each of one step of every environment.

* What is there is never emptied. A store is looked at until something is added, and only then opened for
  writing, and made if there is none.
* Step t of environment e is row `t * envs + e` of the store; the place of step t is `t % rows`.
* The observation after a step is that of the next row, and is there once; where a trajectory ends it is in
  `final/`, and that of the newest steps in memory (fresh.py).
* Steps can be read at once; a commit makes them safe, now and then, when the ring is pickled, and at the end.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.live import LiveColumns
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import create
from replaystore.buffers.create_open import open as open_buffer
from replaystore.buffers.writer import Writer
from replaystore.errors import ConflictError, NotFoundError
from replaystore.location import parse
from replaystore.sampling.gather import Gather
from replaystore.sampling.live import live_of
from replaystore.sb3.fitting import check_fits
from replaystore.sb3.fresh import Fresh
from replaystore.schema.fields import Schema
from replaystore.trajectories.growth import Growth
from replaystore.views.followed import stored_parts

__all__ = ["Ring", "Settings"]

Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.int64]
GOES_ON, UNKNOWN = -1, -2
"""Of the observation after a step: that of the next row; nobody knows it."""
_writing: dict[str, weakref.ref[Ring]] = {}
"""Who writes to a store in this process."""


@dataclass(frozen=True)
class Settings:
    """How a store is made and written to."""

    location: str
    keep_all: bool = False
    """Steps that have left the ring stay in the store."""
    commit_seconds: float = 5.0
    """So often at least what was added becomes safe."""
    durability: str = "commit"


class Ring:
    """Steps of `envs` environments; the last `rows` of each are in the ring."""

    def __init__(
        self, settings: Settings, schema: Schema, rows: int, envs: int, commit: int | None = None
    ) -> None:
        """`commit`: show the store as of it, and go back to it when something is added.

        SchemaError: what is there does not fit."""
        self.settings, self.schema, self.rows, self.envs = settings, schema, rows, envs
        self._place = parse(settings.location)
        self.where = str(self._place)
        self.steps = 0
        """Of each environment, that were ever added."""
        self._names = tuple(schema.fields)
        self._observed = schema.names("observation")
        self._final = np.full((rows, envs), UNKNOWN, np.int64)
        """By place and environment where the observation after a step is: its number in `final/`, or
        GOES_ON."""
        self._after: dict[str, NDArray[Any]] = {}
        """The observations after the newest step of a store that is only looked at."""
        self._told: list[bytes] = []
        """Those after the newest step that was added, as bytes."""
        self._ended: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None
        """In which environments a trajectory ended with the newest step, in the two ways; None: none of them
        goes on."""
        self._nobody = np.zeros(envs, np.bool_), np.zeros(envs, np.bool_)
        self._again = True
        """Whether any trajectory is to begin with the next step, whatever is observed then."""
        self._buffer: Buffer | None = None
        self._gather: Gather | None = None
        self._writer: Writer | None = None
        self._live: LiveColumns | None = None
        self._growth: Growth | None = None
        self._seen = 0
        """Parts that have closed and are known of."""
        self._commit = commit
        self._fresh: Fresh | None = None
        """The newest steps, while they are added."""
        self._released = self._closed = False
        self._due = 0.0
        self._look()

    # --- what is there

    def _look(self) -> None:
        """Show what is there."""
        try:
            buffer = open_buffer(self._place, commit=self._commit)
        except NotFoundError:
            if self._commit is not None:
                raise
            return
        try:
            self._show(buffer)
        except BaseException:
            buffer.close()
            raise
        self._buffer = buffer
        self._gather = Gather(buffer, self._names)

    def _show(self, buffer: Buffer) -> None:
        """Know the steps of a store. SchemaError: they are not those of such a ring."""
        check_fits(buffer, self.schema, self.rows, self.envs)
        stop = buffer.first_row + len(buffer)
        self.steps = stop // self.envs
        self._final[:] = UNKNOWN
        first = max(0, stop - self.rows * self.envs)
        if stop > first:
            rows = np.arange(first, stop).reshape(-1, self.envs)
            self._final[rows[:, 0] // self.envs % self.rows] = GOES_ON
        parts = stored_parts(buffer.store)
        self._learn(parts, first, stop)
        self._after = {}
        for entry in buffer.open_trajectories():
            part = int(buffer.parts.parts_of(entry.trajectory)[-1]) if entry.part_length else -1
            last = int(buffer.parts.last[part]) if part >= 0 else -1
            if last < first:
                continue
            env, newest = last % self.envs, last >= stop - self.envs
            if not newest or entry.following is None:
                self._final[last // self.envs % self.rows, env] = UNKNOWN
                continue
            for name in self._observed:
                row = entry.following[name]
                self._after.setdefault(name, np.zeros((self.envs, *row.shape), row.dtype))[env] = row

    def _learn(self, parts: NDArray[np.int64], first: int, stop: int) -> None:
        """Know where trajectories have ended, of these parts."""
        last = parts[:, 0] + (parts[:, 1] - 1) * parts[:, 2]
        known = (last >= first) & (last < stop)
        last, final = last[known], parts[known, 5]
        self._final[last // self.envs % self.rows, last % self.envs] = np.where(final < 0, UNKNOWN, final)

    @property
    def position(self) -> int:
        """The place of the next step."""
        return self.steps % self.rows

    @property
    def full(self) -> bool:
        """Whether all places are in use."""
        return self.steps >= self.rows

    # --- adding

    def add(self, columns: Arrays, following: Arrays) -> None:
        """A step of each environment. `columns`: just as they are stored, first dimension `envs`;
        `following`: the observations after it, of trajectories that end here their last ones."""
        writer = self._writer
        if writer is None:
            writer = self._begin()
        observed = [columns[name] for name in self._observed]
        if self._again or self._told != [rows.tobytes() for rows in observed]:
            self._reset(writer, dict(zip(self._observed, observed, strict=True)))
        terminated, truncated = columns["terminated"], columns["truncated"]
        single = following.get("observation")
        writer.step(
            columns["action"],
            columns["reward"],
            terminated,
            truncated,
            following if single is None else single,
        )
        self._final[self.steps % self.rows] = GOES_ON
        fresh = self._fresh
        assert fresh is not None
        fresh.add(self.steps, columns, following)
        self.steps += 1
        if fresh.full(self.steps):
            writer.flush()
            fresh.handed_over(self.steps)
        self._told = [following[name].tobytes() for name in self._observed]
        self._again = 1 in terminated.tobytes() or 1 in truncated.tobytes()
        self._ended = (terminated.copy(), truncated.copy()) if self._again else self._nobody
        if time.monotonic() >= self._due:
            self.commit()

    def _reset(self, writer: Writer, observed: Arrays) -> None:
        """Trajectories begin where one has ended, and where another observation comes than was left."""
        ended = self._ended
        if ended is None:
            again = np.ones(self.envs, np.bool_)
        else:
            again = ended[0] | ended[1]
            for told, rows in zip(self._told, observed.values(), strict=True):
                bits = np.ascontiguousarray(rows).view(np.uint8).reshape(self.envs, -1)
                again |= (np.frombuffer(told, np.uint8).reshape(self.envs, -1) != bits).any(axis=1)
        single = observed.get("observation")
        mask = None if again.all() else again
        writer.reset(observed if single is None else single, mask=mask)

    def _begin(self) -> Writer:
        """Open the store for writing; make it, if there is none."""
        if self._closed:
            raise ConflictError(f"{self.where} is closed: make the buffer anew, or load it")
        if self._released:
            raise ConflictError(
                f"{self.where}: another buffer of this process goes on with it: use that one, or load this "
                "one anew"
            )
        self._close_reader()
        other = _writing.get(self.where)
        if other is not None and (ring := other()) is not None:
            ring.release()
        settings = self.settings
        try:
            buffer = open_buffer(self._place, "r+")
        except NotFoundError:
            if self._commit is not None:
                raise
            durability: Any = settings.durability
            buffer = create(
                self._place,
                self.schema,
                capacity=None if settings.keep_all else self.rows * self.envs,
                storage={name: {"codec": "raw"} for name in self._names},
                durability=durability,
                environment=None,
                provenance={"format": "replaystore.sb3", "num_envs": self.envs, "rows": self.rows},
            )
        try:
            if self._commit is not None and self._commit != buffer.commit_id:
                buffer.rollback(self._commit)
            self._show(buffer)
            writer = self._writer = buffer.writer(self.envs)
        except BaseException:
            buffer.close()
            raise
        self._buffer, self._commit = buffer, None
        self._live, self._growth = live_of(buffer, self._names)
        self._gather, self._seen, self._ended, self._again = None, 0, None, True
        self._after, self._told = {}, []
        self._fresh = Fresh(self.schema, self.envs, self.steps)
        self._due = time.monotonic() + settings.commit_seconds
        _writing[self.where] = weakref.ref(self)
        return writer

    def commit(self, name: str | None = None) -> int | None:
        """Make what was added safe; the number of the commit. None: there is no store."""
        buffer = self._buffer
        if buffer is None or buffer.closed:
            return None
        self._due = time.monotonic() + self.settings.commit_seconds
        if self._writer is None:
            return buffer.commit_id
        number = buffer.commit(name)
        if self._fresh is not None:
            self._fresh.handed_over(self.steps)
        return number

    # --- reading

    def take(
        self, names: Sequence[str], places: Rows, envs: Rows
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Steps at these places of the ring: the fields of these names, and the observations after them.

        The arrays are new ones."""
        steps, position = self.steps, self.position
        times = places + (steps - position)
        if self.full:
            times -= (places >= position) * self.rows
        fresh = self._fresh
        if fresh is None:
            return self._stored(names, places, times, envs)
        late = np.flatnonzero(times >= fresh.first)
        if not len(late):
            return self._stored(names, places, times, envs)
        if len(late) == len(times):
            return fresh.taken(names, times, envs)
        at = times[late], envs[late]
        other = int(np.argmax(times < fresh.first))
        places, times, envs = places.copy(), times.copy(), envs.copy()
        places[late], times[late], envs[late] = places[other], times[other], envs[other]
        found, after = self._stored(names, places, times, envs)
        fresh.put(names, found, after, late, *at)
        return found, after

    def _stored(
        self, names: Sequence[str], places: Rows, times: Rows, envs: Rows
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """As `take`, of steps that the store has."""
        gather = self._gathering()
        rows, final = times * self.envs + envs, self._final[places, envs]
        behind = np.where(final == GOES_ON, rows + self.envs, rows)
        newest = np.flatnonzero(behind >= self.steps * self.envs)
        if len(newest):
            behind[newest] = rows[newest]
        count, observed = len(rows), tuple(self._observed)
        both = gather.take(observed, np.concatenate([rows, behind]))
        found = gather.take(tuple([name for name in names if name not in observed]), rows)
        after = {name: values[count:] for name, values in both.items()}
        found |= {name: values[:count] for name, values in both.items()}
        ends = np.flatnonzero(final >= 0)
        if len(ends):
            for name, values in after.items():
                values[ends] = self._final_rows(name, final[ends])
        if len(newest):
            for name, values in self._after.items():
                after[name][newest] = values[envs[newest]]
        return found, after

    def _gathering(self) -> Gather:
        """What gathers rows, with what is known of their trajectories."""
        live, growth = self._live, self._growth
        if live is None or growth is None:
            if self._gather is None:
                raise ConflictError(f"{self.where} is closed: make the buffer anew, or load it")
            return self._gather
        if growth.closed_parts != self._seen:
            self._follow()
        if live.go_on(*growth.bounds) or self._gather is None:
            self._gather = Gather(live, self._names)
            self._gather.until_look = 1 << 62  # rows of one's own are in memory
        return self._gather

    def _follow(self) -> None:
        """Know of trajectories that have ended since."""
        growth = self._growth
        assert growth is not None
        since = max(self._seen, growth.oldest_part)
        first = max(0, self.steps - self.rows) * self.envs
        self._learn(growth.closed(since), first, self.steps * self.envs)
        self._seen = growth.closed_parts

    def _final_rows(self, name: str, numbers: Rows) -> NDArray[Any]:
        if self._growth is not None:
            return self._growth.final_rows(name, numbers)
        assert self._buffer is not None
        return self._buffer.final_rows(name, numbers)

    # --- the end

    def release(self) -> None:
        """Let another of this process go on with the store."""
        if self._writer is not None:
            self._commit = self.commit()
            self._let_go()
            self._released = True
            self._look()

    def _let_go(self) -> None:
        buffer = self._buffer
        self._buffer = self._writer = self._live = self._growth = self._gather = self._fresh = None
        known = _writing.get(self.where)
        if known is not None and known() is self:
            del _writing[self.where]
        if buffer is not None:
            buffer.close()

    def _close_reader(self) -> None:
        if self._writer is None and self._buffer is not None:
            self._buffer.close()
            self._buffer = self._gather = None

    def close(self) -> None:
        """Commit, and give the store free, for good."""
        self._closed = True
        self._let_go()
