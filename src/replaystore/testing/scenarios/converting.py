"""Converting a store to a new place, or over a store that is there; making a new store over one that is
there."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.converting.convert import convert
from replaystore.errors import UnsupportedError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import small, storage
from replaystore.testing.scenarios.recordings import verified
from replaystore.testing.scenarios.replacing import Replacing, digest
from replaystore.testing.workloads import Action, act

__all__ = ["scenario"]

SUFFIXES = {"hdf5": ".h5", "zip": ".zarr.zip"}


def recorded(path: str, seed: int, *, close: bool = True) -> None:
    """A store with some commits; `close`: as a writer leaves it, else as one that was killed. Of every second
    seed with fields of any length."""
    codec, ragged = "gzip:1" if path.endswith(".h5") else "zstd:1", seed % 2 == 1
    schema, settings = small(ragged=ragged), storage(codec, ragged=ragged)
    buffer = buffers.create(path, schema, storage=settings, overwrite=True)
    for number in range(2):
        buffer = act(buffer, Action("append", (seed + number, 7 + seed % 11, number, 1)))
        buffer.commit()
    buffer.close() if close else buffer.abandon()


class Converting(Replacing):
    """`rs.convert`; `over`: the target is there already."""

    def __init__(self, name: str, seed: int, *, source: str, target: str, over: bool, **options: Any) -> None:
        super().__init__(name)
        self.seed = seed
        self._source, self._target, self._over, self._options = source, target, over, options

    def prepare(self, folder: str) -> None:
        with tiny():
            recorded(os.path.join(folder, self._source), self.seed, close=self.seed % 3 > 0)
            if not self._over:
                return
            if not self._target.endswith(".zip"):
                recorded(os.path.join(folder, self._target), self.seed + 100)
                return
            recorded(os.path.join(folder, "other.zarr"), self.seed + 100)
            convert(os.path.join(folder, "other.zarr"), os.path.join(folder, self._target))

    def do(self, folder: str) -> None:
        with tiny():
            target = os.path.join(folder, self._target)
            convert(
                os.path.join(folder, self._source), target, overwrite=os.path.lexists(target), **self._options
            )

    def read(self, folder: str) -> str:
        with buffers.open(os.path.join(folder, self._target)) as reader:
            return digest(Contents.of(reader))

    def recover(self, folder: str) -> None:
        path = os.path.join(folder, self._target)
        if os.path.lexists(path):
            try:
                buffers.open(path, "r+").abandon()
            except UnsupportedError:  # a zip file, an archive
                buffers.open(path).close()

    def verify(self, folder: str) -> None:
        path = os.path.join(folder, self._target)
        if os.path.lexists(path):
            verified(path)


class Overwriting(Converting):
    """`rs.create(..., overwrite=True)` over a store, and its first commit."""

    def do(self, folder: str) -> None:
        with tiny():
            buffers.create(os.path.join(folder, self._target), small(), overwrite=True).close()

    def check(self, folder: str, floor: int | None, *, cut: bool = False) -> None:
        super().check(folder, floor, cut=cut)
        with tiny():
            buffer, plain = buffers.open(os.path.join(folder, self._target), "r+"), PlainBuffer(small())
            act(plain, Action("append", (self.seed, 5, 0, 1)))
            act(buffer, Action("append", (self.seed, 5, 0, 1)))
            plain.commit()
            buffer.close()
        with buffers.open(os.path.join(folder, self._target)) as reader:
            problem = plain.contents().difference(Contents.of(reader))
        if problem:
            raise AssertionError(f"recorded into the new store: {problem}")


def scenario(name: str, seed: int) -> Converting:
    """One of them, by its name."""
    generator = np.random.default_rng(seed)
    kind, _, rest = name.partition("-")
    target = "target" + SUFFIXES.get(rest.rpartition("-")[2], ".zarr")
    source = "source" + str(generator.choice([".zarr", ".h5"]))
    over = bool(generator.random() < 0.75) or kind == "overwrite"
    options = {"layout": "archive"} if rest.startswith("archive") else {}
    which = Overwriting if kind == "overwrite" else Converting
    return which(name, seed, source=source, target=target, over=over, **options)
