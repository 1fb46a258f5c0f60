"""What formats have in common whose file is one file that holds trajectories one behind the other: how it is
opened, recognised, and written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, ClassVar, Generic, TypeVar

from replaystore.errors import FormatError, NotFoundError, StorageError, UnsupportedError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, refuse_losses
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import Source
from replaystore.views.reader import BufferReader

__all__ = ["OneFile"]

Held = TypeVar("Held")
"""What there is of a file that is open."""


class OneFile(Format, Generic[Held]):
    """A format says how a file of it is opened, what it holds, and how it is filled."""

    limits: ClassVar[tuple[str, ...]] = ("trajectories that go on", "fields of any length")

    def opened(self, path: str) -> AbstractContextManager[Held]:
        """A file, which is open meanwhile. NotFoundError, StorageError; FormatError: it is something else."""
        raise NotImplementedError

    def is_one(self, held: Held) -> bool:
        """Whether it is of this format."""
        raise NotImplementedError

    def source(self, held: Held, path: str) -> Source:
        """The buffer in it. FormatError: it is something else, or damaged."""
        raise NotImplementedError

    def told(self, chosen: Chosen, path: str) -> Report:
        """What becomes of a buffer. UnsupportedError: it cannot be such a file."""
        return chosen.report()

    def fill(self, file: IO[bytes], chosen: Chosen) -> None:
        """Write all of it."""
        raise NotImplementedError

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        with self.opened(path) as held:
            yield self.source(held, path)

    def recognizes(self, path: str) -> bool:
        try:
            with self.opened(path) as held:
                return self.is_one(held)
        except (FormatError, NotFoundError, StorageError, UnsupportedError):
            return False

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return self.told(Chosen(buffer, options), path)

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        chosen = Chosen(buffer, options)
        report = self.told(chosen, path)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with NewFiles([path], overwrite=options.overwrite) as new:
            self.fill(new.files[0], chosen)
        return report
