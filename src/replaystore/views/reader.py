"""The reading half of a buffer: what it is, its columns and trajectories, and their steps, as of one
commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.columns_of import ArrayColumn
from replaystore.columns.far import read_together
from replaystore.errors import ArgumentError, EvictedError, UnsupportedError
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.names import Named, listed, unknown
from replaystore.schema.values import array_of
from replaystore.storage.places import places_of
from replaystore.views.column import Column, Rows, Trajectory
from replaystore.views.followed import followed_within
from replaystore.views.ragged_column import RaggedColumn
from replaystore.views.settled import settled
from replaystore.views.shown import Shown

__all__ = ["BufferReader", "positions_of", "wanted_rows"]

INT64 = np.dtype(np.int64)


class BufferReader(Shown):
    """What can be read of a buffer."""

    def __len__(self) -> int:
        """The number of steps."""
        return self._stop - self._first

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
            replace(self._place, path=files.real_path(files.entrance))
            if places_of(self._place).on_disk
            else self._place
        )

    @property
    def commit_id(self) -> int:
        """The commit that is shown."""
        return self._store.state.commit

    @property
    def shows(self) -> int:
        """The commit whose content is shown: `commit_id`, but after a rollback the one that was gone back to,
        and for a commit that gave a name alone the one before it."""
        return self._store.state.shows

    @property
    def layout(self) -> str:
        """ "live" or "archive"."""
        return self._document.layout.name

    @property
    def id(self) -> str:
        """What names the store, 32 hexadecimal digits: no other has it but copies of its files."""
        return self._document.id

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
            return f"<{type(self).__name__} {self.where!r}: closed>"
        return (
            f"<{type(self).__name__} {self.where!r}: {len(self)} steps, {self.num_trajectories} "
            f"trajectories, commit {self.commit_id}>"
        )

    @property
    def num_trajectories(self) -> int:
        """Trajectories that have steps here, open ones included."""
        return len(self.trajectories)

    def trajectory(self, number: int, fields: Iterable[str] | None = None) -> Trajectory:
        """The steps of row `number` of `trajectories`."""
        return settled(self, lambda: _trajectory(self, number, self._names(fields)))

    def __contains__(self, name: object) -> bool:
        """Whether there is a field of this name, so that `buffer[name]` is its column."""
        return isinstance(name, str) and name in self.schema.fields

    def __getitem__(self, name: str) -> Any:
        """The column of a field: `buffer["observation"][1000:2000]`; a `RaggedColumn` of one of any length.

        UnknownFieldError: there is none. ArgumentError: steps are asked for, which `read` gives."""
        self.check_open()
        if not isinstance(name, str):
            raise ArgumentError(f"{self._place}: {_not_a_name(name, self.schema.fields)}")
        if name not in self.schema.fields:
            raise unknown(name, self.schema.fields, where=self.where)
        schema = self._schema
        if schema.ragged and name in schema.ragged:
            return RaggedColumn(self, name, schema.fields[name])
        return Column(self, name, schema.fields[name])

    def rows_of_chunk(self, name: str) -> int:
        """How many steps of a field are stored together."""
        return self._store.spec(tree.steps(name)).chunk_rows

    def reopened(self, name: str) -> tuple[Any, ...]:
        """How another process gets a column of this commit, as `__reduce__` says it."""
        raise UnsupportedError(f"{self._place}: open a buffer, and send a column of that")

    def read(
        self, rows: Rows | None = None, fields: Iterable[str] | None = None, *, index: Any = None
    ) -> dict[str, Any]:
        """Steps, as {field: array of shape (steps, *field shape)}, a `Ragged` of each field of any length.

        Args:
            rows: a slice, or integers in any order, repeated as you like; 0 is the oldest step kept, negative
            ones count from the end.
            fields: names, or beginnings of paths ("observation"); None for all.
            index: instead of `rows`, the numbers that steps have for ever, as `batch["index"]` of a sampler.
                EvictedError: one of them has left the ring.
        """
        self.check_open()
        names = self._names(fields)
        if not self._schema.ragged:
            return _read(self, rows, names, index, self._first, self._stop)
        return settled(
            self, lambda: _with_values(self, _read(self, rows, names, index, self._first, self._stop))
        )

    def rows(self, name: str, rows: Rows) -> NDArray[Any]:
        """Steps of one field as they are stored: of one of any length, where the values lie, int64 of shape
        (steps, 2), begin and end of each."""
        self.check_open()
        column, first = self.column(name), self._first
        if not first and type(rows) is np.ndarray and rows.dtype is INT64 and rows.ndim == 1:
            try:  # the column looks at the numbers too, and twice takes half as long as bringing the rows
                return column.take(rows)
            except (IndexError, ValueError):  # some are negative, or wrong
                pass
        return _taken(column, wanted_rows(rows, first, self._stop - first))

    def _names(self, fields: Iterable[str] | None) -> list[str]:
        if fields is None:
            return list(self._schema.fields)
        wanted = {fields} if isinstance(fields, str) else set(fields)
        if wanted and wanted <= self.schema.fields.keys():  # a schema of them takes longer than reading them
            return [name for name in self.schema.fields if name in wanted]
        return list(self.schema.select(wanted).fields)

    def statistics(self, fields: Iterable[str] | None = None) -> dict[str, Any]:
        """Mean, standard deviation, smallest and largest value and count of each field, over all steps,
        element by element; of a field of any length `RaggedStatistics`, of lengths and of values."""
        from replaystore.views.statistics import of_field

        far = self._store.container.files.far
        return Named({name: of_field(self, name, far=far) for name in self._names(fields)})

    def refresh(self) -> bool:
        """Go on to the newest commit; whether there was one."""
        self.check_open()
        with self.turn:
            identity, arrays = self._store.state.identity, self._store.state.arrays
            moved = self._store.refresh()
            if moved:
                self._store.keep_tails()
                rolled_back = self._store.state.identity != identity
                if rolled_back:
                    self._forget_columns()
                if rolled_back or self._store.state.arrays != arrays:
                    self._document = documents.parse(self._store.container.document(), self.where)
                    self._schema = self._visible_schema()
                self._moved()
            return moved

    def close(self) -> None:
        """Release files and memory."""
        if not self._closed:
            self._closed = True
            self._forget_columns()
            if self._store.cache is not None:
                self._store.cache.close()
            self._store.close()


def _runs_of(view: BufferReader, names: Iterable[str], runs: Sequence[range]) -> Iterable[NDArray[Any]]:
    """Rows of some fields, run behind run."""
    columns = [view.column(name) for name in names]
    apart = any(run.step > 1 for run in runs)
    if apart or (len(runs) > 1 and view.store.container.files.far):  # one round for all of them
        return read_together(columns, np.concatenate([np.arange(r.start, r.stop, r.step) for r in runs]))
    pieces = [read_together(columns, slice(run.start, run.stop)) for run in runs]
    return (
        pieces[0] if len(pieces) == 1 else [np.concatenate(several) for several in zip(*pieces, strict=True)]
    )


def _trajectory(view: BufferReader, number: int, names: Sequence[str]) -> Trajectory:
    table = view.trajectories
    if not -len(table) <= number < len(table):
        raise IndexError(
            f"trajectory {number}: there are {len(table)} trajectories, and the first is number 0"
        )
    info = table[int(number)]
    runs = view.parts.rows_of(info["trajectory"])
    found = zip(names, _runs_of(view, names, runs), strict=True)
    columns = _with_values(view, dict(found))
    observations = view.schema.names("observation")
    final = view.final_observation(info["trajectory"])
    following = followed_within(view, info["trajectory"], observations)
    if final is not None and runs:
        following[sum(map(len, runs)) - 1] = final
    shown = final["observation"] if final is not None and observations == ("observation",) else final
    return Trajectory(info, columns, shown, following)


def _read(
    view: BufferReader, rows: Any, names: Sequence[str], index: Any, first: int, stop: int
) -> dict[str, Any]:
    """Steps as they are stored, of those from `first` to before `stop`, whatever another thread goes on to
    meanwhile."""
    if index is not None and rows is None:
        rows, gone = positions_of(index, first, stop)
        if gone.any():
            raise EvictedError(f"{view.where}: steps before {first} have left the ring")
    elif rows is None or index is not None:
        raise ArgumentError("read takes rows, or index=: one of the two")
    wanted = wanted_rows(rows, first, stop - first)
    column = view.column
    if not view.store.container.files.far:
        if type(wanted) is slice:
            return {name: column(name).read(wanted.start, wanted.stop) for name in names}
        return {name: column(name).take_within(wanted, first, stop) for name in names}
    found = read_together([column(name) for name in names], wanted)
    return dict(zip(names, found, strict=True))


def _with_values(view: Shown, found: dict[str, Any]) -> dict[str, Any]:
    """What was read of fields, with the values of those of any length."""
    for name in found.keys() & view.schema.ragged.keys():
        found[name] = view.values_of(name).take(found[name])
    return found


def _not_a_name(given: object, fields: Iterable[str]) -> str:
    """What to write instead of `buffer[steps]`."""
    steps, rows = "rows", "rows"
    if isinstance(given, slice):
        bounds = (given.start, given.stop, given.step)[: 2 if given.step is None else 3]
        steps = ":".join("" if bound is None else str(bound) for bound in bounds)
        rows = f"slice({', '.join(map(str, bounds))})"
    elif isinstance(given, int | np.integer):
        steps, rows = str(given), f"[{given}]"
    name = next(iter(fields))
    return (
        f"buffer[...] takes the name of a field ({listed(fields)}); steps are read by "
        f"buffer.read({rows}), "
        f"those of one field by buffer[{name!r}][{steps}], those of a trajectory by buffer.trajectory(i)"
    )


def positions_of(index: Any, first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The positions, in a buffer with these rows, of steps that are given by the numbers that they have for
    ever; and which of all have left it. IndexError: there are no such steps."""
    given = array_of("index", index)
    if not given.size and given.ndim == 1:
        given = given.astype(np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ArgumentError(f"index is a flat array of integers, not {given.dtype} of shape {given.shape}")
    if len(given) and not 0 <= given.min() <= given.max() < stop:
        raise IndexError(
            f"index from {given.min()} to {given.max()}: rows end before {stop}, as far as this buffer shows "
            "them; what a live sampler has shown is read after the next commit"
        )
    numbers = given.astype(np.int64, copy=False)
    gone = numbers < first
    return numbers[~gone] - first, gone


def wanted_rows(rows: Rows, first: int, count: int) -> slice | NDArray[np.int64]:
    """The rows of arrays that these steps of a buffer are, which begins with row `first`: a slice with a step
    of 1, or numbers."""
    if isinstance(rows, slice):
        start, stop, step = rows.indices(count)
        if step == 1:
            return slice(first + start, first + max(start, stop))
        rows = np.arange(start, stop, step)
    wanted = rows if type(rows) is np.ndarray else array_of("rows", rows)
    # Nearly always. As unsigned numbers the negative ones are the largest: one comparison for both ends.
    if wanted.dtype == INT64 and wanted.ndim == 1 and len(wanted) and _largest(wanted) < count:
        return wanted + first if first else wanted
    if wanted.dtype == np.bool_ and wanted.shape == (count,):
        wanted = np.flatnonzero(wanted)
    if wanted.size == 0:
        wanted = wanted.astype(np.int64)
    if wanted.dtype == np.bool_ and wanted.ndim == 1:
        raise ArgumentError(f"a mask has one value for each of {count} steps, not {len(wanted)}")
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


def _largest(numbers: NDArray[np.int64]) -> int:
    found: int = np.maximum.reduce(numbers.view(np.uint64))
    return found


def _taken(column: ArrayColumn, wanted: slice | NDArray[np.int64]) -> NDArray[Any]:
    return column.read(wanted.start, wanted.stop) if type(wanted) is slice else column.take(wanted)
