"""What puts something in a place, and is interrupted: create, open, convert, save, repair. The old is
there, or the new.

1. Under the name there is what was there before, whole, or what is being put there, whole.
2. It can be done again in the same process, with the same object, and then the new is there; so no lock is
   left held, and no temporary file hinders it.
3. Beside it nothing is left then but what the operation leaves anyway.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.checking.repair import repair
from replaystore.converting.convert import convert
from replaystore.errors import ReplayStoreError, UnsupportedError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import forked, tiny
from replaystore.testing.interruption import ALLOWED, Interruption, says_so
from replaystore.testing.samples import columns, small, storage
from replaystore.testing.sessions import verified

__all__ = ["Replacement", "replacements"]

CODECS = {".zarr": "zstd:1", ".h5": "gzip:1"}
NOTHING = "nothing"

Act = Callable[[str, Any], Any]
"""Called with the folder and what `begin` gave."""


@dataclass
class Replacement:
    """Something that is put in the place `target` of a folder."""

    name: str
    operation: str
    target: str
    find: Callable[[str], Any]
    """Make what is found, in an empty folder."""
    act: Act
    """What is interrupted."""
    begin: Callable[[str], Any] = lambda _: None
    """What comes before it in the same process."""
    again: Act | None = None
    """How it is done again, if not in the same way."""
    shown: Callable[[str], str] | None = None
    """What is in the place, in short, if it is not a store: two of these are equal if the contents are."""
    goes_on: bool = False
    """Whether it is always done again with what `begin` gave."""
    before: str = ""
    after: str = ""
    left: frozenset[str] = field(default_factory=frozenset)
    """The names in the folder when all is done."""

    @property
    def operations(self) -> dict[str, str]:
        return {self.operation: self.operation}

    def prepare(self, folder: str) -> None:
        """Make what is found, and know what is there before and after."""
        status, told = forked(lambda tell: self._prepare(folder, tell))
        if status:
            raise AssertionError(f"{self.name} cannot be prepared: {told[-1]}")
        self.before, self.after, self.left = told[-1]

    def _prepare(self, folder: str, tell: Callable[[Any], None]) -> None:
        other = folder + "-after"
        with tiny():
            self.find(folder)
            shutil.copytree(folder, other)
            subject = self.begin(other)
            before = self._seen(other)
            _release(self.act(other, subject))
            tell((before, self._seen(other), frozenset(os.listdir(other))))
            if subject is not None:
                subject.close()
        shutil.rmtree(other)

    def _seen(self, folder: str) -> str:
        path = os.path.join(folder, self.target)
        if not os.path.lexists(path):
            return NOTHING
        return stored(path) if self.shown is None else self.shown(path)

    # --- in a child

    def play(self, folder: str, cut: Interruption, *, goes_on: bool) -> str:
        """Do it, interrupted; look; do it again. What is wrong; empty if nothing is."""
        with tiny():
            subject = self.begin(folder)
            # What is wrong with the error; not the error, which would keep alive what it left.
            arrived: str | None = None
            try:
                with cut.watching(self.operation):
                    _release(self.act(folder, subject))
            except ALLOWED as error:
                arrived = says_so(error)
            if arrived is None and cut.unheard:
                return "it is not heard"
            if arrived:
                return arrived
            seen = self._seen(folder)
            allowed = (self.before, self.after) if arrived is not None else (self.after,)
            if seen not in allowed:
                return f"there is {_short(seen)}, neither {_short(self.before)} nor {_short(self.after)}"
            if arrived is None:
                return ""
            return self._do_again(folder, subject if goes_on or self.goes_on else self.begin(folder))

    def _do_again(self, folder: str, subject: Any) -> str:
        try:
            _release((self.again or self.act)(folder, subject))
        except ReplayStoreError as error:
            return f"doing it again gives {type(error).__name__}: {error}"
        if subject is not None:
            subject.close()
        seen, left = self._seen(folder), sorted(set(os.listdir(folder)) - self.left - {self.target + ".lock"})
        if seen != self.after:
            return f"doing it again gives {_short(seen)} instead of {_short(self.after)}"
        return f"{', '.join(left)} is left there" if left else _usable(os.path.join(folder, self.target))


def _short(seen: str) -> str:
    return seen if " " in seen or seen == NOTHING else seen[:8]


def _release(result: Any) -> None:
    """Close a buffer that was opened."""
    if isinstance(result, Buffer):
        result.close()


def stored(path: str) -> str:
    """What a store shows, in short, or what is wrong with it."""
    try:
        with buffers.open(path) as reader:
            shown = Contents.of(reader)
    except ReplayStoreError as error:
        return f"a store that says {type(error).__name__}"
    return verified(path)[:120] or _digest(shown)


def _digest(shown: Contents) -> str:
    found = hashlib.sha256()
    arrays: list[Mapping[str, Any]] = [shown.columns, shown.table]
    arrays += [story.columns for story in shown.stories]
    arrays += [story.final_observation or {} for story in shown.stories]
    for number, part in enumerate(arrays):
        for name, values in part.items():
            found.update(f"{number} {name} {values.dtype} {values.shape}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _usable(path: str) -> str:
    """A live store goes on; what is wrong if it does not."""
    if not path.endswith(tuple(CODECS)):
        return ""
    try:
        with buffers.open(path, "r+") as buffer:
            buffer.append(columns(buffer.schema, 5, 3), env=7)
    except UnsupportedError:  # sealed
        return ""
    except ReplayStoreError as error:
        return f"it cannot be written to: {error}"
    return verified(path)


# --- what is found, and what is done


def _new(path: str, layout: Literal["live", "archive"]) -> Buffer:
    codec = CODECS[os.path.splitext(path)[1]]
    settings = storage(codec)
    if layout == "archive":
        settings["info/wide"]["codec"] = codec
    return buffers.create(path, small(), storage=settings, layout=layout)


def record(path: str, seed: int, *, commits: int = 3) -> None:
    """A closed store."""
    with _new(path, "live") as buffer:
        for number in range(commits):
            buffer.append(columns(small(), 9 + number, 10 * seed + number, ends=0.3), env=number % 2)
            buffer.commit()


def _creating() -> Iterator[Replacement]:
    for suffix, codec in CODECS.items():
        target = "store" + suffix

        def act(folder: str, _: Any, target: str = target, codec: str = codec) -> Any:
            return buffers.create(f"{folder}/{target}", small(), storage=storage(codec), overwrite=True)

        def old(folder: str, target: str = target) -> None:
            record(f"{folder}/{target}", 1)

        yield Replacement(f"create in {suffix}", "create", target, lambda _: None, act)
        yield Replacement(f"create over {suffix}", "create", target, old, act)
        layouts: tuple[Literal["live", "archive"], ...] = ("live", "archive")
        for layout in layouts:

            def find(folder: str, target: str = target, layout: Literal["live", "archive"] = layout) -> None:
                _killed(f"{folder}/{target}", layout)

            def recover(folder: str, _: Any, target: str = target) -> Any:
                return _reopen(f"{folder}/{target}")

            yield Replacement(f"recovery of {layout} {suffix}", "recover", target, find, recover)


def _killed(path: str, layout: Literal["live", "archive"]) -> None:
    """A store whose writer was killed, with rows that no commit counts."""
    buffer = _new(path, layout)
    for number in range(4):
        buffer.append(columns(small(), 11, 50 + number))
        buffer.commit()
    buffer.append(columns(small(), 19, 60))
    buffer.abandon()


def _reopen(path: str) -> Buffer | None:
    """Open it for writing, unless it is sealed."""
    with suppress(UnsupportedError):
        return buffers.open(path, "r+")
    return None


def _converting() -> Iterator[Replacement]:
    stores, foreign = ("t.zarr", "t.h5", "t.zarr.zip"), ("replay_buffer.pkl", "buffer_state.safetensors")
    plain: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in (*stores, *foreign)]
    for target, settings in [*plain, *((name, {"layout": "archive"}) for name in stores)]:
        for over in (False, True):
            words = ["convert to", settings.get("layout", ""), target.partition(".")[2]]
            words += ["over another"] if over else []
            shown = _files if target in foreign else None

            def find(folder: str, target: str = target, over: bool = over) -> None:
                _source(folder)
                if over:
                    record(f"{folder}/other.h5", 2)
                    convert(f"{folder}/other.h5", f"{folder}/{target}")

            def act(folder: str, _: Any, target: str = target, settings: Any = settings) -> None:
                convert(f"{folder}/source.zarr", f"{folder}/{target}", overwrite=True, **settings)

            yield Replacement(" ".join(filter(None, words)), "convert", target, find, act, shown=shown)


def _source(folder: str) -> None:
    record(f"{folder}/source.zarr", 1)


def _files(path: str) -> str:
    """The bytes of a file of other software, and of the one that belongs to it."""
    pair = [Path(path), *Path(path).parent.glob("*_metadata.json")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in pair)).hexdigest()


def _repairing() -> Iterator[Replacement]:
    for suffix in CODECS:
        target = "store" + suffix

        def find(folder: str, target: str = target) -> None:
            path = f"{folder}/{target}"
            record(path, 1, commits=6)
            _damage(path)

        def act(folder: str, _: Any, target: str = target) -> None:
            repair(f"{folder}/{target}")

        yield Replacement(f"repair of {suffix}", "repair", target, find, act)


def _damage(path: str) -> None:
    """Change the last row of a raw field, so that going back one commit mends it."""
    with buffers.open(path) as reader:
        store = reader._store
        extent = store.container.extents("steps/action", 0, store.rows("steps/action"))[-1]
        file, at = store.container.files.path(extent.object), extent.offset + extent.length - 3
    data = bytearray(Path(file).read_bytes())
    data[at] ^= 1
    Path(file).write_bytes(data)


def replacements() -> list[Replacement]:
    """All but those that save the buffers of other software (`replaystore.testing.saves`)."""
    return [*_creating(), *_converting(), *_repairing()]
