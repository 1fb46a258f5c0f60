"""What is said twice in the front of an HDF5 file: where one of the two is damaged, nothing acknowledged is
lost, and `verify` says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.containers.hdf5.front import APPLIED, HEADS, JOURNAL, USERBLOCK, Front
from replaystore.containers.hdf5.overlay import lookup3
from replaystore.errors import CorruptError

SCHEMA = rs.Schema({"observation": rs.Field(np.dtype("f4"), (3,), "observation")})
CODED = {"observation": {"codec": "gzip:1", "chunk_rows": 4}}


def commits(buffer: rs.Buffer) -> None:
    for value in range(5):
        buffer.append({"observation": np.full((10, 3), value, "f4")})
        buffer.commit()


def grows(buffer: rs.Buffer) -> None:
    """The log needs more room, and its newest head names the new piece."""
    for value in range(40):
        buffer.append({"observation": np.full((1, 3), value, "f4")})
        buffer.commit()


def rolls_back(buffer: rs.Buffer) -> None:
    """The newest head is the first that names the newest segment."""
    commits(buffer)
    buffer.rollback(2)


def closes(buffer: rs.Buffer) -> None:
    grows(buffer)
    buffer.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of the log that need more room soon; `verify` in this process."""
    monkeypatch.setattr("replaystore.containers.hdf5.log.LEAST", 1 << 12)
    monkeypatch.setattr("replaystore.checking.verify._probe", lambda *_: True)


@pytest.mark.parametrize("bit", [3, 90, 250])
@pytest.mark.parametrize("place", [*HEADS, JOURNAL, APPLIED])
@pytest.mark.parametrize("story", [commits, grows, rolls_back, closes])
@pytest.mark.parametrize("storage", [None, CODED], ids=["raw", "coded"])
def test_a_flipped_bit_before_the_hdf5_bytes_hides_nothing(
    tmp_path: Path,
    story: Callable[[rs.Buffer], None],
    place: int,
    bit: int,
    storage: dict[str, dict[str, object]] | None,
) -> None:
    path = tmp_path / "a.h5"
    buffer = rs.create(path, SCHEMA, storage=storage)
    story(buffer)
    buffer.abandon()
    with rs.open(path) as read:
        expected = read.commit_id, read["observation"][:].tolist()
    data = bytearray(path.read_bytes())
    data[place + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    flipped = Front.unpack(bytes(data), str(path)).damaged

    with rs.open(path) as read:
        assert (read.commit_id, read["observation"][:].tolist()) == expected
    assert any("damaged" in problem.what for problem in rs.verify(path).problems) == bool(flipped)
    with rs.open(path, "r+") as buffer:
        assert buffer.commit_id == expected[0]
        buffer.append({"observation": np.full((3, 3), 77, "f4")})
    with rs.open(path) as read:
        assert read["observation"][:].tolist() == [*expected[1], *[[77.0] * 3] * 3]
    assert rs.verify(path).problems == []


@pytest.mark.parametrize("number", [(1 << 63) - 1, 1 << 63, (1 << 64) - 2])
@pytest.mark.parametrize("at", [12, 20, 28, 36])
def test_a_superblock_with_a_right_checksum_and_a_wrong_number_is_an_error_of_ours(
    tmp_path: Path, at: int, number: int
) -> None:
    """Base, extension, end of the file, root group."""
    path = tmp_path / "a.h5"
    with rs.create(path, SCHEMA) as buffer:
        commits(buffer)
    with open(path, "r+b") as file:
        file.seek(USERBLOCK)
        block = bytearray(file.read(48))
        block[at : at + 8] = number.to_bytes(8, "little")
        block[44:] = lookup3(bytes(block[:44])).to_bytes(4, "little")
        file.seek(USERBLOCK)
        file.write(block)
    assert rs.verify(path).problems
    for mode in ("r", "r+"):
        with pytest.raises(CorruptError):
            rs.open(path, mode)  # type: ignore[call-overload]
