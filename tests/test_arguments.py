"""A wrong argument is an `ArgumentError`, and so a SchemaError and a ValueError, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError, SchemaError
from replaystore.schema import Field, Schema

REWARD = Schema({"reward": Field("float64", (), "reward")})


@pytest.fixture
def buffer(tmp_path: Path) -> Any:
    with rs.create(tmp_path / "a.zarr", REWARD) as made:
        made.append({"reward": np.zeros(3)})
        made.commit()
        yield made


WRONG: dict[str, Callable[[Any], Any]] = {
    "mode": lambda buffer: rs.open(buffer.location, mode="w"),  # type: ignore[arg-type]
    "commit": lambda buffer: rs.open(buffer.location, commit=1.5),  # type: ignore[arg-type]
    "location": lambda _: rs.open(""),
    "suffix": lambda _: rs.create("a.unknown", REWARD),
    "capacity": lambda buffer: rs.create(buffer.location, REWARD, capacity=0, overwrite=True),
    "durability": lambda buffer: rs.create(buffer.location, REWARD, durability="all"),  # type: ignore[arg-type]
    "layout": lambda buffer: rs.create(buffer.location, REWARD, layout="cold"),  # type: ignore[arg-type]
    "storage": lambda buffer: rs.create(buffer.location, REWARD, storage={"reward": {"level": 1}}),
    "batch_size": lambda buffer: buffer.sampler(batch_size=0),
    "order": lambda buffer: buffer.sampler(order="random"),
    "seed": lambda buffer: buffer.sampler(seed=-1),
    "rows": lambda buffer: buffer.read(np.zeros((2, 2), int)),
    "num_envs": lambda buffer: buffer.writer(num_envs=0),
    "where": lambda buffer: buffer.trajectories.where("length >"),
}


@pytest.mark.parametrize("argument", WRONG)
def test_a_wrong_argument_is_an_argument_error(buffer: Any, argument: str) -> None:
    with pytest.raises(ArgumentError):
        WRONG[argument](buffer)


def test_data_that_do_not_fit_are_none(buffer: Any) -> None:
    with pytest.raises(SchemaError) as refused:
        buffer.append({"reward": np.zeros((3, 2))})
    assert not isinstance(refused.value, ArgumentError)
