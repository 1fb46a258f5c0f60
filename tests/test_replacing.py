"""What has a name is the old thing or the new one, whole, whenever a process is killed, refused or
interrupted, and whoever else does it.

The calls that give and take names are counted where Python makes them, below everything of ours, and at each
of them in turn the process is killed, before or after it, or the call fails. Each of these is done to every
kind of thing that replaces something.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import time
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
from replaystore.buffers.opening import OLD, PARTIAL, NewStore, open_container
from replaystore.compat.active_rlhf import ReplayBuffer as ActiveBuffer
from replaystore.compat.velora import ReplayBuffer as VeloraBuffer
from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    ReplayStoreError,
    StorageError,
)
from replaystore.formats.shared import writing
from replaystore.location import parse
from replaystore.schema.fields import Field, Schema
from replaystore.storage import local as files
from replaystore.storage.temporary import NewFile

SCHEMA = Schema(
    {"observation": Field(np.dtype("f4"), (3,), "observation"), "reward": Field(np.dtype("f4"), (), "reward")}
)
CALLS = ("rename", "replace", "link", "unlink", "rmdir")
"""Of `os`; and the exchange of two names."""


# --- stores and files that hold one value


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


@pytest.fixture(autouse=True)
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


# --- faults


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


def test_killed_at_any_call_there_is_the_old_or_the_new(kind: Kind, system: str, tmp_path: Path) -> None:
    path, found = tmp_path / kind.name, set()
    seen = count(kind, tmp_path)
    clean = sorted(os.listdir(tmp_path))
    for number, after in points(seen):
        calls = Calls(number, after)
        with calls():
            assert in_child(lambda: kind.replace(path, 2)) == -signal.SIGKILL, (number, seen[number], after)
        value = kind.value(path) or 2
        assert value in (1, 2), (seen[number], after)
        found.add(value)
        assert in_child(lambda: kind.replace(path, 1)) == 0
        assert kind.value(path) == 1
        assert sorted(set(os.listdir(tmp_path)) - {"a.h5.sha256", "a.zarr.zip.sha256"}) == [
            n for n in clean if "sha256" not in n
        ]
        kind.begin(path, 1)
    assert found == {1, 2}
    assert sorted(os.listdir(tmp_path)) == clean


def test_what_the_system_refuses_at_any_call_leaves_the_old_or_the_new(
    kind: Kind, system: str, tmp_path: Path
) -> None:
    path = tmp_path / kind.name
    seen = count(kind, tmp_path)
    clean = sorted(os.listdir(tmp_path))

    def refuse() -> None:
        raise OSError(errno.EIO, "Input/output error")

    for number in sorted({number for number, _ in points(seen)})[::-2]:
        with Calls(number, strike=refuse)():
            result = in_child(lambda: kind.replace(path, 2))
        assert result in (0, 1), seen[number]
        value = kind.value(path) or 2  # made, and no rows yet
        assert value in (1, 2)
        if result == 0:
            assert value == 2
        kind.begin(path, 1)
        assert sorted(os.listdir(tmp_path)) == clean


def test_interrupted_at_any_call_there_is_the_old_or_the_new(kind: Kind, system: str, tmp_path: Path) -> None:
    path = tmp_path / kind.name
    seen = count(kind, tmp_path)
    clean = sorted(os.listdir(tmp_path))

    def interrupt() -> None:
        raise KeyboardInterrupt

    for number, after in points(seen)[::-2]:
        with Calls(number, after, strike=interrupt)(), contextlib.suppress(KeyboardInterrupt):
            kind.replace(path, 2)
        assert kind.value(path) in (0, 1, 2)
        kind.begin(path, 1)
        assert sorted(os.listdir(tmp_path)) == clean


# --- side by side


@pytest.mark.parametrize("name", ["velora", "velora .zarr", "velora .h5", "velora .zip", "active_rlhf"])
def test_two_who_save_to_one_place_leave_one_of_the_two_and_whoever_loads_sees_one(
    name: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    path = tmp_path / kind.name
    kind.begin(path, 1)
    end = time.monotonic() + 4

    def save(value: float) -> None:
        for _ in iter(lambda: time.monotonic() < end, False):
            kind.replace(path, value)

    def load() -> None:
        for _ in iter(lambda: time.monotonic() < end, False):
            try:
                assert kind.value(path) in (1, 2)
            except ReplayStoreError:
                traceback.print_exc()
                raise

    doings = [lambda: save(1), lambda: save(2), *([load] if path.suffix in (".folder", ".pkl") else [])]
    children = []
    for doing in doings:
        pid = os.fork()
        if not pid:
            os._exit(in_child(doing))
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * len(doings)
    assert kind.value(path) in (1, 2)
    kind.replace(path, 2)
    assert kind.value(path) == 2
    assert sorted(set(os.listdir(tmp_path)) - {kind.name + ".sha256"}) == [kind.name]


def test_a_file_that_is_being_written_is_not_taken_for_abandoned(tmp_path: Path) -> None:
    path = str(tmp_path / "a.pkl")
    first, second = NewFile(path), NewFile(path)
    first.file.write(b"first")
    second.file.write(b"second")
    second.put()
    third = NewFile(path)
    first.put()
    assert Path(path).read_bytes() == b"first"
    third.discard()
    assert os.listdir(tmp_path) == ["a.pkl"]


def test_names_that_are_not_ours_stay(tmp_path: Path) -> None:
    """Those of other software that look like it, and the user's own copies."""
    mine = [
        "a.zarr.old",
        "a.zarr.partial",
        "a.pkl.partial",
        "a.pkl.12-345.partial",
        "b.pkl.12-0123abcd.partial",
        "a.h5.lock",
    ]
    for name in mine:
        (tmp_path / name).write_text("mine")
    for _ in range(2):
        make(tmp_path / "a.zarr", 1)
        make(tmp_path / "a.h5", 1)
        active(1).save(tmp_path / "a.pkl")
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    assert sorted(os.listdir(tmp_path)) == sorted([*mine, "a.zarr", "a.h5", "a.pkl"])


