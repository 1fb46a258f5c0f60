"""`replaystore show` of texts and of other values of any length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from commands import Run

import replaystore as rs

pytest_plugins = ["commands"]


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
    assert "'" + "x" * 59 + "…'" in text
    assert r"'end\x07'" in text
    assert "[0 1 2 … 8]" in text
    assert all(line.isprintable() for line in text.split("\n"))
    found = facts("show", tmp_path / "a.zarr", "--trajectory", "0")
    assert [step["observation"] for step in found["steps"]] == texts[:4]
    assert [step["tokens"] for step in found["steps"]] == [values.tolist() for values in tokens]
    assert found["final_observation"] == {"observation": "end\x07"}
