"""What JSON and names of files are asked before anything is made or read by them: a store may be a
stranger's, and its checksums right."""

from __future__ import annotations

import json
import re
from typing import Any

from replaystore.errors import CorruptError

__all__ = ["MOST_JSON", "MOST_NUMBER", "as_number", "is_count", "load_json"]

MOST_JSON = 64 << 20
"""Bytes of a zarr.json or a manifest: that of the root holds the document, 16 MiB at most, and a copy of all
others."""
MOST_NUMBER = 1 << 62
"""Of rows, bytes, commits: sums of two stay 64-bit numbers."""
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
