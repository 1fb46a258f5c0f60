"""Converting to files of other software, and what has a store on its way: one file to another, and merging
files."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.comparing.merge import merge
from replaystore.converting.convert import convert
from replaystore.errors import NotFoundError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.scenarios.converting import recorded
from replaystore.testing.scenarios.recordings import verified
from replaystore.testing.scenarios.replacing import Replacing, digest

__all__ = ["scenario"]

FOLDER = "torchrl"
"""A format whose files are in a folder."""


class Exporting(Replacing):
    """To a file, or a folder of files, over what is there or not."""

    def __init__(self, name: str, seed: int, *, sources: Sequence[str], target: str, over: bool) -> None:
        super().__init__(name)
        self.seed = seed
        self._sources, self._target, self._over = sources, target, over

    def prepare(self, folder: str) -> None:
        with tiny():
            for number, source in enumerate(self._sources):
                self._recorded(os.path.join(folder, source), self.seed + 200 * number)
            if self._over:
                self._recorded(os.path.join(folder, self._target), self.seed + 100)

    def _recorded(self, path: str, seed: int) -> None:
        if path.endswith((".zarr", ".h5")):
            recorded(path, seed)
            return
        recorded("memory:recorded", seed)
        self._convert("memory:recorded", path)

    def do(self, folder: str) -> None:
        with tiny():
            (source,) = self._sources
            self._convert(os.path.join(folder, source), os.path.join(folder, self._target))

    def _convert(self, source: str, target: str) -> None:
        format_ = None if target.endswith(".npz") else FOLDER
        convert(source, target, target_format=format_, overwrite=os.path.lexists(target))

    def read(self, folder: str) -> str:
        path = os.path.join(folder, self._target)
        if not os.path.lexists(path):
            raise NotFoundError(path)
        with tiny():
            convert(path, "memory:read", proof=False, overwrite=True)
        with buffers.open("memory:read") as reader:
            return digest(Contents.of(reader))


class Merging(Exporting):
    """A store and a file become one store."""

    def do(self, folder: str) -> None:
        with tiny():
            target = os.path.join(folder, self._target)
            sources = [os.path.join(folder, source) for source in self._sources]
            merge(sources, target, overwrite=os.path.lexists(target))

    def read(self, folder: str) -> str:
        with buffers.open(os.path.join(folder, self._target)) as reader:
            return digest(Contents.of(reader))

    def verify(self, folder: str) -> None:
        if os.path.lexists(os.path.join(folder, self._target)):
            verified(os.path.join(folder, self._target))


def scenario(name: str, seed: int) -> Exporting:
    """One of them, by its name."""
    kind, _, rest = name.partition("-")
    over, seed = bool(np.random.default_rng(seed).random() < 0.75), 2 * seed  # none of any length
    if kind == "merge":
        target = "target.h5" if rest else "target.zarr"
        return Merging(name, seed, sources=["source.zarr", "source.npz"], target=target, over=over)
    target = "target" if rest == "folder" else "target.npz"
    source = "source.npz" if kind == "through" else "source.zarr"
    return Exporting(name, seed, sources=[source], target=target, over=over)
