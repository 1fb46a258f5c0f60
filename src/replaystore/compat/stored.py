"""The rows of a buffer that lie in a store: read when they are asked for, and written to it if it is open for
writing.

* Reading goes by places of the ring; which row of the store lies at a place is told by
  `replaystore.views.foreign_ring`, whatever was appended since. A store that never was such a ring (one that
  was recorded) is shown as the ring that its export would be, and only read.
* New rows wait in memory (at most `PENDING_ROWS` and `PENDING_BYTES`), are read from there, and then go to
  the store in one commit.
* Rows of a store are never overwritten. Rows that were set (`tensor[rows] = values`) are kept in memory,
  shown, and the store is written anew, whole and atomically, when it is committed next. This is for
  corrections; it costs as much as saving the buffer.
* A Zarr store gives the space of rows that left the ring back. An HDF5 file cannot, and grows by every row
  that is added.

More than 25 methods because a ring in a store does all that one of tensors does, and is written to besides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.compat.checks import check_flat
from replaystore.compat.lazy import LazyTensor, Rows
from replaystore.compat.ring_slots import NONE, Arrays, Edits, Layout, Located, sorted_out
from replaystore.errors import ConflictError, UnsupportedError
from replaystore.sampling.gather import Gather

__all__ = ["PENDING_BYTES", "PENDING_ROWS", "StoredRing"]

PENDING_ROWS = 4096
"""So many new rows wait for a commit at most."""
PENDING_BYTES = 8 << 20
"""Or so many bytes of them."""


class StoredRing:
    """Fields of `capacity` places each, in a store."""

    def __init__(self, buffer: Buffer, layout: Layout, device: torch.device) -> None:
        self.buffer = buffer
        self._layout = layout
        self._pending: dict[str, NDArray[Any]] = {}
        """New rows, the first `_waiting` of each array."""
        self.room_tensors: dict[str, torch.Tensor] = {}
        """The same, as tensors."""
        self._room = 0
        """How many rows may wait."""
        self._waiting = 0
        self._edits: dict[str, Edits] = {}
        self._shown: int | None = None
        """The capacity that it is shown with instead of the store's."""
        self.look()
        self.capacity = self.view.placement.capacity
        self.move(device)
        if buffer.mode == "r+" and not self.view.living:
            raise UnsupportedError(
                f"{buffer.where} was not saved as a ring, so nothing can be added: load it with "
                "mode='r', and save it to a new place"
            )

    def move(self, device: torch.device) -> None:
        """Give rows on another device."""
        dtypes = {
            name: torch.from_numpy(np.zeros(0, output.dtype)).dtype
            for name, output in self.view.tensors.items()
        }
        self.tensors = {
            name: LazyTensor(self, name, dtypes[name], (output.width,), device)
            for name, output in self.view.tensors.items()
        }

    def look(self) -> None:
        """Show the store's commit."""
        check_flat(self.buffer)
        view = self._layout.view(self.buffer)
        self._gather: tuple[Gather, dict[str, str], int] | None = None
        self.view = view if self._shown is None else view.resized(self._shown)
        self._origin = self._one_origin()

    def _one_origin(self) -> int | None:
        """What is to be added to how far a place lies behind `position`, round the end, to get the row that
        is there. None: rows lie otherwise, or there are none."""
        view, placement = self.view, self.view.placement
        behind = (placement.place - view.position) % placement.capacity
        origins = set((placement.row - behind).tolist())
        whole = (
            bool((behind + placement.count <= placement.capacity).all())
            and int(placement.count.sum()) == view.size
        )
        return origins.pop() if whole and view.size and len(origins) == 1 else None

    def resize(self, capacity: int) -> None:
        """Show a store that was opened for reading with another capacity; see `Move`."""
        self._shown = capacity
        self.look()
        self.capacity = capacity
        self.move(next(iter(self.tensors.values())).device)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UnsupportedError(
            f"{self.buffer.where}: a buffer in a store is neither copied nor pickled: load it where it "
            "is needed, or save it elsewhere"
        )

    # --- what it holds

    @property
    def size(self) -> int:
        """How many places are in use."""
        return min(self.view.size + self._waiting, self.capacity)

    @property
    def position(self) -> int:
        """The place of the next row."""
        return (self.view.position + self._waiting) % self.capacity

    @property
    def recorded(self) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]]]:
        """What the store says of the environment, and the spaces of its fields as far as they are known."""
        fields = self.buffer.schema.fields
        return self.buffer.environment, {
            name: declared.space for name, declared in fields.items() if declared.space is not None
        }

    def tensor(self, name: str) -> LazyTensor:
        """A field."""
        return self.tensors[name]

    def set_tensor(self, name: str, value: Any) -> None:
        """Set all rows of a field."""
        self.tensors[name][:] = value

    def read(self, name: str, places: Rows) -> NDArray[Any]:
        """Rows of a field, (len(places), width); zeros where none was written."""
        return self._read(name, places, self._find(places))

    def gather(self, names: Sequence[str], index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of several fields at places, of any shape."""
        places = index.cpu().numpy().reshape(-1)
        located = self._find(places)
        shape, known = tuple(index.shape), self._together(names, located.stored)
        found = {name: self._read(name, places, located, known.get(name)) for name in names}
        return {name: self.tensors[name].of(rows, shape) for name, rows in found.items()}

    def _find(self, places: Rows) -> Located:
        """Where the rows at these places are: the quick way, if there is one."""
        if self._origin is None:
            return sorted_out(self._locate(places))
        behind = (places - self.view.position) % self.capacity
        rows, waiting, free = behind + self._origin, self._waiting, self.capacity - self.view.size
        if not waiting and not free:
            return Located(rows)
        if free:
            rows[behind < free] = self._origin + self.capacity - 1
        late = np.flatnonzero(behind < waiting)
        unwritten = np.flatnonzero((behind >= waiting) & (behind < free)) if free > waiting else NONE
        return Located(rows, late, behind[late], unwritten)

    def _together(self, names: Sequence[str], rows: Rows) -> dict[str, NDArray[Any]]:
        """These rows of those tensors that are fields of raw steps, which takes half of what one after the
        other does; of none if one of the rows comes after the last step."""
        buffer = self.buffer
        buffer.check_open()
        if self._gather is None:
            fields = {name: output.field for name, output in self.view.tensors.items() if output.field}
            self._gather = Gather(buffer, tuple(fields.values())), fields, len(buffer)
        gather, fields, steps = self._gather
        if not len(rows) or rows.max() >= steps:
            return {}
        wanted = [name for name in names if name in fields]
        batch = gather.take(
            tuple([fields[name] for name in wanted]), rows + buffer.first_row if buffer.first_row else rows
        )
        return {name: batch[fields[name]].reshape(len(rows), -1) for name in wanted}

    def _locate(self, places: Rows) -> Rows:
        """For each place a row of the store, -1 for none, or -2 - p for row p of those that wait."""
        placement = self.view.placement
        if len(placement.place) == 1:
            within = places - placement.place[0]
            rows = np.where((within >= 0) & (within < placement.count[0]), within + placement.row[0], -1)
        elif len(placement.place):
            at = np.maximum(np.searchsorted(placement.place, places, side="right") - 1, 0)
            within = places - placement.place[at]
            rows = np.where((within >= 0) & (within < placement.count[at]), within + placement.row[at], -1)
        else:
            rows = np.full(len(places), -1, np.int64)
        if self._waiting:
            newest = (places - self.view.position) % self.capacity
            rows = np.where(newest < self._waiting, -2 - newest, rows)
        return rows

    def _read(
        self, name: str, places: Rows, located: Located, rows: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Rows of a field; `rows`: those in the store, if they are read already."""
        output = self.view.tensors[name]
        if rows is None:
            rows = (
                output.read(located.stored)
                if len(located.stored)
                else np.zeros((len(places), output.width), output.dtype)
            )
        if len(located.waiting) or len(located.unwritten):
            rows = rows if rows.flags.writeable else rows.copy()
            if len(located.waiting):
                rows[located.waiting] = self._pending[name].take(located.pending, axis=0)
            if len(located.unwritten):
                rows[located.unwritten] = 0
        edits = self._edits.get(name)
        if edits is not None and len(edits.places):
            rows = rows if rows.flags.writeable else rows.copy()
            edits.apply(places, rows)
        return rows

    def used(self) -> int:
        """Rows from the first place on that are in use, or were set though they are not."""
        placement = self.view.placement
        ends = [self.size, *(placement.place + placement.count).tolist()]
        ends += [int(edits.places[-1]) + 1 for edits in self._edits.values() if len(edits.places)]
        return int(max(ends))

    # --- writing

    @property
    def writable(self) -> bool:
        """Whether rows can be added."""
        return not self.buffer.closed and self.buffer.mode == "r+"

    def check_writable(self) -> None:
        """ConflictError: the store was loaded for reading."""
        if not self.writable:
            advice = (
                "it is closed: load it again"
                if self.buffer.closed
                else ("it was loaded for reading: load it with mode='r+' to write to it")
            )
            raise ConflictError(f"{self.buffer.where}: {advice}, or save it elsewhere and load that")

    def append(self, rows: Mapping[str, torch.Tensor], split: str | None = None) -> None:
        """Write checked rows from `position` on. With a `split` they are a trajectory, and safe on return.

        If the store cannot be written to (StorageError), they are not added."""
        self.check_writable()
        count = len(next(iter(rows.values())))
        if not count and split is not None:
            raise UnsupportedError("a trajectory with no rows cannot be added to a store: leave it out")
        room = min(
            self.capacity,
            PENDING_ROWS,
            max(1, PENDING_BYTES // sum(output.row_bytes for output in self.view.tensors.values())),
        )
        if split is not None or self._waiting + count > room:
            self.flush()
        places = (self.position + np.arange(count)) % self.capacity
        if split is not None or count > room:
            self._bring(
                {name: value.detach().cpu().numpy() for name, value in rows.items()},
                [] if split is None else [(count, split)],
            )
        else:
            if not self._pending:
                self._pending = {
                    name: np.empty((room, output.width), output.dtype)
                    for name, output in self.view.tensors.items()
                }
                tensors = {name: torch.from_numpy(rows) for name, rows in self._pending.items()}
                self.room_tensors = {name: tensors[name] for name in rows}
                self._room = room
            for name, value in rows.items():
                self._pending[name][self._waiting : self._waiting + count] = value.detach().cpu().numpy()
            self._waiting += count
        for edits in self._edits.values():
            edits.drop(places)

    def room(self, count: int) -> int:
        """As `TensorRing.room`: the first rows of trajectories that say where they end are left to `append`,
        and whatever is not simple."""
        if self._waiting + count > self._room or self._edits or not self.writable:
            return -1
        return self._waiting

    def advance(self, count: int) -> None:
        """Let `count` rows wait that were set at `room`."""
        self._waiting += count

    def set_rows(self, name: str, places: Rows, values: NDArray[Any]) -> None:
        """Change rows; they reach the store with the next commit."""
        self.check_writable()
        self._edits.setdefault(name, Edits()).set(places, values)

    @property
    def edited(self) -> bool:
        """Whether rows were set that the store does not have."""
        return any(len(edits.places) for edits in self._edits.values())

    def flush(self) -> None:
        """Bring the rows that wait to the store."""
        if self._waiting:
            self._bring({name: rows[: self._waiting] for name, rows in self._pending.items()}, [])

    def _bring(self, rows: Arrays, splits: Sequence[tuple[int, str]]) -> None:
        """Commit rows. If that fails, the store is as it was before; if it is interrupted, it may have
        happened."""
        before = self.buffer.commit_id
        try:
            self._layout.append(self.buffer, rows, splits)
            self.buffer.commit()
        except BaseException:
            self.buffer.abandon()
            self.buffer = open_buffer(self.buffer.whereabouts, "r+")
            if self.buffer.commit_id != before:
                self._waiting = 0
                self.look()
            raise
        self._waiting = 0
        self.look()

    def refresh(self) -> bool:
        """Show what another process has added since; whether there was something."""
        moved = self.buffer.refresh()
        if moved:
            self.look()
        return moved

    def replace(self, write: Callable[[], object]) -> None:
        """Let `write` replace the store by one that has the rows shown here, and go on with that."""
        place, old = self.buffer.whereabouts, self.buffer
        self.buffer = reader = open_buffer(place)
        self.look()
        old.close()
        try:
            write()
            self._edits = {}
        finally:
            reader.close()
            self.buffer = open_buffer(place, "r+")
            self.look()

    def close(self) -> None:
        """Bring new rows to the store, and release it."""
        try:
            if self.writable:
                self.flush()
        finally:
            # Also if it is closed, by a call that was interrupted, perhaps, before it released its lock.
            self.buffer.close()
