"""The threads of the process that wait for the disk: files that are synced side by side take hardly longer
than one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

__all__ = ["side_by_side"]

SYNCING = 8
"""Files synced at the same time."""


class _Syncing:
    """The threads of the process that wait for the disk, started on first use."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """As in a forked child, where threads and held locks did not come along."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._here = threading.local()
        """`submitting`: this thread hands jobs over, and holds locks that cannot be taken twice."""

    def run(self, sync: Callable[[str], None], names: Sequence[str]) -> None:
        """Call `sync` with each name, and return when all calls have; raise what one of them raised."""
        if getattr(self._here, "submitting", False):  # memory was collected there, which closed a buffer
            for name in names:
                sync(name)
            return
        self._here.submitting = True
        try:
            jobs = self._submitted(sync, names)
        finally:
            self._here.submitting = False
        wait(jobs)
        for job in jobs:
            job.result()

    def _submitted(self, sync: Callable[[str], None], names: Sequence[str]) -> list[Future[None]]:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(SYNCING, thread_name_prefix="replaystore-sync")
            pool = self._pool
        left = iter(names)

        def take_turns() -> None:
            """A job for each name would cost more than many of the syncs."""
            failure: BaseException | None = None
            for name in left:
                try:
                    sync(name)
                except BaseException as error:  # noqa: BLE001  # raised when the others have had their turn
                    failure = error
            if failure is not None:
                raise failure

        try:
            return [pool.submit(take_turns) for _ in range(min(SYNCING, len(names)))]
        except RuntimeError:  # the interpreter is ending (a finalizer closes a buffer): no more threads start
            for name in names:
                sync(name)
            return []


_syncing = _Syncing()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_syncing.start_anew)


def side_by_side(sync: Callable[[str], None], names: Sequence[str]) -> None:
    """Call `sync` with each name, and return when all calls have; raise what one of them raised."""
    if len(names) > 1:
        _syncing.run(sync, names)
    else:
        for name in names:
            sync(name)
