"""Files of other kinds: one line says what they are not, what they are, and where to go; advice, when
followed, leads there."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def flat(number: int = 6) -> dict[str, np.ndarray[Any, Any]]:
    """Steps as D4RL has them."""
    ends = np.arange(number) % 3 == 2
    numbers = {"observations": np.ones((number, 2), "f4"), "actions": np.ones((number, 1), "f4")}
    return {**numbers, "rewards": np.ones(number, "f4"), "terminals": ends, "timeouts": ends & False}


def d4rl(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in flat().items():
            file[name] = values


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
    (path / "about.json").write_text("{}")


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


READ: dict[str, tuple[Maker, str]] = {
    "flat.h5": (d4rl, "a flat HDF5 file as D4RL has them"),
    "flat.dat": (d4rl, "a flat HDF5 file as D4RL has them"),
    "flat.npz": (lambda path: np.savez(path, **flat()), "an .npz file of flat arrays"),
    "a dict.pkl": (dumped(flat()), "a pickle of a dict of arrays"),
    "dict.dat": (dumped(flat()), "a pickle of a dict of arrays"),
    "one/two": (
        lambda path: (path.mkdir(parents=True), d4rl(path / "a.h5")),
        "a folder with a flat HDF5 file",
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_a_format_reads_is_told_with_the_command_that_makes_a_store(tmp_path: Path, name: str) -> None:
    make, said = READ[name]
    path = tmp_path / name
    make(path)
    # A folder of it that holds nothing else gets the same advice.
    for place in (path, path.parent) if name == "one/two" else (path,):
        with pytest.raises(errors.FormatError, match=said) as caught:
            rs.open(place)

        command = re.search(r"`replaystore convert (.*)` makes one$", str(caught.value))
        assert command is not None
        source, target = shlex.split(command[1])
        assert rs.convert(source, target).steps == 6
        shutil.rmtree(target)


def test_a_target_that_is_there_is_not_what_is_advised(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **flat())
    (tmp_path / "a.zarr").mkdir()
    assert "a.npz " + str(tmp_path / "a-store.zarr") in not_stores.line(str(tmp_path / "a.npz"))


def test_a_folder_of_data_is_not_taken_for_a_dataset(tmp_path: Path) -> None:
    (tmp_path / "run" / "data").mkdir(parents=True)
    for action in ACTIONS.values():
        with pytest.raises(
            errors.ArgumentError, match="known by its content: check the path; `replaystore formats`"
        ):
            action(tmp_path / "run")


CUT = {
    "cut.h5": (d4rl, r"it has \d+ bytes of the \d+ that it was written with: .*; copy it again"),
    "cut.npz.dat": (d4rl, r"it has \d+ bytes of the \d+"),
    "cut.pkl": (dumped(flat()), "it ends in the middle: it is damaged"),
    "cut.dat": (dumped(flat()), "it ends in the middle: it is damaged"),
    "cut.safetensors": (
        lambda path: rs.convert(_store(path.parent), path, target_format="safetensors"),
        r"has \d+ bytes, and its header speaks of \d+: it is damaged",
    ),
}


def _store(folder: Path) -> Path:
    with rs.create(folder / "source.zarr", small()) as buffer:
        buffer.append(columns(small(), 20, 1))
    return folder / "source.zarr"


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", CUT)
def test_what_was_cut_short_is_told_so(tmp_path: Path, name: str, action: str) -> None:
    make, said = CUT[name]
    path = tmp_path / name
    make(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(errors.FormatError, match=said) as caught:
        ACTIONS[action](path)

    assert "read it with" not in str(caught.value)
    assert not (tmp_path / "target.zarr").exists()


def test_the_wrong_format_is_told_with_the_right_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **flat())
    with pytest.raises(
        errors.FormatError, match=r"an \.npz file of flat arrays, not a flat HDF5 .*: name .* 'npz'"
    ):
        rs.convert(tmp_path / "a.npz", tmp_path / "b.zarr", source_format="d4rl")


def test_a_part_of_a_dataset_is_told_with_the_whole(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    whole = tmp_path / "cartpole"
    rs.convert(_store(tmp_path), whole, target_format="lerobot")

    part = next((whole / "data").iterdir())
    report = rs.convert(part, tmp_path / "b.zarr", dry_run=True)
    assert (
        f"{part} is only a part of a dataset of LeRobot, which lies in {whole}: convert that"
        in report.notes[-1]
    )
    with pytest.raises(
        errors.FormatError, match=rf"of LeRobot: `replaystore convert {whole} {whole}\.zarr` makes"
    ):
        rs.convert(whole / "data", tmp_path / "c.zarr")
    assert not [note for note in rs.convert(whole, tmp_path / "d.zarr").notes if "only a part" in note]


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
