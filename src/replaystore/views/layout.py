"""How each field is stored: raw or coded, and in chunks of how many rows.

`live`, for a buffer that grows and is sampled: small rows are raw, since random rows of raw arrays are read
at the speed of memory; rows above RAW_BYTES (images) are coded in small chunks. `archive`, for keeping:
everything is coded, in larger chunks.

Of a field of any length there are two arrays: where each step's values begin and end, a small field like
others, which is raw wherever rows are dropped; and the values, a row of which is what follows the length in a
value's shape, so that their chunks follow bytes, and not steps.

Raw chunks are a whole number of pages in every container, so that the chunks of a field can be mapped side by
side, and so that Zarr and HDF5 hold the same bytes and are converted by copying them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import crc32c, parse_codec
from replaystore.containers.protocol import PAGE, Capabilities
from replaystore.errors import ArgumentError, SchemaError, UnsupportedError
from replaystore.schema import tree
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import unknown
from replaystore.trajectories.columns import CHANGING, PARTS, RETURN, TRAJECTORIES

__all__ = ["LAYOUTS", "array_specs", "column_spec", "field_specs", "fitted", "late_specs", "table_spec"]

LAYOUTS = ("live", "archive")
RAW_BYTES = 4096
"""Rows up to this size are raw in a live buffer."""
CHUNK_BYTES = 1 << 19
"""About the size of a raw chunk."""
ROW_COST = 1 << 16
"""Bytes that one random row of all small coded fields may cost to decode, as far as OWN_COST allows."""
OWN_COST = 4500
"""Bytes of rows for each chunk of a field: what a chunk takes by itself (checksum, header, its place in the
index) is a hundredth of them. Measured on vectors of 98 and 170 bytes: 512 rows take 0.2 % (zstd) and 0.9 %
(deflate) more than 8,192, and a row costs a sixteenth."""
IMAGES_LIVE, IMAGES_ARCHIVE = (4, 32), (8, 32)
"""The fewest and the most rows of a chunk of images. Frames compress against each other: 32 Atari frames take
5 to 25 % more (zstd; deflate 2 %) than 64, and a frame costs half; 16 take up to 70 % more.

Where a quarter of the rows is drawn at once, as from a large archive, shorter chunks do not pay: a chunk of 2
deflated frames spares half of the decoding, but each frame then takes 11 us instead of 3.6 (4: 7, 8: 5.1, 16:
4.1), since it does not copy what is in the one before."""
RING_VALUE, RING_LEAST = 512, 256 << 10
"""Bytes of a value of any length that a ring's shards are made for, and the fewest of a shard."""
MOST_ROWS = 1 << 16
"""Rows of a chunk of coded values."""
LONGEST = 150
"""Characters of a name that a dimension is named after."""
FINAL_ROWS = 250
"""Rows of a chunk of final observations."""
CHUNKS_PER_SHARD, SMALL_PER_SHARD = 128, 255
"""So that the index of a shard lies in its first page."""


def array_specs(
    schema: Schema,
    layout: str,
    capabilities: Capabilities,
    *,
    capacity: int | None,
    storage: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, ArraySpec]:
    """The arrays of an empty buffer, by stored name: steps, parts, final observations and trajectories."""
    specs = field_specs(schema.fields, layout, capabilities, capacity=capacity, storage=storage)
    specs[tree.PARTS] = table_spec(np.int64, shape=(len(PARTS),), dimension=tree.DIMENSIONS["parts"])
    specs |= _final_specs(schema.fields, layout, capabilities)
    rewarded = bool(schema.names("reward"))
    for name, dtype in TRAJECTORIES.items():
        if name != RETURN or rewarded:
            shape = schema.return_shape if name == RETURN else ()
            specs[tree.trajectories(name)] = table_spec(dtype, shape=shape, mutable=name in CHANGING)
    if capacity is None:
        return specs
    return {
        name: spec if tree.has_first(tree.group_of(name)) else _dropped_soon(spec, capacity)
        for name, spec in specs.items()
    }


def late_specs(
    fields: Mapping[str, Field],
    capabilities: Capabilities,
    *,
    capacity: int | None,
    storage: Mapping[str, Mapping[str, Any]],
) -> dict[str, ArraySpec]:
    """The arrays of fields that a live buffer gets later than its steps."""
    finals = _final_specs(fields, "live", capabilities)
    if capacity is not None:
        finals = {name: _dropped_soon(spec, capacity) for name, spec in finals.items()}
    return field_specs(fields, "live", capabilities, capacity=capacity, storage=storage) | finals


def _final_specs(
    fields: Mapping[str, Field], layout: str, capabilities: Capabilities
) -> dict[str, ArraySpec]:
    codec = capabilities.codec_for(layout)
    observed = {name: declared for name, declared in fields.items() if declared.role == "observation"}
    return {tree.final(name): _final_spec(declared, codec) for name, declared in observed.items()}


