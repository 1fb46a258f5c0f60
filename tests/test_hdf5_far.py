"""An HDF5 store is read from far away: as from near, in few requests, and without the HDF5 library."""

from __future__ import annotations

import random
from pathlib import Path
from unittest.mock import patch

import pytest
from far_hdf5 import KINDS, Bytes, directory_of, make, rows, same, slot_of, without_directory
from far_stores import before_request

import replaystore as rs
from replaystore.containers.hdf5 import directory
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.far import BLOCK, FarFile
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.library import Hdf5File
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.errors import ConflictError, CorruptError, FormatError, NotFoundError
from replaystore.storage.local import Files
from replaystore.testing import samples
from replaystore.testing.far import Asked, FarFiles, far_disk


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("older", [False, True], ids=["", "without-directory"])
def test_a_store_is_read_from_far_as_from_near(tmp_path: Path, kind: str, older: bool) -> None:
    path = make(tmp_path / "a.h5", kind)
    with rs.open(path) as buffer:
        expected, batch = rows(buffer), buffer.sampler(16, seed=3, prefetch=0).sample()
        trajectories = buffer.trajectories.index.tolist()
        commits = buffer.commits()
        middle = commits[len(commits) // 2].commit
        first = rows(rs.open(path, commit=middle))
    if older:
        without_directory(path)
    with far_disk(), rs.open(path) as buffer:
        assert same(rows(buffer), expected)
        found = buffer.sampler(16, seed=3, prefetch=0).sample()
        assert all(found[name].tobytes() == batch[name].tobytes() for name in batch)
        assert buffer.trajectories.index.tolist() == trajectories
        assert buffer.commits() == commits
        with rs.open(path, commit=middle) as pinned:
            assert same(rows(pinned), first)
    with far_disk():
        report = rs.verify(path)
    sidecar = older and kind == "archive"  # it is of the file that had a directory
    assert len(report.problems) == sidecar


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_with_a_directory_is_read_without_the_library(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "a.h5", kind)

    def refuse(*_: object) -> None:
        pytest.fail("the library was asked")

    unasked = patch.multiple(Hdf5File, look=refuse, read=refuse)
    with far_disk(), unasked, rs.open(path) as buffer:
        buffer.sampler(16, seed=3, prefetch=0).sample()
        rows(buffer)
        assert buffer.commits()


def test_files_that_only_read_are_enough(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", "live")
    near = Hdf5Container.open(Bytes(path.read_bytes()), "a.h5", writable=False)  # type: ignore[arg-type]
    kept = Hdf5Container.open(Bytes(without_directory(path).read_bytes()), "a.h5", writable=False)  # type: ignore[arg-type]
    for container in (near, kept):
        assert dict(container.specs())
        assert container.document()["format_version"]
        name = "steps/reward"
        (extent,) = container.extents(name, 0, 64)
        assert container.files.read(extent.object, extent.offset, extent.length)
    assert near.document() == kept.document()
    assert [near.extents("steps/reward", 0, 64)] == [kept.extents("steps/reward", 0, 64)]


def test_what_is_no_store_is_told_from_far(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"no store" * 5000)
    with far_disk():
        with pytest.raises(FormatError, match=r"a\.h5"):
            rs.open(tmp_path / "a.h5")
        with pytest.raises(NotFoundError, match=r"b\.h5"):
            rs.open(tmp_path / "b.h5")


@pytest.mark.parametrize("seed", range(3))
def test_the_directory_says_what_the_library_says(tmp_path: Path, seed: int) -> None:
    chance, path = random.Random(seed), tmp_path / "a.h5"
    buffer = rs.create(path, samples.small())
    with patch.object(directory, "LEAST", 4096):  # it is written anew again and again
        for step in range(60):
            action = chance.choice(["rows", "rows", "rows", "publish", "back", "reopen", "field", "metadata"])
            if action == "rows":
                buffer.append(samples.columns(buffer.schema, chance.randint(1, 300), seed=step))
                buffer.commit()
            elif action == "publish":
                buffer.publish()
            elif action == "back":
                buffer.rollback(chance.choice(buffer.commits()).commit)
            elif action == "field" and step % 3 == 0:
                buffer.add_fields({f"info/more{step}": rs.Field("float32", (3,), "info")})
            elif action == "metadata":
                buffer.metadata = {"text": "x" * chance.choice([10, 3000])}
            elif action == "reopen":
                chance.choice([buffer.close, buffer.abandon])()
                buffer = rs.open(path, "r+")
            assert directory_of(path) is not None
            reader = Hdf5Container.open(Files(tmp_path, writable=False), "a.h5", writable=False)
            assert not list(reader.metadata_problems()), action
            reader.close()
    expected = rows(buffer)
    with far_disk(), rs.open(path) as reader:
        assert same(rows(reader), expected)
    buffer.close()


def test_a_directory_that_is_out_of_date_is_not_believed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", "live")
    old = path.read_bytes()[18432 : 18432 + 64]
    with rs.open(path, "r+") as buffer:
        buffer.append(samples.columns(buffer.schema, 900, seed=9))
        buffer.commit()
        expected = rows(buffer)
    with path.open("r+b") as file:  # as if older software, which leaves it alone, had written the rows
        file.seek(18432)
        file.write(old)
    assert directory_of(path) is None
    with far_disk(), rs.open(path) as buffer:
        assert same(rows(buffer), expected)
    with rs.open(path, "r+") as buffer:  # the next transaction writes it anew
        buffer.metadata = {"a": 1}
    assert directory_of(path) is not None
    assert not rs.verify(path).problems


def test_a_damaged_directory_is_told_by_verify_and_does_not_matter(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", "closed")
    with rs.open(path) as buffer:
        expected = rows(buffer)
    slot = slot_of(path)
    assert slot is not None
    with path.open("r+b") as file:
        file.seek(slot.offset + slot.used // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 64]))
    with far_disk(), rs.open(path) as buffer:
        assert same(rows(buffer), expected)
    assert [problem.where for problem in rs.verify(path).problems] == ["the directory"]
    rs.repair(path)
    with rs.open(path, "r+") as buffer:
        buffer.metadata = {"mended": True}
    assert not rs.verify(path).problems
    assert directory_of(path) is not None


def test_wherever_a_directory_is_damaged_it_is_not_believed(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", "closed")
    with rs.open(path) as buffer:
        expected = rows(buffer)
    slot = slot_of(path)
    assert slot is not None
    with path.open("r+b") as file:
        for at in range(slot.offset, slot.offset + slot.used, max(1, slot.used // 30)):
            file.seek(at)
            (byte,) = file.read(1)
            for written in (byte ^ 32, byte):
                file.seek(at)
                file.write(bytes([written]))
                file.flush()
                with far_disk(), rs.open(path) as buffer:
                    assert same(rows(buffer), expected), at - slot.offset


def test_blocks_of_a_file_that_is_changed_meanwhile_are_of_one_state(tmp_path: Path) -> None:
    """Whichever request a transaction comes before."""
    path = make(tmp_path / "a.h5", "live")

    def blocks(overlay: Overlay) -> bytes:
        places = range(USERBLOCK, overlay.end, BLOCK)
        found = b"".join(overlay.read_at(at, min(BLOCK, overlay.end - at)) for at in places)
        if overlay.failure is not None:
            raise overlay.failure
        return found

    with rs.open(path, "r+") as buffer:

        def go_on() -> None:
            buffer.metadata = {"text": "x" * (3000 + number)}

        for number in range(0, 100, 2):
            file = FarFile(FarFiles(Files(tmp_path, writable=False), Asked()), path.name)
            before = path.read_bytes()[USERBLOCK:]
            with before_request(number, go_on) as asked:
                found, _ = file.read(blocks)
            after = path.read_bytes()[USERBLOCK:]
            # The superblock says where the file ends, which is shown otherwise.
            assert found[64:] in (before[64 : len(found)], after[64 : len(found)]), number
            if number > len(asked):
                break
    assert 14 < number < 98


@pytest.mark.parametrize("kind", KINDS)
def test_another_store_under_the_name_is_a_conflict(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path / "a.h5", kind)
    other = make(tmp_path / "b.h5", kind, seed=5)
    with far_disk(), rs.open(path) as buffer:
        rows(buffer)
        other.replace(path)
        with pytest.raises(ConflictError, match="another store"):
            buffer.refresh()


def test_a_file_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    path = make(tmp_path / "a.h5", "closed")
    with rs.open(path) as buffer:
        expected = rows(buffer)
    data = path.read_bytes()
    for size in (0, 100, 30_000, 300_000, len(data) // 2):
        path.write_bytes(data[:size])
        with far_disk(), pytest.raises((CorruptError, FormatError)), rs.open(path) as buffer:
            rows(buffer)
    path.write_bytes(data[:-1000])  # room for rows to come
    with far_disk(), rs.open(path) as buffer:
        assert same(rows(buffer), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("coded", [False, True], ids=["raw", "coded"])
def test_a_store_is_opened_in_few_requests(tmp_path: Path, kind: str, coded: bool) -> None:
    path = make(tmp_path / "a.h5", kind, coded=coded)
    with far_disk() as asked, rs.open(path) as buffer:
        assert asked.rounds <= 3
        assert asked.requests <= 4 + (coded and kind != "archive")
        fields = ["observation/joints", "action", "reward", "terminated", "truncated"]
        sampler = buffer.sampler(256, fields=fields, next_observation=False, seed=1, prefetch=0)
        asked.rounds = 0
        sampler.sample()
        assert asked.rounds <= (2 if kind != "archive" else 5)
