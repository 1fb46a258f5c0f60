"""A buffer as a store of zarr-python: what `buffer.zarr_store()` gives to zarr, xarray and dask.

A store shows one commit, that of the buffer when it was asked for, and goes on showing it whatever a writer
or the buffer does: it has the files open for itself. Sent to another process, or closed and used again, it
opens them anew, as of the same commit.

Invariant: what is no key has no value; whatever else goes wrong is a ReplayStoreError. zarr takes a chunk
without a value for fill values, a FileNotFoundError or a KeyError for a missing group, and Python an
IndexError for the end of an iteration: so no error of `get` is one of these.

zarr is loaded with this module, and by nothing else of the package.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Never, Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from replaystore.errors import UnsupportedError
from replaystore.location import shown
from replaystore.views.commit_source import CommitSource

__all__ = ["ZarrStore"]


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
