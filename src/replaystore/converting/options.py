"""How a buffer is to be converted, and which part of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from replaystore.errors import SchemaError
from replaystore.formats.options import Progress

__all__ = ["How", "Selected", "check_coded"]


@dataclass(frozen=True)
class How:
    """What the target is to be; `replaystore.converting.convert` says what each means."""

    codec: str | None = None
    layout: str | None = None
    overwrite: bool = False
    strict: bool = False
    grouped: bool | None = None
    progress: Progress | None = None
    dry_run: bool = False
    proof: bool = True


class Selected(NamedTuple):
    """Which part of a buffer is wanted; all of it, if nothing is given."""

    fields: Iterable[str] | None = None
    split: str | None = None
    where: str | None = None

    def __bool__(self) -> bool:
        return any(wanted is not None for wanted in self)


def check_coded(layout: str | None, codec: str | None) -> None:
    """SchemaError: fields of an archive are to have no codec."""
    if layout == "archive" and codec == "raw":
        raise SchemaError(
            "all fields of an archive are coded: choose another codec= (--codec), or layout='live' (--layout "
            "live)"
        )
