"""How an array is stored, and what there can be: whatever the log, or the metadata of an array, says of one
is made of what `sound_spec` lets pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from replaystore.errors import CorruptError

__all__ = ["DTYPES", "ArraySpec", "dtype_named", "sound_spec"]

DTYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    *("bool", "float16", "float32", "float64", "complex64", "complex128")
}
"""The dtypes that an array may have, by name."""
MOST_BYTES = 1 << 30
"""Of a row, and of a coded chunk: so much memory is taken before it is known what decoding gives."""
MOST_CHUNK = 1 << 34
"""Bytes of a raw chunk, which is read in blocks."""
MOST_ROWS = 1 << 30
"""Rows of a chunk."""
MOST_CHUNKS = 1 << 16
"""Chunks of a shard, whose index is read whole."""
MOST_DIMENSIONS = 31
LONGEST_SETTING = 200
"""Characters of a codec or a dimension."""


@dataclass(frozen=True)
class ArraySpec:
    """How one array is stored."""

    dtype: np.dtype[Any]
    """A boolean, integer, float or complex dtype; stored little-endian."""
    shape: tuple[int, ...]
    """The shape of one row."""
    chunk_rows: int
    """Rows of a chunk, the unit of coding and checksums."""
    chunks_per_shard: int = 128
    """Chunks of a shard (Zarr: of a file)."""
    codec: str | None = None
    """None: raw bytes. Otherwise "zstd:LEVEL" or "gzip:LEVEL"."""
    journaled: bool = False
    """Rows are carried by the commit record first and reach the array in bulk: for small tables that every
    commit touches."""
    mutable: bool = False
    """Rows of a journaled array may change later; the array itself is then only a copy for other software."""
    dimension: str = "step"
    """The name of the first dimension, for readers that name dimensions."""

    def to_json(self) -> dict[str, Any]:
        """What the commit log says of an array: the one place that is believed. What is usual is left out."""
        found: dict[str, Any] = {"dtype": self.dtype.name, "chunk_rows": self.chunk_rows}
        if self.shape:
            found["shape"] = list(self.shape)
        return found | {
            key: getattr(self, key) for key, usual in _USUAL.items() if getattr(self, key) != usual
        }

    @classmethod
    def from_json(cls, values: Any) -> ArraySpec:
        """The inverse. CorruptError: no array of ours is like that."""
        try:
            given = [values.get(key, usual) for key, usual in _USUAL.items()]
            return sound_spec(values["dtype"], values["chunk_rows"], *given, *values.get("shape", ()))
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise CorruptError(
            f"the commit log describes an array that there cannot be: {values!r:.200}; run "
            "`replaystore verify`"
        )

    def problem(self) -> str:
        """Why there can be no such array; empty if there can. Sizes are made of what this lets pass."""
        counts = (
            (self.chunk_rows, MOST_ROWS),
            (self.chunks_per_shard, MOST_CHUNKS),
            *((length, MOST_BYTES) for length in self.shape),
        )
        if len(self.shape) > MOST_DIMENSIONS or any(
            type(value) is not int or not 1 <= value <= most for value, most in counts
        ):
            return (
                f"rows of shape {self.shape!r:.80}, {self.chunk_rows!r:.40} in a chunk, "
                f"{self.chunks_per_shard!r:.40} chunks in a shard"
            )
        if self.row_bytes > MOST_BYTES or self.chunk_bytes > (
            MOST_BYTES if self.codec is not None else MOST_CHUNK
        ):
            return f"{self.row_bytes} bytes in a row, {self.chunk_bytes} in a chunk"
        kinds = (self.journaled, bool), (self.mutable, bool), (self.dimension, str), (self.codec, str | None)
        wrong = [
            value for value, kind in kinds if not isinstance(value, kind) or len(str(value)) > LONGEST_SETTING
        ]
        return f"{wrong[0]!r:.40} among its settings" if wrong else ""

    @cached_property
    def row_bytes(self) -> int:
        return int(self.dtype.itemsize) * math.prod(self.shape)

    @cached_property
    def chunk_bytes(self) -> int:
        return self.chunk_rows * self.row_bytes

    @cached_property
    def shard_rows(self) -> int:
        return self.chunk_rows * self.chunks_per_shard


@lru_cache(maxsize=1024, typed=True)
def sound_spec(
    dtype: str,
    chunk_rows: int,
    chunks_per_shard: int,
    codec: str | None,
    journaled: bool,
    mutable: bool,
    dimension: str,
    *shape: int,
) -> ArraySpec:
    """How an array is stored, as the log or the metadata of the array says it. ValueError: there can be no
    such array.

    Cached: both say the same, many arrays are of one kind, and a store is opened more than once."""
    spec = ArraySpec(
        dtype_named(dtype), shape, chunk_rows, chunks_per_shard, codec, journaled, mutable, dimension
    )
    problem = spec.problem()
    if problem:
        raise ValueError(problem)
    return spec


def dtype_named(name: object) -> np.dtype[Any]:
    """The little-endian dtype of this name. ValueError: an array has none like it."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"data type {name!r:.40}")
    return np.dtype(name).newbyteorder("<")


_USUAL: dict[str, Any] = {
    "chunks_per_shard": 128,
    "codec": None,
    "journaled": False,
    "mutable": False,
    "dimension": "step",
}
