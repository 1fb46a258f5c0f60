"""A buffer as plain tensors, one for each field under its own name, trajectory after trajectory.

* Of values of any length `<field>.values` has all of them one behind another, and `<field>.offsets` where
  each begins; complex numbers are pairs of floats.
* `trajectory.length` says how many rows each trajectory has; `.seed`, `.env`, `.split` (a place in `splits`),
  `.terminated`, `.truncated` and `.column.<name>` what is known of it.
* `final.<field>` are observations that followed rows and are in none, `final.row` says which rows.
* The rest is JSON in the metadata, under "replaystore".

Tensors whose size is known are written to their places as blocks come; the others wait in temporary files.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.blocks import BLANK, beside_fields, blocks_of, chosen_fields
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report
from replaystore.formats.safetensors.header import NAMES, encoded
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["KEY", "fill", "planned", "stored"]

KEY, VERSION = "replaystore", 1
COPIED = 1 << 20
I64 = np.dtype("<i8")


def planned(buffer: BufferReader, options: Options) -> tuple[dict[str, Any], Report]:
    """What is said of the whole, and what becomes of a buffer."""
    schema = buffer.schema.select(chosen_fields(buffer, options))
    table = buffer.trajectories if options.trajectories is None else options.trajectories
    parts = buffer.parts
    columns = {
        name: table[name].dtype.name for name in table.columns if name not in TRAJECTORIES and name != "open"
    }
    said: dict[str, Any] = {
        "version": VERSION,
        "schema": schema.to_json(),
        "columns": columns,
        "splits": ["", *(split for split in dict.fromkeys(table["split"].tolist()) if split)],
        "environment": buffer.environment,
        "metadata": dict(buffer.document.user),
        "steps": int(parts.length[parts.parts_of(table["trajectory"])].sum()),
        "trajectories": len(table),
    }
    fields = dict.fromkeys(schema.fields, KEPT)
    holds = {*BLANK, *FLAGS, "final_observation", "metadata", "environment", *columns}
    rest = beside_fields(buffer, options, holds=holds, fields=fields)
    return said, Report(said["steps"], len(table), fields, rest)


def stored(declared: Field) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The dtype and the shape of a row of the tensor of a field, or of its values."""
    shape = declared.inner if declared.ragged else declared.shape
    if declared.dtype.kind == "c":
        return np.dtype(f"<f{declared.dtype.itemsize // 2}"), (*shape, 2)
    return declared.dtype, shape


class _Growing:
    """A tensor that is written as it comes: to its place, or aside."""

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], file: IO[bytes]) -> None:
        self.dtype, self.shape, self.file = dtype, shape, file
        self.begin = self.count = 0

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def add(self, rows: NDArray[Any]) -> None:
        """Rows behind those that are there."""
        data = np.ascontiguousarray(rows)
        data = data.view(self.dtype) if data.dtype.kind == "c" else data.astype(self.dtype, copy=False)
        self.file.seek(self.begin + self.count * self.row_bytes)
        self.file.write(data.reshape(-1).view(np.uint8).data if data.size else b"")
        self.count += len(rows)


def fill(
    file: IO[bytes], folder: str, buffer: BufferReader, options: Options, said: Mapping[str, Any]
) -> None:
    """Write all tensors. What waits lies in a folder meanwhile."""
    schema = Schema.from_json(said["schema"])
    with ExitStack() as stack:

        def aside() -> IO[bytes]:
            return stack.enter_context(tempfile.TemporaryFile(dir=folder))

        placed = {
            name: _Growing(*stored(declared), file)
            for name, declared in schema.fields.items()
            if not declared.ragged
        }
        later: dict[str, _Growing] = {}
        for name, declared in schema.ragged.items():
            later[f"{name}.values"] = _Growing(*stored(declared), aside())
            later[f"{name}.offsets"] = _Growing(I64, (), aside())
        later |= _table_tensors(said, aside)
        later["final.row"] = _Growing(I64, (), aside())
        for name in schema.names("observation"):
            declared = schema.fields[name]
            ragged = f"final.{name}.values" if declared.ragged else f"final.{name}"
            later[ragged] = _Growing(*stored(declared), aside())
            if declared.ragged:
                later[f"final.{name}.offsets"] = _Growing(I64, (), aside())
        steps, names = said["steps"], sorted(placed, key=lambda name: -placed[name].dtype.itemsize)
        begin = room = _room({**placed, **later}, said)
        for name in names:
            placed[name].begin = begin
            begin += steps * placed[name].row_bytes
        _rows(schema, placed, later, buffer, options, said)
        tensors: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for name in names:
            one = placed[name]
            at = one.begin - room
            tensors[name] = NAMES[one.dtype], (one.count, *one.shape), at, at + one.count * one.row_bytes
        for name in sorted(later, key=lambda name: -later[name].dtype.itemsize):
            one = later[name]
            if name.startswith("final.") and not later["final.row"].count:
                continue
            file.seek(begin)
            _copy(one.file, file)
            end = begin + one.count * one.row_bytes
            tensors[name] = NAMES[one.dtype], (one.count, *one.shape), begin - room, end - room
            begin = end
        head = encoded(tensors, {KEY: json.dumps(said, separators=(",", ":"))})
        file.seek(0)
        file.write((room - 8).to_bytes(8, "little") + head.ljust(room - 8))
        file.seek(0, os.SEEK_END)


