"""Arrays and rows for the tests of codecs."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import (
    ChunkCodec,
)
from replaystore.containers.protocol import Codec

Kind = Literal["zarr", "hdf5"]
KINDS: list[Kind] = ["zarr", "hdf5"]
CODECS = ["zstd:1", "zstd:9", "gzip:1", "gzip:6"]
DTYPES = ["bool", "u1", "i1", "f2", "u2", "i4", "f4", "i8", "f8", "c8", "c16"]
_protocols: list[type[Codec]] = [ChunkCodec]


def spec_of(
    dtype: str, codec: str | None, *, shape: tuple[int, ...] = (3, 5), chunk_rows: int = 7
) -> ArraySpec:
    return ArraySpec(np.dtype(dtype), shape, chunk_rows, chunks_per_shard=4, codec=codec)


def rows_of(spec: ArraySpec, count: int, seed: int = 0) -> NDArray[Any]:
    values = np.random.default_rng(seed).integers(0, 3, (count, *spec.shape))
    rows: NDArray[Any] = (values.astype(spec.dtype) * (1 + 2j) if spec.dtype.kind == "c" else values).astype(
        spec.dtype
    )
    return rows


def decoded(codec: ChunkCodec, data: Any, spec: ArraySpec) -> NDArray[Any]:
    out = np.full(spec.chunk_bytes, 255, np.uint8)
    codec.decode(data, out)
    return out.view(spec.dtype).reshape(spec.chunk_rows, *spec.shape)
