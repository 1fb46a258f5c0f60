"""Archives: they hold what the buffer held, are never written to, and can be recorded."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from archives import MANIFEST, contents, live

import replaystore as rs
from replaystore import errors
from replaystore.containers.located import remove
from replaystore.containers.zarr.metadata import consolidated
from replaystore.location import Location
from replaystore.storage.local import Files
from replaystore.testing import Contents, samples

pytest_plugins = ["archives"]


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.zarr.zip", "memory:a"])
def test_an_archive_holds_what_the_buffer_held_and_becomes_live_again(tmp_path: Path, name: str) -> None:
    first, second = str(tmp_path / "live.zarr"), str(tmp_path / "again.h5")
    target = name if name.startswith("memory:") else str(tmp_path / name)
    expected = live(first)

    rs.convert(first, target, layout="archive", overwrite=True)
    rs.convert(target, second, layout="live")

    for location in (target, second):
        assert expected.difference(contents(location)) == ""
    assert expected.table["open"].any()
    with rs.open(target) as buffer:
        assert buffer.layout == "archive"
        assert all(
            spec.codec for stored, spec in buffer._store.specs().items() if stored.startswith("steps/")
        )
    with rs.open(second, "r+") as buffer:
        assert buffer.layout == "live"
    remove(Location("memory", "zarr", "a"))


def test_an_archive_is_never_written_to(tmp_path: Path) -> None:
    live(str(tmp_path / "live.zarr"))
    for name in ("a.zarr", "a.h5", "memory:a"):
        location = name if name.startswith("memory:") else str(tmp_path / name)
        rs.convert(tmp_path / "live.zarr", location, layout="archive", overwrite=True)

        with pytest.raises(
            errors.UnsupportedError,
            match=(
                r"make a live one with `replaystore convert .*a.* "
                r"live\.zarr --layout live`"
            ),
        ):
            rs.open(location, "r+")
        with pytest.raises(errors.UnsupportedError):
            rs.open(location, "r+")  # nor is a lock left behind
    remove(Location("memory", "zarr", "a"))


def test_the_manifest_has_every_file_and_sha256sum_reads_it(archive: Path) -> None:
    lines = (archive / MANIFEST).read_text().splitlines()
    listed = {line[66:]: line[:64] for line in lines}
    files = {str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file()}

    assert all(line[64:66] == "  " for line in lines)
    assert listed.keys() == files - {MANIFEST}
    for name, digest in listed.items():
        assert hashlib.sha256((archive / name).read_bytes()).hexdigest() == digest


def test_nothing_is_left_over_in_an_archive(archive: Path) -> None:
    assert sorted(os.listdir(archive / "journal")) == ["log", "zarr.json"]
    left = os.listdir(archive / "journal" / "log")
    assert len(left) == 4
    assert {"segments", "manifest-sha256.txt", "zarr.json"} < set(left)
    assert not [path for path in archive.rglob("*") if path.is_dir() and not os.listdir(path)]


def test_metadata_are_consolidated_as_zarr_does_it(archive: Path) -> None:
    ours = json.loads((archive / "zarr.json").read_text())
    with warnings.catch_warnings():
        # That the manifest is no array, and that the specification knows no consolidated metadata.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(archive))
    theirs = json.loads((archive / "zarr.json").read_text())

    for node in theirs["consolidated_metadata"]["metadata"].values():
        assert node.pop("storage_transformers", []) == []  # the default, which we do not write
    assert ours == theirs
    assert consolidated(Files(archive, writable=False))["attributes"] == ours["attributes"]


@pytest.mark.parametrize("name", ["a.h5", "a.zarr.zip"])
def test_an_archive_in_one_file_has_its_checksum_beside_it(tmp_path: Path, name: str) -> None:
    live(str(tmp_path / "live.zarr"))
    path = tmp_path / name
    rs.convert(tmp_path / "live.zarr", path, layout="archive")
    sidecar = tmp_path / (name + ".sha256")

    assert sidecar.read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n"
    assert rs.verify(path).problems == []
    sidecar.write_text("0" * 64 + f"  {name}\n")
    assert [problem.what for problem in rs.verify(path).problems] == [
        f"its SHA-256 is not that in {name}.sha256"
    ]
    sidecar.write_text("?")
    assert [problem.what for problem in rs.verify(path).problems] == ["it is not a line of `sha256sum`"]
    sidecar.unlink()
    assert rs.verify(path).problems == []  # it may have been copied alone


@pytest.mark.parametrize("name", ["a.h5", "a.zarr.zip"])
def test_an_archive_that_was_removed_without_its_sidecar_is_made_anew(tmp_path: Path, name: str) -> None:
    live(str(tmp_path / "live.zarr"))
    path, sidecar = tmp_path / name, tmp_path / (name + ".sha256")
    rs.convert(tmp_path / "live.zarr", path, layout="archive")
    path.unlink()
    sidecar.write_text("of another one")

    rs.convert(tmp_path / "live.zarr", path, layout="archive")

    assert sidecar.read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n"
    assert rs.verify(path).problems == []


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_an_archive_can_be_recorded_and_is_sealed_when_it_is_closed(tmp_path: Path, name: str) -> None:
    location = str(tmp_path / name)
    schema = samples.small()
    buffer = rs.create(location, schema, layout="archive")
    buffer.append(samples.columns(schema, 50, 1), env=1)
    buffer.commit()
    buffer.append(samples.columns(schema, 2000, 2), env=2)
    buffer.commit()
    buffer.abandon()  # as if the process had been killed
    with rs.open(location, "r+") as buffer:
        buffer.append(samples.columns(schema, 1, 3, ends=0), env=3, final_observation=last(schema))
        buffer.commit()
        expected = Contents.of(buffer)

    assert expected.difference(contents(location)) == ""
    assert rs.verify(location).problems == []
    assert os.path.exists(tmp_path / name / MANIFEST if name == "a.zarr" else location + ".sha256")
    with pytest.raises(errors.UnsupportedError):
        rs.open(location, "r+")


def last(schema: rs.Schema) -> dict[str, Any]:
    return {"camera": np.ones((4, 3), np.uint8), "joints": np.ones(3, np.float32)}


def test_an_archive_whose_sealing_failed_is_sealed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = str(tmp_path / "a.zarr")
    schema = samples.small()
    for operation in ("write", "rename"):
        for fatal in itertools.count(0, 7):
            buffer = rs.create(location, schema, layout="archive", overwrite=True)
            buffer.append(samples.columns(schema, 300, 1), env=1)
            buffer.append(samples.columns(schema, 1, 3, ends=0), env=3, final_observation=last(schema))
            buffer.commit()
            expected = Contents.of(buffer)

            failed = close_with_failing(buffer, operation, fatal, monkeypatch)

            assert expected.difference(contents(location)) == ""
            if failed:
                rs.open(location, "r+").close()
                assert expected.difference(contents(location)) == ""
            assert rs.verify(location).problems == []
            assert os.path.exists(tmp_path / "a.zarr" / MANIFEST)
            shutil.rmtree(location)
            if not failed:
                break
        assert fatal > 7


def close_with_failing(
    buffer: rs.Buffer, operation: str, fatal: int, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Close a buffer while all operations of a kind fail after so many; whether that had an effect."""
    known: Callable[..., Any] = getattr(Files, operation)
    count = iter(range(9999))

    def fail(self: Files, *args: Any, **kw: Any) -> Any:
        if next(count) >= fatal:
            raise OSError(28, "No space left on device")
        return known(self, *args, **kw)

    with monkeypatch.context() as patch:
        patch.setattr(Files, operation, fail)
        try:
            buffer.close()
        except errors.StorageError:
            return True
    return False
