"""Whether a report tells the truth: of each thing in a buffer, what it says became of it, held against what
came back. Both ways: what it does not name is the same bit for bit, what it says is lost or changed is that.
What is made up for other software may be known as such where it is read again.

A thing is what `replaystore.formats.report` names: a field, by its rows in all trajectories, or something
beside the fields. What several conversions have made of it, one behind the other, is `report.after`. Where a
report says that trajectories or steps are others, as rings have them, rows cannot be held against one
another: what is there and what is not is looked at then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.formats.report import KEPT, Fate
from replaystore.schema.fields import Schema
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.columns import RETURN, TRAJECTORIES

__all__ = ["Fates", "Things", "untrue"]

Fates = Mapping[str, Fate]
BLANK = {"seed": -1, "split": "", "env": 0, "terminated": False, "truncated": False, "open": False}
"""Columns of the table, and what stands there where nothing is known."""
NOT_COMPARED = frozenset({"trajectory", "length", RETURN})
"""Of the table: numbers are the target's own; the others follow from the steps."""


@dataclass(frozen=True)
class Things:
    """All that a buffer holds, trajectory by trajectory."""

    schema: Schema
    lengths: NDArray[np.int64]
    fields: Mapping[str, list[Any]]
    """The rows of each trajectory, by field."""
    finals: list[Mapping[str, Any] | None]
    """What was observed after the last step of each; None: nobody knows."""
    table: Mapping[str, NDArray[Any]]
    loose: Mapping[str, Any]
    """The rows of no trajectory."""
    environment: Mapping[str, Any] | None
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, buffer: Buffer) -> Things:
        """Read all of a buffer."""
        columns, parts, table = buffer.read(slice(None)), buffer.parts, buffer.trajectories
        numbers, first = table["trajectory"], buffer.first_row
        rows = [parts.rows(np.array([number])) - first for number in numbers.tolist()]
        owned = np.zeros(len(buffer), np.bool_)
        for some in rows:
            owned[some] = True
        known = buffer.environment
        return cls(
            buffer.schema,
            np.array([len(some) for some in rows], np.int64),
            {name: [_rows(values, some) for some in rows] for name, values in columns.items()},
            [buffer.final_observation(number) for number in numbers.tolist()],
            {name: values for name, values in table.columns.items() if name not in NOT_COMPARED},
            {name: _rows(values, np.flatnonzero(~owned)) for name, values in columns.items()},
            None if known is None else {key: value for key, value in known.items() if value is not None},
            dict(buffer.metadata),
        )

    def ordered(self, order: Sequence[int]) -> Things:
        """With trajectories in another order."""
        return Things(
            self.schema,
            self.lengths[list(order)],
            {name: [rows[at] for at in order] for name, rows in self.fields.items()},
            [self.finals[at] for at in order],
            {name: values[list(order)] for name, values in self.table.items()},
            self.loose,
            self.environment,
            self.metadata,
        )

    def digests(self, fates: Fates) -> list[bytes]:
        """Of each trajectory, of the fields that were kept."""
        names = sorted(name for name in self.fields if fates.get(name, KEPT).exact)
        return [
            hashlib.sha256(b"".join(_bits(self.fields[name][at]) for name in names)).digest()
            for at in range(len(self.lengths))
        ]


def _rows(values: Any, rows: NDArray[np.int64]) -> Any:
    return values.take(rows) if isinstance(values, Ragged) else values[rows]


def _bits(values: Any) -> bytes:
    """What tells values apart: dtype, shape, and every bit; NaN is NaN, and -0.0 is not 0.0."""
    if values is None:
        return b"None"
    if isinstance(values, str):
        return b"text" + values.encode("utf-8", "surrogatepass")
    if isinstance(values, Ragged):
        plain = values.compact()
        lengths = np.asarray(plain.lengths, np.int64)
        return b"ragged%d" % values.text + _bits(lengths) + _bits(np.asarray(plain.named))
    array = np.asarray(values)
    return f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return _bits(mine) == _bits(theirs)


# --- what is not so


