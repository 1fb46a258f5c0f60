"""A buffer as a store of zarr-python: what `buffer.zarr_store()` gives to zarr, xarray and dask.

A store shows one commit, that of the buffer when it was asked for, and goes on showing it whatever a writer
or the buffer does: it has the files open for itself. Sent to another process, or closed and used again, it
opens them anew, as of the same commit.

Invariants:
1. What is no key has no value; whatever else goes wrong is a ReplayStoreError. zarr takes a chunk without a
   value for fill values, a FileNotFoundError or a KeyError for a missing group, and Python an IndexError for
   the end of an iteration: so no error of `get` is one of these.
2. Nobody is given rows of another store, or of another history, under the number of the commit.

zarr is loaded with this module, and by nothing else of the package.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Never, Self, TypeVar

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from replaystore.columns.chunk_cache import ChunkCache
from replaystore.errors import ConflictError, EvictedError, NotFoundError, UnsupportedError
from replaystore.forks import renew_in_children
from replaystore.location import shown
from replaystore.views.reader import BufferReader
from replaystore.views.zarr_tree import ZarrTree

__all__ = ["CommitSource", "ZarrStore"]

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


class ZarrStore(Store):
    """One commit of a buffer as a Zarr v3 hierarchy, for zarr-python and what is built on it; read-only.

    It can be sent to another process, which opens the buffer there."""

    supports_writes = supports_deletes = False
    supports_listing = True

    def __init__(self, source: CommitSource, *, sent: bool = True) -> None:
        """`sent`: other processes can open the store."""
        super().__init__(read_only=True)
        self._source, self._sent = source, sent

    @property
    def location(self) -> str:
        """Where the buffer is."""
        return self._source.location

    @property
    def commit_id(self) -> int:
        """The commit that is shown."""
        return self._source.commit

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._sent:
            raise UnsupportedError(
                f"{self.location} is in the memory of this process: convert it to a store on a disk, and "
                "send the zarr_store() of that"
            )
        return type(self), (self._source,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrStore) and self._known_by == other._known_by

    def __hash__(self) -> int:
        return hash(self._known_by)

    @property
    def _known_by(self) -> tuple[str, int, str]:
        return self._source.location, self._source.commit, self._source.identity

    def __str__(self) -> str:
        return f"{shown(self.location)}, commit {self.commit_id}"

    def __repr__(self) -> str:
        return f"<ZarrStore {shown(self.location)!r}: commit {self.commit_id}>"

    # --- reading

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The bytes of a key, or a range of them; None: there is no such key."""
        if self._source.ask(lambda tree: tree.at_hand(key)):
            found = self._source.ask(lambda tree: tree.value(key))
        else:
            found = await asyncio.to_thread(self._source.ask, lambda tree: tree.value(key))
        if found is None:
            return None
        part = _within(found, byte_range)
        return prototype.buffer.from_bytes(part) if len(part) else prototype.buffer.create_zero_length()

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """The bytes of several keys, or ranges of them."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such a key."""
        return self._source.ask(lambda tree: key in tree)

    async def getsize(self, key: str) -> int:
        """How many bytes a key has. FileNotFoundError: there is no such key."""
        found = self._source.ask(lambda tree: tree.size(key))
        if found is None:
            raise FileNotFoundError(f"{self}: there is no key {key!r}")
        return found

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin with a prefix."""
        for key in self._source.ask(lambda tree: tree.keys(prefix)):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names in a folder."""
        for name in self._source.ask(lambda tree: tree.children(prefix.rstrip("/"))):
            yield name

    def close(self) -> None:
        """Close the files; what is read afterwards opens them again, as of the same commit."""
        self._source.close()
        super().close()

    def end(self) -> None:
        """Close the files for good: the buffer is closed."""
        self._source.end()

    # --- writing

    def with_read_only(self, read_only: bool = False) -> Self:
        """It is read-only."""
        return self if read_only else self._refuse()

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        self._refuse()

    async def delete(self, key: str) -> None:
        """Refused."""
        self._refuse()

    async def delete_dir(self, prefix: str) -> None:
        """Refused."""
        self._refuse()

    def _refuse(self) -> Never:
        raise UnsupportedError(
            f"{self}: a buffer is only read through Zarr; write to it with replaystore.open(..., 'r+')"
        )


def _within(found: memoryview, part: ByteRequest | None) -> memoryview:
    if part is None:
        return found
    if isinstance(part, RangeByteRequest):
        return found[part.start : part.end]
    if isinstance(part, OffsetByteRequest):
        return found[part.offset :]
    return found[max(0, len(found) - part.suffix) :]
