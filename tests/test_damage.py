"""Damage of any kind is noticed: by reading an archive, by `verify` of a live store; it never ends the
interpreter. See `damaging`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.records import decode_records, replay
from replaystore.checking import verify as verification
from replaystore.containers.records import encode_record, open_payload, whole_records
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.errors import CorruptError, ReplayStoreWarning
from replaystore.testing.crashes import tiny

DAMAGING = Path(__file__).with_name("damaging.py")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("layout", ["live", "archive"])
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_no_damage_goes_unnoticed(request: pytest.FixtureRequest, suffix: str, layout: str) -> None:
    cases, seed = request.config.getoption("--damage-cases"), request.config.getoption("--crash-seed")
    cases = cases if suffix == ".zarr" else cases // 2
    command = [sys.executable, str(DAMAGING), suffix, layout, f"--cases={cases}", f"--seed={seed}"]
    environment = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1])}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert done.stdout.endswith(" damages, 0 findings\n"), done.stdout[-4000:]
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("codec", ["zstd:1", "raw"])
def test_every_byte_of_an_index_of_a_shard_is_checked(tmp_path: Path, codec: str) -> None:
    """Other software finds rows by it, and refuses one that does not match its checksum."""
    schema = rs.Schema({"observation": rs.Field(np.dtype("f4"), (256,), "observation")})
    storage = {"observation": {"codec": codec, "chunk_rows": 4}}
    with tiny(), rs.create(tmp_path / "a.zarr", schema, storage=storage) as buffer:
        buffer.append({"observation": np.arange(20 * 256, dtype="f4").reshape(20, 256)})
    shard = min((tmp_path / "a.zarr/steps/observation").glob("c.*"))
    sound, index_bytes = shard.read_bytes(), 2 * 16 + 4

    for at in range(index_bytes):
        shard.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert "the index of the shard" in str(rs.verify(tmp_path / "a.zarr").problems), at
    shard.write_bytes(sound)
    assert rs.verify(tmp_path / "a.zarr").problems == []


# --- copies of stores in use, whose files are older than their log


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three commits of 10, 20 and 30 steps; the rows of each are its number."""
    flag = rs.Field("?", (), "terminated")
    fields = {
        "observation": rs.Field("f4", (2,), "observation"),
        "action": rs.Field("i8", (), "action"),
        "terminated": flag,
    }
    storage = {"observation": {"codec": "zstd:1", "chunk_rows": 4}}
    with rs.create(tmp_path / "a.zarr", rs.Schema(fields), storage=storage) as buffer:
        for number in range(1, 4):
            append(buffer, number)
            buffer.publish()
    return tmp_path / "a.zarr"


def test_a_record_of_which_any_byte_has_changed_or_is_missing_is_no_commit(store: Path) -> None:
    """Those before it are, and none of those behind it."""
    with rs.open(store, "r+") as buffer:
        append(buffer, 4)
        buffer.commit()
        segments = buffer._store.container.segments()
        data = buffer._store.container.read_segment(segments[-1])
        ends = [end for _, _, end in decode_records(data)]
    assert len(ends) == 2

    for at in range(ends[1]):
        known = int(at >= ends[0])
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert len(list(decode_records(changed))) == known, at
        assert len(list(decode_records(data[:at]))) == known, at


def test_a_commit_that_is_missing_in_the_log_is_noticed(store: Path) -> None:
    with rs.open(store, "r+") as buffer:
        for number in (4, 5, 6):
            append(buffer, number)
            buffer.commit()
        data = buffer._store.container.read_segment(buffer._store.container.segments()[-1])
        ends = [end for _, _, end in decode_records(data)]
    assert len(ends) == 4
    assert replay(data, "here").lengths["steps"] == 60

    for missing in (1, 2):
        with pytest.raises(CorruptError, match="the commit log has a record that no writer has made"):
            replay(data[: ends[missing - 1]] + data[ends[missing] :], "here")
    _, (payload, _), *_ = whole_records(data)
    meta, blobs = open_payload(payload)
    for wrong in (meta["commit"] - 1, meta["commit"] + 1):
        with pytest.raises(CorruptError, match=f"commit {wrong} follows {meta['commit'] - 1}"):
            replay(data[: ends[0]] + encode_record(meta | {"commit": wrong}, blobs), "here")
        note = encode_record({"commit": wrong, "forked": True}, {})
        with pytest.raises(CorruptError, match=f"commit {wrong} follows {meta['commit']}"):
            replay(data[: ends[1]] + note, "here")


