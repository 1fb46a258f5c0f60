"""The rules of versions, each of them, in both containers: what a store of a newer minor version keeps is
left where it is, what cannot be shown is hidden, and a newer major version is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from newer_stores import FOREIGN, MORE, NOTES, TOMORROW, change_document, strange_document, with_strange_rows

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.record_checks import check_record
from replaystore.errors import FormatVersionError, UnsupportedError
from replaystore.testing import samples
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny

pytest_plugins = ["commands"]


def recorded(place: Path, rows: int = 30) -> rs.Buffer:
    """A small store of every kind of field, open for writing."""
    schema = samples.small(ragged=True)
    with tiny():
        buffer = rs.create(place, schema, storage=samples.storage("gzip:1", ragged=True))
        buffer.append(samples.columns(schema, rows, 3))
        buffer.commit()
    return buffer


def append(buffer: rs.Buffer, seed: int) -> int:
    with tiny():
        buffer.append(samples.columns(buffer.schema, 7, seed))
        return buffer.commit()


def notes(buffer: Any) -> tuple[list[Any], list[Any]]:
    """The rows of the arrays that nobody knows of."""
    store = buffer.store
    assert store.rows("notes/mark") == NOTES
    return store.column("notes/mark").read(0, NOTES).tolist(), store.table("notes/a%2Eb/sum").tolist()


@pytest.fixture(params=[".zarr", ".h5"])
def strange(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store with everything that nobody knows of."""
    place = tmp_path / f"a{request.param}"
    buffer = recorded(place)
    with tiny():
        buffer.append(samples.columns(buffer.schema, 5, 4))
        with_strange_rows(buffer, buffer.commit)
        append(buffer, 5)
        change_document(buffer, strange_document)
    return place


def test_a_newer_minor_version_is_read_written_and_kept(strange: Path) -> None:
    with rs.open(strange) as buffer:
        before, kept, document = Contents.of(buffer), notes(buffer), buffer.document.to_json()
        assert buffer.store.state.more == MORE
    assert kept[1] == [row / 4 for row in range(NOTES)]
    assert rs.verify(strange).problems == []
    with rs.open(strange, "r+") as buffer:
        assert Contents.of(buffer).difference(before) == ""
        for seed in range(4):  # segments of the log begin anew
            append(buffer, seed)
        buffer.metadata = {"by": "an older version"}
        buffer.add_field("info/late", rs.Field("float32", (), "info"), fill=0)
        commit = append(buffer, 9)
        append(buffer, 10)
        buffer.rollback(commit)
        assert isinstance(buffer.store, ArrayStore)
        buffer.store.begin_segment()
    assert rs.verify(strange).problems == []
    with rs.open(strange) as buffer:
        found = buffer.document.to_json()
        assert (notes(buffer), buffer.store.state.more) == (kept, MORE)
        assert len(buffer) == before.steps + 5 * 7
    assert found["schema"]["fields"].pop()["name"] == "info/late"
    assert found == {**document, "user": {"by": "an older version"}}
    assert found["format_version"] == "1.7"
    sections = (found, found["schema"]["fields"][0], found["layout"]["overrides"]["info/wide"])
    for section in sections:
        assert (FOREIGN | TOMORROW).items() <= section.items()


def test_damage_in_what_nobody_knows_of_is_seen(strange: Path) -> None:
    name = "notes/mark/c.0.0" if strange.suffix == ".zarr" else ""
    file, row = strange / name if name else strange, np.arange(1, 513, dtype="<i4").tobytes()
    data = bytearray(file.read_bytes())
    data[data.index(row) + 7] ^= 1
    file.write_bytes(data)
    problems = rs.verify(strange).problems
    assert [problem.where for problem in problems] == ["notes/mark, chunk 0"], problems


def test_who_goes_back_behind_what_nobody_knows_of_has_none_of_it(strange: Path) -> None:
    with rs.open(strange, "r+") as buffer:
        with_notes = buffer.commit_id
        buffer.rollback(1)
        assert "notes/mark" not in buffer.store.state.arrays
        append(buffer, 1)
    assert rs.verify(strange).problems == []
    assert with_notes > 1


