"""Routes of the files of a store, as a client of this library reads them: by ranges, as from any server of
files, but for what is no part of the store (locks, and what is being made).

Invariants:
1. No link is followed, whatever lies in a store, and nothing but plain files is read.
2. A file is opened once for an answer: its size, its tag and its bytes are those of one file, also when
   another takes its name. Of one that grows meanwhile, what was there is sent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

from pydantic import Field

from replaystore.arrays.sealing import SIDECAR
from replaystore.containers.located import container_type, is_one_file
from replaystore.errors import NotFoundError
from replaystore.service.answers import LOOK_AGAIN, Answer, as_json, matches, part_of
from replaystore.service.routes import Asked, Flag, Gives, Model, Route

__all__ = ["ROUTES"]

AT_ONCE, PIECE = 8 << 20, 1 << 20
"""Bytes that are answered as one buffer; those of a piece of more."""
UNFINISHED = (".new", ".partial", ".replaystore-lock", ".replaystore-old", ".replaystore-partial")
"""How names end of what is no part of a store, or not yet."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class FilesQuery(Model):
    """What is wanted of a name."""

    list: Annotated[Flag, Field(description="The names in a folder; none, if it is no folder.")] = False


class Names(Model):
    """The names in a folder."""

    names: list[str]


class _File:
    """A file that is open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        known = os.fstat(descriptor)
        self.size, self.regular = known.st_size, stat.S_ISREG(known.st_mode)
        self.tag = f'W/"{known.st_ino:x}-{known.st_mtime_ns:x}-{known.st_size:x}"'

    def close(self) -> None:
        os.close(self.descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of it, as many as there are."""
        pieces = []
        while length:
            found = os.pread(self.descriptor, length, offset)
            if not found:
                break
            pieces.append(found)
            offset, length = offset + len(found), length - len(found)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def read_file(asked: Asked) -> Answer:
    """A file, or a range of it; or the names in a folder."""
    service = asked.service
    if asked.query(FilesQuery).list:
        names = await service.in_thread(lambda: _names(asked))
        return as_json({"names": names}, headers={"Cache-Control": LOOK_AGAIN})
    file = await service.in_thread(lambda: _opened(asked))
    asked.exits.callback(file.close)
    headers = {"ETag": file.tag, "Cache-Control": LOOK_AGAIN, "Accept-Ranges": "bytes"}
    if matches(asked.headers, file.tag):
        return Answer(status=304, headers=headers)
    part = part_of(asked.headers, file.size, file.tag)
    begin, stop = part or (0, file.size)
    status, length = 200 if part is None else 206, stop - begin
    if part is not None:
        headers["Content-Range"] = f"bytes {begin}-{stop - 1}/{file.size}"
    if asked.head:
        return Answer(status=status, headers=headers, length=length)
    if length > AT_ONCE:
        await asked.hold(PIECE)
        pieces = _pieces(asked, file, begin, stop)
        return Answer(status=status, headers=headers, pieces=pieces, length=length)
    await asked.hold(length)
    found = await service.in_thread(lambda: file.read(begin, length))
    if len(found) < length:
        raise NotFoundError("the file was cut while it was read: ask again")
    return Answer(found, status, headers=headers)


async def read_single_file(asked: Asked) -> Answer:
    """The file that a store is, or a range of it."""
    return await read_file(asked)


async def _pieces(asked: Asked, file: _File, begin: int, stop: int) -> AsyncIterator[bytes]:
    for at in range(begin, stop, PIECE):
        yield await asked.service.in_thread(partial(file.read, at, min(PIECE, stop - at)))


def _parts(asked: Asked) -> tuple[str, list[str]]:
    """The store's path, and what leads from it to the file."""
    place = asked.service.root.place(asked.store)
    name = asked.path.get("file", "")
    if is_one_file(place):
        if name and name != os.path.basename(place.path) + SIDECAR:
            raise _none(name)
        return (place.path + SIDECAR if name else place.path), []
    parts = name.rstrip("/").split("/") if name.rstrip("/") else []
    if any(part in ("", ".", "..") or "\0" in part for part in parts) or not _shown(
        "/".join(parts), container_type(place).lock_name
    ):
        raise _none(name)
    return place.path, parts


def _shown(name: str, lock: str) -> bool:
    """Whether it is a part of the store."""
    return name != lock and not name.endswith(UNFINISHED)


@contextmanager
def _folder(top: str, parts: list[str]) -> Iterator[int]:
    """A folder below another, that no link leads to."""
    descriptor = os.open(top, _FOLDER)
    try:
        for part in parts:
            inner = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(asked: Asked) -> _File:
    """The file that is asked for. NotFoundError: there is none."""
    top, parts = _parts(asked)
    if not parts:
        top, parts = os.path.split(top)[0], [os.path.basename(top)]
    try:
        with _folder(top, parts[:-1]) as folder:
            file = _File(os.open(parts[-1], _FILE, dir_fd=folder))
    except (FileNotFoundError, NotADirectoryError, OSError) as error:
        raise _none(asked.path.get("file", "")) from error
    if not file.regular:
        file.close()
        raise _none(asked.path.get("file", ""))
    return file


def _names(asked: Asked) -> list[str]:
    """The names in a folder of the store, sorted."""
    place = asked.service.root.place(asked.store)
    if is_one_file(place):
        return []
    top, parts = _parts(asked)
    lock, within = container_type(place).lock_name, "".join(f"{part}/" for part in parts)
    try:
        with _folder(top, parts) as folder, os.scandir(folder) as found:
            names = [entry.name for entry in found if not entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if _shown(within + name, lock))


def _none(name: str) -> NotFoundError:
    return NotFoundError(f"there is no file {name!r:.200} in the store; `?list` gives the names in a folder")


_GIVES = {
    200: Gives(
        "The bytes of the file; with `list`, the names in the folder.",
        model=Names,
        also="application/octet-stream",
    ),
    206: Gives("The range that was asked for.", "application/octet-stream"),
    304: Gives("The client has them."),
}
ROUTES = (
    Route(
        "GET",
        "/v1/stores/{store}/files/{file}",
        "read",
        read_file,
        "A file of a store of many files, by its name there; ranges of bytes are answered.",
        query=FilesQuery,
        gives=_GIVES,
    ),
    Route(
        "GET",
        "/v1/stores/{store}/files",
        "read",
        read_single_file,
        "The file that a store is, if it is one; ranges of bytes are answered.",
        query=FilesQuery,
        gives=_GIVES,
    ),
)