def _dropped_soon(spec: ArraySpec, capacity: int) -> ArraySpec:
    """A table of a ring: its shards are given back one by one, when their steps have left."""
    rows = spec.chunk_rows if spec.codec is not None else PAGE // math.gcd(PAGE, spec.row_bytes)
    shards = max(1, min(spec.chunks_per_shard, capacity // 8 // rows))
    return replace(spec, chunk_rows=rows, chunks_per_shard=shards)


def table_spec(
    dtype: Any, *, shape: tuple[int, ...] = (), dimension: str = "trajectory", mutable: bool = False
) -> ArraySpec:
    """A column of a table. Its chunks are no whole pages, so that in a file of few rows they share one with
    the index: tables are read, and not mapped."""
    return ArraySpec(
        np.dtype(dtype).newbyteorder("<"),
        shape,
        chunk_rows=16000,
        chunks_per_shard=64,
        journaled=True,
        mutable=mutable,
        dimension=dimension,
    )


def column_spec(dtype: Any, others: Mapping[str, ArraySpec]) -> ArraySpec:
    """A column of the user's, of the table of trajectories that these columns are of."""
    spec, like = table_spec(dtype, mutable=True), others[tree.trajectories("env")]
    return replace(spec, chunk_rows=like.chunk_rows, chunks_per_shard=like.chunks_per_shard)


def field_specs(
    fields: Mapping[str, Field],
    layout: str,
    capabilities: Capabilities,
    *,
    capacity: int | None = None,
    storage: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, ArraySpec]:
    """The arrays of fields under `steps/` and `values/`; of a field of any length, overrides are about its
    values. ArgumentError: an override names no field, or has no sense."""
    check_storage(fields, layout, storage)
    overrides = dict(storage or {})
    small = [declared.row_bytes for declared in fields.values() if declared.row_bytes <= RAW_BYTES]
    small_rows = _small_rows(len(small), sum(small))
    specs = {}
    for name, declared in fields.items():
        if declared.row_bytes == 0:
            raise UnsupportedError(f"field {name!r} of shape {declared.shape} has no elements: leave it out")
        own, fixed = overrides.get(name, {}), "chunk_rows" in overrides.get(name, {})
        if not declared.ragged:
            codec, rows = _choose(name, declared, layout, capabilities, small_rows, own)
            specs[tree.steps(name)] = _fit(declared, codec, rows, capacity, fixed=fixed)
            continue
        spans = Field(*declared.stored, "extra")
        raw = {} if capacity is None else {"codec": "raw"}  # each commit reads where the oldest step's begin
        codec, rows = _choose(name, spans, layout, capabilities, small_rows, raw)
        specs[tree.steps(name)] = _fit(spans, codec, rows, capacity, fixed=False)
        values = Field(declared.dtype, declared.inner, "extra")
        most = min(max(_power(ROW_COST // values.row_bytes), 1), MOST_ROWS)
        codec, rows = _choose(name, values, layout, capabilities, most, own)
        specs[tree.values(name)] = _fit_values(name, values, codec, rows, capacity, fixed=fixed)
    return specs


def fitted(specs: Mapping[str, ArraySpec], rows: Mapping[str, int]) -> dict[str, ArraySpec]:
    """The arrays of a store that is never appended to, by how many rows there are: a chunk has no more rows
    (of a raw field, no more pages), and an index no more entries than there are chunks."""
    found = {}
    for name, spec in specs.items():
        count = max(1, rows[name])
        unit = 1 if spec.journaled or spec.codec is not None else PAGE // math.gcd(PAGE, spec.row_bytes)
        chunk_rows = min(spec.chunk_rows, -(-count // unit) * unit)
        chunks = min(spec.chunks_per_shard, -(-count // chunk_rows))
        found[name] = replace(spec, chunk_rows=chunk_rows, chunks_per_shard=chunks)
    return found


def check_capacity(capacity: object) -> None:
    """ArgumentError: not a capacity."""
    if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 1:
        raise ArgumentError(f"capacity is a positive number of steps, not {capacity!r}")


def check_storage(
    fields: Mapping[str, Field], layout: str, storage: Mapping[str, Mapping[str, Any]] | None
) -> None:
    """ArgumentError: there is no such layout, or an override names no field or setting."""
    if layout not in LAYOUTS:
        raise ArgumentError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    if not isinstance(storage or {}, Mapping):
        raise ArgumentError(f"storage is a dict {{field name: settings}}, not {storage!r}")
    for name, override in (storage or {}).items():
        if name not in fields:
            raise unknown(name, fields, where="storage")
        if not isinstance(override, Mapping):
            raise ArgumentError(f"storage of {name!r} is a dict with codec and chunk_rows, not {override!r}")
        wrong = override.keys() - {"codec", "chunk_rows"}
        if wrong:
            raise ArgumentError(
                f"storage of {name!r}: unknown setting {min(wrong)!r}; there are codec and chunk_rows"
            )
        if isinstance(override.get("codec"), str) and override["codec"] != "raw":
            try:
                parse_codec(override["codec"])
            except SchemaError as error:
                raise ArgumentError(f"storage of {name!r}: {error}") from None


def _choose(
    name: str,
    declared: Field,
    layout: str,
    capabilities: Capabilities,
    small_rows: int,
    override: Mapping[str, Any],
) -> tuple[str | None, int]:
    """The codec and the number of rows of a chunk."""
    size, archive = declared.row_bytes, layout == "archive"
    mutable = declared.mutable and not archive
    coded = archive or size > RAW_BYTES
    codec = override.get("codec", capabilities.codec_for(layout) if coded and not mutable else "raw")
    if mutable and codec != "raw":
        raise ArgumentError(
            f"storage of {name!r}: a mutable field is raw, not {codec!r:.80}: leave the codec out, or "
            "convert to an archive once its values are final"
        )
    if not isinstance(codec, str):
        raise ArgumentError(
            f'storage of {name!r}: a codec is a string such as "raw" or "zstd:1", not {codec!r:.80}'
        )
    if codec == "raw":
        rows = max(_power(CHUNK_BYTES // size), PAGE // math.gcd(PAGE, size))
        chosen = None
    else:
        chosen = ":".join(map(str, parse_codec(codec)))
        if size > RAW_BYTES:
            least, most = IMAGES_ARCHIVE if archive else IMAGES_LIVE
            rows = min(max(_power((2 if archive else 1) * CHUNK_BYTES // size), least), most)
        else:  # one number for all small fields, so that one row's chunks are the same of all of them
            rows = small_rows
    wanted = override.get("chunk_rows", rows)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or not 1 <= wanted <= 1 << 30:
        raise ArgumentError(f"storage of {name!r}: chunk_rows is a positive number of rows, not {wanted!r}")
    if chosen is None and wanted * size % PAGE:
        unit = PAGE // math.gcd(PAGE, size)
        raise ArgumentError(
            f"storage of {name!r}: chunk_rows of a raw field of {size} bytes a row must be a multiple of "
            f"{unit}, not {wanted}"
        )
    return chosen, wanted


def _small_rows(fields: int, row_bytes: int) -> int:
    """Rows of a chunk of each of so many small coded fields, whose rows have so many bytes together."""
    least = OWN_COST * fields // max(1, row_bytes)
    return min(max(2 * _power(least), _power(ROW_COST // max(1, row_bytes)), 16), 8192)


def _fit(declared: Field, codec: str | None, rows: int, capacity: int | None, *, fixed: bool) -> ArraySpec:
    """Small enough shards for a ring: at most an eighth of its capacity, or one smallest chunk."""
    shards = SMALL_PER_SHARD if codec is not None and declared.row_bytes <= RAW_BYTES else CHUNKS_PER_SHARD
    if capacity is not None:
        least = PAGE // math.gcd(PAGE, declared.row_bytes) if codec is None else 1
        eighth = max(1, capacity // 8)
        if not fixed:
            rows = max(min(rows, _power(eighth) if codec else eighth // least * least), least)
        shards = min(shards, max(1, eighth // rows))
    return ArraySpec(declared.dtype, declared.shape, chunk_rows=rows, chunks_per_shard=shards, codec=codec)


def _fit_values(
    name: str, values: Field, codec: str | None, rows: int, capacity: int | None, *, fixed: bool
) -> ArraySpec:
    """Shards that are small enough for a ring, whose steps may have values of any length: an eighth of its
    steps with values of RING_VALUE bytes, or the least that is worth a file. One of them may be left of what
    has been dropped."""
    size, shards = values.row_bytes, CHUNKS_PER_SHARD
    if capacity is not None:
        most = min(max(capacity // 8 * RING_VALUE, RING_LEAST), CHUNKS_PER_SHARD * CHUNK_BYTES) // size
        least = PAGE // math.gcd(PAGE, size) if codec is None else 1
        if not fixed:
            rows = max(min(rows, _power(max(1, most)) if codec else most // least * least), least)
        shards = min(shards, max(1, most // rows))
    return ArraySpec(values.dtype, values.shape, rows, shards, codec, dimension=_dimension(name))


def _dimension(name: str) -> str:
    """What readers that name dimensions call the values of a field: another name for each field, since their
    numbers differ."""
    plain = name.isascii() and len(name) <= LONGEST and not re.search("__|_/|/_", name)
    return name.replace("/", "__") + "_value" if plain else f"value_{crc32c(name.encode()):08x}"


def _final_spec(declared: Field, codec: str) -> ArraySpec:
    """Final observations: one row per trajectory, so that small ones are kept as a table is."""
    dtype, shape = declared.stored
    if declared.row_bytes <= RAW_BYTES:
        return replace(table_spec(dtype, shape=shape, dimension="final"), chunk_rows=FINAL_ROWS)
    return ArraySpec(
        dtype,
        shape,
        chunk_rows=16,
        chunks_per_shard=CHUNKS_PER_SHARD,
        codec=":".join(map(str, parse_codec(codec))),
        dimension="final",
    )


def _power(number: int) -> int:
    """The largest power of two that is not larger, at least 1."""
    return 1 << max(0, number.bit_length() - 1)
