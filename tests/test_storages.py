"""Every storage passes the public suite, and so does a stranger's, which is registered as a stranger does
it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from stranger import installed

import replaystore as rs
from replaystore.errors import SchemaError
from replaystore.testing import BackendSuite, StorageSuite

pytestmark = pytest.mark.disk

numbers = itertools.count()


class TestStorages(StorageSuite):
    @pytest.fixture(params=["{tmp}/new/folder/a.zarr", "memory:storage-{number}"])
    def location(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return str(request.param).format(tmp=tmp_path, number=next(numbers))


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a store can be made in the storage of a stranger."""
    installed(tmp_path / "site", monkeypatch, {"replaystore.storage drawer": "drawer:ENTRY"})
    return f"drawer:{next(numbers)}"


class TestDrawers(StorageSuite):
    @pytest.fixture
    def location(self, drawer: str) -> str:
        return drawer


class TestBuffersInDrawers(BackendSuite):
    @pytest.fixture
    def location(self, drawer: str) -> str:
        return drawer


def test_a_strangers_storage_is_named_where_nobody_knows_a_file(drawer: str, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"'memory:name', or 'drawer:name'"):
        rs.open(tmp_path / "nowhere")


def test_a_store_is_converted_into_a_strangers_storage_and_back(drawer: str, tmp_path: Path) -> None:
    schema = rs.Schema({"observation": rs.Field("float32", (3,), "observation")})
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append({"observation": np.array([[1, 2, 3]] * 5, "f4")})
    rs.convert(tmp_path / "a.zarr", drawer)
    assert rs.verify(drawer).problems == []
    rs.convert(drawer, tmp_path / "b.h5", layout="archive")
    with rs.open(tmp_path / "b.h5") as buffer:
        assert buffer["observation"][:].tolist() == [[1, 2, 3]] * 5