def test_a_conversion_says_what_it_does_not_take_and_keeps_what_other_software_has(
    strange: Path, tmp_path: Path
) -> None:
    """Its document is of this version: a newer one's keys mean what nobody here knows."""
    for target in (tmp_path / "b.zarr", tmp_path / "c.h5", tmp_path / "d.zarr.zip"):
        report = rs.convert(strange, target)
        assert [text for text in report.remarks if "notes/a%2Eb/sum, notes/mark" in text], report.remarks
        with rs.open(strange) as source, rs.open(target) as buffer:
            assert Contents.of(buffer).difference(Contents.of(source)) == ""
            assert "notes/mark" not in buffer.store.state.arrays
            found = buffer.document.to_json()
            assert buffer.store.state.more == MORE
        assert found["format_version"] == "1.0"
        assert FOREIGN.items() <= found.items()
        assert FOREIGN.items() <= found["layout"]["overrides"]["info/wide"].items()
        found["provenance"]["source"] = None  # which says what all earlier stores said
        assert "tomorrow" not in str(found)
        assert rs.verify(target).problems == []


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_newer_major_version_is_refused_in_words(suffix: str, tmp_path: Path) -> None:
    place = tmp_path / f"a{suffix}"
    change_document(recorded(place), lambda content: {**content, "format_version": "2.0", "schema": "other"})
    before = {file: file.read_bytes() for file in [place, *place.rglob("*")] if file.is_file()}
    for attempt in (
        lambda: rs.open(place),
        lambda: rs.open(place, "r+"),
        lambda: rs.convert(place, tmp_path / "b.zarr"),
        lambda: rs.verify(place),
        lambda: rs.repair(place),
    ):
        with pytest.raises(FormatVersionError, match=r"version 2\.0.*up to 1\.x: upgrade replaystore"):
            attempt()
    assert not (tmp_path / "b.zarr").exists()
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_what_a_writer_has_to_know_is_said_and_readers_need_not(suffix: str, tmp_path: Path) -> None:
    place = tmp_path / f"a{suffix}"
    with recorded(place) as buffer:
        before = Contents.of(buffer)
    change_document(rs.open(place, "r+"), lambda content: content | {"needs": ["an-index"]})
    with pytest.raises(
        UnsupportedError, match=r"it needs 'an-index'.*upgrade it to write, or open .* reading$"
    ):
        rs.open(place, "r+")
    with rs.open(place) as buffer:
        assert Contents.of(buffer).difference(before) == ""
        assert buffer.document.to_json()["needs"] == ["an-index"]
    assert rs.verify(place).problems == []
    rs.convert(place, tmp_path / "b.zarr")
    with rs.open(tmp_path / "b.zarr", "r+") as buffer:  # a store of this version, which needs nothing
        assert "needs" not in buffer.document.to_json()


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_field_that_needs_an_unknown_word_is_hidden_and_not_lost(
    suffix: str, tmp_path: Path, run: Run
) -> None:
    place = tmp_path / f"a{suffix}"
    with recorded(place) as buffer:
        before = Contents.of(buffer)

    def change(content: dict[str, Any]) -> dict[str, Any]:
        for field in content["schema"]["fields"]:
            if field["name"] == "info/points":
                field |= {"needs": ["any-length-twice"], "shape": [None, None], "dtype": "of-tomorrow"}
        return content | {"format_version": "1.1"}

    change_document(rs.open(place, "r+"), change)
    with rs.open(place) as buffer:
        assert set(before.columns) - set(buffer.schema.fields) == {"info/points"}
        assert buffer.describe().hidden == {"info/points": "any-length-twice"}
        shown = Contents.of(buffer)
        kept = Contents(
            {name: before.columns[name] for name in shown.columns}, before.table, [], before.following
        )
        assert Contents(shown.columns, shown.table, [], shown.following).difference(kept) == ""
    assert rs.verify(place).problems == []
    assert "info/points (needs 'any-length-twice'" in run("info", place)[1]
    with pytest.raises(UnsupportedError, match=r"field 'info/points' needs 'any-length-twice'.*without this"):
        rs.open(place, "r+")
    with pytest.raises(UnsupportedError, match=r"'info/points' needs 'any-length-twice'.*name the fields"):
        rs.convert(place, tmp_path / "b.zarr")
    report = rs.convert(place, tmp_path / "b.zarr", fields=list(buffer.schema.fields))
    assert report.fields["info/points"].kind == "lost"
    assert "fields left out (it needs 'any-length-twice', which this replaystore does not know)" in str(
        report.notes
    )
    foreign = rs.convert(place, tmp_path / "b.pkl", fields=["observation", "action", "reward"])
    assert foreign.fields["info/points"] == report.fields["info/points"]
    assert rs.verify(tmp_path / "b.zarr").problems == []


def test_a_later_record_is_read_whatever_keys_it_has_and_more_needs_a_dot_or_a_colon() -> None:
    meta = {
        "commit": 1,
        "parent": 0,
        "time": 0.0,
        "lengths": {"steps": 1},
        "extra": {},
        "partial": {},
        "attached": {},
        "tomorrow": [{"x": None}],
    }
    check_record(meta | {"more": {"a.b": None, "a:b": [1]}}, {})
    with pytest.raises(ValueError, match="further settings"):
        check_record(meta | {"more": {"ab": 1}}, {})
    with pytest.raises(
        ValueError, match="no known kind"
    ):  # whoever has other kinds is of another major version
        check_record(meta, {"tomorrow:x": b""})
