"""A served folder of files, shared by the tests of reading from a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replaystore.storage.http.asking import Patience
from replaystore.storage.http.files import HttpFiles
from replaystore.storage.http.joining import PART
from replaystore.testing.servers import Server, serving

HASTY = Patience(tries=4, pause=0.001, longest=0.01, connect=2.0, stall=0.6, whole=8.0)
LARGE = os.urandom(3 * PART + 12345)
SMALL = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served")
    for name, data in {
        "small": SMALL,
        "large": LARGE,
        "empty": b"",
        "a b/%41+é#?.zarr": b"odd",
        "a/b": b"below",
    }.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as found:
        yield found


@pytest.fixture
def files(server: Server) -> Iterator[HttpFiles]:
    found = HttpFiles(server.url, patience=HASTY)
    yield found
    found.close()
