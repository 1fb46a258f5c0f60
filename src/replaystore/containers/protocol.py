"""What a backend is: growable arrays and one JSON document, by name. It knows nothing of steps or
trajectories.

A backend is built of two halves. A `Container` says where bytes lie (files of a Zarr directory, places in an
HDF5 file) and makes them durable. `arrays.array_store.ArrayStore` is the other half, the same for every
container: it decides which bytes are written, checks and checksums them, and keeps the commit log, which is
the only truth about how long each array is.

Row r of a raw array lies at byte r * row_bytes of the array's extents laid side by side. Rows of a coded
array lie in encoded chunks of `chunk_rows` rows, each encoded once, when it is full.

More than 25 methods because rows, log and document of a store become durable by one `sync`, and in one file
change in one transaction: objects for each of them would have to know each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.storage.protocol import PAGE, Storage

__all__ = [
    "PAGE",
    "Capabilities",
    "ChunkEntry",
    "Codec",
    "Container",
    "Extent",
]


@dataclass(frozen=True)
class Capabilities:
    """What a container can do, and how it does it; asked instead of its type."""

    one_file: bool = False
    """The store is one file, of the store's name; otherwise a folder of files, each of which may be missing
    by itself."""
    gives_back_space: bool = True
    """Space of dropped rows is given back, so that a ring is possible."""
    knows_its_chunks: bool = False
    """It finds every encoded chunk that was written; otherwise it knows those of complete and of published
    shards, and commits have to say where the others lie."""
    runs_of_shards: bool = True
    """The raw rows of a shard lie side by side, for ever, and an extent begins with a shard; otherwise with
    any chunk."""
    shows_at_once: bool = False
    """`publish` shows the rows of all arrays at once, so that no kill parts them."""
    may_crash: bool = False
    """The library that reads it may crash or hang at a damaged one: `verify` opens it in another process
    first."""
    names_dimensions: bool = True
    """The name of an array's first dimension is stored with it, for other software."""
    chunk_format: Literal["zarr", "hdf5"] = "zarr"
    """How an encoded chunk ends, and what gzip means: containers in which both are alike have the same
    bytes."""
    default_codec: str = "zstd:1"
    """What coded arrays get unless told otherwise."""
    archive_codec: str = "zstd:1"
    """The same in an archive, which is written once."""

    def codec_for(self, layout: str) -> str:
        """What coded arrays get in this layout unless told otherwise."""
        return self.archive_codec if layout == "archive" else self.default_codec

    def run_rows(self, spec: ArraySpec) -> int:
        """An extent of a raw array begins with a multiple of so many rows."""
        return spec.shard_rows if self.runs_of_shards else spec.chunk_rows


@dataclass(frozen=True)
class Extent:
    """A run of bytes of an object: of a raw array's rows, one after another."""

    object: str
    """The name of the object (file) inside the container's `files`."""
    offset: int
    """Where the run begins in the object; a multiple of the page size if the run is to be mapped."""
    length: int
    """Its length in bytes; a multiple of the page size for all but an array's last run."""


class ChunkEntry(NamedTuple):
    """Where an encoded chunk lies."""

    object: str
    offset: int
    length: int


class Codec(Protocol):
    """How the chunks of one array are encoded in one kind of container. Safe to use from several threads at
    once."""

    @property
    def apart(self) -> bool:
        """Chunks are decoded into memory of their own first: `content` is quicker, if not all of it is
        wanted."""

    def encode(self, rows: Any) -> bytes:
        """The stored bytes of a chunk, from its C-order bytes (any contiguous buffer)."""

    def decode(self, data: Any, out: NDArray[np.uint8], *, checked: bool = False) -> None:
        """Decode stored bytes into `out`, which has the chunk's size in bytes. CorruptError: they do not
        decode to that.

        `checked`: `checksum` was what it had to be, so that the container's own need not be looked at."""

    def decode_all(
        self, stored: Sequence[bytes], checksums: Sequence[int], out: NDArray[np.uint8], places: Sequence[int]
    ) -> list[int]:
        """Decode the stored bytes of several chunks to these places of `out`, of shape (chunks, bytes of
        one), each if its checksum is theirs and they decode to its size; which were not."""

    def content(self, data: bytes, checksum: int, size: int) -> NDArray[np.uint8] | None:
        """The bytes of a chunk, which is `apart`; None: another checksum is theirs, or they do not decode to
        that size."""

    def checksum(self, data: Any) -> int:
        """crc32c of the stored bytes less the trailing checksum that the container's own format adds."""


