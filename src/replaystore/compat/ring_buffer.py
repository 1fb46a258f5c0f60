"""What the drop-in buffers of both projects have in common: a ring in memory or in a store, which is in use
up to a size, committed and closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

from replaystore.buffers.buffer import Buffer
from replaystore.compat.memory_ring import TensorRing
from replaystore.compat.saving import Saved, Subject, commit_in_place
from replaystore.compat.stored import StoredRing
from replaystore.errors import SchemaError
from replaystore.formats.source import RingSource

__all__ = ["RingBuffer"]


class RingBuffer(ABC):
    """A buffer of rows in a ring; a context manager, which closes it."""

    IN_MEMORY: ClassVar[str]
    """How to have one in memory instead, whose place and size can be set."""

    _ring: TensorRing | StoredRing
    _saved: Saved

    @property
    def size(self) -> int:
        """How many rows are in use."""
        return self._ring.size

    @size.setter
    def size(self, value: int) -> None:
        self._memory("size").size = value

    def _memory(self, what: str) -> TensorRing:
        """The ring, in memory. SchemaError: it is in a store."""
        if isinstance(self._ring, StoredRing):
            raise SchemaError(
                f"{what} of a buffer in a store follows from its rows: add rows, or {self.IN_MEMORY}"
            )
        return self._ring

    def commit(self) -> None:
        """Make everything safe in the store that the buffer was loaded from; of a buffer in memory there is
        nothing to do."""
        if isinstance(self._ring, StoredRing):
            commit_in_place(self._ring, self._subject())

    def close(self) -> None:
        """Commit, if the buffer was loaded for writing, and release its store."""
        if isinstance(self._ring, StoredRing) and self._ring.writable:
            commit_in_place(self._ring, self._subject())
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _subject(self) -> Subject:
        return Subject(self._ring, self._source, self._append_since, self._reconcile)

    @abstractmethod
    def _source(self) -> RingSource:
        """As `Subject.source`."""

    @abstractmethod
    def _append_since(self, buffer: Buffer, count: int) -> bool:
        """As `Subject.append_since`."""

    @abstractmethod
    def _reconcile(self, buffer: Buffer) -> bool:
        """As `Subject.reconcile`."""
