"""The reading half of a buffer: its columns, its table of trajectories, and their steps, as of one commit.

Nothing is read before it is asked for: columns are opened on first use, tables are read whole on first use.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.reading import ArrayColumn, StoreReader
from replaystore.errors import ArgumentError, ConflictError, CorruptError, UnsupportedError
from replaystore.forks import renew_in_children
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.schema.names import Named, listed, unknown
from replaystore.schema.values import array_of
from replaystore.trajectories.assembler import Open
from replaystore.trajectories.checks import check_extra, check_parts, check_table
from replaystore.trajectories.columns import PARTS, TRAJECTORIES
from replaystore.trajectories.table import Parts, Trajectories
from replaystore.views.column import Column, Rows, Trajectory

if TYPE_CHECKING:
    from replaystore.views.statistics import Statistics

__all__ = ["BufferReader"]


class BufferReader:
    """What can be read of a buffer."""

    def __init__(self, place: Location, store: StoreReader, document: documents.Document) -> None:
        self._place = place
        self._store = store
        self._document = document
        self._columns: dict[str, ArrayColumn] = {}
        self._opening = threading.RLock()
        self._turn = threading.RLock()
        """Held while the commit that is shown changes, and while something is made of several things that it
        shows."""
        renew_in_children(self, "_opening", "_turn")
        self._closed = False
        self._moved()
        self._schema = self._visible_schema()

    def _visible_schema(self) -> Schema:
        """The fields that exist as of the commit; a killed writer may have announced one more."""
        fields = self._document.steps.fields
        arrays, specs = set(self._store.state.arrays), self._store.container.specs()
        for name, declared in fields.items():
            for stored in (tree.steps(name), tree.final(name)):
                spec = specs.get(stored) if stored in arrays else None
                if spec is not None and (spec.dtype != declared.dtype or spec.shape != declared.shape):
                    what = f"{spec.dtype} {spec.shape}, the schema says {declared.dtype} {declared.shape}"
                    raise CorruptError(
                        f"{self._place}: the array {stored} holds {what}; run `replaystore verify`"
                    )
        return self._document.steps.select([name for name in fields if tree.steps(name) in arrays])

    def _moved(self) -> None:
        """Show the store's commit."""
        self._extra = self._store.state.extra
        check_extra(self._extra, self.location)
        self._first, self._stop = self._store.first("steps"), self._store.rows("steps")
        self._parts: Parts | None = None
        self._trajectories: Trajectories | None = None

    # --- what it is

    def __len__(self) -> int:
        """The number of steps."""
        return self._stop - self._first

    @property
    def location(self) -> str:
        """Where it is."""
        return str(self._place)

    @property
    def document(self) -> documents.Document:
        """What the store says of itself."""
        return self._document

    @property
    def store(self) -> StoreReader:
        """The arrays of which a commit is shown."""
        return self._store

    @property
    def first_row(self) -> int:
        """What is to be added to a row, which counts from the oldest step that is kept, to count as `parts`
        does: from the first one ever written."""
        return self._first

    @property
    def whereabouts(self) -> Location:
        """Where it is, wherever the process has gone since it was opened."""
        files = self._store.container.files
        return (
            self._place
            if self._place.backend == "memory"
            else replace(self._place, path=files.real_path(files.entrance))
        )

    @property
    def schema(self) -> Schema:
        """What one step holds."""
        return self._schema

    @property
    def commit_id(self) -> int:
        """The commit that is shown."""
        return self._store.state.commit

    @property
    def layout(self) -> str:
        """ "live" or "archive"."""
        return self._document.layout.name

    @property
    def capacity(self) -> int | None:
        """How many newest steps a ring keeps; None: all."""
        return None if self._document.ring is None else self._document.ring.capacity

    @property
    def environment(self) -> dict[str, Any] | None:
        """The environment that was recorded, as far as known: id, spec (Gymnasium's EnvSpec as JSON),
        num_envs, autoreset."""
        section = self._document.environment
        return None if section is None else dict(documents.to_plain(section))

    @property
    def provenance(self) -> dict[str, Any]:
        """When and by what it was made, and from what."""
        return dict(documents.to_plain(self._document.provenance))

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    def __reduce__(self) -> str:
        raise UnsupportedError(
            f"{self._place}: an open buffer cannot be copied or sent to another process: open it there by "
            "its location, "
            "or use replaystore.torch.BatchDataset"
        )

    def __repr__(self) -> str:
        if self._closed:
            return f"<{type(self).__name__} {self.location!r}: closed>"
        return (
            f"<{type(self).__name__} {self.location!r}: {len(self)} steps, {self.num_trajectories} "
            f"trajectories, commit {self.commit_id}>"
        )

    # --- trajectories

    @property
    def num_trajectories(self) -> int:
        """Trajectories that have steps here, open ones included."""
        return len(self.trajectories)

    @property
    def parts(self) -> Parts:
        """Which rows belong to which trajectory; rows count from the first step ever written. Rows that were
        dropped are left out."""
        self.check_open()
        if self._parts is None:
            stored = [self._fixed(tree.parts(name)) for name in PARTS]
            opened = [entry for entry in self._opened() if entry.part_length]
            rows = [[e.part_start, e.part_length, e.trajectory, e.offset, -1] for e in opened]
            columns = stored
            if opened:
                columns = [
                    np.concatenate([known, [row[at] for row in rows]]).astype(np.int64)
                    for at, known in enumerate(stored)
                ]
            if not (columns[0][1:] > columns[0][:-1]).all():
                order = np.argsort(columns[0], kind="stable")
                columns = [column[order] for column in columns]
            check_parts(
                columns,
                rows=self._stop,
                finals=self._store.state.lengths.get("final", 0),
                where=self.location,
            )
            self._parts = Parts(*columns).since(self._first)
        return self._parts

    @property
    def trajectories(self) -> Trajectories:
        """The table of trajectories: those that have ended, in the order of ending, then those that are open.

        `buffer.trajectories.where("return > 100 and length >= 50")` selects; `buffer.trajectory(i)` reads the
        steps of row i."""
        self.check_open()
        if self._trajectories is None:
            columns = self._table()
            parts = self.parts
            kept = np.isin(columns["trajectory"], parts.trajectory)
            known = int(np.count_nonzero(np.diff(parts.trajectory[parts.order]))) + (len(parts) > 0)
            if int(kept.sum()) != known:  # each of them once
                what = (
                    f"{known} trajectories have parts, and {int(kept.sum())} rows of the table are about them"
                )
                raise CorruptError(f"{self._place}: {what}; run `replaystore verify`")
            self._trajectories = Trajectories({name: values[kept] for name, values in columns.items()})
        return self._trajectories

    def _table(self) -> dict[str, NDArray[Any]]:
        """All columns, of ended trajectories and then of open ones."""
        columns: dict[str, NDArray[Any]] = {
            tree.column_of(name): self._store.table(name)
            for name in self._store.specs()
            if tree.is_trajectories(name)
        }
        opened = [entry for entry in self._opened() if entry.length]
        check_table(columns, self._extra["splits"], self._reward_shape(), self.location)
        count = len(columns["trajectory"])
        for name, known in columns.items():
            known_of_open = {
                "trajectory": [e.trajectory for e in opened],
                "env": [e.env for e in opened],
                "seed": [e.seed for e in opened],
            }
            known_of_open |= {
                "length": [e.length for e in opened],
                "split": [e.split for e in opened],
                "return": [e.returned for e in opened],
            }
            blank = np.nan if known.dtype.kind == "f" else 0
            more = np.full((len(opened), *known.shape[1:]), blank, known.dtype)
            more[...] = (
                np.asarray(known_of_open[name], known.dtype).reshape(more.shape)
                if name in known_of_open
                else blank
            )
            columns[name] = np.concatenate([known, more])
        splits = np.array(self._extra["splits"])
        columns["split"] = splits[columns["split"]] if len(columns["split"]) else np.empty(0, splits.dtype)
        shown = [*TRAJECTORIES, *sorted(columns.keys() - TRAJECTORIES.keys())]
        ordered = {name: columns[name] for name in shown if name in columns}
        return ordered | {"open": np.arange(count + len(opened)) >= count}

    def _fixed(self, name: str) -> NDArray[Any]:
        """A table that every buffer has."""
        table = self._store.table(name) if name in self._store.state.arrays else None
        if table is None or table.dtype != np.int64 or table.ndim != 1:
            raise CorruptError(
                f"{self._place}: the table {name} of int64 numbers is missing; run `replaystore repair`"
            )
        return table

    def trajectory(self, number: int, fields: Iterable[str] | None = None) -> Trajectory:
        """The steps of row `number` of `trajectories`."""
        table = self.trajectories
        if not -len(table) <= number < len(table):
            raise IndexError(
                f"trajectory {number}: there are {len(table)} trajectories, and the first is number 0"
            )
        info = table[int(number)]
        names = self._names(fields)
        runs = self.parts.rows_of(info["trajectory"])
        columns = {}
        for name in names:
            column = self._of(name)
            pieces = [column.read(start, stop) for start, stop in runs]
            columns[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        observations = self.schema.names("observation")
        final = self.final_observation(info["trajectory"])
        following = self._followed_within(info["trajectory"], observations)
        if final is not None and runs:
            following[sum(stop - start for start, stop in runs) - 1] = final
        shown = final["observation"] if final is not None and observations == ("observation",) else final
        return Trajectory(info, columns, shown, following)

    def _followed_within(
        self, trajectory: int, observations: Iterable[str]
    ) -> dict[int, dict[str, NDArray[Any]]]:
        """By step of a trajectory, what followed it where the next step was recorded with another
        observation."""
        parts = self.parts
        inner = parts.parts_of(trajectory)[:-1]
        places = np.cumsum(parts.length[inner]) - 1
        return {
            int(step): {name: self.final_rows(name, final[None])[0] for name in observations}
            for step, final in zip(places, parts.final[inner], strict=True)
            if final >= 0
        }

    def final_observation(self, trajectory: int) -> dict[str, NDArray[Any]] | None:
        """The observation after the last step of a trajectory, named by its number in the table; None: it is
        not known."""
        last = int(self.parts.parts_of(trajectory)[-1])
        final = int(self.parts.final[last])
        if final >= 0:
            return {
                name: self.final_rows(name, np.array([final]))[0] for name in self.schema.names("observation")
            }
        for entry in self.open_trajectories():
            if entry.trajectory == trajectory:
                return entry.following
        return None

    def final_rows(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of `final/` of an observation field: final observations, as `parts.final` numbers them."""
        stored = tree.final(name)
        if self._store.container.specs()[stored].journaled:
            found: NDArray[Any] = self._store.table(stored)[rows]
            return found
        return self._column(stored).take(rows)

    def _reward_shape(self) -> tuple[int, ...]:
        return self._document.steps.return_shape

    def _opened(self) -> list[Open]:
        """The trajectories that are open, without their observations."""
        shape = self._reward_shape()
        try:
            opened = [
                Open.from_json(values, components=math.prod(shape) if shape else None)
                for values in self._extra["open"]
            ]
        except ValueError as error:
            raise CorruptError(f"{self._place}: {error}; run `replaystore repair`") from None
        if any(entry.split >= len(self._extra["splits"]) for entry in opened):
            raise CorruptError(
                f"{self._place}: an open trajectory is of a split that there is not; run `replaystore repair`"
            )
        return opened

    def open_trajectories(self) -> list[Open]:
        """The trajectories that are open, with the observations that follow their last steps."""
        opened = self._opened()
        known = [entry for entry, values in zip(opened, self._extra["open"], strict=True) if values[-1]]
        for name in self.schema.names("observation") if known else ():
            declared = self.schema.fields[name]
            data = self._store.attachment(name)
            for at, entry in enumerate(known):
                if data is not None:
                    if len(data) != len(known) * declared.row_bytes:
                        what = (
                            f"{len(data)} bytes of {name} after the last steps of {len(known)} open "
                            "trajectories"
                        )
                        raise CorruptError(
                            f"{self._place}: the commit keeps {what}; run `replaystore repair`"
                        )
                    row = np.frombuffer(
                        data,
                        declared.dtype,
                        declared.row_bytes // declared.dtype.itemsize,
                        at * declared.row_bytes,
                    )
                    found: NDArray[Any] | None = row.reshape(declared.shape)
                else:  # the place is a newer commit's by now, which has a row or final observation for it
                    found = self._followed_by(entry, name)
                if found is not None:
                    entry.following = {**(entry.following or {}), name: found}
        for entry in known:
            if entry.following is not None and len(entry.following) < len(self.schema.names("observation")):
                entry.following = None  # a part of an observation is none
        return opened

    def _followed_by(self, entry: Open, name: str) -> NDArray[Any] | None:
        """What a newer commit has after the last step of a trajectory that was open in an older one."""
        newest = self._store.unpinned()
        if newest is None:
            return None
        view = BufferReader(self._place, newest, self._document)
        parts = view.parts
        for part in parts.parts_of(entry.trajectory).tolist():
            begin, stop = int(parts.offset[part]), int(parts.offset[part] + parts.length[part])
            if begin <= entry.length < stop:
                row = int(parts.start[part]) + entry.length - begin
                found: NDArray[Any] = view._of(name).read(row, row + 1)[0]
                return found
            if stop == entry.length and parts.final[part] >= 0:
                final: NDArray[Any] = view.final_rows(name, parts.final[part : part + 1])[0]
                return final
        for other in view.open_trajectories():
            if (
                other.trajectory == entry.trajectory
                and other.length == entry.length
                and other.following is not None
            ):
                return other.following[name]
        return None

    # --- steps

    def __contains__(self, name: object) -> bool:
        """Whether there is a field of this name, so that `buffer[name]` is its column."""
        return isinstance(name, str) and name in self.schema.fields

    def __getitem__(self, name: str) -> Column:
        """The column of a field: `buffer["observation"][1000:2000]`.

        UnknownFieldError: there is none. ArgumentError: steps are asked for, which `read` gives."""
        self.check_open()
        if not isinstance(name, str):
            raise ArgumentError(f"{self._place}: {self._not_a_name(name)}")
        if name not in self.schema.fields:
            raise unknown(name, self.schema.fields, where=self.location)
        declared = self.schema.fields[name]
        return Column(
            name,
            declared.dtype,
            declared.shape,
            chunk_rows=self._store.spec(tree.steps(name)).chunk_rows,
            length=self.__len__,
            read=partial(self._rows, name),
            reopened=partial(self._reopened, name),
        )

    def _reopened(self, name: str) -> tuple[Any, ...]:
        """How another process gets a column of this commit, as `__reduce__` says it."""
        raise UnsupportedError(f"{self._place}: open a buffer, and send a column of that")

    def _not_a_name(self, given: object) -> str:
        """What to write instead of `buffer[steps]`."""
        steps, rows = "rows", "rows"
        if isinstance(given, slice):
            bounds = (given.start, given.stop, given.step)[: 2 if given.step is None else 3]
            steps = ":".join("" if bound is None else str(bound) for bound in bounds)
            rows = f"slice({', '.join(map(str, bounds))})"
        elif isinstance(given, int | np.integer):
            steps, rows = str(given), f"[{given}]"
        name = next(iter(self.schema.fields))
        return (
            f"buffer[...] takes the name of a field ({listed(self.schema.fields)}); steps are read by "
            f"buffer.read({rows}), "
            f"those of one field by buffer[{name!r}][{steps}], those of a trajectory by buffer.trajectory(i)"
        )

    def read(self, rows: Rows, fields: Iterable[str] | None = None) -> dict[str, NDArray[Any]]:
        """Steps, as {field: array of shape (steps, *field shape)}.

        Args:
            rows: a slice, or integers in any order, repeated as you like; 0 is the oldest step kept, negative
            ones count from the end.
            fields: names, or beginnings of paths ("observation"); None for all.
        """
        self.check_open()
        wanted = self._wanted(rows)
        return {name: self._read(name, wanted) for name in self._names(fields)}

    def _rows(self, name: str, rows: Rows) -> NDArray[Any]:
        """Steps of one field."""
        self.check_open()
        return self._read(name, self._wanted(rows))

    def _read(self, name: str, wanted: slice | NDArray[np.int64]) -> NDArray[Any]:
        column = self._of(name)
        return column.read(wanted.start, wanted.stop) if type(wanted) is slice else column.take(wanted)

    def _wanted(self, rows: Rows) -> slice | NDArray[np.int64]:
        """The rows of the arrays that steps are: a slice with a step of 1, or numbers."""
        count, first = self._stop - self._first, self._first
        if isinstance(rows, slice):
            start, stop, step = rows.indices(count)
            if step == 1:
                return slice(first + start, first + max(start, stop))
            rows = np.arange(start, stop, step)
        wanted = rows if type(rows) is np.ndarray else array_of("rows", rows)
        if wanted.dtype == np.bool_ and wanted.shape == (count,):
            wanted = np.flatnonzero(wanted)
        if wanted.size == 0:
            wanted = wanted.astype(np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise ArgumentError(
                f"rows are a slice, a mask, or a flat array of integers, not {wanted.dtype} "
                f"of shape {wanted.shape}"
            )
        wanted = wanted.astype(np.int64, copy=False)
        if not wanted.size:
            return wanted
        least, most = int(wanted.min()), int(wanted.max())
        if not -count <= least <= most < count:
            raise IndexError(f"rows from {least} to {most} were asked for; there are {count} steps")
        if least < 0:
            wanted = np.where(wanted < 0, wanted + count, wanted)
        return wanted + first if first else wanted

    def _of(self, name: str) -> ArrayColumn:
        return self._column(tree.steps(name))

    def _names(self, fields: Iterable[str] | None) -> list[str]:
        if fields is None:
            return list(self.schema.fields)
        wanted = {fields} if isinstance(fields, str) else set(fields)
        if wanted and wanted <= self.schema.fields.keys():  # a schema of them takes longer than reading them
            return [name for name in self.schema.fields if name in wanted]
        return list(self.schema.select(wanted).fields)

    def _column(self, stored: str) -> ArrayColumn:
        """The column of a stored array, with all its rows as of the commit."""
        with self._opening, as_storage_errors(f"{self._place}: {stored} cannot be read"):
            return self._up_to_date(stored)

    def _up_to_date(self, stored: str) -> ArrayColumn:
        store, column = self._store, self._columns.get(stored)
        if column is not None and column.first >= store.first(stored) and column.stop == store.rows(stored):
            return column
        # It is kept only if nothing was rolled back or dropped while its files were opened.
        self._columns.pop(stored, None)
        column = self._columns[stored] = store.column(stored, column)
        return column

    # --- derived

    def statistics(self, fields: Iterable[str] | None = None) -> dict[str, Statistics]:
        """Mean, standard deviation, smallest and largest value and count of each field, over all steps,
        element by element."""
        from replaystore.views.statistics import Statistics

        names = self._names(fields)
        found = Named[Statistics]()
        for name in names:
            total = Statistics.nothing(self.schema.fields[name].shape)
            step = max(1, (4 << 20) // max(1, self.schema.fields[name].row_bytes))
            for start in range(0, len(self), step):
                total = total.merged(Statistics.of(self[name][start : start + step]))
            found[name] = total
        return found

    # --- life

    def refresh(self) -> bool:
        """Go on to the newest commit; whether there was one."""
        self.check_open()
        with self._turn:
            return self._refresh()

    def _refresh(self) -> bool:
        identity, arrays = self._store.state.identity, self._store.state.arrays
        moved = self._store.refresh()
        if moved:
            self._store.keep_tails()
            rolled_back = self._store.state.identity != identity
            if rolled_back:
                self._forget_columns()
            if rolled_back or self._store.state.arrays != arrays:
                self._document = documents.parse(self._store.container.document(), self.location)
                self._schema = self._visible_schema()
            self._moved()
        return moved

    def _forget_columns(self) -> None:
        for column in self._columns.values():
            column.close()
        self._columns = {}

    def close(self) -> None:
        """Release files and memory."""
        if not self._closed:
            self._closed = True
            self._forget_columns()
            self._store.close()

    def check_open(self) -> None:
        """ConflictError: it is closed."""
        if self._closed:
            raise ConflictError(f"{self._place} is closed: open it again")
