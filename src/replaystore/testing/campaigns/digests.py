"""Any single change of what a buffer holds, a bit of a value, a flag, a seed, a boundary, a name, gives it
another digest; cutting steps into other blocks does not.

The control forgets seeds, or what followed the last steps: it must be caught.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from replaystore.comparing.digest import Digest, digest_of_blocks
from replaystore.comparing.leaves import Crew
from replaystore.comparing.steps_in_blocks import BlockTally
from replaystore.comparing.tally import hash_of_json
from replaystore.formats.source import Source
from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged
from replaystore.testing.campaigns import Tally
from replaystore.testing.trajectories import Told, trajectories
from replaystore.trajectories.blocks import Block

__all__ = ["PROMISE", "control", "run"]

PROMISE = "any change of what a buffer holds changes its digest"
EACH = 40
"""Changes of the same content."""
OF_VALUES = 0.5
"""The share of changes of a bit of a value, beside those of all kinds."""
SCHEMA = Schema(
    {
        "observation/camera": Field("uint8", (2, 3), "observation"),
        "observation/joints": Field("float64", (4,), "observation"),
        "action": Field("int32", (), "action"),
        "reward": Field("float32", (), "reward"),
        "speed": Field("float16", (2,), "extra"),
        "mask": Field("bool", (), "mask"),
        "tokens": Field("int64", (None,), "extra"),
        "said": Field.of_text("extra"),
    }
)


@dataclass(frozen=True)
class _Held:
    """What is digested."""

    fields: Mapping[str, Field]
    told: tuple[Told, ...]
    scores: tuple[float, ...]
    metadata: Mapping[str, Any] = field(default_factory=lambda: {"by": "me", "at": [1, 2.5, None]})
    environment: Mapping[str, Any] = field(default_factory=lambda: {"id": "CartPole-v1", "num_envs": 2})
    column: str = "score"


def run(_folder: str, *, count: int, seed: int) -> Tally:
    """Change so many things."""
    return _tried(count, seed, ())


def control(_folder: str, *, seed: int) -> Tally:
    """Forget things."""
    return _tried(40 * EACH, seed, ("seed", "final_observation"))


def _tried(count: int, seed: int, forgotten: Collection[str]) -> Tally:
    tally, chosen = Tally(), random.Random(seed)  # noqa: S311  # chosen, not secret
    while tally.tried < count:
        held = _held(chosen.randrange(1 << 30))
        known = _digest(held, chosen, forgotten)
        if _digest(held, chosen, forgotten) != known:
            tally.failures.append("the same content in other blocks has another digest")
        for _ in range(min(EACH, count - tally.tried)):
            kind = "a value" if chosen.random() < OF_VALUES else chosen.choice(list(_CHANGES))
            made = _CHANGES[kind](held, chosen)
            if made is None:
                continue
            tally.count(kind)
            if _digest(made, chosen, forgotten) == known:
                tally.failures.append(f"{kind}: the digest is the same")
    return tally


def _held(seed: int) -> _Held:
    told = trajectories(SCHEMA, 4, seed, longest=6, shortest=2)
    return _Held(SCHEMA.fields, tuple(told), tuple(float(number) for number in range(4)))


def _digest(held: _Held, chosen: random.Random, forgotten: Collection[str]) -> str:
    """The content's digest, without what is forgotten; trajectories are cut anywhere."""
    blocks = [
        block for one in zip(held.told, held.scores, strict=True) for block in _blocks(*one, held, chosen)
    ]
    source = Source(
        Schema(held.fields),
        lambda _: iter(blocks),
        environment=dict(held.environment),
        metadata=held.metadata,
        columns={held.column: np.dtype("f8")},
    )
    with Crew(1) as crew:
        counted = BlockTally(held.fields, source.columns, crew)
        for block in source.blocks(0):
            counted.add(block)
        found: Digest = digest_of_blocks(counted, source)
    rest = {name: value for name, value in found.rest.items() if name not in forgotten}
    return hash_of_json({"fields": found.fields, "rest": rest}) if forgotten else found.content


