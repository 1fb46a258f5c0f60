"""A buffer as a table of steps: its blocks, put together to rows of all columns (layout.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from replaystore.formats.blocks import BLANK, beside_fields, blocks_of, chosen_fields
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report, refuse_losses
from replaystore.formats.shared.arrow.fields import joined, stacked
from replaystore.formats.shared.arrow.reading import Kind
from replaystore.formats.shared.arrow.together import TOGETHER, Told, together
from replaystore.formats.shared.arrow.writing import TableWriter, arrow_array, sparse_array
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.tables.layout import KEY, TOLD, Layout
from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["layout_of", "planned", "write_table"]


def layout_of(buffer: BufferReader, options: Options) -> Layout:
    """What is said of the whole of a buffer, or of what is chosen of it."""
    schema = buffer.schema.select(chosen_fields(buffer, options))
    table = buffer.trajectories if options.trajectories is None else options.trajectories
    parts = buffer.parts
    taken = parts.parts_of(table["trajectory"])
    document = buffer.document
    known = any(entry.following is not None for entry in buffer.open_trajectories())
    return Layout.named(
        schema,
        columns={
            name: table[name].dtype.name
            for name in table.columns
            if name not in TRAJECTORIES and name != "open"
        },
        splits=tuple(split for split in dict.fromkeys(table["split"].tolist()) if split),
        environment=buffer.environment,
        metadata=dict(document.user),
        steps=int(parts.length[taken].sum()),
        trajectories=len(table),
        told=tuple(name for name in TOLD if bool((table[name] != BLANK[name]).any())),
        flags=tuple(name for name in FLAGS if name not in schema.fields and bool(table[name].any())),
        finals=bool(schema.names("observation")) and (known or bool((parts.final[taken] >= 0).any())),
    )


def planned(buffer: BufferReader, options: Options) -> tuple[Layout, Report]:
    """How a buffer lies in a table, and what becomes of it."""
    layout = layout_of(buffer, options)
    holds = {*TOLD, *FLAGS, "final_observation", "metadata", "environment", *layout.columns}
    fields = dict.fromkeys(layout.schema.fields, KEPT)
    rest = beside_fields(buffer, options, holds=holds, fields=fields)
    return layout, Report(layout.steps, layout.trajectories, fields, rest)


def write_table(buffer: BufferReader, path: str, options: Options, kind: Kind) -> Report:
    """Write a buffer to a new file. The errors of `Format.write`."""
    layout, report = planned(buffer, options)
    refuse_losses(report.fields, report.rest, path, strict=options.strict)
    with NewFiles([path], overwrite=options.overwrite) as new:
        fill(new.files[0], buffer, options, layout, kind)
    return report


def fill(file: IO[bytes], buffer: BufferReader, options: Options, layout: Layout, kind: Kind) -> None:
    """Write all rows."""
    types = layout.types(kind)
    nullable = {layout.after(name) for name in layout.observed}
    metadata = {KEY: json.dumps(layout.to_json(), separators=(",", ":"))}
    done, row_bytes = 0, sum(declared.row_bytes for declared in layout.schema.fields.values())
    with TableWriter(file, types, kind=kind, metadata=metadata, nullable=nullable) as writer:
        for told in together(blocks_of(buffer, options, TOGETHER)):
            writer.write(_Rows(layout, types).of(told))
            done += sum(map(len, told))
            if options.progress is not None:
                options.progress(done * row_bytes, layout.steps * row_bytes)


class _Rows:
    """Blocks as columns of Arrow."""

    def __init__(self, layout: Layout, types: Mapping[str, Any]) -> None:
        self.layout, self.types = layout, types

    def of(self, told: list[Told]) -> dict[str, Any]:
        """All columns of the rows of these blocks."""
        layout, types = self.layout, self.types
        lengths = np.array(list(map(len, told)))
        found: dict[str, Any] = {}
        for name in layout.schema.fields:
            found[name] = arrow_array(joined([one.block.columns[name] for one in told]), types[name])
        found[layout.number] = arrow_array(np.repeat([one.number for one in told], lengths))
        for name in layout.told:
            values = [one.about[name] for one in told]
            places = np.repeat(np.arange(len(told)), lengths)
            rows = Ragged.of(values, text=True).take(places) if name == "split" else np.array(values)[places]
            found[layout.about(name)] = arrow_array(rows)
        for name, dtype in layout.columns.items():
            each = np.array([one.about[name] for one in told], dtype)
            found[layout.about(name)] = arrow_array(np.repeat(each, lengths))
        self._ends(found, [one.block for one in told], np.cumsum(lengths) - 1)
        return found

    def _ends(self, found: dict[str, Any], blocks: list[Block], last: Any) -> None:
        """What is told with last rows of blocks."""
        layout, count = self.layout, int(last[-1]) + 1
        for name in layout.flags:
            flags = np.zeros(count, np.bool_)
            flags[last] = [block.ends and bool(getattr(block, name)) for block in blocks]
            found[name] = arrow_array(flags)
        known = [(at, block.final) for at, block in zip(last, blocks, strict=True) if block.final]
        rows = np.array([at for at, _ in known], np.int64)
        for name in layout.observed:
            declared, type_ = layout.schema.fields[name], self.types[layout.after(name)]
            values = stacked(declared, [final[name] for _, final in known])
            found[layout.after(name)] = sparse_array(values, rows, count, type_)
