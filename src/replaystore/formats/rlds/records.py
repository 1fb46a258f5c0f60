"""Files of TFRecord: records, each with its length before it and checksums of both.

    length, uint64 · checksum of the length · data · checksum of the data

1. A record is taken into memory as a whole only if it is small; the others are read where they are asked for.
2. No length is believed that goes beyond the file.
3. What is read of a record was compared with its checksum before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import google_crc32c

from replaystore.errors import FormatError, StorageError
from replaystore.formats.shared.file_rows import opened
from replaystore.storage.local import read_all

__all__ = ["FOOT", "HEAD", "Record", "Shard", "masked", "opened_shard"]

HEAD, FOOT = 12, 4
"""Bytes before and after the data of a record."""
WHOLE = 1 << 19
"""Records up to so many bytes are read at once, and several of them together."""
PIECE = 1 << 20


def masked(checksum: int) -> int:
    """A checksum as it stands in the file."""
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class Shard:
    """An open file of records."""

    def __init__(self, path: str, descriptor: int, size: int) -> None:
        self.path, self._descriptor, self.size = path, descriptor, size
        self._window, self._window_begin = b"", 0

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the file. FormatError: it became shorter; StorageError."""
        try:
            data = read_all(self._descriptor, offset, count)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read: {error.strerror or error}", error.errno
            ) from error
        if len(data) < count:
            raise FormatError(f"{self.path} became shorter while it was read: copy it again")
        return data

    def count(self) -> int:
        """How many records there are, as their lengths say."""
        return sum(1 for _ in self._places())

    def records(self, *, checked: bool = True) -> Iterator[Record]:
        """All records. FormatError: one is cut off, or is not what its checksum says. Without `checked` only
        the lengths are compared with their checksums."""
        for begin, size in self._places():
            data = self._near(begin, size) if size <= WHOLE else None
            if checked:
                self._check(begin, size, data)
            yield Record(self, begin, size, data)

    def _places(self) -> Iterator[tuple[int, int]]:
        """Where the data of each record begin, and how many bytes they are."""
        at = 0
        while at < self.size:
            if self.size - at < HEAD + FOOT:
                raise self._cut_off(at)
            head = self._near(at, HEAD)
            length, checksum = struct.unpack("<QI", head)
            if masked(google_crc32c.value(head[:8])) != checksum:
                raise FormatError(
                    f"{self.path}: the length of the record at byte {at} is not what its checksum says: the "
                    "file is damaged, or no file of TFRecord, or a compressed one"
                )
            if length > self.size - at - HEAD - FOOT:
                raise self._cut_off(at)
            yield at + HEAD, length
            at += HEAD + int(length) + FOOT

    def _cut_off(self, at: int) -> FormatError:
        return FormatError(
            f"{self.path}: the record at byte {at} goes beyond the {self.size} bytes of the file, which is "
            "cut off: copy it again"
        )

    def _check(self, begin: int, size: int, data: bytes | None) -> None:
        if data is not None:
            found = google_crc32c.value(data)
        else:
            found = 0
            for at in range(0, size, PIECE):
                found = google_crc32c.extend(found, self.read(begin + at, min(PIECE, size - at)))
        (said,) = struct.unpack("<I", self._near(begin + size, FOOT))
        if masked(found) != said:
            raise FormatError(
                f"{self.path}: the record at byte {begin - HEAD} is not what its checksum says: the file is "
                "damaged: copy it again"
            )

    def _near(self, offset: int, count: int) -> bytes:
        """Bytes of the file, which are read with those that follow them."""
        begin = offset - self._window_begin
        if begin < 0 or begin + count > len(self._window):
            self._window = self.read(offset, min(max(count, WHOLE), self.size - offset))
            self._window_begin, begin = offset, 0
        return self._window[begin : begin + count]


class Record:
    """The data of a record: `read(offset, count)` gives bytes of it."""

    def __init__(self, shard: Shard, begin: int, size: int, data: bytes | None) -> None:
        self._shard, self._begin, self.size, self.data = shard, begin, size, data

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from there on. FormatError: the record has not as many."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise self.error("a part of it reaches beyond its end")
        if self.data is not None:
            return self.data[offset : offset + count]
        return self._shard.read(self._begin + offset, count)

    def error(self, what: str) -> FormatError:
        """For what is wrong with it."""
        return FormatError(
            f"{self._shard.path}: the record at byte {self._begin - HEAD}: {what}: it is damaged, or no "
            "tf.train.Example of these features"
        )


@contextmanager
def opened_shard(path: str) -> Iterator[Shard]:
    """The file of this name. NotFoundError, StorageError; FormatError: it is no regular file."""
    with opened(path) as (descriptor, size):
        yield Shard(path, descriptor, size)
