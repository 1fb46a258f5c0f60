"""Stores that a stranger made: whatever they hold, each is one error of ours, soon, in little memory, and
nothing outside is touched."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import pytest

import replaystore as rs
from replaystore.containers.protocol import ArraySpec
from replaystore.containers.zarr.metadata import CHECKSUM, document_checksum
from replaystore.errors import CorruptError, FormatError, ReplayStoreError
from replaystore.schema.spaces import space_from_json
from replaystore.testing.crafting import packed, records
from replaystore.testing.specimens import Specimen, in_children, look, make, write
from replaystore.trajectories.checks import check_parts

CORPUS = Path(__file__).with_name("data") / "hostile"
KINDS = ("live.zarr", "ring.zarr", "archive.zarr", "archive.zarr.zip", "live.h5", "archive.h5")
ACTIONS = ("append", "repair", "convert", "show")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    return make(str(tmp_path_factory.mktemp("stores")))


@pytest.fixture
def live(stores: dict[str, Specimen], tmp_path: Path) -> Path:
    shutil.copytree(stores["live.zarr"].path, tmp_path / "live.zarr")
    return tmp_path / "live.zarr"


def treated(
    store: Specimen, change: Any, *, actions: tuple[str, ...] = ACTIONS, strict: bool = True
) -> list[str]:
    """What is wrong with how a spoiled store is treated, in a child with its bounds of time and memory."""

    def attempt(_: int) -> list[str]:
        store.spoil(change)
        findings = look(store, strict=strict)
        for action in actions:
            findings += write(store, action)
            store.renew()
            store.spoil(change)
        return findings

    findings = [finding for _, finding in in_children([0], attempt)]
    store.renew()
    return findings


# --- links and what is no file


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files nobody may touch or read."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"SECRET" * 3000)
    (folder / "c").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield folder
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


FILES = (
    *(
        "zarr.json",
        "zarr.json.new",
        "steps/reward/zarr.json",
        "steps/reward/zarr.json.new",
        "steps/reward/c/0",
        "steps/reward/c/1",
    ),
    *(
        "steps/observation/camera/c/0/0/0",
        "checksums/steps/reward/c/0",
        "parts/start/c/0",
        "journal/tail/0/c/0",
        "journal/log/c/lock",
    ),
    *(
        "journal/log/c/{newest}",
        "journal/log/c/{next}",
        "journal/log/c/{next}.new",
        "journal/log/c/manifest-sha256.txt",
    ),
)
FOLDERS = (
    "steps",
    "steps/reward",
    "steps/reward/c",
    "steps/observation/camera/c/0",
    "parts",
    "journal",
    "journal/log",
    "journal/log/c",
)


@pytest.mark.parametrize("kind", ["live.zarr", "archive.zarr"])
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_no_link_in_a_store_is_followed(
    stores: dict[str, Specimen], outside: Path, kind: str, name: str
) -> None:
    store = stores[kind]
    newest = max(
        int(path.name) for path in (store.path / "journal" / "log" / "c").iterdir() if path.name.isdigit()
    )
    name = name.format(newest=newest, next=newest + 3)
    inner = outside if name in FOLDERS else outside / "precious"

    assert treated(store, {name: f"link:{inner}"}, actions=("append", "repair"), strict=False) == []


@pytest.mark.parametrize("name", ["steps/reward/c/0", "zarr.json", "steps", "journal/log/c/{newest}"])
def test_what_a_link_shows_is_not_read(live: Path, outside: Path, name: str) -> None:
    newest = max(int(path.name) for path in (live / "journal" / "log" / "c").iterdir() if path.name.isdigit())
    place = live / name.format(newest=newest)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside if name == "steps" else outside / "precious")

    with (
        pytest.raises(CorruptError, match=r"is a symbolic link; links in a store are not followed"),
        rs.open(live) as buffer,
    ):
        buffer["reward"][:]
    assert "is a symbolic link" in str(rs.verify(live).problems[0])


def test_the_store_itself_may_be_named_by_a_link(stores: dict[str, Specimen], tmp_path: Path) -> None:
    for kind in KINDS:
        link = tmp_path / f"link{kind[kind.index('.') :]}"
        link.unlink(missing_ok=True)
        link.symlink_to(stores[kind].path)
        assert rs.verify(link).problems == []
        with rs.open(link) as buffer:
            assert len(buffer)


def test_a_new_file_never_writes_into_another_of_its_name(live: Path, outside: Path) -> None:
    os.link(outside / "precious", live / "zarr.json.new")

    with rs.open(live, "r+") as buffer:
        buffer.metadata = {"x": 1}

    assert rs.verify(live).problems == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["pipe", "socket", "folder", "link:."])
def test_what_is_no_file_is_an_error_at_once(stores: dict[str, Specimen], kind: str, what: str) -> None:
    store = stores[kind]
    names = (
        [""]
        if store.path.is_file()
        else ["zarr.json", "steps/reward/c/0", "steps/reward/zarr.json", "parts/start/c/0", "steps"]
    )
    for name in names:
        assert treated(store, {name: what}, actions=("append", "repair"), strict=name != "") == []


def test_the_error_names_the_kind(live: Path) -> None:
    place = live / "steps" / "reward" / "c" / "0"
    place.unlink()
    os.mkfifo(place)
    with (
        rs.open(live) as buffer,
        pytest.raises(CorruptError, match=("is a named pipe; a store consists of files")),
    ):
        buffer["reward"][:]
    place.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))
        assert stat.S_ISSOCK(place.stat().st_mode)
        with rs.open(live) as buffer, pytest.raises(CorruptError, match="is a socket"):
            buffer["reward"][:]


# --- without end


def nested(folder: Path, depth: int) -> None:
    """Folders in each other, deeper than a path can name."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        for _ in range(depth):
            os.mkdir("a")
            (Path("a") / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
            os.chdir("a")
    finally:
        os.chdir(before)


def test_folders_in_each_other_end(stores: dict[str, Specimen]) -> None:
    store = stores["live.zarr"]

    def attempt(_: int) -> list[str]:
        return look(store, strict=True)

    nested(store.path, 400)
    findings = list(in_children([0], attempt))
    shutil.rmtree(store.path / "a")

    assert findings == []


@pytest.mark.parametrize("size", [1 << 33, 50 << 30])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_any_size_take_little_time_and_memory(
    stores: dict[str, Specimen], kind: str, size: int
) -> None:
    store = stores[kind]
    names = [
        name
        for name in store.files
        if name in ("", "zarr.json", "steps/reward/c/0", "parts/start/c/0", "steps/action/zarr.json")
    ]
    names += [name for name in store.files if re.search(r"log/c/manifest|tail/0/c/0", name)]
    names += sorted(
        (name for name in store.files if re.search(r"log/c/[0-9]+$", name)),
        key=lambda name: int(name.rpartition("/")[2]),
    )[-1:]
    for name in names:
        store.spoil({name: size})
        begin = time.monotonic()
        findings = list(in_children([0], lambda _: look(store, strict=True)))
        store.renew()
        assert (name, findings) == (name, [])
        assert time.monotonic() - begin < 10


# --- JSON


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
@pytest.mark.parametrize("name", ["zarr.json", "steps/zarr.json", "steps/reward/zarr.json"])
def test_json_nested_deep_is_one_error(stores: dict[str, Specimen], name: str, depth: int) -> None:
    text = b'{"zarr_format": 3, "node_type": "array", "attributes": ' + b"[" * depth + b"]" * depth + b"}"

    assert treated(stores["live.zarr"], {name: text}) == []


@pytest.mark.parametrize("key", ["shape", "chunk", "shard", "dtype", "codec", "level", "rows"])
@pytest.mark.parametrize(
    "value",
    [0, -1, 2**31, 10**12, 2**63, 2**70, 1.5, None, "x", [], {}, True, "object", "datetime64[s]", ["f4", 3]],
)
def test_array_metadata_are_checked(live: Path, key: str, value: Any) -> None:
    place = live / "steps" / "observation" / "camera" / "zarr.json"
    found = json.loads(place.read_text())
    inner = found["codecs"][0]["configuration"]
    match key:
        case "shape":
            found["shape"][1] = found["chunk_grid"]["configuration"]["chunk_shape"][1] = inner["chunk_shape"][
                1
            ] = value
        case "rows":
            found["shape"][0] = value
        case "chunk":
            inner["chunk_shape"][0] = value
        case "shard":
            found["chunk_grid"]["configuration"]["chunk_shape"][0] = value
        case "dtype":
            found["data_type"] = value
        case "codec":
            inner["codecs"][1]["name"] = value
        case "level":
            inner["codecs"][1]["configuration"]["level"] = value
    place.write_text(json.dumps(found))

    # Other software sees other rows than the commit has.
    if key == "rows" and type(value) is int and 0 <= value < 2**62:
        assert rs.verify(live).problems
        return
    with pytest.raises(CorruptError, match=r"camera"):
        rs.open(live)
    assert rs.verify(live).problems


def with_document(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    root = json.loads((path / "zarr.json").read_text())
    change(root["attributes"]["replaystore"])
    root["attributes"][CHECKSUM] = document_checksum(root["attributes"]["replaystore"])
    (path / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    "name", ["a" * 3000, "a/" * 70 + "a", "/".join(["x"] * 50_000), "..", "info/\0", "steps/../../x"]
)
def test_a_document_with_impossible_names_is_refused(live: Path, name: str) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["schema"]["fields"][0]["name"] = name
        document["schema"]["fields"][0]["role"] = "extra"

    with_document(live, rename)

    with pytest.raises(CorruptError):
        rs.open(live)
    assert rs.verify(live).problems


def test_many_fields_and_tuples_take_no_square_of_the_time(live: Path) -> None:
    def fill(document: dict[str, Any]) -> None:
        field = {"dtype": "uint8", "shape": [], "role": "extra", "space": None}
        document["schema"] = {
            "fields": [{"name": f"x{n}/0", **field} for n in range(20_000)],
            "tuples": [f"x{n}" for n in range(20_000)],
        }
        document["layout"]["overrides"] = {}

    with_document(live, fill)
    begin = time.monotonic()

    with pytest.raises(ReplayStoreError):
        rs.open(live)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "dtype": "float32", "shape": [10**6, 10**6], "low": 0.0, "high": 1.0},
        {"type": "Box", "dtype": "float32", "shape": [-1], "low": 0.0, "high": 1.0},
        {"type": "Box", "dtype": "float32", "shape": "33", "low": 0.0, "high": 1.0},
        {"type": "Discrete", "dtype": "int64", "n": -1, "start": 0},
        {"type": "Discrete", "dtype": "int64", "n": 10**30, "start": 0},
        {"type": "MultiBinary", "n": 10**12},
        {"type": "MultiBinary", "n": [10**6, 10**6]},
        {"type": "MultiBinary", "n": "x"},
        {"type": "MultiDiscrete", "dtype": "int64", "shape": [1] * 40, "nvec": 2, "start": 0},
        {"type": "Tuple", "spaces": 3},
    ],
)
def test_spaces_are_bounded(space: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="does not describe a Gymnasium space"):
        space_from_json(space)


