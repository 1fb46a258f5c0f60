"""Full chunks of coded arrays are encoded in threads while the environment goes on.

Jobs are submitted in the order of the chunks and collected in the same order, so that a chunk is stored only
when all before it are. What is encoded but not yet stored is kept: after a failed write (a full disk) the
same bytes are offered again.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.protocol import Codec

__all__ = ["Encoder"]

JOB_BYTES = 1 << 19
"""Chunks are put together into jobs of at least this size: a future for each small chunk costs more than its
encoding."""
FLIGHT_BYTES = 48 << 20
"""Raw bytes waiting at most; beyond, `put` waits for the oldest job, which bounds the writer's memory."""


@dataclass
class _Job:
    name: str
    first: int
    codec: Codec
    chunks: list[NDArray[np.uint8]]
    size: int = 0
    future: Future[list[tuple[bytes, int]]] | None = None

    def run(self) -> list[tuple[bytes, int]]:
        encoded = []
        for chunk in self.chunks:
            data = self.codec.encode(chunk)
            encoded.append((data, self.codec.checksum(data)))
        return encoded


class Encoder:
    """Encodes chunks in the background. Use from one thread."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._open: dict[str, _Job] = {}
        self._jobs: deque[_Job] = deque()
        self._flight = 0
        self.encoded: dict[str, dict[int, tuple[bytes, int]]] = {}
        """Ready to be stored: {array: {chunk: (bytes, checksum)}}; emptied by the caller when it is."""
        self.encoded_bytes = 0

    def put(self, name: str, codec: Codec, number: int, chunk: NDArray[np.uint8]) -> None:
        """Encode chunk `number` of an array; `chunk` (flat bytes) belongs to the encoder from now on."""
        job = self._open.get(name)
        if job is None:
            job = self._open[name] = _Job(name, number, codec, [])
        job.chunks.append(chunk)
        job.size += chunk.size
        self._flight += chunk.size
        if job.size >= JOB_BYTES:
            self._submit(name)
        while self._flight > FLIGHT_BYTES and self._jobs:
            self._finish(self._jobs.popleft())
        while self._jobs and self._jobs[0].future is not None and self._jobs[0].future.done():
            self._finish(self._jobs.popleft())

    def finish(self) -> None:
        """Wait until everything is encoded."""
        for name in list(self._open):
            self._submit(name)
        while self._jobs:
            self._finish(self._jobs.popleft())

    def stored(self) -> None:
        """What was in `encoded` has been stored."""
        self.encoded = {}
        self.encoded_bytes = 0

    def discard(self) -> None:
        """Forget everything that waits."""
        self.finish()
        self.stored()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _submit(self, name: str) -> None:
        job = self._open.pop(name)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="replaystore-encode")
        job.future = self._pool.submit(job.run)
        self._jobs.append(job)

    def _finish(self, job: _Job) -> None:
        assert job.future is not None  # only submitted jobs are in the queue
        for number, (data, checksum) in enumerate(job.future.result(), job.first):
            self.encoded.setdefault(job.name, {})[number] = (data, checksum)
            self.encoded_bytes += len(data)
        self._flight -= job.size
