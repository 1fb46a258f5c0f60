"""Raw rows in files of some rows each, and the column that maps or reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from columns import ROW, random_rows

from replaystore.columns.mapped import raw_column
from replaystore.columns.plain import PlainColumn
from replaystore.columns.protocol import Rows
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Extent
from replaystore.storage.local import Files


class Shards:
    """Raw rows in files of `shard_rows` rows each, behind `offset` bytes of something else."""

    def __init__(self, files: Files, spec: ArraySpec, shard_rows: int, offset: int) -> None:
        self.files, self.spec, self.shard_rows, self.offset = files, spec, shard_rows, offset
        self.rows = 0

    def append(self, rows: Rows) -> None:
        while len(rows):
            shard, inside = divmod(self.rows, self.shard_rows)
            if not inside:
                self.files.create(f"c/{shard}")
            part = rows[: self.shard_rows - inside]
            self.files.write(f"c/{shard}", self.offset + inside * self.spec.row_bytes, part.tobytes())
            self.rows += len(part)
            rows = rows[len(part) :]

    def extents(self, start: int, stop: int) -> list[Extent]:
        found = []
        while start < stop:
            shard, inside = divmod(start, self.shard_rows)
            count = min(stop - start, self.shard_rows - inside)
            found.append(
                Extent(f"c/{shard}", self.offset + inside * self.spec.row_bytes, count * self.spec.row_bytes)
            )
            start += count
        return found


def grown(files: Files, rows: int, *, offset: int = 0) -> tuple[PlainColumn, Shards, Rows]:
    """A column of `rows` rows in shards of 128 rows, two pages."""
    shards, model = Shards(files, ROW, 128, offset), random_rows(ROW, rows)
    shards.append(model)
    column = raw_column(files, ROW, name="steps/x")
    column.extend(shards.extents(0, rows), rows)
    return column, shards, model


def maps_of(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
