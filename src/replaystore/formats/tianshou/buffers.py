"""The HDF5 files of Tianshou: `save_hdf5` of a ReplayBuffer or a VectorReplayBuffer, never unpickled.

| in the file                    | in a buffer                                                              |
|--------------------------------|--------------------------------------------------------------------------|
| _meta/obs, _meta/act, _meta/rew | `observation`, `action`, `reward`; groups of them are Dicts             |
| _meta/terminated, truncated    | `terminated`, `truncated`, which are where trajectories end              |
| _meta/done                     | either of them; where it is not, a field                                 |
| _meta/obs_next                 | the next row, and at ends the final observation; if neither, a field     |
| _meta/info/…, _meta/policy/…   | `info/…`; fields of their own names                                      |
| _insertion_idx, _size          | where a ring begins: rows come in the order in which they were added     |
| _offset, _lengths, last_index  | the rings of the environments of a VectorReplayBuffer                    |

Only rows that are in use are read. What Tianshou has pickled is left out, and that is said. A buffer is
written as one ReplayBuffer that is full, with what Tianshou has no place for in the group `replaystore`,
which it keeps without looking at it; a trajectory that was only cut off is truncated there, so that it does
not go on with the next one.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.report import Fate, Report, derived, lost
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.arrays import Column, Flat, as_flags
from replaystore.formats.shared.flat.names import own_name
from replaystore.formats.shared.flat.reading import flat_as_kept
from replaystore.formats.shared.hdf5.columns import column_of
from replaystore.formats.shared.hdf5.format import Hdf5Format
from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.hdf5.kept import kept_in
from replaystore.formats.shared.hdf5.writing import NewGroup
from replaystore.formats.shared.kept import Kept
from replaystore.formats.shared.pickles.reading import scan
from replaystore.formats.source import Block, Source
from replaystore.formats.tianshou.writing import KEPT_IN, NAMES, NEXT, fill
from replaystore.schema.names import join_path
from replaystore.schema.roles import FLAGS

__all__ = ["Tianshou"]

MOST_RINGS = 1 << 16
SMALL = 4096


class Tianshou(Hdf5Format):
    """The format, as `replaystore.formats` knows it."""

    example = "buffer.hdf5"

    def source(self, held: Group, path: str) -> Source:
        return _Saved(held, path).source()

    def is_one(self, held: Group) -> bool:
        return held.may_have("_meta") and held.may_have("_indices")

    def told(self, chosen: Chosen, path: str) -> Report:
        report = chosen.report()
        if not chosen.schema.names("reward"):
            report.remarks.append("there are no rewards: Tianshou sees zeros")
        return report

    def put(self, root: NewGroup, chosen: Chosen) -> None:
        fill(root, chosen)


# --- reading


@dataclass(frozen=True)
class _Ring:
    """Rows [offset, offset + room), of which `used` are, the oldest one being `begin` from the offset."""

    offset: int
    room: int
    used: int
    begin: int

    def column(self, rows: Dataset) -> Column:
        """A dataset as a column of the rows in their order."""

        def read(start: int, stop: int) -> NDArray[Any]:
            low, high = self.begin + start, self.begin + stop
            first = rows.read(self.offset + min(low, self.room), self.offset + min(high, self.room))
            if high <= self.room:
                return first
            more = rows.read(self.offset + max(0, low - self.room), self.offset + high - self.room)
            return np.concatenate([first, more])

        return Column(rows.dtype, rows.shape[1:], self.used, read, rows.where)


class _Saved:
    """A buffer that was saved."""

    def __init__(self, root: Group, path: str) -> None:
        self._root, self._path = root, path
        self._known = root.attributes
        self._meta = root.group("_meta")
        self._rings = self._found_rings()
        self._fates: dict[str, Fate] = {}
        self._rest: dict[str, Fate] = {}
        self._remarks: list[str] = []

    def _number(self, name: str, low: int, high: int) -> int:
        value = self._known.get(name)
        if value is None:
            value = self._known[name] = self._pickled(name)
        if type(value) is not int or not low <= value <= high:
            raise FormatError(
                f"{self._path}: {name} is {value!r:.40}, not an integer from {low} to {high}: the file is "
                "damaged, "
                "or no buffer of Tianshou"
            )
        return value

    def _pickled(self, name: str) -> Any:
        """A number of NumPy, which is what numbers are that Tianshou has loaded once, and which it pickles;
        None: there is none."""
        rows = self._root.get(name)
        if (
            not isinstance(rows, Dataset)
            or rows.kind != "numbers"
            or len(rows.shape) != 1
            or rows.rows > SMALL
        ):
            return None
        with tempfile.TemporaryFile() as file:
            file.write(rows.read().tobytes())
            file.flush()
            found = scan(file.fileno(), file.tell(), rows.where, "Tianshou", lambda _: False)
        return found.item() if isinstance(found, np.generic) else found

    def _found_rings(self) -> list[_Ring]:
        room = self._number("maxsize", 0, 1 << 48)
        offsets = self._root.get("_offset")
        if offsets is None:
            used = self._number("_size", 0, room)
            position = self._number("_insertion_idx", 0, max(0, room))
            return [_Ring(0, room, used, position % room if room and used == room else 0)]
        begins = self._numbers("_offset")
        lengths, last = self._numbers("_lengths"), self._numbers("last_index")
        if not len(begins) == len(lengths) == len(last) <= MOST_RINGS or not len(begins):
            raise FormatError(
                f"{self._path}: _offset, _lengths and last_index do not fit together: it is damaged"
            )
        rings, stops = [], [*begins[1:], room]
        for at, stop, used, newest in zip(begins, stops, lengths, last, strict=True):
            inside = 0 <= at < stop <= room and 0 <= used <= stop - at
            if not inside or not (at <= newest < stop or not used):
                raise FormatError(f"{self._path}: its rings do not fit into its {room} rows: it is damaged")
            size = stop - at
            rings.append(_Ring(at, size, used, (newest + 1 - at) % size if used == size else 0))
        return rings

    def _numbers(self, name: str) -> list[int]:
        rows = self._root.dataset(name)
        if (
            rows.kind != "numbers"
            or rows.dtype.kind not in "iu"
            or len(rows.shape) != 1
            or rows.rows > MOST_RINGS
        ):
            raise FormatError(f"{rows.where} is no list of numbers: the file is damaged")
        found: list[int] = rows.read().tolist()
        return found

    def source(self) -> Source:
        datasets = {name: rows for name, rows in self._meta.walk() if rows.kind != "empty"}
        kept = kept_in(self._root, KEPT_IN)
        if kept is not None:
            flat = self._as_kept(datasets, kept)
            if flat is not None:
                return kept.source(flat.blocks, flat.remarks)
            self._remarks.append("it was changed since replaystore wrote it: what was kept in it is left out")
        room = self._rings[-1].offset + self._rings[-1].room
        arrays: dict[str, Dataset] = {}
        for name, rows in datasets.items():
            if rows.kind != "numbers" or not rows.shape or _type_of(rows) == "pickled_ndarray":
                self._fates[name] = lost("it is pickled, and nothing is unpickled here")
            elif rows.rows != room:
                raise FormatError(
                    f"{rows.where} has {rows.rows} rows, and the buffer {room}: the file is damaged"
                )
            elif _type_of(rows) in ("ndarray", "Tensor"):
                arrays[name] = rows
            else:
                self._fates[name] = lost("it is pickled, and nothing is unpickled here")
        for name in ("buffers", "_random_state"):
            if self._root.may_have(name):
                self._rest[name] = lost("it is pickled, and nothing is unpickled here")
        flats = [self._flat(ring, arrays) for ring in self._rings]
        self._note_ring(flats)
        return Source(
            flats[0].schema(),
            lambda most: self._blocks(flats, most),
            steps=sum(ring.used for ring in self._rings),
            fields=self._fates,
            rest=self._rest,
            remarks=self._remarks,
        )

    def _flat(self, ring: _Ring, arrays: Mapping[str, Dataset]) -> Flat:
        flat = Flat({})
        for name, rows in arrays.items():
            top, _, below = name.partition("/")
            keys = below.split("/") if below else []
            column = ring.column(rows)
            if top in ("obs", "act", "rew"):
                field = {"obs": "observation", "act": "action", "rew": "reward"}[top]
                flat.columns[join_path(field, *keys)] = column
            elif name in FLAGS:
                flat.columns[name] = as_flags(column)
            elif top == NEXT:
                flat.following[join_path("observation", *keys)] = column
            elif top == "info" and keys:
                flat.columns[join_path("info", *keys)] = column
            elif name != "done":
                flat.columns[own_name(name)] = column
        if "done" in arrays:
            self._look_at_done(flat, ring.column(arrays["done"]))
        if not flat.columns:
            raise FormatError(f"{self._path} is a buffer that nothing was ever added to")
        flat.settle_following(lambda name: own_name(name.replace("observation", NEXT, 1)))
        return flat

    def _look_at_done(self, flat: Flat, column: Column) -> None:
        """`done` is either flag, or a field."""
        flags, step = [flat.columns[name] for name in FLAGS if name in flat.columns], 1 << 20
        same = bool(flags) and column.dtype == np.bool_
        for start in range(0, column.count, step) if same else ():
            stop = min(start + step, column.count)
            either = np.logical_or.reduce([flag.read(start, stop) for flag in flags])
            same = same and np.array_equal(column.read(start, stop), either)
        if same:
            self._fates["done"] = derived("it is terminated or truncated")
        else:
            self._fates.pop("done", None)
            flat.columns["done"] = column
            flat.ends.append(as_flags(column))

    def _note_ring(self, flats: list[Flat]) -> None:
        """What the reader should know of the rings."""
        if any(flat.columns.keys() != flats[0].columns.keys() for flat in flats):
            for flat in flats:  # one with next observations of its own makes them so for all
                for name, column in list(flat.following.items()):
                    flat.columns[own_name(name.replace("observation", NEXT, 1))] = column
                flat.following.clear()
        self._remarks += list(dict.fromkeys(remark for flat in flats for remark in flat.remarks))
        if any(ring.begin for ring in self._rings):
            self._remarks.append("the ring went round: the beginning of its oldest trajectory may be gone")
        if self._number("stack_num", 1, 1 << 20) > 1:
            self._remarks.append("Tianshou stacks frames when it samples: here they are as they were stored")
        for flat, ring in zip(flats, self._rings, strict=True):
            if ring.used and not any(bool(flags.read(ring.used - 1, ring.used)[0]) for flags in _flags(flat)):
                self._rest["open"] = lost("trajectories that were going on are cut off")

    def _blocks(self, flats: list[Flat], max_bytes: int) -> Iterator[Block]:
        for env, flat in enumerate(flats):
            flat.remarks.clear()
            for block in flat.blocks(max_bytes):
                yield replace(block, env=env) if env else block
            self._remarks += flat.remarks

    # --- what we wrote

    def _as_kept(self, datasets: Mapping[str, Dataset], kept: Kept) -> Flat | None:
        """The arrays that were kept; None: they are not what they were."""
        if self._known.get("_size") != kept.steps or len(self._rings) != 1 or self._rings[0].begin:
            return None
        if _summed(datasets, kept.steps) != kept.more.get("sum"):
            return None
        columns = {
            name: column_of(rows) for name, rows in datasets.items() if rows.kind == "numbers" and rows.shape
        }
        return flat_as_kept(columns, kept, lambda place: NEXT + place.removeprefix(NAMES["observation"]))


def _type_of(rows: Dataset) -> str:
    """What Tianshou calls the type of an array."""
    told = rows.attributes.get("__data_type__", "ndarray")
    return told if isinstance(told, str) else ""


def _flags(flat: Flat) -> list[Column]:
    return [flat.columns[name] for name in FLAGS if name in flat.columns] + flat.ends


def _summed(datasets: Mapping[str, Dataset], count: int) -> list[int] | None:
    """Checksums of what changes when anything is added; None: something is missing."""
    sums = []
    for name in FLAGS:
        found = 0
        rows = datasets.get(name)
        if rows is None or rows.kind != "numbers" or rows.shape != (count,):
            return None
        for start in range(0, count, 1 << 20):
            found = zlib.crc32(rows.read(start, start + (1 << 20)).tobytes(), found)
        sums.append(found)
    return sums
