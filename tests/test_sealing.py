"""Archives: sealed when they are complete, and never believed where they are damaged."""

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

import replaystore as rs
from replaystore import errors
from replaystore.arrays import sealing
from replaystore.buffers.opening import remove
from replaystore.containers.zarr.metadata import consolidated
from replaystore.location import Location
from replaystore.storage.local import Files
from replaystore.testing import Contents, samples

MANIFEST = "journal/log/c/manifest-sha256.txt"


def live(location: str) -> Contents:
    """A buffer with open trajectories whose next observations are large, and chunks that are not full."""
    schema = rs.Schema(
        {
            "observation": rs.Field("u1", (50, 50), "observation"),
            "reward": rs.Field("f8", (), "reward"),
            "terminated": rs.Field("?", (), "terminated"),
            "truncated": rs.Field("?", (), "truncated"),
        }
    )
    with rs.create(location, schema) as buffer:
        for env in range(3):
            columns = samples.columns(schema, 41, env, ends=0.05)
            finals = samples.columns(schema.select(["observation"]), 99, env + 9)["observation"]
            touched = int((columns["terminated"] | columns["truncated"]).sum()) + (
                not (columns["terminated"] | columns["truncated"])[-1]
            )
            buffer.append(columns, env=env, final_observation=finals[:touched])
            buffer.commit()
        return Contents.of(buffer)


def contents(location: str) -> Contents:
    with rs.open(location) as buffer:
        return Contents.of(buffer)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    live(str(tmp_path / "live.zarr"))
    rs.convert(tmp_path / "live.zarr", tmp_path / "a.zarr", layout="archive")
    shutil.rmtree(tmp_path / "live.zarr")
    return tmp_path / "a.zarr"


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
    remove(Location("memory", "a"))


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
    remove(Location("memory", "a"))


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
    assert len(os.listdir(archive / "journal" / "log" / "c")) == 2  # a segment and the manifest
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


# --- made by a writer


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


# --- damage


def damaged(data: bytes) -> dict[str, bytes | None]:
    """Ways in which a file can be damaged."""
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :] if data else b"\1"
    return {
        "removed": None,
        "emptied": b"",
        "cut": data[: max(0, len(data) - 3)],
        "flipped": flipped,
        "lengthened": data + b"\0",
    }


def read(location: Path, expected: Contents) -> str:
    """ "right", or the error that reading all of it raised."""
    try:
        found = contents(str(location))
    except errors.CorruptError as error:
        return str(error)
    assert expected.difference(found) == ""
    return "right"


def test_whichever_file_is_damaged_values_are_right_or_it_is_said(archive: Path) -> None:
    expected = contents(str(archive))
    for path in sorted(path for path in archive.rglob("*") if path.is_file()):
        name, data = str(path.relative_to(archive)), path.read_bytes()
        for how, content in damaged(data).items():
            if content == data:
                continue
            path.unlink()
            if content is not None:
                path.write_bytes(content)

            outcome = read(archive, expected)
            if outcome == "right":
                assert not name.endswith("zarr.json")
                assert rs.verify(archive).problems, f"{name} {how}"
            else:
                assert "a.zarr" in outcome
            if name.endswith("zarr.json") or (name.startswith("journal/log/") and name != MANIFEST):
                assert name in outcome, f"{name} {how}"
            if name == MANIFEST and how != "removed":
                assert (
                    MANIFEST in outcome
                    or "zarr.json" in outcome
                    or "journal/log" in outcome
                    or outcome == "right"
                )
            path.write_bytes(data)
    assert read(archive, expected) == "right"
    assert rs.verify(archive).problems == []


def test_files_that_changed_places_are_noticed(archive: Path) -> None:
    expected = contents(str(archive))
    pairs = [
        ("steps/terminated/zarr.json", "steps/reward/zarr.json"),
        ("steps/terminated/c/0", "steps/truncated/c/0"),
        ("parts/start/c/0", "parts/length/c/0"),
        ("steps/observation/c/0/0/0", "final/observation/c/0/0/0"),
        ("zarr.json", "steps/zarr.json"),
    ]
    for left, right in pairs:
        exchange(archive / left, archive / right)
        assert read(archive, expected) != "right", left
        assert rs.verify(archive).problems, left
        exchange(archive / left, archive / right)
    assert read(archive, expected) == "right"


