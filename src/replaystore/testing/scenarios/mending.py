"""Repairing a store that is damaged: there is the damaged one, or the repaired one, and the damaged one is
never lost."""

from __future__ import annotations

import os

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.checking.repair import repair
from replaystore.checking.verify import verify
from replaystore.errors import CorruptError, ReplayStoreError
from replaystore.testing.crashes import tiny
from replaystore.testing.samples import small, storage
from replaystore.testing.scenarios import Floor, Tell
from replaystore.testing.scenarios.recordings import here, verified
from replaystore.testing.scenarios.replacing import digest
from replaystore.testing.workloads import Action, act
from replaystore.views.reader import BufferReader

__all__ = ["scenario"]

COMMITS = 3


class Mending:
    """`rs.repair` of a store in which a byte of its last rows was changed."""

    torch = False

    def __init__(self, name: str, seed: int) -> None:
        self.name, self._seed = name, seed
        self._file = "store.h5" if name.endswith("hdf5") else "store.zarr"

    def prepare(self, folder: str) -> None:
        path = os.path.join(folder, self._file)
        with tiny():
            codec, ragged = "gzip:1" if path.endswith(".h5") else "zstd:1", self._seed % 2 == 1
            buffer = buffers.create(path, small(ragged=ragged), storage=storage(codec, ragged=ragged))
            for number in range(COMMITS):
                act(buffer, Action("append", (self._seed + number, 17, 0, 1)))
                buffer.commit()
                with open(os.path.join(folder, f"contents-{number}"), "w") as note:
                    note.write(_rows(buffer))
            wide = buffer.read(slice(-1, None), fields=["info/wide"])["info/wide"].tobytes()
            buffer.close()
        self._damage(path, wide)

    def _damage(self, path: str, row: bytes) -> None:
        """Change a byte of the newest row, wherever it is."""
        files = [os.path.join(base, name) for base, _, names in os.walk(path) for name in names] or [path]
        for name in files:
            with open(name, "r+b") as file:
                place = file.read().rfind(row)
                if place >= 0:
                    file.seek(place)
                    file.write(bytes([row[0] ^ 1]))
                    return
        raise AssertionError("the newest row is in no file")

    def perform(self, folder: str, tell: Tell) -> None:
        with tiny(), here():
            repair(os.path.join(folder, self._file))
        tell(Floor(1))

    def recover(self, folder: str) -> None:
        with tiny():
            try:
                buffers.open(os.path.join(folder, self._file), "r+").abandon()
            except CorruptError:  # which it is, until it is repaired
                buffers.open(os.path.join(folder, self._file)).close()

    def check(self, folder: str, floor: int | None, *, cut: bool = False) -> None:
        path = os.path.join(folder, self._file)
        with tiny(), here():
            buffers.open(path).close()
            if floor is not None or self._sound(path):
                verified(path)
            else:
                repair(path)
                verified(path)
            with buffers.open(path) as reader:
                seen = _rows(reader)
        known = [_text(os.path.join(folder, f"contents-{number}")) for number in range(COMMITS)]
        if seen not in known:
            raise AssertionError(f"repaired, it holds what no commit held ({[*known, seen]})")
        if not os.path.lexists(path + ".damaged"):
            raise AssertionError(f"the damaged store is gone; there are {sorted(os.listdir(folder))}")

    def _sound(self, path: str) -> bool:
        try:
            return not verify(path).problems
        except ReplayStoreError:
            return False


def _rows(buffer: BufferReader) -> str:
    """Its steps and its table. (What followed the last step of an open trajectory may be gone with the
    commits that were dropped.)"""
    return digest(
        {
            **buffer.read(slice(None)),
            **{f"table {name}": column for name, column in buffer.trajectories.columns.items()},
        }
    )


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def scenario(name: str, seed: int) -> Mending:
    """One of them, by its name."""
    return Mending(name, int(np.random.default_rng(seed).integers(1 << 20)))
