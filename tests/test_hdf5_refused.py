"""Files, links, rows and chunks that the HDF5 container refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from hdf5_story import (
    ALL,
    IMAGE,
    NAME,
    OBS,
    reader_of,
)

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.hdf5.arrays import array
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.errors import (
    AlreadyExistsError,
    CorruptError,
    FormatError,
    FormatVersionError,
    NotFoundError,
    SchemaError,
    UnsupportedError,
)
from replaystore.storage.local import Files

pytest_plugins = ["hdf5_story"]


def test_what_is_not_ours_is_refused_with_a_clear_error(tmp_path: Path, container: Hdf5Container) -> None:
    files = Files(tmp_path, writable=True)
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "folder.h5").mkdir()
    data = Path(container.files.path(NAME)).read_bytes()
    (tmp_path / "newer.h5").write_bytes(data.replace(b"HDF5 1\n", b"HDF5 2\n", 1))
    for writable in (False, True):
        for name in ("foreign.h5", "empty.h5", "text.h5", "folder.h5"):
            with pytest.raises(FormatError, match="not a replaystore HDF5 file"):
                Hdf5Container.open(files, name, writable=writable)
        with pytest.raises(FormatVersionError, match="upgrade"):
            Hdf5Container.open(files, "newer.h5", writable=writable)
        with pytest.raises(NotFoundError, match=r"absent\.h5"):
            Hdf5Container.open(files, "absent.h5", writable=writable)
    with pytest.raises(AlreadyExistsError, match=r"text\.h5"):
        Hdf5Container.create(files, "text.h5", {})


def test_a_reader_writes_nothing(container: Hdf5Container) -> None:
    reader = reader_of(container)
    writes: list[Callable[[], object]] = [
        lambda: reader.create_arrays({"x": ALL[OBS]}),
        lambda: reader.reserve({OBS: 10}),
        lambda: reader.append_record(b"x"),
        lambda: reader.begin_segment(0, b"x"),
        lambda: reader.replace_document({}),
        lambda: reader.publish({OBS: 0}, {}),
        lambda: reader.fork({OBS: 0}),
        lambda: reader.trim({}),
        reader.seal,
    ]
    for write in writes:
        with pytest.raises(UnsupportedError, match="reading only"):
            write()


def test_space_of_old_rows_cannot_be_given_back(container: Hdf5Container) -> None:
    assert not container.capabilities.gives_back_space
    with pytest.raises(UnsupportedError, match="Zarr"):
        container.drop_before(OBS, 64)


def test_links_and_storage_outside_the_file_are_never_followed(
    container: Hdf5Container, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["pose"] = np.zeros((4, 4))
        other["pose"].attrs["replaystore"] = np.bytes_(b'{"chunks_per_shard": 1, "dimension": "step"}')
    path = container.files.path(NAME)
    container.close()
    with h5py.File(path, "r+") as file:
        file["steps/outside"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/pose")
        file["elsewhere"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
        file["steps/soft"] = h5py.SoftLink("/" + OBS)
        file["steps/circle"] = file["/"]
        file["steps/not_ours"] = np.arange(3)
    reader = reader_of(container)
    assert dict(reader.specs()) == ALL
    with pytest.raises(CorruptError, match="elsewhere"):
        Hdf5Container.open(Files(container.files.root, writable=True), NAME, writable=True)._file.look(
            lambda file, _: array(file, "elsewhere/pose")
        )
    for name in ("external", "virtual"):
        with h5py.File(path, "r+") as file:
            if name == "external":
                made = file.create_dataset(
                    "steps/bad", (4096,), "u1", external=[(str(tmp_path / "secret"), 0, 4096)]
                )
            else:
                layout = h5py.VirtualLayout((4, 4), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "pose", (4, 4))
                made = file.create_virtual_dataset("steps/bad", layout)
            made.attrs["replaystore"] = np.bytes_(b'{"chunks_per_shard": 1, "dimension": "step"}')
        with pytest.raises(CorruptError, match="not read"):
            reader_of(container).specs()
        with h5py.File(path, "r+") as file:
            del file["steps/bad"]


def test_a_dataset_that_claims_more_rows_than_the_file_holds_is_refused(container: Hdf5Container) -> None:
    path = container.files.path(NAME)
    container.close()
    with h5py.File(path, "r+") as file:
        file[IMAGE].resize(10**15, axis=0)
        made = file.create_dataset("steps/huge", (0, 16), "f4", chunks=(64, 16), maxshape=(None, 16))
        made.attrs["replaystore"] = np.bytes_(b'{"chunks_per_shard": 1, "dimension": "step"}')
        made.resize(10**15, axis=0)
    reader = reader_of(container)
    with pytest.raises(CorruptError, match="rows"):
        reader.entry(IMAGE, 3)
    with pytest.raises(CorruptError, match="rows"):
        reader.extents("steps/huge", 0, 10**14)


def test_rows_and_chunks_that_hdf5_cannot_have_are_refused(container: Hdf5Container) -> None:
    for spec in (ArraySpec(np.dtype("f4"), (0,), 4), ArraySpec(np.dtype("f8"), (1 << 20,), 1 << 10)):
        with pytest.raises(SchemaError, match="chunks"):
            container.create_arrays({"steps/x": spec})
    assert "steps/x" not in container.specs()
