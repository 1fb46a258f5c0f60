"""How a ring of tensors lies in a store, and comes out of one: what the buffers of both projects have in
common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.compat.memory_ring import TensorRing
from replaystore.compat.ring_slots import Arrays, Move
from replaystore.compat.stored import StoredRing
from replaystore.errors import UnsupportedError
from replaystore.formats.active_rlhf.pickling import Info
from replaystore.formats.shared.file_rows import FileRows
from replaystore.formats.shared.outgoing import Output
from replaystore.formats.source import RingSource, no_parts
from replaystore.schema import tree
from replaystore.schema.fields import Field, Schema
from replaystore.schema.roles import role_of
from replaystore.schema.values import array_of
from replaystore.views.foreign_ring import Placement

__all__ = [
    "BLOCK_BYTES",
    "NO_SPACES",
    "AnyRing",
    "StoreView",
    "columns_of",
    "direct",
    "every_place",
    "physical",
    "ring_source",
    "whole",
]

BLOCK_BYTES = 4 << 20
"""Rows on their way to a store are so many bytes at once."""

AnyRing = TensorRing | StoredRing
NO_SPACES: Mapping[str, dict[str, Any]] = MappingProxyType({})


@dataclass
class StoreView:
    """A store as a ring, as of its commit."""

    placement: Placement
    tensors: Mapping[str, Output]
    size: int
    position: int
    living: bool
    numbers: Mapping[str, Any]
    infos: Sequence[Info] = ()

    def resized(self, capacity: int) -> Self:
        """The same with another capacity (but for `numbers` and `infos`), to be read only."""
        move = Move(self.placement.capacity, self.size, self.position, capacity)
        return replace(
            self,
            placement=move.placement(self.placement),
            size=move.kept,
            position=move.position,
            living=False,
        )


def whole(ring: AnyRing, name: str) -> Output:
    """A field of a ring, by places."""
    tensor = ring.tensor(name)
    dtype = array_of(name, torch.empty(0, dtype=tensor.dtype)).dtype
    return Output(dtype, int(tensor.shape[1]), lambda places: ring.read(name, places))


def every_place(capacity: int) -> Placement:
    zero = np.zeros(1, np.int64)
    return Placement(capacity, zero, zero, np.array([capacity]))


def _around(ring: AnyRing, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows in the order of their age."""
    begin = ring.position if ring.size == ring.capacity else 0
    return ring.read(name, (begin + np.arange(start, stop)) % ring.capacity)


def ring_source(
    ring: AnyRing,
    names: Mapping[str, str],
    scalars: Sequence[str],
    known: dict[str, Any],
    project: str,
    flags: str,
    spaces: Mapping[str, dict[str, Any]] = NO_SPACES,
) -> RingSource:
    """A ring as a source of rows of no trajectory. `names`: field of the store → tensor; `spaces`: field of
    the store → space."""
    rows = ring.used()
    begin = ring.position if ring.size == ring.capacity else 0
    living = rows == ring.size and (begin + rows - ring.position) % ring.capacity == 0
    known |= {
        "format": project,
        "ends": ["dones", flags],
        "capacity": ring.capacity,
        "size": ring.size,
        "position": ring.position,
        "rows": rows,
    }
    outputs = {field: whole(ring, name) for field, name in names.items()}
    fields = {
        field: Field(
            output.dtype, () if field in scalars else (output.width,), role_of(field), spaces.get(field)
        )
        for field, output in outputs.items()
    }
    return RingSource(
        schema=Schema(fields),
        rows=rows,
        read=lambda field, start, stop: _around(ring, names[field], start, stop).reshape(
            stop - start, *fields[field].shape
        ),
        parts=no_parts(),
        table={
            "trajectory": np.zeros(0, np.int64),
            "length": np.zeros(0, np.int64),
            "split": np.zeros(0, np.int64),
        },
        splits=[""],
        ring=known,
        details={"format": project, "location": "a buffer in memory"},
        capacity=ring.capacity if living else None,
        position=ring.position if living else None,
    )


def columns_of(buffer: Buffer, rows: Arrays, names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Rows of tensors as columns of a store."""
    fields = buffer.schema.fields
    return {
        field: np.ascontiguousarray(
            rows[name].astype(fields[field].dtype, copy=False).reshape(len(rows[name]), *fields[field].shape)
        )
        for field, name in names.items()
        if field in fields
    }


def direct(
    buffer: Buffer, outputs: Mapping[str, Output], names: Mapping[str, str], placement: Placement
) -> dict[str, Output]:
    """The same outputs; those that are just a field of steps, without what an export does beside reading
    it."""
    beyond = bool(((placement.row + placement.count) > len(buffer)).any())
    return {
        **outputs,
        **{name: _plain(buffer, field, outputs[name], beyond) for field, name in names.items()},
    }


def _plain(buffer: Buffer, field: str, output: Output, beyond: bool) -> Output:
    declared, steps = buffer.schema.fields.get(field), len(buffer)
    if declared is None or declared.dtype != output.dtype or int(np.prod(declared.shape)) != output.width:
        return output
    first, width, stored = buffer.first_row, output.width, tree.steps(field)
    stop = buffer.store.rows(stored)

    def read(rows: NDArray[np.int64]) -> NDArray[Any]:
        if beyond and int(rows.max()) >= steps:  # an observation after the last step of a trajectory
            return output.read(rows)
        buffer.check_open()
        column = buffer.column_until(stored, stop)
        return column.take(rows + first if first else rows).reshape(len(rows), width)

    return Output(output.dtype, width, read, field if buffer.store.spec(stored).codec is None else "")


def physical(tensors: Mapping[str, FileRows], device: torch.device) -> dict[str, torch.Tensor]:
    """Tensors of a file in memory."""
    found = {}
    for name, rows in tensors.items():
        width = int(np.prod(rows.shape)) if rows.shape else 1
        try:
            array = np.empty((rows.count, width), rows.dtype)
        except MemoryError:
            size = rows.count * rows.row_bytes / 1e9
            raise UnsupportedError(
                f"{rows.where} takes {size:.1f} GB of memory, which is not there: load a store that "
                "`replaystore convert` makes of it"
            ) from None
        step = max(1, (4 << 20) // max(1, rows.row_bytes))
        for start in range(0, rows.count, step):
            stop = min(start + step, rows.count)
            array[start:stop] = rows.read(start, stop).reshape(stop - start, width)
        found[name] = torch.from_numpy(array).to(device)
    return found
