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

__all__ = ["carried", "check", "checked", "flat", "floats", "of_new", "of_priorities"]

LARGEST = 1e290
"""So large may a weight be: the sum of as many as there are rows is a float64 then, whenever they are set."""


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
    if value.ndim or not value > 0:
        raise ArgumentError(f"priority must be a number above 0, not {priority!r:.80}")
    return float(of_priorities(value.reshape(1), recipe.alpha)[0])


def of_priorities(priorities: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """What priorities weigh. ArgumentError: nothing that a weight can be."""
    check(priorities, "priority")
    with np.errstate(over="ignore"):
        weights: NDArray[np.float64] = priorities**alpha
    if len(weights) and not weights.max() <= LARGEST:
        largest = priorities.max()
        raise ArgumentError(f"priority {largest} ** alpha {alpha} is more than {LARGEST}: divide priorities")
    return weights


def floats(name: str, values: Any) -> NDArray[np.float64]:
    """Numbers that somebody gave, as float64. ArgumentError: they are none."""
    given = array_of(name, values)
    if given.dtype.kind == "c":
        raise ArgumentError(f"{name} must be numbers, not {given.dtype}: give their real parts")
    try:
        return given.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be numbers ({error})") from None


def flat(name: str, index: Any, values: Any) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Numbers of steps, or of trajectories, and one value for each. ArgumentError: they are not that."""
    places, given = array_of("index", index), floats(name, values)
    if not places.size and places.ndim == 1:  # an empty list has the dtype of none
        places = places.astype(np.int64)
    if places.dtype.kind not in "iu" or places.ndim != 1 or given.shape != places.shape:
        raise ArgumentError(
            f"index and {name} are flat arrays of one length, integers and numbers, not {places.dtype} "
            f"{places.shape} and {given.dtype} {given.shape}"
        )
    return places, given


def check(weights: NDArray[np.float64], what: str = "weight") -> None:
    """ArgumentError: one is negative or not finite, or so large that sums of them might not be."""
    if not len(weights) or (weights.min() >= 0 and weights.max() <= LARGEST):
        return
    at = np.flatnonzero(~((weights >= 0) & (weights <= LARGEST)))[0]
    raise ArgumentError(
        f"{what} {at} is {weights[at]}: it has to be finite and not negative, and at most {LARGEST}"
    )


def carried(old: Batches, buffer: BufferReader, rows: slice, kept: int) -> NDArray[np.float64]:
    """The weights of batches for what there is now. What is new, or was nothing to draw from, weighs as much
    as the largest.

    Args:
        rows: those that there are.
        kept: rows before this one are those that there were; others of their numbers were given up.
    """
    order, largest = old.order, old.order.largest
    known = np.where(order.there, order.values, largest)
    if not old.recipe.per_trajectory:
        first = old.steps.first_row
        weights = np.full(rows.stop - rows.start, largest)
        begin, end = max(first, rows.start), min(first + len(known), rows.stop, kept)
        if begin < end:
            weights[begin - rows.start : end - rows.start] = known[begin - first : end - first]
        return weights
    ids, trajectories = buffer.trajectories["trajectory"], order.trajectories
    if not len(trajectories):
        return np.full(len(ids), largest)
    sort = np.argsort(trajectories)
    at = sort[np.minimum(np.searchsorted(trajectories[sort], ids), len(sort) - 1)]
    parts = buffer.whole_parts()
    there = (trajectories[at] == ids) & np.isin(ids, parts.trajectory[parts.start < kept])
    found: NDArray[np.float64] = np.where(there, known[at], largest)
    return found
