"""What a backend must do, as tests that any package can run on its own, and ways to make a disk fail.

    BackendSuite     a pytest class; a subclass gives it the fixture `location`
    FormatSuite      the same for formats; a subclass gives it `name` and `filename`
    BufferMachine    a hypothesis state machine that compares a buffer with a `PlainBuffer`
    PlainBuffer      what a buffer should hold: the same methods, on lists in memory
    Contents         everything that can be seen of a buffer, compared bit for bit
    RecordingFiles   notes every primitive operation, so that a power cut at any of them can be played back
    FailingFiles     refuses, or kills the process, at the operation that was chosen

This package needs pytest and hypothesis; nothing else in replaystore imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replaystore.testing.backends import BackendSuite
    from replaystore.testing.contents import Contents
    from replaystore.testing.faults import FailingFiles, RecordingFiles
    from replaystore.testing.formats import FormatSuite
    from replaystore.testing.model import BufferMachine
    from replaystore.testing.plain import PlainBuffer

__all__ = [
    "BackendSuite",
    "BufferMachine",
    "Contents",
    "FailingFiles",
    "FormatSuite",
    "PlainBuffer",
    "RecordingFiles",
]

_HOMES = {
    "BackendSuite": "backends",
    "BufferMachine": "model",
    "Contents": "contents",
    "FailingFiles": "faults",
    "FormatSuite": "formats",
    "PlainBuffer": "plain",
    "RecordingFiles": "faults",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(
                f"module 'replaystore.testing' has no attribute {name!r}; its public names "
                f"are {', '.join(__all__)}"
            )
        return getattr(import_module(f"replaystore.testing.{_HOMES[name]}"), name)
