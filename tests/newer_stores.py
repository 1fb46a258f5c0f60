"""Stores as a newer minor version, and other software, would leave them: with keys, notes and arrays that
nobody here knows of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.differences import shorten
from replaystore.containers.array_spec import ArraySpec

__all__ = ["FOREIGN", "MORE", "NOTES", "TOMORROW", "change_document", "strange_document", "with_strange_rows"]

FOREIGN = {"org.lab": {"x": [1, None]}, "lab:note": "y"}
"""What other software keeps."""
TOMORROW = {"tomorrow": {"deep": [1, {"er": 2}]}}
"""What a newer minor version keeps, in the document and beside what a record says."""
MORE = {"org.lab.seen": 7, "replaystore:clients": {"a": 1}}
NOTES = 9
"""Rows of the arrays of a group that nobody knows of."""


def strange_document(content: dict[str, Any], version: str = "1.7") -> dict[str, Any]:
    """A document with keys that nobody knows of in all of its sections."""
    field, layout = content["schema"]["fields"][0], content["layout"]
    sections = [content, content["schema"], field, layout, content["provenance"]]
    sections += [section for name in ("ring", "environment") if (section := content[name]) is not None]
    sections += layout["overrides"].values()
    for section in sections:
        section.update(FOREIGN | TOMORROW)
    return content | {"format_version": version}


def change_document(buffer: rs.Buffer, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Replace the document of a store, on the disk and in its log, and close it."""
    assert isinstance(buffer.store, ArrayStore)
    buffer.store.container.replace_document(change(buffer.document.to_json()))
    buffer.store.begin_segment()
    buffer.close()


def with_strange_rows(buffer: rs.Buffer, commit: Callable[[], object]) -> None:
    """By the next commit a store gets arrays of a group that nobody knows of, notes, and its record a key."""
    store = buffer.store
    assert isinstance(store, ArrayStore)
    marks = ArraySpec(np.dtype("<i4"), (512,), chunk_rows=2, chunks_per_shard=2, dimension="note")
    sums = ArraySpec(np.dtype("<f8"), (), chunk_rows=512, journaled=True, dimension="note")
    store.create_arrays({"notes/mark": marks, "notes/a%2Eb/sum": sums})
    rows = np.arange(NOTES, dtype="<i4")
    store.append({"notes/mark": rows[:, None] + np.arange(512, dtype="<i4")})
    store.append_table({"notes/a%2Eb/sum": rows / 4})

    def more(meta: Mapping[str, Any], blobs: Mapping[str, bytes], before: Any) -> Any:
        short, shorter = shorten(meta, blobs, before)
        return short | TOMORROW | {"more": MORE}, shorter

    with patch("replaystore.arrays.committing.shorten", more):
        commit()
    store.state.more = dict(MORE)
