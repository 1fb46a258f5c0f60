"""The line in the terminal that says what a server does now: clients, steps and samples in a second, and how
long a commit takes until it is durable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from replaystore.service.metrics import Metrics

__all__ = ["CLEAR", "Status", "StatusLine"]

CLEAR = "\r\x1b[K"
"""Takes the line from a terminal, before others are written there."""
SECONDS = 1.0


@dataclass
class _Counts:
    time: float
    steps: float
    samples: float
    commits: int
    commit_seconds: float


class Status:
    """What has happened since it was asked for the last time."""

    def __init__(self, metrics: Metrics, clients: Callable[[], int]) -> None:
        self._metrics, self._clients = metrics, clients
        self._before = self._counts()

    def _counts(self) -> _Counts:
        metrics = self._metrics
        commits, seconds = metrics.times("replaystore_commit_seconds")
        return _Counts(
            time.monotonic(),
            metrics.total("replaystore_appended_steps_total"),
            metrics.total("replaystore_sampled_steps_total"),
            commits,
            seconds,
        )

    def line(self) -> str:
        """It, in a line."""
        before, now = self._before, self._counts()
        self._before = now
        seconds = max(now.time - before.time, 1e-9)
        commits = now.commits - before.commits
        clients = self._clients()
        found = [
            f"{clients} client{'' if clients == 1 else 's'}",
            f"{(now.steps - before.steps) / seconds:,.0f} steps/s",
            f"{(now.samples - before.samples) / seconds:,.0f} samples/s",
        ]
        if commits:
            lag = (now.commit_seconds - before.commit_seconds) / commits
            found.append(f"durable after {1000 * lag:.1f} ms")
        return " · ".join(found)


class StatusLine:
    """Writes it to a terminal, again and again, until `end`."""

    def __init__(self, status: Status, terminal: TextIO) -> None:
        self._status, self._terminal = status, terminal
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replaystore-status", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(SECONDS):
            self._write(self._status.line())

    def _write(self, text: str) -> None:
        try:
            self._terminal.write(CLEAR + text)
            self._terminal.flush()
        except (OSError, ValueError):  # the terminal is gone, which is no reason to stop
            self._ended.set()

    def end(self) -> None:
        """Write no more, and leave nothing behind."""
        self._ended.set()
        self._thread.join()
        self._write("")
