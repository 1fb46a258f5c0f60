"""What a backend must do, as tests that any package can run on its own, and ways to make a disk fail.

    BackendSuite     a pytest class; a subclass gives it the fixture `location`
    StorageSuite     the same for storage
    ReadsSuite       the same for storage that only reads
    FormatSuite      the same for formats; a subclass gives it `name` and `filename`
    BufferMachine    a hypothesis state machine that compares a buffer with a `PlainBuffer`
    PlainBuffer      what a buffer should hold: the same methods, on lists in memory
    Contents         everything that can be seen of a buffer, compared bit for bit
    RecordingFiles   notes every primitive operation, so that a power cut at any of them can be played back
    FailingFiles     refuses, or kills the process, at the operation that was chosen

Where what is:

    backends, stores                     the suite of backends, and the place that its tests work in:
    rows, stories, commits               tests of rows, of trajectories, of commits
    storages, reading                    the suites of storage
    servers, far                         a server that fails as a test wants, and a disk that is far away
    formats, trajectories                the suite of formats, and what it writes
    plain, contents, model               what a buffer should hold and show, and a machine that compares
    samples, workloads                   recordings, and what may be done to a buffer, from a seed
    faults, crashes                      files that fail; kills
    disks, power, images                 a disk that forgets, power cuts, and file systems that have them
    shim, trials, scenarios/, apart      faults below the process, tried again and again
    interruption, sessions               Ctrl-C at any moment of a writer,
    replacements, saves                  and of what puts something in a place
    histories, readers                   readers beside a writer that goes back and is replaced
    specimens, forging                   stores that are spoiled: by parts of others,
    crafting…, odd_values                or by a stranger who makes all checksums right
    campaigns/                           what ./scripts/campaign runs: one module for each promise

This package needs pytest and hypothesis, and for `saves` and what uses it torch; nothing else in replaystore
imports it.
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
    from replaystore.testing.reading import ReadsSuite
    from replaystore.testing.storages import StorageSuite

__all__ = [
    "BackendSuite",
    "BufferMachine",
    "Contents",
    "FailingFiles",
    "FormatSuite",
    "PlainBuffer",
    "ReadsSuite",
    "RecordingFiles",
    "StorageSuite",
]

_HOMES = {
    "BackendSuite": "backends",
    "BufferMachine": "model",
    "Contents": "contents",
    "FailingFiles": "faults",
    "FormatSuite": "formats",
    "PlainBuffer": "plain",
    "ReadsSuite": "reading",
    "RecordingFiles": "faults",
    "StorageSuite": "storages",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        from replaystore.extras import require

        if name not in _HOMES:
            raise AttributeError(
                f"module 'replaystore.testing' has no attribute {name!r}; its public names "
                f"are {', '.join(__all__)}"
            )
        for package in ("pytest", "hypothesis"):
            require(package, "replaystore.testing", "test")
        return getattr(import_module(f"replaystore.testing.{_HOMES[name]}"), name)
