"""HDF5 stores of every kind, the directory of a file, and files that can only be read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import replaystore as rs
from replaystore.containers.hdf5.directory import Directory
from replaystore.containers.hdf5.far import FarFile
from replaystore.containers.hdf5.front import DIRECTORY, Slot
from replaystore.storage.local import Files
from replaystore.storage.protocol import Reads
from replaystore.testing import samples

KINDS = ("live", "closed", "archive", "rolled back", "published")


class Bytes(Reads):
    """A file in memory that can be read, and nothing else."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def path(self, name: str) -> str:
        return f"bytes:{name}"

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.data[offset:] if length is None else self.data[offset : offset + length]

    def size(self, name: str) -> int:
        return len(self.data)

    def exists(self, name: str) -> bool:
        return True

    def list(self, folder: str = "") -> list[str]:
        return []


def make(path: Path, kind: str, seed: int = 0, *, coded: bool = True) -> Path:
    """A store with a few hundred rows, some of whose fields are `coded`."""
    storage = None if coded or kind == "archive" else {"observation/camera": {"codec": "raw"}}
    layout: Literal["live", "archive"] = "archive" if kind == "archive" else "live"
    buffer = rs.create(path, samples.small(), layout=layout, storage=storage)
    for turn in range(5):
        buffer.append(samples.columns(buffer.schema, 90, seed=seed * 100 + turn))
        buffer.commit()
    if kind == "published":
        buffer.publish()
    if kind == "rolled back":
        buffer.rollback(3)
        buffer.append(samples.columns(buffer.schema, 40, seed=seed * 100 + 50))
        buffer.commit()
    if kind in ("live", "published"):
        buffer.append(samples.columns(buffer.schema, 30, seed=seed * 100 + 70))
        buffer.commit()
        buffer.abandon()
    else:
        buffer.close()
    return path


def rows(buffer: rs.Buffer) -> dict[str, NDArray[np.generic]]:
    return {name: np.asarray(buffer[name][:]) for name in buffer.schema.fields}


def same(one: dict[str, NDArray[np.generic]], other: dict[str, NDArray[np.generic]]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def slot_of(path: Path) -> Slot | None:
    """Where the directory lies; None: there is none."""
    return Slot.unpack(path.read_bytes()[: DIRECTORY + Slot.SIZE])


def without_directory(path: Path) -> Path:
    """As older software has written it."""
    with path.open("r+b") as file:
        file.seek(DIRECTORY)
        file.write(bytes(Slot.SIZE))
    return path


def directory_of(path: Path) -> Directory | None:
    """What a reader from far believes."""
    file = FarFile(Files(path.parent, writable=False), path.name)
    file.head()
    return file.directory()
