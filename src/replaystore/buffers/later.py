"""What comes later than the steps of a buffer: fields, values of fields that are mutable, columns of the
table of trajectories, and other metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.buffers.late_fields import (
    Steps,
    blocks_of_steps,
    check_late,
    filled,
    given_values,
    values_of,
)
from replaystore.buffers.placing import as_stored
from replaystore.buffers.writing import Recording
from replaystore.errors import ArgumentError, ConflictError, SchemaError, UnsupportedError
from replaystore.schema import tree
from replaystore.schema.fields import Field
from replaystore.schema.names import listed
from replaystore.schema.ragged import Ragged
from replaystore.schema.values import array_of
from replaystore.views.layout import late_specs
from replaystore.views.ragged_column import not_set
from replaystore.views.reader import positions_of, wanted_rows

__all__ = ["LaterFields"]


class LaterFields(Recording):
    """What can be written to a buffer, later than its steps too."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's own metadata (JSON); assign a dict to replace it."""
        return dict(self._document.user)

    @metadata.setter
    def metadata(self, value: Mapping[str, Any]) -> None:
        self._writable()
        if not isinstance(value, Mapping):
            raise SchemaError(f"metadata are a dict, not a {type(value).__name__}")
        self._replace_metadata(dict(value))

    def _replace_metadata(self, value: dict[str, Any]) -> None:
        with self._operations("metadata"):
            self._replace_document(user=value)

    def _rows_to_set(self, rows: Any) -> NDArray[np.int64]:
        """The numbers of the rows that an index of steps names."""
        one = isinstance(rows, int | np.integer) and not isinstance(rows, bool | np.bool_)
        wanted = wanted_rows(np.array([rows]) if one else rows, self.first_row, len(self))
        return np.arange(wanted.start, wanted.stop) if isinstance(wanted, slice) else wanted

    def set_rows(self, name: str, rows: Any, values: Any, in_place: bool) -> None:
        """Give steps of a mutable field other values, as `Column.__setitem__` says; `in_place`: these were
        made of what was read there. SchemaError: the values do not fit; UnsupportedError: the field is not
        mutable."""
        declared = self._mutable(name)
        wanted = self._rows_to_set(rows)
        if in_place and np.isin(wanted, self._recorder.store.waiting_changes(tree.steps(name))).any():
            raise ConflictError(
                f"{self._place}: {name!r} of these steps was set since the last commit, and is read as it "
                "was before: commit() first, and then change it in place"
            )
        uncommitted = self.rows_recorded - self._stop
        more = (
            f" ({uncommitted} more are not committed yet: set_values({name!r}, range({self._stop}, "
            f"{self.rows_recorded}), values) sets those)"
            if uncommitted
            else ""
        )
        self._set(name, wanted, given_values(name, declared, values, len(wanted), more))

    def set_values(self, name: str, index: Any, values: Any) -> int:
        """As `buffer[name][rows] = values`, of steps that are given by the numbers that they have for ever,
        as `batch["index"]` of a sampler: what has left a ring is passed over. How many of them have.

        Steps that no commit has can be set too: a rollout whose first step was `rows_recorded` when it began
        is `range(begin, buffer.rows_recorded)`."""
        if not isinstance(name, str):
            raise ArgumentError(f"set_values takes the name of a field, not {name!r:.80}")
        declared = self._mutable(name)
        positions, gone = positions_of(index, self._first, self.rows_recorded)
        given = given_values(name, declared, values, len(gone))
        self._set(name, positions + self._first, given[~gone])
        return int(np.count_nonzero(gone))

    def _mutable(self, name: str) -> Field:
        """The declaration of a field whose values can be set. UnsupportedError: they cannot."""
        self._writable()
        if name not in self.schema.fields:
            self.schema.select([name])  # which says what there is
        declared = self.schema.fields[name]
        if declared.ragged:
            raise not_set(self.where, name)
        if not declared.mutable:
            raise UnsupportedError(
                f"{self._place}: {name!r} is what was recorded, and is not set again: declare a field with "
                "mutable=True, or add one for it with buffer.add_field(name, "
                "replaystore.Field(dtype, shape, 'extra', mutable=True), values=...)"
            )
        if self.layout == "archive":
            raise UnsupportedError(
                f"{self._place}: nothing is changed in an archive: convert it to a live buffer, and set "
                f"{name!r} there"
            )
        return declared

    def _set(self, name: str, wanted: NDArray[np.int64], given: NDArray[Any]) -> None:
        with self._operations("set values"):
            for writer in self._writers:
                writer.hand_over()
            self._lock.check(often=True)
            if len(wanted):
                self._recorder.set_values(name, wanted, given)

    def set_trajectory_column(self, name: str, values: Any) -> None:
        """Set a column of the table of trajectories: one number or bool for each that has ended (for "split"
        one string each).

        A new name makes a new column; trajectories that end later have NaN, 0 or False there until it is set
        again."""
        self.set_trajectory_columns({name: values})

    def set_trajectory_columns(self, columns: Mapping[str, Any]) -> None:
        """Set several columns in one commit; none is set if one of them does not fit."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        self.commit()
        ended = self._store.table(tree.trajectories("trajectory"))
        # In a ring: those of which a step is left.
        at = np.flatnonzero(np.isin(ended, self.parts.trajectory))
        at += self._store.first(tree.trajectories("trajectory"))
        given = {name: array_of(f"column {name!r}", values) for name, values in columns.items()}
        with self._operations("set_trajectory_column"):
            self._recorder.set_columns(at, given)
            with self.turn:
                self._commit()

    def add_field(
        self,
        name: str,
        declared: Field,
        *,
        values: Any = None,
        fill: Any = 0,
        storage: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a field. The steps that there are get `values`, or else the number `fill`; the field is there
        for good with the next commit.

        Args:
            values: an array of one value for each step that is kept, the oldest first (of values of any
                length a list), or whatever has a shape and gives slices of one, or a function that makes the
                values of a block of steps: `lambda steps: steps["reward"] * 2`. What was recorded is
                committed first. If anything is wrong with them, or the function raises, the field is not
                there.
            fill: one number, which the dtype holds; a value of any length is empty instead. Final
                observations so far have it too, and zeros if `values` are given.
            storage: settings as for `create`: `{"codec": "zstd:1"}`; raw by default.
        """
        self.add_fields(
            {name: declared},
            values={} if values is None else {name: values},
            fill={} if values is not None and type(fill) is int and fill == 0 else {name: fill},
            storage={} if storage is None else {name: storage},
        )

    def add_fields(
        self,
        declared: Mapping[str, Field],
        *,
        values: Mapping[str, Any] | None = None,
        fill: Mapping[str, Any] | None = None,
        storage: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Add several fields at once, in much less time than one by one; `values`, `fill` and `storage` as
        those of `add_field`, by name."""
        self._writable()
        assert isinstance(self._store, ArrayStore)
        given = {"declared": declared, "values": values or {}, "fill": fill or {}, "storage": storage or {}}
        for argument, value in given.items():
            if not isinstance(value, Mapping):
                raise ArgumentError(
                    f"add_fields: {argument} must be a dict from names, not {type(value).__name__} "
                    f"{value!r:.80}"
                )
        schema = self.schema.with_fields(declared)
        check_late(given["values"], given["fill"], declared)
        fills = {
            name: filled(name, declared[name], value)
            for name, value in given["fill"].items()
            if not declared[name].ragged  # which are empty as they come
        }
        specs = late_specs(
            declared,
            self._store.container.capabilities,
            capacity=self.capacity,
            storage={name: {"codec": "raw", **given["storage"].get(name, {})} for name in declared}
            | {name: value for name, value in given["storage"].items() if name not in declared},
        )
        with self._operations("add_fields"):
            for writer in self._writers:
                writer.hand_over()
            observed = any(field.role == "observation" for field in declared.values())
            if values or observed or any(spec.codec is not None for spec in specs.values()):
                with self.turn:
                    self._commit()
        makers = {
            name: values_of(name, declared[name], value, len(self)) for name, value in given["values"].items()
        }
        with self._operations("add_fields"):
            self._recorder.create_fields(specs, fills, makers)
        try:
            self._bring_values(declared, makers)
            with self._operations("add_fields"):
                self._replace_document(schema=schema)
                self._recorder.add_fields(schema)
                self._schema = schema
                for writer in self._writers:
                    writer.take_schema(schema)
        except BaseException:
            if not self._operations.interrupted:
                self._store.forget_arrays(specs)
            raise
        if any(declared[name].ragged for name in makers):  # a commit says which values can be read
            with self._operations("add_fields"), self.turn:
                self._commit()

    def _bring_values(
        self, declared: Mapping[str, Field], makers: Mapping[str, Callable[[Steps], NDArray[Any] | Ragged]]
    ) -> None:
        """Append the values of fields that lack them."""
        assert isinstance(self._store, ArrayStore)
        if not makers:
            return
        staged = [writer.staged for writer in self._writers]
        self._bringing = True
        try:
            for start, stop in blocks_of_steps(self, declared):
                steps, block = Steps(self, start, stop), dict[str, NDArray[Any]]()
                for name, make in makers.items():
                    block |= as_stored(self._store, name, make(steps))
                with self._operations("add_fields"):
                    self._store.append(block)
        finally:
            self._bringing = False
        if staged != [writer.staged for writer in self._writers]:
            raise ConflictError(
                f"{self._place}: steps were recorded while values of {listed(makers)} were made: record none "
                "then"
            )
