"""Whether a source and a target lie in each other: what is made would go, or would take the source along."""

from __future__ import annotations

import os

from replaystore.buffers.buffer import Buffer
from replaystore.errors import SchemaError
from replaystore.formats import finding
from replaystore.location import Location

__all__ = ["check_apart"]


def check_apart(
    source: str | os.PathLike[str] | Location | Buffer,
    format_: str | None,
    target: str | os.PathLike[str] | Location,
    *,
    overwrite: bool,
) -> None:
    """SchemaError: the target would lie in the folder of the source, and go when that is replaced; or it
    would replace the source, or a folder that the source lies in. `format_`: of the source; None: a store."""
    one = source.whereabouts.path if isinstance(source, Buffer) else source
    if not isinstance(one, str | os.PathLike) or not isinstance(target, str | os.PathLike):
        return
    given, one, other = one, os.path.realpath(one), os.path.realpath(target)
    there = os.path.exists(one) and os.path.exists(other)
    if overwrite and format_ is not None and there and os.path.samefile(one, other):
        raise SchemaError(f"{target} is the source itself: choose another target")
    if os.path.isdir(one) and other.startswith(os.path.join(one, "")):
        if format_ is None or finding.named(format_).folder:
            raise SchemaError(f"{target} lies in the source, {given}: choose a target outside of it")
        if overwrite and there and finding.named(format_).recognizes(other):
            raise SchemaError(f"{target} is what is read of {given}: choose another target")
    if overwrite and os.path.isdir(other) and one.startswith(os.path.join(other, "")):
        raise SchemaError(
            f"the source {given} lies in {target}, which would be replaced: choose another target"
        )
