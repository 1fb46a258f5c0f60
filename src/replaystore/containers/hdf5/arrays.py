"""Arrays and the document, as HDF5 objects.

An array is a chunked dataset with an attribute `replaystore` (JSON) for what HDF5 has no word for; other
datasets are not ours and are left alone. The document is the root attribute `replaystore`; its checksum lies
beside it, since HDF5 keeps none of long strings.

Strings have a fixed length: those of variable length lie in HDF5's global heap, which has no checksums, and
where a flipped bit can make the library search for ever, or stop the interpreter. So the name of the first
dimension is in our attribute, and is no label of HDF5's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import google_crc32c
import h5py  # type: ignore[import-untyped]
import numpy as np

from replaystore.containers.array_spec import ArraySpec, sound_spec
from replaystore.containers.checks import load_json
from replaystore.containers.codecs import HDF5_DEFLATE, HDF5_ZSTD, hdf5_filters
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.containers.hdf5.library import child, group, library, remove, text_attribute
from replaystore.containers.hdf5.overlay import Overlay
from replaystore.errors import CorruptError, SchemaError
from replaystore.schema.tree import LOG
from replaystore.storage.inside import DEEPEST

__all__ = [
    "array",
    "array_problems",
    "arrays",
    "make_array",
    "make_file",
    "read_document",
    "remove_array",
    "write_document",
]

OWN = "replaystore"
CHECKSUM = "replaystore_crc32c"
FLAGS = ("journaled", "mutable")
MOST_TEXT = 128 << 20
"""Bytes of the document, 16 MiB at most, whose letters may take six each."""


def make_file(path: str, document: Mapping[str, Any]) -> Overlay:
    """The HDF5 bytes of an empty store; `path` is for messages."""
    overlay = Overlay(lambda _offset, length: bytes(length), 0)
    # Without free-space management nothing that was ever written is overwritten, so what a reader knows of
    # stays as it is.
    with library(path, overlay, "w", aligned=False, userblock_size=USERBLOCK, fs_strategy="none") as file:
        write_document(file, document)
        group(file, LOG, make=True)
    overlay.pieces.cut(overlay.end)
    return overlay


# --- arrays


def arrays(file: Any) -> dict[str, ArraySpec]:
    """All arrays of the file."""
    return dict(_walk(file.id, "", set()))


def _walk(owner: Any, prefix: str, seen: set[int]) -> Iterator[tuple[str, ArraySpec]]:
    if prefix.count("/") > DEEPEST:
        raise CorruptError(f"groups lie more than {DEEPEST} deep in each other; do not trust this store")
    address = h5py.h5o.get_info(owner).addr
    if address in seen:  # hard links can make a circle
        return
    seen.add(address)
    for key in list(owner):
        part = key.decode("utf-8", "surrogateescape")
        found, name = child(owner, part) if part.isprintable() else None, prefix + part
        if isinstance(found, h5py.h5d.DatasetID):
            if h5py.h5a.exists(found, OWN.encode()):
                yield name, _spec(found, name)
        elif isinstance(found, h5py.h5g.GroupID) and name != LOG:
            yield from _walk(found, name + "/", seen)


def array(file: Any, name: str) -> Any:
    """The dataset of an array."""
    path, _, last = name.rpartition("/")
    found = child(group(file, path), last)
    if not isinstance(found, h5py.h5d.DatasetID):
        raise CorruptError(f"the array {name} is missing; run `replaystore verify`")
    return found


def remove_array(file: Any, name: str) -> None:
    """Remove an array, and groups that are then empty."""
    path, _, last = name.rpartition("/")
    remove(group(file, path), last)
    while path and not list(group(file, path)):
        path, _, last = path.rpartition("/")
        remove(group(file, path), last)


def array_problems(file: Any) -> list[tuple[str, str]]:
    """What other software sees of arrays that is not as it was made, as (where, what)."""
    problems = []
    for name, spec in arrays(file).items():
        largest = h5py.Dataset(array(file, name)).maxshape
        if largest != (None, *spec.shape):
            problems.append((name, f"it cannot grow: its largest shape is {largest}"))
    file.visititems(lambda *_: None)  # as it does: also to what we find by other ways, such as the directory
    return problems


def make_array(file: Any, name: str, spec: ArraySpec) -> None:
    """An empty array, in place of what has its name."""
    if spec.row_bytes == 0 or spec.chunk_bytes >= 1 << 32:
        raise SchemaError(
            f"{name}: HDF5 has no chunks of {spec.chunk_bytes} bytes; use chunks of at least "
            "1 byte and less than 4 GiB"
        )
    path, _, last = name.rpartition("/")
    owner = group(file, path, make=True)
    remove(owner, last)
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
    made = h5py.Dataset(h5py.h5d.create(owner, last.encode(), dtype, space, plist))
    own = {
        "chunks_per_shard": spec.chunks_per_shard,
        "dimension": spec.dimension,
        **{flag: True for flag in FLAGS if getattr(spec, flag)},
    }
    made.attrs[OWN] = np.bytes_(json.dumps(own))


def _spec(dataset: Any, name: str) -> ArraySpec:
    """The inverse of `make_array`."""
    plist = dataset.get_create_plist()
    if plist.get_layout() != h5py.h5d.CHUNKED or plist.get_external_count():
        raise CorruptError(f"{name}: its bytes are not chunks in this file; such datasets are not read")
    own = load_json(text_attribute(dataset, OWN, 1 << 16), f"{name}, its attribute `{OWN}`")
    if not isinstance(own, dict) or not {"chunks_per_shard", "dimension"} <= own.keys():
        raise CorruptError(f"{name}: its attribute `{OWN}` is damaged; run `replaystore verify`")
    dtype, shape, chunk = dataset.dtype, dataset.shape, plist.get_chunk()
    filters = [plist.get_filter(number) for number in range(plist.get_nfilters())]
    journaled, mutable = own.get("journaled") is True, own.get("mutable") is True
    try:
        spec = sound_spec(
            dtype.name,
            chunk[0],
            own["chunks_per_shard"],
            _codec(filters),
            journaled,
            mutable,
            own["dimension"],
            *shape[1:],
        )
    except (TypeError, ValueError) as error:
        raise CorruptError(
            f"{name}: there is no array of ours with {error}; run `replaystore verify`"
        ) from None
    codes = [code for code, *_ in filters]
    if dtype != spec.dtype or chunk[1:] != shape[1:] or codes != [code for code, _, _ in hdf5_filters(spec)]:
        raise CorruptError(
            f"{name}: not stored as replaystore stores arrays (type {dtype}, chunks {chunk}, filters {codes})"
        )
    return spec


def _codec(filters: Iterable[Any]) -> str | None:
    """The codec of a dataset that has these filters, in our words."""
    for code, _, options, _ in filters:
        if code in (HDF5_DEFLATE, HDF5_ZSTD) and len(options):
            return f"{'gzip' if code == HDF5_DEFLATE else 'zstd'}:{int(options[0])}"
    return None


# --- the document


def write_document(file: Any, document: Mapping[str, Any]) -> str:
    """Replace the document; its text. SchemaError: it is not JSON."""
    try:
        text = json.dumps(document, allow_nan=False)  # ASCII, so that every string can be stored
    except (TypeError, ValueError) as error:
        raise SchemaError(f"the document cannot be written as JSON ({error})") from None
    file.attrs[OWN] = np.bytes_(text)
    file.attrs[CHECKSUM] = np.uint32(google_crc32c.value(text.encode()))
    return text


def read_document(file: Any) -> str:
    """The text of the document. CorruptError: it is damaged."""
    text = text_attribute(file.id, OWN, MOST_TEXT)
    attribute = h5py.h5a.open(file.id, CHECKSUM.encode())
    if (
        attribute.shape != ()
        or attribute.dtype != np.uint32
        or int(file.attrs[CHECKSUM]) != google_crc32c.value(text.encode())
    ):
        raise CorruptError(
            f"the document (root attribute `{OWN}`) fails its checksum; run `replaystore repair`"
        )
    return text
