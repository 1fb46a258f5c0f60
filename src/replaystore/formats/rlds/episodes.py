"""An episode: the record that it is, its boundaries, and its steps in blocks.

The last step of an episode (`is_last`) has an observation and nothing else: it is the observation after the
step before it. Where it is flagged `is_terminal`, that step terminated the trajectory, otherwise it was
truncated. A record whose last step is not flagged was cut off, and all its steps are steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.rlds.columns import rows_of
from replaystore.formats.rlds.features import Feature
from replaystore.formats.rlds.items import Picture
from replaystore.formats.rlds.numbers import bools_of
from replaystore.formats.rlds.own import FINAL, INDEX
from replaystore.formats.rlds.plan import Plan
from replaystore.formats.rlds.records import Record
from replaystore.formats.rlds.rows import Rows
from replaystore.formats.rlds.wire import lists_of
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.blocks import Block

__all__ = ["Episode", "Piece"]

MOST_STEPS = 1 << 26


@dataclass(frozen=True)
class Piece:
    """Steps [start, stop) of a record that are one trajectory."""

    start: int
    stop: int
    final: bool
    """Whether the row at `stop` is the observation after them."""
    terminated: bool
    truncated: bool


class Episode:
    """A record, with what becomes of it."""

    def __init__(self, record: Record, plan: Plan) -> None:
        self.record, self.plan = record, plan
        self.lists = lists_of(record)
        self.count = self._count()
        self._known = {name: self._number(feature) for name, feature in plan.episode.items()}

    @property
    def index(self) -> int:
        """Its place among all, as replaystore has written it."""
        return int(self._known[INDEX])

    def _count(self) -> int:
        plan = self.plan
        simple = [*plan.marks.values(), *plan.fields.values()]
        simple.sort(key=lambda feature: (feature.encoding not in ("none", "bytes"), bool(feature.sequence)))
        count = rows_of(self.record, self.lists, simple[0]).count()
        if count > MOST_STEPS:
            raise self.record.error(f"{count} steps are more than {MOST_STEPS}")
        return count

    def _number(self, feature: Feature) -> Any:
        """The one value of a feature of the episode."""
        rows = rows_of(self.record, self.lists, feature)
        if rows.count() != 1:
            raise self.record.error(f"it has {rows.count()} values of {feature.key!r:.100}, and not one")
        return rows.take(1)[0]

    def pieces(self) -> list[Piece]:
        """The trajectories in it: one, unless its steps are flagged otherwise."""
        count, marks = self.count, self._marks()
        if not count:
            return []
        first, last, terminal = (marks.get(name) for name in ("is_first", "is_last", "is_terminal"))
        cuts = np.zeros(count, np.bool_)
        if first is not None:
            cuts |= first
        if last is not None:
            cuts[1:] |= last[:-1]
        cuts[0] = True
        starts = np.flatnonzero(cuts).tolist()
        found = []
        for start, stop in zip(starts, [*starts[1:], count], strict=True):
            ended = bool(last is not None and last[stop - 1])
            over = bool(terminal is not None and terminal[stop - 1])
            found.append(Piece(start, stop - ended, ended, over, ended and not over))
        return found if self.plan.own is None else [self._own(found)]

    def _own(self, found: list[Piece]) -> Piece:
        """The trajectory that replaystore has written, which says itself how it ended."""
        if len(found) != 1:
            raise self.record.error("its steps are of several episodes")
        flags = bool(self._known["terminated"]), bool(self._known["truncated"])
        return Piece(0, found[0].stop, found[0].final, *flags)

    def _marks(self) -> dict[str, NDArray[np.bool_]]:
        return {
            name: bools_of(rows_of(self.record, self.lists, feature), self.count)
            for name, feature in self.plan.marks.items()
        }

    def rows(self, pictures: Picture | None = None) -> dict[str, Rows]:
        """The values of all fields, from the first step on."""
        return {
            name: rows_of(self.record, self.lists, feature, pictures)
            for name, feature in self.plan.fields.items()
        }

    def row(self) -> dict[str, Any]:
        """What the table of trajectories has of it."""
        return {name: self._number(feature) for name, feature in self.plan.columns.items()}

    # --- steps

    def blocks(self, most: int, split: str, pictures: Picture | None) -> Iterator[Block]:
        """Its trajectories, in blocks of about so many bytes."""
        pieces = self.pieces()
        if not pieces:
            return
        rows, row = self.rows(pictures), self.row()
        width = sum(values.bytes_of(self.count) for values in rows.values()) / self.count
        each = max(1, int(most // max(1.0, width)))
        at = 0
        for piece in pieces:
            about = {
                "split": split,
                "row": row,
                "seed": int(self._known.get("seed", -1)) if at == 0 else -1,
            }
            yield from self._blocks_of(piece, rows, each, about)
            at = piece.stop + piece.final
        for name, values in rows.items():
            if values.left():
                raise values.record.error(f"it has more steps of {name!r:.100} than of other features")

    def _blocks_of(
        self, piece: Piece, rows: Mapping[str, Rows], each: int, about: dict[str, Any]
    ) -> Iterator[Block]:
        env = self._env()
        if piece.start == piece.stop and piece.final:
            self._take(rows, 1)
        for start in range(piece.start, piece.stop, each):
            stop = min(start + each, piece.stop)
            begins, ends = start == piece.start, stop == piece.stop
            columns = self._take(rows, stop - start)
            told: dict[str, Any] = about if begins else {}
            if ends:
                told = {**told, "terminated": piece.terminated, "truncated": piece.truncated}
                if piece.final:
                    told["final"] = self._final(self._take(rows, 1))
            yield Block(columns, begins=begins, ends=ends, env=env, **told)

    def _env(self) -> int:
        env = int(self._known.get("env", 0))
        if env < 0:
            raise self.record.error(f"the environment {env} is none")
        return env

    @staticmethod
    def _take(rows: Mapping[str, Rows], count: int) -> dict[str, Any]:
        return {name: values.take(count) for name, values in rows.items()}

    def _final(self, columns: Mapping[str, Any]) -> dict[str, Any] | None:
        if not self._known.get(FINAL, True):
            return None
        names = self.plan.observations
        values = {name: columns[name] for name in names}
        found = {name: rows.named if isinstance(rows, Ragged) else rows[0] for name, rows in values.items()}
        return found or None

    def beside_finals(self) -> set[str]:
        """The fields that have a value other than 0 in the step that has the last observation, where it is
        lost."""
        rows, names = self.rows(), set(self.plan.fields) - set(self.plan.observations)
        found = set()
        for name in names:
            value = rows[name].last()
            if value is None or not value.any() or (name == "discount" and value.size == 1 and value[0] == 1):
                continue
            found.add(name)
        return found
