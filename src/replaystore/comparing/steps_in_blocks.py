"""A digest of blocks: of a file of other software as it is read, or as it becomes a store.

Trajectories are counted as a recorder does it: in the order in which they end, those that are cut off in the
end in the order of their environments.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from replaystore.comparing.leaves import Crew, turn_bytes
from replaystore.comparing.tally import Story, Tally, one_row, texts
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.trajectories.blocks import Block

__all__ = ["BlockTally", "with_flags"]

LABELS = 1024
"""Trajectories that are waiting to be told of."""


def with_flags(block: Block, schema: Schema) -> Block:
    """A block with rows of the flags that only its end tells of."""
    missing = [
        name for name in ("terminated", "truncated") if name in schema.fields and name not in block.columns
    ]
    if not missing:
        return block
    columns = dict(block.columns)
    count = len(next(iter(columns.values()), ()))
    for name in missing:
        columns[name] = np.zeros(count, np.bool_)
        columns[name][-1:] = block.ends and bool(getattr(block, name))
    return replace(block, columns=columns)


@dataclass
class _Going:
    """A trajectory that has not ended."""

    story: Story
    env: int
    seed: int
    split: str
    row: dict[str, Any] = field(default_factory=dict)
    flags: tuple[bool, bool] = (False, False)
    final: Mapping[str, Any] | None = None
    """The observation after its last step so far."""


class BlockTally:
    """Counts the trajectories that blocks tell of. The blocks are sound."""

    def __init__(
        self,
        fields: Mapping[str, Field],
        columns: Mapping[str, Any],
        crew: Crew,
        *,
        each: Collection[str] | None = None,
    ) -> None:
        """`fields`: those of the blocks' that count; `columns`: of the table of trajectories, with their
        dtypes; `each` as a Tally takes it."""
        self._columns = {name: Field(np.dtype(dtype), (), "extra") for name, dtype in columns.items()}
        self.tally = Tally(fields, self._columns, crew, each=each)
        self._open: dict[int, _Going] = {}
        self._ended: list[_Going] = []
        self._count = self._bytes = 0
        self._most = turn_bytes()

    def add(self, block: Block) -> None:
        """The next block."""
        going = self._open.get(block.env)
        if going is not None and block.begins:
            self._end(self._open.pop(block.env))
            going = None
        if going is None:
            going = _Going(self.tally.story(), block.env, block.seed, block.split)
            self._open[block.env] = going
        elif going.final is not None and not self._goes_on(going.final, block.columns):
            self._follow(going)
        self.tally.add(going.story, self.tally.windows(block.columns), 0, len(block))
        going.row.update(block.row)
        going.flags = _flag(block, "terminated"), _flag(block, "truncated")
        going.final = block.final
        if block.ends:
            self._end(self._open.pop(block.env))
        self._bytes += sum(rows.nbytes for rows in block.columns.values())
        if self._bytes >= self._most:
            self.tally.turn()
            self._bytes = 0

    def finish(self) -> tuple[dict[str, str], dict[str, str]]:
        """As `Tally.finish`: what is open is cut off; there are no rows of no trajectory."""
        for env in sorted(self._open):
            self._end(self._open.pop(env))
        self._tell()
        return self.tally.finish(self.tally.story())

    def _goes_on(self, final: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
        """Whether the next step has the observation that was said to follow the last one."""
        return all(
            _bits(one_row(kind.declared, final[kind.name])) == _bits(columns[kind.name][:1])
            for kind in self.tally.observations
        )

    def _follow(self, going: _Going) -> None:
        if going.final is None or not self.tally.observations:
            return
        rows = {kind.name: one_row(kind.declared, going.final[kind.name]) for kind in self.tally.observations}
        going.story.follow(self.tally.seen(rows)[0])

    def _end(self, going: _Going) -> None:
        self._follow(going)
        going.final = None  # rows of a block, which would be in memory as long as these are
        told = {
            "seed": np.int64(going.seed).tobytes(),
            "env": np.int64(going.env).tobytes(),
            "split": going.split.encode(),
            "terminated": bytes([going.flags[0]]),
            "truncated": bytes([going.flags[1]]),
            "open": bytes([0]),
        }
        for name, declared in self._columns.items():
            going.row[name] = np.asarray(going.row.get(name, _blank(declared.dtype)), declared.dtype)
            told[name] = going.row[name].tobytes()
        going.story.labels = self.tally.named(told)
        self.tally.close(going.story, self._count)
        self._count += 1
        self._ended.append(going)
        if len(self._ended) >= LABELS:
            self._tell()

    def _tell(self) -> None:
        ended, label = self._ended, self.tally.label
        label("seed", np.array([one.seed for one in ended], np.int64))
        label("env", np.array([one.env for one in ended], np.int64))
        label("split", texts([one.split for one in ended]))
        label("terminated", np.array([one.flags[0] for one in ended], np.bool_))
        label("truncated", np.array([one.flags[1] for one in ended], np.bool_))
        label("open", np.zeros(len(ended), np.bool_))
        for name, declared in self._columns.items():
            label(name, np.array([one.row[name] for one in ended], declared.dtype))
        self._ended = []


def _flag(block: Block, name: str) -> bool:
    """As a recorder takes it: what is said, else what the last step has."""
    said, flags = getattr(block, name), block.columns.get(name)
    return bool(flags[-1]) if said is None and flags is not None else bool(said)


def _blank(dtype: np.dtype[Any]) -> Any:
    return np.nan if dtype.kind == "f" else 0


def _bits(rows: Any) -> bytes:
    values = rows.named if hasattr(rows, "named") else rows
    found: bytes = np.ascontiguousarray(values).tobytes()
    return found
