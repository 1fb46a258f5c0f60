"""Stores and files that hold one value, to be replaced, and ways to stop that at any call of the system."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from tensors import torch

import replaystore as rs
from replaystore.errors import (
    ReplayStoreError,
)
from replaystore.schema.fields import Field, Schema
from replaystore.storage import local as files

SCHEMA = Schema(
    {"observation": Field(np.dtype("f4"), (3,), "observation"), "reward": Field(np.dtype("f4"), (), "reward")}
)
CALLS = ("rename", "replace", "link", "unlink", "rmdir")
"""Of `os`; and the exchange of two names."""


def make(path: Path, value: float, count: int = 6) -> None:
    with rs.create(path, SCHEMA, overwrite=True) as buffer:
        buffer.append(
            {"observation": np.full((count, 3), value, "f4"), "reward": np.full(count, value, "f4")}
        )


def of_store(path: Path) -> float:
    """The value of a store, which is whole; 0: it has no rows."""
    half = "other software sees different numbers of rows"  # killed when it was recorded, and whole for us
    assert [problem for problem in rs.verify(path).problems if half not in problem.what] == []
    with rs.open(path) as buffer:
        found = {float(value) for name in ("observation", "reward") for value in np.unique(buffer[name][:])}
    assert len(found) <= 1
    return found.pop() if found else 0.0


@dataclass(frozen=True)
class Kind:
    """Something that replaces what has a name."""

    name: str
    begin: Callable[[Path, float], object]
    """Put something of this value there."""
    replace: Callable[[Path, float], object]
    value: Callable[[Path], float]


def convert(path: Path, value: float, **settings: Any) -> None:
    source = path.parent / f"source{value}.zarr"
    if not source.exists():
        make(source, value)
    rs.convert(source, path, overwrite=True, **settings)


def archive(path: Path, value: float) -> None:
    convert(path, value, layout="archive")


KINDS = {
    "create .zarr": Kind("a.zarr", make, make, of_store),
    "create .h5": Kind("a.h5", make, make, of_store),
    "convert .zarr": Kind("a.zarr", make, convert, of_store),
    "archive .h5": Kind("a.h5", archive, archive, of_store),
    "archive .zip": Kind("a.zarr.zip", archive, archive, of_store),
    "archive to live .h5": Kind("a.h5", archive, convert, of_store),
}
if torch is not None:
    from replaced_dropins import active, of_active, of_velora, velora

    for name, place, make_one, value_of in (
        ("velora", "a.folder", velora, of_velora),
        ("velora .zarr", "a.zarr", velora, of_velora),
        ("velora .h5", "a.h5", velora, of_velora),
        ("velora .zip", "a.zarr.zip", velora, of_velora),
        ("active_rlhf", "a.pkl", active, of_active),
    ):

        def save(at: Path, value: float, make_one: Callable[[float], Any] = make_one) -> None:
            make_one(value).save(at)

        KINDS[name] = Kind(place, save, save, value_of)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process for each look at an HDF5 file would take most of the time."""
    monkeypatch.setattr("replaystore.checking.verify._probe", lambda *_: True)


@pytest.fixture(
    params=[
        name for name in KINDS if name not in ("create .h5", "convert .zarr", "velora .h5", "velora .zip")
    ]
)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=["exchange", "renames"])
def system(request: pytest.FixtureRequest, kind: Kind) -> Iterator[str]:
    """With the exchange of two names, and without."""
    if request.param == "exchange":
        if not files._exchange.__module__:
            pytest.skip("the system cannot exchange two names")
        yield request.param
        return
    if not kind.name.endswith(".zarr"):
        pytest.skip("only folders are exchanged")
    with patch.object(files, "_exchange", lambda *_: False):
        yield request.param


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()  # until it arrives


@dataclass
class Calls:
    """Counts calls, and does something at one of them."""

    at: int = -1
    after: bool = False
    strike: Callable[[], object] = kill
    names: tuple[str, ...] = CALLS
    seen: list[str] = field(default_factory=list)

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            self.seen.append(name)
            fatal = len(self.seen) - 1 == self.at
            if fatal and not self.after:
                self.strike()
            try:
                return call(*args, **more)
            finally:
                if fatal and self.after:
                    self.strike()

        return counted

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in self.names:
                stack.enter_context(patch.object(os, name, self.wrap(name, getattr(os, name))))
            stack.enter_context(patch.object(files, "_exchange", self.wrap("exchange", files._exchange)))
            yield


def in_child(doing: Callable[[], object]) -> int:
    """Do it in a forked child. 0: done; 1: an error of ours, 2: another; below 0: killed."""
    pid = os.fork()
    if not pid:
        try:
            doing()
        except ReplayStoreError:
            os._exit(1)
        except BaseException as error:  # noqa: BLE001  # a child never comes back
            if not isinstance(error, KeyboardInterrupt):
                traceback.print_exc()
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def points(seen: list[str]) -> list[tuple[int, bool]]:
    """The last calls that give a name, before and after each, and some of those before them, or that remove
    something."""
    naming = [number for number, name in enumerate(seen) if name not in ("unlink", "rmdir")]
    removing = [number for number, name in enumerate(seen) if name in ("unlink", "rmdir")]
    some = [*naming[:-4:16], *removing[:: max(1, len(removing) // 2)], *removing[-1:]]
    return sorted(
        {(number, after) for number in naming[-4:] for after in (False, True)}
        | {(number, False) for number in some}
    )


def count(kind: Kind, folder: Path) -> list[str]:
    """The calls of a replacement; its sources are there afterwards."""
    path = folder / kind.name
    for value in (1, 2):
        kind.replace(path, value)
    kind.begin(path, 2)
    calls = Calls()
    with calls():
        kind.replace(path, 2)
    kind.begin(path, 1)
    return calls.seen


def damage(path: Path) -> None:
    """Commit more rows, and change one of these."""
    with rs.open(path, "r+") as buffer:
        for _ in range(2):
            buffer.append({"observation": np.full((3000, 3), 1, "f4"), "reward": np.full(3000, 1, "f4")})
            buffer.commit()
        extent = buffer._store.container.extents("steps/observation", 0, 6006)[0]  # type: ignore[union-attr]
        file, place = Path(buffer._store.container.files.path(extent.object)), extent.offset + 12 * 5500  # type: ignore[union-attr]
    with open(file, "r+b") as opened:
        opened.seek(place)
        opened.write(b"\1\2\3")
    assert rs.verify(path).problems
