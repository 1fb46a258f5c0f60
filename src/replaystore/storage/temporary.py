"""A new file has a name of its own until it is complete, so that two who write the same one at the same time
do not meet; and so has a folder in which something is made on its way to a place.

The name is `<name>.<process>-<random>.partial`. What has it is held (see `replaystore.storage.locks`) while
it is used: what nobody holds was left by a process that was killed, and goes when the next one of that name
is begun.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from types import TracebackType

from replaystore.storage.locks import take

__all__ = ["NewFile", "WorkingFolder", "remove_abandoned", "sync_folder"]

_used: set[str] = set()
"""Working folders of this process, which may be on a file system without locks."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class NewFile:
    """The file that will be at `path`: `file` is written to, and then `put` or `discard` is called, in this
    process. `made`: the name of one that is complete, in a `WorkingFolder`."""

    def __init__(self, path: str, made: str = "") -> None:
        self.path, self._process = path, os.getpid()
        remove_abandoned(path)
        if made:
            self.name, self.file = made, open(made, "r+b")  # noqa: SIM115  # closed as below
            return
        while True:
            self.name = _name(path)
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


class WorkingFolder:
    """A folder beside `path`, on the same disk, which is gone with all that is in it when `with` is left."""

    def __init__(self, path: str) -> None:
        self._path, self._process, self._descriptor = path, os.getpid(), -1
        self.name = ""

    def __enter__(self) -> str:
        """Its name."""
        remove_abandoned(self._path)
        while True:
            self.name = _name(self._path)
            _used.add(self.name)
            os.mkdir(self.name, 0o700)
            try:
                self._descriptor = os.open(self.name, _FOLDER)
            except BaseException:
                os.rmdir(self.name)
                raise
            if _held(self._descriptor) and os.path.exists(self.name):
                return self.name
            self._let_go()  # it was taken for abandoned before it was held

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._process == os.getpid():  # a forked child has no part in it
                shutil.rmtree(self.name, ignore_errors=True)  # what stays is the next one's to remove
        finally:
            self._let_go()

    def __del__(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        _used.discard(self.name)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


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


def _name(path: str) -> str:
    return f"{path}.{os.getpid()}-{secrets.token_hex(4)}.partial"


def remove_abandoned(path: str) -> None:
    """Remove what processes that were killed left on their way to a place."""
    folder, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.\d+-[0-9a-f]{8}\.partial")
    with contextlib.suppress(OSError):  # they are in nobody's way
        for found in filter(pattern.fullmatch, os.listdir(folder or ".")):
            with contextlib.suppress(OSError):  # held, or gone
                if os.path.join(folder, found) not in _used:
                    _remove_unheld(os.path.join(folder, found))


def _remove_unheld(name: str) -> None:
    """OSError: somebody holds it, or it is gone."""
    whole = os.path.isdir(name)
    flags = _FOLDER if whole else os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags)
    try:
        take(descriptor)
        shutil.rmtree(name) if whole else os.unlink(name)
    finally:
        os.close(descriptor)
