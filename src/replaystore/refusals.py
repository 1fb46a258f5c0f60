"""What the operating system refused, in words for an error of ours."""

from __future__ import annotations

import os
import re

__all__ = ["named", "refusal"]

_WORKING = re.compile(r"\.replaystore-(?:partial|new|repair)\b")


def named(text: str) -> str:
    """A text in which what is being made has the name that it is going to have, and not that of the work."""
    return _WORKING.sub("", text)


def refusal(error: OSError, said: str = "") -> str:
    """Why the system refused, and of which file, unless the message says so before."""
    reason = error.strerror or str(error)
    file = named(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
    return (
        named(reason)
        if not file or file in reason or file in re.split(r":? ", said)
        else f"{reason} ({file})"
    )
