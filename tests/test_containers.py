"""A stranger's container, which is registered as a stranger does it, passes the public suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stranger import installed

import replaystore as rs
from replaystore.testing import BackendSuite


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path / "site", monkeypatch, {"replaystore.containers shelf": "shelf:ENTRY"})


class TestShelves(BackendSuite):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return str(tmp_path / "buffer.shelf")


def test_a_strangers_store_is_known_by_what_its_folder_holds(tmp_path: Path) -> None:
    schema = rs.Schema({"observation": rs.Field("float32", (3,), "observation")})
    with rs.create(tmp_path / "a.shelf", schema) as buffer:
        buffer.append({"observation": np.ones((5, 3), "f4")})
    assert rs.verify(tmp_path / "a.shelf").problems == []
    (tmp_path / "a.shelf").rename(tmp_path / "moved")
    rs.convert(tmp_path / "moved", tmp_path / "b.zarr")
    with rs.open(tmp_path / "b.zarr") as buffer:
        assert len(buffer) == 5
