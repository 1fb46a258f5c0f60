"""A copy of a file, sharing its blocks where the file system can; holes stay holes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from replaystore.storage.local import Files

__all__ = ["copy_file"]

BLOCK = 4 << 20
FICLONE = 0x40049409  # Linux: share the blocks of another file (btrfs, XFS)


def copy_file(files: Files, source: str, target: str) -> None:
    """Make or replace `target`. OSError: it is incomplete."""
    size = files.size(source)
    files.create(target)
    with files.borrowed(source) as old, files.borrowed(target) as new:
        if _share(old, new):
            return
        ranges = _data_ranges(old, size)
    for start, stop in ranges:
        for place in range(start, stop, BLOCK):
            files.write(target, place, files.read(source, place, min(BLOCK, stop - place)))
    files.resize(target, size)


def _share(old: int, new: int) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    with suppress(OSError):
        fcntl.ioctl(new, FICLONE, old)
        return True
    return False


def _data_ranges(descriptor: int, size: int) -> list[tuple[int, int]]:
    """The parts of a file that are no holes."""
    if not hasattr(os, "SEEK_DATA"):
        return [(0, size)]
    ranges: list[tuple[int, int]] = []
    stop = 0
    while stop < size:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError:  # nothing but a hole is left
            break
        ranges.append((start, min(stop, size)))
    return ranges
