"""A static server in a process of its own, what it was asked, and the bare reader that others are compared
with."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from replaystore.storage.http.connections import CONNECTIONS

__all__ = ["LATENCIES", "Counted", "Server", "bare_reader", "serving"]

LATENCIES = (0.0, 0.02)
"""Seconds that are added to each answer."""
PART = 4 << 20


@dataclass(frozen=True)
class Counted:
    """What a server was asked."""

    requests: int
    rounds: int
    """The longest chain of requests that waited for one another, or for a free connection."""
    waves: int
    """Rounds of requests side by side."""
    bytes: int


class Server:
    """A server that runs, at `url`."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.url = process.stdout.readline().strip()

    def counted(self) -> Counted:
        """Since the last time."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        return Counted(**found)


@contextmanager
def serving(folder: Path, latency: float) -> Iterator[Server]:
    """Serve a folder from another process meanwhile."""
    command = [sys.executable, "-m", "replaystore.testing.servers", str(folder), "--latency", str(latency)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)


def bare_reader(url: str, files: Sequence[tuple[str, int]]) -> int:
    """Read files of these sizes whole, in ranges side by side, by as many connections as the store uses; how
    many bytes they had. Nothing is done with them but that they are put side by side."""
    local = threading.local()
    parts = [(name, begin, min(begin + PART, size)) for name, size in files for begin in range(0, size, PART)]
    starts, total = [], 0
    for _, begin, stop in parts:
        starts.append(total)
        total += stop - begin
    out = bytearray(total)

    def read(number: int) -> int:
        name, begin, stop = parts[number]
        if not hasattr(local, "pool"):
            local.pool = pools
        answer = local.pool.request(
            "GET", f"{url}/{name}", headers={"Range": f"bytes={begin}-{stop - 1}"}, preload_content=True
        )
        out[starts[number] : starts[number] + len(answer.data)] = answer.data
        return len(answer.data)

    with (
        urllib3.PoolManager(maxsize=CONNECTIONS, block=True) as pools,
        ThreadPoolExecutor(CONNECTIONS) as threads,
    ):
        found = sum(threads.map(read, range(len(parts))))
    if found != total:
        raise SystemExit(f"bench: {found} bytes came of {total}")
    return found
