"""The pickles of Stable-Baselines3: `model.save_replay_buffer("replay_buffer.pkl")`, and any other buffer of
it that was pickled. What is in them, reading.py says; nothing in them is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.format import Format
from replaystore.formats.shared.tensors import opened
from replaystore.formats.source import Source
from replaystore.formats.stable_baselines3.contents import contents
from replaystore.formats.stable_baselines3.reading import source_of
from replaystore.storage.local import read_all

__all__ = ["StableBaselines3"]

_BEGIN = 256
_CLASS = re.compile(
    rb"\x80[\x02-\x05].{0,16}?(stable_baselines3|sb3_contrib)\.[a-z_.0-9]+.{1,8}?[A-Za-z]*Buffer", re.DOTALL
)


class StableBaselines3(Format):
    """The format, as `replaystore.formats` knows it."""

    example = "replay_buffer.sb3.pkl"

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        with contents(path) as found:
            yield source_of(found)

    def recognizes(self, path: str) -> bool:
        try:
            with opened(path) as (descriptor, _):
                return _CLASS.match(read_all(descriptor, 0, _BEGIN)) is not None
        except (FormatError, NotFoundError):
            return False
