"""Repair a store: bring it to the newest commit that verifies, and say exactly what was given up.

The work is done on a second store beside the first, `<name>.replaystore-repair`, whose files are hard links
to those of the first until they are written to; only then is a file copied (a reflink where the file system
has it). When the result verifies, it gets the name `<name>.damaged`, and then the two change places at once:
the original stays under that name until the user removes it. If nothing verifies, the original stays where it
is, unchanged.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from replaystore.arrays import records
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.state import State
from replaystore.buffers.left_behind import DAMAGED, REPAIR
from replaystore.buffers.opening import open_container
from replaystore.checking.findings import Progress, VerifyReport
from replaystore.checking.restore import restore
from replaystore.checking.verify import verify
from replaystore.containers.codecs import crc32c
from replaystore.containers.hdf5.copy import copy_file
from replaystore.containers.located import (
    container_type,
    existing_container,
    exists,
    lock_place,
    lock_store,
    remove,
    resolved,
)
from replaystore.containers.protocol import Container
from replaystore.errors import (
    AlreadyExistsError,
    CorruptError,
    ReplayStoreError,
    StorageError,
    UnsupportedError,
)
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location, parse
from replaystore.registry import entry
from replaystore.schema import tree
from replaystore.storage.local import Files
from replaystore.storage.places import places_of, rename_both

__all__ = ["RepairReport", "repair"]

ATTEMPTS = 16
"""How many commits are tried, newest first."""


@dataclass
class RepairReport:
    """What `repair` did."""

    location: str
    commit: int | None = None
    """The commit that the store now shows."""
    actions: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    """What is no longer in the store, and what was wrong with it."""
    original: str | None = None
    """Where the damaged store is kept; None if it was not changed."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class LinkedFiles(Files):
    """Files some of which are links to another store's: such a file is copied before it is written to."""

    def write(self, name: str, offset: int, data: Any) -> None:
        self._own(name)
        super().write(name, offset, data)

    def resize(self, name: str, size: int) -> None:
        self._own(name)
        super().resize(name, size)

    def create(self, name: str) -> None:
        self.remove(name)
        super().create(name)

    def _own(self, name: str) -> None:
        if os.fstat(self.descriptor(name)).st_nlink > 1:
            copy = name + ".copy"
            shutil.copyfile(self.path(name), self.path(copy))
            self.rename(copy, name)


def repair(location: str | os.PathLike[str] | Location, *, progress: Progress | None = None) -> RepairReport:
    """Bring a store to the newest commit that verifies.

    `progress` is called with (bytes checked, bytes in all) while the store, and then each state that is
    tried, is verified.

    Raises:
        CorruptError: no commit verifies, or the document itself is damaged; the store is as it was.
        ConflictError: somebody is writing to it. UnsupportedError: it lies in no folder or HDF5
            file of a disk, but in memory or a zip file.
        StorageError: no room for the copy.
    """
    place = resolved(parse(location))
    if not places_of(place).links:
        raise UnsupportedError(
            f"{place} lies in {entry('storage', place.storage).what or place.storage}: only folders and HDF5 "
            "files on a disk can be repaired; unpack or copy it into one first"
        )
    report = RepairReport(str(place))
    with as_storage_errors(f"{place} cannot be repaired"):
        before = verify(place, progress=progress)
        if not before.problems:
            report.commit = before.commit
            report.actions.append("nothing to do: the store verifies")
        elif not _ended(place, report):
            with _locked(place):
                after = _first_that_verifies(place, before, report, place.path + DAMAGED, progress)
            report.commit, report.original = after.commit, place.path + DAMAGED
            _account(before, after, report)
    return report


def _ended(place: Location, report: RepairReport) -> bool:
    """End an earlier repair that was killed when its result had the name that the original is kept under, and
    not yet that of the store.

    AlreadyExistsError: what has that name is an original."""
    kept = place.path + DAMAGED
    if not os.path.lexists(kept):
        return False
    try:
        done = verify(replace(place, path=kept))
    except ReplayStoreError:
        done = None
    if done is None or done.problems:
        raise AlreadyExistsError(f"{kept} exists, from an earlier repair: move or remove it first")
    with _locked(place):
        os.rename(kept, place.path + REPAIR)
        _accept(place, done, ["ended an earlier repair, which was interrupted"], report, kept)
    report.commit, report.original = done.commit, kept
    return True


