"""The stores that are open for reading: the newest commit of each, which is followed, and older ones.

Invariants:
1. A commit is known by the id of its store, made when that was, and its number: nobody is given anything of
   another store that has taken the place.
2. Of a commit that is not there, whatever the reason is, nobody is told that something of it was not found:
   software that reads Zarr would take that for fill values.
3. What is open for a commit stays so while somebody uses it, also if it is not among the last ones any more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.buffers.create_open import open_commit
from replaystore.errors import (
    ConflictError,
    CorruptError,
    EvictedError,
    FormatError,
    FormatVersionError,
    NotFoundError,
    ReplayStoreError,
)
from replaystore.service.refused import RefusedError
from replaystore.service.root import Root
from replaystore.views.commit_source import CommitSource
from replaystore.views.zarr_tree import ZarrTree

__all__ = ["Pin", "Readers"]

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pin:
    """A commit of a store, and of no other."""

    store: str
    id: str
    commit: int

    def __str__(self) -> str:
        return f"{self.id}.{self.commit}"

    @property
    def tag(self) -> str:
        """The strong ETag of all that does not change with it."""
        return f'"{self}"'


class _Followed:
    """A store as of its newest commit."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.buffer: Buffer | None = None
        self.where = ""


class Readers:
    """What is open for reading. Any thread may ask."""

    def __init__(self, root: Root, most: int) -> None:
        """`most`: commits that are open at a time, and stores that are followed."""
        self._root, self._most = root, most
        self._lock = threading.Lock()
        self._followed: OrderedDict[str, _Followed] = OrderedDict()
        self._pinned: OrderedDict[Pin, CommitSource] = OrderedDict()

    # --- the newest commit

    def ask(self, store: str, question: Callable[[Buffer], Answer]) -> Answer:
        """What a store answers as of its newest commit, while nobody else asks it. NotFoundError: there is
        none."""
        place = self._root.place(store)
        with self._lock:
            found = self._followed.setdefault(store, _Followed())
            self._followed.move_to_end(store)
            known = [name for name in self._followed if name != store]
            others = known[: max(0, len(self._followed) - self._most)]
        with found.turn:
            buffer = found.buffer
            if buffer is not None:
                try:
                    buffer.refresh()
                except ReplayStoreError:  # it was replaced, or is gone: opening says what
                    buffer.close()
                    buffer = found.buffer = None
            if buffer is None:
                buffer = found.buffer = open_buffer(place)
            answer = question(buffer)
        for name in others:
            self._forget(name)
        return answer

    def newest(self, store: str) -> Pin:
        """The newest commit of a store."""
        return self.ask(store, lambda buffer: Pin(store, buffer.id, buffer.commit_id))

    def named(self, store: str, name: str) -> Pin:
        """The commit that has a name ("latest": the newest), or a number. NotFoundError: there is none."""
        if name == "latest":
            return self.newest(store)
        return self.ask(
            store,
            lambda buffer: Pin(
                store, buffer.id, buffer.store.number_of(int(name) if name.isdecimal() else name)
            ),
        )

    def _forget(self, store: str) -> None:
        with self._lock:
            found = self._followed.pop(store, None)
        if found is not None:
            with found.turn:
                if found.buffer is not None:
                    found.buffer.close()
                    found.buffer = None

    # --- a commit

    def at(self, pin: Pin, question: Callable[[ZarrTree], Answer]) -> Answer:
        """What a commit answers; its buffer is the `view` of the hierarchy. RefusedError (410): it is not
        there, or not all of it."""
        try:
            return self._source(pin).ask(question)
        except (ConflictError, EvictedError, NotFoundError, FormatError) as error:
            if isinstance(error, CorruptError | FormatVersionError):
                raise
            with self._lock:
                self._pinned.pop(pin, None)
            raise _gone(pin, error) from error

    def known(self, pin: Pin) -> ZarrTree | None:
        """The hierarchy of a commit, if it is open."""
        with self._lock:
            found = self._pinned.get(pin)
        return None if found is None else found.open_tree

    def _source(self, pin: Pin) -> CommitSource:
        with self._lock:
            known = self._pinned.get(pin)
            if known is not None:
                self._pinned.move_to_end(pin)
                return known
        newest = self.newest(pin.store)
        if newest.id != pin.id:
            raise ConflictError(f"{pin.store} is another store, {newest.id}")
        source = CommitSource(open_commit, self._root.path(pin.store), pin.commit, pin.id)
        source.tree()
        with self._lock:
            known = self._pinned.setdefault(pin, source)
            while len(self._pinned) > self._most:
                self._pinned.popitem(last=False)  # closed once nobody uses it
        return known

    def close(self) -> None:
        """Close everything."""
        for store in list(self._followed):
            self._forget(store)
        with self._lock:
            sources = list(self._pinned.values())
            self._pinned.clear()
        for source in sources:
            source.end()


def _gone(pin: Pin, error: Exception) -> RefusedError:
    said = str(error).split(";")[0]
    return RefusedError(
        410,
        f"commit {pin.commit} is not there any more, or not all of it ({said}): ask for @latest",
        kind="EvictedError",
    )
