"""Rows of a buffer on their way to the tensors of a foreign file: which, in which order, of which dtype, and
what becomes of them on the way.

A row is numbered as the buffer does it, from its oldest on. Numbers from len(buffer) on stand for
observations: len(buffer) + p is the one after the last step of part p. -1 is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.blocks import beside_fields
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Fate, Report, changed, lost
from replaystore.formats.shared.file_rows import BLOCK_BYTES
from replaystore.views.foreign_ring import Placement, state_of
from replaystore.views.reader import BufferReader

__all__ = ["Outgoing", "Output"]

BLOCK_ROWS = 1 << 17
"""Of small rows no more are written at once, because the numbers of rows take memory too."""
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Output:
    """A tensor of one row a place: `read` gives the rows that are asked for, shape (rows, width)."""

    dtype: np.dtype[Any]
    width: int
    read: Callable[[Rows], NDArray[Any]]
    field: str = ""
    """The field of raw steps that it is, row by row, as long as no row is asked for that comes after the last
    step."""

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * self.width

    def write(self, file: IO[bytes], placement: Placement, done: Callable[[int], None]) -> None:
        """All places, in blocks; zeros where nothing is."""
        step = min(max(1, BLOCK_BYTES // self.row_bytes), BLOCK_ROWS)
        for start in range(0, placement.capacity, step):
            stop = min(start + step, placement.capacity)
            rows = placement.rows(start, stop)
            there = rows >= 0
            block = np.zeros((stop - start, self.width), self.dtype)
            if there.any():
                block[there] = self.read(rows[there])
            file.write(block.data)
            done(block.nbytes)


class Outgoing:
    """A buffer, or some of its trajectories, as rows to be written."""

    def __init__(self, buffer: BufferReader, options: Options) -> None:
        self.buffer, self.options = buffer, options
        self.count, self.first, self.parts = len(buffer), buffer.first_row, buffer.parts
        self.table = buffer.trajectories if options.trajectories is None else options.trajectories
        fields = (
            buffer.schema.fields if options.fields is None else buffer.schema.select(options.fields).fields
        )
        self.fields = dict(fields)
        self.became: dict[str, Fate] = {}
        """Fields that go into the file, and those that it has beside them."""
        self.rest: dict[str, Fate] = {}
        self._errors: dict[str, float] = {}
        """Of fields that are cast, the largest difference so far."""
        self._ring: Mapping[str, Any] = state_of(buffer.document.extensions) or {}
        self._known_after()

    def ring_of(self, name: str) -> Mapping[str, Any]:
        """The state of the ring, if the buffer was made of one of this format; empty otherwise."""
        return self._ring if self._ring.get("format") == name else {}

    @property
    def ends(self) -> tuple[str, str] | None:
        """Of a ring's rows, the field that says where episodes end, and what it flags (`views.ring`)."""
        name, what = self._ring.get("ends") or ("", "")
        return (name, what) if name in self.fields else None

    def _known_after(self) -> None:
        """Of which parts the observation after the last step is known though it is not the next row."""
        self.after = self.parts.final >= 0
        self.pending: dict[int, Mapping[str, NDArray[Any]]] = {}
        names = set(self.buffer.schema.names("observation"))
        for entry in self.buffer.open_trajectories():
            if (
                entry.part_length
                and entry.following is not None
                and names
                and entry.following.keys() >= names
            ):
                part = int(self.parts.parts_of(entry.trajectory)[-1])
                self.after[part] = True
                self.pending[part] = entry.following

    def following(self, rows: Rows) -> Rows:
        """The number of what was observed after these steps; -1 if it is not known."""
        found = np.full(rows.shape, -1, np.int64)
        part = self.parts.part_of(rows + self.first)
        inside = np.flatnonzero(part >= 0)
        following, _ = self.parts.next_observation(rows[inside] + self.first)
        last = rows[inside] + self.first == self.parts.last[part[inside]]
        ends = last & self.after[part[inside]]
        found[inside] = np.where(
            ends, self.count + part[inside], np.where(following >= 0, following - self.first, -1)
        )
        return found

    def field(self, name: str, rows: Rows) -> NDArray[Any]:
        """Rows of a field; of an observation also those that follow a part. What is none of both is zero."""
        steps = rows < self.count
        if steps.all():
            return self._steps(name, rows)
        declared = self.buffer.schema.fields[name]
        values = np.zeros((len(rows), *declared.shape), declared.dtype)
        if steps.any():
            values[steps] = self._steps(name, rows[steps])
        if declared.role == "observation":
            part = rows - self.count
            stored = np.flatnonzero(~steps & (self.parts.final[np.where(steps, 0, part)] >= 0))
            if len(stored):
                values[stored] = self.buffer.final_rows(name, self.parts.final[part[stored]])
            for place in np.flatnonzero(~steps).tolist() if self.pending else ():
                if int(part[place]) in self.pending:
                    values[place] = self.pending[int(part[place])][name]
        return values

    def _steps(self, name: str, rows: Rows) -> NDArray[Any]:
        first, last = int(rows[0]), int(rows[-1])
        key = slice(first, last + 1) if last - first == len(rows) - 1 and (np.diff(rows) == 1).all() else rows
        found: NDArray[Any] = self.buffer.read(key, [name])[name]
        return found

    # --- tensors

    def joined(self, role: str, *, dtypes: tuple[str, ...] = ("<f4",)) -> Output | None:
        """All fields of a role side by side, flat, as one of these dtypes (the first, if they have none of
        them); None without fields."""
        names = [name for name, declared in self.fields.items() if declared.role == role]
        if not names:
            return None
        fields = [self.fields[name] for name in names]
        known = fields[0].dtype
        dtype = (
            known
            if len(names) == 1 and known.newbyteorder("<") in map(np.dtype, dtypes)
            else np.dtype(dtypes[0])
        )
        for name, declared in zip(names, fields, strict=True):
            how = []
            if declared.dtype != dtype:
                how.append(f"{declared.dtype} became {dtype}")
            if len(declared.shape) > 1:
                how.append(f"its shape {declared.shape} became flat")
            if len(names) > 1:
                how.append("they became one tensor")
            elif name != role:
                how.append(f"it became {role}")
            self.became[name] = changed("; ".join(how)) if how else KEPT
        width = sum(declared.row_bytes // declared.dtype.itemsize for declared in fields)

        def read(rows: Rows) -> NDArray[Any]:
            return np.concatenate(
                [self._cast(name, self.field(name, rows).reshape(len(rows), -1), dtype) for name in names],
                axis=1,
            )

        return Output(dtype, width, read)

    def _cast(self, name: str, rows: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        if rows.dtype == dtype:
            return rows
        with np.errstate(all="ignore"):  # a float64 beyond float32 becomes infinite
            cast = rows.astype(dtype)
            wide = np.result_type(rows.dtype, dtype, np.float64)
            differences = np.abs(rows.astype(wide) - cast.astype(wide))[rows == rows]
            differences[np.isnan(differences)] = 0  # an infinity that stayed one
        self._errors[name] = max(self._errors.get(name, 0.0), float(np.max(differences, initial=0.0)))
        return cast

    def kept(self, name: str, kinds: tuple[str, ...]) -> Output | None:
        """An extra field that is kept as it was in the foreign file; None if it is not there, or is something
        else."""
        declared = self.fields.get(name)
        flat = declared is not None and len(declared.shape) <= 1 and not declared.ragged
        if declared is None or not flat or declared.dtype not in map(np.dtype, kinds):
            return None
        self.became[name] = KEPT
        width = declared.shape[0] if declared.shape else 1
        return Output(declared.dtype, width, lambda rows: self.field(name, rows).reshape(len(rows), width))

    def note_losses(self, *, holds: Collection[str], flags: Fate) -> None:
        """What else a buffer may hold. `holds`: what of it goes into the file, of that which `beside_fields`
        knows; `flags`: what becomes of terminated and truncated."""
        for name, declared in self.fields.items():
            is_flag = declared.role in ("terminated", "truncated")
            self.became.setdefault(name, flags if is_flag else lost())
        guessed = {"environment"} if self._ring else set()  # of a ring it was only guessed
        beside = beside_fields(self.buffer, self.options, holds={*holds, *guessed}, fields=self.fields.keys())
        self.rest |= {name: fate for name, fate in beside.items() if name not in self.rest}

    def report(self, steps: int, trajectories: int) -> Report:
        """What became of it, when it is written."""
        became = {
            name: replace(fate, max_error=self._errors[name]) if name in self._errors else fate
            for name, fate in self.became.items()
        }
        return Report(steps, trajectories, became, self.rest)

    # --- rows in the order of a file

    def in_pieces(self) -> tuple[Rows, Rows, Rows]:
        """(start, length, part) of runs of rows: first those of no trajectory (part -1), then one trajectory
        after another."""
        start, length, part = self.parts.runs(self.parts.parts_of(self.table["trajectory"]))
        start -= self.first
        if self.options.trajectories is not None:
            return start, length, part
        begin, rows = self.parts.between(self.first, self.first + self.count)
        none = np.full(len(begin), -1, np.int64)
        return (
            np.concatenate([begin - self.first, start]),
            np.concatenate([rows, length]),
            np.concatenate([none, part]),
        )