def _first_that_verifies(
    place: Location, before: VerifyReport, report: RepairReport, kept: str, progress: Progress | None
) -> VerifyReport:
    """Put the newest commit that can be brought back in the place of the store."""
    reason = "there is none with steps that are sound"
    with _working_copy(place) as work:
        try:
            restored = _restore(work)
            found = _verified(work, progress) if restored else before
            candidates = _candidates(work, found) if found.problems else []
        except StorageError:
            raise
        except ReplayStoreError as error:
            restored, found, candidates, reason = [], before, [], str(error)
        if restored and not found.problems:
            return _accept(place, found, restored, report, kept)
        reason = str(found.problems[0]) if restored else reason
    for commit in candidates:
        with _working_copy(place) as work:
            try:
                actions = [*_restore(work), _bring_back(work, commit)]
                after = _verified(work, progress)
            except StorageError:  # that says nothing of the commit
                raise
            except ReplayStoreError as error:
                reason = str(error)
                continue
            if not after.problems:
                return _accept(place, after, actions, report, kept)
            reason = str(after.problems[0])
    # Which has just been followed.
    for advice in ("; run `replaystore repair`", ": run `replaystore repair`"):
        reason = reason.removesuffix(advice)
    raise CorruptError(
        f"{place}: no commit can be brought back ({reason}); it is as it was: restore it from a copy"
    )


def _accept(
    place: Location, after: VerifyReport, actions: list[str], report: RepairReport, kept: str
) -> VerifyReport:
    """Give the working copy, which verifies, the name of the store."""
    try:
        files, name = places_of(place).beside(place.path, writable=True)
        _take_place(files, name + REPAIR, name, name + DAMAGED)
    except OSError as error:
        raise StorageError(
            f"{place}: the repaired store cannot take its place: {error.strerror or error}", error.errno
        ) from error
    report.actions += [*actions, f"kept what was there as {kept}"]
    return after


def _verified(work: Location, progress: Progress | None) -> VerifyReport:
    """What `verify` says. StorageError: it could not look at everything, so that a commit might be given up
    for nothing."""
    report = verify(work, progress=progress)
    if not report.complete:
        raise StorageError(f"{work.path}: {report.problems[0].what}")
    return report


def _restore(work: Location) -> list[str]:
    """Write anew what is said in two places and damaged in one; what was done. Stores that cannot be opened
    are, if that is all."""
    kind = container_type(work)
    container = (
        existing_container(work, writable=True, repairing=True)
        if kind.capabilities.one_file
        else kind.for_repair(LinkedFiles(work.path, writable=True), "")
    )
    try:
        return restore(container)
    finally:
        container.close()


@contextlib.contextmanager
def _locked(place: Location) -> Iterator[None]:
    """The store, and the place beside it where the work is done."""
    with contextlib.ExitStack() as held:
        for lock in (lock_place, lock_store):
            held.callback(lock(place).release)
        yield


def _take_place(files: Files, work: str, name: str, kept: str) -> None:
    """Give the repaired store the name, and what had it the name `kept`. OSError: both are there still."""
    if os.path.isdir(files.path(work)):
        store = LinkedFiles(files.path(work), writable=True)
        store.sync_files(list(store.walk()))  # links and copies, and the folders that they are in
        folders = [os.path.relpath(folder, store.root) for folder, _, _ in os.walk(store.root)]
        store.sync_folders(["" if folder == "." else folder for folder in folders])
        store.close()
    repaired = os.stat(files.path(work))
    files.rename(work, kept)
    try:
        done = files.exchange(kept, name)
    except BaseException:
        if os.path.samestat(os.stat(files.path(kept)), repaired):  # otherwise they have changed places
            files.rename(kept, work)
        raise
    if not done:
        files.rename(kept, work)
        rename_both(files, work, name, kept)
    files.sync_folder("")