def test_a_damaged_last_record_of_the_log_is_reported(store: Path) -> None:
    buffer = rs.open(store, "r+")
    append(buffer, 4)
    buffer.commit()
    segment, end = store / f"journal/log/{buffer._store.state.base}", buffer._store.state.end
    buffer.abandon()
    assert rs.verify(store).problems == []
    data = bytearray(segment.read_bytes())
    data[end - 1] ^= 1
    segment.write_bytes(data)

    assert "bytes after commit 3 are no valid record" in str(rs.verify(store).problems)


def test_a_segment_of_the_log_begins_with_the_commit_that_it_is_named_after(store: Path) -> None:
    log = store / "journal/log"
    newest = max(int(entry.name) for entry in log.iterdir() if entry.name.isdigit())
    (log / str(newest)).rename(log / str(newest + 1))

    with pytest.raises(CorruptError, match=f"begin with commit {newest + 1} begins with commit {newest}"):
        rs.open(store)


def test_rows_of_an_unfinished_chunk_that_have_changed_are_not_shown(store: Path) -> None:
    with rs.open(store) as reader:
        (piece,) = reader._store.state.tails["steps/observation"]
        (extent,) = reader._store.container.extents(f"journal/tail/{piece.slot}", 0, piece.offset + 1)
    path = store / extent.object
    data = bytearray(path.read_bytes())
    data[extent.offset + piece.offset + 2] ^= 1
    path.write_bytes(data)

    with pytest.warns(ReplayStoreWarning, match="do not match their checksum"), rs.open(store) as reader:
        assert len(reader) == 20
    assert "do not match their checksum" in str(rs.verify(store).problems)


def test_a_table_that_has_changed_is_an_error(store: Path) -> None:
    with rs.open(store) as reader:
        (extent,) = reader._store.container.extents("parts", 0, 3)
    path = store / extent.object
    data = bytearray(path.read_bytes())
    data[extent.offset + 1] ^= 1
    path.write_bytes(data)

    assert "the table parts does not match its checksum" in str(rs.verify(store).problems)
    with (
        pytest.raises(CorruptError, match="the table parts does not match its checksum"),
        rs.open(store) as reader,
    ):
        reader.trajectory(0)


