"""What errors advise works when it is followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError, ConflictError, NotFoundError, ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record


def made(place: str | Path) -> tuple[rs.Buffer, Record]:
    env = gymnasium.make("CartPole-v1")
    buffer = rs.create(place, env, overwrite=True)
    recorder = Record(env, buffer)
    recorder.reset(seed=0)
    return buffer, recorder


def test_the_first_suffix_of_a_store_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        rs.create(tmp_path / "x", gymnasium.make("CartPole-v1"))
    told = str(caught.value).partition("use one of the suffixes ")[2].split(", ")
    assert told[0] == ".zarr"
    assert ".h5" in told[: told.index(".zarr.zip")]


def test_an_action_of_another_dtype_is_given_as_it_is_said() -> None:
    _, recorder = made("memory:advice-action")
    for action in (1.0, np.float64(1), np.array(1.0)):
        with pytest.raises(SchemaError, match=r"pass numpy\.asarray\(action, 'int64'\)"):
            recorder.step(action)
        recorder.step(np.asarray(action, "int64"))
    recorder.close()


def test_a_second_recorder_is_told_what_the_first_one_is() -> None:
    buffer, recorder = made("memory:advice-record")
    with pytest.raises(ConflictError, match=r"of buffer.writer.., Record or RecordVector: close that first"):
        Record(gymnasium.make("CartPole-v1"), buffer)
    recorder.close()
    Record(gymnasium.make("CartPole-v1"), buffer)


@pytest.mark.parametrize("place", ["memory:advice-commits", "a.zarr", "a.h5"])
def test_commits_are_listed_as_it_is_said(tmp_path: Path, place: str) -> None:
    buffer, recorder = made(place if place.startswith("memory:") else tmp_path / place)
    with buffer:
        recorder.close()
        buffer.commit("known")
        with pytest.raises(NotFoundError, match=r"buffer\.commits\(\), or `replaystore info --commits`"):
            buffer.rollback("unknown")
        assert "known" in [commit.name for commit in buffer.commits()]


def test_an_info_that_64_bits_do_not_hold_is_told_to_be_too_large() -> None:
    class Large(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            *rest, info = self.env.step(action)
            return *rest, info | {"large": 2**70}

    env = Large(gymnasium.make("CartPole-v1"))
    recorder = Record(env, rs.create("memory:advice-large", env, overwrite=True))
    recorder.reset(seed=0)
    with pytest.warns(ReplayStoreWarning, match="an integer that 64 bits do not hold"):
        recorder.step(0)
    assert recorder.left_out == {"large": 1}
    recorder.close()
