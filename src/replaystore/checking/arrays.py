"""Checks of the arrays: that they are what the schema and the commit say, and that other software sees the
same."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from replaystore.arrays.reading import StoreReader
from replaystore.arrays.state import Stored
from replaystore.checking.findings import Findings
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Container
from replaystore.errors import ReplayStoreError
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.field import arrays_of

__all__ = ["check_arrays", "check_indexes", "check_tables"]

PUBLISHING = 5
"""How often it is looked whether a writer that publishes rows has done so."""
MOST_PROBLEMS = 100
"""Of the indexes of one array, in the report."""


def check_arrays(findings: Findings, store: StoreReader, document: documents.Document) -> bool:
    """The arrays that the commit and the schema speak of are there, and are what they say."""
    specs, sound = store.container.specs(), True
    for name, what in store.array_problems():
        findings.problem(name, f"the array {what}")
        sound = False
    for name, declared in document.steps.fields.items():
        for stored, dtype, shape in arrays_of(name, declared):
            spec = specs.get(stored)
            if spec is not None and (spec.dtype != dtype or spec.shape != shape):
                what = f"the array holds {spec.dtype} {spec.shape}, the schema says {dtype} {shape}"
                findings.problem(stored, what)
                sound = False
        if declared.ragged and tree.steps(name) in store.state.arrays and tree.values(name) not in specs:
            findings.problem(tree.values(name), "there is no array of these values")
            sound = False
    for name, spec in specs.items() if store.container.capabilities.names_dimensions else ():
        known = tree.DIMENSIONS.get(tree.group_of(name))
        if known not in (None, spec.dimension):
            findings.problem(name, f"the name of its first dimension is {spec.dimension!r}, not {known!r}")
    findings.published = store.container.published()
    for name, rows in findings.published.items() if sound else ():
        if name in store.state.arrays and rows > store.rows(name):
            what = (
                f"shows {rows} rows to other software, but the newest commit {store.state.commit} "
                f"has {store.rows(name)}"
            )
            remedy = (
                "the record of a later commit is lost: restore the commit log from a copy, or run "
                "`replaystore repair`"
            )
            if store.state.parent < store.state.commit - 1:
                what += f": a writer was killed while it went back to commit {store.state.parent}"
                remedy = "run `replaystore publish`, or open it for writing, which mends it"
            findings.problem(name, what, remedy)
    if sound:
        _check_published(findings, store)
    return sound


def _check_published(findings: Findings, store: StoreReader) -> None:
    """Other software sees as many rows of each array of a group; where shapes are in files of their own,
    a kill can part them."""
    known, behind = dict[str, int](), list[str]()
    for attempt in range(0 if store.container.capabilities.shows_at_once else PUBLISHING):
        if attempt:  # perhaps a writer is just publishing
            time.sleep(0.05)
            findings.published = store.container.published()
        known = {
            name: rows
            for name, rows in findings.published.items()
            if name in store.state.arrays and not (tree.is_checksums(name) or tree.is_journal(name))
        }
        checksums = {
            name: tree.checksums(name) for name in known if tree.checksums(name) in store.state.arrays
        }
        behind = [
            of
            for name, of in checksums.items()
            if findings.published[of] != known[name] // store.spec(name).chunk_rows
        ]
        if not behind and len({(tree.group_of(name), rows) for name, rows in known.items()}) == len(
            {tree.group_of(name) for name in known}
        ):
            return
    for group in sorted({tree.group_of(name) for name in known}):
        shown = {
            name.removeprefix(group + "/"): rows
            for name, rows in known.items()
            if tree.group_of(name) == group
        }
        if len(set(shown.values())) > 1:
            told = ", ".join(f"{name} {rows}" for name, rows in sorted(shown.items()))
            what = (
                f"other software sees different numbers of rows ({told}): a writer was killed while "
                "it published them"
            )
            findings.problem(group, what, "run `replaystore publish`, or open it for writing, which mends it")
    for name in behind:
        what = (
            f"other software sees {findings.published[name]} checksums, which are not those of the rows "
            "that it sees"
        )
        findings.problem(name, what, "run `replaystore publish`, or open it for writing, which mends it")


def check_tables(findings: Findings, store: StoreReader) -> None:
    for name in store.state.arrays:
        spec = store.container.specs()[name]
        if not spec.journaled:
            continue
        try:
            table = store.table(name)
        except ReplayStoreError as error:
            findings.problem(name, str(error))
            continue
        findings.count(table.nbytes)
        first = store.first(name) if spec.mutable else store.places.tables.get(name, Stored()).first
        rows = min(findings.published.get(name, 0), store.rows(name))
        if rows > first:
            check_indexes(findings, store.container, name, spec, first, rows)
        if rows > first and spec.mutable:
            findings.guarded(name, partial(_check_copy, findings, store, name, table, rows))


def _check_copy(findings: Findings, store: StoreReader, name: str, table: Any, rows: int) -> None:
    """What other software sees of a table is what it is."""
    first = store.first(name)
    if rows == first + len(table) and store.read_raw(name, first, rows) != table.tobytes():
        findings.problem(
            name,
            "what other software sees of this column is not what the commit says",
            "run `replaystore publish`",
        )


def check_indexes(
    findings: Findings, container: Container, name: str, spec: ArraySpec, first: int, rows: int
) -> None:
    """What other software finds chunks by; that of the last chunk is brought when its rows are
    published."""
    if findings.published.get(name, 0) > rows:  # which is a problem already, and has a remedy
        rows = rows // spec.chunk_rows * spec.chunk_rows
    for number, (where, what) in enumerate(container.index_problems(name, first, rows)):
        if number == MOST_PROBLEMS:
            findings.problem(name, "its indexes have more problems than are listed")
            break
        findings.problem(where, what)
