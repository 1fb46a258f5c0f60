"""What is to be written of a buffer into a file of other software, one trajectory behind the other: its
fields, its blocks, and what is kept of it beside them (kept.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.blocks import beside_fields, blocks_of, chosen_fields
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report
from replaystore.formats.shared.kept import Kept
from replaystore.formats.source import Block
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["Chosen"]

HELD = ("env", "seed", "split", "final_observation", "metadata", "environment", "terminated", "truncated")
"""What is kept beside the fields, as `beside_fields` names it; columns of the user's, too."""


class Chosen:
    """What is to be written."""

    def __init__(self, buffer: BufferReader, options: Options) -> None:
        self.buffer, self.options = buffer, options
        self.names = chosen_fields(buffer, options)
        self.schema = buffer.schema.select(self.names)
        self.fields = self.schema.fields
        self.table = buffer.trajectories if options.trajectories is None else options.trajectories
        parts = buffer.parts
        order = parts.parts_of(self.table["trajectory"])
        owner = parts.trajectory[order]
        first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1])[: len(order)])
        self.lengths: NDArray[np.int64] = (
            np.add.reduceat(parts.length[order], first) if len(first) else np.zeros(0, np.int64)
        )
        """Steps of each trajectory."""
        self.user = [name for name in self.table.columns if name not in TRAJECTORIES and name != "open"]
        self.row_bytes = sum(declared.row_bytes for declared in self.fields.values())
        self._done = 0
        self._finals = [False] * len(self.table)

    @property
    def steps(self) -> int:
        """How many there are of all."""
        return int(self.lengths.sum())

    def observations(self) -> tuple[str, ...]:
        """The fields of the observation."""
        return self.schema.names("observation")

    def report(self) -> Report:
        """What becomes of it, if all its fields are kept, and beside them what can be."""
        rest = beside_fields(self.buffer, self.options, holds={*HELD, *self.user}, fields=self.names)
        return Report(self.steps, len(self.table), dict.fromkeys(self.names, KEPT), rest)

    def smallest(self) -> list[str]:
        """The field whose rows take least."""
        return [min(self.names, key=lambda name: self.fields[name].row_bytes)]

    def blocks(
        self, names: Sequence[str] | None = None, *, counted: bool = True
    ) -> Iterator[tuple[int, Block]]:
        """All steps in order, in blocks with the numbers of their trajectories; of these fields alone.
        `counted`: that is progress."""
        number, finals = -1, list[bool]()
        options = self.options if names is None else replace(self.options, fields=tuple(names))
        width = sum(self.fields[name].row_bytes for name in names or self.names) * counted
        for block in blocks_of(self.buffer, options):
            number += block.begins
            if block.ends:
                finals.append(bool(block.final))
            yield number, block
            self._done += len(block) * width
            if self.options.progress is not None:
                self.options.progress(self._done, self.steps * self.row_bytes)
        if names is None or set(self.observations()) & set(names):
            self._finals = finals

    def kept(self, places: Mapping[str, Any], **more: Any) -> Kept:
        """What is kept beside it, when all blocks were asked for. `more`: strict JSON of the format's own."""
        table, known = self.table, np.array(self._finals, np.bool_)
        names = [str(name) for name in table["split"].tolist()]
        splits = list(dict.fromkeys(["", *names]))
        codes = {name: code for code, name in enumerate(splits)}
        return Kept(
            self.schema,
            {name: places[name] for name in self.names},
            self.lengths.astype(np.int64),
            np.asarray(table["env"], np.int64),
            np.asarray(table["seed"], np.int64),
            np.array([codes[name] for name in names], np.int32),
            np.asarray(table["terminated"], np.bool_),
            np.asarray(table["truncated"], np.bool_),
            np.where(known, np.cumsum(known) - 1, -1),
            splits,
            {name: np.asarray(table[name]) for name in self.user},
            self.buffer.environment,
            self.buffer.document.user or None,
            more,
        )
