"""Every backend passes the public suite; what only one of them can be asked is asked here."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from replaystore.storage.local import Files
from replaystore.testing import BackendSuite

LOCATIONS = {"zarr": "{tmp}/buffer.zarr", "hdf5": "{tmp}/buffer.h5", "memory": "memory:test-{number}"}
numbers = itertools.count()


class TestBackends(BackendSuite):
    @pytest.fixture(params=LOCATIONS)
    def location(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return LOCATIONS[request.param].format(tmp=tmp_path, number=next(numbers))


def test_a_descriptor_is_closed_when_nobody_reads_from_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.storage.descriptors.OPEN_FILES", 1)
    store = Files(tmp_path, writable=True)
    for name in ("a", "b"):
        store.create(name)
        store.write(name, 0, name.encode() * 4)
    with store.borrowed("a") as outer, store.borrowed("a") as inner:
        assert outer == inner
        assert store.read_ranges("b", [(0, 2), (2, 9)]) == [b"bb", b"bb"]  # makes room for its own descriptor
        assert os.pread(outer, 4, 0) == b"aaaa"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(outer)
    store.close()
    assert not store._users
    assert not store._unwanted


def test_many_stores_that_are_open_leave_descriptors_to_others(tmp_path: Path) -> None:
    """A process may have 1024, whatever number of stores of hundreds of files it has open."""
    for number in range(300):
        (tmp_path / str(number)).write_bytes(b"x")
    before, stores = len(os.listdir("/dev/fd")), list[Files]()
    try:
        for _ in range(32):
            stores.append(Files(tmp_path, writable=False))
            assert all(stores[-1].read(str(number)) == b"x" for number in range(300))
        assert 32 * 8 <= len(os.listdir("/dev/fd")) - before <= 700
    finally:
        for store in stores:
            store.close()
