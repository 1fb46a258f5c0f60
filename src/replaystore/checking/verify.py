"""Verify a store: read everything once, and explain each problem.

What is checked, in this order: that the container opens (HDF5 in a process of its own, since a damaged file
may hang or crash the library); the document against its JSON Schema and its checksum; the commit log, all
segments, and that none is missing; the arrays against the schema and the commit; every complete chunk against
its checksum, the unfinished ones against the commit record; the indexes that other software reads; the tables
of parts and trajectories, and that they agree with each other and with the flags of the steps; where the
values of fields of any length lie; the manifest of an archive. Bytes that no commit counts are not looked at,
except that they may not look like a lost commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial

from replaystore.arrays.reading import StoreReader
from replaystore.arrays.sealing import check_manifest, unchecked
from replaystore.buffers.opening import open_container
from replaystore.checking.arrays import check_arrays, check_tables
from replaystore.checking.changes import check_changes
from replaystore.checking.findings import Findings, Problem, Progress, VerifyReport
from replaystore.checking.log import check_log
from replaystore.checking.rows import check_coded, check_raw
from replaystore.checking.trajectories import check_trajectories
from replaystore.checking.values import check_values
from replaystore.containers.located import container_type, exists
from replaystore.containers.protocol import Container
from replaystore.errors import CorruptError, FormatError, StorageError, UnsupportedError
from replaystore.location import Location, parse
from replaystore.schema import document as documents

__all__ = ["Problem", "VerifyReport", "verify"]

PROBE_SECONDS = 60
"""How long opening a damaged HDF5 file may take before it is given up."""
UNEXPECTED = "reading it ended in an error that nobody thought of"


def verify(
    location: str | os.PathLike[str] | Location,
    *,
    commit: int | str | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Read everything of a store once and report all problems; the store is not changed.

    `commit`: what an older commit shows, given by its number or its name, instead of the newest. (Of a ring,
    rows that are kept for named commits are read in any case.)

    NotFoundError: there is nothing; FormatError: it is not a store at all. Damage is reported, not raised."""
    place = parse(location)
    begin = time.perf_counter()
    report = VerifyReport(str(place))
    if container_type(place).capabilities.may_crash and exists(place) and not _probe(place, report):
        report.seconds = time.perf_counter() - begin
        return report
    try:
        container = open_container(place, writable=False)
    except (CorruptError, StorageError, UnsupportedError) as error:
        report.problems.append(
            Problem(str(place), str(error), ("restore it from a copy, or run `replaystore repair`"))
        )
        return report
    try:
        number = None if commit is None else _number(container, commit)
        _check(place, container, Findings(report, progress), number)
    finally:
        container.close()
        report.seconds = time.perf_counter() - begin
    return report


def _probe(place: Location, report: VerifyReport) -> bool:
    """Open a store in another process; whether it may be opened in this one."""
    code = (
        "import sys; from replaystore.buffers.opening import open_container; from replaystore.location "
        "import Location\n"
    )
    code += "c = open_container(Location(*sys.argv[1:]), writable=False)\n"
    code += "c.specs(); c.document(); c.segments()"
    command = [sys.executable, "-c", code, place.storage, place.container, place.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(  # noqa: S603  # our own code
            command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        what = f"reading its metadata did not end within {PROBE_SECONDS} s"
        report.problems.append(
            Problem(str(place), what, ("it is damaged: restore it from a copy, or run `replaystore repair`"))
        )
        return False
    if done.returncode < 0:
        what = f"reading its metadata crashes the HDF5 library (signal {-done.returncode})"
        report.problems.append(
            Problem(str(place), what, ("it is damaged: restore it from a copy, or run `replaystore repair`"))
        )
        return False
    return True


def _number(container: Container, commit: int | str) -> int | None:
    """The number of a commit that can be opened; None: the log does not tell, which is reported."""
    try:
        store = StoreReader(container, StoreReader.load(container))
        return store.find(commit).commit
    except CorruptError:
        return None


def _check(place: Location, container: Container, findings: Findings, commit: int | None) -> None:
    """Check everything; what could not be is a problem, too."""
    try:
        _check_all(place, container, findings, commit)
    except (CorruptError, OSError, MemoryError) as error:
        findings.refused(error)
        findings.problem(str(place), str(error) or "there is not enough memory to read it")
    except FormatError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a file holds, this is a report about it
        findings.problem(
            str(place),
            f"{UNEXPECTED} ({type(error).__name__}: {error})",
            "restore it from a copy, and tell us",
        )


def _check_all(place: Location, container: Container, findings: Findings, commit: int | None) -> None:
    try:
        document = documents.parse(container.document(), str(place))
        findings.report.notes += unchecked(place, container)
        if container.files.far:
            StoreReader(container, StoreReader.load(container))  # then it knows its arrays
        for where, what in check_manifest(place, container):
            findings.problem(where, what, "restore it from a copy")
        for where, what in container.metadata_problems():
            findings.problem(where, what)
        store = StoreReader(container, StoreReader.load(container))
    except CorruptError as error:
        findings.problem(str(place), str(error))
        return
    findings.report.commit = store.state.commit
    if store.state.store != document.id:
        findings.problem(
            str(place),
            f"the commit log is that of store {store.state.store!r:.80}, the document that of {document.id}",
            "restore one of them from a copy",
        )
    check_log(findings, container, store.state)
    if not check_arrays(findings, store, document):
        return
    if commit is not None:
        store = store.pin(commit)
        findings.report.commit = store.state.commit
    rows = {name: spec for name, spec in store.specs().items() if not spec.journaled}
    findings.total = sum(store.rows(name) * spec.row_bytes for name, spec in rows.items())
    check_tables(findings, store)
    for name, spec in rows.items():
        check = check_raw if spec.codec is None else check_coded
        findings.guarded(name, partial(check, findings, store, name, spec))
    check_changes(findings, store)
    check_trajectories(findings, place, store, document)
    check_values(findings, place, store, document)
