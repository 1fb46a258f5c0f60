"""The table of trajectories as CSV, for spreadsheets and data frames: it is only written, since it has no
steps.

One line a trajectory, in the order of the table: its columns, the returns of rewards of several numbers as
`return/0`, `return/1`, …. A seed that is not known is empty; floats have all their digits.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from replaystore.formats.blocks import beside_fields, chosen_fields
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, lost, refuse_losses
from replaystore.formats.shared.new_files import NewFiles
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.trajectories.table import Trajectories
from replaystore.views.reader import BufferReader

__all__ = ["Csv"]

BEGINS = b"trajectory,env,length"
TOGETHER = 4096
"""Trajectories whose lines are made together."""


class Csv(Format):
    """Such files, as replaystore knows them."""

    example = "trajectories.csv"
    limits = ("steps: it has a line for each trajectory",)
    ragged = True

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        table = _table(buffer, options)
        fields = dict.fromkeys(chosen_fields(buffer, options), lost("a table of trajectories has no steps"))
        holds = {*TRAJECTORIES, *table.columns, "open"}
        return Report(0, len(table), fields, beside_fields(buffer, options, holds=holds, fields=()))

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        report = self.plan(buffer, path, options)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        table = _table(buffer, options)
        with NewFiles([path], overwrite=options.overwrite) as new:
            done = 0
            for count, text in _lines(table):
                new.files[0].write(text.encode())
                done += count
                if options.progress is not None:
                    options.progress(done, len(table))
        return report

    def recognizes(self, path: str) -> bool:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return file.read(len(BEGINS)) == BEGINS


def _table(buffer: BufferReader, options: Options) -> Trajectories:
    return buffer.trajectories if options.trajectories is None else options.trajectories


def _lines(table: Trajectories) -> Iterator[tuple[int, str]]:
    """The head, then lines: how many trajectories, and the text."""
    columns = dict(_columns(table))
    yield 0, _text([list(columns)])
    for start in range(0, len(table), TOGETHER):
        values = [column[start : start + TOGETHER].tolist() for column in columns.values()]
        rows: list[Any] = list(zip(*values, strict=True))
        at = list(columns).index("seed") if "seed" in columns else -1
        if at >= 0:
            rows = [(*row[:at], "" if row[at] == -1 else row[at], *row[at + 1 :]) for row in rows]
        yield min(TOGETHER, len(table) - start), _text(rows)


def _columns(table: Trajectories) -> Iterator[tuple[str, Any]]:
    first = [name for name in TRAJECTORIES if name in table.columns]
    for name in dict.fromkeys([*first, *table.columns]):
        column = np.asarray(table[name])
        if column.ndim == 1:
            yield name, column
        width = math.prod(column.shape[1:])
        for place in range(width if column.ndim > 1 else 0):
            yield f"{name}/{place}", column.reshape(len(column), width)[:, place]


def _text(rows: Any) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
