"""A commit of a store as others read it: opened when something of it is first asked for, and again where the
store went on, so that what it shows stays the same or is not there any more.

Nobody is given rows of another store, or of another history, under the number of the commit.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from replaystore.columns.chunk_cache import ChunkCache
from replaystore.errors import ConflictError, EvictedError, NotFoundError
from replaystore.forks import renew_in_children
from replaystore.location import shown
from replaystore.views.reader import BufferReader
from replaystore.views.zarr_tree import ZarrTree

__all__ = ["CommitSource"]

Answer = TypeVar("Answer")
OpenCommit = Callable[[str, int], BufferReader]


class CommitSource:
    """A commit of a store, opened when something of it is first asked for."""

    def __init__(
        self,
        open_commit: OpenCommit,
        location: str,
        commit: int,
        identity: str,
        cache: ChunkCache | int | None = None,
    ) -> None:
        """`open_commit`: (location, commit) → a buffer that shows it. `identity`: what the store at the
        location is called in its log. `cache`: for decoded chunks, that of another buffer or one of so many
        bytes."""
        self._open_commit, self.location, self.commit, self.identity = open_commit, location, commit, identity
        self._cache = cache
        self._tree: ZarrTree | None = None
        self._release: Callable[[], object] = lambda: None
        self._ended = False
        self._opening = threading.RLock()
        renew_in_children(self, "_opening")

    def __reduce__(self) -> tuple[Any, ...]:
        limit = self._cache.limit if isinstance(self._cache, ChunkCache) else self._cache
        return type(self), (self._open_commit, self.location, self.commit, self.identity, limit)

    def ask(self, question: Callable[[ZarrTree], Answer]) -> Answer:
        """What the hierarchy answers; once more where the store went back to this commit, or to a newer one,
        while it was asked. ConflictError: the commit is not there any more, or not all of it."""
        try:
            tree = self.tree()
            try:
                return question(tree)
            except ConflictError:
                return question(self._anew(tree))
        except EvictedError as error:
            raise ConflictError(f"{error}; ask for another zarr_store() of the buffer then") from error

    @property
    def open_tree(self) -> ZarrTree | None:
        """The hierarchy, if it is open: nothing is waited for."""
        return self._tree

    def tree(self) -> ZarrTree:
        """The hierarchy. ConflictError: there is no such commit of this store any more."""
        with self._opening:
            if self._ended:
                raise ConflictError(
                    f"{shown(self.location)} is closed: open it again, and ask for another zarr_store()"
                )
            if self._tree is None:
                self._tree, self._release = self._opened()
            return self._tree

    def _anew(self, known: ZarrTree) -> ZarrTree:
        """The hierarchy, opened after `known` was. ConflictError: there is no such commit any more; what
        `known` has open stays so."""
        with self._opening:
            if self.tree() is known:
                tree, release = self._opened()
                self._release()
                self._tree, self._release = tree, release
            return self.tree()

    def _opened(self) -> tuple[ZarrTree, Callable[[], object]]:
        """The hierarchy, and what closes it."""
        try:
            view = self._open_commit(self.location, self.commit)
        except NotFoundError as error:
            raise ConflictError(f"{error}; it was there when zarr_store() was called") from error
        try:
            if view.store.state.store != self.identity:
                raise ConflictError(
                    f"{shown(self.location)}: another store has taken its place; open that, and ask it for "
                    "another zarr_store()"
                )
            view.store.cache = ChunkCache(self._cache) if isinstance(self._cache, int) else self._cache
            tree = ZarrTree(view)
        except BaseException:
            _close(view, self._cache)
            raise
        release = weakref.finalize(self, _close, view, self._cache)
        release.atexit = False
        return tree, release

    def close(self) -> None:
        """Close what is open; whoever asks again opens it again."""
        with self._opening:
            self._release()
            self._tree = None

    def end(self) -> None:
        """Close what is open, for good."""
        with self._opening:
            self._ended = True
            self.close()


def _close(view: BufferReader, cache: ChunkCache | int | None) -> None:
    """Close what shows a commit; a cache that is another buffer's stays open."""
    if isinstance(cache, ChunkCache):
        view.store.cache = None
    view.close()
