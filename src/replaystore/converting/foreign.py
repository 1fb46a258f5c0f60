"""The code of formats, which may be another package's: what it raises is told as an error of that package.

Errors of ours, of the operating system, and of the user's `progress` go through as they are, although the
`read` of a format may have made something else of them: it cannot know them from those of its file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from replaystore.errors import FormatError, PluginError, ReplayStoreError
from replaystore.formats.format import Format
from replaystore.formats.options import Progress
from replaystore.formats.source import RingSource, Source
from replaystore.registry import entry, recognizing

__all__ = ["Told", "blamed", "reading"]


class Told:
    """The user's `progress`, which remembers what it raised."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.raised: BaseException | None = None

    def __call__(self, done: int, total: int) -> None:
        """Tell the user."""
        try:
            self._progress(done, total)
        except BaseException as error:
            self.raised = error
            raise


@contextmanager
def blamed(name: str, path: str, progress: Progress | None) -> Iterator[None]:
    """Around what the format of this name does. PluginError: it failed, and it is of another package."""
    try:
        yield
    except (ReplayStoreError, OSError, MemoryError):
        raise
    except Exception as error:
        package = entry("formats", name).package
        if _raised(progress, error) or package == "replaystore":
            raise
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise PluginError(
            f"{path}: the format {name!r} of the package {package} failed ({reason}): tell its "
            f"makers, or use another version of {package}"
        ) from error


@contextmanager
def reading(
    name: str, format_: Format, path: str, progress: Progress | None
) -> Iterator[Source | RingSource]:
    """What is read from a file, while it is open. The errors of `Format.read`, of `blamed`, and of what is
    done with it."""
    inside: BaseException | None = None
    with blamed(name, path, progress):
        try:
            with format_.read(path) as source:
                try:
                    yield source
                except BaseException as error:
                    inside = error
                    raise
        except Exception as error:
            if inside is None and type(error) is FormatError and (other := _other(name, path)):
                raise FormatError(other) from error
            if inside is None or error is inside:
                raise
            if isinstance(inside, ReplayStoreError) or _raised(progress, inside):
                raise inside from inside.__cause__
            raise


def _other(name: str, path: str) -> str:
    """What it is, where it is of another format than the one of this name."""
    try:
        known = recognizing.readable(path)
    except OSError:  # it has been said what is wrong
        return ""
    if known is None or known.name == name:
        return ""
    what = entry("formats", name).what or name
    return f"{path} is {known.what or known.name}, not {what}: name the format {known.name!r}, or none"


def _raised(progress: Progress | None, error: BaseException) -> bool:
    return isinstance(progress, Told) and progress.raised is error
