"""What every backend must do, tested through the public buffer: one class, used by this package and by
whoever writes a backend.

    class TestMyBackend(BackendSuite):
        @pytest.fixture
        def location(self, tmp_path: Path) -> str:
            return f"{tmp_path}/buffer.mine"

The suffix (or the scheme, of storage) is that of an entry of the registry, which an installed package brings
as an entry point `replaystore.containers` (or `replaystore.storage`).

A test is skipped by capability, never by the name of a backend. Stores are tiny, with chunks of a few rows
and shards of two chunks, so that every border is crossed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from replaystore.testing.commits import CommitSuite
from replaystore.testing.rows import RowSuite
from replaystore.testing.samples import shards_of
from replaystore.testing.stores import Store
from replaystore.testing.stories import TrajectorySuite

__all__ = ["BackendSuite"]


class BackendSuite(RowSuite, TrajectorySuite, CommitSuite):
    """Subclass it, and give it a fixture `location`: where a new store can be made."""

    @pytest.fixture
    def location(self) -> str:
        """Where a store can be made; nothing is there."""
        raise NotImplementedError("a subclass of BackendSuite has a fixture `location`")

    @pytest.fixture
    def store(self, location: str) -> Iterator[Store]:
        """The place, with shards of two chunks."""
        with shards_of(2):
            made = Store(location)
            yield made
            made.release()
