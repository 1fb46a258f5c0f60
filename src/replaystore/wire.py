"""Arrays as one body on the wire: the framing of safetensors, a JSON header and the bytes of all arrays.

    8 bytes    length of the header, unsigned, little-endian
    header     JSON {name: {"dtype", "shape", "data_offsets"}, "__metadata__": {key: text}}, filled up with
               spaces to a multiple of 8
    bytes      of the arrays, one behind the other, little-endian, those of large numbers first

Invariants:
1. Nothing in a body is believed: the header is bounded, arrays fill the body without gaps, and each has as
   many bytes as its shape says.
2. What is unpacked are views of the body.
3. What safetensors has no word for has a name with a `%` that no field has: a field of any length is
   `<field>%values` and `<field>%offsets`, complex numbers of 16 bytes are pairs under `<field>%complex`.
4. Each text of the metadata is JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, FormatError
from replaystore.schema import strict_json
from replaystore.schema.ragged import Ragged

__all__ = ["ARRAYS", "pack", "unpack"]

ARRAYS = "application/x-safetensors"
"""The media type of such a body."""
MOST_HEADER, MOST_ARRAYS, MOST_BYTES = 1 << 20, 1 << 12, 1 << 60
_METADATA, _RAGGED = "__metadata__", "%ragged"
_VALUES, _OFFSETS, _COMPLEX = "%values", "%offsets", "%complex"
_KINDS = {"bool": "BOOL", "complex64": "C64"}
_KINDS |= {
    f"{name}{bits}": f"{name[0].upper()}{bits}" for name in ("int", "uint") for bits in (8, 16, 32, 64)
}
_KINDS |= {f"float{bits}": f"F{bits}" for bits in (16, 32, 64)}
_DTYPES = {kind: np.dtype(name).newbyteorder("<") for name, kind in _KINDS.items()}

Arrays = dict[str, Any]


def pack(arrays: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> bytes:
    """A body of arrays and `Ragged`s by name, and of what is said of them, which is JSON.

    ArgumentError: an array has a dtype that a step cannot have."""
    plain: dict[str, NDArray[Any]] = {}
    said, ragged = dict(metadata or {}), {}
    for name, array in arrays.items():
        if isinstance(array, Ragged):
            first = int(array.offsets[0])
            values = np.asarray(array.values)[first : int(array.offsets[-1])]
            _add(plain, name + _VALUES, values)
            _add(plain, name + _OFFSETS, np.asarray(array.offsets, "<i8") - first)
            ragged[name] = {"text": array.text, "lead": list(array.lead)}
        else:
            _add(plain, name, np.asarray(array))
    if ragged:
        said[_RAGGED] = ragged
    header: dict[str, Any] = {}
    if said:
        header[_METADATA] = {key: json.dumps(value, allow_nan=False) for key, value in said.items()}
    pieces: list[Any] = []
    end = 0
    for name, array in sorted(plain.items(), key=lambda item: -item[1].itemsize):
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _KINDS[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
        pieces.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *pieces])


def _add(plain: dict[str, NDArray[Any]], name: str, array: NDArray[Any]) -> None:
    if array.dtype.name == "complex128":
        name, array = (
            name + _COMPLEX,
            np.ascontiguousarray(array, "<c16").reshape(*array.shape, 1).view("<f8"),
        )
    if array.dtype.name not in _KINDS:
        raise ArgumentError(f"{name!r:.80} holds {array.dtype}, and no step does: convert it first")
    plain[name] = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def unpack(body: bytes | memoryview, where: str = "the body") -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a body, and what is said of them. FormatError: it is none; the message begins with
    `where`."""
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or not 2 <= length <= min(MOST_HEADER, len(body) - 8):
        raise FormatError(f"{where} has no header of safetensors, or one of more than {MOST_HEADER} bytes")
    try:
        header = strict_json.decoded(bytes(body[8 : 8 + length]))
    except ValueError as error:
        raise FormatError(f"{where}: its header is no JSON ({error})") from None
    if not isinstance(header, dict) or len(header) > MOST_ARRAYS:
        raise FormatError(f"{where}: its header does not describe arrays, or more than {MOST_ARRAYS}")
    said = _said(header.pop(_METADATA, {}), where)
    placed = [_placed(name, told, where) for name, told in header.items()]
    end = 0
    for name, _, _, begin, stop in sorted(placed, key=lambda one: one[3:]):
        if begin != end:
            raise FormatError(f"{where}: the bytes of {name!r:.80} do not follow those before")
        end = stop
    if 8 + length + end != len(body):
        raise FormatError(f"{where} has {len(body) - 8 - length} bytes of arrays, and its header {end}")
    found = Arrays()
    for name, dtype, shape, begin, _ in placed:
        count = math.prod(shape)
        flat = np.frombuffer(body, dtype, count, 8 + length + begin) if count else np.empty(0, dtype)
        found[name] = flat.reshape(shape)
    return _joined(found, said, where), said


def _said(texts: Any, where: str) -> dict[str, Any]:
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise FormatError(f"{where}: its metadata are no texts")
    try:
        return {key: strict_json.decoded(text) for key, text in texts.items()}
    except ValueError as error:
        raise FormatError(f"{where}: its metadata are no JSON ({error})") from None


def _placed(name: str, told: Any, where: str) -> tuple[str, np.dtype[Any], tuple[int, ...], int, int]:
    """Name, dtype, shape, begin and end of an array."""
    parts: dict[str, Any] = told if isinstance(told, dict) else {}
    kind, shape, place = parts.get("dtype"), parts.get("shape", ()), parts.get("data_offsets", ())
    if not _numbers(shape) or len(shape) > 32 or not _numbers(place) or len(place) != 2:
        raise FormatError(f"{where}: {name!r:.80} has no proper shape or place")
    if not isinstance(kind, str) or kind not in _DTYPES:
        raise FormatError(f"{where}: {name!r:.80} holds {kind!r:.20}, which no step does")
    dtype = _DTYPES[kind]
    if math.prod(max(1, length) for length in shape) * dtype.itemsize >= MOST_BYTES:
        raise FormatError(f"{where}: {name!r:.80} cannot have the shape {shape!r:.60}")
    if place[1] - place[0] != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"{where}: {name!r:.80} of shape {shape!r:.60} has {place[1] - place[0]} bytes")
    return name, dtype, tuple(shape), place[0], place[1]


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 62 for one in value)


def _joined(found: Arrays, said: dict[str, Any], where: str) -> Arrays:
    """What was taken apart, as it was."""
    ragged = said.pop(_RAGGED, {})
    for name in [name for name in found if name.endswith(_COMPLEX)]:
        array = found.pop(name)
        if array.dtype != "<f8" or array.shape[-1:] != (2,):
            raise FormatError(f"{where}: {name!r:.80} holds no pairs of numbers")
        found[name.removesuffix(_COMPLEX)] = array.view("<c16")[..., 0]
    for name, told in ragged.items() if isinstance(ragged, dict) else ():
        try:
            found[name] = Ragged(
                found.pop(name + _VALUES),
                found.pop(name + _OFFSETS),
                tuple(told["lead"]),
                text=bool(told["text"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{where}: {name!r:.80} are no values of any length ({error})") from None
    return found