def untrue(given: Things, found: Things, fields: Fates, rest: Fates) -> list[str]:
    """What reports say of a buffer that went through files, and is not so, a line each."""
    if rest.get("trajectories", KEPT).kind != "kept" or rest.get("steps", KEPT).kind in (
        "changed",
        "made up",
    ):
        return [*_columns(given, found, fields, whole=True)]
    if len(given.lengths) != len(found.lengths):
        return [f"{len(found.lengths)} trajectories instead of {len(given.lengths)}"]
    if not rest.get("order", KEPT).exact:
        given, found = (
            side.ordered(sorted(range(len(side.lengths)), key=side.digests(fields).__getitem__))
            for side in (given, found)
        )
    if (given.lengths != found.lengths).any():
        at = int(np.flatnonzero(given.lengths != found.lengths)[0])
        return [f"trajectory {at} has {found.lengths[at]} steps instead of {given.lengths[at]}"]
    return [
        *_columns(given, found, fields),
        *_finals(given, found, fields, rest),
        *_table(given, found, fields, rest),
        *_beside(given, found, fields, rest),
    ]


def _columns(given: Things, found: Things, fates: Fates, *, whole: bool = False) -> Iterator[str]:
    gone, new = given.fields.keys() - found.fields.keys(), found.fields.keys() - given.fields.keys()
    moved = new and any(fates.get(name, KEPT).kind == "changed" for name in gone)
    """Whether what fields held is in others now."""
    for name in sorted({*given.fields, *found.fields}):
        fate, said = fates.get(name, KEPT), _said(fates, name)
        if name in gone:
            if fate.kind != "lost" and not (moved and fate.kind == "changed"):
                yield f"field {name} is not there, and the report says {said}"
        elif fate.kind == "lost":
            yield f"field {name} is there, and the report says it is lost"
        elif name in new:
            if fate.kind == "kept" and not moved:
                yield f"field {name} was not there before, and the report says {said}"
        elif not whole:
            yield from _values(f"field {name}", given.fields[name], found.fields[name], fate, said)


def _values(what: str, mine: list[Any], theirs: list[Any], fate: Fate, said: str) -> Iterator[str]:
    """Of rows that are on both sides."""
    differing = [at for at, pair in enumerate(zip(mine, theirs, strict=True)) if not _same(*pair)]
    if fate.exact:
        if differing:
            at = differing[0]
            yield f"{what} of trajectory {at}: {_first(mine[at], theirs[at])}, and the report says {said}"
    elif fate.kind == "changed" and not differing and any(map(_length, mine)):
        yield f"{what} is the same, and the report says {said}"
    elif fate.kind == "changed" and fate.max_error is not None:
        worst = max((_error(mine[at], theirs[at]) for at in differing), default=0.0)
        if worst > fate.max_error:
            yield f"{what} differs by {worst:.6g}, and the report says by {fate.max_error:.6g} at most"


def _length(rows: Any) -> int:
    return 1 if rows is None or isinstance(rows, str | Mapping) or np.ndim(rows) == 0 else len(rows)


def _first(mine: Any, theirs: Any) -> str:
    """In what they differ."""
    if isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        if (mine.dtype, mine.shape) != (theirs.dtype, theirs.shape):
            return f"{theirs.dtype}{theirs.shape} instead of {mine.dtype}{mine.shape}"
        if mine.ndim:
            apart = [_bits(a) != _bits(b) for a, b in zip(mine, theirs, strict=True)]
            at = apart.index(True)
            return f"step {at} has {theirs[at]!r:.60} instead of {mine[at]!r:.60}"
    return f"{theirs!r:.80} instead of {mine!r:.80}"


def _error(mine: Any, theirs: Any) -> float:
    """The largest difference of numbers; infinite where there is no such thing."""
    if not isinstance(mine, np.ndarray | np.generic) or np.size(mine) != np.size(theirs):
        return np.inf
    before, now = (np.asarray(side).astype(np.longdouble).reshape(-1) for side in (mine, theirs))
    with np.errstate(all="ignore"):
        apart = np.abs(before - now)
    both = np.isfinite(before) & np.isfinite(now)
    return float(apart[both].max(initial=0.0))


