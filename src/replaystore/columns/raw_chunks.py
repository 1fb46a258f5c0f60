"""Raw chunks as if they were encoded, by doing nothing: so that raw rows of storage that is far can be read a
chunk at a time, compared with their checksums, and kept (chunk_cache.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google_crc32c import value
from numpy.typing import NDArray

from replaystore.errors import CorruptError

__all__ = ["RawChunks"]


class RawChunks:
    """A `Codec`."""

    apart = True

    def encode(self, rows: Any) -> bytes:
        return bytes(rows)

    def decode(self, data: Any, out: NDArray[np.uint8], *, checked: bool = False) -> None:
        found = np.frombuffer(data, np.uint8)
        if found.size != out.size:
            raise CorruptError(f"a raw chunk of {out.size} bytes cannot have {found.size}")
        out[:] = found

    def decode_all(
        self, stored: Sequence[bytes], checksums: Sequence[int], out: NDArray[np.uint8], places: Sequence[int]
    ) -> list[int]:
        wrong = []
        for number, (data, checksum, place) in enumerate(zip(stored, checksums, places, strict=True)):
            if len(data) == out.shape[1] and value(data) == checksum:
                out[place] = np.frombuffer(data, np.uint8)
            else:
                wrong.append(number)
        return wrong

    def content(self, data: bytes, checksum: int, size: int) -> NDArray[np.uint8] | None:
        return np.frombuffer(data, np.uint8) if len(data) == size and value(data) == checksum else None

    def checksum(self, data: Any) -> int:
        return int(value(bytes(data)))
