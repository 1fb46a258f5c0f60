"""`replaystore verify`, `repair` and `publish`: what is wrong, what was done about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr
from commands import Run, own_rows, own_schema

import replaystore as rs

pytest_plugins = ["commands"]


def damage(store: Path, at: int = 0) -> None:
    """Flip a bit of the observations, by default of the first."""
    file = min((store / "steps/observation").glob("c.*"))
    data = bytearray(file.read_bytes())
    data[4096 + at] ^= 1
    file.write_bytes(data)


def test_verify_explains_what_is_wrong(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    assert run("record", "CartPole-v1", tmp_path / "a.zarr", "--steps", 300)[0] == 0
    assert run("verify", tmp_path / "a.zarr")[1].startswith(f"{tmp_path / 'a.zarr'}: no problems")
    assert facts("verify", tmp_path / "a.zarr")["clean"]

    damage(tmp_path / "a.zarr")
    code, out, err = run("verify", tmp_path / "a.zarr")

    assert (code, err) == (1, "")
    *problems, last = out.splitlines()
    assert "1 problem" in last
    assert len(problems) == 1
    assert "observation" in problems[0]
    found = facts("verify", tmp_path / "a.zarr", code=1)
    assert not found["clean"]
    assert found["problems"][0].keys() == {"where", "what", "remedy"}


def test_repair_says_what_it_did(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", own_schema()) as buffer:
        for _ in range(3):
            buffer.append(own_rows([1.0] * 10))
            buffer.commit()
    assert "nothing to do" in run("repair", tmp_path / "a.zarr")[1]

    damage(tmp_path / "a.zarr", at=15 * 64)
    found = facts("repair", tmp_path / "a.zarr")

    assert found["actions"]
    assert found["dropped"][0] == "the last 20 of 30 steps"
    assert run("verify", tmp_path / "a.zarr")[0] == 0
    damage(tmp_path / "a.zarr")
    (tmp_path / "a.zarr.damaged").rename(tmp_path / "b.zarr")
    code, _, err = run("repair", tmp_path / "a.zarr")
    assert code == 1
    assert "no commit can be brought back" in err
    assert "it is as it was: restore it from a copy" in err


def test_publishing_what_a_killed_writer_left(facts: Callable[..., Any], run: Run, tmp_path: Path) -> None:
    buffer = rs.create(tmp_path / "a.zarr", own_schema())
    buffer.append(own_rows([1.0, 2.0]))
    buffer.commit()
    buffer.abandon()
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["steps/reward"].shape == (0,)

    assert facts("publish", tmp_path / "a.zarr")["steps"] == 2

    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["steps/reward"][:].tolist() == [1.0, 2.0]
    assert "2 steps" in run("publish", tmp_path / "a.zarr")[1]
