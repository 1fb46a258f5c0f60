"""Strict JSON: no NaN or Infinity, no key twice, valid text, bounded in size and depth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

__all__ = ["MAX_BYTES", "MAX_DEPTH", "check_size", "decoded", "encoded_size", "strict"]

MAX_BYTES: Final = 16 << 20
MAX_DEPTH: Final = 64


def decoded(data: bytes | str) -> Any:
    """Encoded JSON. ValueError: it is none, or too large or too deep."""
    encoded = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    check_size(len(encoded))
    try:
        return json.loads(str(encoded, "utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None


def check_size(size: int) -> None:
    """ValueError: so many bytes are too many."""
    if size > MAX_BYTES:
        raise ValueError(f"it takes {size} bytes, over the limit of {MAX_BYTES}")


def encoded_size(content: Any) -> int:
    """The bytes that JSON takes."""
    return len(json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def strict(value: Any, place: str = "", depth: int = 0) -> Any:
    """A copy of plain dicts, lists and values; ValueError at the first thing that is not strict JSON."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is str:
        return _text(value, place)
    if type(value) is float:
        if not np.isfinite(value):
            raise ValueError(
                f"{place or 'it'} is {value}: JSON has no such number, write it as a string or null"
            )
        return value
    if isinstance(value, list):
        return [strict(item, f"{place}[{number}]", depth + 1) for number, item in enumerate(value)]
    if isinstance(value, Mapping):
        copied = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(
                    f"{place or 'it'} has the key {key!r}, a {type(key).__name__}: keys must be strings"
                )
            inner = f"{place}.{_text(key, place)}" if place else _text(key, place)
            copied[key] = strict(item, inner, depth + 1)
        return copied
    raise ValueError(
        f"{place or 'it'} is a {type(value).__name__}: convert it to a dict, list, string, "
        "number, bool or null"
    )


def _text(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place or 'it'} has text that is not valid Unicode: {value!r:.60}") from None
    return value