@contextlib.contextmanager
def _working_copy(place: Location) -> Iterator[Location]:
    """A store beside the first that holds the same."""
    root = replace(place, path=place.path + REPAIR)
    remove(root)
    try:
        if container_type(place).capabilities.one_file:
            files, name = places_of(place).beside(place.path, writable=True)
            copy_file(files, name, os.path.basename(root.path))
        else:
            shutil.copytree(place.path, root.path, symlinks=True, copy_function=_link)
        yield root
    except OSError as error:
        raise StorageError(
            f"{place}: cannot work on a copy of it: {error.strerror or error}", error.errno
        ) from error
    finally:
        if exists(place):
            remove(root)


def _link(source: str, target: str) -> str:
    if os.path.basename(source) == "lock":
        return target  # a lock belongs to its own store
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
    return target


def _bring_back(work: Location, commit: int) -> str:
    """Open the copy for writing as of a commit; say what was done."""
    container = _container(work)
    try:
        newest = StoreReader.load(container, skip_damaged=True).commit
        store = ArrayStore.open(container, durable=True, back_to=commit)
        store.publish()
        store.begin_segment()
    finally:
        container.close()
    if commit == newest:
        return (
            f"brought it to commit {commit}, its newest: metadata and indexes written anew, what no "
            "commit counts cut off"
        )
    return f"went back from commit {newest} to commit {commit}"


def _candidates(place: Location, before: VerifyReport) -> list[int]:
    """Commits that may verify, newest first: those that need no row that is known to be damaged."""
    container = open_container(place, writable=False)
    try:
        known: dict[int, tuple[dict[str, int], dict[str, int]]] = {}
        newest: State | None = None
        for base in container.segments():
            state: State | None = None
            for meta, blobs, _ in records.decode_records(container.read_segment(base)):
                if state is None and not meta.get("base"):
                    break
                if state is None:
                    state = records.begin(meta, blobs)
                else:
                    records.follow(state, meta, blobs)
                known[state.commit] = dict(state.lengths), dict(state.partial)
            newest = state or newest
        limits: dict[str, int] = {}
        for name, row in before.damaged.items():
            group, spec = tree.group_of(name), container.specs()[name]
            # The first rows of a raw chunk may be sound.
            last = row if spec.codec is not None else row + spec.chunk_rows
            limits[group] = min(limits.get(group, last), last)
        found: list[int] = []
        for commit in sorted(known, reverse=True):
            lengths, partial = known[commit]
            # Nothing would be saved.
            empty = newest is not None and not lengths.get("steps") and bool(newest.lengths.get("steps"))
            if (
                newest is None
                or empty
                or newest.is_dead(commit)
                or any(lengths.get(group, 0) > row for group, row in limits.items())
            ):
                continue
            if all(_unchanged(container, name, lengths, partial) for name in before.damaged):
                found.append(commit)
                if len(found) == ATTEMPTS:
                    break
        return found
    finally:
        container.close()


def _unchanged(container: Container, name: str, lengths: dict[str, int], partial: dict[str, int]) -> bool:
    """Whether the rows of a raw array's chunk that was unfinished at a commit are what the commit says."""
    spec, rows = container.specs()[name], lengths.get(tree.group_of(name), 0)
    start = rows // spec.chunk_rows * spec.chunk_rows
    if spec.codec is not None or start == rows:
        return True
    try:
        return crc32c(StoreReader(container, State()).read_raw(name, start, rows)) == partial.get(name, 0)
    except (ReplayStoreError, OSError):
        return False


def _container(work: Location) -> Container:
    kind = container_type(work)
    if kind.capabilities.one_file:
        return open_container(work, writable=True)
    return kind.open(LinkedFiles(work.path, writable=True), "", writable=True)


def _account(before: VerifyReport, after: VerifyReport, report: RepairReport) -> None:
    """Say what is no longer there."""
    if before.commit is not None and after.commit is not None and before.steps > after.steps:
        report.dropped.append(f"the last {before.steps - after.steps} of {before.steps} steps")
    if before.trajectories > after.trajectories:
        report.dropped.append(
            f"{before.trajectories - after.trajectories} of {before.trajectories} trajectories"
        )
    report.dropped += [f"{problem.where}: {problem.what}" for problem in before.problems]
