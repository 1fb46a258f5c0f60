"""Steps whose values of any length are made of numbers that lie beside them, in lists too: where a number is
shown, so has to be what it is made of, and nothing where the number is 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import replaystore as rs
from replaystore.schema.ragged import Ragged

SCHEMA = rs.Schema(
    {
        "observation/id": rs.Field("int64", (), "observation"),
        "observation/text": rs.Field.of_text("observation"),
        "observation/tokens": rs.Field("int32", (None,), "observation"),
        "action/id": rs.Field("int64", (), "action"),
        "action/moves": rs.Field("float32", (None, 2), "action"),
        "info/wide": rs.Field("uint8", (None, 5000), "info"),  # coded
        "reward": rs.Field("float64", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
OBSERVED = ("observation/id", "observation/text", "observation/tokens")
BESIDE = {
    "observation/text": "observation/id",
    "observation/tokens": "observation/id",
    "action/moves": "action/id",
    "info/wide": "action/id",
}
PLAIN = [name for name, declared in SCHEMA.fields.items() if not declared.ragged]


def value(name: str, number: int) -> Any:
    """What a field has beside this number."""
    if name == "observation/text":
        return "" if number % 5 == 0 else f"{number}é🙂"[: 1 + number % 9]
    if name == "observation/tokens":
        return np.arange(number % 7 if number % 50 else 900, dtype=np.int32)[: 900 * (number > 0)] + number
    if name == "action/moves":
        return np.full((number % 3, 2), number, np.float32)
    return np.full((number % 4 // 2, 5000), number % 251, np.uint8)


def observations(ids: list[int]) -> dict[str, Any]:
    """By field."""
    return {"observation/id": np.array(ids)} | {
        name: [value(name, number) for number in ids] for name in OBSERVED[1:]
    }


class Numbered:
    """A buffer, and in lists which number each row's observation has, and which the one after it."""

    def __init__(self, location: Any, seed: int = 0, **options: Any) -> None:
        self.random = np.random.default_rng(seed)
        self.buffer = rs.create(location, SCHEMA, **options)
        self.ids: list[int] = []
        self.after: list[int] = []
        self.trajectory: list[int] = []
        """Of each row the number of its trajectory."""
        self.newest = 0
        self._following: int | None = None
        self._count = 0

    def append(self, steps: int, *, ends: bool = True) -> None:
        """Steps of one trajectory, and what follows the last one."""
        first = self._following or self._next()
        ids = [first, *(self._next() for _ in range(steps))]
        rows = [len(self.ids) + 1 + place for place in range(steps)]
        self.buffer.append(
            observations(ids[:-1])
            | {"action/id": np.array(rows), "reward": np.array(rows, float)}
            | {name: [value(name, row) for row in rows] for name in ("action/moves", "info/wide")}
            | {"terminated": np.arange(steps) == (steps - 1 if ends else steps)}
            | {"truncated": np.zeros(steps, bool)},
            final_observation=observations(ids[-1:]),
        )
        self.ids += ids[:-1]
        self.after += ids[1:]
        self.trajectory += [self._count] * steps
        self._count += ends
        self._following = None if ends else ids[-1]

    def _next(self) -> int:
        self.newest += 1
        return self.newest

    def fill(self, trajectories: int, most: int = 9) -> None:
        """Commit after some of them; the last one stays open."""
        for place in range(trajectories):
            self.append(int(self.random.integers(1, most)), ends=place < trajectories - 1)
            if self.random.random() < 0.3:
                self.buffer.commit()
        self.buffer.commit()


def check(batch: Mapping[str, Any]) -> None:
    """All values are those of the numbers beside them, in whatever shape; padding has the number 0."""
    for field, beside in BESIDE.items():
        for name, number in ((field, beside), (f"next_{field}", f"next_{beside}")):
            if name not in batch:
                continue
            values, numbers = batch[name], np.asarray(batch[number])
            assert isinstance(values, Ragged)
            assert values.lead == numbers.shape
            for found, wanted in zip(values.reshape(-1), numbers.reshape(-1).tolist(), strict=True):
                assert same(found, value(field, wanted) if wanted else value(field, 0)), (name, wanted)


def same(found: Any, wanted: Any) -> bool:
    """A text, or an array of the same dtype, shape and values."""
    if isinstance(wanted, str):
        return bool(found == wanted)
    array: NDArray[Any] = np.asarray(found)
    return array.dtype == wanted.dtype and array.shape == wanted.shape and np.array_equal(array, wanted)
