"""Wrappers that record what Gymnasium environments do, one or many at once."""

from __future__ import annotations

from replaystore.gymnasium.wrappers import Record, RecordVector

__all__ = ["Record", "RecordVector"]