def _finals(given: Things, found: Things, fields: Fates, rest: Fates) -> Iterator[str]:
    fate, said = rest.get("final_observation", KEPT), _said(rest, "final_observation")
    names = [name for name in given.schema.names("observation") if fields.get(name, KEPT).kind != "lost"]
    if fate.kind == "lost":
        if any(final is not None for final in found.finals) and any(f is not None for f in given.finals):
            yield "final observations are there, and the report says they are lost"
        return
    exact = [name for name in names if fields.get(name, KEPT).exact]
    mine, theirs = (
        [final and {name: final[name] for name in exact if name in final} for final in side.finals]
        for side in (given, found)
    )
    if exact or fate.exact:
        yield from _values("the final observation", mine, theirs, fate, said)
    for name in names:
        if (of := fields.get(name, KEPT)).max_error is not None and fate.exact:
            pairs = zip(given.finals, found.finals, strict=True)
            errors = [_error(np.asarray(a[name]), np.asarray(b[name])) for a, b in pairs if a and b]
            if max(errors, default=0.0) > (of.max_error or 0.0):
                yield f"the final observation of {name} differs by {max(errors):.6g}, which is not said"


def _table(given: Things, found: Things, fields: Fates, rest: Fates) -> Iterator[str]:
    for name in sorted({*given.table, *found.table}):
        of_fields = name in given.fields
        fates = fields if of_fields else rest
        fate, said = fates.get(name, KEPT), _said(fates, name)
        mine, theirs = given.table.get(name), found.table.get(name)
        blank = BLANK.get(name)
        if name not in TRAJECTORIES and name != "open":
            if theirs is None or mine is None:
                if (fate.kind != "lost") if theirs is None else fate.exact:
                    yield f"column {name} is {'not ' * (theirs is None)}there, and the report says {said}"
                continue
            if fate.kind == "lost":
                yield f"column {name} is there, and the report says it is lost"
                continue
        assert mine is not None
        assert theirs is not None
        if fate.kind == "lost" and not of_fields:
            if (theirs != blank).any() and (mine != blank).any():
                yield f"{name} is there ({theirs[:5]}), and the report says it is lost"
        elif of_fields and not fate.exact:
            continue  # the flags of steps are looked at as such
        else:
            yield from _values(name, [mine], [theirs], fate, said)


def _beside(given: Things, found: Things, fields: Fates, rest: Fates) -> Iterator[str]:
    whole = {
        "environment": (given.environment, found.environment),
        "metadata": (given.metadata or None, found.metadata or None),
    }
    yield from _loose(given, found, fields, rest)
    for name, (mine, theirs) in whole.items():
        fate = rest.get(name, KEPT)
        if fate.kind == "lost":
            if theirs is not None and mine is not None:
                yield f"{name} is there, and the report says it is lost"
        elif fate.exact != _same_json(mine, theirs):
            yield f"{name}: {theirs!r:.80} instead of {mine!r:.80}, and the report says {_said(rest, name)}"


def _loose(given: Things, found: Things, fields: Fates, rest: Fates) -> Iterator[str]:
    """Of rows of no trajectory."""
    fate = rest.get("steps", KEPT)
    count, now = (len(next(iter(side.loose.values()))) for side in (given, found))
    if fate.kind == "lost":
        if now and count:
            yield f"{now} steps of no trajectory are there, and the report says they are lost"
        return
    if count != now:
        yield f"{now} steps of no trajectory instead of {count}, and the report says {_said(rest, 'steps')}"
        return
    for name in sorted(given.loose.keys() & found.loose.keys()):
        if fields.get(name, KEPT).exact and not _same(given.loose[name], found.loose[name]):
            what = _first(given.loose[name], found.loose[name])
            yield f"steps of no trajectory: field {name}: {what}, and the report says nothing of it"


def _same_json(mine: Any, theirs: Any) -> bool:
    return repr(_plain(mine)) == repr(_plain(theirs))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _said(fates: Fates, name: str) -> str:
    fate = fates.get(name)
    return "nothing of it" if fate is None else f"{fate.kind}{f' ({fate.how})' if fate.how else ''}"
