"""Damage of archives: values are right or it is said, and what sealing removes is gone for good."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archives import MANIFEST, contents, live

import replaystore as rs
from replaystore import errors
from replaystore.arrays import sealing
from replaystore.storage.local import Files
from replaystore.testing import Contents

pytest_plugins = ["archives"]


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
        ("steps/terminated/c.0", "steps/truncated/c.0"),
        ("trajectories/length/c.0", "trajectories/env/c.0"),
        ("steps/observation/c.0.0.0", "final/observation/c.0.0.0"),
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
        if folder == "journal/log" and Path(MANIFEST).name in names
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
        Files.sync_folder,
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
    monkeypatch.setattr(Files, "sync_folder", noted("sync", sync_folder))
    rs.convert(tmp_path / "source.zarr", tmp_path / "a.h5", layout="archive", overwrite=True)
    placed, written = done.index("rename a.h5.replaystore-partial"), done.index("replace a.h5.sha256")
    assert "sync, sidecar False" in done[:placed]
    assert "sync_file a.h5" in done[placed:written]
    assert rs.verify(tmp_path / "a.h5").problems == []
