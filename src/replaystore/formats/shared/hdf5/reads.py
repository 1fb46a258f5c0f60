"""What the HDF5 library reads a file of other software through.

The library believes the heaps that texts and values of any length lie in, and goes round and round in one of
which a piece takes no bytes. So what it reads is looked at on its way: a heap that is not sound is shown to
it as none.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["Reads"]

HEAP, HEAP_HEADER, PIECE_HEADER = b"GCOL", 16, 16
SIGNATURE_BYTES = 8
FURTHEST = 1 << 62
"""No file has a byte there, and the system takes no place beyond."""


class Reads:
    """A file that is open, as the library's file object. It never raises, because the library would not
    survive that in every place: what went wrong is in `failure`."""

    def __init__(self, descriptor: int, size: int, begin: int) -> None:
        """`begin`: where HDF5's signature is."""
        self._descriptor, self._size, self._at = descriptor, size, 0
        self.failure: BaseException | None = None
        head = os.pread(descriptor, 32, begin)[SIGNATURE_BYTES:]
        lengths = head[6:7] if head[:1] in (b"\0", b"\1") else head[2:3]
        self._checked = lengths == b"\x08"
        """Whether sizes in heaps have eight bytes, as nearly all have."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Where to read next."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where that is."""
        return self._at

    def read(self, count: int = -1) -> bytes:
        """So many bytes."""
        buffer = bytearray(max(0, self._size - self._at) if count < 0 else count)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; with zeros, where nothing is."""
        view = memoryview(buffer).cast("B")
        filled = 0
        try:
            while filled < len(view) and self._at + filled < FURTHEST:
                got = os.preadv(self._descriptor, [view[filled:]], self._at + filled)
                if not got:
                    break
                filled += got
            if self._checked and view[:4] == HEAP and not _sound(view):
                view[:4] = bytes(4)
        except BaseException as error:  # noqa: BLE001  # whoever asked the library raises it
            self.failure = self.failure or error
        if filled < len(view):
            view[filled:] = bytes(len(view) - filled)
        self._at += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is ever written."""


def _sound(view: memoryview) -> bool:
    """Whether each piece of a heap, as far as it was read, has a size, and ends in the heap."""
    size = int.from_bytes(view[8:16], "little")
    at, stop = HEAP_HEADER, min(size, len(view))
    while at + PIECE_HEADER <= stop:
        length = int.from_bytes(view[at + 8 : at + 16], "little")
        if view[at] or view[at + 1]:
            at += PIECE_HEADER + (length + 7) // 8 * 8
        elif length < PIECE_HEADER:
            return False
        else:  # what is free
            at += length
        if at > size:
            return False
    return True
