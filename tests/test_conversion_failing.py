"""Conversions that are refused, interrupted or fail leave nothing behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversions import at, contents, record

import replaystore as rs
from replaystore import errors
from replaystore.storage.local import Files

pytest_plugins = ["conversions"]

pytestmark = pytest.mark.usefixtures("_nothing_in_memory")


def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    first = str(tmp_path / "a.zarr")
    record(first)
    (tmp_path / "b.zarr").mkdir()

    with pytest.raises(errors.SchemaError, match="is the source itself"):
        rs.convert(first, tmp_path / "." / "a.zarr", overwrite=True)
    with pytest.raises(errors.AlreadyExistsError, match=r"b\.zarr exists"):
        rs.convert(first, tmp_path / "b.zarr")
    with pytest.raises(errors.FormatError, match="not a replaystore store"):
        rs.convert(first, tmp_path / "b.zarr", overwrite=True)
    with pytest.raises(errors.SchemaError, match='codec "lz4" is not known'):
        rs.convert(first, tmp_path / "c.zarr", codec="lz4")
    with pytest.raises(errors.SchemaError, match="all fields of an archive are coded"):
        rs.convert(first, tmp_path / "c.zarr", layout="archive", codec="raw")
    with pytest.raises(errors.SchemaError, match="no layout 'odd'"):
        rs.convert(first, tmp_path / "c.zarr", layout="odd")  # type: ignore[arg-type]
    with pytest.raises(errors.SchemaError, match="nope"):
        rs.convert(first, tmp_path / "c.zarr", fields=["nope"])
    with pytest.raises(errors.SchemaError, match="nope"):
        rs.convert(first, tmp_path / "c.zarr", where="nope > 1")
    with pytest.raises(errors.NotFoundError):
        rs.convert(tmp_path / "missing.zarr", tmp_path / "c.zarr")

    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]


def test_no_file_of_other_software_is_written_over_itself(tmp_path: Path) -> None:
    record(str(tmp_path / "a.zarr"))
    rs.convert(tmp_path / "a.zarr", tmp_path / "x.npz")
    before = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "link.npz").symlink_to("x.npz")
    os.link(tmp_path / "x.npz", tmp_path / "same.npz")

    for target in ("x.npz", "link.npz", "same.npz"):
        with pytest.raises(errors.SchemaError, match="is the source itself"):
            rs.convert(tmp_path / "x.npz", tmp_path / target, overwrite=True)
    assert (tmp_path / "x.npz").read_bytes() == before


def test_the_file_of_a_folder_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    """velora saves a buffer into a folder, in which there may be other things."""
    folder = tmp_path / "saved"
    folder.mkdir()
    record(str(tmp_path / "a.zarr"))
    rs.convert(tmp_path / "a.zarr", folder / "buffer_state.safetensors", target_format="velora")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(errors.SchemaError, match="is what is read of"):
        rs.convert(folder, folder / "buffer_state.safetensors", overwrite=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    rs.convert(folder, folder / "b.zarr")
    rs.convert(folder, folder / "b.zarr", overwrite=True)


def test_no_target_lies_in_its_source_nor_replaces_what_that_lies_in(tmp_path: Path) -> None:
    store, dataset = tmp_path / "a.zarr", tmp_path / "tensors"
    record(str(store))
    rs.convert(store, dataset, target_format="torchrl")
    (tmp_path / "link").symlink_to(store)

    for source, target in (
        (store, store / "b.zarr"),
        (store, tmp_path / "link" / "b.npz"),
        (dataset, dataset / "b.zarr"),
        (dataset, dataset / "b.npz"),
    ):
        known = sorted(tmp_path.rglob("*"))
        with pytest.raises(errors.SchemaError, match="lies in the source"):
            rs.convert(source, target)
        assert sorted(tmp_path.rglob("*")) == known
    store.rename(dataset / "a.zarr")
    with rs.open(dataset / "a.zarr") as buffer:
        for inside in (dataset / "a.zarr", buffer):
            with pytest.raises(errors.SchemaError, match=r"the source \S+ lies in .*tensors"):
                rs.convert(inside, dataset, target_format="torchrl", overwrite=True)


@pytest.mark.parametrize("name", ["b.zarr", "b.h5", "b.zarr.zip", "memory:b"])
def test_a_target_is_replaced_when_that_was_asked_for(tmp_path: Path, name: str) -> None:
    first, second, third = str(tmp_path / "a.zarr"), str(tmp_path / "c.zarr"), at(tmp_path, name)
    record(first)
    record(second, seed=9)
    rs.convert(first, third, layout="archive")

    with pytest.raises(errors.AlreadyExistsError):
        rs.convert(second, third)
    rs.convert(second, third, overwrite=True)

    assert contents(second).difference(contents(third)) == ""
    assert not [
        file
        for file in os.listdir(tmp_path)
        if file.endswith((".sha256", ".partial", ".old", ".folder", ".new", ".partial.lock"))
    ]


@pytest.mark.parametrize("name", ["b.zarr", "b.h5", "b.zarr.zip", "memory:b"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    first, second = str(tmp_path / "a.zarr"), at(tmp_path, name)
    record(first)
    before = snapshot(tmp_path)
    calls: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            raise error

    with pytest.raises(error):
        rs.convert(first, second, progress=progress)

    assert snapshot(tmp_path) == before
    with pytest.raises(errors.NotFoundError):
        rs.open(second)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


def test_progress_grows_to_the_whole(tmp_path: Path) -> None:
    first = str(tmp_path / "a.zarr")
    record(first)
    calls: list[tuple[int, int]] = []

    rs.convert(first, tmp_path / "b.h5", progress=lambda done, total: calls.append((done, total)))

    assert calls == sorted(calls)
    assert len({total for _, total in calls}) == 1
    assert calls[-1][0] == calls[-1][1] > 0


@pytest.mark.parametrize("name", ["b.zarr", "b.h5"])
@pytest.mark.parametrize("operation", ["write", "sync_file", "rename"])
def test_a_disk_that_fails_leaves_no_target_and_the_source_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, operation: str
) -> None:
    first, second = str(tmp_path / "a.zarr"), tmp_path / name
    record(first)
    before = snapshot(tmp_path)
    known: Callable[..., Any] = getattr(Files, operation)
    counted: list[str] = []
    monkeypatch.setattr(
        Files, operation, lambda self, *args, **kw: counted.append(args[0]) or known(self, *args, **kw)
    )
    rs.convert(first, second)
    monkeypatch.undo()
    everything = len(counted)
    assert everything > 0

    for fatal in {everything // 4, everything // 2, everything - 1}:
        for path in (second, Path(f"{second}.lock")):
            subprocess.run(["rm", "-rf", str(path)], check=True)
        count = iter(range(everything + 99))

        def fail(self: Files, *args: Any, fatal: int = fatal, count: Any = count, **kw: Any) -> Any:
            if next(count) >= fatal:
                raise OSError(28, "No space left on device")
            return known(self, *args, **kw)

        with monkeypatch.context() as patch:
            patch.setattr(Files, operation, fail)
            with pytest.raises(errors.StorageError, match="No space left on device"):
                rs.convert(first, second)

        assert snapshot(tmp_path) == before
