"""Buffers of velora in stores and in their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from replaystore.buffers.buffer import Buffer
from replaystore.compat.checks import checked_device
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
from replaystore.compat.memory_ring import TensorRing
from replaystore.compat.ring_slots import Arrays
from replaystore.errors import ArgumentError, FormatError, NotFoundError, SchemaError, UnsupportedError
from replaystore.formats.finding import find
from replaystore.formats.options import Options
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import RingSource
from replaystore.formats.velora import export as safetensors_export
from replaystore.formats.velora import files as safetensors
from replaystore.formats.velora.pair import KEYS
from replaystore.views.foreign_ring import LAST_STEP, ring_of

__all__ = ["VELORA", "VeloraLayout", "state_file"]

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

    def read_file(
        self, path: str, metadata: Mapping[str, Any] | None, device: torch.device | str | None
    ) -> tuple[TensorRing, dict[str, Any]]:
        """A file in memory, on a device (None: that of the metadata), and its checked metadata. FormatError,
        NotFoundError: something else, damaged, or without metadata."""
        keys = (*KEYS, "device")
        missing = [] if metadata is None else [key for key in keys if key not in metadata]
        if missing:
            raise SchemaError(
                f"the metadata have no {missing[0]!r}: pass what buffer_metadata.json "
                f"holds, which has {', '.join(keys)}"
            )
        with safetensors.contents(path, metadata) as held:
            known = held.known
            missing = [name for name in safetensors_export.TENSORS if name not in held.tensors]
            if missing:
                raise FormatError(
                    f"{path} has no {missing[0]}, as buffers of velora 0.1 have none: `replaystore convert` "
                    "makes a store of it"
                )
            chosen = checked_device(device or known["device"])
            ring = TensorRing(physical(held.tensors, chosen), known["capacity"])
        ring.size, ring.position = known["size"], known["position"]
        return ring, known


def state_file(given: str) -> str:
    """The file that velora would load: with the suffix .safetensors, whatever is given. NotFoundError or
    FormatError: what is given is there, and is something else."""
    if not Path(given).name:
        raise ArgumentError(
            f"{given!r} is no file: give the path of one, such as 'checkpoints/nf/buffer_state'"
        )
    path = str(Path(given).with_suffix(".safetensors"))
    if not os.path.lexists(path) and os.path.lexists(given):
        if os.path.isdir(given):
            raise NotFoundError(
                f"{given} is a folder: give the path of the file in it, such as "
                f"{os.path.join(given, 'buffer_state')}"
            )
        found = find(given)
        if found is not None:
            raise FormatError(
                f"{given} is a file of {found}: make a store of it with `replaystore convert`, and load that"
            )
    return path


VELORA = VeloraLayout()
