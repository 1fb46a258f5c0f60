"""A buffer, steps for it, and what refuses them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import replaystore as rs
from replaystore.errors import (
    ReplayStoreError,
)
from replaystore.testing import samples

SUFFIXES = (".zarr", ".h5")


def refuse(kind: type[ReplayStoreError], text: str, action: Callable[[], Any]) -> None:
    """The action raises this error, with one line in which `text` (a pattern) occurs."""
    with pytest.raises(kind, match=text) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def state(path: Path) -> dict[str, str]:
    """What is in a folder, but for locks."""
    return {
        str(at): hashlib.sha256(at.read_bytes()).hexdigest() if at.is_file() else ""
        for at in path.rglob("*")
        if "lock" not in at.name
    }


@pytest.fixture(params=SUFFIXES)
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    codec = "zstd:1" if request.param == ".zarr" else "gzip:1"
    made = rs.create(tmp_path / ("a" + request.param), samples.small(), storage=samples.storage(codec))
    made.append(steps(), env=7)
    made.commit()
    yield made
    made.abandon()


def steps(**changed: Any) -> dict[str, Any]:
    """Ten steps of one trajectory; `joints=None` leaves a field out."""
    columns: dict[str, Any] = dict(samples.columns(samples.small(), 10, 1, ends=0))
    columns["terminated"][9] = True
    for name, value in changed.items():
        full = next((known for known in columns if known.split("/")[-1] == name), name)
        columns.pop(full, None)
        if value is not None:
            columns[full] = value
    return columns
