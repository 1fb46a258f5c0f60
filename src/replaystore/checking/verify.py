"""Verify a store: read everything once, and explain each problem.

What is checked, in this order: that the container opens (HDF5 in a process of its own, since a damaged file
may hang or crash the library); the document against its JSON Schema and its checksum; the commit log, all
segments, and that none is missing; the arrays against the schema and the commit; every complete chunk against
its checksum, the unfinished ones against the commit record; the indexes that other software reads; the tables
of parts and trajectories, and that they agree with each other and with the flags of the steps; the manifest
of an archive. Bytes that no commit counts are not looked at, except that they may not look like a lost
commit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from replaystore.arrays.history import ATTEMPTS
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.records import decode_records
from replaystore.arrays.state import DOCUMENT, State
from replaystore.buffers.opening import open_container
from replaystore.containers.checks import load_json
from replaystore.containers.codecs import crc32c
from replaystore.containers.located import container_type, exists
from replaystore.containers.protocol import ArraySpec, Container
from replaystore.containers.records import HEADER_BYTES, MAGIC
from replaystore.errors import CorruptError, FormatError, ReplayStoreError, StorageError, UnsupportedError
from replaystore.location import Location, parse
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.views.reader import BufferReader

__all__ = ["Problem", "VerifyReport", "verify"]

PROBE_SECONDS = 60
"""How long opening a damaged HDF5 file may take before it is given up."""
PUBLISHING = 5
"""How often it is looked whether a writer that publishes rows has done so."""
MOST_PROBLEMS = 100
"""Of the indexes of one array, in the report."""
UNEXPECTED = "reading it ended in an error that nobody thought of"
BLOCK_BYTES = 8 << 20

Progress = Callable[[int, int], None]
"""Called with (bytes checked, bytes in all)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    where: str
    """The file, array, chunk, part or trajectory."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


@dataclass
class VerifyReport:
    """What `verify` found."""

    location: str
    commit: int | None = None
    steps: int = 0
    trajectories: int = 0
    checked_bytes: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    """Nothing is wrong if this is empty."""
    damaged: dict[str, int] = field(default_factory=dict)
    """By array, the first row that cannot be relied on."""
    complete: bool = True
    """False if the system refused to read something (a full memory, a failing disk), which is listed among
    the problems then."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked, because it is not there, and need not be."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"clean": not self.problems}


