"""The files of cpprb's `save_transitions`: an .npz with one pickled dict of arrays, a row each transition.

| in the file                    | in a buffer                                                              |
|--------------------------------|--------------------------------------------------------------------------|
| obs; obs_<key> several times   | `observation`; `observation/<key>`                                       |
| act, rew                       | `action`, `reward`; a number a step where cpprb has an array of one      |
| next_<name>                    | the next row's observation, or the one after the last step               |
| terminated, truncated          | the flags, if there are any                                              |
| done, and all else             | extra fields of the same name: `done` may stand for either flag          |

Nothing in it says which rows belong together. A trajectory goes on with the next row where the next
observation of a row is, bit for bit, the observation of that, and the row is neither done nor flagged. In a
ring that has been full the last row goes on with the first one, and where the oldest row is can be told if
one trajectory ends although it was not done; otherwise the trajectory that goes over the end comes first.

Files with `next_of` have no next observations but where `cache` says so. Those of n-step buffers have rewards
of several steps, and observations after as many: they keep their names, and the rows are one trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.cpprb.members import NAMES, Members, names_in, opened_members, rows_of
from replaystore.formats.format import Format
from replaystore.formats.report import Fate, changed
from replaystore.formats.shared.cutting import Run, cut
from replaystore.formats.shared.file_rows import BLOCK_BYTES, FileRows
from replaystore.formats.source import Block, Source
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import join_path
from replaystore.schema.roles import FLAGS, Role

__all__ = ["Cpprb"]

MOST_CACHED = 1 << 20
Rows = Callable[[int, int], NDArray[Any]]


class Cpprb(Format):
    """Such files, as replaystore knows them."""

    example = "transitions.npz"

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """The trajectories of a file."""
        with opened_members(path) as members:
            held = _held(members)
            yield _source(held)

    def recognizes(self, path: str) -> bool:
        """Whether it is an .npz with the arrays that cpprb writes."""
        return names_in(path) >= NAMES


@dataclass
class _Held:
    """What a file holds."""

    where: str
    count: int
    arrays: dict[str, FileRows]
    nexts: dict[str, Rows]
    """Of names of `arrays` what was observed after rows [start, stop)."""
    steps: bool
    """Whether a row is one step (and not several)."""
    names: dict[str, str] = field(default_factory=dict)
    """By the names of fields."""


def _held(members: Members) -> _Held:
    if members.number("version") != 1:
        raise FormatError(
            f"{members.path}: version {members.number('version')} of cpprb's files is not known"
        )
    given, descriptor = members.pickled("data")
    if not isinstance(given, dict) or not given or not all(isinstance(name, str) for name in given):
        raise FormatError(f"{members.path}: 'data' is no dict of arrays: it was not written by cpprb")
    arrays = {name: rows_of(found, descriptor, f"{members.path}, {name!r}") for name, found in given.items()}
    counts = {rows.count for rows in arrays.values()}
    if len(counts) > 1:
        raise FormatError(f"{members.path}: its arrays have {sorted(counts)} rows, and not as many each")
    steps = not members.number("Nstep")
    held = _Held(members.path, counts.pop(), arrays, {}, steps)
    if not members.number("safe"):
        _Cache(members, held).complete()
    for name in [name for name in arrays if f"next_{name}" in arrays] if steps else ():
        following = arrays[f"next_{name}"]
        if (following.dtype, following.shape) == (arrays[name].dtype, arrays[name].shape):
            held.nexts[name] = following.read
            del held.arrays[f"next_{name}"]
    held.names = _names(held)
    return held


class _Cache:
    """What a file with `next_of` says of rows that the next row says nothing of."""

    def __init__(self, members: Members, held: _Held) -> None:
        self.held, self.path = held, members.path
        given, descriptor = members.pickled("cache")
        self.next_of = members.texts("next_of")
        self.rows: dict[str, dict[int, FileRows]] = {}
        if given is None:
            given = {}
        if not isinstance(given, dict) or len(given) > MOST_CACHED:
            raise FormatError(f"{self.path}: 'cache' is no dict of rows: it was not written by cpprb")
        for row, values in given.items():
            if type(row) is not int or not 0 <= row < held.count or not isinstance(values, dict):
                raise FormatError(f"{self.path}: 'cache' has {row!r:.40}, which is no row")
            for name, found in values.items():
                self._take(str(name), row, found, descriptor)

    def _take(self, name: str, row: int, found: Any, descriptor: int) -> None:
        where = f"{self.path}, {name!r} in the cache of row {row}"
        array = self.held.arrays.get(name.removeprefix("next_") if name not in self.held.arrays else name)
        shape = getattr(found, "shape", None)
        if array is None or shape not in (array.shape, (1, *array.shape)):
            raise FormatError(f"{where} has the shape {shape!r:.60}, and belongs to no array")
        cached = FileRows(descriptor, where, array.dtype, array.shape, 1, found.offset)
        if found.dtype != array.dtype or found.items is not None:
            raise FormatError(f"{where} is {found.dtype}, and the array {array.dtype}")
        self.rows.setdefault(name, {})[row] = cached

    def complete(self) -> None:
        """Have the rows of arrays, and those after them, as they were."""
        held = self.held
        for name in self.next_of:
            if name not in held.arrays:
                raise FormatError(f"{self.path}: there is no {name!r:.60}, which is in 'next_of'")
        for name in self.next_of if held.steps else ():
            array = held.arrays[name]
            shifted = _around(array, held.count)
            held.nexts[name] = _patched(shifted, self.rows.get(f"next_{name}", {}))
        for name, rows in self.rows.items():
            if name in held.arrays:
                array = held.arrays[name]
                held.arrays[name] = _Patched(
                    array.descriptor, array.where, array.dtype, array.shape, array.count, array.offset, rows
                )


def _around(array: FileRows, count: int) -> Rows:
    """The rows after rows [start, stop), the first one after the last."""
    return lambda start, stop: array.read_around(1 % max(1, count), start, stop)


def _patched(read: Rows, rows: Mapping[int, FileRows]) -> Rows:
    """Rows, of which some are others."""
    if not rows:
        return read
    known = np.array(sorted(rows))

    def patched(start: int, stop: int) -> NDArray[Any]:
        first, last = np.searchsorted(known, [start, stop]).tolist()
        found = read(start, stop)
        if last > first:
            found = found.copy()
            for row in known[first:last].tolist():
                found[row - start] = rows[row].read(0, 1)[0]
        return found

    return patched


@dataclass(frozen=True)
class _Patched(FileRows):
    """Rows of an array, of which some are in the cache."""

    rows: Mapping[int, FileRows] = field(default_factory=dict)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return _patched(super().read, self.rows)(start, stop)


# --- fields


def _names(held: _Held) -> dict[str, str]:
    """The names of the fields, and of the arrays that they are."""
    arrays = held.arrays
    observed = [name for name in arrays if name in held.nexts] or [
        name for name in arrays if _below(name, "obs") is not None
    ]
    acted = [name for name in arrays if _below(name, "act") is not None and name not in observed]
    found = {}
    for names, prefix, role in ((observed, "obs", "observation"), (acted, "act", "action")):
        for name in names:
            below = _below(name, prefix)
            path = (role,) if len(names) == 1 and below in (None, "") else (role, below or name)
            found[join_path(*path)] = name
    if held.steps and "rew" in arrays and "rew" not in observed:
        found["reward"] = "rew"
    taken = set(found.values())
    for name in arrays:
        if name not in taken:
            top = name.split("/")[0]
            reserved = top in ("observation", "action", "reward", "info")
            found[join_path("extra", name) if reserved or name in found else join_path(name)] = name
    return found


def _below(name: str, prefix: str) -> str | None:
    """What follows "obs" or "obs_" in a name; None: it does not begin so."""
    if name == prefix:
        return ""
    return name.removeprefix(f"{prefix}_") if name.startswith(f"{prefix}_") and name != f"{prefix}_" else None


def _field(name: str, rows: FileRows) -> Field:
    """A field; what cpprb has as an array of one is a number, but for observations and continuous actions."""
    role: Role = next((r for r in _ROLES if r == name.split("/", maxsplit=1)[0]), "extra")
    if name in FLAGS:
        return Field("bool", (), role)
    keeps = role == "observation" or (role == "action" and rows.dtype.kind not in "biu")
    return Field(rows.dtype, () if rows.shape == (1,) and not keeps else rows.shape, role)


_ROLES: tuple[Role, ...] = ("observation", "action", "reward", *FLAGS)


def _source(held: _Held) -> Source:
    for name in FLAGS:
        if name in held.names and not _are_flags(held.arrays[name]):
            held.names[f"extra/{name}"] = held.names.pop(name)
    try:
        schema = Schema({name: _field(name, held.arrays[array]) for name, array in held.names.items()})
    except ValueError as error:
        raise FormatError(f"{held.where}: its arrays cannot be fields: {error}") from error
    fates: dict[str, Fate] = {
        name: changed("made bool", 0.0)
        for name in FLAGS
        if name in held.names and held.arrays[name].dtype != np.bool_
    }
    ends, remarks = _ends(held), list[str]()
    begin = _begin(held, ends, remarks)
    if "done" in held.names and held.steps:
        remarks.append("done says that a step was the last, and not whether it terminated or was truncated")
    if not held.steps:
        remarks.append("its rows are of several steps each: where trajectories end is not known")
    return Source(
        schema,
        lambda most: _blocks(held, schema, ends.breaks, begin, most),
        steps=held.count,
        fields=fates,
        remarks=remarks,
    )


def _are_flags(rows: FileRows) -> bool:
    if rows.shape not in ((), (1,)) or rows.dtype.kind == "c":
        return False
    step = max(1, BLOCK_BYTES // max(1, rows.row_bytes))
    return all(
        bool(np.isin(rows.read(start, min(start + step, rows.count)), (0, 1)).all())
        for start in range(0, rows.count, step)
    )


# --- boundaries


@dataclass
class _Ends:
    breaks: NDArray[np.bool_]
    """Whether a trajectory ends with a row."""
    said: NDArray[np.bool_]
    """Whether a flag says so."""


def _ends(held: _Held) -> _Ends:
    """Where trajectories end, the last row going on with the first one if that is so."""
    count = held.count
    said, apart = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    if not held.steps or not count:
        return _Ends(apart, said)
    flags = [held.arrays[name] for name in ("done", *FLAGS) if name in held.arrays and name in held.names]
    flags = [rows for rows in flags if rows.shape in ((), (1,))]
    width = sum(2 * held.arrays[name].row_bytes for name in held.nexts)
    step = max(1, BLOCK_BYTES // max(1, width, *(rows.row_bytes for rows in flags)))
    for start in range(0, count, step):
        stop = min(start + step, count)
        for rows in flags:
            said[start:stop] |= rows.read(start, stop).reshape(stop - start) != 0
        for name, read in held.nexts.items():
            after, following = read(start, stop), held.arrays[name].read_around(1 % count, start, stop)
            apart[start:stop] |= _differ(after, following)
    if not held.nexts:
        apart[-1] = True
    return _Ends(said | apart, said)


def _differ(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether rows differ in a bit."""
    both = (np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8) for rows in (mine, theirs))
    return np.asarray(np.not_equal(*both).any(axis=1), np.bool_)


