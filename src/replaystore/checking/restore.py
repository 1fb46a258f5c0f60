"""Write anew what is damaged in one place of a store and said in another as well: the commit log, which has
checksums, knows what every array is, and keeps a copy of the document.

Only a store that nobody else uses is restored (`repair` works on a copy). Rows and commits are not touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import decode_records
from replaystore.arrays.sealing import is_sealed
from replaystore.arrays.state import DOCUMENT, State
from replaystore.containers.protocol import Container
from replaystore.errors import FormatError
from replaystore.schema import document as documents
from replaystore.schema import tree

__all__ = ["restore"]


def restore(container: Container) -> list[str]:
    """Restore what can be; what was done, a line each. CorruptError: there is no commit log that could say
    anything."""
    state = StoreReader.load(container, skip_damaged=True)
    done = []
    if not _document_is_sound(container):
        known = _kept_document(container)
        if known is not None:
            container.replace_document(known[0])
            done.append(f"wrote the document anew, as it was at commit {known[1]}")
    sealed = is_sealed(state)
    names = container.restore(state.arrays, {name: rows for name, rows in _rows(state).items() if sealed})
    done += [f"wrote the metadata of {name} anew" for name in names]
    if done and sealed:
        container.seal()  # what helps to open it says the same
    return done


def _rows(state: State) -> dict[str, int]:
    """How many rows each array has."""
    counts = {}
    for name in state.arrays:
        array = tree.checked_by(name)
        rows = state.lengths.get(tree.group_of(array), 0)
        counts[name] = rows if array == name else rows // state.arrays[array].chunk_rows
    return counts


def _document_is_sound(container: Container) -> bool:
    try:
        documents.parse(container.document(), container.path)
        return not any("document" in what for _, what in container.metadata_problems())
    except (FormatError, KeyError, TypeError, AttributeError):
        return False


def _kept_document(container: Container) -> tuple[Mapping[str, Any], int] | None:
    """The newest copy of the document in the log, and the commit it was kept with."""
    for segment in reversed(container.segments()):
        try:
            meta, blobs, _ = next(decode_records(container.read_segment(segment)))
            documents.parse(blobs[DOCUMENT], container.path)
            document = json.loads(blobs[DOCUMENT])
        except (StopIteration, FormatError, OSError, KeyError, ValueError, RecursionError):
            continue
        return document, int(meta["commit"])
    return None