# --- the log, tables, what a commit keeps


def with_record(
    path: Path, change: Callable[[dict[str, Any], list[list[Any]]], None], *, number: int = -1
) -> None:
    """Change a record of the newest segment, and make its checksum right."""
    log = path / "journal" / "log" / "c"
    place = log / str(max(int(name) for name in os.listdir(log) if name.isdigit()))
    known = records(place.read_bytes())
    change(*known[number])
    place.write_bytes(b"".join(packed(*record) for record in known))


MISSING = object()


@pytest.mark.parametrize("value", [MISSING, None, -1, 2**70, "x", [], {"steps": "x"}, {"x": [[1, 2]]}])
@pytest.mark.parametrize(
    "key",
    ["commit", "parent", "time", "lengths", "first", "extra", "partial", "tails", "entries", "attached"],
)
def test_a_record_of_the_right_checksum_and_the_wrong_content_is_one_error(
    stores: dict[str, Specimen], key: str, value: Any
) -> None:
    store = stores["live.zarr"]

    def change(meta: dict[str, Any], _: Any) -> None:
        meta.pop(key, None) if value is MISSING else meta.update({key: value})

    for number in (0, -1):
        with_record(store.path, change, number=number)
        findings = list(in_children([0], lambda _: [*look(store, strict=False), *write(store, "append")]))
        store.renew()
        assert findings == []