def _begin(held: _Held, ends: _Ends, remarks: list[str]) -> int:
    """The row that comes first."""
    if held.count < 2 or ends.breaks[-1] or not held.steps:
        return 0
    unsaid = np.flatnonzero(ends.breaks & ~ends.said)
    if len(unsaid) == 1:
        return int(unsaid[0]) + 1
    at = np.flatnonzero(ends.breaks)
    if not len(at):
        return 0
    remarks.append(
        "it is a ring, and where its oldest row is cannot be told: the trajectory that goes over its end "
        "comes first"
    )
    return int(at[-1]) + 1


def _blocks(held: _Held, schema: Schema, breaks: NDArray[np.bool_], begin: int, most: int) -> Iterator[Block]:
    return cut(_runs(held, schema, breaks, begin, most))


def _runs(held: _Held, schema: Schema, breaks: NDArray[np.bool_], begin: int, most: int) -> Iterator[Run]:
    """All rows, from the oldest on."""
    fields = {name: held.names[name] for name in schema.fields}
    observed = {name: held.nexts[array] for name, array in fields.items() if array in held.nexts}
    width = sum(held.arrays[array].row_bytes * (1 + (array in held.nexts)) for array in fields.values())
    each, before = max(1, most // max(1, width)), True
    for first, last in ((begin, held.count), (0, begin)):
        for start in range(first, last, each):
            stop = min(start + each, last)
            columns = {
                name: _shaped(held.arrays[array].read(start, stop), schema.fields[name])
                for name, array in fields.items()
            }
            begins = np.concatenate([[before], breaks[start : stop - 1]]).astype(np.bool_)
            before = bool(breaks[stop - 1])
            following = {name: read(start, stop) for name, read in observed.items()} or None
            told: dict[str, Any] = {name: columns[name] for name in FLAGS if name in columns}
            yield Run(columns, begins, following=following, told=told)


def _shaped(rows: NDArray[Any], declared: Field) -> NDArray[Any]:
    """Rows as their field has them."""
    values = rows.reshape(len(rows), *declared.shape)
    return values if values.dtype == declared.dtype else values.astype(declared.dtype)
