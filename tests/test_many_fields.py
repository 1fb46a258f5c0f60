"""Schemas of many fields: what is done for them grows with their number, and no faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.schema import Field, Schema

FEW, MANY = 60, 240


def schema(count: int) -> Schema:
    fields = {f"observation/f{number}": Field("float32", (3,), "observation") for number in range(count)}
    return Schema(fields | {"reward": Field("float64", (), "reward")})


def calls(action: Callable[[], Any]) -> int:
    """How many functions `action` calls, those of C included."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def story(location: Path, declared: Schema) -> dict[str, int]:
    """The calls of each operation of a buffer."""
    buffer: Any = None
    columns = {name: np.zeros((8, *field.shape), field.dtype) for name, field in declared.fields.items()}

    def opened(make: Callable[[], Any]) -> Callable[[], None]:
        def action() -> None:
            nonlocal buffer
            buffer = make()

        return action

    counts = {"create": calls(opened(lambda: rs.create(location, declared, durability="none")))}
    counts["append"] = calls(lambda: buffer.append(columns))
    counts["commit"] = calls(buffer.commit)
    counts["close"] = calls(buffer.close)
    counts["open"] = calls(opened(lambda: rs.open(location)))
    buffer.close()
    counts["open for writing"] = calls(opened(lambda: rs.open(location, mode="r+")))
    buffer.close()
    return counts


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_nothing_that_a_buffer_does_is_quadratic_in_the_fields(tmp_path: Path, suffix: str) -> None:
    story(tmp_path / f"first{suffix}", schema(2))  # what is imported on first use
    few = story(tmp_path / f"few{suffix}", schema(FEW))
    many = story(tmp_path / f"many{suffix}", schema(MANY))
    grown = {name: round(many[name] / few[name], 1) for name in few}
    assert all(growth <= 1.1 * MANY / FEW for growth in grown.values()), grown


def test_selecting_is_linear_in_the_fields() -> None:
    few, many = schema(FEW), schema(MANY)
    growth = calls(lambda: many.select(many.fields)) / calls(lambda: few.select(few.fields))
    assert growth <= 1.1 * MANY / FEW
