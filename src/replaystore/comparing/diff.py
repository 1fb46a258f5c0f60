"""The first difference between two buffers, thing by thing. Digests say which things differ, and in which
trajectories; only of these are steps read again, a few at a time.

A file of other software is compared as the store that it becomes, in a temporary folder.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.comparing.digest import Digest, digest_of
from replaystore.comparing.found import SIDES, Diff, Difference
from replaystore.comparing.steps_in_rows import in_order
from replaystore.converting.imports import bring
from replaystore.converting.options import How
from replaystore.converting.placing import between
from replaystore.errors import UnsupportedError
from replaystore.formats import finding
from replaystore.location import Location, expanded, parse
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.parts import numbers
from replaystore.views.reader import BufferReader

__all__ = ["diff"]

BLOCK_BYTES = 4 << 20
RAGGED_STEPS = 256
"""Steps of values of any length that are read at once."""
SEEN = "final_observation"

Place = str | os.PathLike[str] | Location | Buffer
Rows = NDArray[np.int64]


def diff(
    mine: Place,
    theirs: Place,
    *,
    fields: Iterable[str] | None = None,
    commit: int | str | None = None,
    other_commit: int | str | None = None,
) -> Diff:
    """What differs between two stores, open buffers or files of other software.

    Args:
        fields: only these, or what is below them, of both.
        commit, other_commit: as of this commit of the first one, and of the other one.

    Raises:
        NotFoundError, FormatError, CorruptError: one cannot be read. SchemaError: one has no such fields.
    """
    with _opened(mine, commit) as left, _opened(theirs, other_commit) as right:
        names = None if fields is None else list(fields)
        here, there = _fields(left, names), _fields(right, names)
        schema = list(_schemas(here, there))
        common = [name for name, declared in here.items() if name in there and _same(declared, there[name])]
        sides = _Side(left, common), _Side(right, common)
        counts = tuple(len(side.ids) for side in sides)
        if counts[0] != counts[1]:
            schema.append(f"there are {counts[0]} trajectories in the first, {counts[1]} in the second")
        found = _Compared(*sides)
        return Diff(schema, found.fields(), found.rest())


@contextlib.contextmanager
def _opened(place: Place, commit: int | str | None) -> Iterator[Buffer]:
    if isinstance(place, Buffer):
        yield place
        return
    name = None if isinstance(place, Location) else finding.find(place)
    if name is None:
        with open_buffer(place, commit=commit) as buffer:
            yield buffer
        return
    path = os.fspath(expanded(place))
    if commit is not None:
        raise UnsupportedError(f"{path} is a file of {name}, which has no commits")
    with between() as folder:
        store = parse(os.path.join(folder, "buffer.zarr"))
        bring(path, name, store, How(proof=False))
        with open_buffer(store) as buffer:
            yield buffer


def _fields(view: BufferReader, names: list[str] | None) -> Mapping[str, Field]:
    return view.schema.fields if names is None else view.schema.select(names).fields


def _same(mine: Field, theirs: Field) -> bool:
    return (mine.dtype, mine.shape, mine.text) == (theirs.dtype, theirs.shape, theirs.text)


def _schemas(mine: Mapping[str, Field], theirs: Mapping[str, Field]) -> Iterator[str]:
    """What differs between the fields of two schemas, in words."""
    for here, there, which in ((mine, theirs, SIDES[0]), (theirs, mine, SIDES[1])):
        for name in sorted(here.keys() - there.keys()):
            yield f"only the {which} has {name} ({_kind(here[name])})"
    for name in sorted(mine.keys() & theirs.keys()):
        if not _same(mine[name], theirs[name]):
            yield f"{name} is {_kind(mine[name])} in the first, {_kind(theirs[name])} in the second"


def _kind(declared: Field) -> str:
    if declared.text:
        return "text"
    shape = ", ".join("any length" if length is None else str(length) for length in declared.shape)
    return f"{declared.dtype.name} of shape ({shape})" if shape else declared.dtype.name


class _Side:
    """One of the two buffers."""

    def __init__(self, view: BufferReader, names: list[str]) -> None:
        self.view, self.names = view, names
        self.digest: Digest | None = digest_of(view, fields=names) if names else None
        self.table = in_order(view.trajectories.columns)
        self.ids: Rows = self.table["trajectory"]
        first = view.first_row
        gaps, lengths = view.parts.between(first, first + len(view))
        self._loose = gaps - first, lengths, np.ones_like(gaps)

    def length(self, place: int | None) -> int:
        """Steps of a trajectory that are here; None: of no trajectory."""
        return int(self._runs(place)[1].sum())

    def _runs(self, place: int | None) -> tuple[Rows, Rows, Rows]:
        if place is None:
            return self._loose
        parts = self.view.parts
        at = parts.parts_of(self.ids[place])
        return parts.start[at] - self.view.first_row, parts.length[at], parts.stride[at]

    def steps(self, name: str, place: int | None, begin: int, end: int) -> Any:
        """Some steps of a trajectory."""
        start, length, stride = self._runs(place)
        stop = np.cumsum(length)
        cut = np.clip(begin - (stop - length), 0, length)
        left = np.clip(end - (stop - length), 0, length) - cut
        kept = left > 0
        rows = numbers((start + cut * stride)[kept], left[kept], stride[kept])
        return self.view.read(rows, [name])[name]

    def seen(self, place: int) -> Mapping[str, Any]:
        """What was observed after the last step of a trajectory."""
        known = self.view.final_observation(int(self.ids[place])) or {}
        return {name: value for name, value in known.items() if name in self.names}


class _Compared:
    """Two sides, and what differs."""

    def __init__(self, mine: _Side, theirs: _Side) -> None:
        self.mine, self.theirs = mine, theirs
        self.count = min(len(mine.ids), len(theirs.ids))

    # --- steps

    def fields(self) -> dict[str, Difference]:
        """The first difference of each field."""
        left, right = self.mine.digest, self.theirs.digest
        if left is None or right is None:
            return {}
        wanted = [name for name, digest in left.fields.items() if right.fields[name] != digest]
        found: dict[str, Difference] = {}
        for place in range(self.count) if wanted else ():
            at = slice(32 * place, 32 * place + 32)
            if left.each[at] == right.each[at]:
                continue
            for name in [name for name in wanted if name not in found]:
                if (one := self._first(name, place)) is not None:
                    found[name] = one
            if len(found) == len(wanted):
                break
        return {name: found[name] for name in self.mine.names if name in found}

    def _first(self, name: str, place: int | None) -> Difference | None:
        mine, theirs = self.mine.length(place), self.theirs.length(place)
        declared = self.mine.view.schema.fields[name]
        block = RAGGED_STEPS if declared.ragged else max(1, BLOCK_BYTES // declared.row_bytes)
        for begin in range(0, min(mine, theirs), block):
            end = min(begin + block, mine, theirs)
            sides = [side.steps(name, place, begin, end) for side in (self.mine, self.theirs)]
            step = _first_row(*sides)
            if step is not None:
                at, here, there = _first_element(sides[0][step], sides[1][step])
                return Difference(name, place, begin + step, at, here, there)
        if mine == theirs:
            return None
        step = min(mine, theirs)
        longer = self.mine if mine > theirs else self.theirs
        value = _plain(longer.steps(name, place, step, step + 1)[0])
        return Difference(name, place, step, (), *((value, None) if longer is self.mine else (None, value)))

    # --- what is beside

    def rest(self) -> dict[str, Difference]:
        """The first difference of each thing beside steps."""
        found = dict(self._columns())
        left, right = self.mine.digest, self.theirs.digest
        if left is not None and right is not None:
            differ = {name for name in left.rest if left.rest[name] != right.rest.get(name)}
            if SEEN in differ and (one := self._seen()) is not None:
                found[SEEN] = one
            if "steps" in differ:
                several = [self._first(name, None) for name in self.mine.names]
                one = next((one for one in several if one is not None), None)
                found["steps"] = one or Difference("steps")
        sides = (self.mine.view, self.theirs.view)
        for name, values in (
            ("metadata", [dict(view.document.user) for view in sides]),
            ("environment", [view.environment or {} for view in sides]),
        ):
            found |= _keys(name, *values)
        return found

    def _columns(self) -> Iterator[tuple[str, Difference]]:
        mine, theirs = self.mine.table, self.theirs.table
        left_out = ("trajectory", "length", "return")
        for name in [name for name in {**mine, **theirs} if name not in left_out]:
            if name not in mine or name not in theirs:
                here, there = ("a column" if name in side else None for side in (mine, theirs))
                yield name, Difference(name, mine=here, theirs=there, column=True)
                continue
            left, right = mine[name][: self.count], theirs[name][: self.count]
            apart = np.flatnonzero(_differ(left, right))
            if len(apart):
                place = int(apart[0])
                values = _plain(left[place]), _plain(right[place])
                yield name, Difference(name, place, None, (), *values, column=True)

    def _seen(self) -> Difference | None:
        for place in range(self.count):
            mine, theirs = self.mine.seen(place), self.theirs.seen(place)
            for name in sorted({*mine, *theirs}):
                here, there = mine.get(name), theirs.get(name)
                if here is None or there is None:
                    return Difference(SEEN, place, None, (), _plain(here), _plain(there))
                if _bits(here) != _bits(there):
                    return Difference(SEEN, place, None, *_first_element(here, there))
        if len(self.mine.ids) == len(self.theirs.ids):
            said = "an observation after a step that is not the next one's"
            return Difference(SEEN, None, None, (), said, "another one, or none")
        return None


def _keys(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Difference]:
    for key in sorted({*mine, *theirs}):
        here, there = mine.get(key), theirs.get(key)
        if repr(here) != repr(there):
            return {name: Difference(f"{name}[{key!r}]", None, None, (), here, there)}
    return {}


def _first_row(mine: Any, theirs: Any) -> int | None:
    """The first step whose value differs."""
    if isinstance(mine, Ragged):
        lengths = np.flatnonzero(np.asarray(mine.lengths) != np.asarray(theirs.lengths))
        stop = int(lengths[0]) if len(lengths) else len(mine)
        values = _differ(mine[:stop].named, theirs[:stop].named)
        if values.any():
            value = int(np.argmax(values)) + int(mine.offsets[0])
            return int(np.searchsorted(mine.offsets, value, "right")) - 1
        return stop if len(lengths) else None
    apart = np.flatnonzero(_differ(mine, theirs))
    return int(apart[0]) if len(apart) else None


def _differ(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.bool_]:
    """For each row, whether a bit of it differs."""
    if mine.dtype.kind in "UTO" or mine.dtype != theirs.dtype:
        return np.asarray(mine != theirs, np.bool_)
    if not mine.size:
        return np.zeros(len(mine), np.bool_)
    sides = [
        np.ascontiguousarray(side).reshape(len(side), -1).view(np.uint8).reshape(len(side), -1)
        for side in (mine, theirs)
    ]
    return np.asarray((sides[0] != sides[1]).any(axis=1))


def _first_element(mine: Any, theirs: Any) -> tuple[tuple[int, ...], Any, Any]:
    """Where two values differ first, and what is there."""
    if isinstance(mine, str) or np.shape(mine) != np.shape(theirs) or not np.ndim(mine):
        return (), _plain(mine), _plain(theirs)
    sides = [np.ascontiguousarray(side) for side in (mine, theirs)]
    place = int(np.argmax(_differ(sides[0].reshape(-1, 1), sides[1].reshape(-1, 1))))
    at = tuple(int(index) for index in np.unravel_index(place, sides[0].shape))
    return at, _plain(sides[0][at]), _plain(sides[1][at])


def _bits(value: Any) -> bytes:
    found: bytes = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
    return found


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return value.tolist() if hasattr(value, "tolist") else value
