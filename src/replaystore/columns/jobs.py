"""Jobs that threads of the pool do together with who waits for them: each does what nobody has begun yet, so
that nobody waits for what is only queued.

A forked child has none of the threads: it must begin anew.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from replaystore.columns import decoding_pool

__all__ = ["Jobs"]

Job = TypeVar("Job")


class Jobs(ABC, Generic[Job]):
    """One thread begins with jobs, and ends or abandons them; `do` is called in any."""

    def __init__(self) -> None:
        self._jobs = deque[Job]()
        self._running = list[Future[None]]()
        self._process, self._abandoned = os.getpid(), False

    @abstractmethod
    def do(self, job: Job) -> None:
        """Do one, in any thread."""

    def begin(self, jobs: Iterable[Job], threads: int) -> None:
        """Have these done, too, by so many threads; none once it is abandoned."""
        if self._abandoned:
            return
        self._jobs.extend(jobs)
        # An error that there was is for who finishes.
        running = [future for future in self._running if not future.done() or future.exception()]
        more = min(threads, len(self._jobs)) - len(running)
        self._running = running
        for _ in range(more):
            # Known before a thread may be at it: that may be so although `submit` fails.
            future = Future[None]()
            self._running.append(future)
            decoding_pool.shared.pool().submit(self._help, future)

    def _help(self, future: Future[None]) -> None:
        """Do what is left, in a thread that `future` speaks of."""
        if future.set_running_or_notify_cancel():
            try:
                self._work()
            except BaseException as error:  # noqa: BLE001  # which who waits raises
                future.set_exception(error)
            else:
                future.set_result(None)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            self.do(job)

    def end(self) -> bool:
        """Do what is left, and wait for what is being done; whether all was done."""
        if self._process != os.getpid():
            return False
        try:
            self._work()
        finally:
            wait([future for future in self._running if not future.cancel()])
        running, self._running = self._running, []
        for future in running:
            if not future.cancelled():
                future.result()
        return not self._abandoned

    def abandon(self) -> None:
        """End it, as soon as no thread is at it."""
        if self._process == os.getpid():
            self._abandoned = True
            self._jobs.clear()
            wait([future for future in self._running if not future.cancel()])