def _blocks(told: Told, score: float, held: _Held, chosen: random.Random) -> list[Block]:
    cut = chosen.randrange(len(told) + 1)
    edges = sorted({0, cut, len(told)})
    return [
        Block(
            {name: told.columns[name][start:stop] for name in held.fields},
            env=told.env,
            begins=start == 0,
            ends=stop == len(told),
            seed=told.seed,
            split=told.split,
            row={held.column: score},
            terminated=told.terminated if stop == len(told) else None,
            truncated=told.truncated if stop == len(told) else None,
            final=told.final_observation if stop == len(told) else None,
        )
        for start, stop in pairwise(edges)
    ]


# --- changes

Change = Callable[[_Held, random.Random], _Held | None]
"""Gives the content with one thing changed; None: there is no such thing in it."""


def _with(held: _Held, place: int, told: Told) -> _Held:
    return replace(held, told=(*held.told[:place], told, *held.told[place + 1 :]))


def _of_one(change: Callable[[Told, random.Random], Told | None]) -> Change:
    """A change of one trajectory."""

    def changed(held: _Held, chosen: random.Random) -> _Held | None:
        place = chosen.randrange(len(held.told))
        made = change(held.told[place], chosen)
        return None if made is None else _with(held, place, made)

    return changed


def _flipped(rows: np.ndarray[Any, Any], chosen: random.Random) -> np.ndarray[Any, Any]:
    """With one bit, or one bool, of them another one."""
    if rows.dtype == bool:
        made = rows.copy()
        made.reshape(-1)[chosen.randrange(made.size)] ^= True
        return made
    raw = bytearray(np.ascontiguousarray(rows).tobytes())
    raw[chosen.randrange(len(raw))] ^= 1 << chosen.randrange(8)
    return np.frombuffer(bytes(raw), rows.dtype).reshape(rows.shape)


def _value(told: Told, chosen: random.Random) -> Told | None:
    name = chosen.choice(list(told.columns))
    rows = told.columns[name]
    if not isinstance(rows, Ragged):
        return replace(told, columns={**told.columns, name: _flipped(rows, chosen)})
    if not len(rows.named):
        return None
    if rows.text:  # stays a text
        values = np.array(rows.named)
        plain = np.flatnonzero(values < 127)
        if not len(plain):
            return None
        values[chosen.choice(plain.tolist())] += 1
    else:
        values = _flipped(np.asarray(rows.named), chosen)
    made = Ragged(values, rows.offsets - rows.offsets[0], text=rows.text)
    return replace(told, columns={**told.columns, name: made})


def _length(told: Told, chosen: random.Random) -> Told | None:
    """A value of one step becomes the next one's."""
    rows = told.columns["tokens"]
    lengths = np.array(rows.lengths)
    places = [step for step in range(len(lengths) - 1) if lengths[step]]
    if not places:
        return None
    step = chosen.choice(places)
    lengths[step] -= 1
    lengths[step + 1] += 1
    made = Ragged(rows.named, np.append(0, np.cumsum(lengths)))
    return replace(told, columns={**told.columns, "tokens": made})


def _final(told: Told, chosen: random.Random) -> Told | None:
    final = told.final_observation
    if final is None:
        last = {name: told.columns[name][-1] for name in SCHEMA.names("observation")}
        return replace(told, final_observation=last)
    if chosen.random() < 0.3:
        return replace(told, final_observation=None)
    name = chosen.choice(list(final))
    return replace(told, final_observation={**final, name: _flipped(np.asarray(final[name]), chosen)})


def _without(told: Told, chosen: random.Random) -> Told:
    step = chosen.randrange(len(told))
    kept = np.delete(np.arange(len(told)), step)
    return replace(told, columns={name: _taken(rows, kept) for name, rows in told.columns.items()})