def test_a_record_that_lies_about_its_bytes_is_named(live: Path) -> None:
    def longer(_: Any, blobs: list[list[Any]]) -> None:
        blobs[0][1] = 10**12

    with_record(live, longer)

    with pytest.raises(
        CorruptError,
        match=(
            r"live\.zarr: the commit log has a record that no writer has "
            r"made \(1000000000000 bytes"
        ),
    ):
        rs.open(live)
    assert "no writer has made" in str(rs.verify(live).problems[0])


def test_chunks_in_files_of_others_are_refused(live: Path) -> None:
    for place in ("../../outside", "/etc/passwd", "zarr.json/../x", "steps/reward/c/0"):

        def elsewhere(meta: dict[str, Any], _: Any, place: str = place) -> None:
            meta["entries"] = {"steps/observation/camera": [[0, place, 0, 10]]}

        with_record(live, elsewhere)
        with pytest.raises(CorruptError, match="places of chunks of 'steps/observation/camera'"):
            rs.open(live)


@pytest.mark.parametrize("column", ["start", "length", "trajectory", "offset", "final"])
@pytest.mark.parametrize("value", [-(2**63), -2, 50, 10**6, 2**62, 2**63 - 1])
def test_parts_that_lead_elsewhere_are_refused(column: str, value: int) -> None:
    columns = {
        "start": [0, 10, 30],
        "length": [10, 20, 5],
        "trajectory": [0, 1, 0],
        "offset": [0, 0, 10],
        "final": [-1, 0, 1],
    }
    names = list(columns)
    check_parts([np.array(columns[name]) for name in names], rows=40, finals=2, where="x")
    columns[column][1] = value
    if (column in ("trajectory", "offset") and 0 <= value <= 2**62) or (column == "trajectory" and value > 0):
        return

    with pytest.raises(CorruptError, match=r"x: part [01] "):
        check_parts([np.array(columns[name]) for name in names], rows=40, finals=2, where="x")


