"""Every format that is read, every format that is written: store → file A → store → file B → store, and what
comes back is the first store, but for what the reports say. `promises.py` says how that is looked at.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from replaystore import registry
from replaystore.buffers.create_open import open as open_buffer
from replaystore.checking.verify import verify
from replaystore.converting.convert import convert
from replaystore.errors import MissingDependencyError, ReplayStoreError, SchemaError, UnsupportedError
from replaystore.formats import finding
from replaystore.formats.format import Format
from replaystore.formats.report import after, rest_after
from replaystore.registry.recognizing import recognizes
from replaystore.testing import difficult
from replaystore.testing.promises import Fates, Things, untrue

__all__ = ["Cell", "Matrix", "Outcome", "cells", "foreign", "ways"]


class Cell(NamedTuple):
    """One way: a store, the format that it goes through first (or none), and the one that it goes through
    then."""

    store: str
    first: str | None
    second: str


@dataclass(frozen=True)
class Outcome:
    """What became of a store on its way."""

    refused: str = ""
    """Why it could not be written; empty if it was."""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Leg:
    """From a store into a file, and back."""

    refused: str = ""
    problems: list[str] = field(default_factory=list)
    path: str = ""
    store: str = ""
    fields: Fates = field(default_factory=dict)
    rest: Fates = field(default_factory=dict)


def ways() -> tuple[list[str], list[str]]:
    """The formats that can be read here, and those that can be written and read."""
    formats = dict[str, Format]()
    for name in registry.registered("formats"):
        try:
            formats[name] = finding.named(name)
        except MissingDependencyError:
            continue
    reads = [name for name, known in formats.items() if known.reads()]
    return reads, [name for name in reads if formats[name].writes()]


def cells(stores: list[str]) -> list[Cell]:
    """All of the matrix: each of the stores through each pair of formats."""
    _, both = ways()
    return [Cell(store, first, second) for store in stores for first in both for second in both]


def foreign(samples: str) -> Iterator[tuple[str, str]]:
    """(format, path) of files that other software wrote, below a folder."""
    for folder, folders, files in os.walk(samples):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            known = finding.find(path)
            if known is not None and recognizes(known, path):
                yield known, path
                if name in folders:
                    folders.remove(name)


class Matrix:
    """Ways through formats, in a folder of its own. What was made once is there for other ways."""

    def __init__(self, folder: str, *, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self._things: dict[str, Things] = {}
        self._legs: dict[tuple[str, str], _Leg] = {}
        self._number = 0

    def store(self, name: str, make: Callable[[str], object] | None = None) -> str:
        """The place of a store of `DIFFICULT`, or one that `make` makes, made when it is first asked for."""
        location = os.path.join(self.folder, f"{name}.zarr")
        if location not in self._things:
            if make is None:
                difficult.made(location, name, self.seed)
            else:
                make(location)
            self._things[location] = self._read(location)
        return location

    def things(self, name: str) -> Things:
        """What is in the store of this name."""
        return self._things[self.store(name)]

    def outcome(self, cell: Cell, make: Callable[[str], object] | None = None) -> Outcome:
        """Go one way, and look at what came back."""
        begin = self.store(cell.store, make)
        names = [cell.second] if cell.first is None else [cell.first, cell.second]
        fields: Fates = {}
        rest: Fates = {}
        at = begin
        for name in names:
            way = at, name
            leg = self._legs.get(way)
            if leg is None:
                leg = self._legs[way] = self._made(at, name)
            if leg.refused or leg.problems:
                return Outcome(leg.refused, leg.problems)
            fields, rest, at = after(fields, leg.fields), rest_after(rest, leg.rest), leg.store
        found = untrue(self._things[begin], self._things[at], fields, rest)
        if len(names) > 1:  # nobody comes here again
            del self._things[at], self._legs[way]
            shutil.rmtree(os.path.dirname(at))
        return Outcome(problems=found)

    def _made(self, store: str, name: str) -> _Leg:
        self._number += 1
        room = os.path.join(self.folder, str(self._number))
        format_ = finding.named(name)
        suffix = next(iter(registry.entry("formats", name).suffixes), "")
        path = os.path.join(room, format_.example or f"file{suffix}")
        try:
            there = convert(store, path, target_format=name)
        except (UnsupportedError, SchemaError) as error:
            left = os.listdir(room) if os.path.isdir(room) else []
            return _Leg(str(error), [f"{name} refuses, and leaves {left}"] if left else [])
        except (Exception, RecursionError) as error:  # noqa: BLE001  # whatever it is, it is told
            return _Leg(problems=[f"{name} cannot write: {_told(error)}"])
        back = os.path.join(room, "back.zarr")
        try:
            if (known := finding.find(path)) != name:
                return _Leg(problems=[f"what {name} writes is taken for {known}"])
            again = convert(path, back, source_format=name)
            if unsound := verify(back).problems:
                return _Leg(problems=[f"{name}, read back: {problem}" for problem in unsound])
            self._things[back] = self._read(back)
        except (Exception, RecursionError) as error:  # noqa: BLE001  # whatever it is, it is told
            return _Leg(problems=[f"{name} cannot read what it wrote: {_told(error)}"])
        fields, rest = after(there.fields, again.fields), rest_after(there.rest, again.rest)
        found = untrue(self._things[store], self._things[back], fields, rest)
        problems = [f"through {name}: {problem}" for problem in found]
        return _Leg("", problems, path, back, fields, rest)

    @staticmethod
    def _read(location: str) -> Things:
        with open_buffer(location) as buffer:
            return Things.of(buffer)


def _told(error: BaseException) -> str:
    if isinstance(error, ReplayStoreError):
        return f"{type(error).__name__}: {error}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    name = os.path.basename(where.filename)
    return f"a traceback, {type(error).__name__}: {error} ({name}:{where.lineno} in {where.name})"