def verify(location: str | os.PathLike[str] | Location, *, progress: Progress | None = None) -> VerifyReport:
    """Read everything of a store once and report all problems; the store is not changed.

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
        _Verification(place, container, report, progress).run()
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


class _Verification:
    """One run of `verify`."""

    def __init__(
        self, place: Location, container: Container, report: VerifyReport, progress: Progress | None
    ) -> None:
        self.place = place
        self.container = container
        self.report = report
        self.progress = progress
        self.total = 0
        self.published: Mapping[str, int] = {}

    def problem(
        self, where: str, what: str, remedy: str = ("run `replaystore repair`, or restore it from a copy")
    ) -> None:
        self.report.problems.append(Problem(where, what, remedy))

    def run(self) -> None:
        """Check everything; what could not be is a problem, too."""
        try:
            self._run()
        except (CorruptError, OSError, MemoryError) as error:
            self.refused(error)
            self.problem(str(self.place), str(error) or "there is not enough memory to read it")
        except FormatError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever a file holds, this is a report about it
            self.problem(
                str(self.place),
                f"{UNEXPECTED} ({type(error).__name__}: {error})",
                "restore it from a copy, and tell us",
            )

    def _run(self) -> None:
        try:
            document = documents.parse(self.container.document(), str(self.place))
            self.check_manifest()
            self.check_document()
            store = StoreReader(self.container, StoreReader.load(self.container))
        except CorruptError as error:
            self.problem(str(self.place), str(error))
            return
        self.report.commit = store.state.commit
        self.check_log(store.state)
        if not self.check_arrays(store, document):
            return
        self.total = sum(
            store.rows(name) * spec.row_bytes for name, spec in store.specs().items() if not spec.journaled
        )
        self.check_tables(store)
        for name, spec in store.specs().items():
            if not spec.journaled:
                check = self.check_raw if spec.codec is None else self.check_coded
                self.guarded(name, lambda name=name, spec=spec, check=check: check(store, name, spec))  # type: ignore[misc]
        self.check_trajectories(store, document)

    def guarded(self, name: str, check: Callable[[], None], *, rows: bool = True) -> None:
        """Run a check; what it cannot read is a problem of the array, and of its `rows` unless it is a check
        of something else."""
        try:
            check()
        except (ReplayStoreError, OSError, MemoryError) as error:
            self.refused(error)
            self.problem(name, str(error) or "there is not enough memory to read it")
            if rows:
                self.damage(name, 0)

    def refused(self, error: BaseException) -> None:
        """Note an error that says nothing of the store, but of the system."""
        self.report.complete = self.report.complete and not isinstance(error, StorageError | MemoryError)

    def damage(self, name: str, row: int) -> None:
        known = self.report.damaged.get(name)
        self.report.damaged[name] = row if known is None else min(known, row)

    def count(self, size: int) -> None:
        self.report.checked_bytes += size
        if self.progress is not None:
            self.progress(self.report.checked_bytes, max(self.total, self.report.checked_bytes))

    # --- the store as a whole

    def check_manifest(self) -> None:
        from replaystore.arrays.sealing import check_manifest, unchecked

        self.report.notes += unchecked(self.place, self.container)
        for where, what in check_manifest(self.place, self.container):
            self.problem(where, what, "restore it from a copy")

    def check_document(self) -> None:
        for where, what in self.container.metadata_problems():
            self.problem(where, what)

    def check_log(self, newest: State) -> None:
        """All segments, each going on where the one before it ends."""
        previous: int | None = None
        kept = b""
        for base in self.container.segments():
            where = f"commit log, segment {base}"
            data = self.settled_segment(base)
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
                self.problem(
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
                self.problem(
                    where,
                    what,
                    "open it for writing, which goes on from that commit, or run `replaystore repair`",
                )
            continues = (
                previous is None
                or previous in (commits[0], continued)
                or [previous for _, last in dead if last == previous]
            )
            if not continues or commits != list(range(commits[0], commits[0] + len(commits))):
                self.problem(
                    where, (f"commits {commits[0]} to {commits[-1]} do not continue commit {previous}")
                )
            previous = commits[-1]
            self.count(len(data))
        if previous is not None and previous != newest.commit and not self.goes_on(newest):
            self.problem(
                "commit log",
                f"the newest segment ends with commit {newest.commit}, another with {previous}",
            )
        self.check_origin(kept, newest)

    def goes_on(self, newest: State) -> bool:
        """Whether somebody has committed since this state was read."""
        try:
            return StoreReader.load(self.container).commit != newest.commit
        except CorruptError:
            return False

    def settled_segment(self, base: int) -> bytes:
        """A segment whose last record is not just being written."""
        data = self.container.read_segment(base)
        for _ in range(ATTEMPTS):
            end = max((stop for _, _, stop in decode_records(data)), default=0)
            if not data[end:].strip(b"\0"):
                break
            again = self.container.read_segment(base)
            if again == data:
                break
            data = again
        return data

    def check_origin(self, kept: bytes, newest: State) -> None:
        """The document is the one that the log keeps a copy of; of a live store the schema and the user's
        metadata may be newer."""
        from replaystore.arrays.sealing import is_sealed

        document, sealed = self.container.document(), is_sealed(newest)
        try:
            known = load_json(kept, "the copy of the document in the commit log") if kept else document
        except CorruptError as error:
            self.problem("commit log", str(error))
            return
        if not isinstance(known, dict):
            self.problem("commit log", "its copy of the document is not a JSON object")
            return
        first = min(self.container.segments())
        if first and not sealed:
            self.problem("commit log", f"it begins with commit {first}: those before it are missing")
        for section in known if sealed else ("ring", "layout", "environment", "provenance"):
            if document.get(section) != known.get(section):
                self.problem(
                    "document",
                    (
                        f"its section {section} is not the one that the commit log keeps: "
                        "it is that of another store"
                    ),
                )

    def check_arrays(self, store: StoreReader, document: documents.Document) -> bool:
        """The arrays that the commit and the schema speak of are there, and are what they say."""
        specs, sound = self.container.specs(), True
        for name, what in store.array_problems():
            self.problem(name, f"the array {what}")
            sound = False
        for name, declared in document.steps.fields.items():
            for stored in (tree.steps(name), tree.final(name)):
                spec = specs.get(stored)
                if spec is not None and (spec.dtype != declared.dtype or spec.shape != declared.shape):
                    what = (
                        f"the array holds {spec.dtype} {spec.shape}, the schema says {declared.dtype} "
                        f"{declared.shape}"
                    )
                    self.problem(stored, what)
                    sound = False
        for name, spec in specs.items() if self.container.capabilities.names_dimensions else ():
            known = tree.DIMENSIONS.get(tree.group_of(name))
            if known not in (None, spec.dimension):
                self.problem(name, f"the name of its first dimension is {spec.dimension!r}, not {known!r}")
        self.published = self.container.published()
        for name, rows in self.published.items() if sound else ():
            if name in store.state.arrays and rows > store.rows(name):
                what = (
                    f"shows {rows} rows to other software, but the newest commit {store.state.commit} "
                    f"has {store.rows(name)}"
                )
                remedy = (
                    "the record of a later commit is lost: restore the commit log from a copy, or run "
                    "`replaystore repair`"
                )
                if store.state.parent < store.state.commit - 1:
                    what += f": a writer was killed while it went back to commit {store.state.parent}"
                    remedy = "run `replaystore publish`, or open it for writing, which mends it"
                self.problem(name, what, remedy)
        if sound:
            self.check_published(store)
        return sound

    def check_published(self, store: StoreReader) -> None:
        """Other software sees as many rows of each array of a group; where shapes are in files of their own,
        a kill can part them."""
        known, behind = dict[str, int](), list[str]()
        for attempt in range(0 if self.container.capabilities.shows_at_once else PUBLISHING):
            if attempt:  # perhaps a writer is just publishing
                time.sleep(0.05)
                self.published = self.container.published()
            known = {
                name: rows
                for name, rows in self.published.items()
                if name in store.state.arrays and not (tree.is_checksums(name) or tree.is_journal(name))
            }
            checksums = {
                name: tree.checksums(name) for name in known if tree.checksums(name) in store.state.arrays
            }
            behind = [
                of
                for name, of in checksums.items()
                if self.published[of] != known[name] // store.spec(name).chunk_rows
            ]
            if not behind and len({(tree.group_of(name), rows) for name, rows in known.items()}) == len(
                {tree.group_of(name) for name in known}
            ):
                return
        for group in sorted({tree.group_of(name) for name in known}):
            shown = {
                name.removeprefix(group + "/"): rows
                for name, rows in known.items()
                if tree.group_of(name) == group
            }
            if len(set(shown.values())) > 1:
                told = ", ".join(f"{name} {rows}" for name, rows in sorted(shown.items()))
                what = (
                    f"other software sees different numbers of rows ({told}): a writer was killed while "
                    "it published them"
                )
                self.problem(group, what, "run `replaystore publish`, or open it for writing, which mends it")
        for name in behind:
            what = (
                f"other software sees {self.published[name]} checksums, which are not those of the rows "
                "that it sees"
            )
            self.problem(name, what, "run `replaystore publish`, or open it for writing, which mends it")

    def check_tables(self, store: StoreReader) -> None:
        for name in store.state.arrays:
            spec = self.container.specs()[name]
            if not spec.journaled:
                continue
            try:
                table = store.table(name)
            except ReplayStoreError as error:
                self.problem(name, str(error))
                continue
            self.count(table.nbytes)
            rows = min(self.published.get(name, 0), len(table))
            if rows:
                self.check_indexes(name, spec, 0, rows)
            if rows and spec.mutable:
                self.guarded(name, partial(self.check_copy, store, name, table, rows))

    def check_copy(self, store: StoreReader, name: str, table: Any, rows: int) -> None:
        """What other software sees of a table is what it is."""
        if rows == len(table) and store.read_raw(name, 0, rows) != table.tobytes():
            self.problem(
                name,
                "what other software sees of this column is not what the commit says",
                "run `replaystore publish`",
            )

    # --- rows

    def check_raw(self, store: StoreReader, name: str, spec: ArraySpec) -> None:
        rows = store.rows(name)
        unit = self.container.capabilities.run_rows(spec)
        first = store.first(name) // unit * unit
        checksums = store.table(tree.checksums(name))
        complete = rows // spec.chunk_rows
        if len(checksums) != complete:
            self.problem(name, f"{len(checksums)} checksums for {complete} complete chunks")
            return
        per_block = max(1, BLOCK_BYTES // max(1, spec.chunk_bytes))
        for block in range(first // spec.chunk_rows, complete, per_block):
            last = min(block + per_block, complete)
            for chunk, found in self._checksums(store, name, spec, block, last):
                if found != int(checksums[chunk]):
                    self.problem(
                        f"{name}, chunk {chunk}",
                        f"rows {chunk * spec.chunk_rows} to {(chunk + 1) * spec.chunk_rows} have changed",
                    )
                    self.damage(name, chunk * spec.chunk_rows)
        start = max(complete * spec.chunk_rows, first)
        if start < rows:
            try:
                what = (
                    "have changed"
                    if store.raw_checksum(name, start, rows) != store.state.partial.get(name, 0)
                    else None
                )
            except (ReplayStoreError, OSError) as error:
                what = f"cannot be read: {error}"
            self.count((rows - start) * spec.row_bytes)
            if what is not None:
                self.problem(name, f"rows {start} to {rows}, those of the unfinished chunk, {what}")
                self.damage(name, start)
        self.check_indexes(name, spec, first, rows)

    def _checksums(
        self, store: StoreReader, name: str, spec: ArraySpec, block: int, last: int
    ) -> Iterator[tuple[int, int]]:
        """Those of the chunks of a raw array as they are; one that cannot be read is a problem."""
        try:
            if last - block == 1:
                yield block, store.raw_checksum(name, block * spec.chunk_rows, last * spec.chunk_rows)
                self.count(spec.chunk_bytes)
                return
            data = memoryview(store.read_raw(name, block * spec.chunk_rows, last * spec.chunk_rows))
        except (ReplayStoreError, OSError) as error:
            if last - block == 1:
                self.problem(f"{name}, chunk {block}", str(error))
                self.damage(name, block * spec.chunk_rows)
                return
            for chunk in range(block, last):
                yield from self._checksums(store, name, spec, chunk, chunk + 1)
            return
        self.count(len(data))
        for chunk in range(block, last):
            at = (chunk - block) * spec.chunk_bytes
            yield chunk, crc32c(data[at : at + spec.chunk_bytes])

    def check_coded(self, store: StoreReader, name: str, spec: ArraySpec) -> None:
        rows = store.rows(name)
        codec = self.container.codec(spec)
        checksums = store.table(tree.checksums(name))
        complete = rows // spec.chunk_rows
        first = store.first(name) // spec.chunk_rows
        if len(checksums) != complete:
            self.problem(name, f"{len(checksums)} checksums for {complete} complete chunks")
            return

        def check(chunk: int, data: bytes | str) -> str | None:
            if isinstance(data, str):
                return data
            if codec.checksum(data) != int(checksums[chunk]):
                return "its stored bytes have changed"
            try:
                codec.decode(data, np.empty(spec.chunk_bytes, np.uint8))
            except CorruptError as error:
                return str(error)
            return None

        per_block = max(1, BLOCK_BYTES // max(1, spec.chunk_bytes))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for block in range(first, complete, per_block):
                chunks = range(block, min(block + per_block, complete))
                for chunk, what in zip(
                    chunks,
                    pool.map(check, chunks, [self._stored(store, name, chunk) for chunk in chunks]),
                    strict=True,
                ):
                    if what is not None:
                        self.problem(f"{name}, chunk {chunk}", what)
                        self.damage(name, chunk * spec.chunk_rows)
                self.count(len(chunks) * spec.chunk_bytes)
        try:
            _, tail = store.tail(name)
        except CorruptError as error:
            self.problem(name, str(error))
            self.damage(name, complete * spec.chunk_rows)
        else:
            if len(tail) and self.published.get(name) == rows:
                self.guarded(name, lambda: self.check_last(name, spec, complete, tail.tobytes()), rows=False)
        self.check_indexes(name, spec, first * spec.chunk_rows, rows)

    def check_last(self, name: str, spec: ArraySpec, chunk: int, rows: bytes) -> None:
        """The unfinished chunk as other software sees it, filled up, is what it is."""
        entry, shown = self.container.entry(name, chunk), np.zeros(spec.chunk_bytes, np.uint8)
        if entry is not None:
            self.container.codec(spec).decode(
                self.container.files.read(entry.object, entry.offset, entry.length), shown
            )
        if entry is None or shown[: len(rows)].tobytes() != rows:
            self.problem(
                name,
                "what other software sees of its last rows is not what the commit says",
                "run `replaystore publish`",
            )

    def _stored(self, store: StoreReader, name: str, chunk: int) -> bytes | str:
        """The stored bytes of a chunk, or why they cannot be had."""
        try:
            entry = store.locate(name, chunk)
            if entry is None:
                return "it is missing"
            data: bytes = self.container.files.read(entry.object, entry.offset, entry.length)
        except (ReplayStoreError, OSError) as error:
            return str(error)
        return data if len(data) == entry.length else "it reaches past the end of its file"

    def check_indexes(self, name: str, spec: ArraySpec, first: int, rows: int) -> None:
        """What other software finds chunks by; that of the last chunk is brought when its rows are
        published."""
        if self.published.get(name, 0) > rows:  # which is a problem already, and has a remedy
            rows = rows // spec.chunk_rows * spec.chunk_rows
        for number, (where, what) in enumerate(self.container.index_problems(name, first, rows)):
            if number == MOST_PROBLEMS:
                self.problem(name, "its indexes have more problems than are listed")
                break
            self.problem(where, what)

    # --- trajectories

    def check_trajectories(self, store: StoreReader, document: documents.Document) -> None:
        try:
            view = BufferReader(self.place, store, document)
            self.report.steps = len(view)
            self.report.trajectories = view.num_trajectories
            view.parts.check()
            self._check_parts(view, store)
            self._check_flags(view)
        except (ReplayStoreError, OSError) as error:
            self.problem("tables of parts and trajectories", str(error))

    def _check_parts(self, view: BufferReader, store: StoreReader) -> None:
        parts, table = view.parts, view.trajectories
        if len(parts) and int((parts.start + parts.length).max()) > store.rows("steps"):
            self.problem("parts", f"a part ends beyond the {store.rows('steps')} steps")
        unknown = np.setdiff1d(parts.trajectory, table.trajectory)
        if len(unknown):
            self.problem("parts", f"parts of trajectory {int(unknown[0])}, which is not in the table")
        finals = parts.final[parts.final >= 0]
        known = max((store.rows(name) for name in store.specs() if tree.is_final(name)), default=0)
        if len(finals) and (int(finals.max()) >= known or len(np.unique(finals)) != len(finals)):
            self.problem("parts", f"final observations are not numbered once each below {known}")
        ids, places = np.unique(parts.trajectory, return_inverse=True)
        lengths = np.zeros(len(ids), np.int64)
        # a ring, or what was made of one, lacks the first steps of some.
        np.maximum.at(lengths, places, parts.offset + parts.length)
        order = np.argsort(table.trajectory)
        listed = table["length"][order]
        for wrong in np.flatnonzero(listed != lengths)[:5] if len(listed) == len(lengths) else [0]:
            self.problem(f"trajectory {int(ids[wrong])}", "its parts do not add up to its length")

    def _check_flags(self, view: BufferReader) -> None:
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
                (parts.start + parts.length - 1)[order][last].tolist(),
                strict=True,
            )
        )
        rows = np.array([row_of[number] for number in ended.trajectory.tolist()], np.int64)
        for name in flags:
            stored = view[name][rows - view.first_row]
            for wrong in np.flatnonzero(stored != ended[name])[:5]:
                number = int(ended.trajectory[wrong])
                self.problem(
                    f"trajectory {number}",
                    (
                        f"the table says {name}={bool(ended[name][wrong])}, its last "
                        f"step {bool(stored[wrong])}"
                    ),
                )


def _later_records(data: bytes) -> Iterator[int]:
    """Valid records somewhere in `data`."""
    at, looked = data.find(MAGIC), 0
    while at >= 0 and looked <= 16 * len(data):  # as much as a file may hold of what only looks like a record
        length = HEADER_BYTES + int.from_bytes(data[at + 8 : at + HEADER_BYTES], "little")
        if length <= len(data) - at:
            looked += length
            found = next(decode_records(data[at : at + length]), None)
            if found is not None:
                yield found[0]["commit"]
                at += length - 1
        at = data.find(MAGIC, at + 1)
