"""Faults below the process: the shim of `shim.c`, built, loaded and told what is to go wrong.

A process that was started with the shim in LD_PRELOAD (`preloaded` starts one) has every call below one
folder counted: of Python, of libhdf5, of any library. It plans what goes wrong, forks a child in which that
happens, and reads afterwards how far the child got:

    shim = Shim(folder)
    shim.plan(Mode.KILL, at=17, share=0.5)    # in the middle of the 17th call, if that writes; else before it
    status, told = forked(...)
    shim.count, shim.struck                   # how many calls there were, and which of them went wrong

Invariants: nothing is counted in a process that has planned nothing; the plan is one for a process and its
forked children.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import importlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replaystore.testing.apart import apart
from replaystore.testing.campaigns import Tally

__all__ = [
    "ALL",
    "CHANGES",
    "GROWING",
    "LOCKS",
    "OPENS",
    "Kind",
    "Mode",
    "Record",
    "Shim",
    "available",
    "preloaded",
]

SOURCE = Path(__file__).with_suffix(".c")
LOADED = "REPLAYSTORE_SHIM"
"""The environment variable by which a process knows that it was started with the shim, and which file that
is."""
HEAD = struct.Struct("5q")


class Kind(enum.IntEnum):
    """What a call does, as shim.c numbers it."""

    OPEN = 0
    CREATE = 1
    WRITE = 2
    RESIZE = 3
    SYNC = 4
    RENAME = 5
    UNLINK = 6
    LINK = 7
    MKDIR = 8
    RMDIR = 9
    LOCK = 10
    MAP = 11
    COPY = 12
    CLONE = 13
    READ = 14
    LIST = 15


class Mode(enum.IntEnum):
    """What goes wrong, as shim.c numbers it."""

    COUNT = 0
    """Nothing."""
    KILL = 1
    FAIL = 2
    """The call fails, once."""
    FAIL_ON = 3
    """It fails, and all that are counted after it."""
    SHORT = 4
    """A write or a read is of fewer bytes than it was asked for."""
    LIE = 5
    """The call says that it was done, and was not."""
    LIE_ON = 6
    RECORD = 7
    """Nothing; all calls that change something are noted with their bytes."""
    SHORT_FAIL = 8
    """A write is short, and all that follow it fail: how a disk becomes full."""


K = Kind
GROWING = frozenset({K.CREATE, K.WRITE, K.RESIZE, K.RENAME, K.LINK, K.MKDIR, K.COPY, K.CLONE})
"""What a full disk refuses."""
CHANGES = GROWING | {K.SYNC, K.UNLINK, K.RMDIR}
"""What changes something on a disk, or makes it stay: between two of these, it does not matter when a process
is killed."""
OPENS = frozenset({K.OPEN, K.CREATE, K.LIST})
LOCKS = frozenset({K.LOCK})
ALL = frozenset(Kind)


class _Control(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("at", ctypes.c_int64),
        ("share", ctypes.c_double),
        ("mode", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("kinds", ctypes.c_uint32),
        ("log", ctypes.c_int32),
        ("struck", ctypes.c_int32),
        ("path", ctypes.c_char * 512),
        ("folder", ctypes.c_char * 1024),
        ("seen", ctypes.c_int64 * len(Kind)),
    )


@dataclass(frozen=True)
class Record:
    """One call that was noted. Paths are relative to the folder."""

    kind: Kind | None
    """None: a mark of the writer's own, whose text is `path`."""
    path: str
    other: str = ""
    """RENAME, LINK: the new name."""
    number: int = 0
    """WRITE: the offset; RESIZE: the size; RENAME: flags; CREATE: whether the file was there."""
    data: bytes = b""


