"""Where values of any length lie in a buffer, what does not fit, what a column gives, and what is said of
places and texts that are damaged."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ragged_buffers import OBSERVED, SCHEMA, check_places

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.errors import ArgumentError, CorruptError, SchemaError, StorageError, UnsupportedError
from replaystore.schema import tree
from replaystore.views.blocks import rows_of_bytes


def steps(texts: list[str], ends: bool = False) -> dict[str, Any]:
    count = len(texts)
    return {
        "observation/text": texts,
        "observation/at": [np.full((len(text), 3), len(text), np.float32) for text in texts],
        "observation/plain": np.zeros((count, 2), np.int32),
        "action": [np.arange(len(text), dtype=np.int32) for text in texts],
        "reward": np.ones(count, np.float32),
        "terminated": np.arange(count) == (count - 1 if ends else -1),
        "truncated": np.zeros(count, bool),
    }


def after(text: str) -> dict[str, Any]:
    return {name: rows[0] for name, rows in steps([text]).items() if name in OBSERVED}


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_what_follows_is_written_once_if_it_is_the_next_step(tmp_path: Path, cut: int) -> None:
    texts = [f"text {number}" * (number % 5) for number in range(21)]
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        for start in range(0, 20, cut):
            part = texts[start : start + cut]
            buffer.append(steps(part), final_observation=after(texts[min(start + cut, 20)]))
            buffer.commit()
        for name, width in (("observation/text", 1), ("observation/at", 1)):
            written = sum(len(text) for text in texts) * width
            if 20 % cut:
                written += len(texts[min(start + cut, 20)]) - len(texts[20])
            assert buffer.store.rows(tree.values(name)) == written
        assert buffer["observation/text"][:20].tolist() == texts[:20]


def test_what_follows_is_written_again_if_it_lies_before_the_newest_step(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(["one"]), env=0, final_observation=after("two"))
        buffer.append(steps(["other"]), env=1, final_observation=after("more"))
        buffer.append(steps(["two"]), env=0)
        buffer.append(steps(["less"]), env=1)
        buffer.commit()
        check_places(buffer)
        assert buffer["observation/text"][:].tolist() == ["one", "other", "two", "less"]
        spans = buffer.rows("observation/text", slice(None)).tolist()
        assert spans == [[0, 3], [6, 11], [15, 18], [18, 22]]


def test_what_follows_is_known_however_much_is_appended_meanwhile(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        for env in range(3):
            buffer.append(steps(["begin"]), env=env, final_observation=after(f"said {env}"))
        for number in range(80):
            buffer.append(steps(["other"]), env=3, final_observation=after(f"next {number}"))
        buffer.append(steps(["unlike"]), env=0)
        buffer.append(steps(["said 1"]), env=1)
        buffer.commit()
        following = [buffer.trajectory(number)["observation/text"].tolist() for number in range(2)]
        assert following == [["begin", "unlike"], ["begin", "said 1"]]
        parts = buffer.parts.parts_of(0)
        assert len(parts) == 2
        assert buffer.final_values("observation/text", buffer.parts.final[parts[:1]]).tolist() == ["said 0"]
        with pytest.raises(ArgumentError):
            buffer.trajectory(0)["next_observation/text"]
    assert rs.verify(tmp_path / "a.zarr").problems == []


def test_a_value_that_differs_by_a_bit_is_not_taken_over(tmp_path: Path) -> None:
    zero, minus = np.zeros((1, 3), np.float32), -np.zeros((1, 3), np.float32)
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(["a"]), final_observation={**after("b"), "observation/at": minus})
        buffer.append({**steps(["b"]), "observation/at": [zero]}, final_observation=after("c"))
        buffer.commit()
        assert np.signbit(buffer["observation/at"][1]).tolist() == [[False] * 3]
        assert np.signbit(buffer.trajectory(0)["next_observation/at"][0]).tolist() == [[True] * 3]


def test_an_append_that_the_disk_refuses_may_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(["one"]), final_observation=after("two"))
        with monkeypatch.context() as patched:
            patched.setattr(ArrayStore, "append", lambda *_: (_ for _ in ()).throw(StorageError("full", 28)))
            with pytest.raises(StorageError):
                buffer.append(steps(["two", "three"], ends=True), final_observation=after("end"))
        buffer.append(steps(["two", "three"], ends=True), final_observation=after("end"))
        buffer.commit()
        assert buffer["observation/text"][:].tolist() == ["one", "two", "three"]
        assert buffer.trajectory(0)["next_observation/text"].tolist() == ["two", "three", "end"]
        assert buffer.store.rows("values/observation/text") == len("onetwothreeend")
    assert rs.verify(tmp_path / "a.zarr").problems == []


def test_many_trajectories_in_one_append(tmp_path: Path) -> None:
    texts = [f"{number}" * (number % 4) for number in range(200)]
    columns = steps(texts) | {"terminated": np.arange(200) % 3 == 2}
    finals = {name: [after(f"end {n}")[name] for n in range(67)] for name in OBSERVED}
    finals["observation/plain"] = np.array(finals["observation/plain"])
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(columns, final_observation=finals)
        buffer.commit()
        assert buffer.num_trajectories == 67
        for number in (0, 30, 66):
            found = buffer.trajectory(number)
            wanted = [*texts[3 * number + 1 : 3 * number + 3], f"end {number}"][-len(found) :]
            assert found["next_observation/text"].tolist() == wanted
    assert rs.verify(tmp_path / "a.zarr").problems == []


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "bytes": ({"observation/text": [b"a"]}, "decode them"),
    "a surrogate": ({"observation/text": ["\ud800"]}, "observation/text.*value 0"),
    "a text": ({"observation/text": "a"}, "a single one is"),
    "floats": ({"action": [[1.5]]}, "action.*value 0"),
    "two values": ({"action": [[1], [2]]}, "rows"),
    "another shape": ({"observation/at": [np.zeros((2, 2), np.float32)]}, "observation/at"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_and_nothing_is_appended(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        with pytest.raises(SchemaError, match=said) as caught:
            buffer.append(steps(["a"]) | given)
        assert "\n" not in str(caught.value)
        buffer.append(steps(["b"]))
        buffer.commit()
        assert buffer["observation/text"][:].tolist() == ["b"]


def test_a_column(tmp_path: Path) -> None:
    texts = ["a", "", "bcd", "é"]
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(texts))
        buffer.commit()
        column = buffer["observation/text"]
        assert (len(column), column.shape, column.text, column.inner) == (4, (4,), True, ())
        assert [*column] == texts
        assert (column[2], column[-1], column[np.int64(0)]) == ("bcd", "é", "a")
        assert column[[3, 0, 3]].tolist() == ["é", "a", "é"]
        assert column[np.array([True, False, True, False])].tolist() == ["a", "bcd"]
        assert column[::-2].tolist() == ["é", ""]
        assert np.asarray(column.lengths).tolist() == [*column.lengths] == [1, 0, 3, 2]
        assert column.lengths[2] == 3
        again = pickle.loads(pickle.dumps(column))
        assert again[:] == column[:]
        with pytest.raises(TypeError, match="to_padded"):
            np.asarray(column)
        with pytest.raises(IndexError):
            column[4]
        with pytest.raises(ArgumentError, match="by steps alone"):
            column[0, 1]
        assert buffer["action"][2].tolist() == [0, 1, 2]
        assert [*rows_of_bytes(buffer, ["action", "reward"], 52)] == [(0, 2), (2, 3), (3, 4)]
        assert [*rows_of_bytes(buffer, ["action"], 1 << 20)] == [(0, 4)]


def test_no_value_is_set_again_and_what_is_advised_works(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(["a", "bcd"]))
        buffer.commit()
        with pytest.raises(UnsupportedError, match="'action' is of any length, and is not set again: add"):
            buffer["action"][1] = [1, 2]
        with pytest.raises(UnsupportedError, match="'observation/text' is of any length"):
            buffer.set_values("observation/text", [0], ["x"])
        later = [np.ones(3, np.float32), np.ones(0, np.float32)]
        buffer.add_field("later", rs.Field("float32", (None,), "extra"), values=later)
        buffer.commit()
        assert buffer["later"].lengths[:].tolist() == [3, 0]
        assert buffer["action"].lengths[:].tolist() == [1, 3]


# --- damage


@pytest.mark.parametrize(
    ("row", "span"),
    [
        (1, (0, 1 << 62)),
        (1, (-8, 4)),
        (1, (5, 2)),
        (1, (1 << 62, (1 << 62) + 3)),
        (2, (0, 1)),
        (2, (8, 11)),
        (2, (8, 1 << 62)),
        (1, (-(1 << 63), (1 << 63) - 1)),
    ],
)
def test_places_that_cannot_be_are_told_and_nothing_is_read_there(
    tmp_path: Path, row: int, span: tuple[int, int]
) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, SCHEMA) as buffer:
        buffer.append(steps(["abc", "defgh", "ij"]))
    file = next(path for path in (place / "steps" / "action").iterdir() if path.name != "zarr.json")
    with open(file, "r+b") as shard:
        shard.seek(4096 + 16 * row)
        shard.write(np.array(span, "<i8").tobytes())

    found = rs.verify(place).problems
    assert any(problem.where == "steps/action" and "values" in problem.what for problem in found)
    with rs.open(place) as buffer:
        if row == 1:
            for read in (
                lambda: buffer["action"][1],
                lambda: buffer.read(slice(None)),
                lambda: buffer["action"][::2] and buffer["action"][[1, 1]],
            ):
                with pytest.raises(CorruptError, match="action has steps with"):
                    read()
        assert buffer["action"][0].tolist() == [0, 1, 2]
        assert buffer["observation/text"][:].tolist() == ["abc", "defgh", "ij"]


def test_a_text_that_is_damaged_is_told(tmp_path: Path) -> None:
    place = tmp_path / "a.zarr"
    with rs.create(place, SCHEMA) as buffer:
        buffer.append(steps(["abc", "défgh", "ij"]))
    file = next(p for p in (place / "values" / "observation" / "text").iterdir() if p.name != "zarr.json")
    with open(file, "r+b") as shard:
        shard.seek(4096 + 4)
        shard.write(b"\xff")
    assert any("the text of step 1 is not UTF-8" in found.what for found in rs.verify(place).problems)
    with rs.open(place) as buffer:
        assert buffer["observation/text"][0] == "abc"
        with pytest.raises(CorruptError, match="UTF-8"):
            buffer["observation/text"][1]
