"""A new file has a name of its own until it is complete, so that two who write the same one at the same time
do not meet.

The name is `<name>.<process>-<random>.partial`. The file is held (see `replaystore.storage.locks`) while it
is written: one that nobody holds was left by a process that was killed, and goes when the next one of that
name is begun.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets

from replaystore.storage.locks import take

__all__ = ["NewFile", "sync_folder"]


class NewFile:
    """The file that will be at `path`: `file` is written to, and then `put` or `discard` is called, in this
    process."""

    def __init__(self, path: str) -> None:
        self.path, self._process = path, os.getpid()
        _remove_abandoned(path)
        while True:
            self.name = f"{path}.{os.getpid()}-{secrets.token_hex(4)}.partial"
            self.file = open(self.name, "x+b")  # noqa: SIM115  # closed when it has its name, or is discarded
            if _held(self.file.fileno()) and os.path.exists(self.name):
                return
            self.file.close()  # it was taken for abandoned before it was held

    def sync(self) -> None:
        """Make what was written durable."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def put(self, path: str | None = None, *, replace: bool = True) -> None:
        """Give it its name, or that of `path`. FileExistsError: something has it, and is not to be
        replaced."""
        path = self.path if path is None else path
        if replace or not _linked(self.name, path):
            os.replace(self.name, path)
        self.file.close()

    def discard(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):  # what cannot be flushed is given up
            self.file.close()
        if self._process == os.getpid():  # a forked child has no part in it
            with contextlib.suppress(OSError):
                os.unlink(self.name)


def sync_folder(folder: str) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _held(descriptor: int) -> bool:
    """Hold a file; False: somebody else does. Without locks it is written all the same, and never taken for
    abandoned."""
    try:
        take(descriptor)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _linked(name: str, path: str) -> bool:
    """Give a file a name that nothing has; False on a file system where that cannot be done at once."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        return False
    os.unlink(name)
    return True


def _remove_abandoned(path: str) -> None:
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.\d+-[0-9a-f]{8}\.partial")
    with contextlib.suppress(OSError):  # they are in nobody's way
        for found in filter(pattern.fullmatch, os.listdir(folder or ".")):
            with contextlib.suppress(OSError):  # held, or gone
                descriptor = os.open(
                    os.path.join(folder, found), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                )
                try:
                    take(descriptor)
                    os.unlink(os.path.join(folder, found))
                finally:
                    os.close(descriptor)
