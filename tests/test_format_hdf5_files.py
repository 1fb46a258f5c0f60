"""HDF5 files of other software: what is read is what h5py says, and nothing else is read, nor believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from replaystore import errors
from replaystore.formats.shared.hdf5.groups import Group, opened_hdf5
from replaystore.formats.shared.hdf5.writing import new_hdf5
from replaystore.formats.shared.new_files import NewFiles

STORED: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunked": {"chunks": (10, 7)},
    "deflated": {"compression": "gzip", "chunks": (130, 3)},
    "shuffled": {"compression": "gzip", "shuffle": True, "chunks": (77, 7)},
    "with checksums": {"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (64, 2)},
    "with checksums alone": {"fletcher32": True, "chunks": (64, 2)},
    "lzf": {"compression": "lzf"},
}
DTYPES = ["<f8", ">f4", "<i4", ">u2", "?", "<f2", "<c8", "u1"]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("userblock", [0, 512])
def test_numbers_are_what_h5py_reads(tmp_path: Path, stored: str, userblock: int) -> None:
    """In slices that begin and end anywhere, of any dtype."""
    given = np.random.default_rng(0).normal(size=(700, 7)) * 3
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=userblock) as file:
        for dtype in DTYPES:
            file.create_dataset(dtype, data=given.astype(dtype), **STORED[stored])
    with h5py.File(tmp_path / "a.h5") as file, opened_hdf5(str(tmp_path / "a.h5")) as root:
        assert list(root) == sorted(DTYPES)
        for dtype in DTYPES:
            rows = root.dataset(dtype)
            assert (rows.kind, rows.shape, rows.dtype) == (
                "numbers",
                (700, 7),
                given.astype(dtype).dtype.newbyteorder("<"),
            )
            for start, stop in ((0, 700), (3, 5), (100, 400), (0, 0), (699, 700), (60, 900)):
                assert np.array_equal(rows.read(start, stop), file[dtype][start:stop])
            assert np.array_equal(np.concatenate(list(rows.blocks(1000))), file[dtype][:])


def test_texts_arrays_single_values_and_attributes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["texts"] = np.array(["a", "bb", "", "é"], object)
        file["fixed"] = np.array([b"ab", b"c"])
        file["one text"], file["one number"] = "2.1", np.int64(7)
        ragged = np.empty(2, object)
        ragged[:] = [np.arange(3), np.arange(5)]
        file.create_dataset("arrays", data=ragged, dtype=h5py.vlen_dtype("i8"))
        file.create_dataset(
            "packed", data=ragged, dtype=h5py.vlen_dtype("f4"), chunks=(2,), compression="gzip"
        )
        items = file.create_dataset("items", (4,), np.dtype("(2,3)f4"))
        items[...] = np.arange(24).reshape(4, 2, 3)
        file.attrs.update(
            {"a": 1, "b": "x", "c": np.arange(3), "d": True, "e": h5py.Empty("f4"), "f": ["x", "y"]}
        )
    with opened_hdf5(str(tmp_path / "a.h5")) as root:
        assert root.dataset("texts").texts() == ["a", "bb", "", "é"]
        assert root.dataset("texts").lengths(1).tolist() == [2, 0, 2]
        assert root.dataset("fixed").texts(1) == ["c"]
        assert root.dataset("one text").texts() == ["2.1"]
        assert root.dataset("one number").read() == 7
        for name in ("arrays", "packed"):
            assert [one.tolist() for one in root.dataset(name).arrays()] == [[0, 1, 2], [0, 1, 2, 3, 4]]
        assert root.dataset("items").read(1, 3).tolist() == np.arange(6, 18).reshape(2, 2, 3).tolist()
        found = root.attributes
        assert (found["a"], found["b"], found["c"].tolist(), found["d"]) == (1, "x", [0, 1, 2], True)
        assert (found["e"], found["f"].tolist()) == (None, ["x", "y"])
        for name in ("texts", "arrays"):
            with pytest.raises(errors.FormatError, match="where there should be numbers"):
                root.dataset(name).read()


def test_groups_are_walked_and_named_in_errors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x/y/z"] = np.arange(3)
        file["link"] = h5py.SoftLink("/x/y")
        file["dangling"] = h5py.SoftLink("/nowhere")
    with opened_hdf5(str(tmp_path / "a.h5")) as root:
        assert [name for name, _ in root.walk()] == ["link/z", "x/y/z"]
        assert root.dataset("link/z").read().tolist() == [0, 1, 2]
        assert root.get("dangling") is None
        assert root.get("x/y/z/more") is None
        assert "x/y" in root
        assert "x/q" not in root
        with pytest.raises(errors.FormatError, match=r"a\.h5, 'x': there is no dataset 'y': that is a group"):
            root.group("x").dataset("y")


def _external(file: h5py.File) -> None:
    file["a"] = h5py.ExternalLink("other.h5", "/a")


def _to_external(file: h5py.File) -> None:
    _external(file)
    file["b"] = h5py.SoftLink("/a")
    file.move("b", "0")


def _outside(file: h5py.File) -> None:
    file.create_dataset("a", (4,), "f4", external=[("outside.bin", 0, 16)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", (4,))
    file.create_virtual_dataset("a", layout)


def _endless(file: h5py.File) -> None:
    file.create_dataset("a", (10**15, 3), "f4", chunks=(1000, 3))


def _never_written(file: h5py.File) -> None:
    file.create_dataset("a", (10**12,), "f4")


def _wide(file: h5py.File) -> None:
    file.create_dataset("a", (1, 1 << 29), "u1", chunks=(1, 1 << 20), compression="gzip")
    file["a"][0, :: 1 << 20] = 1


def _loop(file: h5py.File) -> None:
    for name in "abc":
        file[name] = file["/"]


def _links_in_circles(file: h5py.File) -> None:
    file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")


def _bool(file: h5py.File) -> None:
    file["a"] = np.ones(4, bool)
    file["a"].id.write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.full(4, 7, np.int8), h5py.h5t.py_create(np.dtype(bool), logical=True)
    )


def _foreign_filter(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
    h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), plist)


def _bomb(file: h5py.File) -> None:
    """A chunk of 64 bytes that would become a megabyte."""
    import zlib

    made = file.create_dataset("a", (16,), "f4", chunks=(16,), compression="gzip")
    made.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 20)))


HOSTILE = [_external, _to_external, _outside, _virtual, _endless, _never_written, _wide, _loop]
HOSTILE += [_links_in_circles, _bool, _foreign_filter, _bomb]


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
def test_what_leads_out_of_a_file_or_cannot_be_is_one_clear_error(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        make(file)
    (tmp_path / "outside.bin").write_bytes(bytes(16))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = np.ones(4, np.float32)

    def read(group: Group) -> None:
        for _, rows in group.walk():
            rows.read()

    with opened_hdf5(str(path)) as root, pytest.raises(errors.ReplayStoreError, match=r"a\.h5"):
        read(root)


def test_what_is_no_file_of_hdf5_or_cut_short_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "abc":
            file[f"group/{name}"] = np.random.default_rng(0).normal(size=(50, 3))
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    for number in range(150):
        data = bytearray(whole)
        at = int(generator.integers(len(data)))
        if number % 2:
            del data[at:]
        else:
            data[at : at + 4] = generator.integers(0, 256, len(data[at : at + 4]), np.uint8).tobytes()
        path.write_bytes(data)
        try:
            with opened_hdf5(str(path)) as root:
                for _, rows in root.walk():
                    if rows.kind == "numbers":
                        rows.read()
        except errors.ReplayStoreError:
            pass
    path.write_bytes(b"something else")
    with pytest.raises(errors.FormatError, match="no HDF5 file"), opened_hdf5(str(path)):
        pass
    with pytest.raises(errors.NotFoundError), opened_hdf5(str(tmp_path / "nothing")):
        pass


def test_heaps_whose_pieces_take_no_bytes_end(tmp_path: Path) -> None:
    """In which the library would go round for ever."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["text"] = "something"
        file["texts"] = np.array(["a", "bb"], object)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL")
    at, size = heap + 16, int.from_bytes(data[heap + 8 : heap + 16], "little")
    while int.from_bytes(data[at : at + 2], "little"):
        at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
    assert at < heap + size
    data[at + 8 : at + 16] = bytes(8)
    path.write_bytes(data)

    with opened_hdf5(str(path)) as root:
        with pytest.raises(errors.CorruptError, match="heap"):
            root.dataset("texts").texts()
        with pytest.raises(errors.CorruptError, match="heap"):
            _ = root.attributes


