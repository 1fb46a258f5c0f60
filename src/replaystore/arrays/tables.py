"""The rows of a table in memory, which grow with each commit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table"]


class Table:
    """Bytes that grow at the end, with room ahead so that growing is cheap; what was handed out stays as it
    is."""

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._length = len(data)
        self._blobs = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, blobs: list[bytes]) -> None:
        new = blobs[self._blobs :]
        if not new:
            return
        added = np.frombuffer(b"".join(new), np.uint8)
        length = self._length + added.size
        if length > self._data.size or not self._data.flags.writeable:
            grown = np.empty(max(length, 2 * self._length, 1024), np.uint8)
            grown[: self._length] = self._data[: self._length]
            self._data = grown
        self._data[self._length : length] = added
        self._length, self._blobs = length, len(blobs)

    def bytes(self, length: int) -> NDArray[np.uint8]:
        view = self._data[:length]
        view.flags.writeable = False
        return view
