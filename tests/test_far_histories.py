"""A writer that goes back while a reader far away is in the middle of reading: whichever request it comes
before, the reader is shown the rows of its commit, or is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from far_stores import before_request, make, steps

import replaystore as rs
from replaystore.errors import ConflictError
from replaystore.testing.far import far_disk

KEPT, MORE = 4000, 1000
WANTED = [4010, 10, 4500, 2000, 4990]
CHECKS = {"zarr": 1, "h5": 2}
"""Requests, behind those for rows and side by side, that say whether the store has gone back."""
Read = Callable[[rs.Buffer], dict[str, Any]]


def several_fields(buffer: rs.Buffer) -> dict[str, Any]:
    return dict(buffer.read(WANTED))


def one_field(buffer: rs.Buffer) -> dict[str, Any]:
    return {"observation": buffer["observation"][WANTED]}


def a_slice(buffer: rs.Buffer) -> dict[str, Any]:
    return {"observation": buffer["observation"][4005:]}


def a_batch(buffer: rs.Buffer) -> dict[str, Any]:
    return dict(buffer.sampler(64, seed=1, prefetch=0).sample())


def append(buffer: rs.Buffer, seed: int) -> None:
    buffer.append(steps(MORE, seed), final_observation=np.full((1, 17), seed, np.float32))
    buffer.commit()


def told(place: Path, read: Read, number: int) -> tuple[bool, int]:
    """A writer goes back, and on with other rows, before a request of a reader: whether the reader is told,
    and how many requests there were."""
    make(place, KEPT)
    with rs.open(place, "r+") as writer:
        before = writer.commit_id
        append(writer, 7)
        with rs.open(place) as near:
            right = read(near)

        def go_back() -> None:
            writer.rollback(before)
            append(writer, 8)

        with far_disk(), rs.open(place) as reader:
            read(reader)  # what is kept of tables is there
            with before_request(number, go_back) as asked:
                try:
                    found = read(reader)
                except ConflictError:
                    return True, len(asked)
            assert found.keys() == right.keys()
            for name, values in right.items():
                assert np.array_equal(found[name], values), f"{name} of another history, before {number}"
            return False, len(asked)


@pytest.mark.parametrize("read", [several_fields, one_field, a_slice, a_batch])
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_rows_are_of_one_history_whichever_request_a_writer_goes_back_before(
    tmp_path: Path, read: Read, suffix: str
) -> None:
    undisturbed, requests = told(tmp_path / f"undisturbed.{suffix}", read, 1 << 30)
    assert not undisturbed
    check = requests - CHECKS[suffix]
    assert check >= 1
    for number in sorted({0, 1, check // 2, check - 1, check, requests - 1}):
        conflict, _ = told(tmp_path / f"{number}.{suffix}", read, number)
        assert conflict or number > check
