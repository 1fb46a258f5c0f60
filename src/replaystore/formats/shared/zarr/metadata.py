"""What the metadata of a Zarr array of other software say, of version 2 or 3: checked, and nothing believed
that decides how much memory is taken."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from replaystore.errors import FormatError, UnsupportedError
from replaystore.schema.spaces import DTYPES

__all__ = ["Layout", "check_sizes", "layout_of"]

_PLAIN = re.compile(r"[<>|][biufc][0-9]{1,2}")
"""The dtypes of numbers as version 2 spells them."""
_ORDERS: Mapping[str, Literal["<", ">"]] = {"little": "<", "big": ">"}


@dataclass(frozen=True)
class Layout:
    """How an array is stored."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    fill: Any
    order: str
    codecs: list[Mapping[str, Any]]
    prefix: str
    separator: str


def layout_of(node: Mapping[str, Any], where: str) -> Layout:
    """What the metadata of an array say. UnsupportedError: it is not read; KeyError, TypeError, ValueError,
    AttributeError: they are none."""
    return _version2(node, where) if node["zarr_format"] == 2 else _version3(node, where)


def _version2(node: Mapping[str, Any], where: str) -> Layout:
    filters = node.get("filters")
    if filters:
        names = ", ".join(str(one.get("id")) for one in filters)
        raise UnsupportedError(
            f"{where} needs the filters {names:.200}, which are not read: write it without"
        )
    dtype = _dtype(node["dtype"], where)
    compressor = node["compressor"]
    return Layout(
        dtype,
        _lengths(node["shape"]),
        _chunks(node["chunks"], node["shape"]),
        _fill(node.get("fill_value"), dtype),
        _one_of(node.get("order", "C"), ("C", "F")),
        [] if compressor is None else [dict(compressor)],
        "",
        _one_of(node.get("dimension_separator", "."), (".", "/")),
    )


def _version3(node: Mapping[str, Any], where: str) -> Layout:
    first, *codecs = node["codecs"]
    if first["name"] != "bytes":
        raise UnsupportedError(
            f"{where} begins with the codec {first['name']!r:.80}, which is not read: write it without "
            "shards, and with its axes in order"
        )
    if node.get("storage_transformers"):
        raise UnsupportedError(f"{where} has storage transformers, which are not read: write it without")
    endian = (first.get("configuration") or {}).get("endian", "little")
    if node["data_type"] not in DTYPES:
        raise UnsupportedError(
            f"{where} has the data type {node['data_type']!r:.80}, which is not read: write one of "
            f"{', '.join(DTYPES)}"
        )
    dtype = DTYPES[node["data_type"]].newbyteorder(_ORDERS[endian])
    grid, keys = node["chunk_grid"], node["chunk_key_encoding"]
    if grid["name"] != "regular":
        raise UnsupportedError(
            f"{where} has a chunk grid {grid['name']!r:.80}, and only regular ones are read"
        )
    plain = _one_of(keys["name"], ("default", "v2")) == "v2"
    separator = (keys.get("configuration") or {}).get("separator", "." if plain else "/")
    return Layout(
        dtype,
        _lengths(node["shape"]),
        _chunks(grid["configuration"]["chunk_shape"], node["shape"]),
        _fill(node.get("fill_value"), dtype),
        "C",
        [dict(one) for one in codecs],
        "" if plain else "c",
        _one_of(separator, (".", "/")),
    )


def _one_of(value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{value!r:.80} is none of {known}")
    return str(value)


def _lengths(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or any(type(n) is not int or n < 0 for n in given) or len(given) > 32:
        raise ValueError(f"{given!r:.80} are no lengths of axes")
    return tuple(given)


def _chunks(given: Any, shape: Any) -> tuple[int, ...]:
    """The lengths of chunks; where there is nothing they may have none."""
    lengths = _lengths(given)
    if any(not chunk and length for chunk, length in zip(lengths, shape, strict=False)):
        raise ValueError(f"{given!r:.80} are no lengths of chunks")
    return tuple(max(1, length) for length in lengths)


def _dtype(given: Any, where: str) -> np.dtype[Any]:
    if not isinstance(given, str):
        raise UnsupportedError(
            f"{where} holds records of {given!r:.80}, which are not read: write an array each"
        )
    dtype = np.dtype(given) if _PLAIN.fullmatch(given) else np.dtype("O")
    if dtype.newbyteorder("<").name not in DTYPES:
        raise UnsupportedError(
            f"{where} has the dtype {given!r:.80}, which is not read: write one of {', '.join(DTYPES)}"
        )
    return dtype


def _fill(given: Any, dtype: np.dtype[Any]) -> Any:
    """The value of what was never written."""
    if given is None:
        return np.zeros((), dtype)
    if dtype.kind == "c" and isinstance(given, list):
        real, imaginary = map(_number, given)
        given = complex(real, imaginary)
    elif isinstance(given, str) and given.startswith("0x"):
        return np.frombuffer(bytes.fromhex(given[2:]), dtype.newbyteorder(">"))[0].astype(dtype)
    else:
        given = _number(given)
    with np.errstate(all="raise"):
        try:
            return np.array(given).astype(dtype)
        except (FloatingPointError, OverflowError):
            raise ValueError(f"the fill value {given!r:.80}") from None


def _number(given: Any) -> int | float:
    if isinstance(given, str):
        return {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[given]
    if not isinstance(given, int | float):
        raise ValueError(f"the fill value {given!r:.80}")
    return given


def check_sizes(layout: Layout, where: str, most: int) -> None:
    """FormatError: it would have more than any array has. UnsupportedError: rows have over `most` bytes."""
    if len(layout.shape) != len(layout.chunks):
        raise FormatError(
            f"{where} has chunks of {len(layout.chunks)} axes, and {len(layout.shape)} axes itself"
        )
    for lengths in (layout.shape, layout.chunks):
        if math.prod(lengths) * layout.dtype.itemsize >= 1 << 62:
            raise FormatError(f"{where} says that it has {lengths} values: it is damaged")
    inner = math.prod(layout.shape[1:]) * layout.dtype.itemsize
    if inner > most:
        raise UnsupportedError(f"{where} has rows of {inner} bytes, and at most {most} are read")
