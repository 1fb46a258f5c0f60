"""How the buffers of the two projects lie in stores and in their own files: between rings of tensors and
`replaystore.formats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.compat.places import Arrays, Move
from replaystore.compat.ring import TensorRing
from replaystore.compat.stored import StoredRing
from replaystore.errors import UnsupportedError
from replaystore.formats.active_rlhf import export as pickle_export
from replaystore.formats.active_rlhf import pickles as pickle
from replaystore.formats.active_rlhf.pickling import Info, write_pickle
from replaystore.formats.active_rlhf.unpickling import Infos
from replaystore.formats.options import Options
from replaystore.formats.shared.export import Output
from replaystore.formats.shared.tensors import FileRows
from replaystore.formats.shared.writing import NewFiles
from replaystore.formats.source import RingSource, no_parts
from replaystore.formats.velora import export as safetensors_export
from replaystore.formats.velora import files as safetensors
from replaystore.schema import tree
from replaystore.schema.fields import Field, Schema
from replaystore.schema.roles import role_of
from replaystore.schema.values import array_of
from replaystore.views.ring import AFTER_IT, LAST_STEP, Placement, ring_of, state_of

__all__ = ["ACTIVE", "VELORA", "ActiveLayout", "ActiveState", "StoreView", "VeloraLayout"]

ROWS_PER_TRAJECTORY = 8
"""Rows that a velora buffer gets at once are taken for steps of one environment if they form runs of so many
steps on average."""

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


@dataclass
class ActiveState:
    """What a buffer of active_rlhf is beside its rows."""

    fragment_length: int
    global_step: int
    infos: Sequence[Info]


def _whole(ring: AnyRing, name: str) -> Output:
    """A field of a ring, by places."""
    tensor = ring.tensor(name)
    dtype = array_of(name, torch.empty(0, dtype=tensor.dtype)).dtype
    return Output(dtype, int(tensor.shape[1]), lambda places: ring.read(name, places))


def _every_place(capacity: int) -> Placement:
    zero = np.zeros(1, np.int64)
    return Placement(capacity, zero, zero, np.array([capacity]))


def _around(ring: AnyRing, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows in the order of their age."""
    begin = ring.position if ring.size == ring.capacity else 0
    return ring.read(name, (begin + np.arange(start, stop)) % ring.capacity)


def _ring_source(
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
    outputs = {field: _whole(ring, name) for field, name in names.items()}
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


def _columns(buffer: Buffer, rows: Arrays, names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Rows of tensors as columns of a store."""
    fields = buffer.schema.fields
    return {
        field: np.ascontiguousarray(
            rows[name].astype(fields[field].dtype, copy=False).reshape(len(rows[name]), *fields[field].shape)
        )
        for field, name in names.items()
        if field in fields
    }


def _direct(
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
        column = buffer._columns.get(stored)
        if column is None or column.stop != stop:  # it is not yet that of the commit that is shown
            column = buffer.stored_column(stored)
        return column.take(rows + first if first else rows).reshape(len(rows), width)

    return Output(output.dtype, width, read, field if buffer.store.spec(stored).codec is None else "")


def _physical(tensors: Mapping[str, FileRows], device: torch.device) -> dict[str, torch.Tensor]:
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
        plan = pickle_export.Plan(buffer, Options(), buffer.location)
        living = ring_of(buffer, plan.known) is not None if plan.known else False
        numbers = plan.numbers
        return StoreView(
            plan.placement,
            _direct(buffer, plan.tensors, self.fields if plan.known else {}, plan.placement),
            numbers["size"],
            numbers["pos"],
            living,
            numbers,
            list(plan.infos),
        )

    def append(self, buffer: Buffer, rows: Arrays, splits: Sequence[tuple[int, str]]) -> None:
        """Append rows: one trajectory for each of `splits`."""
        columns, begin = _columns(buffer, rows, self.fields), 0
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
                _columns(buffer, rows, self.fields), ends=[len(places) - 1] if last else [], split=split
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
        buffer._set_trajectory_columns(columns)
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
        source = _ring_source(ring, self.fields, ("reward", "dones"), known, self.project, AFTER_IT, spaces)
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
        tensors = {name: _whole(ring, name) for name in self.fields.values()}
        shapes = {"env_obs_shape": (tensors["obs"].width,), "env_act_shape": (tensors["acts"].width,)}
        with NewFiles([path], overwrite=True) as new:
            write_pickle(
                new.files[0],
                numbers,
                tensors,
                _every_place(ring.capacity),
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
            ring = TensorRing(_physical(held.tensors, device), known["capacity"])
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
    _, state = state_of(buffer.document.extensions) or ("", {})
    ring = ring_of(buffer, state) if state else None
    if ring is None:
        return {}
    parts, table = buffer.parts, buffer.trajectories
    rows = {number: row for row, number in enumerate(table["trajectory"].tolist())}
    begins = zip(
        ring.place(parts.start).tolist(), parts.offset.tolist(), parts.trajectory.tolist(), strict=True
    )
    return {place: rows[number] for place, offset, number in begins if not offset}


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
        plan = safetensors_export.Plan(buffer, Options(), buffer.location)
        living = (
            ring_of(buffer, plan.known) is not None and "hiddens" in buffer.schema.fields
            if plan.known
            else False
        )
        metadata = plan.metadata
        return StoreView(
            plan.placement,
            _direct(buffer, plan.tensors, self.fields if plan.known else {}, plan.placement),
            metadata["size"],
            metadata["position"],
            living,
            metadata,
        )

    def append(self, buffer: Buffer, rows: Arrays, splits: Sequence[tuple[int, str]] = ()) -> None:
        """Append rows. Where the next state of a row is the state of the row after it, they are steps of one
        trajectory; if rows of several environments lie in turn, they are rows of none (if the store has next
        states as a field; otherwise they are short trajectories)."""
        columns = _columns(buffer, rows, self.fields)
        states, after, count = rows["states"], rows["next_states"], len(rows["states"])
        if not count:
            return
        ends = rows["dones"].reshape(count) != 0
        ends[:-1] |= (states[1:].view(np.uint8) != after[:-1].view(np.uint8)).any(axis=1)
        places = np.flatnonzero(ends)
        if "next_states" in columns and len(places) * ROWS_PER_TRAJECTORY > max(
            count, 4 * ROWS_PER_TRAJECTORY
        ):
            buffer._recorder.cut(0)
            buffer._recorder.add(columns, count, [])
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
        return _ring_source(ring, self.fields, ("reward", "dones"), known, self.project, LAST_STEP)

    def write_files(self, ring: AnyRing, state_path: str, metadata_path: str, text: str) -> None:
        """Write both files as velora does, atomically."""
        tensors = {name: _whole(ring, name) for name in safetensors_export.TENSORS}
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32:
                raise UnsupportedError(
                    f"{name} is {tensor.dtype}, and files of velora hold float32: "
                    "convert it, or save to a .zarr store"
                )
        with NewFiles([state_path, metadata_path], overwrite=True) as new:
            safetensors.write_tensors(new.files[0], tensors, _every_place(ring.capacity), lambda _: None)
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
        return _physical(files, device)


ACTIVE = ActiveLayout()
VELORA = VeloraLayout()