class Container(Protocol):
    """Where the bytes of a store lie. One instance serves one open store; only a writer calls the writing
    half.

    Nothing is durable before `sync`. Methods that write may raise OSError (disk full); calling them again
    with the same arguments must then be possible. Arrays are named by paths such as
    "steps/observation/camera" whose parts are already escaped.
    """

    writable: bool
    capabilities: Capabilities
    path: str
    """Where it is, for messages."""
    lock_name: str
    """The name, in `files`, of the file that a writer locks."""
    metadata_name: str
    """Of a store of many files, the one that describes it, and those that describe its parts in their
    folders; of a store in one file, empty."""
    carry: Callable[[str], AbstractContextManager[Any]]
    """Given by the writer of a store in one file, whose lock is the file's: to be entered, with the path of
    another file, while that takes the name."""

    @property
    def files(self) -> Storage:
        """Through which every byte is read and written. A reader may have been given what only `Reads`."""

    @property
    def watched(self) -> Sequence[tuple[str, int, int]]:
        """What `segments` reads in `files` to see whether the store has gone on, where that is a request:
        (name, offset, length) of each, for who announces several things (`Reads.fetch_ahead`)."""

    def identity(self) -> object:
        """Another one after another file or folder has taken the name. Cheap: of a store in files that cannot
        be listed, as of the last time that `segments` looked."""

    def specs(self) -> Mapping[str, ArraySpec]:
        """All arrays, by name; of a store in files that are far, those that were learnt."""

    def learn(self, specs: Mapping[str, ArraySpec]) -> None:
        """The commit log says that there are these arrays. To be told before `specs` is asked of a store in
        files that are far, whose metadata are not read then."""

    def refresh(self) -> None:
        """Look anew at what another process may have changed: arrays, and where their bytes lie."""

    def create_arrays(self, specs: Mapping[str, ArraySpec]) -> None:
        """Add empty arrays; one of such a name that no commit knows of (left by a killed writer) is
        replaced."""

    def codec(self, spec: ArraySpec) -> Codec:
        """How chunks of a coded array are encoded here. UnsupportedError names the codecs that can be had."""

    def reserve(self, rows: Mapping[str, int]) -> None:
        """Make room for so many rows of each of these raw arrays."""

    def write_rows(self, name: str, start: int, rows: memoryview | bytes) -> None:
        """Write whole rows (flat bytes, C order) of a raw array from row `start` on, inside the reserved
        room."""

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        """Where rows [start, stop) of a raw array lie, in order; `start` is the first row of a shard (of a
        chunk, without shards).

        The last extent ends with row `stop`. CorruptError names the object that is missing or too short for
        its rows."""

    def write_chunks(self, chunks: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[int, ChunkEntry]]:
        """Store encoded chunks {array: {number: bytes}}; a number seen before (a partly filled last chunk) is
        superseded, and its old bytes stay as they are."""

    def write_index(self, name: str, shard: int, entries: Mapping[int, ChunkEntry]) -> None:
        """Write the index of a shard of a coded array that is complete: {chunk number: entry} for all its
        chunks."""

    def entry(self, name: str, chunk: int, *, complete: int = 0) -> ChunkEntry | None:
        """Where an encoded chunk lies, as far as the container itself knows (complete or published shards);
        None: not known.

        `complete`: so many chunks of the array are complete as of a commit, and will not move."""

    def lookups(self, name: str, chunks: Iterable[int]) -> Sequence[tuple[str, int, int]]:
        """What `entry` is going to read, once, to find these chunks: (object, offset, length)."""
        return ()

    def append_record(self, record: bytes) -> None:
        """Append one whole record to the newest segment of the commit log."""

    def begin_segment(self, commit: int, record: bytes) -> None:
        """Start a new segment of the log, whose first record this is, atomically and durably."""

    def segments(self) -> list[int]:
        """The commits that the segments of the log begin with, ascending."""

    def announce_segments(self, starts: Mapping[int, int], *, look: bool = False) -> None:
        """These segments are going to be read, each once, from these bytes on; `look`: after `segments`.
        Where each is a request, they are made side by side."""

    def read_segment(self, commit: int, start: int = 0) -> bytes:
        """The bytes of a segment from `start` on; after the last whole record anything may follow."""

    def replace_segments(self, kept: Mapping[int, bytes], removed: Sequence[int]) -> None:
        """Instead of older segments of the log have these, of one record each, by the commits that they begin
        with, and then remove some: a kill leaves some of either. Whoever reads one of them meanwhile may find
        the old one, the new one, or none."""

    def cut_segment(self, commit: int, length: int) -> None:
        """Forget what follows `length` bytes of a segment, later segments included: the next record is
        appended there."""

    def document(self) -> dict[str, Any]:
        """The JSON document."""

    def replace_document(self, document: Mapping[str, Any]) -> None:
        """Replace it, atomically and durably."""

    def sync(self) -> None:
        """Make all that was written durable. OSError: the state of the disk is unknown, the caller must stop
        writing."""

    def doubt(self, rows: Mapping[str, int]) -> None:
        """A writer that was killed may not have synced what it wrote of these arrays, from these rows on: the
        next `sync` does, whoever wrote it. Nothing to do where it syncs all there is."""

    def publish(self, lengths: Mapping[str, int], entries: Mapping[str, Mapping[int, ChunkEntry]]) -> None:
        """Show so many rows of each array to other software (shapes, indexes), durably.

        `entries` has, for coded arrays, the chunks of the last shard, the partly filled last one included.
        The arrays go on growing afterwards: what other software sees stays at these lengths, or runs ahead,
        until the next `publish`."""

    def published(self) -> Mapping[str, int]:
        """How many rows of each array other software sees, as far as `publish` has said so (where it runs
        ahead: those of few arrays)."""

    def metadata_problems(self) -> Iterator[tuple[str, str]]:
        """What is wrong with the document and the metadata of arrays, as (where, what): for `verify`."""

    def restore(self, specs: Mapping[str, ArraySpec], rows: Mapping[str, int]) -> list[str]:
        """Write metadata anew that are not what was made of these arrays; whose. They show these numbers of
        rows, otherwise none."""

    def index_problems(self, name: str, first: int, rows: int) -> Iterator[tuple[str, str]]:
        """What is wrong with how other software finds the chunks of rows [first, rows) of an array: for
        `verify`."""

    def fork(self, rows: Mapping[str, int]) -> None:
        """Before rows from these on are written anew: give the objects that hold them a new identity (a copy
        of equal content under the same name), so that whoever has the old ones open keeps them unchanged.
        Durable on return."""

    def trim(self, rows: Mapping[str, int]) -> None:
        """Remove what a killed or rolled back writer has left: whole objects (shards) beyond these rows, and
        arrays that are neither named here nor of the journal."""

    def drop_before(self, name: str, row: int, *, since: int | None = None) -> None:
        """Give back the space of shards whose rows all lie before `row`. UnsupportedError: see
        `capabilities`.

        `since`: those before this row are gone already; None: look which are there, as after a kill."""

    def seal(self) -> None:
        """The newest segment of the log is all that is needed, and nothing will be written again: remove
        older segments and the arrays under `journal/` as far as the container can, and help other software to
        open it quickly. Durable on return."""

    def close(self) -> None:
        """Release files and locks; write nothing."""
