"""What one step holds, and the document that says it. `Schema` and `Field` are loaded when they are first
used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replaystore.schema.fields import Field, Schema

__all__ = ["Field", "Schema"]

if not TYPE_CHECKING:  # mypy would take every name for granted if it saw this

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from replaystore.schema import fields

        return getattr(fields, name)
