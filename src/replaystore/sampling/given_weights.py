"""The weights of a sampler: those that somebody gives, checked, and those of one commit for the next."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.batches import Batches
from replaystore.sampling.recipe import Recipe
from replaystore.schema.values import array_of
from replaystore.views.reader import BufferReader

__all__ = ["carried", "check", "checked", "floats", "moved", "of_new"]


def checked(
    buffer: BufferReader, weights: ArrayLike, recipe: Recipe, steps: int | None = None
) -> NDArray[np.float64]:
    """The weights that somebody gave for what a buffer shows, or for so many steps. ArgumentError: they do
    not fit."""
    values = floats("weights", weights)
    counts = {
        "step": len(buffer) if steps is None else steps,
        "trajectory": buffer.num_trajectories if steps is None else -1,
    }
    per, other = ("trajectory", "step") if recipe.per_trajectory else ("step", "trajectory")
    if values.shape != (counts[per],):
        advice = ""
        if values.shape == (counts[other],):
            advice = f'; for one for each {other} say per="{other}"'
        raise ArgumentError(
            f"weights have shape {values.shape}; there must be one for each {per}, {counts[per]} of "
            f"them{advice}"
        )
    check(values)
    return values


def of_new(priority: Any, recipe: Recipe) -> float | None:
    """The weight of new steps, of their priority. ArgumentError: it is none, or there are no priorities."""
    if priority is None:
        return None
    if recipe.alpha is None:
        raise ArgumentError('priority is that of new steps, with order="prioritized": leave it out')
    value = floats("priority", priority)
    if value.ndim or not (np.isfinite(value) and value > 0):
        raise ArgumentError(f"priority must be a number above 0, not {priority!r:.80}")
    return float(value**recipe.alpha)


def floats(name: str, values: Any) -> NDArray[np.float64]:
    """Numbers that somebody gave, as float64. ArgumentError: they are none."""
    given = array_of(name, values)
    if given.dtype.kind == "c":
        raise ArgumentError(f"{name} are numbers, not {given.dtype}: give their real parts")
    try:
        return given.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} are numbers ({error})") from None


def check(weights: NDArray[np.float64]) -> None:
    """ArgumentError: one is negative or not finite."""
    # Of large numbers the sum alone may be infinite.
    if not len(weights) or (weights.min() >= 0 and np.isfinite(weights.sum())):
        return
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ArgumentError(f"weight {wrong[0]} is {weights[wrong[0]]}: weights are finite and not negative")
    raise ArgumentError("the sum of the weights is too large for a float64: divide them")


def moved(known: NDArray[np.float64], first: int, rows: slice, largest: float) -> NDArray[np.float64]:
    """The weights of some rows, where those from `first` on are known; others weigh `largest`."""
    weights = np.full(rows.stop - rows.start, largest)
    kept = known[max(0, rows.start - first) :][: len(weights)]
    weights[: len(kept)] = kept
    return weights


def carried(old: Batches, buffer: BufferReader) -> NDArray[np.float64]:
    """The weights of batches for the commit that the buffer shows now: new ones are as large as the
    largest."""
    order = old.order
    known, largest = order.values, order.largest
    if not old.recipe.per_trajectory:
        rows = slice(buffer.first_row, buffer.first_row + len(buffer))
        return moved(known, old.steps.first_row, rows, largest)
    trajectories = order.trajectories
    ids, sort = buffer.trajectories["trajectory"], np.argsort(trajectories)
    at = sort[np.minimum(np.searchsorted(trajectories[sort], ids), len(sort) - 1)]
    found: NDArray[np.float64] = np.where(trajectories[at] == ids, known[at], largest)
    return found
