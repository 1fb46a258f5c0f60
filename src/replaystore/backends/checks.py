"""What is asked of metadata before anything is made or read by it: a store may be a stranger's, and its checksums right.

Nothing is believed that sizes are made of: what a spec says is bounded here, and compared with the sizes of files where rows are read.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from replaystore.backends import ArraySpec
from replaystore.errors import CorruptError

__all__ = ["DTYPES", "MOST_DECODED", "MOST_JSON", "MOST_NUMBER", "as_number", "is_count", "load_json", "spec_problem"]

MOST_JSON = 64 << 20
"""Bytes of a zarr.json or a manifest: that of the root holds the document, 16 MiB at most, and a copy of all others."""
MOST_DECODED = 1 << 30
"""Bytes of a coded chunk and of a row: so much memory is taken before it is known what decoding gives."""
MOST_CHUNK = 1 << 34
"""Bytes of a raw chunk, which is read in blocks."""
MOST_ROWS = 1 << 30
"""Rows of a chunk."""
MOST_CHUNKS = 1 << 16
"""Chunks of a shard, whose index is read whole."""
MOST_DIMENSIONS = 31
MOST_NUMBER = 1 << 62
"""Of rows, bytes, commits: sums of two stay 64-bit numbers."""
DTYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    *("bool", "float16", "float32", "float64", "complex64", "complex128")
}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def is_count(value: object, most: int = MOST_NUMBER) -> bool:
    """Whether this is a number that counts something."""
    return type(value) is int and 0 <= value <= most


def as_number(name: str) -> int | None:
    """The number that a file is named by; None: it is named otherwise."""
    return int(name) if _NUMBER.fullmatch(name) else None


def load_json(data: bytes | str, where: str) -> Any:
    """JSON. CorruptError: it is none, or nested too deep to be read."""
    try:
        return json.loads(data)
    except RecursionError:
        what = "it is nested too deep"
    except ValueError as error:
        what = str(error)
    raise CorruptError(f"{where}: not valid JSON ({what:.200}); run `replaystore repair`") from None


def spec_problem(spec: ArraySpec) -> str:
    """Why there can be no array like this; empty if there can."""
    if spec.dtype.name not in DTYPES:
        return f"its dtype is {spec.dtype}"
    if len(spec.shape) > MOST_DIMENSIONS or not all(is_count(length) and length for length in spec.shape):
        return f"the shape of a row is {spec.shape!r:.80}"
    if not (is_count(spec.chunk_rows, MOST_ROWS) and spec.chunk_rows):
        return f"a chunk has {spec.chunk_rows!r:.40} rows"
    if not (is_count(spec.chunks_per_shard, MOST_CHUNKS) and spec.chunks_per_shard):
        return f"a shard has {spec.chunks_per_shard!r:.40} chunks"
    coded = spec.codec is not None and not spec.journaled
    if spec.row_bytes > MOST_DECODED or spec.chunk_bytes > (MOST_DECODED if coded else MOST_CHUNK):
        return f"a row has {spec.row_bytes} bytes, a chunk {spec.chunk_bytes}"
    if not isinstance(spec.dimension, str):
        return f"its first dimension is named {spec.dimension!r:.40}"
    return ""


def little(name: object) -> np.dtype[Any]:
    """The little-endian dtype of this name. ValueError: there is none."""
    if not isinstance(name, str) or name not in DTYPES:
        raise ValueError(f"data type {name!r:.40}")
    return np.dtype(name).newbyteorder("<")
