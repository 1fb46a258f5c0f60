"""An archive is sealed when it is complete: nobody writes to it again, and a manifest has the SHA-256 of
every file.

    archive.zarr/journal/log/manifest-sha256.txt   of all files in the folder, to be checked there with
                                                   `sha256sum -c`
    archive.h5.sha256, archive.zarr.zip.sha256   of the file of that name, beside it

That a store is sealed is said by its last commit. Opening a sealed folder or zip compares its metadata with
the manifest (the log, and what Zarr knows of the arrays: what no chunk's checksum can speak of); `verify`
compares everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import commit_whole, seal
from replaystore.arrays.reading import StoreReader
from replaystore.arrays.state import SEALED, State
from replaystore.containers.checks import MOST_JSON
from replaystore.containers.located import is_one_file, resolved
from replaystore.containers.protocol import Container
from replaystore.containers.zarr.metadata import MANIFEST
from replaystore.errors import CorruptError, StorageError, UnsupportedError
from replaystore.location import Location
from replaystore.schema import tree
from replaystore.storage.places import places_of
from replaystore.storage.protocol import Maps, Reads

__all__ = [
    "MANIFEST",
    "check_manifest",
    "check_metadata",
    "commit_sealed",
    "is_sealed",
    "refuse_writing",
    "seal_store",
    "unchecked",
    "without_sidecar",
    "write_sidecar",
]

SIDECAR, ASIDE = ".sha256", ".sha256.replaystore-old"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\0\n]+)")
_BLOCK = 4 << 20
_AHEAD = 16
"""Files whose first blocks are announced together."""
MOST_BYTES, MOST_COPIES = 1 << 30, 16
"""A file of an archive has at most so many bytes, and so many times what the chunks of a shard have: digests
of more take minutes."""
MOST_LINE = 8192
"""Bytes of a sidecar."""


# --- sealing


def commit_sealed(store: ArrayStore, extra: dict[str, object], attachments: dict[str, bytes]) -> None:
    """Commit what was written into a new store, and seal it. If this fails, the store is to be discarded."""
    commit_whole(store, extra, attachments)
    _write_manifest(store)


def seal_store(store: ArrayStore) -> None:
    """Seal a store all of which is committed. If this fails, it goes on to be a store that can be written to,
    and sealed later."""
    seal(store)
    _write_manifest(store)


def _write_manifest(store: ArrayStore) -> None:
    """A store in one file has a sidecar instead, which is written when the file is complete and has its
    name."""
    container = store.container
    if container.capabilities.one_file:
        return
    with store.storage("write the manifest"):
        files = container.files
        left = [name for name in files.walk() if name.endswith(".new")]  # of a replacement that failed
        for name in left:
            files.remove(name)
        files.sync_folders({os.path.dirname(name) for name in left})
        listed = [name for name in files.walk() if name not in (MANIFEST, container.lock_name)]
        lines = [f"{_digest(files, name)}  {name}\n" for name in listed]
        files.replace(MANIFEST, "".join(lines).encode())


def write_sidecar(place: Location) -> None:
    """The manifest of a sealed store in one file, beside it. StorageError: the disk refused."""
    files, name = places_of(place).beside(resolved(place).path, writable=True)
    files.entrance = name
    try:
        files.sync_file(name)  # HDF5's last marker is not synced otherwise, and these are its bytes
        files.replace(name + SIDECAR, f"{_digest(files, name)}  {name}\n".encode())
    except OSError as error:
        with contextlib.suppress(OSError):
            files.remove(name + SIDECAR + ".new")
        reason = error.strerror or str(error)
        raise StorageError(
            f"{place.path + SIDECAR} cannot be written: {reason}; run `sha256sum {name}`", error.errno
        ) from error
    finally:
        files.close()


@contextlib.contextmanager
def without_sidecar(place: Location) -> Iterator[None]:
    """While another store takes the place of one in a file: its sidecar goes before, and comes back if that
    fails."""
    if not is_one_file(place):
        yield
        return
    files, name = places_of(place).beside(place.path, writable=True)
    sidecar, aside = name + SIDECAR, name + ASIDE
    try:
        if not files.exists(sidecar):
            yield
            return
        sealed = os.stat(place.path) if files.exists(name) else None  # it may have been removed, alone
        files.rename(sidecar, aside)
        try:
            files.sync_folder("")  # it must not be there after a power cut that leaves the new store
            yield
        finally:
            if sealed and files.exists(name) and os.path.samestat(os.stat(place.path), sealed):
                files.rename(aside, sidecar)
            else:
                files.remove(aside)
    finally:
        files.close()


def _digest(files: Reads, name: str, most: int | None = None) -> str:
    """The SHA-256 of a file. CorruptError: it has more than so many bytes."""
    found, offset = hashlib.sha256(), 0
    while most is None or offset <= most:
        data = files.read(name, offset, _BLOCK)
        found.update(data)
        offset += len(data)
        if len(data) < _BLOCK:
            return found.hexdigest()
    raise CorruptError(f"it has at least {offset} bytes, more than a file of an archive")


# --- opening


def is_sealed(state: State) -> bool:
    """Whether a store as of this commit is sealed."""
    return state.extra.get(SEALED) is True


def refuse_writing(place: Location, container: Container) -> None:
    """UnsupportedError if a store is sealed. (A folder whose manifest was not written, by a killed writer,
    can be sealed again.)"""
    sealed = is_sealed(StoreReader.load(container))
    if sealed and (container.capabilities.one_file or container.files.exists(MANIFEST)):
        remedy = f"make a live one with `replaystore convert {place} live.zarr --layout live`"
        raise UnsupportedError(f"{place} is an archive, which nobody writes to again: {remedy}")


def check_metadata(container: Container) -> bool:
    """Compare the metadata of a store that has a manifest inside with it; whether it has one. CorruptError:
    the manifest or metadata are damaged."""
    files = container.files
    # HDF5 has checksums in its own metadata.
    if container.capabilities.one_file or (files.lists and not files.exists(MANIFEST)):
        return False
    try:
        text = files.read_whole(MANIFEST, MOST_JSON)
    except FileNotFoundError:
        return False
    for where, what in _differences(container, text, metadata_only=True):
        raise CorruptError(f"{where}: {what}; restore it from a copy")
    return True


def _is_metadata(name: str, container: Container) -> bool:
    """Whether a file is compared when a store is opened. Where each file is a request, the copies that the
    root's metadata have of the others stand for them: those are what is believed."""
    own = container.metadata_name
    known = name == own or name.startswith(f"{tree.LOG}/")
    return known or (name.endswith(f"/{own}") and isinstance(container.files, Maps))


