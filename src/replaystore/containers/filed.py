"""The beginning of a container of many files: the commit log and what is durable, and defaults for what a
plain container need not do.

A subclass has `metadata_name`, `create` and `open`, `specs` and `create_arrays`, `document` and
`replace_document`, `write_rows` and `extents`, `write_chunks` and `entry`, `publish` and `published`, `fork`
and `trim`; `Container` says what each of them must do. Files that it writes are made with `_touch`, so that
`sync` makes them durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import codec_for
from replaystore.containers.protocol import Capabilities, ChunkEntry, Codec
from replaystore.containers.zarr.log import LoggedFiles
from replaystore.errors import UnsupportedError
from replaystore.schema.tree import LOG

__all__ = ["FiledContainer"]


class FiledContainer(LoggedFiles):
    """What containers of many files have in common."""

    carry: Callable[[str], AbstractContextManager[Any]] = nullcontext
    capabilities = Capabilities()
    lock_name = f"{LOG}/lock"

    @classmethod
    def for_repair(cls, files: Any, _: str) -> Any:
        """Not without knowing how to write metadata anew."""
        raise UnsupportedError(f"{files.path('')}: such a store cannot be repaired; restore it from a copy")

    def identity(self) -> object:
        return self.files.identity() if self._named is None else self._named.identity()

    def refresh(self) -> None:
        if not self.writable:
            self.files.close()  # a rollback gives files a new identity

    def announce_segments(self, starts: Mapping[int, int], *, look: bool = False) -> None:
        if self._named is not None:
            self._named.announce(starts, look=look)

    def learn(self, specs: Mapping[str, ArraySpec]) -> None:
        """Nothing to do where the arrays themselves say what they are."""

    def codec(self, spec: ArraySpec) -> Codec:
        return codec_for("zarr", spec)

    def reserve(self, rows: Mapping[str, int]) -> None:
        """Nothing to do: files grow as they are written."""

    def write_index(self, name: str, shard: int, entries: Mapping[int, ChunkEntry]) -> None:
        """Nothing to do where the container finds every chunk, or asks nobody else to."""

    def lookups(self, name: str, chunks: Iterable[int]) -> Sequence[tuple[str, int, int]]:
        return ()

    def metadata_problems(self) -> Iterator[tuple[str, str]]:
        yield from ()

    def index_problems(self, name: str, first: int, rows: int) -> Iterator[tuple[str, str]]:
        yield from ()

    def restore(self, specs: Mapping[str, ArraySpec], rows: Mapping[str, int]) -> list[str]:
        return []

    def doubt(self, rows: Mapping[str, int]) -> None:
        """Of files that another process may have written to, the container itself knows which they are."""

    def drop_before(self, name: str, row: int, *, since: int | None = None) -> None:
        raise UnsupportedError(f"{self.path} gives no space back: use a .zarr location for a ring")

    def seal(self) -> None:
        *older, newest = self.segments()
        self._name_segments([newest], exactly=True)
        for commit in older:
            self.files.remove(f"{LOG}/{commit}")
        self.files.sync_folder(LOG)

    def close(self) -> None:
        self.files.close()
