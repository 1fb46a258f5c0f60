"""Opening files of a store that may come from a stranger.

1. Below the root of a store no symbolic link is followed, neither at the end of a path nor on the way: what a link names may be
   anything, and would be read or overwritten. The root itself may be reached by links; hard links are files like others.
2. Only regular files are opened. Opening never waits: a pipe without a writer, a socket, or a device is an error at once.
3. A path stays below the root: names with `..` or an empty part are refused, whoever made them.
"""

from __future__ import annotations

import errno
import os
import stat

from replaystore.errors import CorruptError

__all__ = ["DEEPEST", "check_folders", "open_regular"]

DEEPEST = 128
"""Folders inside each other; a field's name has at most half as many parts."""
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
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
    """A descriptor of a regular file. CorruptError: it is something else. FileNotFoundError: nothing, or a part of the path is no folder.

    `follow`: the path is that of a store, and may be a link. IsADirectoryError: it is a folder."""
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
    mode = os.fstat(opened).st_mode
    if not stat.S_ISREG(mode):
        os.close(opened)
        if follow and stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise _refused(path, mode)
    return opened


def check_folders(root: str, folder: str, *, make: bool = False) -> None:
    """All parts of a folder's name below `root` are folders and no links. `make`: those that are missing are made.

    FileNotFoundError: one is not there, or is a file. CorruptError: one is a link, or no name of a folder of ours."""
    parts, path = folder.split("/"), root
    if len(parts) > DEEPEST:
        raise CorruptError(f"{root}: folders lie more than {DEEPEST} deep in each other, as in no store; do not trust this one")
    for part in parts:
        if part in ("", ".", "..") or "\0" in part:
            raise CorruptError(f"{root}: {folder!r:.200} leads out of the store; do not trust it")
        path = f"{path}{os.sep}{part}"
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            if not make:
                raise
            os.makedirs(path, exist_ok=True)
            continue
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        if stat.S_ISLNK(mode):
            raise _refused(path, mode)
        if not stat.S_ISDIR(mode):
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
        remedy = "links in a store are not followed: put what it names in its place, unless the store is a stranger's"
    else:
        remedy = "a store consists of files: restore it from a copy"
    return CorruptError(f"{path} is {kind}; {remedy}")
