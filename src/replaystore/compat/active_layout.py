"""Buffers of active_rlhf in stores and in their pickles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from replaystore.buffers.buffer import Buffer
from replaystore.compat.layouts import (
    BLOCK_BYTES,
    NO_SPACES,
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
from replaystore.formats.active_rlhf import export as pickle_export
from replaystore.formats.active_rlhf import pickles as pickle
from replaystore.formats.active_rlhf.pickling import Info, write_pickle
from replaystore.formats.active_rlhf.unpickling import Infos
from replaystore.formats.options import Options
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import RingSource
from replaystore.views.foreign_ring import AFTER_IT, ring_of, state_of

__all__ = ["ACTIVE", "ActiveLayout", "ActiveState"]


@dataclass
class ActiveState:
    """What a buffer of active_rlhf is beside its rows."""

    fragment_length: int
    global_step: int
    infos: Sequence[Info]


class ActiveLayout:
    """Buffers of active_rlhf."""

    project = "active_rlhf"
    fields: ClassVar[dict[str, str]] = {
        "observation": "obs",
        "action": "acts",
        "reward": "rews",
        "dones": "dones",
    }

    def view(self, buffer: Buffer) -> StoreView:
        """The store as a ring."""
        plan = pickle_export.Plan(buffer, Options(), buffer.where)
        living = ring_of(buffer, plan.known) is not None if plan.known else False
        numbers = plan.numbers
        return StoreView(
            plan.placement,
            direct(buffer, plan.tensors, self.fields if plan.known else {}, plan.placement),
            numbers["size"],
            numbers["pos"],
            living,
            numbers,
            list(plan.infos),
        )

    def append(self, buffer: Buffer, rows: Arrays, splits: Sequence[tuple[int, str]]) -> None:
        """Append rows: one trajectory for each of `splits`."""
        columns, begin = columns_of(buffer, rows, self.fields), 0
        for count, split in splits:
            piece = {name: column[begin : begin + count] for name, column in columns.items()}
            buffer.append(piece, ends=[count - 1], split=split)
            begin += count

    def append_trajectory(self, buffer: Buffer, ring: AnyRing, start: int, length: int, split: str) -> None:
        """Append one trajectory of a ring, in blocks."""
        width = sum(declared.row_bytes for declared in buffer.schema.fields.values())
        step = max(1, BLOCK_BYTES // width)
        for begin in range(0, length, step):
            places = (start + np.arange(begin, min(begin + step, length))) % ring.capacity
            rows = {name: ring.read(name, places) for name in self.fields.values()}
            last = begin + len(places) == length
            buffer.append(
                columns_of(buffer, rows, self.fields), ends=[len(places) - 1] if last else [], split=split
            )

    def reconcile(self, buffer: Buffer, state: ActiveState) -> bool:
        """Bring scores and splits to a store that has all rows. False: it does not have just these
        trajectories."""
        stored, wanted = self.view(buffer).infos, list(state.infos)
        if [info[:2] for info in stored] != [info[:2] for info in wanted]:
            return False
        changed = [at for at, info in enumerate(wanted) if repr(info) != repr(stored[at])]
        if not changed:
            return True
        row_of = _table_rows(buffer)
        if any(not wanted[at][1] or wanted[at][0] not in row_of for at in changed):
            return False  # one without rows of its own, which is not in the table
        table, columns = buffer.trajectories, {}
        for place, name in ((2, "split"), (3, "on_policiness_score"), (4, "last_updated_step")):
            if all(wanted[at][place] == stored[at][place] for at in changed):
                continue
            values = table[name][~table.open].astype(object if name == "split" else table[name].dtype)
            for info in wanted:
                if info[1] and info[0] in row_of:
                    values[row_of[info[0]]] = info[place]
            columns[name] = values
        buffer.set_trajectory_columns(columns)
        return True

    def source(
        self, ring: AnyRing, state: ActiveState, spaces: Mapping[str, dict[str, Any]] = NO_SPACES
    ) -> RingSource:
        """What a store of the buffer is to hold."""
        infos = Infos()
        for info in state.infos:
            infos.append(*info)
        known: dict[str, Any] = {"global_step": state.global_step, "fragment_length": state.fragment_length}
        for key, name in (("env_obs_shape", "obs"), ("env_act_shape", "acts")):
            known[key] = [int(ring.tensor(name).shape[1])]
        source = ring_source(ring, self.fields, ("reward", "dones"), known, self.project, AFTER_IT, spaces)
        table = pickle.trajectories_of(infos, ring.capacity, ring.size, ring.position, "the buffer")
        known |= table.known
        source.parts, source.table, source.splits = table.parts, table.columns, ["", *infos.splits]
        return source

    def write_file(self, ring: AnyRing, state: ActiveState, path: str) -> None:
        """Write the pickle, atomically."""
        numbers = {
            "capacity": ring.capacity,
            "fragment_length": state.fragment_length,
            "size": ring.size,
            "pos": ring.position,
        }
        numbers["global_step"] = state.global_step
        tensors = {name: whole(ring, name) for name in self.fields.values()}
        shapes = {"env_obs_shape": (tensors["obs"].width,), "env_act_shape": (tensors["acts"].width,)}
        with NewFiles([path], overwrite=True) as new:
            write_pickle(
                new.files[0],
                numbers,
                tensors,
                every_place(ring.capacity),
                state.infos,
                shapes,
                lambda _: None,
            )

    def read_file(self, path: str, device: torch.device) -> tuple[TensorRing, ActiveState]:
        """A pickle in memory. FormatError: it is something else, or damaged."""
        with pickle.contents(path) as held:
            known, infos = held.known, held.infos
            # It says if the file is damaged.
            pickle.trajectories_of(infos, known["capacity"], known["size"], known["position"], path)
            ring = TensorRing(physical(held.tensors, device), known["capacity"])
        ring.size, ring.position = known["size"], known["position"]
        listed = zip(infos.start, infos.length, infos.split, infos.score, infos.updated, strict=True)
        found = [
            (start, length, infos.splits[split], score, updated)
            for start, length, split, score, updated in listed
        ]
        return ring, ActiveState(
            known.get("fragment_length", pickle_export.FRAGMENT_LENGTH), known["global_step"], found
        )


def _table_rows(buffer: Buffer) -> dict[int, int]:
    """The row of the table for the trajectory that begins at a place of the ring."""
    state = state_of(buffer.document.extensions)
    ring = None if state is None else ring_of(buffer, state)
    if ring is None:
        return {}
    parts, table = buffer.parts, buffer.trajectories
    rows = {number: row for row, number in enumerate(table["trajectory"].tolist())}
    begins = zip(
        ring.place(parts.start).tolist(), parts.offset.tolist(), parts.trajectory.tolist(), strict=True
    )
    return {place: rows[number] for place, offset, number in begins if not offset}


ACTIVE = ActiveLayout()
