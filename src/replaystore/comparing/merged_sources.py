"""What several buffers have in common, and what each has of its own: schemas, columns, environments,
metadata, and where they come from. ArgumentError and SchemaError say in which two what differs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from replaystore.buffers.buffer import Buffer
from replaystore.containers.array_spec import ArraySpec
from replaystore.converting.apart import check_apart
from replaystore.errors import ArgumentError, SchemaError, UnsupportedError
from replaystore.formats import finding
from replaystore.formats.report import Fate, changed
from replaystore.location import Location
from replaystore.registry import entry
from replaystore.schema import tree
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.names import listed

__all__ = [
    "MERGED",
    "NAME_ANOTHER",
    "NUMBER",
    "SOURCE",
    "Common",
    "blank",
    "check_target",
    "columns_of",
    "common_schema",
    "told_of",
    "user_columns",
    "was_merged",
]

MERGED = "merged"
"""The format that the provenance of a merged store names."""
SOURCE, NUMBER = "source", "source_trajectory"
"""Columns of a merged store: which of `provenance["source"]["sources"]` a trajectory comes from, and the
number that it had there."""


NAME_ANOTHER = "name a new store last"
Side = tuple[str, Buffer]
"""What the user calls a source, and the buffer that it is."""


def check_target(
    sources: Sequence[Any],
    formats: Sequence[str | None],
    target: str | os.PathLike[str] | Location,
    *,
    overwrite: bool,
) -> None:
    """ArgumentError, SchemaError: the target is to be a file of other software, or is one of the sources, or
    lies in one."""
    for source, format_ in zip(sources, formats, strict=True):
        one = source.whereabouts.path if isinstance(source, Buffer) else source
        if isinstance(target, Location) or isinstance(one, Location):
            continue
        if os.path.realpath(one) == os.path.realpath(target):
            raise ArgumentError(f"{target} is one of the sources: {NAME_ANOTHER}")
        check_apart(source, format_, target, overwrite=overwrite)
    name = None if isinstance(target, Location) else finding.find_target(target)
    if name is not None:
        what = entry("formats", name).what or f"a file of {name}"
        raise ArgumentError(
            f"{target} names {what}, and merge makes stores: {NAME_ANOTHER}, ending in .zarr or .h5, and "
            "convert that"
        )


def common_schema(sides: Sequence[Side], remarks: list[str]) -> Schema:
    """The schema of all of them. SchemaError: two differ, and the message says in which field."""
    _, first = sides[0]
    fields = dict(first.schema.fields)
    for where, other in sides:
        if other.document.hidden:
            name, word = next(iter(other.document.hidden.items()))
            raise UnsupportedError(
                f"{where}: field {name!r} needs {word!r:.80}, which this replaystore does not know: "
                "upgrade it to merge"
            )
        _check_alike(sides[0], (where, other))
        for name, declared in other.schema.fields.items():
            known = fields[name]
            if known.space is not None and known.space != declared.space:
                remarks.append(f"the space of {name} is not the same in all sources, and is left out")
                fields[name] = known = dataclasses.replace(known, space=None)
            if declared.mutable and not known.mutable:
                fields[name] = dataclasses.replace(known, mutable=True)
    return Schema(fields, first.schema.tuples, first.schema.graphs)


def _check_alike(first: Side, other: Side) -> None:
    mine, theirs = first[1].schema, other[1].schema
    advice = "take along what they share: replaystore convert SOURCE TARGET --fields ..."
    for (here, one), (there, another) in ((first, other), (other, first)):
        only = [name for name in one.schema.fields if name not in another.schema.fields]
        if only:
            raise SchemaError(
                f"{here} has field{'s' * (len(only) > 1)} {listed(only)}, which {there} has not: {advice}"
            )
    for name, declared in mine.fields.items():
        different = _different(declared, theirs.fields[name])
        if different:
            what, one, two = different
            raise SchemaError(
                f"field {name!r} has {what} {one} in {first[0]}, and {two} in {other[0]}: they cannot "
                "be one field"
            )
    for what, paths, others in (
        ("a tuple", mine.tuples, theirs.tuples),
        ("a graph", mine.graphs, theirs.graphs),
    ):
        if paths != others:
            name = min(paths ^ others)
            place, there = (first[0], other[0]) if name in paths else (other[0], first[0])
            raise SchemaError(f"{name!r} is {what} in {place}, and none in {there}")


def _different(one: Field, two: Field) -> tuple[str, Any, Any] | None:
    for what in ("dtype", "shape", "role", "text"):
        mine, theirs = getattr(one, what), getattr(two, what)
        if mine != theirs:
            return what, mine, theirs
    return None


def user_columns(sides: Sequence[Side], remarks: list[str]) -> dict[str, ArraySpec]:
    """The columns of the user's that any of them has. SchemaError: of two of a name the kinds differ."""
    found: dict[str, tuple[ArraySpec, str]] = {}
    lacking: dict[str, list[str]] = {}
    for where, buffer in sides:
        for name, spec in columns_of(buffer).items():
            known, first = found.setdefault(name, (spec, where))
            if (known.dtype, known.shape) != (spec.dtype, spec.shape):
                raise SchemaError(
                    f"column {name!r} of the trajectories is {known.dtype} in {first}, and {spec.dtype} in "
                    f"{where}: give one of them another name"
                )
    for name in found:
        without = [where for where, buffer in sides if name not in columns_of(buffer)]
        if without:
            lacking.setdefault(", ".join(without), []).append(name)
    remarks += [
        f"{where}: no column {listed(names)}, which is empty there" for where, names in lacking.items()
    ]
    return {name: spec for name, (spec, _) in found.items()}


