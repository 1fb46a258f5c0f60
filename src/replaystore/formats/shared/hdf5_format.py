"""What formats have in common whose file is one HDF5 file: how it is opened, recognised and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from replaystore.errors import FormatError, NotFoundError, UnsupportedError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, refuse_losses
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.hdf5 import Group, is_hdf5, opened_hdf5
from replaystore.formats.shared.hdf5_new import NewGroup, new_hdf5
from replaystore.formats.shared.writing import NewFiles
from replaystore.formats.source import Source
from replaystore.views.reader import BufferReader

__all__ = ["Hdf5Format"]


class Hdf5Format(Format):
    """A format says what a file of it holds, how it is read, and how it is filled."""

    limits: ClassVar[tuple[str, ...]] = ("trajectories that go on", "fields of any length")

    def source(self, root: Group, path: str) -> Source:
        """The buffer in a file that is open. FormatError: it is something else, or damaged."""
        raise NotImplementedError

    def is_one(self, root: Group) -> bool:
        """Whether an HDF5 file is of this format."""
        raise NotImplementedError

    def told(self, chosen: Chosen, path: str) -> Report:
        """What becomes of a buffer. UnsupportedError: it cannot be such a file."""
        return chosen.report()

    def fill(self, root: NewGroup, chosen: Chosen) -> None:
        """Write all of it."""
        raise NotImplementedError

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        with opened_hdf5(path) as root:
            yield self.source(root, path)

    def recognizes(self, path: str) -> bool:
        try:
            if not is_hdf5(path):
                return False
            with opened_hdf5(path) as root:
                return self.is_one(root)
        except (FormatError, NotFoundError, UnsupportedError):
            return False

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return self.told(Chosen(buffer, options), path)

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        chosen = Chosen(buffer, options)
        report = self.told(chosen, path)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with NewFiles([path], overwrite=options.overwrite) as new, new_hdf5(new.files[0]) as root:
            self.fill(root, chosen)
        return report
