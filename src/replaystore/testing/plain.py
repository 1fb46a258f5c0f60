"""What a buffer should hold, kept in lists: the methods of `Buffer` and `Writer` that record, and nothing
about storage.

It is written for being obviously right. Each step is looked at alone, in the order in which things happen:
how calls are cut into flushes, parts and commits cannot matter here, so it must not matter in a buffer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten
from replaystore.schema.ragged import Ragged
from replaystore.testing.contents import Contents
from replaystore.testing.plain_lanes import PlainLanes
from replaystore.testing.plain_state import Life, Row, State

__all__ = ["PlainBuffer", "PlainWriter", "name_in_ring", "names_of"]


class PlainBuffer:
    """A buffer without storage. `contents(commit)` is what the real one must show."""

    def __init__(self, schema: Schema, *, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.state = State(schema)
        self.commit_id = -1
        self._writer: PlainWriter | None = None
        self._committed: dict[int, tuple[State, Contents]] = {}
        self.history: dict[int, PlainBuffer] = {}
        """The buffer as it was at each commit, those that were rolled back included."""
        self._dirty = True
        self.commit()

    @property
    def schema(self) -> Schema:
        """What one step holds."""
        return self.state.schema

    def commits(self) -> list[int]:
        """Those that can be opened."""
        newest = self._committed[self.commit_id][0]
        return [number for number, (state, _) in self._committed.items() if state.first == newest.first]

    def contents(self, commit: int | None = None) -> Contents:
        """What is seen as of a commit (the newest)."""
        return self._committed[self.commit_id if commit is None else commit][1]

    # --- recording

    def append(
        self,
        columns: Mapping[str, Any],
        *,
        final_observation: Any = None,
        env: int = 0,
        split: str = "",
        ends: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> None:
        """As `Buffer.append`; arguments are taken to be right."""
        if self._writer is not None:
            self._writer.flush()
        flat: dict[str, Any] = {}
        for name, value in columns.items():
            flat.update(flatten(value, name))
        count = len(next(iter(flat.values())))
        flags = flat["terminated"] | flat["truncated"]
        ending = set(np.flatnonzero(flags).tolist() if ends is None else ends)
        touched = len(ending) + (count > 0 and count - 1 not in ending)
        finals = self._finals(final_observation, touched)
        for at in range(count):
            row = {name: _item(values, at) for name, values in flat.items()}
            if env not in self.state.open:  # the first one that begins has the seed
                self._life(env, split, -1 if seed is None else seed)
                seed = None
            life = self.state.open[env]
            if life.rows and life.after is None:
                life.after = self._observation(row)  # what is there is what followed
            self.state.order.append(self._take(life, row))
            if at in ending:
                life.after = next(finals)
                self._end(env, bool(row["terminated"]), bool(row["truncated"]))
        if count and count - 1 not in ending:
            self.state.open[env].after = next(finals)
        self._dirty = self._dirty or count > 0

    def _finals(self, observation: Any, touched: int) -> Iterator[Row | None]:
        if observation is None:
            return iter([None] * touched)
        leaves: dict[str, Any] = {
            name: leaf if isinstance(leaf, Ragged) else np.asarray(leaf)
            for name, leaf in flatten(observation, "observation").items()
        }
        if all(leaf.shape == self.schema.fields[name].shape for name, leaf in leaves.items()):
            leaves = {name: leaf[None] for name, leaf in leaves.items()}
        return iter([{name: _item(leaf, at) for name, leaf in leaves.items()} for at in range(touched)])

    def _observation(self, row: Row) -> Row:
        return {name: row[name] for name in self.schema.names("observation")}

    def _life(self, env: int, split: str, seed: int = -1) -> Life:
        """The open trajectory of an environment, or a new one."""
        if env not in self.state.open:
            shape = self.schema.fields["reward"].shape
            self.state.open[env] = Life(-1, env, seed, split, returned=np.zeros(shape))
        return self.state.open[env]

    def _take(self, life: Life, row: Row) -> int:
        """One more step of a trajectory; its serial number."""
        if life.rows:
            self.state.following[life.rows[-1]] = life.after
        else:  # it has its number from its first step on
            life.number = self.state.next_number
            self.state.next_number += 1
        number = len(self.state.rows)
        life.rows.append(number)
        self.state.rows[number] = row
        life.returned = life.returned + np.asarray(row["reward"], np.float64)
        life.after = None
        return number

    def _end(self, env: int, terminated: bool, truncated: bool) -> None:
        life = self.state.open.pop(env)
        if life.rows:
            self.state.following[life.rows[-1]] = life.after
            life.terminated, life.truncated = terminated, truncated
            life.user = {name: np.nan if dtype.kind == "f" else 0 for name, dtype in self.state.user.items()}
            self.state.ended.append(life)
            self._dirty = True

    def writer(self, num_envs: int = 1, *, split: str = "") -> PlainWriter:
        """As `Buffer.writer`."""
        for env in sorted(self.state.open):
            self._end(env, False, False)
            self._dirty = True
        self._writer = PlainWriter(self, num_envs, split)
        return self._writer

    def add_field(self, name: str, declared: Field, *, fill: int = 0) -> None:
        """As `Buffer.add_field`."""
        if self._writer is not None:
            self._writer.flush()
        self.state.schema = self.schema.with_field(name, declared)
        empty = "" if declared.text else np.empty((0, *declared.inner), declared.dtype)
        value = empty if declared.ragged else np.full(declared.shape, fill, declared.dtype)
        self.state.rows = {number: {**row, name: value} for number, row in self.state.rows.items()}
        self._dirty = True

    def set_values(self, name: str, rows: Any, values: Any) -> None:
        """As `buffer[name][rows] = values`, of steps that no commit has too."""
        self.flush()
        kept = np.array(self.state.order[self.state.first :], np.int64)
        chosen = np.atleast_1d(kept[rows])
        declared = self.schema.fields[name]
        given = np.broadcast_to(np.asarray(values, declared.dtype), (len(chosen), *declared.shape))
        for number, value in zip(chosen.tolist(), given, strict=True):
            self.state.rows[number] = {**self.state.rows[number], name: value}
        self._dirty = self._dirty or len(chosen) > 0

    def set_trajectory_column(self, name: str, values: Any) -> None:
        """As `Buffer.set_trajectory_column`."""
        self.commit()
        array = np.asarray(values)
        if name != "split":
            self.state.user[name] = array.dtype
        for life, value in zip(self.state.kept(self.state.ended), array, strict=True):
            if name == "split":
                life.split = str(value)
            else:
                life.user[name] = value
        self._dirty = True
        self.commit()

    # --- commits

    def flush(self) -> None:
        """Take the steps that a writer has."""
        if self._writer is not None:
            self._writer.flush()

    def commit(self, name: str | None = None) -> int:
        """As `Buffer.commit`."""
        self.flush()
        if self._dirty or (name is not None and self.state.names.get(name) != self.commit_id):
            if self.capacity is not None:
                self.state.first = max(0, len(self.state.order) - self.capacity)
            if name is not None:
                self.state.names[name] = self.commit_id + 1
                self.state.perhaps.discard(name)
                self.state.newest = name
            self._keep()
        return self.commit_id

    def forget(self, name: str) -> int:
        """As `Buffer.forget`, of a name that a commit has."""
        del self.state.names[name]
        self.state.perhaps.discard(name)
        self.state.newest = "" if self.state.newest == name else self.state.newest
        self._dirty = True
        return self.commit()

    def _keep(self) -> None:
        self.commit_id += 1
        self._dirty = False
        self._committed[self.commit_id] = self.state.copied(), self.state.contents()
        then = copy.copy(self)
        then._committed, then._writer = dict(self._committed), None
        self.history[self.commit_id] = then

    def resumed(self, commit: int) -> PlainBuffer:
        """A buffer that goes on from a commit, as after a crash: nothing newer has happened."""
        found = copy.copy(self.history[commit])
        found._committed, found.history = dict(found._committed), dict(self.history)
        found.abandon()
        return found

    def rollback(self, commit: int) -> None:
        """As `Buffer.rollback`."""
        names, perhaps = self.state.names, self.state.perhaps
        self.state = self._committed[commit][0].copied()
        self.state.names = {name: number for name, number in self.state.names.items() if name in names}
        moved = {name for name, number in self.state.names.items() if names[name] != number}
        self.state.perhaps = (self.state.perhaps | moved | perhaps) & self.state.names.keys()
        self.state.newest = self.state.newest if self.state.newest in self.state.names else ""
        self._committed = {number: kept for number, kept in self._committed.items() if number <= commit}
        self._writer = None
        self._keep()

    def publish(self) -> None:
        """As `Buffer.publish`."""
        self.commit()

    def abandon(self) -> None:
        """What is not committed is given up, as after a crash."""
        self.state = self._committed[self.commit_id][0].copied()
        self._writer = None
        self._dirty = False

    def close(self) -> None:
        """As `Buffer.close`."""
        if self._writer is not None:
            self._writer.close()
        self.commit()


class PlainWriter:
    """As `Writer`. The steps of a call are stored side by side, each environment's in its lane."""

    def __init__(self, buffer: PlainBuffer, num_envs: int, split: str) -> None:
        self.num_envs = num_envs
        self._buffer, self._split = buffer, split
        self._now: list[Row] = [{} for _ in range(num_envs)]
        self._staged: list[int] = []
        self._lanes = PlainLanes(num_envs)

    def reset(
        self,
        observation: Any,
        *,
        seed: int | Sequence[int | None] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """As `Writer.reset`."""
        leaves = flatten(observation, "observation")
        seeds = seed if isinstance(seed, Sequence) else [seed] * self.num_envs
        if mask is None or mask.all():
            self._lanes.begin()
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                self._now[env] = {name: _item(leaf, env) for name, leaf in leaves.items()}
                known = self._buffer.state.open.get(env)
                if known is not None and known.rows:
                    self._buffer._end(env, False, False)
                life = self._buffer._life(env, self._split)
                chosen = seeds[env]
                life.seed, life.after = -1 if chosen is None else chosen, self._now[env]

    def step(
        self,
        action: Any,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observation: Any,
        info: Mapping[str, NDArray[Any]] | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """As `Writer.step`."""
        columns = {
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            **(info or {}),
            **flatten(action, "action"),
        }
        leaves = flatten(observation, "observation")
        stored = {}
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                row = {name: _item(values, env) for name, values in columns.items()} | self._now[env]
                life = self._buffer._life(env, self._split)
                stored[env] = self._buffer._take(life, row)
                life.after = self._now[env] = {name: _item(leaf, env) for name, leaf in leaves.items()}
                if terminated[env] or truncated[env]:
                    self._buffer._end(env, bool(terminated[env]), bool(truncated[env]))
        first = len(self._buffer.state.order) + len(self._staged)
        self._staged += [stored[env] for env in self._lanes.order(first, list(stored))]

    def flush(self) -> None:
        """As `Writer.flush`."""
        self._buffer.state.order += self._staged
        self._buffer._dirty = self._buffer._dirty or bool(self._staged)
        self._staged.clear()

    def close(self) -> None:
        """As `Writer.close`."""
        self.flush()
        for env in range(self.num_envs):
            if env in self._buffer.state.open:
                self._buffer._end(env, False, False)
        self._buffer._writer = None
        self._buffer._dirty = True


def _item(values: Any, place: int) -> Any:
    """The value of a step, which is nobody else's: a `str` of a text."""
    found = values[place]
    return found if isinstance(found, str) else found.copy()


def names_of(plain: PlainBuffer) -> tuple[dict[str, int], set[str]]:
    """The names of commits, and which they are, as of the newest commit; and those that there need not be."""
    state, _ = plain._committed[plain.commit_id]
    return state.names, state.perhaps


def name_in_ring(plain: PlainBuffer) -> str:
    """The name of which a ring has the rows as of the newest commit; empty: nobody knows of any."""
    return plain._committed[plain.commit_id][0].newest