def test_checking_parts_takes_some_milliseconds_for_a_million() -> None:
    count = 1_000_000
    start = np.arange(count) * 5
    columns = [start, np.full(count, 5), np.arange(count), np.zeros(count, np.int64), np.full(count, -1)]
    best = min(_seconds(lambda: check_parts(columns, rows=5 * count, finals=0, where="x")) for _ in range(5))

    assert best < 0.1


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def read_all(path: Path) -> None:
    with rs.open(path) as buffer:
        buffer.sampler(4).sample()
        buffer.trajectory(len(buffer.trajectories) - 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("open", value)
            for value in (
                None,
                3,
                [3],
                [[1]],
                [[0] * 9],
                [["x"] * 9],
                [[0, 0, 0, 99, 0, 1, 0, ["0.0"], False]],
            )
        ),
        *(
            ("open", [[0, 0, 0, 0, start, length, 0, ["0.0"], True]])
            for start, length in ((-1, 1), (0, 2**61), (2**62, 1), (0, 1))
        ),
        *(("next", value) for value in (None, -1, "x", 2**70)),
        *(("splits", value) for value in (None, [], [1], "abc", [["x"]])),
        *(("finals", value) for value in (None, -1, 1.5)),
    ],
)
def test_what_a_commit_keeps_of_trajectories_is_checked(live: Path, key: str, value: Any) -> None:
    with_record(live, lambda meta, _: meta["extra"].update({key: value}))

    with pytest.raises(CorruptError, match=r"live\.zarr"):
        read_all(live)
    assert rs.verify(live).problems


