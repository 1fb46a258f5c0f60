"""What a route answers: bytes with a status, and which bytes of a resource a request asks for.

Invariants:
1. An answer whose length is known is sent with it, in slices of what is in memory already: a slow client
   holds one slice beside what everybody shares.
2. A range is answered only if it is one, and the resource is still what `If-Range` names; otherwise all of
   it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from replaystore.service.refused import RefusedError

__all__ = ["FOR_EVER", "LOOK_AGAIN", "Answer", "as_json", "matches", "part_of"]

FOR_EVER = "max-age=31536000, immutable"
"""Of what never changes under its address. Without `public`: shared caches keep nothing that a token was
needed for."""
LOOK_AGAIN = "no-cache"
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*")
_TAG = re.compile(r'(?:W/)?"[^"]*"')


@dataclass
class Answer:
    """An answer. `pieces` in place of `body`: what comes one behind the other, of `length` bytes in all, or
    until it ends (None)."""

    body: bytes | memoryview = b""
    status: int = 200
    type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)
    pieces: AsyncIterator[bytes | memoryview] | None = None
    length: int | None = None

    def size(self) -> int | None:
        """The bytes of the body, if they are known."""
        return self.length if self.length is not None or self.pieces is not None else len(self.body)


def as_json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """JSON."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return Answer(text, status, "application/json", dict(headers or {}))


def matches(headers: Mapping[str, str], tag: str) -> bool:
    """Whether the client has what has this tag."""
    given = headers.get("if-none-match", "")
    return any(found.removeprefix("W/") == tag.removeprefix("W/") for found in _TAG.findall(given))


def part_of(headers: Mapping[str, str], size: int, tag: str) -> tuple[int, int] | None:
    """The first byte, and the one behind the last, that a request asks for of a resource of this size; None:
    all of it. RefusedError: there are no such bytes."""
    found = _RANGE.fullmatch(headers.get("range", ""))
    if found is None or found[1] == found[2] == "":
        return None
    condition = headers.get("if-range")
    if condition is not None and (condition != tag or tag.startswith("W/")):
        return None
    first, last = found[1], found[2]
    if first and last and int(last) < int(first):
        return None
    begin = int(first) if first else max(0, size - int(last))
    stop = size if not first or not last else min(size, int(last) + 1)
    if begin >= stop:
        raise RefusedError(
            416,
            f"there are no bytes from {begin} on: there are {size}",
            {"Content-Range": f"bytes */{size}"},
        )
    return begin, stop
