"""What replaystore keeps in an HDF5 file, as HDF5 objects: arrays, pieces of the commit log, the document.

Only plain things count: datasets reached by hard links, chunked (arrays) or contiguous (log), whose bytes lie in this file. Soft and
external links, external storage and virtual datasets can make a reader open other files; they are never followed.

Addresses are counted from the first byte of the file, the user block included.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import google_crc32c
import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from replaystore.backends import ArraySpec
from replaystore.backends.codecs import HDF5_DEFLATE, HDF5_ZSTD, hdf5_filters
from replaystore.backends.hdf5_overlay import Overlay
from replaystore.backends.hdf5_transaction import USERBLOCK
from replaystore.errors import CorruptError, ReplayStoreError, SchemaError

__all__ = ["Places", "array", "arrays", "library", "log_names", "log_piece", "log_room", "make_array", "make_file", "put_chunk"]

DOCUMENT = "replaystore"
DOCUMENT_CHECKSUM = "replaystore_crc32c"
LOG = "journal/log"
USED = "used"
ALIGNMENT = 4096
UNKNOWN, ABSENT = -1, -2
ANYWHERE = 1 << 62
"""The end of the HDF5 bytes, during a transaction, when only the library knows it."""
LIBVER = ("v110", "v110")  # what HDF5 1.10 and everything later reads; "latest" is not


@contextmanager
def library(path: str, overlay: Overlay, mode: str, *, aligned: bool = True) -> Iterator[Any]:
    """The HDF5 library's view of an overlay. CorruptError: it cannot make sense of it."""
    alignment = ALIGNMENT if aligned else 1
    try:
        with h5py.File(overlay, mode, libver=LIBVER, alignment_threshold=alignment, alignment_interval=alignment) as file:
            yield file
    except Exception as error:  # h5py raises nearly every exception that there is
        if overlay.failure is None:
            if isinstance(error, CorruptError):
                raise CorruptError(f"{path}: {error}") from error
            if isinstance(error, (ReplayStoreError, MemoryError)):
                raise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CorruptError(f"{path}: HDF5 cannot read it ({reason[0]}); run `replaystore verify`") from error
    if overlay.failure is not None:
        raise overlay.failure


def make_file(document: Mapping[str, Any]) -> Overlay:
    """The HDF5 bytes of an empty store."""
    overlay = Overlay(lambda _offset, length: bytes(length), 0)
    # Without free-space management nothing that was ever written is overwritten, so what a reader knows of stays as it is.
    with h5py.File(overlay, "w", userblock_size=USERBLOCK, fs_strategy="none", libver=LIBVER) as file:
        write_document(file, document)
        h5py.h5g.create(file.id, b"journal")
        h5py.h5g.create(file.id, LOG.encode())
    overlay.pieces.cut(overlay.end)
    return overlay


# --- links


def _child(group: Any, name: bytes) -> Any:
    """The object that a hard link of a group names; None: there is none."""
    if name not in group or group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
        return None
    return h5py.h5o.open(group, name)


def _group(file: Any, path: str, *, make: bool = False) -> Any:
    """A group, reached by hard links alone."""
    group = file.id
    for part in path.split("/") if path else ():
        found = _child(group, part.encode())
        if found is None and make:
            if part.encode() in group:
                group.unlink(part.encode())
            found = h5py.h5g.create(group, part.encode())
        if not isinstance(found, h5py.h5g.GroupID):
            raise CorruptError(f"the group {path} is missing from the file")
        group = found
    return group


def _remove(group: Any, name: bytes) -> None:
    if name in group:
        group.unlink(name)


# --- arrays


def arrays(file: Any) -> dict[str, ArraySpec]:
    """All arrays of the file."""
    return dict(_walk(file.id, "", set()))


def _walk(group: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, ArraySpec]]:
    address = h5py.h5o.get_info(group).addr
    if address in seen:  # hard links can make a circle
        return
    seen.add(address)
    for raw_name in list(group):
        found = _child(group, raw_name)
        name = prefix + raw_name.decode("utf-8", "surrogateescape")
        if isinstance(found, h5py.h5d.DatasetID):
            if h5py.h5a.exists(found, DOCUMENT.encode()):
                yield name, _spec(found, name)
        elif isinstance(found, h5py.h5g.GroupID) and name != LOG:
            yield from _walk(found, name + "/", seen)