def _room(tensors: Mapping[str, _Growing], said: Mapping[str, Any]) -> int:
    """Bytes that the header takes at most, with its length."""
    most = 1 << 61
    widest = {name: (NAMES[one.dtype], (most, *one.shape), most, most) for name, one in tensors.items()}
    size = len(encoded(widest, {KEY: json.dumps(said, separators=(",", ":"))}))
    return 8 + size + -size % 8


def _table_tensors(said: Mapping[str, Any], aside: Any) -> dict[str, _Growing]:
    dtypes: dict[str, np.dtype[Any]] = dict.fromkeys(("length", "seed", "env", "split"), I64)
    dtypes |= dict.fromkeys(FLAGS, np.dtype("?"))
    dtypes |= {f"column.{name}": np.dtype(dtype) for name, dtype in said["columns"].items()}
    return {f"trajectory.{name}": _Growing(dtype, (), aside()) for name, dtype in dtypes.items()}


def _rows(
    schema: Schema,
    placed: Mapping[str, _Growing],
    later: Mapping[str, _Growing],
    buffer: BufferReader,
    options: Options,
    said: Mapping[str, Any],
) -> None:
    """Write all blocks."""
    row_bytes = sum(declared.row_bytes for declared in schema.fields.values())
    splits = {split: at for at, split in enumerate(said["splits"])}
    done = length = 0
    about: dict[str, Any] = {}
    for name in schema.ragged:
        later[f"{name}.offsets"].add(np.zeros(1, I64))
    for block in blocks_of(buffer, options):
        for name, values in block.columns.items():
            _add(name, values, placed, later)
        done, length = done + len(block), (0 if block.begins else length) + len(block)
        if block.begins:
            about = {"seed": block.seed, "env": block.env, "split": splits[block.split]}
            about |= {f"column.{name}": value for name, value in block.row.items()}
        if block.final:
            _add_final(schema, block.final, done - 1, later)
        if block.ends:
            for name in FLAGS:
                flags = block.columns.get(name)
                about[name] = bool(flags[-1]) if flags is not None else bool(getattr(block, name))
            for name, value in (about | {"length": length}).items():
                one = later[f"trajectory.{name}"]
                one.add(np.array([value], one.dtype))
        if options.progress is not None:
            options.progress(done * row_bytes, said["steps"] * row_bytes)


def _add(name: str, values: Any, placed: Mapping[str, _Growing], later: Mapping[str, _Growing]) -> None:
    if not isinstance(values, Ragged):
        placed[name].add(values)
        return
    whole = later[f"{name}.values"]
    later[f"{name}.offsets"].add(whole.count + values.offsets[1:] - values.offsets[0])
    whole.add(values.named)


def _add_final(schema: Schema, final: Mapping[str, Any], row: int, later: Mapping[str, _Growing]) -> None:
    later["final.row"].add(np.array([row], I64))
    for name in schema.names("observation"):
        declared, value = schema.fields[name], final[name]
        if not declared.ragged:
            later[f"final.{name}"].add(np.asarray(value, declared.dtype)[None])
            continue
        values, offsets = later[f"final.{name}.values"], later[f"final.{name}.offsets"]
        if not offsets.count:
            offsets.add(np.zeros(1, I64))
        bytes_ = np.frombuffer(value.encode(), np.uint8) if isinstance(value, str) else np.asarray(value)
        values.add(bytes_)
        offsets.add(np.array([values.count], I64))


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    source.seek(0)
    while data := source.read(COPIED):
        target.write(data)
