"""The steps of a pickle of Stable-Baselines3, as trajectories.

| in the file               | in a buffer                                                                  |
|---------------------------|------------------------------------------------------------------------------|
| observations, actions, rewards | `observation` (or `observation/key`), `action`, `reward`                |
| dones, timeouts           | `terminated`: done and no timeout; `truncated`: timeout                      |
| next_observations         | the final observations of trajectories; all others are those of the next row |
| n_envs                    | each environment's rows are trajectories of their own (`env`)                |
| pos, full                 | the order of rows                                                            |
| values, log_probs, …      | extra fields of these names                                                  |
| infos (of hindsight)      | `info/key`, where the same key is there in every step                        |

A trajectory ends at a flag, and where the next row does not begin with what was observed after the step (the
environment was reset in between): there with neither flag. Of a rollout it is told where an episode begins,
and not how the one before has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.report import Fate, changed
from replaystore.formats.source import Block, Source
from replaystore.formats.stable_baselines3.contents import MAKER, Contents, Steps
from replaystore.formats.stable_baselines3.infos import Infos, infos_of
from replaystore.formats.stable_baselines3.layout import fields_of, noted_steps, steps_after
from replaystore.formats.stable_baselines3.notes import FINAL, TERMINATED, TRUNCATED, Notes, notes_of
from replaystore.schema.fields import Schema
from replaystore.schema.roles import FLAGS

__all__ = ["source_of"]

Columns = dict[str, NDArray[Any]]
_SETTINGS = ("gamma", "gae_lambda", "n_steps", "her_ratio", "n_sampled_goal", "copy_info_dict")


@dataclass(frozen=True)
class _Reading:
    """How the steps of a file are read."""

    found: Contents
    schema: Schema
    steps: Mapping[str, Steps]
    """Of fields, but for flags that are taken from dones and timeouts."""
    after: Mapping[str, Steps]
    """Of observations what came after the step; empty where the next row has it."""
    infos: Infos | None
    notes: Notes | None

    @property
    def width(self) -> int:
        """Bytes of a step while it is read."""
        several = [*self.steps.values(), *self.after.values()]
        return 10 + sum(steps.row_bytes for steps in several) + (self.infos.row_bytes if self.infos else 0)


def source_of(found: Contents) -> Source:
    """What a pickle holds, as steps. FormatError: it is damaged."""
    notes = notes_of(found)
    fates: dict[str, Fate] = {}
    infos = None
    if notes is None:
        fields, steps = fields_of(found, fates)
        infos = infos_of(found, fates)
        fields |= infos.fields if infos else {}
        schema = Schema(fields)
    else:
        schema, steps = notes.schema, dict(noted_steps(found, notes))
    names = [name for name in schema.names("observation") if name in steps]
    after = steps_after(found, steps, names)
    reading = _Reading(found, schema, steps, after, infos, notes)
    environment = notes.environment if notes else ({"num_envs": found.envs} if found.envs > 1 else None)
    source = Source(
        schema=schema,
        blocks=lambda most: _blocks(reading, most),
        environment=environment,
        metadata=dict(notes.metadata) if notes else None,
        splits=[name for name in notes.splits if name] if notes else (),
        columns=notes.dtypes if notes else {},
        steps=found.rows * found.envs,
        trajectories=len(notes.table["length"]) if notes else None,
        details=_details(found),
        fields=fates,
    )
    if notes is None:
        _say(found, source)
    return source


def _details(found: Contents) -> dict[str, Any]:
    settings = {
        name: found.known[name] for name in _SETTINGS if type(found.known.get(name)) in (int, float, bool)
    }
    return {
        "class": f"{found.name.module}.{found.name.name}",
        "bytes": found.size,
        "buffer_size": found.capacity,
        "num_envs": found.envs,
        "position": found.position,
        "full": found.full,
        "optimize_memory_usage": found.dense,
        "handle_timeout_termination": found.timeouts,
        **{name: value for name, value in settings.items() if value == value},
    }


def _say(found: Contents, source: Source) -> None:
    """What whoever reads it should know."""
    if found.full and not found.rollout:
        source.remarks.append("the ring has gone round: what came before its oldest rows is not in it")
    if found.rollout:
        source.remarks.append(
            "a rollout does not tell how episodes have ended, nor what was observed then: its trajectories "
            "end where the next one begins, with neither flag"
        )
    elif not found.timeouts:
        source.remarks.append(
            "handle_timeout_termination is off: what was ended by a time limit is not told apart, and is "
            "terminated"
        )
    space = found.spaces.get("action")
    if not found.rollout and space is not None and type(space).__name__ == "Box" and not _is_unit(space):
        source.remarks.append(
            f"actions are as they lie in the file: SAC, TD3 and DDPG of {MAKER} scale them from the "
            "bounds of the action space to [-1, 1]"
        )
    if cut := _unfinished(found):
        source.rest = {
            "open": changed(
                f"the last steps of {cut} environments have no flag: whether they went on is not "
                "told, and they are cut off"
            )
        }


def _unfinished(found: Contents) -> int:
    """Of how many environments the last step does not end a trajectory."""
    if found.rollout or not found.rows:
        return found.envs if found.rows else 0
    names = ("dones", "timeouts") if found.timeouts else ("dones",)
    ended = [_zero_or_one(found, name, found.rows - 1, found.rows)[0] for name in names]
    return found.envs - int(np.any(ended, axis=0).sum())


def _is_unit(space: Any) -> bool:
    return bool((space.low == -1).all() and (space.high == 1).all())


# --- steps


@dataclass(frozen=True)
class _Chunk:
    """Consecutive rows of all environments."""

    columns: Columns
    """(rows, environments, …)."""
    after: Columns
    known: NDArray[np.bool_]
    """(rows, environments): whether what came after the step is known."""
    ends: NDArray[np.bool_]
    """(rows, environments): whether a trajectory ends with the step."""


def _blocks(reading: _Reading, most: int) -> Iterator[Block]:
    """All steps, those of trajectories that end earlier first."""
    found = reading.found
    lanes = [_Lane(reading, env) for env in range(found.envs)]
    step = max(1, most // max(1, reading.width * found.envs))
    for start in range(0, found.rows, step):
        stop = min(start + step, found.rows)
        chunk = _chunk(reading, lanes, start, stop)
        pieces = [piece for lane in lanes for piece in lane.pieces(chunk, stop - start)]
        for _, env, begin, end, ends in sorted(pieces):
            yield lanes[env].block(begin, end, ends=ends)


def _chunk(reading: _Reading, lanes: list[_Lane], start: int, stop: int) -> _Chunk:
    found = reading.found
    columns = {name: steps.read(start, stop) for name, steps in reading.steps.items()}
    if reading.infos is not None:
        columns |= reading.infos.read(start, stop)
    names = [name for name in reading.schema.names("observation") if name in columns]
    last = stop == found.rows
    following = _following(reading, names, columns, stop)
    known, ends = np.ones((2, stop - start, found.envs), np.bool_)
    if found.rollout:
        flags = np.zeros(known.shape, np.bool_)
        begins = _zero_or_one(found, "episode_starts", start + 1, min(stop + 1, found.rows))
        ends[: len(begins)] = begins
        known[:] = False
    else:
        flags = _flags(reading, columns, start, stop)
        known[flags] = not found.dense
        ends[:] = flags
        if found.dense and last:
            known[-1] = True
    after = following if found.rollout or found.dense else {
        name: steps.read(start, stop) for name, steps in reading.after.items()
    }  # fmt: skip
    if reading.notes is not None:
        ends = np.stack([lane.noted(start, stop) for lane in lanes], axis=1)
    elif after and not found.rollout and not found.dense:
        for name in names:
            count = len(following[name])
            if not count:
                continue
            ends[:count] |= _differ(after[name][:count], following[name])
    if last:
        ends[-1:] = True
    return _Chunk(columns, after, known, ends)


def _following(reading: _Reading, names: list[str], columns: Columns, stop: int) -> Columns:
    """The observations of the next rows: of one step less at the end, unless the row there has it."""
    found = reading.found
    beyond = stop + 1 if found.dense or stop < found.rows else stop
    found_ = {}
    for name in names:
        parts = [columns[name][1:]]
        if beyond > stop:
            parts.append(reading.steps[name].read(stop, beyond))
        found_[name] = np.concatenate(parts)
    return found_


def _flags(reading: _Reading, columns: Columns, start: int, stop: int) -> NDArray[np.bool_]:
    """The rows of flags go to `columns`; whether there is any."""
    found = reading.found
    done = _zero_or_one(found, "dones", start, stop)
    late = _zero_or_one(found, "timeouts", start, stop) if found.timeouts else np.zeros_like(done)
    for name, rows in (("terminated", done & ~late), ("truncated", late)):
        if name in reading.schema.fields and name not in columns:
            columns[name] = rows
    return done | late


def _zero_or_one(found: Contents, name: str, start: int, stop: int) -> NDArray[np.bool_]:
    values = found.steps[name].read(start, max(start, stop))
    if values.ndim != 2 or not ((values == 0) | (values == 1)).all():
        raise FormatError(f"{found.where}: {name!r} has values other than 0 and 1: the file is damaged")
    flags: NDArray[np.bool_] = values != 0
    return flags


def _differ(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """(rows, environments): whether any bit differs."""
    shape = one.shape[:2]
    bits = (np.ascontiguousarray(values).view(np.uint8).reshape(*shape, -1) for values in (one, other))
    differ: NDArray[np.bool_] = (next(bits) != next(bits)).any(axis=2)
    return differ


class _Lane:
    """The trajectories of one environment, in order."""

    def __init__(self, reading: _Reading, env: int) -> None:
        self._reading, self._env = reading, env
        self._begins, self._number = True, 0
        self._columns: Columns = {}
        self._after: Columns = {}
        self._known = np.zeros(0, np.bool_)
        self._stops = self._rows = np.zeros(0, np.int64)
        if reading.notes is not None:
            table = reading.notes.table
            self._rows = np.flatnonzero(table["lane"] == env)
            self._stops = np.cumsum(table["length"][self._rows])

    def noted(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Where trajectories end, by what is noted."""
        found = np.zeros(stop - start, np.bool_)
        first, last = np.searchsorted(self._stops, [start, stop], side="right").tolist()
        found[self._stops[first:last] - 1 - start] = True
        return found

    def pieces(self, chunk: _Chunk, count: int) -> Iterator[tuple[int, int, int, int, bool]]:
        """(what comes first, environment, begin, end, whether it ends) of what a chunk has."""
        env, begin = self._env, 0
        self._columns = {name: np.ascontiguousarray(rows[:, env]) for name, rows in chunk.columns.items()}
        self._after = {name: rows[:, env] for name, rows in chunk.after.items()}
        self._known = chunk.known[:, env]
        for end in (np.flatnonzero(chunk.ends[:, env]) + 1).tolist():
            yield end, env, begin, end, True
            begin = end
        if begin < count:
            yield count + 1, env, begin, count, False

    def block(self, begin: int, end: int, *, ends: bool) -> Block:
        """Steps of a chunk."""
        columns = {name: rows[begin:end] for name, rows in self._columns.items()}
        begins, self._begins = self._begins, ends
        told, known = self._told(begins=begins, ends=ends)
        final = None
        if ends and self._after and self._known[end - 1] and known:
            final = {name: rows[end - 1].copy() for name, rows in self._after.items()}
        self._number += ends
        return Block(columns, begins=begins, ends=ends, final=final, **told)

    def _told(self, *, begins: bool, ends: bool) -> tuple[dict[str, Any], bool]:
        notes = self._reading.notes
        if notes is None:
            plain: dict[str, Any] = {"env": self._env}
            if ends and not set(FLAGS) & self._reading.schema.fields.keys():
                plain |= dict.fromkeys(FLAGS, False)
            return plain, True
        row, table = int(self._rows[self._number]), notes.table
        flags = int(table["flags"][row])
        told: dict[str, Any] = {"env": int(table["env"][row])}
        if begins:
            split = notes.splits[int(table["split"][row])] if notes.splits else ""
            told |= {"seed": int(table["seed"][row]), "split": split}
            told["row"] = {name: table[name][row] for name in notes.dtypes}
        if ends:
            told |= {"terminated": bool(flags & TERMINATED), "truncated": bool(flags & TRUNCATED)}
        return told, bool(flags & FINAL)
