"""Growable arrays with atomic commits, over any container: making and opening them for their one writer.

writing.py asks things of the disk, appending.py takes rows, committing.py makes commits of them, recovery.py
goes on after one, rollback.py goes back to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replaystore.arrays.appending import CHECKSUMS_SPEC
from replaystore.arrays.incomplete import missing, newest_sound
from replaystore.arrays.records import now
from replaystore.arrays.rollback import Reverter
from replaystore.arrays.state import SEALED, State
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.protocol import Container
from replaystore.errors import CorruptError

__all__ = ["ArrayStore"]


class ArrayStore(Reverter):
    """The arrays of a container, for their one writer."""

    @classmethod
    def create(
        cls,
        container: Container,
        specs: Mapping[str, ArraySpec],
        extra: Mapping[str, Any],
        *,
        durable: bool,
        commits: int | None = None,
        named: int | None = None,
        sealed: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> ArrayStore:
        """A store in an empty container, with these arrays: commit 0, durable on return. `commits`, `named`:
        how many are kept, as `keep` takes them. `sealed`: it will be, once it is filled: shards of the arrays
        are as long as these will be. `more`: what other software keeps in the log. The store has the id that
        its document says."""
        state = State(store=container.document()["id"], time=now(), extra=dict(extra), more=dict(more or {}))
        store = cls(container, state, durable=durable)
        most = max((spec.chunks_per_shard for spec in specs.values()), default=1)
        if sealed:
            rows = min(most, CHECKSUMS_SPEC.chunk_rows)
            store._checksums_spec = replace(CHECKSUMS_SPEC, chunk_rows=rows, chunks_per_shard=1)
        store.create_arrays(specs)
        store.keep(commits=commits, named=named)
        store._settle(store.state)
        with store.storage("create"):
            container.sync()
            store.state.arrays = store._new_arrays
            store._forget_pending()
            store._start_log(store.state)
            store._settings = {}
        return store

    @classmethod
    def open(cls, container: Container, *, durable: bool, back_to: int | None = None) -> ArrayStore:
        """Open for writing; what a killed writer left half-done is put in order.

        `back_to`: go back to this commit at once, without reading what only newer ones need, or damaged
        segments of the log (for repairs).
        """
        state = cls.load(container, skip_damaged=back_to is not None)
        if back_to is not None:  # what is missing is, and a newer segment may have said so
            state.pruned = max(state.pruned, min(container.segments()[0], state.commit))
        store = cls(container, state, durable=durable)
        store.check_arrays()
        lacking, whole = "", back_to is not None
        if back_to is None and not durable and state.commit > state.base:
            back_to = newest_sound(store)
            with store.storage("recover"):
                store.doubt_what_was_left()
        elif back_to is None and not container.capabilities.one_file:
            lacking = missing(store)
        if lacking:  # before anything is changed
            raise CorruptError(
                f"{lacking}; commit {state.commit}, the newest, is not whole: run `replaystore repair`"
            )
        with store.storage("recover"):
            store.cut_off_torn_record()
        if back_to is None or back_to == state.commit:
            with store.storage("recover"):
                store._resume()
                if state.unforked:
                    store._fork()
            # A sealed store is published already, and readers rely on its staying as it is.
            if state.extra.get(SEALED) is not True:
                store.publish()
        else:
            store._resume(empty=True)
            store.rollback(back_to, whole=whole, lost=True)
        with store.storage("recover"):
            store._trim()
            for group in store.state.first:
                row = store.state.needed(group)
                for name in store._row_counts(group) if row else ():
                    store._give_back(name, row)
            store._give_back_tables()
        return store