def test_a_file_that_is_being_written_is_told(tmp_path: Path) -> None:
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
        with pytest.raises(errors.StorageError, match="being written"), opened_hdf5(path):
            pass


def test_a_new_file_is_what_h5py_reads(tmp_path: Path) -> None:
    path, given = str(tmp_path / "a.h5"), np.random.default_rng(0).normal(size=(30_000, 3)).astype("<f4")
    for _ in range(2):
        with NewFiles([path], overwrite=True) as new, new_hdf5(new.files[0]) as root:
            demo = root.group("data/demo_0")
            demo.attribute("total", 7)
            demo.attribute("long", "x" * 100_000)
            demo.values("one", np.array(True))
            demo.values("some", given[:5], unit="m")
            root.texts("texts", ["a", "é", ""])
            root.text("version", "2.1")
            root.arrays("arrays", [np.arange(3, dtype="<i8"), np.zeros(0, "<i8")], np.dtype("<i8"))
            kinds: list[tuple[str, int | None, bool]] = [
                ("a", 30_000, False),
                ("b", 30_000, True),
                ("c/d", None, False),
            ]
            for name, count, compressed in [*kinds, ("e", None, True)]:
                rows = root.rows(name, given.dtype, (3,), count, compressed=compressed)
                for start in range(0, 30_000, 7001):
                    rows.append(given[start : start + 7001])
            root.rows("none", given.dtype, (3,), 0, compressed=True)
    before = Path(path).read_bytes()
    with h5py.File(path) as file:
        for name in ("a", "b", "c/d", "e"):
            assert np.array_equal(file[name][:], given), name
        assert file["none"].shape == (0, 3)
        assert file["data/demo_0"].attrs["total"] == 7
        assert file["data/demo_0"].attrs["long"] == "x" * 100_000
        assert file["data/demo_0/one"][()] is np.True_
        assert file["data/demo_0/some"].attrs["unit"] == "m"
        assert file["texts"].asstr()[:].tolist() == ["a", "é", ""]
        assert file["version"].asstr()[()] == "2.1"
        assert [one.tolist() for one in file["arrays"]] == [[0, 1, 2], []]
    with opened_hdf5(path) as root:
        assert np.array_equal(root.dataset("e").read(29_000), given[29_000:])
        assert [one.tolist() for one in root.dataset("arrays").arrays()] == [[0, 1, 2], []]
    assert Path(path).read_bytes() == before


def test_a_new_file_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with NewFiles([str(tmp_path / "a.h5")], overwrite=False) as new, new_hdf5(new.files[0]) as root:
            root.rows("a", np.dtype("<f4"), (), 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []
