"""Setting rows of raw arrays that are there already: of a mutable field, by the next commit.

Rows that no commit has are written over in place. Those that one has stay as they are: their new values are
appended to the changes of the array (changes.py).

Invariant: a row is among the changes only if a commit has it, so that a rollback which gives up the row gives
up its changes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google_crc32c import extend
from numpy.typing import NDArray

from replaystore.arrays.changes import CHANGES, digest_of, entries_of
from replaystore.arrays.retention import Keeper
from replaystore.arrays.state import State
from replaystore.columns.changed import newest
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import PAGE, Container
from replaystore.schema import tree

__all__ = ["Changer"]

BLOCK_BYTES = 1 << 20
"""Rows in place are read and written over in blocks of so many bytes."""
CHUNK_BYTES = 1 << 15
DIGEST_ROWS = 1 << 16
"""A digest is made after so many changes, or after twice as many as the last one has."""


class Changer(Keeper):
    """A store that takes rows, and other values of those that it has."""

    def __init__(self, container: Container, state: State, *, durable: bool) -> None:
        super().__init__(container, state, durable=durable)
        self._overwritten = set[str]()
        """Arrays of which rows that no commit has were written over."""

    def set_values(self, name: str, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Give rows of a raw array other values; of a row that is named twice the last one counts. If this
        raises, it may be done again."""
        spec = self.container.specs()[name]
        width = np.dtype((np.void, spec.row_bytes))
        data = np.ascontiguousarray(values, spec.dtype).reshape(-1).view(width)
        rows, items = newest(rows, data)
        committed = int(np.searchsorted(rows, self.state.lengths.get(tree.group_of(name), 0)))
        with self.lock, self.storage("set values"):
            if committed < len(rows):
                self._write_over(name, spec, rows[committed:], items[committed:])
            if committed:
                at, value = tree.changes_of(name)
                if at not in self._raw:
                    self.create_arrays({at: _spec(np.dtype("<i8"), ()), value: _spec(spec.dtype, spec.shape)})
                changed = items[:committed].view(spec.dtype).reshape(committed, *spec.shape)
                self.append({at: rows[:committed], value: changed})

    def waiting_changes(self, name: str) -> NDArray[np.int64]:
        """The committed rows of an array that have other values with the next commit."""
        at, _ = tree.changes_of(name)
        if at not in self._raw:
            return np.zeros(0, np.int64)
        return entries_of(self, name, self.changes(name), self._raw[at].rows)[0]

    def _write_over(self, name: str, spec: ArraySpec, rows: NDArray[np.int64], items: NDArray[Any]) -> None:
        self._overwritten.add(name)
        step, begin = max(1, BLOCK_BYTES // spec.row_bytes), 0
        while begin < len(rows):
            first = int(rows[begin])
            end = int(np.searchsorted(rows, first + step))
            stop = int(rows[end - 1]) + 1
            block = items[begin:end]
            if stop - first > end - begin:
                block = np.frombuffer(self.read_raw(name, first, stop), items.dtype).copy()
                block[rows[begin:end] - first] = items[begin:end]
            self.container.write_rows(name, first, block.view(np.uint8).data)
            begin = end

    def ready_changes(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Before a commit: sum up again what was written over, and append digests; what the commit keeps."""
        for name in self._overwritten & self._raw.keys():
            self._sum_up(name)
        self._overwritten.clear()
        digests = self._digests()
        return {**extra, CHANGES: digests} if digests else dict(extra)

    def without_old_changes(self, first: Mapping[str, int], extra: Mapping[str, Any]) -> Mapping[str, int]:
        """What a commit drops, with the changes before digests if it drops steps: then no older commit can be
        opened that needs them, but for named ones, which keep what they need."""
        known, found = self.state.first, dict(first)
        for name, (begin, _) in extra.get(CHANGES, {}).items():
            steps, group = tree.group_of(name), tree.group_of(tree.changes_of(name)[0])
            if first.get(steps, 0) > known.get(steps, 0) and begin > known.get(group, 0):
                found[group] = begin
        return found

    def _sum_up(self, name: str) -> None:
        """The checksums of the rows that no commit has; of an array that none has, those of all."""
        array, spec = self._raw[name], self._raw[name].spec
        row, crc, sums = self.rows(name), self.state.partial.get(name, 0), list[int]()
        if name in self._new_arrays:  # of a ring: shards before its window never exist
            row = self.first(name) // spec.shard_rows * spec.shard_rows
            sums = [0] * (row // spec.chunk_rows)
        while row < array.rows:
            stop = min(array.rows, (row // spec.chunk_rows + 1) * spec.chunk_rows)
            crc, row = extend(crc, self.read_raw(name, row, stop)), stop
            if row % spec.chunk_rows == 0:
                sums.append(crc)
                crc = 0
        array.crc = crc
        if sums:
            self._add_checksums({name: ()})
            self._pending[tree.checksums(name)] = [np.array(sums, np.uint32).tobytes()]

    def _digests(self) -> dict[str, list[int]]:
        """Where the digest of each array with changes lies; it is made anew where that is worth it."""
        found: dict[str, list[int]] = {}
        for name in [name for name in self._raw if tree.is_changes(name) and name.endswith("/step")]:
            of, stop = tree.changed_by(name), self._raw[name].rows
            begin, end = digest_of(self.state.extra, of, stop)
            if stop - end > max(DIGEST_ROWS, 2 * (end - begin)):
                at, value = tree.changes_of(of)
                steps, values = newest(*entries_of(self, of, begin, stop))
                kept = np.searchsorted(steps, self.first(of))
                self.append({at: steps[kept:], value: values[kept:]})
                begin, end = stop, self._raw[name].rows
            if end:
                found[of] = [begin, end]
        return found


def _spec(dtype: np.dtype[Any], shape: tuple[int, ...]) -> ArraySpec:
    """An array of changes: raw, in chunks of whole pages."""
    size = dtype.itemsize * int(np.prod(shape))
    unit = PAGE // int(np.gcd(PAGE, size))
    rows = max(unit, (1 << max(0, (CHUNK_BYTES // size).bit_length() - 1)) // unit * unit)
    return ArraySpec(dtype, shape, chunk_rows=rows, chunks_per_shard=16, dimension="change")
