"""Conversions that are killed: the old target is there or the new one, and the next conversion removes what
was left, but neither what somebody still writes nor what is not ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conversions import record

import replaystore as rs
from replaystore.converting import exports, placing
from replaystore.errors import AlreadyExistsError, StorageError
from replaystore.storage.temporary import WorkingFolder
from replaystore.testing.campaigns import kills
from replaystore.testing.crashes import forked

TARGETS = {"b.npz": "npz", "b.dict.pkl": "pickled_dict", "b": "torchrl", "data": "diffusion_policy"}
MINE = ("b.npz.12-345.partial", "b.npz.partial", "c.npz.12-0123abcd.partial")
"""Names that look like ours."""


@pytest.mark.parametrize(
    "name",
    ["convert", "convert-hdf5", "export-npz", "export-folder", "through", "through-folder", "merge"],
)
@pytest.mark.timeout(900)
def test_killed_at_any_call_the_old_or_the_new_is_there_and_the_next_one_leaves_nothing_else(
    name: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tally = kills.run(folder, count=6, seed=3, names=[name])
    if tally.skipped:
        pytest.skip(tally.skipped)
    assert tally.tried == 6
    assert tally.failures == []


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def content(path: Path) -> str:
    rs.convert(path, "memory:killed", overwrite=True, proof=False)
    return rs.digest("memory:killed").content


def killed(doing: Callable[[], object], module: object, function: str, *, after: bool) -> None:
    """Do it in a child that is killed when it calls this function, or has called it."""

    def action(_: object) -> None:
        real = getattr(module, function)

        def dying(*given: object, **more: object) -> None:
            if after:
                real(*given, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(module, function, dying)
        doing()

    status, told = forked(action)
    assert status == -signal.SIGKILL, told


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("proved", [False, True])
def test_until_it_has_its_name_the_old_one_is_there(
    tmp_path: Path, target: str, over: bool, proved: bool
) -> None:
    one, two, path = tmp_path / "a.zarr", tmp_path / "other.zarr", tmp_path / target
    record(str(one))
    record(str(two), seed=9)
    if over:
        rs.convert(two, path, target_format=TARGETS[target])
    before = names(tmp_path)
    old = content(path) if over else ""

    killed(
        lambda: rs.convert(one, path, target_format=TARGETS[target], overwrite=over),
        exports,
        "prove_file",
        after=proved,
    )
    assert path.exists() == over
    if over:
        assert content(path) == old
        with pytest.raises(AlreadyExistsError):
            rs.convert(one, path, target_format=TARGETS[target])
        assert names(tmp_path) == before  # even one that is refused tidies

    rs.convert(one, path, target_format=TARGETS[target], overwrite=over)
    assert names(tmp_path) == before | {target}
    assert content(path) != old


@pytest.mark.parametrize("target", ["b.npz", "c.zarr"])
def test_what_a_killed_conversion_between_files_left_goes_with_the_next_one(
    tmp_path: Path, target: str
) -> None:
    record(str(tmp_path / "a.zarr"))
    rs.convert(tmp_path / "a.zarr", tmp_path / "a.npz")
    before = names(tmp_path)

    def doing() -> object:
        if target == "b.npz":
            return rs.convert(tmp_path / "a.npz", tmp_path / target, overwrite=True)
        return rs.merge([tmp_path / "a.npz", tmp_path / "a.zarr"], tmp_path / target)

    from replaystore.comparing import merge
    from replaystore.converting import convert

    killed(doing, *((convert, "export") if target == "b.npz" else (merge, "make")), after=False)  # type: ignore[arg-type]
    (left,) = names(tmp_path) - before
    assert left.startswith(target)

    rs.convert(tmp_path / "a.zarr", tmp_path / target)
    assert names(tmp_path) == before | {target}


def test_what_others_write_is_left_alone(tmp_path: Path) -> None:
    record(str(tmp_path / "a.zarr"))
    record(str(tmp_path / "other.zarr"), seed=9)
    for name in MINE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("mine")
    before, done = names(tmp_path), list[int]()

    def meanwhile(_: int, __: int) -> None:
        if done:
            return
        status, told = forked(
            lambda _: rs.convert(tmp_path / "other.zarr", tmp_path / "b.npz", overwrite=True)
        )
        assert status == 0, told
        done.append(status)

    rs.convert(tmp_path / "a.zarr", tmp_path / "b.npz", overwrite=True, progress=meanwhile)
    assert done
    rs.convert(tmp_path / "a.zarr", tmp_path / "same.npz")
    assert content(tmp_path / "b.npz") == content(tmp_path / "same.npz")
    assert names(tmp_path) == before | {"b.npz", "same.npz"}
    assert all((tmp_path / name / "mine").read_text() == "mine" for name in MINE)


def test_a_folder_that_is_held_stays(tmp_path: Path) -> None:
    with WorkingFolder(str(tmp_path / "b")) as first, WorkingFolder(str(tmp_path / "b")) as second:
        placing.tidy(tmp_path / "b")
        assert names(tmp_path) == {os.path.basename(first), os.path.basename(second)}
    assert names(tmp_path) == set()


def test_errors_name_the_target_and_not_where_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(str(tmp_path / "a.zarr"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for given in (tmp_path / "b.npz", "b.npz"):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(StorageError) as caught:
            rs.convert(tmp_path / "a.zarr", given)
        assert str(caught.value).startswith(f"{given} cannot be written: No space left on device; make room")
    assert names(tmp_path) == {"a.zarr"}


def test_a_target_is_named_after_its_place(tmp_path: Path) -> None:
    record(str(tmp_path / "a.zarr"))
    rs.convert(tmp_path / "a.zarr", tmp_path / "walk" / "1.0.0", target_format="rlds")
    rs.convert(tmp_path / "a.zarr", tmp_path / "hop-v2", target_format="minari")

    assert '"name": "walk"' in (tmp_path / "walk" / "1.0.0" / "dataset_info.json").read_text()
    assert '"dataset_id": "hop-v2"' in (tmp_path / "hop-v2" / "data" / "metadata.json").read_text()


def test_the_command_line_can_be_killed(tmp_path: Path) -> None:
    """A real process, at any time."""
    record(str(tmp_path / "a.zarr"))
    convert = [sys.executable, "-m", "replaystore.cli", "convert"]
    command = [*convert, str(tmp_path / "a.zarr"), str(tmp_path / "b.npz"), "--overwrite"]
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.npz")
    before, known = names(tmp_path), content(tmp_path / "b.npz")
    for delay in (0.3, 0.6, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert content(tmp_path / "b.npz") == known
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert names(tmp_path) == before
