"""Files of Parquet and of Arrow that hold a table of steps, or folders of them, as formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report
from replaystore.formats.shared.arrow.reading import Kind, Table, kind_of, opened_table
from replaystore.formats.shared.cutting import cut
from replaystore.formats.source import Block, Source
from replaystore.formats.tables.foreign import Foreign
from replaystore.formats.tables.reading import Own, own_layout
from replaystore.formats.tables.writing import planned, write_table
from replaystore.views.reader import BufferReader

__all__ = ["Arrow", "Parquet"]

MOST_ROWS = 8
"""In a byte of a file, that are believed before they are read."""
LIMITS = ("that trajectories were still open", "steps of no trajectory")


class _Steps(Format):
    """What both have in common."""

    kinds: ClassVar[tuple[Kind, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = ()
    limits = LIMITS
    ragged = True

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """The steps of a file, or of all files of a folder."""
        with ExitStack() as stack:
            tables = [stack.enter_context(opened_table(name)) for name in self._files(path)]
            wrong = next((table for table in tables if table.kind not in self.kinds), None)
            if wrong is not None:
                raise FormatError(
                    f"{wrong.path} is no such file: say with source_format= (--from) which format it has"
                )
            yield _source(tables, path)

    def recognizes(self, path: str) -> bool:
        try:
            return kind_of(self._files(path)[0]) in self.kinds
        except (FormatError, NotFoundError):
            return False

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return planned(buffer, options)[1]

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return write_table(buffer, path, options, self.kinds[0])

    def _files(self, path: str) -> list[str]:
        """The file itself, or those of a folder in the order of their names."""
        if not os.path.isdir(path):
            return [path]
        found = sorted(
            name
            for name in os.listdir(path)
            if name.lower().endswith(self.suffixes) and not name.startswith((".", "_"))
        )
        if not found:
            raise FormatError(f"{path} holds no files that end in {' or '.join(self.suffixes)}")
        return [os.path.join(path, name) for name in found]


class Parquet(_Steps):
    """Files of Parquet."""

    example = "steps.parquet"
    kinds = ("parquet",)
    suffixes = (".parquet", ".pq")


class Arrow(_Steps):
    """Files of Arrow, with a footer (Feather) or without one."""

    example = "steps.arrow"
    kinds = ("file", "stream")
    suffixes = (".arrow", ".feather", ".ipc", ".arrows")


def _source(tables: list[Table], path: str) -> Source:
    first, steps = tables[0], [table.rows for table in tables]
    for table in tables[1:]:
        if dict(table.types) != dict(first.types):
            raise FormatError(
                f"{table.path} has other columns than {first.path}: convert each by itself, or choose the "
                "files that belong together"
            )
    known = [rows for rows in steps if rows is not None]
    total = sum(known) if len(known) == len(steps) else None
    if total is not None and total > MOST_ROWS * sum(os.path.getsize(table.path) for table in tables):
        total = None  # it need not be so, and room for so many rows is made
    layout = own_layout(first)
    if layout is None:
        foreign = Foreign(tables, path)
        return foreign.source(total)
    own = [Own(table, own_layout(table) or layout) for table in tables]
    schema = own[0].layout.schema
    odd = next((one for one in own if one.layout.schema != schema), None)
    if odd is not None:
        raise FormatError(f"{odd.path} has another schema than {first.path}: convert each by itself")

    def blocks(max_bytes: int) -> Iterator[Block]:
        for one, table in zip(own, tables, strict=True):
            yield from cut(one.runs(table, max_bytes))

    return Source(
        schema,
        blocks,
        environment=layout.environment,
        metadata=layout.metadata or None,
        splits=layout.splits,
        columns=layout.columns,
        steps=total,
        trajectories=sum(one.layout.trajectories for one in own),
        fields=own[0].fields,
    )
