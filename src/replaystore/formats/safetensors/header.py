"""The header of a file of safetensors: which tensors there are, of which dtype and shape, and where.

Nothing in it is believed: it is bounded in size, tensors lie one behind the other and fill the file, and each
has as many bytes as its shape says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from replaystore.errors import CorruptError, FormatError
from replaystore.formats.shared.file_rows import FileRows
from replaystore.schema import strict_json
from replaystore.storage.local import read_all

__all__ = ["DTYPES", "NAMES", "Tensor", "encoded", "read_header", "rows_of"]

MOST_HEADER = 16 << 20
MOST_TENSORS = 1 << 16
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"I{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BF16": np.dtype("<u2"),
    "C64": np.dtype("<c8"),
}
"""Those that arrays have; of BF16 the bits."""
NAMES = {dtype: name for name, dtype in DTYPES.items() if name not in ("BF16", "C64")}
OTHERS = {"F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1}
"""Bytes of a number of what no array has."""


@dataclass(frozen=True)
class Tensor:
    """One tensor."""

    name: str
    kind: str
    """Its dtype, as safetensors calls it."""
    shape: tuple[int, ...]
    offset: int
    """In the file."""

    @property
    def known(self) -> bool:
        """Whether arrays have its dtype."""
        return self.kind in DTYPES

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array that it becomes."""
        return np.dtype("<f4") if self.kind == "BF16" else DTYPES[self.kind]


def read_header(descriptor: int, size: int, path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and its metadata. FormatError: it is none, or damaged."""
    length = int.from_bytes(read_all(descriptor, 0, min(8, size)), "little")
    if size < 8 or not 2 <= length <= min(MOST_HEADER, size - 8):
        raise FormatError(f"{path} is not a safetensors file, or it ends in its header: save it again")
    try:
        content = strict_json.decoded(read_all(descriptor, 8, length))
    except ValueError as error:
        raise FormatError(f"{path}: its header is no JSON ({error}): it is no safetensors file") from None
    if not isinstance(content, dict) or len(content) > MOST_TENSORS:
        raise FormatError(f"{path}: its header does not describe tensors: it is damaged")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError(f"{path}: its metadata are no texts: it is damaged")
    found = {name: _tensor(name, said, 8 + length, path) for name, said in content.items()}
    end = 8 + length
    for tensor, count in sorted(found.values(), key=lambda one: (one[0].offset, one[1])):
        if tensor.offset != end:
            raise FormatError(f"{path}: the tensor {tensor.name!r:.80} has no proper place: it is damaged")
        end += count
    if end != size:
        raise CorruptError(
            f"{path} has {size} bytes, and its header speaks of {end}: it is damaged, or was not written to "
            "its end"
        )
    return {name: tensor for name, (tensor, _) in found.items()}, metadata


def _tensor(name: str, said: Any, begin: int, path: str) -> tuple[Tensor, int]:
    """A tensor, and how many bytes it has."""
    offsets: Any = said.get("data_offsets") if isinstance(said, dict) else None
    shape: Any = said.get("shape") if isinstance(said, dict) else None
    if not _numbers(shape) or len(shape) > 32 or not _numbers(offsets) or len(offsets) != 2:
        raise FormatError(f"{path}: the tensor {name!r:.80} has no proper shape or place: it is damaged")
    kind, count = said.get("dtype"), offsets[1] - offsets[0]
    each = OTHERS.get(kind) if isinstance(kind, str) else None
    if isinstance(kind, str) and kind in DTYPES:
        each = DTYPES[kind].itemsize
    if each is not None and math.prod(shape) * each != count:
        raise FormatError(
            f"{path}: the tensor {name!r:.80} of shape {shape!r:.60} has {count} bytes: it is damaged"
        )
    if count < 0:
        raise FormatError(f"{path}: the tensor {name!r:.80} has no proper place: it is damaged")
    return Tensor(name, str(kind), tuple(shape), begin + offsets[0]), count


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)


def rows_of(descriptor: int, tensor: Tensor, path: str) -> FileRows:
    """The rows of a tensor, of one dimension at least."""
    where = f"{path}: the tensor {tensor.name!r}"
    dtype = DTYPES[tensor.kind]
    return FileRows(descriptor, where, dtype, tensor.shape[1:], tensor.shape[0], tensor.offset)


def encoded(
    tensors: Mapping[str, tuple[str, tuple[int, ...], int, int]], metadata: Mapping[str, str]
) -> bytes:
    """A header: (dtype, shape, begin, end) by name, in bytes behind it."""
    content: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, (kind, shape, begin, end) in tensors.items():
        content[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