def array(file: Any, name: str) -> Any:
    """The dataset of an array."""
    path, _, last = name.rpartition("/")
    found = _child(_group(file, path), last.encode())
    if not isinstance(found, h5py.h5d.DatasetID):
        raise CorruptError(f"the array {name} is missing from the file; run `replaystore verify`")
    return found


def make_array(file: Any, name: str, spec: ArraySpec) -> None:
    """An empty array, in place of what has its name."""
    if spec.row_bytes == 0 or spec.chunk_bytes >= 1 << 32:
        raise SchemaError(f"{name}: HDF5 has no chunks of {spec.chunk_bytes} bytes; use chunks of 1 byte to 4 GiB")
    path, _, last = name.rpartition("/")
    group = _group(file, path, make=True)
    _remove(group, last.encode())
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)  # equal stores are equal files
    plist.set_chunk((spec.chunk_rows, *spec.shape))
    if spec.codec is None:
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    for code, flags, options in hdf5_filters(spec):
        plist.set_filter(code, flags, options)
    space = h5py.h5s.create_simple((0, *spec.shape), (h5py.h5s.UNLIMITED, *spec.shape))
    dtype = h5py.h5t.py_create(spec.dtype.newbyteorder("<"), logical=True)
    made = h5py.Dataset(h5py.h5d.create(group, last.encode(), dtype, space, plist))
    made.dims[0].label = spec.dimension
    own = {"chunks_per_shard": spec.chunks_per_shard, "dimension": spec.dimension}
    flags = {key: True for key in ("journaled", "mutable") if getattr(spec, key)}
    made.attrs[DOCUMENT] = np.bytes_(json.dumps(own | flags))


def _spec(dataset: Any, name: str) -> ArraySpec:
    """The inverse of `make_array`."""
    plist = dataset.get_create_plist()
    if plist.get_layout() != h5py.h5d.CHUNKED or plist.get_external_count():
        raise CorruptError(f"{name}: the bytes of this dataset are not chunks in this file; such datasets are not read")
    own = json.loads(_text(dataset, DOCUMENT, 1 << 16))
    if not isinstance(own, dict):
        raise CorruptError(f"{name}: its attribute `{DOCUMENT}` is damaged")
    per_shard, dimension = own.get("chunks_per_shard"), own.get("dimension")
    if type(per_shard) is not int or per_shard < 1 or type(dimension) is not str:
        raise CorruptError(f"{name}: its attribute `{DOCUMENT}` is damaged")
    dtype, shape, chunk = dataset.dtype, dataset.shape, plist.get_chunk()
    spec = ArraySpec(
        dtype=dtype.newbyteorder("<"),
        shape=tuple(shape[1:]),
        chunk_rows=int(chunk[0]),
        chunks_per_shard=per_shard,
        codec=_codec(plist),
        journaled=own.get("journaled") is True,
        mutable=own.get("mutable") is True,
        dimension=dimension,
    )
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if dtype.kind not in "biufc" or chunk[1:] != shape[1:] or filters != [code for code, _, _ in hdf5_filters(spec)]:
        raise CorruptError(f"{name}: not stored as replaystore stores arrays (type {dtype}, chunks {chunk}, filters {filters})")
    return spec


def _codec(plist: Any) -> str | None:
    for code, name in ((HDF5_DEFLATE, "gzip"), (HDF5_ZSTD, "zstd")):
        for number in range(plist.get_nfilters()):
            found, _, options, _ = plist.get_filter(number)
            if found == code and len(options):
                return f"{name}:{int(options[0])}"
    return None


# --- chunks


@dataclass
class Places:
    """Where the chunks of an array lie, as far as it is known."""

    spec: ArraySpec
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    sure: NDArray[np.bool_]
    """Chunks that were asked for: they hold committed rows, which never move."""
    version: tuple[int, ...]
    row_bytes: int
    chunk_rows: int

    @property
    def chunks(self) -> int:
        return len(self.offsets)

    def resize(self, chunks: int) -> None:
        """Cut the table, or extend it by unknown places."""
        more = max(0, chunks - self.chunks)
        self.offsets = np.concatenate([self.offsets[:chunks], np.full(more, UNKNOWN, np.int64)])
        self.lengths = np.concatenate([self.lengths[:chunks], np.zeros(more, np.int64)])
        self.sure = np.concatenate([self.sure[:chunks], np.zeros(more, np.bool_)])

    def put(self, found: Mapping[int, tuple[int, int]]) -> None:
        for number, (offset, length) in found.items():
            self.offsets[number], self.lengths[number] = offset, length


