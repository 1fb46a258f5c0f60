"""What short stores take on a disk: no holes are stored as zeros, and what grows again has room to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.zarr.container import ZarrContainer
from replaystore.errors import StorageError
from replaystore.schema import tree
from replaystore.testing import samples
from replaystore.testing.contents import Contents

STEPS = 1000


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A live store of some trajectories of three numbers a step."""
    schema = rs.Schema(
        {
            "observation": rs.Field("float32", (4,), "observation"),
            "reward": rs.Field("float64", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
        }
    )
    rng = np.random.default_rng(0)
    columns = {
        "observation": rng.normal(size=(STEPS, 4)).astype("float32"),
        "reward": rng.normal(size=STEPS),
        "terminated": np.arange(STEPS) % 22 == 21,
    }
    with rs.create(tmp_path / "live.zarr", schema) as buffer:
        buffer.append(columns, final_observation=np.ones((46, 4), "float32"))
    return tmp_path / "live.zarr"


@pytest.mark.disk
def test_a_live_store_of_few_steps_has_few_files_in_few_folders(short: Path) -> None:
    entries = list(short.rglob("*"))
    folders = sorted(str(entry.relative_to(short)) for entry in entries if entry.is_dir())
    with rs.open(short) as buffer:
        arrays = [name for name in buffer.store.state.arrays if not tree.is_journal(name)]

    assert not [name for name in arrays if tree.is_checksums(name)]
    groups = {tree.group_of(name) for name in arrays} | {"journal"}
    assert folders == sorted({*arrays, *groups, tree.LOG})
    # Metadata and rows of each array, metadata of groups, the log and the names of its segments.
    assert len(entries) - len(folders) <= 2 * len(arrays) + len(groups) + 1 + 4
    rs.convert(short, short.with_name("a.h5"))
    assert short.with_name("a.h5").stat().st_blocks * 512 < 300_000


@pytest.mark.parametrize("codec", ["raw", "zstd:1"])
@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_checksums_have_an_array_from_the_first_complete_chunk_on(
    tmp_path: Path, name: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = rs.Schema({"observation": rs.Field("float32", (256,), "observation")})
    storage = {"observation": {"codec": codec, "chunk_rows": 8}}
    rows, stored = np.arange(20 * 256, dtype="float32").reshape(20, 256), tree.checksums("steps/observation")
    container = ZarrContainer if name.endswith("zarr") else Hdf5Container
    with rs.create(tmp_path / name, schema, storage=storage) as buffer:
        buffer.append({"observation": rows[:7]})
        begin = buffer.commit("begin")
        assert stored not in buffer.store.container.specs()

        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device")

        def go_on() -> None:
            if buffer.rows_recorded == 7:
                buffer.append({"observation": rows[7:]})
            buffer.commit()

        with monkeypatch.context() as patched:
            patched.setattr(container, "create_arrays", refuse)
            with pytest.raises(StorageError, match="No space left on device"):
                go_on()
        assert buffer.commit_id == begin
        go_on()
        assert stored in buffer.store.container.specs()
        assert np.array_equal(buffer["observation"][:], rows)
    assert rs.verify(tmp_path / name).problems == []
    with rs.open(tmp_path / name, "r+") as buffer:
        buffer.rollback(begin)
        assert stored not in buffer.store.state.arrays
        buffer.append({"observation": rows[7:]})
    with rs.open(tmp_path / name) as buffer:
        assert np.array_equal(buffer["observation"][:], rows)
    assert rs.verify(tmp_path / name).problems == []


@pytest.mark.parametrize("layout", ["live", "archive"])
@pytest.mark.parametrize("name", ["a.zarr.zip", "a.zarr", "a.h5"])
def test_what_never_grows_takes_hardly_more_than_its_rows(short: Path, name: str, layout: str) -> None:
    if layout == "live" and not name.endswith("zip"):
        pytest.skip("it grows")
    path = short.with_name(name)
    rs.convert(short, path, layout=layout)

    with rs.open(short) as source, rs.open(path) as found:
        assert Contents.of(source).difference(Contents.of(found)) == ""
        rows = sum(field.row_bytes for field in source.schema.fields.values()) * STEPS
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    room = 600_000 if name.endswith("h5") else 80_000  # HDF5 begins with a block for its own changes
    assert sum(map(os.path.getsize, files)) < rows + room
    assert rs.verify(path).problems == []


@pytest.mark.parametrize("name", ["b.zarr", "b.h5"])
def test_what_is_made_of_it_and_grows_is_laid_out_as_others_are(short: Path, name: str) -> None:
    packed, usual = short.with_name("a.zarr.zip"), short.with_name("usual" + Path(name).suffix)
    rs.convert(short, packed)
    rs.convert(short, usual)
    rs.convert(packed, short.with_name(name))

    with rs.open(usual) as one, rs.open(short.with_name(name)) as other:
        assert Contents.of(one).difference(Contents.of(other)) == ""
        specs, others = (
            {key: spec for key, spec in opened.store.specs().items() if not tree.is_journal(key)}
            for opened in (one, other)
        )
        assert specs == others


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.zarr.zip"])
def test_an_archive_without_steps(tmp_path: Path, name: str) -> None:
    with rs.create(tmp_path / "empty.zarr", samples.small()):
        pass
    rs.convert(tmp_path / "empty.zarr", tmp_path / name, layout="archive")

    with rs.open(tmp_path / name) as found:
        assert len(found) == 0
    assert rs.verify(tmp_path / name).problems == []
