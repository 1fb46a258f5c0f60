"""A few spoilt files of each format; `./scripts/campaign foreign` has any number."""

from __future__ import annotations

import json
import os
import random
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tried_formats import READ, SAMPLES

from replaystore.checking.verify import verify
from replaystore.converting.convert import convert
from replaystore.errors import FormatError, ReplayStoreError
from replaystore.formats.shared.arrow.values import members
from replaystore.formats.shared.hdf5.reads import Reads
from replaystore.testing import difficult
from replaystore.testing.campaigns import foreign
from replaystore.testing.mangling import mangled
from replaystore.testing.matrix import ways


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if SAMPLES.is_dir():
        monkeypatch.setenv("REPLAYSTORE_SAMPLES", str(SAMPLES))
    with tempfile.TemporaryDirectory() as made:
        yield made


@pytest.mark.parametrize("name", READ)
def test_a_spoilt_file_is_one_error_or_a_sound_store(
    folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, writes = ways()
    if name not in reads:
        pytest.skip(f"what {name} needs is not installed")
    if name not in writes and not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    if name in writes:
        monkeypatch.delenv("REPLAYSTORE_SAMPLES", raising=False)

    tally = foreign.run(folder, count=10, seed=0, only=(name,))

    assert tally.failures == []
    assert tally.tried == 10


@pytest.mark.timeout(120)
def test_a_careless_reader_is_seen(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLAYSTORE_SAMPLES", raising=False)

    tally = foreign.control(folder, seed=0)

    assert len(tally.failures) == len(foreign.CARELESS), tally


def test_an_array_whose_head_is_no_python_is_damaged(tmp_path: Path) -> None:
    """NumPy tries to read it as one of a very old version."""
    location, path = tmp_path / "a.zarr", tmp_path / "data.npz"
    difficult.made(str(location), "plain")
    convert(location, path, target_format="npz")
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    name = next(name for name in members if b"descr" in members[name])
    members[name] = members[name].replace(b"}", b"(", 1)
    with zipfile.ZipFile(path, "w") as spoilt:
        for member, content in members.items():
            spoilt.writestr(member, content)

    with pytest.raises(ReplayStoreError, match="damaged") as raised:
        convert(path, tmp_path / "b.zarr", source_format="npz")
    assert "\n" not in str(raised.value)


def test_what_lies_beyond_every_file_is_nothing(tmp_path: Path) -> None:
    """HDF5 asks for the places that a file names."""
    path = tmp_path / "a.hdf5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    with path.open("rb") as file:
        reads = Reads(file.fileno(), 107, 0)
        for place in (107, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 64):
            reads.seek(place)
            assert reads.read(8) == bytes(8)
    assert reads.failure is None


def test_keys_that_are_no_texts_are_taken_for_none(tmp_path: Path) -> None:
    location, path = tmp_path / "a.zarr", tmp_path / "replay_buffer.zarr"
    difficult.made(str(location), "plain")
    convert(location, path, target_format="diffusion_policy")
    beside = path / "replaystore" / ".zattrs"
    text = beside.read_text()
    assert '"keys"' in text
    (tmp_path / "plain").mkdir()

    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: {key: [1] for key in v} if k == "keys" else spoilt(v) for k, v in value.items()}
        return value

    beside.write_text(json.dumps(spoilt(json.loads(text))))

    report = convert(path, tmp_path / "b.zarr", source_format="diffusion_policy")

    assert report.steps
    assert verify(tmp_path / "b.zarr").problems == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", READ)
def test_a_pipe_is_no_file_that_is_waited_for(tmp_path: Path, name: str) -> None:
    if name not in ways()[0]:
        pytest.skip(f"what {name} needs is not installed")
    os.mkfifo(tmp_path / "data.tdz")

    with pytest.raises(ReplayStoreError):
        convert(tmp_path / "data.tdz", tmp_path / "b.zarr", source_format=name)


def test_the_type_of_an_array_that_is_no_text_is_none(tmp_path: Path) -> None:
    location, path = tmp_path / "a.zarr", tmp_path / "buffer.hdf5"
    difficult.made(str(location), "plain")
    convert(location, path, target_format="tianshou")
    with h5py.File(path, "r+") as file:
        file["_meta/rew"].attrs["__data_type__"] = np.zeros(3)
        del file["replaystore"]

    report = convert(path, tmp_path / "b.zarr", source_format="tianshou")

    assert {name for name, fate in report.fields.items() if fate.kind == "lost"} == {"rew"}


@pytest.mark.parametrize("spoil", ["columns", "environment"])
def test_what_is_said_of_tensors_is_believed_as_far_as_it_can_be(tmp_path: Path, spoil: str) -> None:
    location, path = tmp_path / "a.zarr", tmp_path / "steps.safetensors"
    difficult.made(str(location), "plain")
    convert(location, path, target_format="safetensors")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + size])
    said = json.loads(head["__metadata__"]["replaystore"])
    if spoil == "columns":
        said["columns"] = {name: [] for name in said["columns"]}
    else:
        del said["environment"]
    head["__metadata__"]["replaystore"] = json.dumps(said)
    fresh = json.dumps(head).encode()
    path.write_bytes(len(fresh).to_bytes(8, "little") + fresh + data[8 + size :])

    with pytest.raises(ReplayStoreError, match="nothing that replaystore writes"):
        convert(path, tmp_path / "b.zarr", source_format="safetensors")


def test_a_name_in_a_struct_that_is_no_text_is_damage(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    name = "abcdefgh"
    told = pa.table({"outer": pa.array([{name: 1.0}])})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, told.schema) as writer:
        writer.write_table(told)
    data = (tmp_path / "a.arrow").read_bytes().replace(name.encode(), b"a\xff\xfedefgh")
    struct = pa.ipc.open_file(pa.py_buffer(data)).read_all()["outer"].combine_chunks()

    with pytest.raises(FormatError, match="a name in it is no text"):
        members(struct, "a.arrow")


def test_rows_of_which_none_is_there_may_not_be_large(tmp_path: Path) -> None:
    """A store of them would take memory for some."""
    path = tmp_path / "data.npz"
    np.savez(path, observations=np.zeros((0, 1 << 27), np.float32), actions=np.zeros((0, 2), np.float32))

    with pytest.raises(ReplayStoreError, match="none of them is there"):
        convert(path, tmp_path / "b.zarr", source_format="npz")
    assert not (tmp_path / "b.zarr").exists()


def test_files_are_spoilt_in_what_they_mean(tmp_path: Path) -> None:
    """JSON stays JSON most of the time, and a copy is changed, never what it is of."""
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps({"shape": [3, 4], "dtype": "float32", "inner": {"size": 7}}))
    before, parsed, seen = whole.read_bytes(), 0, set()

    for seed in range(60):
        target = tmp_path / str(seed) / "a.json"
        mangled(str(whole), str(target), random.Random(seed))
        if not target.is_file() or target.stat().st_size > 1 << 20:
            continue
        try:
            seen.add(json.dumps(json.loads(target.read_text())))
            parsed += 1
        except (OSError, ValueError):
            continue

    assert whole.read_bytes() == before
    assert parsed > 20
    assert len(seen) > 15
