"""What the metadata and indexes of a Zarr v3 hierarchy of ours say: zarr.json of groups and arrays, and the
index of a shard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec, sound_spec
from replaystore.containers.checks import MOST_JSON, as_number, is_count, load_json
from replaystore.containers.codecs import crc32c, parse_codec, zarr_codecs
from replaystore.containers.protocol import PAGE, ChunkEntry
from replaystore.errors import CorruptError
from replaystore.schema.tree import LOG
from replaystore.storage.protocol import Reads

__all__ = [
    "CHECKSUM",
    "CONVENTION",
    "GROUP",
    "MANIFEST",
    "NOWHERE",
    "SHOWN",
    "array_metadata",
    "as_json",
    "consolidated",
    "decoded_metadata",
    "document_checksum",
    "group_metadata",
    "header_bytes",
    "raw_index",
    "shard_key",
    "shard_name",
    "shard_number",
    "spec_of",
    "with_checksum",
    "with_copies",
]

NOWHERE = 2**64 - 1
MANIFEST = f"{LOG}/manifest-sha256.txt"
"""What a sealed store has, and no other."""
SHOWN = "replaystore_shown"
"""The attribute of the root of a `zarr_store()`, which no store has: the commit that is shown, and which row
ever written row 0 is."""
GROUP: Mapping[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": {}}
CHECKSUM = "replaystore_crc32c"
_NOTHING_INSIDE: Mapping[str, Any] = {"kind": "inline", "must_understand": False, "metadata": {}}
"""Consolidated metadata of a group whose members are listed by the root."""
CONVENTION = {
    "uuid": "6a0f6d5c-58a5-4c0a-9a53-0f4f1d0b7a51",
    "name": "replaystore",
    "description": (
        "Reinforcement-learning buffer: rows under steps/ are steps; the root attribute "
        "`replaystore` describes them."
    ),
}


def header_bytes(spec: ArraySpec) -> int:
    """Where the chunks of a shard begin: behind the index, on a page if they are raw and whole pages
    themselves, so that they can be mapped."""
    index = 16 * spec.chunks_per_shard + 4
    return index if spec.codec is not None or spec.chunk_bytes % PAGE else -(-index // PAGE) * PAGE


def shard_name(name: str, spec: ArraySpec, shard: int) -> str:
    """The file of a shard: Zarr's default chunk keys, whose separator makes no folders."""
    return f"{name}/{shard_key(spec, shard)}"


def shard_key(spec: ArraySpec, shard: int) -> str:
    """The name of a shard in the folder of its array."""
    return f"c.{shard}" + ".0" * len(spec.shape)


def shard_number(spec: ArraySpec, key: str) -> int | None:
    """The shard that has this name; None: none has."""
    number = as_number(key.split(".", 2)[1]) if key.startswith("c.") else None
    return number if number is not None and key == shard_key(spec, number) else None


def consolidated(files: Reads) -> dict[str, Any]:
    """The metadata of the root with a copy of all other metadata in it, as zarr-python writes and reads
    it."""
    nodes = {}
    for name in files.walk():
        if name.endswith("/zarr.json"):
            node = load_json(files.read_whole(name, MOST_JSON), files.path(name))
            if not isinstance(node, dict):
                raise CorruptError(
                    f"{files.path(name)}: no metadata of an array or group; run `replaystore verify`"
                )
            nodes[name.removesuffix("/zarr.json")] = node
    root = load_json(files.read_whole("zarr.json", MOST_JSON), files.path("zarr.json"))
    return with_copies(root, nodes)