def test_a_table_of_trajectories_that_contradicts_the_steps_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum is right: a writer made it so."""
    append_table = ArrayStore.append_table

    def contradicting(store: ArrayStore, columns: dict[str, np.ndarray]) -> None:
        name = "trajectories/terminated"
        append_table(store, columns | ({name: ~columns[name]} if name in columns else {}))

    monkeypatch.setattr(ArrayStore, "append_table", contradicting)
    schema = rs.Schema(
        {"action": rs.Field("i8", (), "action"), "terminated": rs.Field("?", (), "terminated")}
    )
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append({"action": np.arange(10), "terminated": np.arange(10) == 9})

    (problem,) = rs.verify(tmp_path / "a.zarr").problems
    assert str(problem).startswith("trajectory 0: the table says terminated=False, its last step True")


def append(buffer: rs.Buffer, number: int) -> None:
    buffer.append(
        {
            "observation": np.full((10, 2), number, "f4"),
            "action": np.full(10, number),
            "terminated": np.arange(10) == 9,
        }
    )


def actions(path: Path, **settings: int) -> list[int]:
    with rs.open(path, **settings) as buffer:
        found: list[int] = buffer["action"][::10].tolist()
        assert buffer["observation"][::10][:, 0].tolist() == found
    return found


def test_a_copy_whose_rows_are_older_than_its_log_is_read_as_of_an_earlier_commit(store: Path) -> None:
    rows = store / "steps" / "action" / "c.0"
    data = rows.read_bytes()
    for kept, expected in ((30, [1, 2, 3]), (29, [1, 2]), (20, [1, 2]), (19, [1]), (10, [1])):
        rows.write_bytes(data[: 4096 + kept * 8])
        if kept == 30:
            assert actions(store) == expected
            continue
        with pytest.warns(
            ReplayStoreWarning,
            match=(
                r"a\.zarr is read as of commit .*run `replaystore "
                r"verify`"
            ),
        ) as noted:
            assert actions(store) == expected
        assert "\n" not in str(noted[0].message)
    rows.write_bytes(data)
    assert actions(store) == [1, 2, 3]


def test_room_that_was_made_for_rows_is_not_taken_for_them(store: Path) -> None:
    rows = store / "steps" / "action" / "c.0"
    data = rows.read_bytes()
    rows.write_bytes(data[: 4096 + 20 * 8] + bytes(len(data) - 4096 - 20 * 8))

    with pytest.warns(ReplayStoreWarning, match="are not those that were committed"):
        assert actions(store) == [1, 2]


def test_such_a_copy_stays_at_its_commit(store: Path) -> None:
    rows = store / "steps" / "action" / "c.0"
    rows.write_bytes(rows.read_bytes()[: 4096 + 25 * 8])

    with pytest.warns(ReplayStoreWarning):
        buffer = rs.open(store)
    with buffer:
        assert len(buffer) == 20
        assert not buffer.refresh()
        assert buffer.trajectories["length"].tolist() == [10, 10]
    assert rs.verify(store).problems


def test_a_writer_does_not_go_back_unasked(store: Path) -> None:
    rows = store / "steps" / "action" / "c.0"
    rows.write_bytes(rows.read_bytes()[: 4096 + 25 * 8])
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "lock"}

    with pytest.raises(CorruptError, match=r"steps/action/c.0 .* run `replaystore repair`"):
        rs.open(store, "r+")

    assert {
        path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "lock"
    } == before
    rs.repair(store)
    assert actions(store) == [1, 2]


def test_a_store_of_which_no_rows_are_left_is_not_taken_for_an_empty_one(store: Path) -> None:
    (store / "steps" / "action" / "c.0").unlink()

    with rs.open(store) as buffer:
        assert len(buffer) == 30
        with pytest.raises(CorruptError, match=r"steps/action/c\.0 is missing"):
            buffer["action"][0]
        assert buffer["observation"][29].tolist() == [3, 3]


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_commits_that_are_made_while_a_store_is_verified_are_no_damage(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / f"a{suffix}"
    with rs.create(place, rs.Schema({"x": rs.Field("float32", (3,), "extra")})) as buffer:
        check = verification.check_log

        def committed_before(*given: Any) -> None:
            buffer.append({"x": np.ones((7, 3), np.float32)})
            buffer.commit()
            check(*given)

        monkeypatch.setattr(verification, "check_log", committed_before)
        for _ in range(3):
            assert not rs.verify(place).problems


def test_a_record_that_is_just_being_written_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, rs.Schema({"x": rs.Field("float32", (3,), "extra")})) as buffer:
        buffer.append({"x": np.ones((7, 3), np.float32)})
        buffer.commit()
    cut: list[int] = []
    read, check = ZarrContainer.read_segment, verification.check_log
    monkeypatch.setattr(
        ZarrContainer, "read_segment", lambda self, base: read(self, base)[: cut.pop() if cut else None]
    )
    monkeypatch.setattr(verification, "check_log", lambda *given: (cut.append(-9), check(*given)))
    assert not rs.verify(place).problems
    assert not cut
