"""Small stores of every kind that are spoiled and looked at, again and again, in children with little time
and memory.

What a spoiled store may do: show what was in it, or raise one error of replaystore's. It may not end the
interpreter, hang, take all memory, or raise anything else; and where it shows something else, `verify` may
not find it clean.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import stat
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.checking.repair import repair
from replaystore.checking.verify import UNEXPECTED, verify
from replaystore.converting.convert import convert
from replaystore.errors import FormatError, NotFoundError, ReplayStoreError
from replaystore.testing import samples
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import forked, tiny
from replaystore.testing.faults import UnsyncedFiles, using

__all__ = ["KINDS", "Specimen", "in_children", "look", "make", "write"]

KINDS = (
    *("live.zarr", "ring.zarr", "archive.zarr", "archive.zarr.zip", "live.h5", "archive.h5"),
    *("ragged.zarr", "ragged-ring.zarr", "ragged.h5"),
)
"""The names of the stores, which say what they are; `ragged`: with fields of any length."""
SECONDS = 10.0
MEMORY = 2500 << 20
"""What one spoiled store may take."""
TURNS = 400
"""Stores looked at by one child."""

Change = Mapping[str, "bytes | int | str | None"]
"""New contents of files by name: bytes; a size, up to which it is a hole; "link:TARGET", "pipe", "folder",
"socket"; None: gone."""


# --- stores


def make(folder: str, *, seed: int = 0) -> dict[str, Specimen]:
    """One store of each kind."""
    found = {}
    for kind in KINDS:
        path = Path(folder, kind)
        if kind == "archive.zarr.zip":
            convert(path.with_suffix(""), path)
            Path(f"{path}.sha256").unlink(missing_ok=True)  # with it any change is found by one comparison
        else:
            _record(
                path,
                "archive" if kind.startswith("archive") else "live",
                24 if "ring" in kind else None,
                seed,
            )
        found[kind] = Specimen(path)
    return found


def _record(path: Path, layout: Any, capacity: int | None, seed: int) -> None:
    """Several commits, a rollback's scars, ended and open trajectories, columns of the user's, chunks that
    are not full."""
    ragged = path.name.startswith("ragged")
    schema = samples.small(ragged=ragged)
    codec = "gzip:1" if path.suffix == ".h5" else "zstd:1"
    storage = samples.storage(codec, ragged=ragged)
    if layout == "archive":
        storage["info/wide"]["codec"] = codec
    with (
        tiny(),
        buffers.create(
            path, schema, layout=layout, storage=storage, capacity=capacity, metadata={"made": [1, "é"]}
        ) as buffer,
    ):
        for env in range(4):
            columns = samples.columns(schema, 11 + env, 100 * seed + env, ends=0.3)
            flags = columns["terminated"] | columns["truncated"]
            finals = samples.columns(schema, int(flags.sum()) + (not flags[-1]), 100 * seed + 90 + env)
            following = schema.unflatten(
                {name: finals[name] for name in schema.names("observation")}, "observation"
            )
            buffer.append(columns, env=env, final_observation=following, split=f"split{env}")
            buffer.commit()
            if env == 1 and capacity is None:
                buffer.append(samples.columns(schema, 9, 77), env=7)
                buffer.rollback(buffer.commit() - 1)
        buffer.set_trajectory_column("score", np.arange(int((~buffer.trajectories["open"]).sum())) / 3)
        buffer.commit()
        buffer.append(samples.columns(schema, 3, 100 * seed + 50, ends=0), env=3)
    Path(f"{path}.sha256").unlink(missing_ok=True)


@dataclass
class Specimen:
    """A store that is spoiled and mended: a folder, or a file, whose name among its files is then empty."""

    path: Path
    files: dict[str, bytes] = field(default_factory=dict)
    expected: Contents | None = None

    def __post_init__(self) -> None:
        names = (
            [""]
            if self.path.is_file()
            else [str(p.relative_to(self.path)) for p in sorted(self.path.rglob("*")) if p.is_file()]
        )
        self.files = {name: (self.path / name if name else self.path).read_bytes() for name in names}
        with buffers.open(self.path) as buffer:
            self.expected = Contents.of(buffer)

    @property
    def kind(self) -> str:
        return self.path.name

    def spoil(self, change: Change) -> None:
        for name, new in change.items():
            place = self.path / name if name else self.path
            _remove(place)
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(new, bytes):
                place.write_bytes(new)
            elif isinstance(new, int):
                place.write_bytes(self.files.get(name, b""))
                os.truncate(place, new)
            elif new is not None:
                _put(place, new)

    def mend(self, change: Change) -> None:
        """After a change, if nothing else has written to it."""
        for name in change:
            _remove(self.path / name if name else self.path)
        for name in change:
            if name in self.files:
                place = self.path / name if name else self.path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(self.files[name])
        for name, data in self.files.items():  # a folder was in the way
            place = self.path / name if name else self.path
            if any(name.startswith(other + "/") for other in change):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)

    def renew(self) -> None:
        """Whatever was done to it."""
        for place in self.path.parent.glob(self.path.name + "*"):
            if place == self.path or not (place.name in KINDS or place.name.endswith(".lock")):
                _remove(place)
        for name, data in self.files.items():
            place = self.path / name if name else self.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place.unlink()


def _put(place: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "socket":
        os.mknod(place, stat.S_IFSOCK | 0o600)
    else:
        place.symlink_to(kind.removeprefix("link:"))


# --- looking


def look(store: Specimen, *, strict: bool) -> list[str]:
    """What is wrong with how a spoiled store is read. `strict`: it may not show anything else than before,
    unless `verify` says so."""
    reported, findings = _verified(store.path)
    differs = ""
    try:
        with buffers.open(store.path) as buffer:
            differs = _difference(store.expected, Contents.of(buffer))
            if len(buffer):
                buffer.sampler(8, seed=1, prefetch=0).sample()
    except BaseException as error:  # noqa: BLE001  # of any kind
        findings += wrong(error, "reading")
    if strict and differs and not reported:
        findings.append(f"verify finds nothing, but reading shows something else: {differs:.200}")
    return findings


def _difference(expected: Contents | None, found: Contents) -> str:
    try:
        return expected.difference(found) if expected is not None else ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of other fields, or as many
        return repr(error)


def _verified(path: Path) -> tuple[bool, list[str]]:
    """Whether `verify` reports anything, and what is wrong with how it does that."""
    try:
        problems = verify(path).problems
    except (NotFoundError, FormatError) as error:
        return True, wrong(error, "verify")
    except BaseException as error:  # noqa: BLE001  # of any kind
        return True, [f"verify raises {text}" for text in wrong(error, "") or [repr(error)]]
    return bool(problems), [f"verify: {problem}" for problem in problems if UNEXPECTED in problem.what]


def write(store: Specimen, action: str) -> list[str]:
    """What is wrong with how a spoiled store is repaired, written to, converted or shown."""
    try:
        if action == "repair" and store.path.suffix != ".zip":
            repair(store.path)
        elif action == "append" and store.path.suffix != ".zip":
            schema = samples.small(ragged=store.kind.startswith("ragged"))
            with buffers.open(store.path, "r+") as buffer:
                buffer.append(samples.columns(schema, 5, 1))
                buffer.commit()
        elif action == "convert":
            convert(store.path, store.path.parent / f"{store.path.name}.to.zarr", overwrite=True)
        else:
            return _told(store.path)
    except BaseException as error:  # noqa: BLE001  # of any kind
        return wrong(error, action)
    return []


def _told(path: Path) -> list[str]:
    """By the program's `info` and `show`."""
    from replaystore.cli import cli

    for command in ("info", "show"):
        try:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                cli.main([command, str(path)], standalone_mode=False)
        except BaseException as error:  # noqa: BLE001  # of any kind
            return wrong(error, command)
    return []


