"""Buffers of velora in stores and in their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch

from replaystore.buffers.buffer import Buffer
from replaystore.compat.layouts import (
    BLOCK_BYTES,
    AnyRing,
    StoreView,
    columns_of,
    direct,
    every_place,
    physical,
    ring_source,
    whole,
)
from replaystore.compat.ring_slots import Arrays
from replaystore.errors import UnsupportedError
from replaystore.formats.options import Options
from replaystore.formats.shared.tensors import FileRows
from replaystore.formats.shared.writing import NewFiles
from replaystore.formats.source import RingSource
from replaystore.formats.velora import export as safetensors_export
from replaystore.formats.velora import files as safetensors
from replaystore.views.foreign_ring import LAST_STEP, ring_of

__all__ = ["VELORA", "VeloraLayout"]

ROWS_PER_TRAJECTORY = 8
"""Rows that a velora buffer gets at once are taken for steps of one environment if they form runs of so many
steps on average."""


class VeloraLayout:
    """Buffers of velora."""

    project = "velora"
    fields: ClassVar[dict[str, str]] = {
        "observation": "states",
        "action": "actions",
        "reward": "rewards",
        "dones": "dones",
        "hiddens": "hiddens",
        "next_states": "next_states",
    }

    def view(self, buffer: Buffer) -> StoreView:
        """The store as a ring."""
        plan = safetensors_export.Plan(buffer, Options(), buffer.where)
        living = (
            ring_of(buffer, plan.known) is not None and "hiddens" in buffer.schema.fields
            if plan.known
            else False
        )
        metadata = plan.metadata
        return StoreView(
            plan.placement,
            direct(buffer, plan.tensors, self.fields if plan.known else {}, plan.placement),
            metadata["size"],
            metadata["position"],
            living,
            metadata,
        )

    def append(self, buffer: Buffer, rows: Arrays, splits: Sequence[tuple[int, str]] = ()) -> None:
        """Append rows. Where the next state of a row is the state of the row after it, they are steps of one
        trajectory; if rows of several environments lie in turn, they are rows of none (if the store has next
        states as a field; otherwise they are short trajectories)."""
        columns = columns_of(buffer, rows, self.fields)
        states, after, count = rows["states"], rows["next_states"], len(rows["states"])
        if not count:
            return
        ends = rows["dones"].reshape(count) != 0
        ends[:-1] |= (states[1:].view(np.uint8) != after[:-1].view(np.uint8)).any(axis=1)
        places = np.flatnonzero(ends)
        if "next_states" in columns and len(places) * ROWS_PER_TRAJECTORY > max(
            count, 4 * ROWS_PER_TRAJECTORY
        ):
            buffer.append_loose(columns)
            return
        touched = [*places.tolist()] if ends[-1] else [*places.tolist(), count - 1]
        final = {
            "observation": np.ascontiguousarray(after[touched]).astype(
                buffer.schema.fields["observation"].dtype, copy=False
            )
        }
        buffer.append(columns, ends=places.tolist(), final_observation=final["observation"])

    def append_newest(self, buffer: Buffer, ring: AnyRing, count: int) -> None:
        """Append the newest rows of a ring, in blocks."""
        step = max(1, BLOCK_BYTES // sum(declared.row_bytes for declared in buffer.schema.fields.values()))
        for begin in range(0, count, step):
            places = (ring.position - count + np.arange(begin, min(begin + step, count))) % ring.capacity
            self.append(buffer, {name: ring.read(name, places) for name in self.fields.values()})

    def source(self, ring: AnyRing, device: str | None) -> RingSource:
        """What a store of the buffer is to hold: next states as a field, whatever is added later."""
        widths = {name: int(ring.tensor(name).shape[1]) for name in self.fields.values()}
        known: dict[str, Any] = {
            "state_dim": widths["states"],
            "action_dim": widths["actions"],
            "hidden_dim": widths["hiddens"],
        }
        known["device"] = device
        return ring_source(ring, self.fields, ("reward", "dones"), known, self.project, LAST_STEP)

    def write_files(self, ring: AnyRing, state_path: str, metadata_path: str, text: str) -> None:
        """Write both files as velora does, atomically."""
        tensors = {name: whole(ring, name) for name in safetensors_export.TENSORS}
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32:
                raise UnsupportedError(
                    f"{name} is {tensor.dtype}, and files of velora hold float32: "
                    "convert it, or save to a .zarr store"
                )
        with NewFiles([state_path, metadata_path], overwrite=True) as new:
            safetensors.write_tensors(new.files[0], tensors, every_place(ring.capacity), lambda _: None)
            new.files[1].write(text.encode())

    @contextmanager
    def read_file(
        self, path: str, metadata: Mapping[str, Any] | None
    ) -> Iterator[tuple[dict[str, Any], Mapping[str, FileRows]]]:
        """The checked metadata of a file, and its tensors. FormatError, NotFoundError: something else,
        damaged, or without metadata."""
        with safetensors.contents(path, metadata) as held:
            yield held.known, held.tensors

    def tensors(self, files: Mapping[str, FileRows], device: torch.device) -> dict[str, torch.Tensor]:
        """Tensors of a file in memory."""
        return physical(files, device)


VELORA = VeloraLayout()
