"""What the measures of sampling have in common: how batches are timed, how results are told, and how what was
sampled is checked."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from measuring import Result, check, ratio
from measuring.data import Columns

__all__ = ["Lookup", "each", "given", "results", "same"]

Rows = NDArray[np.int64]


def each(step: Callable[[], object], count: int) -> Callable[[], float]:
    """A variant that makes so many batches in a round; seconds a batch. What several batches share (drawing)
    is in it."""

    def run() -> float:
        begin = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - begin) / count

    return run


def given(step: Callable[[Rows], object], rows: int, size: int, count: int) -> Callable[[], float]:
    """As `each`, for batches of given rows: drawn before the time is taken, new ones each round, the same for
    all variants."""
    rng = np.random.default_rng(0)

    def run() -> float:
        batches = list(rng.integers(0, rows, (count, size)))
        begin = time.perf_counter()
        for batch in batches:
            step(batch)
        return (time.perf_counter() - begin) / count

    return run


def results(
    what: str,
    seconds: Mapping[str, Sequence[float]],
    reference: str,
    targets: Mapping[str, float],
    *,
    notes: Mapping[str, str] | None = None,
) -> list[Result]:
    """A result for each variant: how many times as long as the reference it takes, the median over the rounds
    of the ratio in each.

    What a batch takes is the mean over those of a round, so that work done for many batches at once is in
    it."""
    found = []
    for name, values in seconds.items():
        middle = statistics.median(values)
        detail = f"median {_time(middle)}, mean {_time(statistics.mean(values))}"
        if name == reference:
            detail += "; the reference"
        if name in (notes or {}):
            detail += f"; {(notes or {})[name]}"
        found.append(
            Result(
                what,
                name,
                ratio(seconds, name, reference),
                "x",
                targets.get(name),
                detail=detail,
                seconds=middle,
            )
        )
    return found


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def same(batch: Mapping[str, Any], columns: Columns, rows: Rows, where: str) -> None:
    """A batch has these rows of the columns, in as many fields as it has."""
    for name in columns.keys() & batch.keys():
        check(np.array_equal(batch[name], columns[name][rows]), where, name)


class Lookup:
    """Finds steps by their observations, to check batches of those that do not tell which rows they drew."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._item = np.dtype((np.void, columns["observation"][0].nbytes))
        items = columns["observation"].reshape(len(columns["reward"]), -1).view(self._item).reshape(-1)
        self._rows: dict[Any, int] = {}
        for row, item in enumerate(items.tolist()):
            if self._rows.setdefault(item, row) != row:  # from here on they are repeated
                break

    def check(self, batch: Mapping[str, Any], where: str) -> None:
        """A batch of whole steps, of any shape."""
        shown = np.ascontiguousarray(batch["observation"])
        found = [self._rows.get(item, -1) for item in shown.reshape(-1).view(self._item).tolist()]
        check(min(found) >= 0, where, "observation")
        fields = {name: values for name, values in batch.items() if not name.startswith("next_")}
        same(fields, self._columns, np.array(found).reshape(shown.shape[:-1]), where)
