"""Runs on their way to a server: what goes on is sent as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore import wire
from replaystore.client import runs


def run(first: int, count: int, **told: Any) -> runs.Run:
    rows = {"observation": np.arange(first, first + count, dtype=np.float32)[:, None]}
    return runs.Run(told.pop("env", 0), rows, count, told.pop("ends", []), **told)


def sent(*given: runs.Run) -> list[dict[str, Any]]:
    arrays, said = wire.unpack(runs.packed(given, 0))
    assert arrays["observation"][:, 0].tolist() == list(range(sum(one.count for one in given)))
    found: list[dict[str, Any]] = said["runs"]
    return found


def test_what_goes_on_is_one_run() -> None:
    after = {"observation": np.array([[2.0]], np.float32)}
    other = {"observation": np.array([[3.0]], np.float32)}

    assert sent(run(0, 2), run(2, 3, ends=[1])) == [{"env": 0, "steps": 5, "ends": [3]}]
    assert sent(run(0, 2, seeds=[7]), run(2, 3, ends=[1])) == [
        {"env": 0, "steps": 5, "ends": [3], "seed": [7, None]}
    ]
    assert sent(run(0, 2, finals=after), run(2, 1)) == [{"env": 0, "steps": 3, "ends": []}]
    assert sent(run(0, 2, finals=after), run(2, 1, finals=other)) == [
        {"env": 0, "steps": 3, "ends": [], "finals": 1}
    ]
    for second in (
        run(2, 1, env=1),
        run(2, 1, cut=True),
        run(2, 1, seeds=3),
        run(2, 1, split="test"),
    ):
        assert len(sent(run(0, 2), second)) == 2
    assert len(sent(run(0, 2, finals=other), run(2, 1))) == 2
    assert len(sent(run(0, 2, ends=[1]), run(2, 1))) == 2
    assert len(sent(run(0, 2, ends=[0], finals=after), run(2, 1))) == 2
    assert len(sent(run(0, 2, ends=[0]), run(2, 1, finals=after))) == 2
