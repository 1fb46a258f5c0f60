"""The place that a test of the suite of backends works in."""

from __future__ import annotations

from typing import Any, Literal

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.containers.located import container_type, remove
from replaystore.location import parse
from replaystore.schema.fields import Schema
from replaystore.storage.places import places_of
from replaystore.testing.samples import small, storage

__all__ = ["Store"]


class Store:
    """The place that a test works in; all that it opens is closed after the test."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.capabilities = container_type(parse(location)).capabilities
        self._opened: list[Buffer] = []

    def create(self, schema: Schema | None = None, *, ragged: bool = False, **settings: Any) -> Buffer:
        """A new buffer: of `small` with a coded field, unless told otherwise; `ragged`: with fields of any
        length, too."""
        if schema is None:
            schema = small(ragged=ragged)
            settings.setdefault("storage", storage(self.capabilities.default_codec, ragged=ragged))
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
