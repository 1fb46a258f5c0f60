"""Checks of the commit log: all segments, each going on where the one before it ends, and the document of
which it keeps a copy."""

from __future__ import annotations

from collections.abc import Iterator

from replaystore.arrays.history import ATTEMPTS
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import decode_records
from replaystore.arrays.sealing import is_sealed
from replaystore.arrays.state import DOCUMENT, State
from replaystore.checking.findings import Findings
from replaystore.containers.checks import load_json
from replaystore.containers.protocol import Container
from replaystore.containers.records import HEADER_BYTES, MAGIC, open_payload, whole_records
from replaystore.containers.zarr.segments import SEGMENTS
from replaystore.errors import CorruptError
from replaystore.storage.protocol import Reads, Writes

__all__ = ["check_log"]


def check_log(findings: Findings, container: Container, newest: State) -> None:
    """All segments, each going on where the one before it ends."""
    _note_unnamed(findings, container)
    previous: int | None = None
    kept = b""
    for base in container.segments():
        where = f"commit log, segment {base}"
        data = _settled_segment(container, base)
        commits: list[int] = []
        dead: list[list[int]] = []
        end = 0
        continued: int | None = None
        for meta, blobs, stop in decode_records(data):
            end, kept = stop, blobs.get(DOCUMENT, kept)
            continued = meta.get("parent") if not commits else continued
            if not meta.get("forked"):
                commits.append(meta["commit"])
                dead = meta.get("dead", dead)
        rest = data[end:]
        if not commits or commits[0] != base:
            findings.problem(
                where, "its first record is damaged" if not commits else "its first record is missing"
            )
            continue
        if rest.strip(b"\0"):
            lost = sum(1 for _ in _later_records(rest))
            what = f"{len(rest)} bytes after commit {commits[-1]} are no valid record"
            what += (
                f"; {lost} valid records follow them"
                if lost
                else (" (a writer was killed, or the record of a commit is damaged)")
            )
            findings.problem(
                where,
                what,
                "open it for writing, which goes on from that commit, or run `replaystore repair`",
            )
        continues = (
            previous is None
            or base <= newest.pruned
            or previous in (commits[0], continued)
            or [previous for _, last in dead if last == previous]
        )
        if not continues or commits != list(range(commits[0], commits[0] + len(commits))):
            findings.problem(
                where, (f"commits {commits[0]} to {commits[-1]} do not continue commit {previous}")
            )
        previous = commits[-1]
        findings.count(len(data))
    if previous is not None and previous != newest.commit and not _goes_on(container, newest):
        findings.problem(
            "commit log",
            f"the newest segment ends with commit {newest.commit}, another with {previous}",
        )
    _check_origin(findings, container, kept, newest)


def _note_unnamed(findings: Findings, container: Container) -> None:
    """What names the segments is missing; that is no damage where they can be listed."""
    files: Reads = container.files
    if container.capabilities.one_file or not isinstance(files, Writes) or files.exists(SEGMENTS):
        return
    findings.report.notes.append(
        f"{files.path(SEGMENTS)} is not there, without which the store is not read where nothing can be "
        "listed: opening it for writing makes it"
    )


def _goes_on(container: Container, newest: State) -> bool:
    """Whether somebody has committed since this state was read."""
    try:
        return StoreReader.load(container).commit != newest.commit
    except CorruptError:
        return False


def _settled_segment(container: Container, base: int) -> bytes:
    """A segment whose last record is not just being written."""
    data = container.read_segment(base)
    for _ in range(ATTEMPTS):
        end = max((stop for _, _, stop in decode_records(data)), default=0)
        if not data[end:].strip(b"\0"):
            break
        again = container.read_segment(base)
        if again == data:
            break
        data = again
    return data


def _check_origin(findings: Findings, container: Container, kept: bytes, newest: State) -> None:
    """The document is the one that the log keeps a copy of; of a live store the schema and the user's
    metadata may be newer."""
    document, sealed = container.document(), is_sealed(newest)
    try:
        known = load_json(kept, "the copy of the document in the commit log") if kept else document
    except CorruptError as error:
        findings.problem("commit log", str(error))
        return
    if not isinstance(known, dict):
        findings.problem("commit log", "its copy of the document is not a JSON object")
        return
    _check_kept(findings, container, newest, sealed=sealed)
    for section in known if sealed else ("ring", "layout", "environment", "provenance"):
        if document.get(section) != known.get(section):
            findings.problem(
                "document",
                (
                    f"its section {section} is not the one that the commit log keeps: "
                    "it is that of another store"
                ),
            )


def _check_kept(findings: Findings, container: Container, newest: State, *, sealed: bool) -> None:
    """The log has all commits but those that it says may have gone, and of these the named ones."""
    segments = container.segments()
    needed = newest.pruned
    if segments[0] > needed and not sealed:
        findings.problem("commit log", f"it begins with commit {segments[0]}: those before it are missing")
    for name, named in newest.names.items():
        if named.commit < needed and named.commit not in segments and not sealed:
            within = [segment for segment in segments if segment < named.commit]
            numbers = (_numbers(container.read_segment(segment)) for segment in reversed(within))
            if not any(named.commit in found for found in numbers):
                findings.problem("commit log", f"it lacks commit {named.commit}, which has the name {name}")


def _numbers(data: bytes) -> set[int]:
    return {int(meta["commit"]) for meta, _, _ in decode_records(data)}


def _later_records(data: bytes) -> Iterator[int]:
    """Valid records somewhere in `data`."""
    at, looked = data.find(MAGIC), 0
    while at >= 0 and looked <= 16 * len(data):  # as much as a file may hold of what only looks like a record
        length = HEADER_BYTES + int.from_bytes(data[at + 8 : at + HEADER_BYTES], "little")
        if length <= len(data) - at:
            looked += length
            for payload, _ in whole_records(data[at : at + length]):
                yield int(open_payload(payload)[0]["commit"])
                at += length - 1
        at = data.find(MAGIC, at + 1)