def exchange(left: Path, right: Path) -> None:
    aside = left.with_name("aside")
    left.rename(aside)
    right.rename(left)
    aside.rename(right)


def test_a_file_too_many_is_found_by_verify(archive: Path) -> None:
    (archive / "steps" / "more").write_text("?")

    assert [(problem.where, problem.what) for problem in rs.verify(archive).problems] == [
        (str(archive / "steps" / "more"), "the file is not in the manifest")
    ]


def test_a_manifest_that_is_gone_is_found_by_verify_and_made_anew_by_a_writer(archive: Path) -> None:
    expected = contents(str(archive))
    (archive / MANIFEST).unlink()

    assert [problem.what for problem in rs.verify(archive).problems] == [
        "the manifest of the archive is missing"
    ]
    rs.open(archive, "r+").close()

    assert expected.difference(contents(str(archive))) == ""
    assert rs.verify(archive).problems == []


def test_only_archives_have_something_to_check(tmp_path: Path) -> None:
    live(str(tmp_path / "live.zarr"))
    with rs.open(tmp_path / "live.zarr") as buffer:
        assert list(sealing.check_manifest(buffer._place, buffer._store.container)) == []
        sealing.check_metadata(buffer._store.container)
        sealing.refuse_writing(buffer._place, buffer._store.container)
        assert not sealing.is_sealed(buffer._store.state)


def test_what_sealing_removes_is_gone_for_good_before_the_manifest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut it would be there again, and in no manifest."""
    synced: list[tuple[str, list[str]]] = []
    sync = Files.sync_folder

    def noted(files: Files, folder: str) -> None:
        synced.append((folder, files.list(folder)))
        sync(files, folder)

    monkeypatch.setattr(Files, "sync_folder", noted)
    schema = rs.Schema({"observation": rs.Field("f4", (3,), "observation")})
    with rs.create(
        tmp_path / "a.zarr",
        schema,
        layout="archive",
        storage={"observation": {"codec": "zstd:1", "chunk_rows": 8}},
    ) as buffer:
        buffer.append({"observation": np.ones((13, 3), "f4")})
        buffer.commit()
        assert (tmp_path / "a.zarr" / "journal" / "tail").is_dir()
        Path(tmp_path / "a.zarr" / "steps" / "zarr.json.new").write_text("left over")
        synced.clear()
    folders = [folder for folder, _ in synced]
    manifest = next(
        number
        for number, (folder, names) in enumerate(synced)
        if folder == "journal/log/c" and Path(MANIFEST).name in names
    )
    assert ("journal", ["log", "zarr.json"]) in [
        (folder, sorted(names)) for folder, names in synced[:manifest]
    ]
    assert "steps" in folders[:manifest]


def test_a_sidecar_is_of_bytes_that_are_on_the_disk_and_of_no_other_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(str(tmp_path / "source.zarr"))
    rs.convert(tmp_path / "source.zarr", tmp_path / "a.h5", layout="archive")
    done: list[str] = []
    sync_file, sync_folder, rename, replace = (
        Files.sync_file,
        sealing.sync_folder,
        Files.rename,
        Files.replace,
    )

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            done.append(
                f"{name} {arguments[1]}"
                if name != "sync"
                else (f"sync, sidecar {(tmp_path / 'a.h5.sha256').exists()}")
            )
            return call(*arguments)

        return noting

    monkeypatch.setattr(Files, "sync_file", noted("sync_file", sync_file))
    monkeypatch.setattr(Files, "rename", noted("rename", rename))
    monkeypatch.setattr(Files, "replace", noted("replace", replace))
    monkeypatch.setattr(sealing, "sync_folder", noted("sync", sync_folder))
    rs.convert(tmp_path / "source.zarr", tmp_path / "a.h5", layout="archive", overwrite=True)
    placed, written = done.index("rename a.h5.replaystore-partial"), done.index("replace a.h5.sha256")
    assert "sync, sidecar False" in done[:placed]
    assert "sync_file a.h5" in done[placed:written]
    assert rs.verify(tmp_path / "a.h5").problems == []
