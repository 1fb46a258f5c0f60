"""Records of the log, parts and tables that lie, and crafted stores that were once a fault."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_stores import KINDS, MISSING, _seconds, read_all, treated, with_record

import replaystore as rs
from replaystore.arrays.differences import NO_NUMBERS, difference, summed
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import CorruptError
from replaystore.schema import tree
from replaystore.testing.crafting import content, finished, members, newest_segment, with_cell
from replaystore.testing.crafting_hdf5 import log_of, with_log
from replaystore.testing.crafting_log import packed, records
from replaystore.testing.specimens import Specimen, in_children, look, write
from replaystore.trajectories.checks import check_parts
from replaystore.trajectories.columns import PARTS

pytest_plugins = ["hostile_stores"]

Change = Callable[[dict[str, Any], list[list[Any]]], None]
"""Of a record: its JSON, and its blobs."""


# --- the log, tables, what a commit keeps


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
    for place in ("../../outside", "/etc/passwd", "zarr.json/../x", "steps/reward/c.0"):

        def elsewhere(meta: dict[str, Any], _: Any, place: str = place) -> None:
            meta["entries"] = {"steps/observation/camera": [[0, place, 0, 10]]}

        with_record(live, elsewhere)
        with pytest.raises(CorruptError, match="places of chunks of 'steps/observation/camera'"):
            rs.open(live)


@pytest.mark.parametrize("column", ["start", "length", "stride", "trajectory", "offset", "final"])
@pytest.mark.parametrize("value", [-(2**63), -2, 50, 10**6, 2**62, 2**63 - 1])
def test_parts_that_lead_elsewhere_are_refused(column: str, value: int) -> None:
    columns = {
        "start": [0, 10, 30],
        "length": [10, 20, 5],
        "stride": [1, 1, 1],
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
    ones = np.ones(count, np.int64)
    columns = [
        start,
        np.full(count, 5),
        ones,
        np.arange(count),
        np.zeros(count, np.int64),
        np.full(count, -1),
    ]
    best = min(_seconds(lambda: check_parts(columns, rows=5 * count, finals=0, where="x")) for _ in range(5))

    assert best < 0.1


@pytest.mark.parametrize(
    ("key", "value"),
    [
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


@pytest.mark.parametrize(
    ("row", "value"),
    [(0, -1), (1, 1 << 62), (3, 99), (4, -1), (4, 2**62), (5, 2**61), (6, 0), (7, -1), (8, 8)],
)
def test_what_a_commit_keeps_of_open_trajectories_is_checked(live: Path, row: int, value: int) -> None:
    def change(_: Any, blobs: list[list[Any]]) -> None:
        (kept,) = (blob for blob in blobs if blob[0] == "int:open")
        numbers = summed(kept[2], NO_NUMBERS)
        assert numbers.size
        numbers[row, 0] = value
        data = difference(numbers, NO_NUMBERS)
        kept[1:] = len(data), data

    with_record(live, change, number=0)

    with pytest.raises(CorruptError, match=r"live\.zarr"):
        read_all(live)
    assert rs.verify(live).problems


# --- what was once told as something else than one error


def without(blob: str) -> Change:
    def change(_: dict[str, Any], blobs: list[list[Any]]) -> None:
        assert blob in [name for name, *_ in blobs]
        blobs[:] = [found for found in blobs if found[0] != blob]

    return change


def twice(blob: str) -> Change:
    def change(_: dict[str, Any], blobs: list[list[Any]]) -> None:
        (found,) = [found for found in blobs if found[0] == blob]
        found[1:] = [2 * found[1], 2 * found[2]]

    return change


def cut(blob: str, length: int) -> Change:
    def change(_: dict[str, Any], blobs: list[list[Any]]) -> None:
        (found,) = [found for found in blobs if found[0] == blob]
        found[1:] = [length, found[2][:length]]

    return change


RECORDS: dict[str, Change] = {
    "without an attachment": without("keep:observation/camera"),
    "without its open trajectories": without("int:open"),
    "without rows that may change": without("mutable:trajectories/score"),
    "with too many rows that may change": twice("mutable:trajectories/score"),
    "with too much of an attachment": twice("keep:observation/camera"),
    **{f"with {length} bytes of open trajectories": cut("int:open", length) for length in (0, 2, 6, 7, 9)},
}


@pytest.mark.parametrize("what", RECORDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_record_that_lacks_something_is_one_error(
    stores: dict[str, Specimen], kind: str, what: str
) -> None:
    store = stores[kind]
    if kind.endswith(".h5"):
        log = log_of(store)
    else:
        segment = newest_segment(store)
        log = content(store)[segment]
    known = records(log)
    RECORDS[what](*known[0])
    data = b"".join(packed(*record) for record in known)
    change = with_log(store, data) if kind.endswith(".h5") else finished(store, {segment: data})

    assert treated(store, change, strict=False) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith(".h5") and "ring" not in kind])
@pytest.mark.parametrize("trajectory", [-1, 4, 10**6, 2**62])
def test_a_part_of_no_trajectory_is_one_error(
    stores: dict[str, Specimen], kind: str, trajectory: int
) -> None:
    store = stores[kind]

    change = finished(store, with_cell(store, tree.PARTS, len(PARTS) + PARTS.index("trajectory"), trajectory))

    assert treated(store, change, strict=False) == []


def zipped(store: Specimen, how: str) -> bytes:
    made, found = io.BytesIO(), members(store)
    method = zipfile.ZIP_DEFLATED if how in ("compressed", "a bomb") else zipfile.ZIP_STORED
    with zipfile.ZipFile(made, "w", method) as file:
        for name, data in found.items() if how != "empty" else ():
            if how != "metadata alone" or name == "zarr.json":
                file.writestr(name, data * 4000 if how == "a bomb" and name == "zarr.json" else data)
    return made.getvalue()


@pytest.mark.parametrize("how", ["compressed", "empty", "metadata alone", "a bomb"])
def test_a_zip_of_other_members_is_one_error_or_what_it_was(stores: dict[str, Specimen], how: str) -> None:
    store = stores["archive.zarr.zip"]

    assert treated(store, {"": zipped(store, how)}, strict=False) == []


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
