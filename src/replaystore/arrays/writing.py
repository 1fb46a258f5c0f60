"""What a writer asks of the disk, and what it does when the disk refuses.

A write that fails (a full disk) changes nothing and may be tried again. A sync that fails leaves the disk in
an unknown state; the store then refuses to write until it is opened anew, since a second sync may report
success for bytes that are lost.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from types import TracebackType

from replaystore.arrays.reading import StoreReader
from replaystore.arrays.state import State
from replaystore.containers.protocol import Container
from replaystore.errors import StorageError
from replaystore.refusals import refusal

__all__ = ["Writing"]


class Writing(StoreReader):
    """A store reader whose store is also written to."""

    def __init__(self, container: Container, state: State, *, durable: bool) -> None:
        super().__init__(container, state)
        self.durable = durable
        self.lock = threading.RLock()
        self._poison: str | None = None
        """Why nothing is written any more."""
        self._synced = -1
        """Without durability: a commit that was synced."""
        self._rolling_back = False
        """A rollback was refused half way: whether it has happened is not known, nor are there rows that
        something could follow."""

    def _sync(self, *, always: bool = False) -> None:
        """Make all that was written durable; without durability, only what `always` has to be."""
        if not (self.durable or always):
            return
        try:
            self.container.sync()
        except OSError as error:
            reason = f"{self}: the disk failed to store what was written ({refusal(error, str(self))})"
            self._poison = (
                str(error)
                if isinstance(error, StorageError)
                else (f"{reason}; reopen the store, which goes on from its last commit")
            )
            raise StorageError(self._poison, error.errno) from error

    def _sync_commit(self) -> None:
        """Without durability: bring the commit to the disk. The next one says that it is there."""
        if not self.durable and self._synced != self.state.commit:
            self._sync(always=True)
            self._synced = self.state.commit

    def storage(self, what: str) -> AbstractContextManager[None]:
        """Errors of the operating system as ours."""
        if self._poison is not None:
            raise StorageError(self._poison)
        if (self._rolling_back or self.state.unforked) and what not in ("roll back", "recover"):
            raise StorageError(
                f"{self}: cannot {what} after a rollback that did not finish: roll back "
                "again, or reopen the store"
            )
        return _Translating(self, what)


class _Translating:
    """Errors of the operating system as ours: a class, since a generator takes three times as long to say
    that nothing was wrong."""

    __slots__ = ("_store", "_what")

    def __init__(self, store: Writing, what: str) -> None:
        self._store, self._what = store, what

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError) or isinstance(error, StorageError | FileExistsError):
            return
        store, what = self._store, self._what
        if str(store) != store.container.path:  # it is still being made
            before = "nothing was put there"
        else:
            before = "what was committed is safe" if store.state.commit else "nothing was committed yet"
        reason = refusal(error, str(store))
        advice = f"{before}; make room or mend the cause, then try again"
        raise StorageError(f"{store}: cannot {what}: {reason}; {advice}", error.errno) from error