def columns_of(buffer: Buffer) -> dict[str, ArraySpec]:
    """The columns of trajectories that are the user's."""
    own = {
        tree.column_of(name): spec
        for name, spec in buffer.store.specs().items()
        if tree.is_trajectories(name) and spec.mutable
    }
    not_theirs = {"split", *((SOURCE, NUMBER) if was_merged(buffer) else ())}
    return {name: spec for name, spec in own.items() if name not in not_theirs}


def was_merged(buffer: Buffer) -> bool:
    """Whether it was made of several, and says of each trajectory from which."""
    known = buffer.provenance.get("source") or {}
    return known.get("format") == MERGED and {SOURCE, NUMBER} <= buffer.trajectories.columns.keys()


class Common:
    """The sections of a document that several have."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self.rest: dict[str, Fate] = {}
        self.remarks: list[str] = []
        environments = [buffer.environment for _, buffer in sides]
        self.environment = self._shared("environment", [e for e in environments if e is not None])
        if self.environment is not None:
            silent = [where for where, buffer in sides if buffer.environment is None]
            if silent:
                self.remarks.append(f"{', '.join(silent)}: not known which environment it was")
            if self.environment.get("id") is None and any(e and e.get("id") for e in environments):
                self.environment = None
        self.metadata = self._shared("metadata", [buffer.metadata for _, buffer in sides]) or {}
        foreign = [where for where, buffer in sides if buffer.document.extensions]
        if foreign:
            self.remarks.append(f"what other software keeps is left out, of {', '.join(foreign)}")

    def _shared(self, what: str, sections: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """The keys that say the same in all of them."""
        if not sections:
            return None
        shared = {
            key: value
            for key, value in sections[0].items()
            if all(key in other and other[key] == value for other in sections[1:])
        }
        differing = sorted({key for section in sections for key in section if key not in shared})
        if differing:
            self.rest[what] = changed(
                f"{listed(differing)} not the same in all sources: the provenance has each of them"
            )
        return shared


def told_of(buffer: Buffer, left_out: int) -> dict[str, Any]:
    """What the provenance says of a source."""
    return {
        "format": "replaystore",
        "location": buffer.where,
        "id": buffer.id,
        "container": buffer.whereabouts.container,
        "commit": buffer.commit_id,
        "steps": len(buffer),
        "trajectories": buffer.num_trajectories,
        "left_out": left_out,
        "environment": buffer.environment,
        "metadata": buffer.metadata,
        "ring": None if buffer.capacity is None else {"capacity": buffer.capacity},
        "provenance": buffer.provenance,
    }


def blank(spec: ArraySpec, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """So many rows of a column that nobody has set."""
    return np.full((count, *spec.shape), np.nan if spec.dtype.kind == "f" else 0, spec.dtype)