class Shim:
    """The shim in this process, for the calls below one folder."""

    def __init__(self, folder: str) -> None:
        library = ctypes.CDLL(os.environ[LOADED])
        library.shim_control.restype = ctypes.POINTER(_Control)
        self._mark = library.shim_mark
        self._control: Any = library.shim_control().contents
        self.folder = os.path.realpath(folder)

    def plan(
        self,
        mode: Mode,
        *,
        at: int = 0,
        share: float = 0.0,
        error: int = 0,
        kinds: frozenset[Kind] = CHANGES,
    ) -> None:
        """From now on, calls of these kinds are counted from 1, and this happens at call `at`."""
        control = self._control
        control.folder = b""  # nothing is counted while the plan is only half there
        control.count, control.at, control.share = 0, at, share
        control.mode, control.error, control.struck, control.path = mode, error, -1, b""
        control.kinds = sum(1 << kind for kind in kinds)
        for kind in Kind:
            control.seen[kind] = 0
        control.folder = self.folder.encode()

    def rest(self) -> None:
        """From now on, nothing is counted."""
        self._control.folder = b""

    @property
    def count(self) -> int:
        """Calls since the plan was made."""
        return int(self._control.count)

    def seen(self) -> dict[Kind, int]:
        """Calls of each kind since the plan was made."""
        return {kind: int(self._control.seen[kind]) for kind in Kind}

    @property
    def struck(self) -> str:
        """The call that went wrong, as "write of store.zarr/zarr.json"; empty if none did."""
        if self._control.struck < 0:
            return ""
        path = os.path.relpath(self._control.path.decode("utf-8", "replace"), self.folder)
        return f"{Kind(self._control.struck).name.lower()} of {path}"

    def record(self, log: int) -> None:
        """From now on, calls are noted in this file, an open descriptor."""
        self.plan(Mode.RECORD, kinds=ALL)
        self._control.log = log

    def mark(self, text: str) -> None:
        """Note something of one's own between the calls."""
        self._mark(text.encode())

    def records(self, path: str) -> list[Record]:
        """What was noted."""
        return list(_records(Path(path).read_bytes(), self.folder))


def _records(data: bytes, folder: str) -> Iterator[Record]:
    place = 0
    while place < len(data):
        kind, number, *lengths = HEAD.unpack_from(data, place)
        place += HEAD.size
        parts = []
        for length in lengths:
            parts.append(data[place : place + length])
            place += length
        path, other = (part.decode("utf-8", "surrogateescape") for part in parts[:2])
        if kind < 0:
            yield Record(None, path)
        else:
            path, other = (os.path.relpath(name, folder) if name else "" for name in (path, other))
            yield Record(Kind(kind), path, other, number, parts[2])


# --- starting a process with the shim


def _build() -> str:
    """The shim as a library, made anew if its source has changed. RuntimeError: it cannot be made here."""
    if not sys.platform.startswith("linux"):
        raise RuntimeError("the shim is for Linux")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("there is no C compiler (cc) for the shim")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = os.path.join(tempfile.gettempdir(), f"replaystore-shim-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.stat(folder).st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else")
    built = os.path.join(folder, f"{digest}.so")
    if not os.path.exists(built):
        fresh = f"{built}.{os.getpid()}"
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", fresh, str(SOURCE), "-ldl", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # our own source
        if done.returncode:
            raise RuntimeError(f"the shim cannot be compiled: {(done.stderr.splitlines() or ['?'])[0]}")
        os.replace(fresh, built)
    return built


def available() -> str:
    """Why there is no shim on this machine; empty if there is one."""
    try:
        _build()
    except (RuntimeError, OSError) as error:
        return str(error)
    return ""


def preloaded(module: str, function: str, *arguments: Any, **options: Any) -> Tally:
    """The Tally of a function (of a module, by their names), in a process that has the shim; arguments must
    be JSON."""
    if LOADED in os.environ:
        found: Tally = getattr(importlib.import_module(module), function)(*arguments, **options)
        return found
    try:
        built = _build()
    except RuntimeError as error:
        return Tally(skipped=str(error))
    return apart(module, function, arguments, options, environment={"LD_PRELOAD": built, LOADED: built})
