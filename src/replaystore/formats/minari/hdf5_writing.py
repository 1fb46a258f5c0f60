"""The HDF5 file of a dataset: a group for each episode, which Minari reads, without compression as Minari
writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.minari.metadata import MAIN
from replaystore.formats.minari.plan import Placed
from replaystore.formats.minari.writer import encoded, joined
from replaystore.formats.shared.hdf5.writing import NewGroup, NewRows, new_hdf5
from replaystore.schema.ragged import Ragged

__all__ = ["Hdf5Writer", "hdf5_writer"]


@contextmanager
def hdf5_writer(folder: str) -> Iterator[Hdf5Writer]:
    """What writes to the file of a new dataset."""
    with open(os.path.join(folder, MAIN), "wb") as file, new_hdf5(file) as root:
        yield Hdf5Writer(root)


class Hdf5Writer:
    """Episodes on their way into a file. Values of any length of an episode are together in memory."""

    def __init__(self, root: NewGroup) -> None:
        self._root = root
        self._group = root
        self._rows: dict[str, NewRows] = {}
        self._waiting: dict[str, tuple[Placed, list[Ragged]]] = {}

    def begin(self, episode: int, steps: int, seed: int) -> None:
        """A new episode."""
        self._group = self._root.group(f"episode_{episode}")
        self._group.attribute("id", np.int64(episode))
        if seed >= 0:
            self._group.attribute("seed", np.int64(seed))
        self._group.attribute("total_steps", np.int64(steps))
        self._group.group("infos")

    def rows(self, one: Placed, values: Any, count: int, *, whole: bool) -> None:
        """Rows of a field, which has `count` in this episode; all of them if they are `whole`."""
        if isinstance(values, Ragged):
            self._waiting.setdefault(one.name, (one, []))[1].append(values)
        else:
            self.plain(one.path, values, count, whole=whole)

    def plain(self, path: str, values: NDArray[Any], count: int, *, whole: bool) -> None:
        """Rows of numbers."""
        if whole:
            self._group.values(path, values)
            return
        if path not in self._rows:
            self._rows[path] = self._group.rows(path, values.dtype, values.shape[1:], count)
        self._rows[path].append(values)

    def end(self) -> None:
        """The episode is complete."""
        for one, parts in self._waiting.values():
            self._of_any_length(one, joined(parts))
        self._waiting.clear()
        if self._rows:
            self._root.finish()
            self._rows.clear()

    def _of_any_length(self, one: Placed, values: Ragged) -> None:
        if one.encoded:
            self._group.arrays(one.path, encoded(values), np.dtype(np.uint8))
            return
        texts = [data.tobytes() for data in encoded(values)]
        if (np.asarray(values.named) == 0).any():  # which ends a text for HDF5
            self._group.arrays(one.also, encoded(values), np.dtype(np.uint8))
            texts = [text.replace(b"\0", b"") for text in texts]
        self._group.texts(one.path, texts)
