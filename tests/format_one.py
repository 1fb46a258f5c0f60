"""What is in the stores of tests/data/format-1: all of it arithmetic, of the number of a step, so that
whoever reads them in ten years knows what there has to be.

Step `p` of trajectory `t` has the number 100 * t + p, so that what follows step k is observation k + 1, which
is also what was observed after a last step. Steps of no trajectory have numbers from 9000 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import spaces

import replaystore as rs
from replaystore.schema.fields import Field, Schema

__all__ = [
    "LOOSE",
    "TOLD",
    "Told",
    "agent_space",
    "columns",
    "env",
    "observations",
    "ring_schema",
    "run",
    "schema",
    "score",
    "seed",
    "spaces_schema",
    "split",
    "value",
]

LOOSE = 9000
LETTERS = "kéy 語😀"
LONG = {105: 1500, 301: 2700}
"""Lengths of the tokens of some steps: over the borders of chunks of 1,024, and of files of two."""


def schema() -> Schema:
    """Coded images, raw vectors and numbers, rows that fill files quickly, texts, tokens and points, and
    scores that change."""
    return Schema(
        {
            "observation/camera": Field("uint8", (4, 3), "observation"),
            "observation/joints": Field("float32", (4,), "observation"),
            "observation/text": Field.of_text("observation"),
            "action": Field("int64", (), "action"),
            "reward": Field("float64", (), "reward"),
            "terminated": Field("bool", (), "terminated"),
            "truncated": Field("bool", (), "truncated"),
            "info/wide": Field("uint16", (128,), "info"),
            "info/tokens": Field("int32", (None,), "info"),
            "info/a.b %25": Field("float16", (None, 3), "info"),
            "score": Field("float32", (), "extra", mutable=True),
        }
    )


def ring_schema() -> Schema:
    """Of the ring: a few fields less."""
    left_out = ("score", "info/a.b %25", "observation/joints")
    return schema().select([name for name in schema().fields if name not in left_out])


def agent_space() -> spaces.Dict:
    """Observations of any length, as Gymnasium has them."""
    return spaces.Dict(
        {
            "graph": spaces.Graph(spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(5)),
            "seen": spaces.Sequence(spaces.Box(0, 255, (2, 2), np.uint8), stack=True),
            "words": spaces.Text(40, charset=LETTERS),
        }
    )


def spaces_schema() -> Schema:
    """The schema of an agent with such observations, and tokens as actions."""
    return Schema.from_spaces(agent_space(), spaces.Sequence(spaces.Discrete(999)))


def _salt(name: str) -> int:
    return sum(name.encode())


def length(name: str, step: int) -> int:
    """Of a value of a field of any length; those of edges and of their links belong together."""
    if name in ("info/tokens", "action") and step in LONG:
        return LONG[step]
    return (3 * step + _salt(name.replace("edge_links", "edges"))) % 11


def value(name: str, declared: Field, step: int) -> Any:
    """The value of a field in a step (score: `score`); flags are `False`."""
    if declared.role in ("terminated", "truncated"):
        return np.bool_(False)
    if declared.text:
        return "".join(LETTERS[(step + place) % len(LETTERS)] for place in range(length(name, step)))
    shape = (length(name, step), *declared.inner) if declared.ragged else declared.shape
    count = int(np.prod(shape))
    found = (7 * (17 * step + _salt(name) + np.arange(count)) + 13) % 251
    if declared.dtype.itemsize >= 4:  # room for the number of the step
        found += 256 * step
    return found.astype(declared.dtype).reshape(shape) if shape else declared.dtype.type(found[0])


def score(step: int, time: int) -> np.float32:
    """A score, as it was set the so manieth time."""
    return np.float32((step * 3 + time * 1000) / 4)


def column(name: str, declared: Field, steps: Sequence[int]) -> Any:
    """Values of a field in these steps, as `append` takes them."""
    values = [value(name, declared, step) for step in steps]
    if declared.ragged:
        return rs.Ragged.of(values, declared.dtype, declared.inner, text=declared.text)
    return np.array(values, declared.dtype).reshape(len(steps), *declared.shape)


def columns(of: Schema, steps: Sequence[int], ends: dict[int, str] | None = None) -> dict[str, Any]:
    """All fields of these steps; `ends`: the flags of some."""
    found = {name: column(name, declared, steps) for name, declared in of.fields.items()}
    for step, flags in (ends or {}).items():
        for flag in flags.split():
            found[flag][list(steps).index(step)] = True
    if "score" in found:
        found["score"] = np.array([score(step, 0) for step in steps], np.float32)
    return found


def observations(of: Schema, steps: Sequence[int]) -> Any:
    """Nested observations with these numbers, as `append` and `writer` take them."""
    chosen = of.select(of.names("observation"))
    found = {name: column(name, declared, steps) for name, declared in chosen.fields.items()}
    return of.unflatten(found, "observation")


@dataclass(frozen=True)
class Told:
    """What a store shows."""

    rows: list[int]
    """The number of each step that counts."""
    ended: dict[int, str]
    """The trajectories that have ended, in the order of ending, and their flags."""
    going: list[int]
    """The open ones."""
    names: dict[str, list[int]] = field(default_factory=dict)
    """Named commits, and the numbers of the steps that they show."""
    scored: dict[int, int] = field(default_factory=dict)
    """How often the scores of some steps were set."""
    unknown: frozenset[int] = frozenset()
    """Last steps of ended trajectories after which nothing was observed."""
    late: frozenset[int] = frozenset()
    """Steps that were there before the late field, which is 3 in them."""
    whole: dict[int, int] = field(default_factory=dict)
    """Of a ring: how many steps trajectories had that have lost some."""

    def after(self, step: int) -> int | None:
        """The number of the observation after a step; None: it is not known, or there is none."""
        return None if step >= LOOSE or step in self.unknown else step + 1

    def steps(self, trajectory: int) -> list[int]:
        """Those of a trajectory, in order."""
        return sorted(step for step in self.rows if step // 100 == trajectory)

    def value(self, name: str, declared: Field, step: int) -> Any:
        """What a field has in a step."""
        if declared.role in ("terminated", "truncated"):
            is_last = step + 1 not in self.rows
            return np.bool_(is_last and declared.role in self.ended.get(step // 100, "").split())
        if name == "score":
            return score(step, self.scored.get(step, 0))
        if name == "info/late" and step in self.late:
            return np.full(declared.shape, 3, declared.dtype)
        return value(name, declared, step)


def env(trajectory: int) -> int:
    """The environment of a trajectory."""
    return trajectory % 3


def seed(trajectory: int) -> int:
    """What its environment was reset with; -1: unknown."""
    return 40 + trajectory if trajectory % 2 else -1


def split(trajectory: int) -> str:
    """Of a trajectory; environments that take turns have one split."""
    return "" if trajectory >= 3 else f"split é{trajectory}"


def run(trajectory: int, stop: int, start: int = 0) -> list[int]:
    """The numbers of steps [start, stop) of a trajectory."""
    return [100 * trajectory + place for place in range(start, stop)]


_LIVE = [
    *(*run(0, 12), *run(1, 9), *run(2, 5), LOOSE, LOOSE + 1, LOOSE + 2),
    *(step + place for place in range(7) for step in (300, 400)),
]
_ENDED = {0: "terminated", 1: "truncated", 2: "", 3: "terminated truncated", 4: ""}
_SCORED = {step: 1 + (10 <= place < 14) for place, step in enumerate(_LIVE) if 4 <= place < 30}
LIVE = Told(
    rows=_LIVE + run(5, 6),
    ended=_ENDED,
    going=[5],
    names={"first": run(0, 12) + run(1, 9), "last": _LIVE + run(5, 6)},
    scored=_SCORED,
    unknown=frozenset({204}),
    late=frozenset(_LIVE),
)
_RING = [step for trajectory in range(10) for step in run(trajectory, 7 if trajectory == 9 else 13)]
SHORT = Told(run(0, 9) + run(1, 9), {0: "terminated", 1: "terminated"}, [])
TOLD = {
    "live.zarr": LIVE,
    "live.h5": LIVE,
    "archive.zarr.zip": replace(LIVE, rows=sorted(LIVE.rows)),
    "ring.zarr": Told(
        rows=_RING[-40:],
        ended={6: "terminated", 7: "truncated", 8: "terminated"},
        going=[9],
        names={"kept": _RING[25:65]},
        whole={6: 13},
    ),
    "ragged.zarr": Told(
        run(0, 8) + run(1, 7) + run(2, 5) + run(3, 4),
        {0: "terminated", 1: "truncated", 2: "terminated"},
        [3],
    ),
    "torn.zarr": SHORT,
    "killed.zarr": SHORT,
    "strange.zarr": Told(
        run(0, 9) + run(1, 9) + run(2, 9) + run(3, 5),
        {0: "terminated", 1: "terminated", 2: "terminated"},
        [3],
    ),
}