def _twice(told: Told, chosen: random.Random) -> Told:
    step = chosen.randrange(len(told))
    rows = np.insert(np.arange(len(told)), step, step)
    return replace(told, columns={name: _taken(values, rows) for name, values in told.columns.items()})


def _taken(rows: Any, places: np.ndarray[Any, Any]) -> Any:
    return rows.take(places) if isinstance(rows, Ragged) else rows[places]


def _boundary(held: _Held, chosen: random.Random) -> _Held:
    """The last step of a trajectory becomes the first one of the next."""
    place = chosen.randrange(len(held.told) - 1)
    first, second = held.told[place], held.told[place + 1]
    shorter = {name: rows[: len(first) - 1] for name, rows in first.columns.items()}
    longer = {}
    for name, rows in second.columns.items():
        last = first.columns[name][len(first) - 1 :]
        longer[name] = (
            Ragged.concatenate([last, rows]) if isinstance(rows, Ragged) else np.concatenate([last, rows])
        )
    return _with(
        _with(held, place, replace(first, columns=shorter)), place + 1, replace(second, columns=longer)
    )


def _order(held: _Held, chosen: random.Random) -> _Held:
    place = chosen.randrange(len(held.told) - 1)
    told = list(held.told)
    told[place], told[place + 1] = told[place + 1], told[place]
    return replace(held, told=tuple(told))


def _renamed(held: _Held, _: random.Random) -> _Held:
    return _fields(held, "speed", "speed2", held.fields["speed"], lambda rows: rows)


def _dtype(held: _Held, _: random.Random) -> _Held:
    """The same bytes are of another dtype."""
    declared = Field("uint16", (2,), "extra")
    return _fields(held, "speed", "speed", declared, lambda rows: rows.view(np.uint16))


def _shape(held: _Held, _: random.Random) -> _Held:
    """The same bytes are of another shape."""
    declared = Field("float16", (2, 1), "extra")
    return _fields(held, "speed", "speed", declared, lambda rows: rows.reshape(-1, 2, 1))


def _fields(held: _Held, name: str, called: str, declared: Field, change: Callable[[Any], Any]) -> _Held:
    fields = {key: value for key, value in held.fields.items() if key != name} | {called: declared}
    told = tuple(
        replace(one, columns={**one.columns, called: change(np.ascontiguousarray(one.columns[name]))})
        for one in held.told
    )
    return replace(held, fields=fields, told=told)


def _score(held: _Held, chosen: random.Random) -> _Held:
    place = chosen.randrange(len(held.scores))
    return replace(held, scores=(*held.scores[:place], -1.5, *held.scores[place + 1 :]))


_CHANGES: dict[str, Change] = {
    "a value": _of_one(_value),
    "a length": _of_one(_length),
    "the last observation": _of_one(_final),
    "terminated": _of_one(lambda told, _: replace(told, terminated=not told.terminated)),
    "truncated": _of_one(lambda told, _: replace(told, truncated=not told.truncated)),
    "a seed": _of_one(lambda told, chosen: replace(told, seed=told.seed + 1 + chosen.randrange(1 << 40))),
    "an environment": _of_one(lambda told, chosen: replace(told, env=told.env + 1 + chosen.randrange(9))),
    "a split": _of_one(lambda told, _: replace(told, split=told.split + "x")),
    "a step less": _of_one(_without),
    "a step more": _of_one(_twice),
    "a boundary": _boundary,
    "the order": _order,
    "a field's name": _renamed,
    "a dtype": _dtype,
    "a shape": _shape,
    "a column": _score,
    "a column's name": lambda held, _: replace(held, column="points"),
    "metadata": lambda held, _: replace(held, metadata={**held.metadata, "by": "you"}),
    "what was recorded": lambda held, _: replace(held, environment={**held.environment, "num_envs": 3}),
}