def with_copies(group: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The metadata of a group with copies of those of all that lies below it, by relative path."""
    nothing = {"consolidated_metadata": _NOTHING_INSIDE}
    copies = {
        name: node if node.get("node_type") == "array" else {**node, **nothing}
        for name, node in nodes.items()
    }
    return {**group, "consolidated_metadata": {**_NOTHING_INSIDE, "metadata": copies}}


def with_checksum(index: np.ndarray[Any, Any]) -> bytes:
    data = index.tobytes()
    return data + crc32c(data).to_bytes(4, "little")


def raw_index(spec: ArraySpec, chunks: int) -> bytes:
    index = np.full((spec.chunks_per_shard, 2), NOWHERE, "<u8")
    index[:chunks, 0] = header_bytes(spec) + np.arange(chunks, dtype="<u8") * spec.chunk_bytes
    index[:chunks, 1] = spec.chunk_bytes
    return with_checksum(index)


def coded_index(spec: ArraySpec, entries: Mapping[int, ChunkEntry]) -> bytes:
    """The index of a shard that has these chunks."""
    index = np.full((spec.chunks_per_shard, 2), NOWHERE, "<u8")
    for number, entry in entries.items():
        index[number % spec.chunks_per_shard] = entry.offset, entry.length
    return with_checksum(index)


def as_json(content: Mapping[str, Any]) -> bytes:
    return _text(content).encode()


_text = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def group_metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    attributes = {
        "replaystore": dict(document),
        CHECKSUM: document_checksum(document),
        "zarr_conventions": [CONVENTION],
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def document_checksum(document: Mapping[str, Any]) -> int:
    """crc32c of the document as JSON with sorted keys and no spaces."""
    return crc32c(json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode())


def array_metadata(spec: ArraySpec, rows: int, name: str) -> dict[str, Any]:
    """zarr.json of an array."""
    sharding = {
        "chunk_shape": [spec.chunk_rows, *spec.shape],
        "codecs": _plain_codecs(spec) if spec.codec is None else zarr_codecs(spec),
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "start",
    }
    flags = {"journaled": spec.journaled, "mutable": spec.mutable}
    codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    attributes = (
        {"replaystore": {key: True for key, on in flags.items() if on}} if any(flags.values()) else {}
    )
    return _array_metadata(spec, rows, name, spec.shard_rows, codecs) | {"attributes": attributes}


def decoded_metadata(spec: ArraySpec, rows: int, name: str, chunk_rows: int) -> dict[str, Any]:
    """zarr.json of the rows of an array, decoded, in chunks of so many: no shards, no codec, nothing of how
    they are stored."""
    return _array_metadata(spec, rows, name, chunk_rows, _plain_codecs(spec)) | {"attributes": {}}


def _plain_codecs(spec: ArraySpec) -> list[dict[str, Any]]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    return [little if spec.dtype.itemsize > 1 else {"name": "bytes"}]


def _array_metadata(
    spec: ArraySpec, rows: int, name: str, chunk_rows: int, codecs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What is alike in the metadata of stored and of decoded arrays."""
    kind = spec.dtype.kind
    zero: Any = False if kind == "b" else [0.0, 0.0] if kind == "c" else 0.0 if kind == "f" else 0
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *spec.shape],
        "data_type": spec.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *spec.shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": zero,
        "codecs": list(codecs),
        "dimension_names": [
            spec.dimension,
            *(f"{name.split('/', 1)[-1]}_{axis}" for axis in range(len(spec.shape))),
        ],
    }


def spec_of(metadata: Mapping[str, Any], where: str) -> ArraySpec:
    """The inverse of `array_metadata`. CorruptError: no array of ours can have it."""
    try:
        (sharding,) = metadata["codecs"]
        inner, flags = sharding["configuration"], metadata.get("attributes", {}).get("replaystore", {})
        (rows, *shape), (shard_rows, *shard_shape) = (
            metadata["shape"],
            metadata["chunk_grid"]["configuration"]["chunk_shape"],
        )
        chunk_rows, *chunk_shape = inner["chunk_shape"]
        if not (is_count(rows) and is_count(shard_rows) and is_count(chunk_rows) and chunk_rows):
            raise ValueError(
                f"{rows!r:.40} rows, {shard_rows!r:.40} of a shard, {chunk_rows!r:.40} of a chunk"
            )
        if (
            sharding["name"] != "sharding_indexed"
            or shard_rows % chunk_rows
            or not shape == shard_shape == chunk_shape
        ):
            raise ValueError(
                f"codec {sharding['name']!r:.40}, shards of {shard_rows} rows, chunks of {chunk_rows}"
            )
        codec, dimension = _codec_name(inner["codecs"]), (metadata.get("dimension_names") or ["step"])[0]
        journaled, mutable = bool(flags.get("journaled")), bool(flags.get("mutable"))
        spec = sound_spec(
            metadata["data_type"],
            chunk_rows,
            shard_rows // chunk_rows,
            codec,
            journaled,
            mutable,
            dimension,
            *shape,
        )
        if inner["codecs"] != zarr_codecs(spec):
            raise ValueError(f"codecs {inner['codecs']!r:.80}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        raise CorruptError(
            f"{where}: not the metadata of an array of ours ({what:.200}); run `replaystore verify`"
        ) from None
    return spec


def _codec_name(chain: Sequence[Mapping[str, Any]]) -> str | None:
    """The codec of an array's inner chunks, in our words. SchemaError (a ValueError): it is not one of
    ours."""
    if len(chain) == 1:
        return None
    return ":".join(map(str, parse_codec(f"{chain[1]['name']}:{chain[1]['configuration']['level']}")))
