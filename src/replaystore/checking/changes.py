"""Checks of the changes of mutable fields: that they are of steps that there are."""

from __future__ import annotations

from functools import partial

from replaystore.arrays.changes import digest_of, entries_of
from replaystore.arrays.reading import StoreReader
from replaystore.checking.findings import Findings
from replaystore.schema import tree

__all__ = ["check_changes"]

BLOCK_ROWS = 1 << 18


def check_changes(findings: Findings, store: StoreReader) -> None:
    for field in [name for name in store.specs() if store.changes(name)]:
        at, _ = tree.changes_of(field)
        findings.guarded(at, partial(_check, store, field, at))


def _check(store: StoreReader, field: str, at: str) -> None:
    stop = store.rows(at)
    digest_of(store.state.extra, field, stop)
    for start in range(store.first(at), stop, BLOCK_ROWS):
        entries_of(store, field, start, min(stop, start + BLOCK_ROWS))
