"""Checks of the tables of parts and trajectories: that they agree with each other, and with the flags of the
steps."""

from __future__ import annotations

import numpy as np

from replaystore.arrays.reading import StoreReader
from replaystore.checking.findings import Findings
from replaystore.errors import ReplayStoreError
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.views.reader import BufferReader

__all__ = ["check_trajectories"]


def check_trajectories(
    findings: Findings, place: Location, store: StoreReader, document: documents.Document
) -> None:
    try:
        view = BufferReader(place, store, document)
        findings.report.steps = len(view)
        findings.report.trajectories = view.num_trajectories
        view.parts.check()
        _check_parts(findings, view, store)
        _check_flags(findings, view)
    except (ReplayStoreError, OSError) as error:
        findings.problem("tables of parts and trajectories", str(error))


def _check_parts(findings: Findings, view: BufferReader, store: StoreReader) -> None:
    parts, table = view.parts, view.trajectories
    if len(parts) and int(parts.last.max()) >= store.rows("steps"):
        findings.problem("parts", f"a part ends beyond the {store.rows('steps')} steps")
    unknown = np.setdiff1d(parts.trajectory, table.trajectory)
    if len(unknown):
        findings.problem("parts", f"parts of trajectory {int(unknown[0])}, which is not in the table")
    finals = parts.final[parts.final >= 0]
    known = max((store.rows(name) for name in store.specs() if tree.is_final(name)), default=0)
    if len(finals) and (int(finals.max()) >= known or len(np.unique(finals)) != len(finals)):
        findings.problem("parts", f"final observations are not numbered once each below {known}")
    ids, places = np.unique(parts.trajectory, return_inverse=True)
    lengths = np.zeros(len(ids), np.int64)
    # a ring, or what was made of one, lacks the first steps of some.
    np.maximum.at(lengths, places, parts.offset + parts.length)
    order = np.argsort(table.trajectory)
    listed = table["length"][order]
    for wrong in np.flatnonzero(listed != lengths)[:5] if len(listed) == len(lengths) else [0]:
        findings.problem(f"trajectory {int(ids[wrong])}", "its parts do not add up to its length")


def _check_flags(findings: Findings, view: BufferReader) -> None:
    """The flags in the table are those of the last steps."""
    ended = view.trajectories.where("not open") if len(view.trajectories) else view.trajectories
    parts = view.parts
    flags = [name for name in ("terminated", "truncated") if name in view.schema.fields]
    if not len(ended) or not flags:
        return
    order = np.lexsort((parts.offset, parts.trajectory))
    last = np.append(np.flatnonzero(np.diff(parts.trajectory[order])), len(order) - 1)
    row_of = dict(
        zip(
            parts.trajectory[order][last].tolist(),
            parts.last[order][last].tolist(),
            strict=True,
        )
    )
    rows = np.array([row_of[number] for number in ended.trajectory.tolist()], np.int64)
    for name in flags:
        stored = view[name][rows - view.first_row]
        for wrong in np.flatnonzero(stored != ended[name])[:5]:
            number = int(ended.trajectory[wrong])
            findings.problem(
                f"trajectory {number}",
                (f"the table says {name}={bool(ended[name][wrong])}, its last step {bool(stored[wrong])}"),
            )
