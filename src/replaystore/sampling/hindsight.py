"""Hindsight goals: transitions of goal environments whose desired goal becomes one that was achieved later in
the same trajectory (Andrychowicz et al., Hindsight Experience Replay, 2017; strategy "future").

Invariant: which steps are relabelled, and by which later step, depends on the seed, the number of the draw
and what the buffer shows; what is stored stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.finals import Finals, GrownFinals
from replaystore.sampling.gather import Batch, Gather
from replaystore.sampling.orders import Stream
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.steps import Drawn, Rows, Steps
from replaystore.schema.fields import Schema

if TYPE_CHECKING:
    from replaystore.sampling.stacks_and_returns import Items

__all__ = ["Goals", "Relabelling"]

WHETHER, WHICH = 1 << 20, 1 << 21
"""Of the streams of random numbers those that say whether a step is relabelled, and by which later one."""
Reward = Callable[[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]], Any]


@dataclass(frozen=True)
class Goals:
    """How the goals of a buffer are relabelled: its fields, and the functions of its environment, which get
    achieved goals, desired goals and infos of as many steps."""

    achieved: str
    desired: str
    reward_field: str
    reward: Reward
    terminated: Reward | None
    share: float
    """Of steps that are relabelled."""

    @classmethod
    def of(cls, recipe: Recipe, schema: Schema, reward: Any, terminated: Any) -> Goals | None:
        """None: nothing is relabelled. ArgumentError: it cannot be."""
        if recipe.relabel is None:
            if reward is not None or terminated is not None:
                raise ArgumentError('reward and terminated are for relabel="future": leave them out')
            return None
        if not callable(reward):
            raise ArgumentError(
                'relabel="future" needs what a step would have earned: give '
                "reward=env.unwrapped.compute_reward, or another function of (achieved_goal, desired_goal, "
                "info)"
            )
        if terminated is not None and not callable(terminated):
            raise ArgumentError("terminated is a function of (achieved_goal, desired_goal, info)")
        if terminated is not None and "terminated" not in recipe.names:
            raise ArgumentError("terminated= computes a field that is not asked for: leave it out")
        found = []
        for goal in ("achieved_goal", "desired_goal"):
            names = [n for n in schema.names("observation") if n.rpartition("/")[2] == goal]
            asked = [name for name in names if name in recipe.names]
            if len(asked) != 1:
                there = f"there are {len(names)}" if names else "there is none"
                raise ArgumentError(
                    f'relabel="future" needs one field of observations called {goal!r} in each batch: '
                    f"{there} in the buffer, and {len(asked)} in `fields`"
                )
            found.append(asked[0])
        one, other = found
        achieved, desired = schema.fields[one], schema.fields[other]
        if achieved.ragged or desired.ragged:
            raise ArgumentError(
                f"{one!r} and {other!r} are of any length, and such goals cannot be relabelled: leave out "
                "relabel"
            )
        if (achieved.shape, achieved.dtype) != (desired.shape, desired.dtype):
            raise ArgumentError(f"{one!r} and {other!r} are not alike: one cannot stand for the other")
        rewards = [name for name in schema.names("reward") if name in recipe.names]
        if len(rewards) != 1:
            raise ArgumentError(f'relabel="future" computes one reward; batches have {len(rewards)}')
        share = recipe.goals / (1 + recipe.goals)
        return cls(one, other, rewards[0], reward, terminated, share)

    def explain(self) -> Iterable[str]:
        """For people."""
        yield (
            f"relabelled: {self.desired} of {self.share:.0%} of the steps, by what {self.achieved} is later "
            "in the trajectory"
        )


class Relabelling:
    """Relabels the batches of one commit."""

    def __init__(self, goals: Goals, seed: int) -> None:
        self.goals, self._stream = goals, Stream(seed)

    def __call__(self, batch: Batch, items: Items, drawn: Drawn, epoch: int, start: int) -> Batch:
        """Relabel a batch in place. `start`: the number of its first item in the sequence of an epoch. What
        is to be added to it."""
        goals, count = self.goals, len(drawn.rows)
        chosen = self._stream.numbers(epoch, start, start + count, WHETHER) < goals.share
        at = np.flatnonzero(chosen)
        if not len(at):
            return {"relabelled": chosen}
        which = self._stream.numbers(epoch, start, start + count, WHICH)[at]
        some = Drawn(drawn.rows[at], drawn.part[at])
        goal = _later(items, some, which, goals.achieved)
        batch[goals.desired][at] = batch[f"next_{goals.desired}"][at] = goal
        infos = {
            name.removeprefix("info/"): values[at]
            for name, values in batch.items()
            if name.startswith("info/")
        }
        achieved = batch[f"next_{goals.achieved}"][at]
        stored = batch[goals.reward_field]
        stored[at] = _computed("reward", goals.reward, (achieved, goal, infos), stored[at])
        if goals.terminated is not None:
            flags = batch["terminated"]
            flags[at] = _computed("terminated", goals.terminated, (achieved, goal, infos), flags[at])
        return {"relabelled": chosen}


def _later(items: Items, drawn: Drawn, which: NDArray[np.float64], name: str) -> NDArray[Any]:
    """Of each item what a field of observations is after its step, or after one of those behind it."""
    steps: Steps = items.steps
    left = steps.left(drawn, 1 << 40)
    rows, part = steps.advance(drawn.rows, drawn.part, (which * left).astype(np.int64))
    following, final = steps.after(rows, part)
    return _observed(items.gather, items.finals, name, following, final)


def _observed(
    gather: Gather, finals: Finals | GrownFinals, name: str, rows: Rows, final: Rows
) -> NDArray[Any]:
    """A field of observations at rows, or the final observations of numbers that are not -1."""
    found: NDArray[Any] = gather.take((name,), rows)[name]
    at = np.flatnonzero(final >= 0)
    if len(at):
        found[at] = finals.read(final[at])[name]
    return found


def _computed(
    what: str, function: Reward, given: tuple[Any, Any, dict[str, Any]], stored: NDArray[Any]
) -> NDArray[Any]:
    """What a function says of several steps, as values of the field that it is for. ArgumentError: they are
    none."""
    found = np.asarray(function(*given))
    if found.shape != stored.shape or not np.can_cast(found.dtype, stored.dtype, "same_kind"):
        raise ArgumentError(
            f"{what}= returned {found.dtype} {found.shape} for {len(stored)} steps; it gets their goals as "
            f"arrays, and returns {stored.dtype} {stored.shape}"
        )
    return found