def test_a_reader_never_finds_nothing_while_a_folder_is_replaced_by_renames(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path, 1)
    real = files.Files.rename

    def rename(self: Any, old: str, new: str) -> None:
        real(self, old, new)
        if new.endswith(OLD):
            time.sleep(0.2)

    def replace() -> None:
        with patch.object(files, "_exchange", lambda *_: False), patch.object(files.Files, "rename", rename):
            for _ in range(3):
                make(path, 1)

    pid = os.fork()
    if not pid:
        os._exit(in_child(replace))
    opened = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        open_container(parse(path), writable=False).close()
        opened += 1
    assert opened > 2
    assert os.listdir(tmp_path) == ["a.zarr"]


# --- what is there meanwhile


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zarr.zip"])
def test_nobody_writes_to_what_is_being_replaced_and_nobody_else_replaces_it(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    convert(path, 1)
    make(tmp_path / "new.zarr", 2)
    seen = []

    def progress(done: int, total: int) -> None:
        if not seen:
            if suffix != ".zarr.zip":
                with pytest.raises(ConflictError, match="open for writing elsewhere"):
                    rs.open(path, "r+")
            for doing in (lambda: convert(path, 1), lambda: in_child(lambda: convert(path, 1)) == 1):
                with contextlib.suppress(ConflictError):
                    assert doing()
            assert of_store(path) == 1
            seen.append(done)

    rs.convert(tmp_path / "new.zarr", path, overwrite=True, progress=progress)
    assert seen
    assert of_store(path) == 2


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_has_come_meanwhile_is_looked_at(suffix: str, overwrite: bool, tmp_path: Path) -> None:
    path, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    make(other, 5)
    real = NewStore.finish

    def come(new: Any, **more: Any) -> None:
        shutil.move(other, path)
        real(new, **more)

    with patch.object(NewStore, "finish", come):
        if overwrite:
            rs.create(path, SCHEMA, overwrite=True).close()
            assert of_store(path) == 0
            return
        with pytest.raises(AlreadyExistsError, match="exists: choose another name"):
            rs.create(path, SCHEMA)
    assert of_store(path) == 5
    assert os.listdir(tmp_path) == [path.name]


def test_a_store_in_memory_is_there_when_it_is_complete(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", 2)
    rs.convert(tmp_path / "a.zarr", "memory:replaced")

    def stop(done: int, total: int) -> None:
        with rs.open("memory:replaced") as buffer:
            assert len(buffer) == 6
        raise RuntimeError

    with pytest.raises(RuntimeError):
        rs.convert(tmp_path / "a.zarr", "memory:replaced", overwrite=True, progress=stop)
    with rs.open("memory:replaced", "r+") as buffer:
        assert len(buffer) == 6
        with pytest.raises(ConflictError):
            rs.create("memory:replaced", SCHEMA, overwrite=True)


# --- symbolic links


def test_what_a_link_names_is_replaced_and_the_link_stays(kind: Kind, tmp_path: Path) -> None:
    folder, link = tmp_path / "there", tmp_path / kind.name
    folder.mkdir()
    kind.begin(folder / kind.name, 1)
    link.symlink_to(Path("there") / kind.name)
    kind.replace(link, 2)
    assert link.is_symlink()
    assert kind.value(folder / kind.name) == kind.value(link) == 2
    assert not [name for name in os.listdir(tmp_path) if name.startswith("a.") and name != kind.name]
    if kind.name != "a.folder":  # into a folder that is not there nothing is saved
        shutil.rmtree(folder)
        folder.mkdir()
        kind.replace(link, 2)
        assert kind.value(folder / kind.name) == 2
        assert link.is_symlink()


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_rollback_and_a_repair_through_a_link_leave_the_link(suffix: str, tmp_path: Path) -> None:
    folder, link = tmp_path / "there", tmp_path / f"a{suffix}"
    folder.mkdir()
    link.symlink_to(folder / f"a{suffix}")
    make(folder / f"a{suffix}", 1)
    with rs.open(link, "r+") as buffer:
        known = buffer.commit_id
        buffer.append({"observation": np.full((4, 3), 2, "f4"), "reward": np.full(4, 2, "f4")})
        buffer.commit()
        buffer.rollback(known)
    assert of_store(link) == of_store(folder / f"a{suffix}") == 1
    damage(folder / f"a{suffix}")
    report = rs.repair(link)
    assert report.original == str(folder / f"a{suffix}.damaged")
    assert of_store(link) == 1
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == [f"a{suffix}", "there"]
    assert sorted(os.listdir(folder)) == [f"a{suffix}", f"a{suffix}.damaged"]


# --- repairing


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


def snapshot(path: Path) -> dict[str, bytes]:
    return {
        str(at.relative_to(path)): at.read_bytes()
        for at in [path, *path.rglob("*")]
        if at.is_file() and at.name != "lock"
    }


@pytest.mark.parametrize(
    ("suffix", "exchanging"), [(".zarr", True), (".zarr", False), (".h5", True), (".h5", False)]
)
@pytest.mark.parametrize("fault", ["kill", "refuse", "interrupt"])
def test_a_repair_that_ends_at_any_call_keeps_the_original(
    suffix: str, exchanging: bool, fault: str, tmp_path: Path
) -> None:
    path, kept, first = tmp_path / f"a{suffix}", tmp_path / f"a{suffix}.damaged", tmp_path / f"first{suffix}"
    make(path, 1)
    damage(path)
    path.rename(first)
    copy = shutil.copytree if first.is_dir() else shutil.copyfile
    original = snapshot(first)

    def anew() -> None:
        for at in (path, kept):
            shutil.rmtree(at) if at.is_dir() else at.unlink(missing_ok=True)
        copy(first, path)

    def strike() -> None:
        if fault == "kill":
            kill()
        raise OSError(errno.EIO, "Input/output error") if fault == "refuse" else KeyboardInterrupt

    names = tuple(name for name in CALLS if name != "link")  # the copy is made of links
    with patch.object(files, "_exchange", files._exchange if exchanging else lambda *_: False):
        anew()
        calls = Calls(names=names)
        with calls():
            rs.repair(path)
        last = max(number for number, name in enumerate(calls.seen) if name not in ("unlink", "rmdir"))
        for number, after in [point for point in points(calls.seen) if point[0] > last - 4]:
            anew()
            with Calls(number, after, strike=strike, names=names)():
                assert (
                    in_child(lambda: rs.repair(path))
                    in {"kill": [-signal.SIGKILL], "refuse": [0, 1], "interrupt": [0, 2]}[fault]
                )
            rs.verify(path)  # finds it, and if need be brings it back
            there = [snapshot(at) for at in (path, kept) if at.exists()]
            assert original in there, (number, calls.seen[number], after, os.listdir(tmp_path))
            if there[0] == original:
                shutil.rmtree(kept) if kept.is_dir() else kept.unlink(missing_ok=True)
                rs.repair(path)
            assert rs.verify(path).problems == []
            assert snapshot(kept) == original
            assert {name for name in os.listdir(tmp_path) if "lock" not in name} == {
                path.name,
                kept.name,
                first.name,
            }


# --- what goes wrong is told, and nothing else


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zarr.zip"])
def test_what_cannot_be_tidied_up_does_not_hide_what_went_wrong(suffix: str, tmp_path: Path) -> None:
    make(tmp_path / "a.zarr", 1)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def stop(done: int, total: int) -> None:
        for module, name in ((shutil, "rmtree"), (os, "unlink")):
            failing.enter_context(patch.object(module, name, fail))
        raise RuntimeError("the first")

    with contextlib.ExitStack() as failing, pytest.raises(RuntimeError, match="the first"):
        rs.convert(tmp_path / "a.zarr", tmp_path / f"b{suffix}", progress=stop)
    rs.convert(tmp_path / "a.zarr", tmp_path / f"b{suffix}")
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", f"b{suffix}"]


def test_a_store_that_cannot_get_its_name_back_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path, 1)
    path.rename(f"{path}{OLD}")
    (tmp_path / f"a.zarr{PARTIAL}").mkdir()

    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with (
        patch.object(os, "replace", fail),
        pytest.raises(StorageError, match=r"a\.zarr\.replaystore-old cannot get its name back: Read-only"),
    ):
        rs.open(path)
    with (
        patch("replaystore.buffers.opening.lock_place", side_effect=StorageError("no", errno.EROFS)),
        pytest.raises(NotFoundError, match=r"what was there is .*a\.zarr\.replaystore-old"),
    ):
        rs.open(path)
    assert of_store(path) == 1


def test_the_last_of_several_new_files_gets_its_name_when_the_others_have_theirs_for_good(
    tmp_path: Path,
) -> None:
    """That it is there says that the others are; a power cut may lose the names given since the last sync, in
    any order."""
    done: list[str] = []
    put, sync = NewFile.put, writing.sync_folder

    def putting(new: NewFile, path: str | None = None, **options: Any) -> None:
        done.append(os.path.basename(path or new.path))
        put(new, path, **options)

    def syncing(folder: str) -> None:
        done.append("sync")
        sync(folder)

    paths = [str(tmp_path / name) for name in ("one", "two", "last")]
    with (
        patch.object(NewFile, "put", putting),
        patch.object(writing, "sync_folder", syncing),
        writing.NewFiles(paths, overwrite=True) as new,
    ):
        for file in new.files:
            file.write(b"new")
    assert done.index("sync") < done.index("last" + writing.NEW)
    assert max(done.index(name + writing.NEW) for name in ("one", "two")) < done.index("sync")
