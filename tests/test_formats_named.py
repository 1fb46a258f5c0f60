"""Which format a file has: what the user says, then content, then suffixes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stranger import installed

import replaystore as rs
from replaystore import errors
from replaystore.testing import samples


@pytest.fixture(autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path_factory.mktemp("site"), monkeypatch, {"replaystore.formats toy": "toy_format:ENTRY"})


@pytest.fixture
def store(tmp_path: Path) -> str:
    schema = samples.small()
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append(samples.columns(schema, 30, 1))
    return str(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["x.h5", "x.npz", "x.zip", "x.zarr", "x.pkl", "x.safetensors", "x"])
def test_content_comes_before_suffixes(store: str, name: str, tmp_path: Path) -> None:
    there = rs.convert(store, tmp_path / name, format="toy")
    again = rs.convert(tmp_path / name, tmp_path / "back.h5")

    assert there.target == str(tmp_path / name)
    assert again.steps == 30
    assert again.exact
    assert rs.verify(tmp_path / "back.h5").problems == []


def test_the_format_is_that_of_the_source_unless_that_is_a_store(store: str, tmp_path: Path) -> None:
    rs.convert(store, tmp_path / "b.toy", format="toy")
    rs.convert(tmp_path / "b.toy", tmp_path / "c.zarr", format="toy")
    with rs.open(tmp_path / "c.zarr") as buffer:
        rs.convert(buffer, tmp_path / "d.bin", format="toy")
    rs.convert(tmp_path / "b.toy", tmp_path / "e.bin", source_format="toy", target_format="toy")

    assert (tmp_path / "d.bin").read_bytes() == (tmp_path / "b.toy").read_bytes()
    assert (tmp_path / "e.bin").read_bytes() == (tmp_path / "b.toy").read_bytes()


def test_a_damaged_source_is_not_taken_for_a_target(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"nonsense")

    with pytest.raises(errors.FormatError, match="no file of the toy"):
        rs.convert(tmp_path / "b.bin", tmp_path / "c.zarr", format="toy")
    assert not (tmp_path / "c.zarr").exists()


def test_formats_that_contradict_each_other_are_refused(store: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give either"):
        rs.convert(store, tmp_path / "b", format="toy", target_format="toy")
    with pytest.raises(ValueError, match=r"there is no format 'x'; there are .*velora.*, toy"):
        rs.convert(store, tmp_path / "b", format="x")


def test_an_unknown_file_is_told_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"nonsense")

    with pytest.raises(errors.ReplayStoreError, match=r"source_format= \(--from\) .*: .*velora.*, toy"):
        rs.convert(tmp_path / "b.bin", tmp_path / "c.zarr")


def test_a_new_file_that_no_suffix_names_is_told_what_is_known(store: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match=r"target_format= \(--to\) .*: .*velora.*, toy"):
        rs.convert(store, tmp_path / "b.bin")


@pytest.mark.parametrize("name", ["zarr", "hdf5"])
def test_a_container_is_no_format(store: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.ArgumentError, match=rf"'{name}' is no format .* a name that ends in \.{name}"):
        rs.convert(store, tmp_path / "b", target_format=name)


def test_a_name_that_is_nearly_one_is_told(store: str, tmp_path: Path) -> None:
    with pytest.raises(
        errors.ArgumentError, match=r"no format 'minary' \(did you mean 'minari'\?\); there are"
    ):
        rs.convert(store, tmp_path / "b", target_format="minary")
    with pytest.raises(errors.ArgumentError, match=r"'Parkuet' \(did you mean 'parquet'\?\)"):
        rs.digest(store, source_format="Parkuet")


def test_what_only_reads_is_no_name_to_write_and_the_other_way_round(store: str, tmp_path: Path) -> None:
    for wanted, only in (("target_format", "csv"), ("source_format", "cpprb")):
        with pytest.raises(errors.ArgumentError) as caught:
            rs.convert(store, tmp_path / "b.bin", **{wanted: "nonsense"})
        names = str(caught.value).rpartition("there are ")[2].split(", ")
        assert {"csv", "cpprb", "velora", "toy"} & set(names) == {only, "velora", "toy"}
    with pytest.raises(
        errors.UnsupportedError, match="can only be read: choose another target, of minari_arrow"
    ):
        rs.convert(store, tmp_path / "b.bin", target_format="cpprb")


def test_a_format_is_given_by_its_name(store: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ArgumentError, match="by its name, not as list"):
        rs.convert(store, tmp_path / "b", format=["toy"])  # type: ignore[arg-type]


def test_blocks_that_fit_no_schema_are_an_error_of_the_file(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toy_format

    rs.convert(store, tmp_path / "b.toy")
    taken = np.frombuffer
    monkeypatch.setattr(
        toy_format.np, "frombuffer", lambda data, dtype: taken(data, dtype).astype(np.float32)
    )
    with pytest.raises(errors.FormatError, match=r"b\.toy, at trajectory 0: .*observation/camera"):
        rs.convert(tmp_path / "b.toy", tmp_path / "c.zarr")
    assert [at.name for at in tmp_path.iterdir() if at.name.startswith("c.zarr")] == []
