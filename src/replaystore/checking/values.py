"""Checks of the values of fields of any length: that steps say where they lie, in the order of steps
(FORMAT.md), and that texts are texts."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays.reading import StoreReader
from replaystore.checking.findings import Findings
from replaystore.errors import CorruptError, ReplayStoreError
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.field import Field
from replaystore.schema.ragged import MOST_BYTES, Ragged
from replaystore.schema.ragged_forms import not_text
from replaystore.views.blocks import rows_of_bytes
from replaystore.views.reader import BufferReader

__all__ = ["check_values"]

Spans = NDArray[np.int64]
BLOCK_BYTES = 16 << 20
BLOCK_ROWS = 1 << 16


def check_values(
    findings: Findings, place: Location, store: StoreReader, document: documents.Document
) -> None:
    try:
        view = BufferReader(place, store, document)
    except (ReplayStoreError, OSError):  # which is a problem already
        return
    for name, declared in view.schema.ragged.items():
        findings.guarded(tree.steps(name), partial(_check, findings, view, name, declared))


def _check(findings: Findings, view: BufferReader, name: str, declared: Field) -> None:
    stored, width = tree.values(name), declared.dtype.itemsize * int(np.prod(declared.inner))
    first, stop = view.store.first(stored), view.store.rows(stored)
    before = end = 0
    for start in range(0, len(view), BLOCK_ROWS):
        spans = view.rows(name, slice(start, min(len(view), start + BLOCK_ROWS)))
        wrong = _outside(spans, first, stop, MOST_BYTES // width)
        begins = np.concatenate([[before], spans[:, 0]])
        filled = spans[spans[:, 0] < spans[:, 1]]
        if wrong is not None:
            begin, after = spans[wrong].tolist()
            what = f"says that its values lie from {begin} to {after}, where {first} to {stop} are kept"
            findings.problem(tree.steps(name), f"step {view.first_row + start + wrong} {what}")
        elif (begins[1:] < begins[:-1]).any():
            row = view.first_row + start + int((begins[1:] < begins[:-1]).argmax())
            findings.problem(tree.steps(name), f"step {row} has values before those of earlier steps")
        elif len(filled) and (filled[:, 0] < np.concatenate([[end], filled[:-1, 1]])).any():
            findings.problem(tree.steps(name), f"steps from {view.first_row + start} on share values")
        else:
            before, end = int(begins[-1]), int(filled[-1, 1]) if len(filled) else end
            continue
        findings.damage(tree.steps(name), view.first_row + start)
        return
    if declared.role == "observation":
        _check_following(findings, view, name, (first, stop, MOST_BYTES // width))
    if declared.text:
        _check_texts(findings, view, name)


def _outside(spans: Spans, first: int, stop: int, most: int) -> int | None:
    """The first of these spans that leads to where there are no values."""
    begin, end = spans.T
    wrong = (begin != end) & ((begin < first) | (end > stop) | (end < begin) | (end - begin > most))
    return int(wrong.argmax()) if wrong.any() else None


def _check_following(findings: Findings, view: BufferReader, name: str, limits: tuple[int, int, int]) -> None:
    """What follows the last row of a part lies behind where the row's values begin."""
    parts = view.parts
    known = np.flatnonzero(parts.final >= 0)
    spans = view.final_rows(name, parts.final[known])
    last = parts.last[known]
    for entry in view.open_trajectories():
        if entry.following is not None and entry.part_length:
            row = entry.part_start + (entry.part_length - 1) * entry.stride
            if row >= view.first_row:
                last = np.append(last, row)
                spans = np.concatenate([spans, entry.following[name][None]])
    # Readers take what is not there for what has left a ring.
    kept = np.frombuffer(view.store.attachment(name) or b"", np.int64).reshape(-1, 2)
    _, stop, most = limits
    if (lost := _outside(kept, 0, stop, most)) is not None:
        begin, end = kept[lost].tolist()
        what = f"what follows an open trajectory is said to lie from {begin} to {end}, where it cannot"
        findings.problem(tree.final(name), what)
    if not len(spans):
        return
    wrong = _outside(spans, *limits)
    begins = view.rows(name, last - view.first_row)[:, 0]
    late = (spans[:, 0] < spans[:, 1]) & (spans[:, 0] < begins)
    if wrong is None and late.any():
        wrong = int(late.argmax())
    if wrong is not None:
        begin, end = spans[wrong].tolist()
        what = f"what follows step {int(last[wrong])} is said to lie from {begin} to {end}, where it cannot"
        findings.problem(tree.final(name), what)


def _check_texts(findings: Findings, view: BufferReader, name: str) -> None:
    for start, stop in rows_of_bytes(view, [name], BLOCK_BYTES):
        try:
            found = view.values_of(name).take(view.rows(name, slice(start, stop)))
        except CorruptError as error:  # its checksum is a problem already, perhaps
            findings.problem(tree.values(name), str(error))
            return
        if (bad := _bad(found)) is not None:
            findings.problem(
                tree.values(name), f"the text of step {view.first_row + start + bad} is not UTF-8"
            )
            return


def _bad(texts: Ragged) -> int | None:
    return not_text(texts.values, texts.offsets)
