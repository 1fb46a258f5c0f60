"""A buffer as a table of steps: its blocks, put together to rows of all columns (layout.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from replaystore.formats.blocks import BLANK, beside_fields, blocks_of, chosen_fields
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report, refuse_losses
from replaystore.formats.shared.arrow import Kind
from replaystore.formats.shared.arrow_writing import TableWriter, arrow_array, sparse_array
from replaystore.formats.shared.writing import NewFiles
from replaystore.formats.tables.layout import FLAGS, KEY, TOLD, Layout
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.blocks import Block
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["layout_of", "planned", "write_table"]

TOGETHER = 1 << 20
"""Bytes of blocks that become arrays of Arrow together."""


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
        for blocks in _together(blocks_of(buffer, options, TOGETHER)):
            writer.write(_Rows(layout, types).of(blocks))
            done += sum(len(block) for block, _, _ in blocks)
            if options.progress is not None:
                options.progress(done * row_bytes, layout.steps * row_bytes)


Told = tuple[Block, int, Mapping[str, Any]]
"""A block, the number of its trajectory, and what is told of that."""


def _together(blocks: Iterator[Block]) -> Iterator[list[Told]]:
    """Blocks of about `TOGETHER` bytes."""
    found: list[Told] = []
    size, number = 0, -1
    about: Mapping[str, Any] = {}
    for block in blocks:
        if block.begins:
            number += 1
            about = {"seed": block.seed, "split": block.split, "env": block.env, **block.row}
        found.append((block, number, about))
        size += sum(rows.nbytes for rows in block.columns.values())
        if size >= TOGETHER:
            yield found
            found, size = [], 0
    if found:
        yield found


class _Rows:
    """Blocks as columns of Arrow."""

    def __init__(self, layout: Layout, types: Mapping[str, Any]) -> None:
        self.layout, self.types = layout, types

    def of(self, blocks: list[Told]) -> dict[str, Any]:
        """All columns of the rows of these blocks."""
        layout, types = self.layout, self.types
        lengths = np.array([len(block) for block, _, _ in blocks])
        found: dict[str, Any] = {}
        for name in layout.schema.fields:
            found[name] = arrow_array(_joined([block.columns[name] for block, _, _ in blocks]), types[name])
        found[layout.number] = arrow_array(np.repeat([number for _, number, _ in blocks], lengths))
        for name in layout.told:
            values = [about[name] for _, _, about in blocks]
            places = np.repeat(np.arange(len(blocks)), lengths)
            rows = Ragged.of(values, text=True).take(places) if name == "split" else np.array(values)[places]
            found[layout.about(name)] = arrow_array(rows)
        for name, dtype in layout.columns.items():
            each = np.array([about[name] for _, _, about in blocks], dtype)
            found[layout.about(name)] = arrow_array(np.repeat(each, lengths))
        self._ends(found, blocks, np.cumsum(lengths) - 1)
        return found

    def _ends(self, found: dict[str, Any], blocks: list[Told], last: Any) -> None:
        """What is told with last rows of blocks."""
        layout, count = self.layout, int(last[-1]) + 1
        for name in layout.flags:
            flags = np.zeros(count, np.bool_)
            flags[last] = [block.ends and bool(getattr(block, name)) for block, _, _ in blocks]
            found[name] = arrow_array(flags)
        known = [(at, block.final) for at, (block, _, _) in zip(last, blocks, strict=True) if block.final]
        rows = np.array([at for at, _ in known], np.int64)
        for name in layout.observed:
            declared, type_ = layout.schema.fields[name], self.types[layout.after(name)]
            values = _stacked(declared, [final[name] for _, final in known])
            found[layout.after(name)] = sparse_array(values, rows, count, type_)


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return Ragged.concatenate(parts) if isinstance(parts[0], Ragged) else np.concatenate(parts)


def _stacked(declared: Field, values: list[Any]) -> Any:
    """Single values of a field, of a text the bytes, as rows."""
    if not declared.ragged:
        return np.array(values, declared.dtype).reshape(len(values), *declared.shape)
    rows = Ragged.of(values, declared.dtype, declared.inner)
    return Ragged(rows.values, rows.offsets, text=True) if declared.text else rows
