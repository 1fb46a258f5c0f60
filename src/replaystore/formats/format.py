"""What a format is: files of other software, read and written.

To add one: a folder beside this file and an `Entry` in registry/own.py, or both in a package of one's own.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import ClassVar

from replaystore.errors import FormatError, NotFoundError, UnsupportedError
from replaystore.formats.options import Options
from replaystore.formats.report import Report
from replaystore.formats.source import RingSource, Source
from replaystore.views.reader import BufferReader

__all__ = ["Format"]


class Format:
    """A layout of files of other software. Subclass it, and give it `read`, or `plan` and `write`, or all of
    them."""

    example: ClassVar[str] = ""
    """What such a file is usually called."""
    limits: ClassVar[tuple[str, ...]] = ()
    """What it cannot hold of a buffer, each in a few words."""
    whole: ClassVar[str] = ""
    """Why a file of it is in memory as a whole while it is read or written; "": a few blocks of it are."""
    folder: ClassVar[bool] = False
    """Whether it is a folder that is written."""
    holds: ClassVar[tuple[str, ...]] = ()
    """Patterns of the names in such a folder ("*.tfrecord"): one in which something else lies, too, is not
    replaced, for that would be gone. Without any, all of a folder is taken to be of the format."""
    ragged: ClassVar[bool] = False
    """Whether `write` takes fields of any length. If not, they are not among the fields that it is asked for,
    and are reported as lost; it is not asked if nothing would be left of the observations, or of the
    actions."""

    def read(self, path: str) -> AbstractContextManager[Source | RingSource]:
        """The buffer in a file, while that is open. NotFoundError, StorageError; FormatError: it is something
        else, or damaged. What is raised while it is open comes through it: errors of replaystore come out as
        they were, whatever it makes of them; others of a plug-in are told as a PluginError."""
        raise UnsupportedError(f"{path}: files of this kind are only written: choose another source")

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """What `write` would make of a buffer, found before a byte is written: the same `fields`, `rest`,
        `steps` and `trajectories`, but for errors (`max_error`) that are only measured on the way. Nothing is
        made, and little is read: tables and what is beside steps, not the steps themselves where that can be
        helped. What lies at `path` is no business of it.

        Whoever overrides `write` overrides this too, and begins `write` with it:

            report = self.plan(buffer, path, options)
            refuse_losses(report.fields, report.rest, path, strict=options.strict)

        so that both cannot say different things. SchemaError, UnsupportedError: the buffer cannot be one."""
        raise UnsupportedError(
            f"{path}: this format cannot say beforehand what it would keep: convert without a dry run, and "
            "read the report"
        )

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """Write a buffer to a new file, which appears when it is complete. What lies there is such a file, if
        it is to be replaced (`options.overwrite`).

        SchemaError, UnsupportedError: the buffer cannot be one (or not exactly, if that is wanted).
        AlreadyExistsError, StorageError: there is no new file then."""
        raise UnsupportedError(f"{path}: files of this kind are only read: choose another target")

    def recognizes(self, path: str) -> bool:
        """Whether what lies there is such a file, so that it may be read, or replaced by a new one: whether
        it can be opened. A format that can tell more quickly overrides this."""
        if not os.path.lexists(path) or (os.path.isdir(path) and not self.folder):
            return False
        try:
            with self.read(path):
                return True
        except (FormatError, NotFoundError, UnsupportedError, OSError):
            return False

    def written(self, path: str) -> list[str]:
        """The files that `write` makes for a path."""
        return [path]

    @classmethod
    def reads(cls) -> bool:
        """Whether such files can be read."""
        return cls.read is not Format.read

    @classmethod
    def writes(cls) -> bool:
        """Whether such files can be written."""
        return cls.write is not Format.write
