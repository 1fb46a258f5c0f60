"""`repair` brings a damaged store to its newest sound commit, says what it gave up, and keeps the
original."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.errors import AlreadyExistsError, ConflictError, CorruptError, UnsupportedError
from replaystore.schema.fields import Field, Schema
from replaystore.storage import local as files
from replaystore.storage.local import Files
from replaystore.testing import Contents

ROWS = 300
"""Steps of each commit."""


def schema() -> Schema:
    return Schema(
        {
            "observation": Field(np.dtype(np.float32), (256,), "observation"),
            "camera": Field(np.dtype(np.uint8), (8, 8), "extra"),
            "reward": Field(np.dtype(np.float64), (), "reward"),
            "terminated": Field(np.dtype(np.bool_), (), "terminated"),
            "truncated": Field(np.dtype(np.bool_), (), "truncated"),
        }
    )


def columns(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    terminated = np.zeros(ROWS, bool)
    terminated[99::100] = True
    return {
        "observation": generator.normal(size=(ROWS, 256)).astype(np.float32),
        "camera": generator.integers(0, 9, (ROWS, 8, 8), np.uint8),
        "reward": generator.normal(size=ROWS),
        "terminated": terminated,
        "truncated": np.zeros(ROWS, bool),
    }


def make(path: Path, commits: int = 4) -> list[int]:
    """A store with several commits of 300 steps; their numbers."""
    codec = "zstd:1" if path.suffix == ".zarr" else "gzip:1"
    settings = {"observation": {"chunk_rows": 64}, "camera": {"codec": codec, "chunk_rows": 64}}
    with rs.create(path, schema(), storage=settings) as buffer:
        return [
            buffer.append(columns(seed), final_observation=np.zeros((3, 256), np.float32)) or buffer.commit()
            for seed in range(commits)
        ]


def assert_first_commits(path: Path, commits: int) -> None:
    """The store has exactly the steps of its first commits."""
    assert not rs.verify(path).problems
    with rs.open(path) as buffer:
        assert len(buffer) == ROWS * commits
        assert buffer.num_trajectories == 3 * commits
        for seed in range(commits):
            for name, expected in columns(seed).items():
                assert np.array_equal(buffer[name][ROWS * seed : ROWS * (seed + 1)], expected)


def shard(path: Path, field: str) -> Path:
    return min((path / "steps" / field).glob("c.*"))


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


@pytest.fixture(params=[".zarr", ".h5"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"a{request.param}"
    make(path)
    return path


def test_a_sound_store_is_left_alone(store: Path) -> None:
    report = rs.repair(store)
    assert report.original is None
    assert not store.with_name(store.name + ".damaged").exists()
    assert_first_commits(store, 4)


def test_rows_that_have_changed_are_given_up_with_what_follows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    flip(shard(path, "observation"), 4096 + 1024 * 700)  # in the third commit's rows
    report = rs.repair(path)
    assert report.original == str(path) + ".damaged"
    assert any("600 of 1200 steps" in line for line in report.dropped)
    assert_first_commits(path, 2)


def test_the_original_is_kept_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    flip(shard(path, "reward"), 4096 + 8 * 1000)
    before = {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    rs.repair(path)
    kept = path.with_name("a.zarr.damaged")
    assert {file.relative_to(kept): file.read_bytes() for file in kept.rglob("*") if file.is_file()} == before
    assert_first_commits(path, 3)
    with rs.open(path, "r+") as buffer:  # written to: the original's bytes stay
        buffer.append(columns(9), final_observation=np.zeros((3, 256), np.float32))
    assert {file.relative_to(kept): file.read_bytes() for file in kept.rglob("*") if file.is_file()} == before


def test_a_commit_that_contradicts_itself_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row of it is damaged: only that the store verifies says that an older one is right."""
    append_table = ArrayStore.append_table

    def contradicting(store: ArrayStore, given: dict[str, np.ndarray]) -> None:
        name = "trajectories/terminated"
        append_table(store, given | ({name: ~given[name]} if name in given else {}))

    path = tmp_path / "a.zarr"
    make(path, commits=2)
    with monkeypatch.context() as patched:
        patched.setattr(ArrayStore, "append_table", contradicting)
        with rs.open(path, "r+") as buffer:
            buffer.append(columns(9), final_observation=np.zeros((3, 256), np.float32))
    assert "terminated=False, its last step True" in str(rs.verify(path).problems)

    rs.repair(path)

    assert_first_commits(path, 2)