def chunk_count(dataset: Any, spec: ArraySpec, end: int) -> int:
    """Chunks that the dataset's rows need. CorruptError: more than the file can hold."""
    chunks = -(-int(dataset.shape[0]) // spec.chunk_rows)
    if chunks * (spec.chunk_bytes if spec.codec is None else 1) > end:
        raise CorruptError(f"a dataset says that it has {dataset.shape[0]} rows, more than the file can hold")
    return chunks


def all_places(dataset: Any, spec: ArraySpec, end: int, version: tuple[int, ...]) -> Places:
    """Where all chunks of a dataset lie; `end`: that of the HDF5 bytes."""
    chunks = chunk_count(dataset, spec, end)
    offsets, lengths = np.full(chunks, ABSENT, np.int64), np.zeros(chunks, np.int64)
    if chunks:
        found: list[Any] = []
        dataset.chunk_iter(found.append)
        numbers = np.array([info.chunk_offset[0] for info in found], np.int64) // spec.chunk_rows
        if len(found) and (numbers.min() < 0 or numbers.max() >= chunks):
            raise CorruptError("a dataset has chunks beyond its rows")
        offsets[numbers] = [info.byte_offset + _origins().iterated for info in found]
        lengths[numbers] = [info.size for info in found]
        _check(offsets, lengths, spec, end, [info.filter_mask for info in found])
    return Places(spec, offsets, lengths, np.zeros(chunks, np.bool_), version, spec.row_bytes, spec.chunk_rows)


def some_places(dataset: Any, spec: ArraySpec, end: int, numbers: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Where these chunks lie; (ABSENT, 0) for those that are not stored."""
    places = {number: _place(dataset, spec, number) for number in numbers}
    table = np.array(list(places.values()), np.int64).reshape(-1, 2)
    _check(table[:, 0], table[:, 1], spec, end, [])
    return places


def _place(dataset: Any, spec: ArraySpec, number: int) -> tuple[int, int]:
    info = dataset.get_chunk_info_by_coord((number * spec.chunk_rows, *(0 for _ in spec.shape)))
    if not info.size or info.byte_offset is None:
        return ABSENT, 0
    if info.filter_mask:
        raise CorruptError(f"chunk {number} of a dataset was stored without its filters")
    return info.byte_offset + _origins().asked, info.size


def _check(offsets: NDArray[np.int64], lengths: NDArray[np.int64], spec: ArraySpec, end: int, masks: Iterable[int]) -> None:
    """CorruptError: places that no chunk of ours can have."""
    there = offsets != ABSENT
    offsets, lengths = offsets[there], lengths[there]
    largest = spec.chunk_bytes if spec.codec is None else 2 * spec.chunk_bytes + 4096
    smallest = spec.chunk_bytes if spec.codec is None else 1
    order = np.argsort(offsets)
    overlap = offsets[order][:-1] + lengths[order][:-1] > offsets[order][1:]
    wrong = (offsets < USERBLOCK) | (offsets > end - lengths) | (lengths < smallest) | (lengths > largest)
    if wrong.any() or overlap.any() or any(masks):
        raise CorruptError("the chunk index of a dataset names places that its chunks cannot have")


def put_chunk(dataset: Any, spec: ArraySpec, number: int, data: bytes, overlay: Overlay) -> tuple[int, int]:
    """Store an encoded chunk in new space, and return its place; what it supersedes stays where it is."""
    at = (number * spec.chunk_rows, *(0 for _ in spec.shape))
    if _place(dataset, spec, number)[1] == len(data):
        dataset.write_direct_chunk(at, bytes(1 + (len(data) == 1)))  # HDF5 overwrites a chunk of the same size in place
    dataset.write_direct_chunk(at, data)
    offset, length = _place(dataset, spec, number)
    if offset < overlay.start or length != len(data):
        raise CorruptError(f"HDF5 put a chunk at byte {offset}, into space that is in use")
    return offset, length


# --- the log


def log_names(file: Any) -> dict[int, list[str]]:
    """The datasets of each segment of the log, in order."""
    pieces: dict[int, dict[int, str]] = {}
    for name in list(_group(file, LOG)):
        parsed = re.fullmatch(r"(\d{1,18})(?:\.(\d{1,3}))?", name.decode("utf-8", "replace"))
        if parsed:
            pieces.setdefault(int(parsed[1]), {})[int(parsed[2] or 0)] = parsed[0]
    return {commit: [names[number] for number in sorted(names)] for commit, names in sorted(pieces.items())}


def log_piece(file: Any, name: str, length: int) -> tuple[int, int]:
    """Make room for the log, in place of what has its name; return (offset, length)."""
    group = _group(file, LOG, make=True)
    _remove(group, name.encode())
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    space = h5py.h5s.create_simple((length,))
    made = h5py.h5d.create(group, name.encode(), h5py.h5t.STD_U8LE, space, plist)
    return made.get_offset() + _origins().contiguous, length


def log_room(file: Any, names: Iterable[str], end: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """(pieces, used) of a segment that is not the newest."""
    pieces, used = [], None
    for name in names:
        found = _child(_group(file, LOG), name.encode())
        plist = found.get_create_plist() if isinstance(found, h5py.h5d.DatasetID) else None
        if plist is None or plist.get_layout() != h5py.h5d.CONTIGUOUS or plist.get_external_count() or found.dtype != np.uint8:
            raise CorruptError(f"{LOG}/{name} is not a piece of the log")
        offset, length = (found.get_offset() or 0) + _origins().contiguous, int(found.get_storage_size())
        if not USERBLOCK <= offset <= end - length:
            raise CorruptError(f"{LOG}/{name} lies outside the file")
        if used is None and h5py.h5a.exists(found, USED.encode()):
            used = int(h5py.Dataset(found).attrs[USED])
        pieces.append((offset, length))
    room = sum(length for _, length in pieces)
    return tuple(pieces), room if used is None else max(0, min(used, room))


def end_log(file: Any, commit: int, used: int, successor: int) -> None:
    """Before a segment begins: note how much counts of the one that was the newest, and remove those that come after the new one."""
    group = _group(file, LOG)
    for known, names in log_names(file).items():
        if known >= successor:
            for name in names:
                _remove(group, name.encode())
        elif known == commit:
            h5py.Dataset(_child(group, names[0].encode())).attrs[USED] = np.uint64(used)


# --- the document


def write_document(file: Any, document: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(document, allow_nan=False)  # ASCII, so that every string can be stored
    except ValueError as error:
        raise SchemaError(f"the document cannot be written as JSON ({error})") from None
    file.attrs[DOCUMENT] = text
    file.attrs[DOCUMENT_CHECKSUM] = np.uint32(google_crc32c.value(text.encode()))


def read_document(file: Any) -> str:
    """The text of the document. CorruptError: it is damaged."""
    text = _text(file.id, DOCUMENT, 1 << 30)
    attribute = h5py.h5a.open(file.id, DOCUMENT_CHECKSUM.encode())
    if attribute.shape != () or attribute.dtype != np.uint32 or int(file.attrs[DOCUMENT_CHECKSUM]) != google_crc32c.value(text.encode()):
        raise CorruptError(f"the document (root attribute `{DOCUMENT}`) fails its checksum; run `replaystore repair`")
    return text


def _text(owner: Any, name: str, limit: int) -> str:
    """A scalar string attribute, read only if it is one: an attribute may declare any type and size."""
    attribute = h5py.h5a.open(owner, name.encode())
    kind = attribute.get_type()
    if attribute.shape != () or not isinstance(kind, h5py.h5t.TypeStringID) or kind.get_size() > limit:
        raise CorruptError(f"the attribute `{name}` is not a string")
    value = h5py.AttributeManager(h5py.Dataset(owner) if isinstance(owner, h5py.h5d.DatasetID) else h5py.Group(owner))[name]
    return value.decode() if isinstance(value, bytes) else str(value)


# --- where addresses begin


@dataclass(frozen=True)
class _Origins:
    iterated: int
    asked: int
    contiguous: int


@functools.cache
def _origins() -> _Origins:
    """What is to be added to the addresses that the library reports: some versions forget the user block, and not in every call."""
    memory, size = io.BytesIO(), 512
    with h5py.File(memory, "w", userblock_size=size, libver=LIBVER) as file:
        chunked = file.create_dataset("chunked", data=np.arange(100, dtype=np.uint8), chunks=(100,), maxshape=(None,)).id
        whole = file.create_dataset("whole", data=np.arange(100, 200, dtype=np.uint8)).id
        file.flush()
        found: list[Any] = []
        chunked.chunk_iter(found.append)
        reported = found[0].byte_offset, chunked.get_chunk_info_by_coord((0,)).byte_offset, whole.get_offset()
    data = memory.getvalue()
    true = [data.find(bytes(range(first, first + 100))) for first in (0, 0, 100)]
    shifts = [place - report for place, report in zip(true, reported, strict=True)]
    return _Origins(*(USERBLOCK * (shift != 0) for shift in shifts))
