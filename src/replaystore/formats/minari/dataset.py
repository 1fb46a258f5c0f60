"""Datasets of Minari as formats: one name for each of the three that their data may be in."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import ClassVar

from replaystore.errors import ReplayStoreError
from replaystore.formats.format import Format
from replaystore.formats.minari import metadata, reading
from replaystore.formats.options import Options
from replaystore.formats.report import Report
from replaystore.formats.source import RingSource, Source
from replaystore.views.reader import BufferReader

__all__ = ["Minari", "MinariArrow", "MinariParquet"]


class Minari(Format):
    """A folder with the data of a dataset, whatever they are in; written in HDF5."""

    limits: ClassVar[tuple[str, ...]] = (
        "open trajectories, which are cut off",
        "steps of no trajectory",
        "observations without actions",
    )
    folder = True
    holds = ("data",)
    ragged = True
    container: ClassVar[str] = "hdf5"
    """What data are written in."""

    def read(self, path: str) -> AbstractContextManager[Source | RingSource]:
        """The trajectories of a dataset, which is named by its folder, or by its name in Minari."""
        return reading.read(path)

    def recognizes(self, path: str) -> bool:
        """Whether a folder, or the file of HDF5 in it, is a dataset."""
        folder = metadata.data_folder(path)
        if folder is None:
            return False
        try:
            return metadata.Metadata.read(path).container in metadata.CONTAINERS
        except ReplayStoreError:
            return False

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """What becomes of a buffer."""
        from replaystore.formats.minari.writing import planned

        return planned(buffer, path, options, self.container).report

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """A new dataset."""
        from replaystore.formats.minari.writing import write

        return write(buffer, path, options, self.container)


class MinariArrow(Minari):
    """A dataset in files of Arrow, one for each episode."""

    container = "arrow"
    limits = (*Minari.limits, "trajectories of 131,072 steps or more")
    whole = "Minari reads an episode as one batch, which is in memory as a whole"

    def recognizes(self, path: str) -> bool:
        """Whether a dataset is in such files."""
        return super().recognizes(path) and metadata.Metadata.read(path).container == self.container


class MinariParquet(MinariArrow):
    """A dataset in files of Parquet, one for each episode."""

    container = "parquet"