def test_a_damaged_log_is_cut_in_the_repaired_store_and_not_in_the_original(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    buffer = rs.open(path, "r+")
    buffer.append(columns(9), final_observation=np.zeros((3, 256), np.float32))
    buffer.commit()
    segment, end = path / f"journal/log/{buffer._store.state.base}", buffer._store.state.end
    buffer.abandon()
    flip(segment, end - 1)
    before = {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    rs.repair(path)
    kept = path.with_name("a.zarr.damaged")
    found = {file.relative_to(kept): file.read_bytes() for file in kept.rglob("*") if file.is_file()}
    assert [str(name) for name in before if found.get(name) != before[name]] == []
    assert_first_commits(path, 4)


def test_what_is_repaired_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    flip(shard(path, "reward"), 4096 + 8 * 1000)
    synced = {"file": set[str](), "folder": set[str]()}
    lacking: list[str] = []
    sync_file, sync_folder, exchange = Files.sync_file, Files.sync_folder, files._exchange

    def file_synced(found: Files, name: str) -> None:
        synced["file"].add(os.path.relpath(found.path(name), tmp_path))
        sync_file(found, name)

    def folder_synced(found: Files, name: str) -> None:
        synced["folder"].add(os.path.relpath(found.path(name), tmp_path))
        sync_folder(found, name)

    def exchanging(one: str, other: str) -> bool:
        for folder, _, names in os.walk(one):
            place = os.path.join("a.zarr.replaystore-repair", os.path.relpath(folder, one))
            lacking.extend({os.path.normpath(place)} - synced["folder"])
            lacking.extend({os.path.normpath(os.path.join(place, name)) for name in names} - synced["file"])
        return exchange(one, other)

    monkeypatch.setattr(Files, "sync_file", file_synced)
    monkeypatch.setattr(Files, "sync_folder", folder_synced)
    monkeypatch.setattr(files, "_exchange", exchanging)
    rs.repair(path)

    assert lacking == []
    assert len(synced["file"]) > 20
    assert "." in synced["folder"]
    assert_first_commits(path, 3)


@pytest.mark.parametrize("field", ["observation", "camera", "reward"])
def test_a_file_that_was_cut_costs_the_commits_that_need_the_rest(tmp_path: Path, field: str) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    file = shard(path, field)
    # Behind a raw field's rows is room for more.
    rows = 4096 + 8 * 4 * ROWS if field == "reward" else file.stat().st_size
    os.truncate(file, rows // 2)
    rs.repair(path)
    with rs.open(path) as buffer:
        commits, rest = divmod(len(buffer), ROWS)
    assert rest == 0
    assert 1 <= commits < 4
    assert_first_commits(path, commits)


def test_room_for_later_rows_that_was_cut_off_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    file = shard(path, "reward")
    size = file.stat().st_size
    os.truncate(file, 4096 + 8 * 4 * ROWS)
    assert rs.verify(path).problems
    rs.repair(path)
    assert_first_commits(path, 4)
    assert shard(path, "reward").stat().st_size == size


def test_a_damaged_record_of_the_log_costs_the_commits_after_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    commits = make(path)
    logs = sorted(
        (file for file in (path / "journal/log").iterdir() if file.name.isdigit()),
        key=lambda file: int(file.name),
    )
    assert len(commits) == 4
    flip(logs[-1], logs[-1].stat().st_size // 2)
    assert rs.verify(path).problems
    rs.repair(path)
    with rs.open(path) as buffer:
        assert_first_commits(path, len(buffer) // ROWS)


def test_what_a_killed_writer_left_is_put_in_order(store: Path) -> None:
    buffer = rs.open(store, "r+")
    buffer.append(columns(7))
    copy = store.with_name("copy" + store.suffix)
    (shutil.copytree if store.is_dir() else shutil.copyfile)(store, copy)
    buffer.abandon()
    rs.repair(copy)
    assert_first_commits(copy, 4)


def test_nothing_is_changed_when_no_commit_can_be_brought_back(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    for segment in (path / "journal/log").iterdir():
        segment.write_text("{")
    with pytest.raises(CorruptError, match="base record"):
        rs.repair(path)
    assert (path / "journal/log/0").read_text() == "{"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr"]


def test_a_repair_that_would_keep_no_step_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    flip(shard(path, "observation"), 4096 + 5)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(
        CorruptError,
        match=(
            r"no commit can be brought back .there is none with steps that "
            r"are sound.; it is as it was"
        ),
    ):
        rs.repair(path)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert not path.with_name("a.zarr.damaged").exists()


def test_a_file_that_cannot_be_repaired_is_not_sent_round_in_circles(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(path)
    os.truncate(path, path.stat().st_size // 2)
    for read in (rs.open, rs.repair):
        with pytest.raises(CorruptError, match="restore it from a copy") as caught:
            read(path)
        assert "replaystore repair" not in str(caught.value)


def test_an_earlier_original_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make(path)
    flip(shard(path, "observation"), 5000)
    path.with_name("a.zarr.damaged").mkdir()
    with pytest.raises(AlreadyExistsError, match="earlier repair"):
        rs.repair(path)


def test_a_store_that_is_written_to_is_not_repaired(store: Path) -> None:
    with rs.open(store, "r+"):
        pass
    if store.is_dir():
        flip(shard(store, "observation"), 5000)
        buffer = rs.open(store, "r+")
        with pytest.raises(ConflictError, match="open for writing"):
            rs.repair(store)
        buffer.abandon()


def test_memory_cannot_be_repaired() -> None:
    with pytest.raises(UnsupportedError, match="lies in memory of the process: only folders"):
        rs.repair("memory:nothing")


# --- what is said twice


def other(file: Path, root: Path) -> bytes:
    """The metadata of another array or group."""
    found = sorted(root.rglob("zarr.json"))
    return found[(found.index(file) + 1) % len(found)].read_bytes()


DAMAGES: dict[str, Callable[[Path, Path], bytes | None]] = {
    "missing": lambda *_: None,
    "empty": lambda *_: b"",
    "not JSON": lambda file, _: b"{" + file.read_bytes(),
    "nested": lambda *_: b"[" * 20000,
    "another's": other,
    "changed": lambda file, _: (
        file.read_bytes().replace(b"regular", b"rectilinear").replace(b"float", b"uint")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["live", "archive"])
def test_metadata_that_are_damaged_are_written_anew_and_nothing_is_given_up(
    tmp_path: Path, kind: str, damage: str
) -> None:
    source = tmp_path / "a.zarr"
    make(source, commits=2)
    if kind == "archive":
        rs.convert(source, tmp_path / "b.zarr", layout="archive")
        source = tmp_path / "b.zarr"
    with rs.open(source) as buffer:
        expected = Contents.of(buffer)
    files = [file.relative_to(source) for file in sorted(source.rglob("zarr.json"))]
    for number, name in enumerate(
        files[: 1 + list(DAMAGES).index(damage)] + files[list(DAMAGES).index(damage) :: 5]
    ):
        path = tmp_path / f"{number}.zarr"
        shutil.copytree(source, path)
        content = DAMAGES[damage](path / name, path)
        if content == (path / name).read_bytes():
            continue
        (path / name).unlink() if content is None else (path / name).write_bytes(content)
        assert rs.verify(path).problems, f"{damage} {name}: nobody has noticed it"

        report = rs.repair(path)

        assert not rs.verify(path).problems
        assert not any(
            line.startswith("the last") or line.endswith(" trajectories") for line in report.dropped
        )
        with rs.open(path) as buffer:
            assert expected.difference(Contents.of(buffer)) == "", f"{damage} {name}"
            assert buffer.commit_id >= 2


def test_a_damaged_document_of_an_hdf5_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    make(path, commits=2)
    with h5py.File(path, "r+") as file:
        file.attrs["replaystore"] = np.bytes_(
            file.attrs["replaystore"].replace(b"observation", b"observatiom")
        )
    with pytest.raises(CorruptError, match="document"):
        rs.open(path)

    report = rs.repair(path)

    assert any("document anew" in action for action in report.actions)
    assert_first_commits(path, 2)
