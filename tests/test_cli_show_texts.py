"""`replaystore show` of texts and of other values of any length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run

import replaystore as rs
from replaystore.cli import show
from replaystore.columns.values import Values
from replaystore.errors import CorruptError

pytest_plugins = ["commands", "ragged_kinds"]


def test_texts_are_shown_as_texts_that_harm_no_terminal(
    tmp_path: Path, run: Run, facts: Callable[..., Any]
) -> None:
    texts = ["é語", "", "a\x1b[31m\x9b\n\u202eb", "x" * 61, "end"]
    tokens = [np.arange(length, dtype=np.int32) for length in (0, 1, 4, 9)]
    schema = rs.Schema(
        {"observation": rs.Field.of_text("observation"), "tokens": rs.Field("int32", (None,), "extra")}
    )
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        columns = {"observation": texts[:4], "tokens": tokens}
        buffer.append(columns, final_observation="end\x07")

    _, text, _ = run("show", tmp_path / "a.zarr", "--trajectory", "0")

    assert "'é語'" in text
    assert r"'a\x1b[31m\x9b\n\u202eb'" in text
    assert "'" + "x" * 59 + "…' of 61" in text
    assert r"'end\x07'" in text
    assert "[0 1 2 … 8] of 9" in text
    assert all(line.isprintable() for line in text.split("\n"))
    found = facts("show", tmp_path / "a.zarr", "--trajectory", "0")
    assert [step["observation"] for step in found["steps"]] == texts[:4]
    assert [step["tokens"] for step in found["steps"]] == [values.tolist() for values in tokens]
    assert found["final_observation"] == {"observation": "end\x07"}


def test_steps_of_every_kind_of_store_are_shown(
    ragged_store: str, run: Run, facts: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with rs.open(ragged_store) as buffer:
        expected = [
            {name: tolist(values[at]) for name, values in buffer.read(slice(None)).items()}
            for at in range(len(buffer))
        ]
    for most in (show.BLOCK_BYTES, 500):
        monkeypatch.setattr(show, "BLOCK_BYTES", most)
        found = facts("show", ragged_store, "--rows", ":")["steps"]
        shown = [{name: step[name] for name in expected[0]} for step in found]
        assert shown == expected
    code, out, err = run("show", ragged_store, "--rows", ":")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == ["row", *map(str, range(len(expected)))]
    assert " 700x2x3 " in out


def tolist(value: Any) -> Any:
    """As JSON has it: complex numbers as pairs."""
    if not isinstance(value, np.ndarray | np.generic):
        return value
    return np.stack([value.real, value.imag], -1).tolist() if value.dtype.kind == "c" else value.tolist()


def test_values_are_read_a_few_bytes_at_a_time(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many steps that lie apart, few of which are long."""
    sizes, take = list[int](), Values.take

    def taking(values: Values, spans: Any, **options: Any) -> Any:
        sizes.append(int((spans[:, 1] - spans[:, 0]).sum()) * values.column.row_bytes)
        return take(values, spans, **options)

    schema = rs.Schema(
        {"action": rs.Field("int16", (None,), "action"), "reward": rs.Field("f4", (), "reward")}
    )
    lengths = [3000 if number % 10 == 2 else number % 7 for number in range(400)]
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        values = {"action": [np.zeros(n, np.int16) for n in lengths], "reward": np.zeros(400, np.float32)}
        buffer.append(values, ends=range(1, 400, 2))
    monkeypatch.setattr(Values, "take", taking)
    monkeypatch.setattr(show, "BLOCK_BYTES", 8000)
    for asked in (["--rows", ":"], ["--rows", ":", "--where", "trajectory >= 50"], ["--trajectory", "1"]):
        code, out, err = run("show", tmp_path / "a.zarr", *asked)
        assert (code, err) == (0, "")
        assert out.count("trajectory_index") == 1
        assert "[0 0 0 … 0] of 3,000" in out
    assert max(sizes) <= 8000
    assert sum(sizes) > 50 * 8000


def test_columns_are_aligned_whatever_the_texts_are_made_of(tmp_path: Path, run: Run) -> None:
    """Some characters take two columns of a terminal, some none."""
    schema = rs.Schema({"info": rs.Field.of_text("info"), "reward": rs.Field("f4", (), "reward")})
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append(
            {"info": ["abcd", "語é", "e\u0301e", "ﾊ語"], "reward": np.arange(1, 5, dtype=np.float32)}
        )
    lines = run("show", tmp_path / "a.zarr", "--fields", "info,reward")[1].splitlines()
    shown = [line[line.index("'") :] for line in lines[1:5]]
    assert shown == ["'abcd'       1", "'語é'        2", "'e\u0301e'         3", "'ﾊ語'        4"]


def test_small_arrays_show_their_shape_and_complex_numbers_few_digits(tmp_path: Path, run: Run) -> None:
    fields = {
        "info/points": rs.Field("float32", (None, 3), "info"),
        "info/pair": rs.Field("int8", (2, 2), "info"),
        "info/wave": rs.Field("complex128", (), "info"),
    }
    with rs.create(tmp_path / "a.zarr", rs.Schema(fields)) as buffer:
        points = [np.ones((1, 3), np.float32), np.zeros((0, 3), np.float32), np.ones((2, 3), np.float32)]
        waves = np.array([1 / 3 + 2j / 3, 0, 1])
        buffer.append({"info/points": points, "info/pair": np.ones((3, 2, 2), np.int8), "info/wave": waves})
    lines = run("show", tmp_path / "a.zarr")[1].splitlines()
    assert "[[1 1 1]]" in lines[1]
    assert "[[1 1] [1 1]]" in lines[1]
    assert "0.3333+0.6667j" in lines[1]
    assert " [] " in lines[2]
    assert "2x3 1…1" in lines[3]


def test_a_text_that_is_none_is_named(tmp_path: Path, run: Run) -> None:
    place = tmp_path / "a.zarr"
    fields = {
        "observation": rs.Field.of_text("observation"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
    with rs.create(place, rs.Schema(fields)) as buffer:
        ended = {"terminated": np.array([False, True])}
        buffer.append({"observation": ["zero", "ONE"]} | ended, final_observation="two")
        buffer.append({"observation": ["three", "four"]} | ended, final_observation="END")
    for file in place.glob("values/observation/c*"):
        written = file.read_bytes()
        assert b"ONE" in written
        file.write_bytes(written.replace(b"ONE", b"\xffNE").replace(b"END", b"\xffND"))

    said = {
        ("--rows", "1"): "observation of step 1: ",
        ("--trajectory", "0", "--json"): "observation of step 1: ",
        ("--trajectory", "1"): "the observation after trajectory 1, observation: ",
    }
    for asked, what in said.items():
        code, _, err = run("show", place, *asked)
        assert code == 1
        assert err.startswith(f"replaystore: error: {place}: {what}text ")
        assert "of 3 bytes, is not UTF-8" in err
    assert run("show", place, "--rows", "2:")[0] == 0
    with rs.open(place) as buffer, pytest.raises(CorruptError, match="observation of step 1: text 0"):
        buffer["observation"][1]
