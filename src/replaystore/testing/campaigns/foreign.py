"""Files of other software, spoilt in every way that hurts (`replaystore.testing.mangling`): reading one is an
error of ours in one line, or gives a sound store. Nothing in it is executed, nothing outside is written,
nothing hangs, and memory is bounded.

What is spoilt is what the formats here write of difficult stores, and the real files below the folder that
the environment variable REPLAYSTORE_SAMPLES names.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from replaystore import registry
from replaystore.checking.verify import verify
from replaystore.converting.convert import convert
from replaystore.errors import ReplayStoreError
from replaystore.formats import finding
from replaystore.formats.format import Format
from replaystore.formats.source import Source
from replaystore.schema.fields import Field, Schema
from replaystore.testing import difficult
from replaystore.testing.campaigns import Tally
from replaystore.testing.mangling import HARM, MARKER, mangled
from replaystore.testing.matrix import foreign, ways
from replaystore.testing.specimens import in_children, wrong

__all__ = ["PROMISE", "control", "files_of", "run"]

PROMISE = "a spoilt file of other software is one error of ours, or a sound store: nothing is executed"
STORES = ("plain", "everything", "images", "empty")
LARGEST = 4 << 20
"""Bytes of a real file that is tried."""
VERIFIED = 8
"""One in so many stores that were made is verified, and all that a control makes."""
NEVER = frozenset(
    {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pickle.find_class"}
)
"""What Python tells of, and no reader does."""
HARMLESS = frozenset({"/dev/null"})

Files = dict[str, list[str]]


def files_of(folder: str, *, only: Sequence[str] = ()) -> Files:
    """Whole files to be spoilt, by format."""
    reads, writes = ways()
    found: Files = {name: [] for name in reads if not only or name in only}
    for number, store in enumerate(STORES):
        location = os.path.join(folder, f"{store}.zarr")
        difficult.made(location, store, seed=number)
        for name in found:
            if name in writes:
                format_ = finding.named(name)
                suffix = next(iter(registry.entry("formats", name).suffixes), "")
                path = os.path.join(folder, name, store, format_.example or f"file{suffix}")
                with contextlib.suppress(ReplayStoreError):
                    convert(location, path, target_format=name)
                    found[name].append(path)
    samples = os.environ.get("REPLAYSTORE_SAMPLES", "")
    for name, path in foreign(samples) if samples else ():
        if name in found and _size(path) <= LARGEST and _is_read(name, path):
            found[name].append(path)
    return {name: paths for name, paths in found.items() if paths}


def _is_read(name: str, path: str) -> bool:
    try:
        with finding.named(name).read(path):
            return True
    except ReplayStoreError:
        return False


def _size(path: str) -> int:
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def run(folder: str, *, count: int, seed: int, only: Sequence[str] = ()) -> Tally:
    """So many spoilt files, of all formats in turn."""
    files = files_of(os.path.join(folder, "whole"), only=only)
    return _tried(files, folder, count=count, seed=seed, every=VERIFIED)


def _tried(files: Files, folder: str, *, count: int, seed: int, every: int) -> Tally:
    tally, names = Tally(), sorted(files)
    for number in range(count):
        tally.count(names[number % len(names)])
    attempt = partial(_attempt, files, folder, seed, every)
    for number, found in in_children(range(count), attempt):
        tally.failures.append(f"{names[number % len(names)]}: [{number}] {found}")
    return tally


def _attempt(files: Files, folder: str, seed: int, every: int, number: int) -> list[str]:
    draw = random.Random(f"{seed}/{number}")  # noqa: S311  # to be had again
    name = sorted(files)[number % len(files)]
    whole = draw.choice(files[name])
    room = os.path.join(folder, f"room{os.getpid()}")
    shutil.rmtree(room, ignore_errors=True)
    os.makedirs(room)
    path, target = os.path.join(room, "in", os.path.basename(whole)), os.path.join(room, "out.zarr")
    what = mangled(whole, path, draw)
    os.chdir(room)
    found: list[str] = []
    begin = time.monotonic()
    try:
        with _watched(room, found):
            finding.find(path)
            convert(path, target, source_format=name)
    except BaseException as error:  # noqa: BLE001  # of any kind
        found += wrong(error, "reading")
        if os.path.exists(target):
            found.append(f"a target is left behind {type(error).__name__}")
    else:
        if number % every == 0 and (problems := verify(target).problems):
            found.append(f"a store that is not sound: {problems[0]}")
    if time.monotonic() - begin > 10:
        found.append(f"it took {time.monotonic() - begin:.0f} s")
    if any(MARKER in names for _, *both in os.walk(room) for names in both):
        found.append("what the file says was executed")
    os.chdir(folder)
    shutil.rmtree(room, ignore_errors=True)
    return [f"{os.path.relpath(whole, folder)}, {what}: {problem}" for problem in found]


# --- what a reader does meanwhile

_watching: list[tuple[str, list[str]]] = []
_hooked: list[int] = []


@contextmanager
def _watched(room: str, found: list[str]) -> Iterator[None]:
    """Tell what Python says that is done meanwhile, and should not be."""
    if os.getpid() not in _hooked:  # a hook stays for as long as its process
        _hooked.append(os.getpid())
        sys.addaudithook(_told)
    _watching.append((room, found))
    try:
        yield
    finally:
        _watching.pop()


def _told(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    room, found = _watching[-1]
    if event in NEVER:
        found.append(f"{event}{arguments!r:.120}")
    elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
        path, writes = arguments[0], arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        inside = os.path.realpath(path).startswith(os.path.realpath(room))
        cache = path.endswith(".pyc") or "__pycache__" in path
        nameless = os.path.isdir(path)  # it holds a temporary file that has no name
        if writes and not (inside or cache or nameless or path in HARMLESS):
            found.append(f"{path} outside is opened to be written to")


# --- what must be seen


class _Careless(Format):
    """Reads as one does who believes a file."""

    def __init__(self, how: str) -> None:
        self.how = how

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """Fail, each in a way of its own."""
        import pickle

        if self.how == "it is executed":
            pickle.loads(HARM + b".")  # noqa: S301  # that is what must be seen
        if self.how == "it hangs":
            while True:
                time.sleep(1)
        if self.how == "memory without end":
            np.ones(1 << 40, np.uint8)
        if self.how == "it writes elsewhere":
            with open(os.path.join(os.path.dirname(path), "..", "..", "elsewhere"), "w"):
                pass
        if self.how:
            raise KeyError(path)
        yield Source(Schema({"reward": Field("f4", (), "reward")}), lambda _: iter(()))

    def recognizes(self, path: str) -> bool:
        """Whatever it is."""
        return False


CARELESS = ("a traceback", "it is executed", "it hangs", "memory without end", "it writes elsewhere")
SEEN = {
    "a traceback": "KeyError",
    "it is executed": "pickle.find_class",
    "it hangs": "no end after",
    "memory without end": "MemoryError",
    "it writes elsewhere": "outside is opened",
}


def control(folder: str, *, seed: int) -> Tally:
    """Readers that believe what they read, each in a way of its own: all of them must be seen."""
    tally, seen = Tally(), dict[str, str]()
    files = files_of(os.path.join(folder, "whole"), only=("active_rlhf",))
    for number, how in enumerate(CARELESS):
        with registry.using("formats", "active_rlhf", _Careless(how)):
            several = 1 if how == "it hangs" else 24
            found = _tried(files, folder, count=several, seed=seed + number, every=1)
        tally.count(how, several)
        seen[how] = next((failure for failure in found.failures if SEEN[how] in failure), "")
    if all(seen.values()):
        tally.failures = list(seen.values())
    return tally
