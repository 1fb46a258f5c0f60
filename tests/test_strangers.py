"""Files of other kinds: one line says what they are not, what they are, and where to go; advice, when
followed, leads there."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from tensors import torch

import replaystore as rs
from replaystore import errors, not_stores
from replaystore.testing.samples import columns, small

Maker = Callable[[Path], object]


def old_checkpoint(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((4, 3))


def papers(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("read me.txt", "hello" * 100)


def dumped(value: object) -> Maker:
    return lambda path: path.write_bytes(pickle.dumps(value))


def older_zarr(path: Path) -> None:
    zarr.open_group(path, mode="w", zarr_format=2).create_array("x", shape=(3,), dtype="f4")


def folder(path: Path) -> None:
    path.mkdir()
    np.savez(path / "episode.npz", obs=np.zeros(3))


STRANGE: dict[str, tuple[Maker, str]] = {
    "plain.npz": (lambda path: np.savez(path, obs=np.zeros(3)), "numpy.load"),
    "packed.npz": (lambda path: np.savez_compressed(path, obs=np.zeros(3)), "numpy.load"),
    "a.npy": (lambda path: np.save(path, np.zeros(3)), "numpy.load"),
    "d4rl.hdf5": (hdf5, "h5py.File"),
    "d4rl.dat": (hdf5, "h5py.File"),
    "d4rl.pkl": (dumped({"observations": np.zeros((4, 3))}), "nothing in it was run.*pickle.load"),
    "list.pickle": (dumped([1, 2]), "nothing in it was run.*pickle.load"),
    "list.dat": (dumped([1, 2]), "pickle.load"),
    "old.zarr": (older_zarr, "zarr.open"),
    "x.csv": (lambda path: path.write_text("a,b\n1,2\n"), "numpy.genfromtxt|can only be written"),
    "x.json": (lambda path: path.write_text("{}"), "json.load"),
    "x.parquet": (lambda path: path.write_bytes(b"PAR1aaaaPAR1"), "read_parquet|is damaged"),
    "x.pkl.gz": (lambda path: path.write_bytes(gzip.compress(b"x")), "uncompress"),
    "papers.zip": (papers, "zip file without a store"),
    "files": (folder, r"\.npz archive of NumPy \(episode\.npz\).*numpy.load"),
}
if torch is not None:
    STRANGE |= {
        "model.pt": (lambda path: torch.save({"a": torch.zeros(3)}, path), "torch.load"),
        "model.pkl": (lambda path: torch.save({"a": torch.zeros(3)}, path), "torch.load"),
        "model.zip": (lambda path: torch.save({"a": torch.zeros(3)}, path), "torch.load"),
        "old.pt": (old_checkpoint, "torch.load"),
    }
ACTIONS: dict[str, Callable[[Path], object]] = {
    "open": rs.open,
    "convert": lambda path: rs.convert(path, path.parent / "target.zarr"),
    "open to write": lambda path: rs.open(path, "r+"),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_file_gets_a_line_that_leads_somewhere(tmp_path: Path, name: str, action: str) -> None:
    make, said = STRANGE[name]
    path = tmp_path / name
    make(path)

    if action != "convert" and path.suffix in (".pkl", ".pickle"):
        pytest.skip("only `convert` takes such files")
    with pytest.raises((errors.FormatError, errors.UnsupportedError), match=said) as caught:
        ACTIONS[action](path)

    text = str(caught.value)
    assert "\n" not in text
    assert name in text
    assert "unpack" not in text
    assert not (tmp_path / "target.zarr").exists()


def test_the_advice_to_unpack_a_zip_of_a_store_leads_there(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    with rs.create(inside / "a.zarr", small()) as buffer:
        buffer.append(columns(small(), 20, 1))
    shutil.make_archive(str(tmp_path / "packed"), "zip", inside)
    with pytest.raises(errors.FormatError, match="unpack it and convert the folder"):
        rs.open(tmp_path / "packed.zip")
    shutil.unpack_archive(tmp_path / "packed.zip", tmp_path / "unpacked")
    with pytest.raises(errors.FormatError, match=r"name what is in it, such as .*a\.zarr") as caught:
        rs.convert(tmp_path / "unpacked", tmp_path / "b.zarr")

    named = str(caught.value).rpartition("such as ")[2]
    assert rs.convert(named, tmp_path / "b.zarr").steps == 20


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zarr.zip"])
def test_a_store_of_ours_is_no_stranger_however_damaged(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / f"a{suffix}"
    with rs.create(tmp_path / "source.zarr", small()) as buffer:
        buffer.append(columns(small(), 20, 1))
    rs.convert(tmp_path / "source.zarr", place)
    assert not_stores.what(str(place)) is None
    if place.is_file():
        content = place.read_bytes()
        place.write_bytes(content[: len(content) // 2])
        assert "other software" not in not_stores.line(str(place))


def test_nothing_but_files_and_folders_is_looked_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not_stores.line(str(tmp_path / "pipe")) == ""
    assert not_stores.line(str(tmp_path / "none")) == ""
    assert not_stores.line(str(tmp_path)) == ""
