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
from typing import Any, Literal

import pytest

from replaystore.buffers import opened as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.containers.located import container_type, remove
from replaystore.location import parse
from replaystore.schema.fields import Schema
from replaystore.storage.places import places_of
from replaystore.testing.commits import CommitSuite
from replaystore.testing.rows import RowSuite
from replaystore.testing.samples import shards_of, small, storage
from replaystore.testing.stories import TrajectorySuite

__all__ = ["BackendSuite", "Store"]


class Store:
    """The place that a test works in; all that it opens is closed after the test."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.capabilities = container_type(parse(location)).capabilities
        self._opened: list[Buffer] = []

    def create(self, schema: Schema | None = None, **settings: Any) -> Buffer:
        """A new buffer: of `small` with a coded field, unless told otherwise."""
        if schema is None:
            schema = small()
            settings.setdefault("storage", storage(self.capabilities.default_codec))
        return self._noted(buffers.create(self.location, schema, **settings))

    def open(self, mode: Literal["r", "r+"] = "r", *, commit: int | None = None) -> Buffer:
        """The buffer that is there."""
        return self._noted(buffers.open(self.location, mode, commit=commit))

    def release(self) -> None:
        """Close everything, without a commit."""
        for opened in self._opened:
            opened.abandon()
        place = parse(self.location)
        if not places_of(place).on_disk:
            remove(place)

    def _noted(self, opened: Buffer) -> Buffer:
        self._opened.append(opened)
        return opened


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
