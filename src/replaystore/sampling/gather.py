"""From rows to the arrays of a batch: each field by the quickest way that its storage allows.

Raw fields that are mapped are gathered by one `take`, or a run of rows as one item; coded fields through
slabs of decoded chunks, one for all fields whose chunks are alike; raw fields that cannot be mapped by system
calls, and those that are far all together. All show one commit, whatever the buffer that they come from goes
on to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.columns.changed import ChangedColumn
from replaystore.columns.chosen import rows_in
from replaystore.columns.coded import CodedColumn
from replaystore.columns.far import FarRows
from replaystore.columns.plain import PlainColumn
from replaystore.columns.readahead import RESIDENT, read_ahead
from replaystore.columns.slab import Slab
from replaystore.columns.taking import LONG, taker, touch
from replaystore.errors import ArgumentError
from replaystore.schema.names import escape_path

if TYPE_CHECKING:
    from replaystore.arrays.columns_of import ArrayColumn
    from replaystore.arrays.reading import StoreReader
    from replaystore.columns.values import Values
    from replaystore.schema.fields import Schema

__all__ = ["SLAB_BYTES", "Batch", "Columns", "Gather", "Rows", "check_out"]

SLAB_BYTES = 256 << 20
"""Decoded chunks that a sampler keeps, unless it is told otherwise."""

WARM_CALLS, COLD_CALLS = 4096, 64
"""Rows are gathered so many times before it is looked again what is in memory."""

Rows = NDArray[np.int64]
Batch = dict[str, Any]
"""Arrays by field; of one of any length a `Ragged`, once its values take the place of where they lie."""
_Way = list[tuple[str, int, Callable[..., NDArray[Any]] | None]]
"""Of each field the first row that is mapped, and what takes rows that count from there; None: not mapped."""


class _Mapped:
    """A raw field whose rows are mapped."""

    def __init__(self, column: PlainColumn, items: NDArray[Any]) -> None:
        self.items, self.first = items, column.first
        self.dtype, self.shape = column.dtype, column.shape
        self.rows = items.view(column.dtype).reshape(len(items), *column.shape)
        self.item, self._octets = items.dtype, items.view(np.uint8)
        # Of rows that are going to be there nothing is in memory.
        self.ahead = read_ahead(items[: column.stop - column.first])
        self._runs: dict[tuple[int, int], NDArray[Any]] = {}

    def runs(self, rows: Rows, length: int, stride: int) -> NDArray[Any]:
        """From each row on so many rows, as one item of a view in which items overlap."""
        size = self.item.itemsize
        view = self._runs.get((length, stride))
        if view is None:
            count = len(self.items) - (length - 1) * stride
            several, item = (1, size * length) if stride == 1 else (length, size)
            view = self._runs[length, stride] = np.ndarray(
                (count, several), np.dtype((np.void, item)), self._octets, strides=(size, stride * size)
            )
        places = rows - self.first if self.first else rows
        if view.itemsize >= LONG:
            begins = places if stride == 1 else (places[:, None] + stride * np.arange(length)).reshape(-1)
            touch(self._octets, begins * size)
        return view[places].view(self.dtype).reshape(len(rows), length, *self.shape)


class Columns(Protocol):
    """What rows are gathered from: a buffer, or what a writer has of one."""

    @property
    def schema(self) -> Schema: ...

    @property
    def store(self) -> StoreReader: ...

    def stored_column(self, stored: str) -> ArrayColumn: ...

    def values_of(self, name: str) -> Values: ...


class Gather:
    """Gathers rows of some fields of a buffer, as of the commit that it shows now.

    Args:
        names: fields.
        slab_bytes: memory for decoded chunks.
        group: which of the arrays of these names: "steps", or "final" with the observations after the last
        steps of trajectories.
    """

    def __init__(
        self,
        buffer: Columns,
        names: Sequence[str],
        slab_bytes: int = SLAB_BYTES,
        *,
        group: Literal["steps", "final"] = "steps",
    ) -> None:
        stored = {name: f"{group}/{escape_path(name)}" for name in names}
        columns = {name: buffer.stored_column(place) for name, place in stored.items()}
        self.columns = columns
        self.schema = buffer.schema
        self._codecs = {name: buffer.store.spec(place).codec for name, place in stored.items()}
        self._mapped: dict[str, _Mapped] = {}
        self._plain: dict[str, PlainColumn | ChangedColumn] = {}
        self._far = FarRows({})
        self.slabs: list[Slab] = []
        self._slab: dict[str, Slab] = {}
        self._ways: dict[tuple[str, ...], _Way] = {}
        self.cold, self.until_look = False, 0
        coded: dict[int, dict[str, CodedColumn]] = {}
        for name, column in columns.items():
            if isinstance(column, CodedColumn):
                coded.setdefault(column.chunk_rows, {})[name] = column
            elif column.items is not None:
                self._mapped[name] = _Mapped(column, column.items)
            else:  # its state is immutable: the copy stays as it is
                plain = self._far.columns if column.files.far else self._plain
                plain[name] = copy.copy(column)
        self.far = bool(self._far.columns)
        """Whether rows of any field are best asked for together, by `fetch`."""
        sizes = [sum(column.row_bytes for column in several.values()) for several in coded.values()]
        self.chosen_rows = rows_in(slab_bytes, sizes) if coded else 1 << 62
        """Rows that there is room for at once, where it is they that are kept."""
        for several, size in zip(coded.values(), sizes, strict=True):
            slab = Slab(several, slab_bytes * size // max(1, sum(sizes)), self.chosen_rows)
            self.slabs.append(slab)
            self._slab |= dict.fromkeys(several, slab)

    def adopt(self, old: Gather) -> None:
        """Go on with what is known from another of the same fields and an earlier commit; it is not to be
        used any more."""
        for slab, known in zip(self.slabs, old.slabs, strict=False):
            slab.adopt(known)
        if not old.cold:
            self.until_look = old.until_look

    def forget(self) -> None:
        """Hold no decoded chunks, as in a forked child."""
        for slab in self.slabs:
            slab.forget()
        self._far.forget()

    # --- rows

    def take(self, names: Sequence[str], rows: Rows, outs: Mapping[str, NDArray[Any]] | None = None) -> Batch:
        """Rows of these fields, {field: array of shape (len(rows), *field shape)}; they must be rows of the
        commit.

        `outs`: arrays to fill, as `check_out` wants them."""
        self.until_look -= 1
        if self.cold or self.until_look < 0:
            self._advise(names, rows, 1)
        batch: Batch = {}
        known, places = 0, rows
        for name, first, take in self._way(names):
            if take is None:
                batch[name] = self._other(name, rows, None if outs is None else outs[name])
                continue
            if first != known:
                known, places = first, rows - first
            # clip: NumPy would otherwise gather into a buffer first, so as to leave the array alone should a
            # row be out of bounds.
            batch[name] = take(places, 0) if outs is None else take(places, 0, outs[name], "clip")
        if self.far:
            there = [name for name in names if name in self._far.columns]
            batch |= self._far.take(there, rows, [None if outs is None else outs[name] for name in there])
        for slab in self.slabs:
            outputs = {name: batch[name] for name in names if self._slab.get(name) is slab}
            if outputs and len(rows):
                slab.take(rows, outputs)
        return batch

    def _way(self, names: Sequence[str]) -> _Way:
        """What `take` needs of each field, found once: for five fields, looking it up would take as long as
        gathering two of them."""
        key = names if type(names) is tuple else tuple(names)
        way = self._ways.get(key)
        if way is None:
            way = self._ways[key] = [
                (name, 0, None) if column is None else (name, column.first, taker(column.items, column.rows))
                for name, column in ((name, self._mapped.get(name)) for name in key)
            ]
        return way

    def _other(self, name: str, rows: Rows, out: NDArray[Any] | None) -> NDArray[Any]:
        """Rows that are read by system calls, or an array for those that others are going to give."""
        if name in self._plain:
            return self._plain[name].take(rows, out)
        dtype, shape = self.schema.fields[name].stored
        return np.empty((len(rows), *shape), dtype) if out is None else out

    def runs(self, names: Sequence[str], rows: Rows, length: int, stride: int = 1) -> Batch:
        """From each of `rows` on so many rows, each `stride` behind the one before: {field: array of shape
        (len(rows), length, *field shape)}. Nothing is computed for each row: that takes half as long as
        gathering rows of vectors."""
        self.until_look -= 1
        if self.cold or self.until_look < 0:
            self._advise(names, rows, (length - 1) * stride + 1)
        batch = {
            name: self._mapped[name].runs(rows, length, stride) for name in names if name in self._mapped
        }
        if len(batch) == len(names):
            return batch
        others = [name for name in names if name not in batch]
        found = self.take(others, (rows[:, None] + stride * np.arange(length)).reshape(-1))
        batch |= {
            name: values.reshape(len(rows), length, *values.shape[1:]) for name, values in found.items()
        }
        return {name: batch[name] for name in names}

    def _advise(self, names: Sequence[str], rows: Rows, span: int) -> None:
        """Have what is not in memory read ahead; it is looked now and then whether anything is not."""
        if self.until_look < 0:
            looked = [column.ahead.look() for column in self._mapped.values() if column.ahead is not None]
            self.cold = min(looked, default=1.0) < RESIDENT
            self.until_look = COLD_CALLS if self.cold else WARM_CALLS
        if self.cold:
            for name in names:
                column = self._mapped.get(name)
                if column is not None and column.ahead is not None:
                    column.ahead.want(rows - column.first, span)

    def hold(self, first: Rows, last: Rows) -> bool:
        """Decode what is needed of the rows from each of `first` to each of `last`, if there is room for it
        at one time."""
        return all(slab.hold(first, last) for slab in self.slabs)

    def fetch(self, first: Rows, last: Rows) -> None:
        """Fetch the raw rows that are far, from each of `first` to each of `last`, all together."""
        self._far.hold(_between(first, last))

    def announce(self, first: Rows, last: Rows) -> None:
        """What `fetch` is asked for next."""
        self._far.announce(_between(first, last))

    @property
    def far_bytes(self) -> int:
        """Of a row of the fields that are fetched so."""
        return sum(column.row_bytes for column in self._far.columns.values())

    def choose(self, rows: Rows) -> None:
        """Decode the rows of items, (items, rows of each), and keep nothing else that is decoded."""
        for slab in self.slabs:
            slab.choose(rows)

    def choose_next(self, rows: Rows) -> None:
        """Begin to decode what `choose` is going to be asked for next."""
        for slab in self.slabs:
            slab.choose_next(rows)

    def used(self, items: int) -> None:
        """So many more of the items that rows were chosen for are not needed any more."""
        for slab in self.slabs:
            slab.chosen.used(items)

    def expect(self, first: Rows, last: Rows) -> None:
        """Begin to decode what `hold` is going to be asked for next."""
        for slab in self.slabs:
            slab.expect(first, last)

    # --- what it is like

    @property
    def coded(self) -> bool:
        """Whether any field is coded."""
        return bool(self.slabs)

    @property
    def crowded(self) -> bool:
        """Not all decoded chunks fit in the memory for them."""
        return any(slab.crowded for slab in self.slabs)

    @property
    def whole(self) -> bool:
        """All chunks are decoded, and remain there."""
        return all(slab.whole for slab in self.slabs)

    def too_large(self) -> str | None:
        """What to say where not all decoded chunks fit in the memory for them."""
        if not self.crowded:
            return None
        names = ", ".join(name for slab in self.slabs if slab.crowded for name in slab.names)
        total = sum(slab.decoded_bytes for slab in self.slabs)
        return (
            f"{names}: decoded, the steps take {total / 1e6:.0f} MB, more than slab_bytes, so that chunks "
            f"are decoded again and again for steps at random; give slab_bytes={total}, use "
            'order="epoch", or convert with codec="raw"'
        )

    @property
    def block_rows(self) -> int:
        """Rows that are best read together: whole chunks of every coded field."""
        return max((slab.chunk_rows for slab in self.slabs), default=1)

    @property
    def room(self) -> int:
        """Rows whose chunks there is room for; of fields that are not coded as many as you like."""
        return min((slab.slots * slab.chunk_rows for slab in self.slabs), default=1 << 62)

    def explain(self) -> list[str]:
        """A line for each field: how it is read."""
        lines = []
        for name in self.columns:
            if name in self._mapped:
                ahead = self._mapped[name].ahead
                cold = ahead is not None and ahead.cold
                how = "raw, mapped: one take" + (
                    f", pages asked for ahead ({ahead.resident:.0%} in memory)" if cold and ahead else ""
                )
            elif name in self._plain:
                how = "raw, but not mapped (its place is not aligned to pages): system calls"
            elif name in self._far.columns:
                how = "raw, and far: ranges of all fields asked for together"
            else:
                slab = self._slab[name]
                room = f"a slab of {slab.slots} decoded chunks ({slab.nbytes / 1e6:.0f} MB)"
                how = f"{self._codecs[name] or 'raw, and far'}, chunks of {slab.chunk_rows} rows: {room}"
            lines.append(f"{name}: {how}")
        return lines


def _between(first: Rows, last: Rows) -> Rows:
    """All rows from each of `first` to each of `last`."""
    span = int((last - first).max(initial=0)) + 1
    rows: Rows = np.minimum(first[:, None] + np.arange(span), last[:, None]).reshape(-1)
    return rows


def check_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """ArgumentError unless an array can be filled with values of this shape and dtype."""
    fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == dtype
    if not fits or not (out.flags.c_contiguous and out.flags.writeable):
        found = f"{out.dtype} of shape {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ArgumentError(
            f"out[{name!r}] is {found}; it has to be a writable C-contiguous array of {dtype} "
            f"and shape {shape}"
        )
