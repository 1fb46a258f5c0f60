"""Two sides, step by step, where trajectories are given one after another: what a conversion proves of values
that were cast, or whose trajectories are others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.comparing.leaves import Crew, turn_bytes
from replaystore.comparing.tally import Story, Tally
from replaystore.schema.field import Field
from replaystore.trajectories.blocks import Block

__all__ = ["InTurnError", "flat_digests", "in_order", "largest_differences"]


class InTurnError(Exception):
    """Blocks of several trajectories come in turn, so that steps have no order of their own."""


def in_order(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks. InTurnError: one goes on with another trajectory than the one before."""
    last: int | None = None
    for block in blocks:
        if not block.begins and last != block.env:
            raise InTurnError
        last = None if block.ends else block.env
        yield block


def flat_digests(blocks: Iterable[Block], fields: Mapping[str, Field]) -> tuple[dict[str, str], int]:
    """The digests of all steps as one run, by field, wherever trajectories begin and end; and how many steps
    there are."""
    waiting, most = 0, turn_bytes()
    with Crew() as crew:
        tally = Tally(fields, {}, crew)
        story: Story = tally.story()
        for block in in_order(blocks):
            tally.add(story, tally.windows(block.columns), 0, len(block))
            waiting += sum(rows.nbytes for rows in block.columns.values())
            if waiting >= most:
                tally.turn()
                waiting = 0
        digests = zip(tally.kinds, tally.digests_of(story), strict=True)
        return {kind.name: digest.hex() for kind, digest in digests}, story.steps


def largest_differences(
    mine: Iterable[Block], theirs: Iterable[Block], names: Iterable[str]
) -> dict[str, float]:
    """By field, by how much values differ at most; infinite where one is no number and the other is. Both
    have the same steps, in the same order."""
    found = dict.fromkeys(names, 0.0)
    rest: Mapping[str, Any] = {}
    others = in_order(theirs)
    for block in in_order(mine):
        at = 0
        while at < len(block):
            if not rest or not len(next(iter(rest.values()))):
                rest = next(others).columns
            count = min(len(block) - at, len(next(iter(rest.values()))))
            for name in found:
                difference = _largest(block.columns[name][at : at + count], rest[name][:count])
                found[name] = max(found[name], difference)
            rest = {name: rows[count:] for name, rows in rest.items()}
            at += count
    return found


def _largest(mine: NDArray[Any], theirs: NDArray[Any]) -> float:
    wide = np.result_type(mine.dtype, theirs.dtype, np.float64)
    left, right = mine.reshape(len(mine), -1).astype(wide), theirs.reshape(len(theirs), -1).astype(wide)
    with np.errstate(invalid="ignore"):
        apart = np.abs(left - right)
    apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))