def wrong(error: BaseException, action: str) -> list[str]:
    """What is wrong with an error that a spoiled store leads to; nothing if it is one of ours, of one
    line."""
    if isinstance(error, ReplayStoreError) and str(error).strip() and "\n" not in str(error):
        return []
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "/replaystore/" in frame.filename
    ]
    at = " < ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in reversed(frames[-3:]))
    return [f"{action}: {type(error).__name__}: {str(error)[:160]!r} at {at}"]


# --- in children


def in_children(jobs: Sequence[int], attempt: Callable[[int], Sequence[str]]) -> Iterator[tuple[int, str]]:
    """Do all jobs, in children that are replaced when they die: (job, what was found wrong)."""
    done = 0
    while done < len(jobs):
        turn = jobs[done : done + TURNS]
        status, told = forked(lambda tell, turn=turn: _work(turn, attempt, tell))  # type: ignore[misc]
        if status == 1 or not told:
            raise RuntimeError(f"a child failed: {told[-1] if told else status}")
        yield from ((job, finding) for job, finding in told if finding)
        if status:
            what = "it hangs" if status == -signal.SIGALRM else f"the interpreter dies of signal {-status}"
            yield told[-1][0], what
        done += turn.index(told[-1][0]) + 1


def _work(jobs: Sequence[int], attempt: Callable[[int], Sequence[str]], tell: Callable[[Any], None]) -> None:
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (
        warnings.catch_warnings(action="ignore"),
        patch("replaystore.checking.verify._probe", lambda *_: True),  # this is a process of its own already
        patch("replaystore.columns.mapped.RESERVE_AT_LEAST", 1 << 20),
        using(UnsyncedFiles),
    ):
        for job in jobs:
            tell((job, ""))
            signal.signal(signal.SIGALRM, _too_long)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            for finding in attempt(job):
                tell((job, finding))
            signal.setitimer(signal.ITIMER_REAL, 0)


class Hanging(BaseException):
    """It took too long; where this is raised says at what."""


def _too_long(*_: object) -> None:
    # Where Python does not get to raise, the process ends a little later.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS / 4)
    raise Hanging(f"no end after {SECONDS} s")
