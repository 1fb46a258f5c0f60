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
import torch

import replaystore as rs
from replaystore.compat.active_rlhf import ReplayBuffer as ActiveBuffer
from replaystore.compat.velora import ReplayBuffer as VeloraBuffer
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


def velora(value: float) -> VeloraBuffer:
    """Its position, which is in the other file, says what its tensors hold."""
    buffer, count = VeloraBuffer(capacity=50, state_dim=4, action_dim=2, hidden_dim=3), int(value) * 5

    def full(*shape: int) -> torch.Tensor:
        return torch.full(shape, float(value))

    buffer.add_multi(
        full(count, 4), full(count, 2), full(count), full(count, 4), torch.zeros(count), full(count, 3)
    )
    return buffer


def of_velora(path: Path) -> float:
    loaded = VeloraBuffer.load(path / "buffer_state" if path.suffix == ".folder" else path)
    value = loaded.position / 5
    for name in ("states", "actions", "rewards", "next_states", "hiddens"):
        rows = loaded.state_dict()[name].cpu()[: loaded.size]
        assert (rows == value).all(), (name, value, torch.unique(rows))
    if isinstance(loaded.states, torch.Tensor):
        return value
    loaded.close()
    return value


def active(value: float) -> ActiveBuffer:
    class Envs:
        single_observation_space = single_action_space = type("Space", (), {"shape": (2,)})

    buffer = ActiveBuffer(Envs(), 20, 2, "cpu")
    buffer.obs[:] = value
    buffer.acts[:] = value
    return buffer


def of_active(path: Path) -> float:
    loaded = ActiveBuffer.load(path)
    found = torch.unique(torch.cat([loaded.obs.flatten(), loaded.acts.flatten()])).tolist()
    assert len(found) == 1
    return float(found[0])


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
    "velora": Kind("a.folder", lambda at, v: velora(v).save(at), lambda at, v: velora(v).save(at), of_velora),
    "velora .zarr": Kind(
        "a.zarr", lambda at, v: velora(v).save(at), lambda at, v: velora(v).save(at), of_velora
    ),
    "velora .h5": Kind("a.h5", lambda at, v: velora(v).save(at), lambda at, v: velora(v).save(at), of_velora),
    "velora .zip": Kind(
        "a.zarr.zip", lambda at, v: velora(v).save(at), lambda at, v: velora(v).save(at), of_velora
    ),
    "active_rlhf": Kind(
        "a.pkl", lambda at, v: active(v).save(at), lambda at, v: active(v).save(at), of_active
    ),
}


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
