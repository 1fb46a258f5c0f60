"""Sums of rewards of many trajectories at once, each added up step after step in float64: the same bits,
however the steps were cut into calls, and whatever else is added up beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["running_sum", "running_sums", "running_total"]

LONG = 128
"""Longer ones are added up one by one; the others side by side, a step of each at a time."""


def running_sum(values: NDArray[Any], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """`before` (1, components) and the values of one run added up in their order, (components,)."""
    if before.shape[1] == 1:
        return np.array([running_total(values, float(before[0, 0]))])
    sums = values.reshape(len(values), -1).astype(np.float64)
    sums[0] += before[0]
    total: NDArray[np.float64] = np.add.accumulate(sums, axis=0, out=sums)[-1]
    return total


def running_total(values: NDArray[Any], before: float) -> float:
    """As `running_sum`, of one component: NumPy adds up a flat array several times as fast."""
    sums = values.reshape(-1).astype(np.float64)
    sums[0] += before
    return sums.cumsum(out=sums).item(-1)


def running_sums(
    values: NDArray[Any], lengths: NDArray[np.int64], before: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`before` (runs, components) and the values of each run, which lie one run behind the other, added up
    in their order."""
    total = before.copy()
    flat = values.reshape(-1, before.shape[1])
    begins = np.cumsum(lengths) - lengths
    alone = np.flatnonzero(lengths > LONG) if len(lengths) > 4 else np.flatnonzero(lengths)
    for run in alone.tolist():
        begin, count = int(begins[run]), int(lengths[run])
        total[run] = running_sum(flat[begin : begin + count], before[run : run + 1])
    if len(alone) == np.count_nonzero(lengths):
        return total
    together = np.flatnonzero((lengths > 0) & (lengths <= LONG))
    together = together[np.argsort(-lengths[together], kind="stable")]  # at each step the first few go on
    begins, left = begins[together], lengths[together]
    going = np.searchsorted(-left, -np.arange(int(left[0])), side="left")
    sums = total[together]
    for step, count in enumerate(going.tolist()):
        sums[:count] += flat[begins[:count] + step]
    total[together] = sums
    return total
