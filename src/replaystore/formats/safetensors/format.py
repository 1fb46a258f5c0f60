"""Plain tensors of safetensors, as a format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, refuse_losses
from replaystore.formats.safetensors.header import read_header
from replaystore.formats.safetensors.reading import Foreign, Own, said_in
from replaystore.formats.safetensors.writing import fill, planned
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import Source
from replaystore.views.reader import BufferReader

__all__ = ["Safetensors"]


class Safetensors(Format):
    """Such files, as replaystore knows them."""

    example = "steps.safetensors"
    limits = ("that trajectories were still open", "steps of no trajectory")
    ragged = True

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """The steps of a file."""
        with opened(path) as (descriptor, size):
            tensors, metadata = read_header(descriptor, size, path)
            said = said_in(metadata, path)
            if said is None:
                yield Foreign(descriptor, tensors, path).source()
            else:
                yield Own(descriptor, tensors, said, path).source()

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return planned(buffer, options)[1]

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        said, report = planned(buffer, options)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with NewFiles([path], overwrite=options.overwrite) as new:
            fill(new.files[0], os.path.dirname(os.path.abspath(new.paths[0])), buffer, options, said)
        return report

    def recognizes(self, path: str) -> bool:
        try:
            with self.read(path):
                return True
        except (FormatError, NotFoundError):
            return False
