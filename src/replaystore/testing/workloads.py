"""What a user may do to a buffer, drawn from a seed, together with what the buffer must show after each
commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from replaystore.buffers.buffer import Buffer
from replaystore.schema.fields import Field
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import RAGGED, columns, observations, play, recording, small
from replaystore.testing.setting import mutable_fields, recorded, set_some

__all__ = ["Action", "Workload", "act"]

Acknowledge = Callable[[int], None]


class Action(NamedTuple):
    """One thing to do; the arguments say everything, so that doing it again is doing the same."""

    name: str
    arguments: tuple[Any, ...] = ()


class Workload:
    """Some actions, and the `PlainBuffer` after them, whose `history` is what each commit must be."""

    def __init__(
        self,
        seed: int,
        actions: int,
        *,
        capacity: int | None = None,
        start: PlainBuffer | None = None,
        ragged: bool = False,
    ) -> None:
        self.plain = PlainBuffer(small(ragged=ragged), capacity=capacity) if start is None else start
        self.actions: list[Action] = []
        generator = np.random.default_rng(seed)
        for _ in range(actions):
            action = self._draw(generator)
            self.actions.append(action)
            act(self.plain, action)
        self.actions.append(Action("commit"))
        act(self.plain, self.actions[-1])

    def _draw(self, generator: np.random.Generator) -> Action:
        number = int(generator.integers(1 << 30))
        kinds = {
            "append": 5,
            "commit": 4,
            "record": 2,
            "publish": 1,
            "rollback": 1,
            "field": 0.5,
            "column": 0.7,
            "values": 2,
            "reopen": 0.7,
        }
        weights = np.array(list(kinds.values()))
        kind = str(generator.choice(list(kinds), p=weights / weights.sum()))
        if kind == "append":
            return Action(
                kind,
                (
                    number,
                    int(generator.integers(1, 30)),
                    int(generator.integers(3)),
                    int(generator.integers(3)),
                ),
            )
        if kind == "record":
            return Action(
                kind,
                (
                    number,
                    int(generator.integers(1, 4)),
                    int(generator.integers(1, 8)),
                    int(generator.integers(1, 5)),
                ),
            )
        if kind == "rollback":
            commits = self.plain.commits()
            return Action(kind, (commits[int(generator.integers(len(commits)))],))
        if kind == "field":
            if self.plain.schema.ragged and generator.random() < 0.5:
                return Action(kind, (f"info/late{number}", str(generator.choice(list(RAGGED))), 0, False))
            dtype = str(generator.choice(["bool", "int16", "float64"]))
            return Action(kind, (f"info/late{number}", dtype, number % 2, bool(generator.random() < 0.7)))
        if kind == "values":
            return Action(kind, (number,))
        if kind == "column":
            return Action(kind, (str(generator.choice(["score", "split"])), number))
        return Action(kind)


def act(
    recorder: Buffer | PlainBuffer,
    action: Action,
    *,
    acknowledge: Acknowledge = lambda _: None,
    reopen: Callable[[Buffer], Buffer] = lambda buffer: buffer,
) -> Any:
    """Do it, to a buffer or to a plain one; the recorder to go on with. `acknowledge` is told each commit
    when it has returned."""
    arguments = action.arguments
    match action.name:
        case "append":
            seed, count, env, finals = arguments
            rows = columns(recorder.schema, count, seed)
            recorder.append(
                rows,
                env=env,
                split=["", "a"][seed % 2],
                final_observation=_finals(recorder, rows, seed, finals),
            )
        case "record":
            seed, num_envs, steps, every = arguments
            _record(recorder, seed, num_envs, steps, every, acknowledge)
        case "rollback":
            recorder.rollback(arguments[0])
        case "field":
            name, like, fill, mutable = arguments
            declared = (
                replace(RAGGED[like], role="info")
                if like in RAGGED
                else Field(np.dtype(like), (), "info", mutable=mutable)
            )
            recorder.add_field(name, declared, fill=fill)
        case "values":
            _set_values(recorder, arguments[0])
        case "column":
            name, seed = arguments
            _set_column(recorder, name, seed)
        case "reopen" if isinstance(recorder, Buffer):
            recorder.close()
            acknowledge(recorder.commit_id)
            recorder = reopen(recorder)
        case "reopen":
            recorder.close()
        case "commit" if arguments:  # it gets a name
            recorder.commit(arguments[0])
        case "forget":
            recorder.forget(arguments[0])
        case _:
            getattr(recorder, action.name)()
    if action.name not in ("append", "field", "values"):
        acknowledge(recorder.commit_id)
    return recorder


def _finals(recorder: Buffer | PlainBuffer, rows: Any, seed: int, how: int) -> Any:
    """Final observations: none, all, or (how == 2) the ones that the next append begins with, if it has the
    seed `seed + 1`."""
    if how == 0:
        return None
    ends = rows["terminated"] | rows["truncated"]
    touched = int(ends.sum()) + (not ends[-1])
    leaves = observations(recorder.schema, touched, seed + how)
    return recorder.schema.unflatten(leaves, "observation")


def _record(
    recorder: Buffer | PlainBuffer, seed: int, num_envs: int, steps: int, every: int, acknowledge: Acknowledge
) -> None:
    writer = recorder.writer(num_envs, split="w")
    for number, step in enumerate(recording(recorder.schema, num_envs, steps, seed, masks=seed % 2 == 0)):
        play(writer, step, recorder.schema)
        if number % every == 0:
            acknowledge(recorder.commit())
    writer.close()


def _set_values(recorder: Buffer | PlainBuffer, seed: int) -> None:
    """Of steps that no commit has, then of others too; nothing without a mutable field, or without steps."""
    if mutable_fields(recorder) and recorded(recorder):
        for part in range(3):
            set_some(recorder, seed + part)


def _set_column(recorder: Buffer | PlainBuffer, name: str, seed: int) -> None:
    recorder.commit()
    shown = recorder.contents().table if isinstance(recorder, PlainBuffer) else recorder.trajectories.columns
    ended = int((~shown["open"]).sum())
    generator = np.random.default_rng(seed)
    values: Any = (
        generator.choice(["", "train", "val"], ended).tolist() if name == "split" else generator.random(ended)
    )
    recorder.set_trajectory_column(name, values)