def _differences(
    container: Container, text: bytes, *, metadata_only: bool = False
) -> Iterator[tuple[str, str]]:
    """In what a folder or zip is not what its manifest says."""
    files = container.files
    files.forget(MANIFEST)
    try:
        lines = [_LINE.fullmatch(line) for line in text.decode().removesuffix("\n").split("\n")]
    except UnicodeDecodeError:
        lines = [None]
    listed = {line[2]: line[1] for line in lines if line is not None}
    if len(listed) != len(lines) or container.metadata_name not in listed:
        yield files.path(MANIFEST), "the manifest of the archive is damaged"
        return
    wanted = [name for name in listed if not metadata_only or _is_metadata(name, container)]
    for number, name in enumerate(wanted):
        if number % _AHEAD == 0:
            files.fetch_ahead([(next_one, 0, _BLOCK) for next_one in wanted[number : number + _AHEAD]])
        most = _most(container, name)
        try:
            if not files.far and files.size(name) > most:
                yield files.path(name), f"it has {files.size(name)} bytes, more than a file of an archive"
            elif _digest(files, name, most) != listed[name]:
                yield files.path(name), "its SHA-256 is not that of the manifest"
        except FileNotFoundError:
            yield files.path(name), "the file is missing"
        except CorruptError as error:
            yield files.path(name), str(error)
        files.forget(name)
    if not metadata_only and files.lists:
        for name in sorted(set(files.walk()) - listed.keys() - {MANIFEST, container.lock_name}):
            yield files.path(name), "the file is not in the manifest"


def _most(container: Container, name: str) -> int:
    spec = container.specs().get(name.rpartition("/c.")[0])
    return MOST_BYTES + (MOST_COPIES * spec.chunks_per_shard * spec.chunk_bytes if spec is not None else 0)


# --- verifying


def check_manifest(place: Location, container: Container) -> Iterator[tuple[str, str]]:
    """In what a store is not what its manifest says, as (where, what); nothing if it is not sealed. Reads
    everything."""
    if not is_sealed(StoreReader.load(container)):
        return
    if not container.capabilities.one_file:
        try:
            text = container.files.read_whole(MANIFEST, MOST_JSON)
        except FileNotFoundError:
            yield container.files.path(MANIFEST), "the manifest of the archive is missing"
        else:
            yield from _differences(container, text)
    if is_one_file(place):
        yield from _sidecar_differences(place)


def unchecked(place: Location, container: Container) -> list[str]:
    """What there is not to check a sealed store with. A file may have been copied without its sidecar; that
    is no damage."""
    if not container.files.lists and not container.capabilities.one_file:
        return ["what is there cannot be listed, so that files which nothing names were not looked for"]
    if not is_one_file(place) or not is_sealed(StoreReader.load(container)):
        return []
    files, name = places_of(place).beside(place.path, writable=False)
    try:
        if files.exists(name + SIDECAR):
            return []
        path = files.path(name + SIDECAR)
    finally:
        files.close()
    return [f"{path} is not there, so that the file as a whole was not compared with it"]


def _sidecar_differences(place: Location) -> Iterator[tuple[str, str]]:
    """A file may have been copied without its sidecar; that is no damage."""
    place = resolved(place)
    files, name = places_of(place).beside(place.path, writable=False)
    files.entrance = name
    try:
        if not files.exists(name + SIDECAR):
            return
        line = _LINE.fullmatch(
            files.read_whole(name + SIDECAR, MOST_LINE).decode("utf-8", "replace").removesuffix("\n")
        )
        if line is None:
            yield files.path(name + SIDECAR), "it is not a line of `sha256sum`"
        elif _digest(files, name) != line[1]:
            yield files.path(name), f"its SHA-256 is not that in {name + SIDECAR}"
    finally:
        files.close()
