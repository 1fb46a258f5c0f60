"""Opening files of a store that may come from a stranger.

1. Below the root of a store no symbolic link is followed, neither at the end of a path nor on the way: what a
   link names may be anything, and would be read or overwritten. The root itself may be reached by links; hard
   links are files like others.
2. Only regular files are opened. Opening never waits: a pipe without a writer, a socket, or a device is an
   error at once.
3. A path stays below the root: names with `..` or an empty part are refused, whoever made them.
"""

from __future__ import annotations

import errno
import os
import stat

from replaystore.errors import CorruptError

__all__ = ["DEEPEST", "check_folder", "open_regular", "open_sized"]

DEEPEST = 128
"""Folders inside each other; a field's name has at most half as many parts."""
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_NO_NAMES = frozenset(("", ".", ".."))
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFREG: "a file",
}


def open_regular(path: str, flags: int, *, follow: bool = False) -> int:
    """A descriptor of a regular file. CorruptError: it is something else. FileNotFoundError: nothing, or a
    part of the path is no folder.

    `follow`: the path is that of a store, and may be a link. IsADirectoryError: it is a folder."""
    return open_sized(path, flags, follow=follow)[0]


def open_sized(path: str, flags: int, *, follow: bool = False) -> tuple[int, int]:
    """As `open_regular`, and the size of the file."""
    try:
        opened = os.open(path, flags | _FLAGS | (0 if follow else _NO_LINK), 0o666)
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        if error.errno in (errno.ENXIO, errno.ELOOP, errno.EOPNOTSUPP, errno.ENODEV):
            raise _refused(path, _mode(path, follow=follow)) from None
        if error.errno == errno.EISDIR and not follow:
            raise _refused(path, stat.S_IFDIR) from None
        raise
    found = os.fstat(opened)
    if not stat.S_ISREG(found.st_mode):
        os.close(opened)
        if follow and stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise _refused(path, found.st_mode)
    return opened, found.st_size


def check_folder(above: str, name: str, *, make: bool = False) -> None:
    """What has this name in the folder `above` is a folder and no link. `make`: one is made if there is none.

    FileNotFoundError: it is not there, or is a file. CorruptError: it is a link, or the name is none that a
    folder of ours has."""
    if name in _NO_NAMES or "\0" in name:
        raise CorruptError(f"{above}: the name {name!r:.200} leads out of the store; do not trust it")
    path = f"{above}{os.sep}{name}"
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if not make:
            raise
        os.makedirs(path, exist_ok=True)
        return
    except NotADirectoryError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    if stat.S_ISDIR(mode):
        return
    if stat.S_ISLNK(mode):
        raise _refused(path, mode)
    if make:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _mode(path: str, *, follow: bool) -> int:
    try:
        return (os.stat if follow else os.lstat)(path).st_mode
    except OSError:
        return stat.S_IFLNK


def _refused(path: str, mode: int) -> CorruptError:
    kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    if stat.S_ISLNK(mode):
        remedy = (
            "links in a store are not followed: put what it names in its place, unless the store is a "
            "stranger's"
        )
    else:
        remedy = "a store consists of files: restore it from a copy"
    return CorruptError(f"{path} is {kind}; {remedy}")
