"""What formats have in common whose file is one of HDF5."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import IO

from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.format import OneFile
from replaystore.formats.shared.hdf5.groups import Group, opened_hdf5
from replaystore.formats.shared.hdf5.writing import NewGroup, new_hdf5

__all__ = ["Hdf5Format"]


class Hdf5Format(OneFile[Group]):
    """A format whose file is of HDF5."""

    def opened(self, path: str) -> AbstractContextManager[Group]:
        return opened_hdf5(path)

    def fill(self, file: IO[bytes], chosen: Chosen) -> None:
        with new_hdf5(file) as root:
            self.put(root, chosen)

    def put(self, root: NewGroup, chosen: Chosen) -> None:
        """Write all of it below the root."""
        raise NotImplementedError