# --- HDF5 and zip


def test_groups_in_circles_and_deep_ones_end(stores: dict[str, Specimen]) -> None:
    store = stores["live.h5"]

    def circle(file: Any) -> None:
        file["steps/again"] = file["steps"]
        file["steps/root"] = file["/"]

    for change in (circle, lambda file: file.create_group("steps" + "/x" * 1000)):
        with h5py.File(store.path, "r+", libver=("v110", "v110")) as file:
            change(file)
        findings = [finding for _, finding in in_children([0], lambda _: look(store, strict=True))]
        store.renew()
        assert findings == []


def test_a_zip_with_a_huge_directory_is_refused(stores: dict[str, Specimen], tmp_path: Path) -> None:
    place = tmp_path / "a.zarr.zip"
    place.write_bytes(stores["archive.zarr.zip"].files[""])
    data = bytearray(place.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    size = 40 << 20
    place.write_bytes(
        bytes(size)
        + data[:end]
        + data[end : end + 12]
        + size.to_bytes(4, "little")
        + (0).to_bytes(4, "little")
        + b"\0\0"
    )

    with pytest.raises(CorruptError, match=r"a directory of 41943040 bytes"):
        rs.open(place)
    assert rs.verify(place).problems


def test_a_bomb_is_not_inflated(live: Path) -> None:
    from numcodecs import zstd

    place = live / "steps" / "observation" / "camera" / "c" / "0" / "0" / "0"
    bomb = zstd.compress(bytes(1 << 26), 1)
    sealed = bomb + google_crc32c.value(bomb).to_bytes(4, "little")
    data = place.read_bytes()
    place.write_bytes(data + sealed)

    def move(meta: dict[str, Any], _: Any) -> None:
        name = "steps/observation/camera"
        meta["entries"] = {name: [[0, f"{name}/c/0/0/0", len(data), len(sealed)]]}

    with_record(live, move)

    with rs.open(live) as buffer, pytest.raises(CorruptError, match="chunk 0 of steps/observation/camera"):
        buffer["observation/camera"][0]
    assert rs.verify(live).problems


# --- the corpus


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()) if CORPUS.is_dir() else [])
def test_crafted_stores_that_were_once_a_fault(tmp_path: Path, name: str) -> None:
    """Each is a zip of a store that once led to something else than one error."""
    with zipfile.ZipFile(CORPUS / name) as packed_store:
        packed_store.extractall(tmp_path)
    (path,) = tmp_path.iterdir()

    def attempt(number: int) -> list[str]:
        store = Specimen.__new__(Specimen)
        store.path, store.files, store.expected = path, {}, None
        return write(store, ACTIONS[number - 1]) if number else look(store, strict=False)

    assert list(in_children([0], attempt)) == []
    for number in range(1, 1 + len(ACTIONS)):
        assert list(in_children([number], attempt)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"dtype": ["float32"]},
        {"shape": [3.0]},
        {"shape": [True]},
        {"shape": [0]},
        {"shape": [1] * 40},
        {"shape": [1 << 40]},
        {"chunk_rows": 4.0},
        {"chunk_rows": True},
        {"chunk_rows": 0},
        {"chunks_per_shard": 1 << 40},
        {"journaled": 1},
        {"mutable": "yes"},
        {"dimension": None},
        {"dimension": "x" * 1_000_000},
        {"codec": "zstd:" + "1" * 1_000_000},
    ],
    ids=lambda change: f"{next(iter(change.items()))!r:.24}",
)
def test_an_array_that_there_cannot_be_is_refused_after_the_usual_one_was_taken(
    change: dict[str, object],
) -> None:
    usual: dict[str, object] = {"dtype": "float32", "shape": [3, 1], "chunk_rows": 4, "journaled": True}
    assert ArraySpec.from_json(usual).to_json() == usual

    with pytest.raises(CorruptError, match="describes an array that there cannot be"):
        ArraySpec.from_json(usual | change)
