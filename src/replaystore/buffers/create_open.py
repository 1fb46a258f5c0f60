"""Making a buffer, and opening one: for reading, for writing, or as of an older commit."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from replaystore import registry
from replaystore.arrays import sealing
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.history import ATTEMPTS
from replaystore.arrays.incomplete import newest_synced, newest_whole
from replaystore.arrays.naming import check_commit, check_kept
from replaystore.arrays.reading import StoreReader
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.opening import open_container, open_for_writing
from replaystore.buffers.recorder import NOTHING
from replaystore.buffers.replacing import NewStore
from replaystore.columns.chunk_cache import ChunkCache
from replaystore.containers.located import container_type, is_written
from replaystore.containers.protocol import Container
from replaystore.errors import (
    ArgumentError,
    ConflictError,
    CorruptError,
    EvictedError,
    ReplayStoreError,
    ReplayStoreWarning,
    StorageError,
    UnsupportedError,
)
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location, parse
from replaystore.schema import document as documents
from replaystore.schema.environment import environment_of
from replaystore.schema.fields import Schema
from replaystore.storage.places import places_of
from replaystore.views.column import Column
from replaystore.views.layout import array_specs, check_capacity, check_storage
from replaystore.views.ragged_column import RaggedColumn

if TYPE_CHECKING:
    import gymnasium

__all__ = ["create", "open", "open_column", "open_commit"]


def create(
    location: str | os.PathLike[str] | Location,
    schema_or_env: Schema | gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any],
    *,
    capacity: int | None = None,
    layout: Literal["live", "archive"] = "live",
    storage: Mapping[str, Mapping[str, Any]] | None = None,
    durability: Literal["commit", "none"] = "commit",
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    keep_commits: int | None = None,
    keep_named: int | None = None,
    environment: Any = None,
    provenance: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> Buffer:
    """Make an empty buffer and open it for writing.

    Args:
        location: "runs/a.zarr", "a.h5", or "memory:a".
        schema_or_env: what a step holds: a `Schema`, or a Gymnasium environment or vector environment.
        capacity: keep this many steps, the newest, and drop older ones; Zarr only.
        layout: "live" to write to and sample from, "archive" for keeping (all fields coded, large chunks;
        sealed when it is closed).
        storage: by field name, {"codec": "raw" | "zstd:LEVEL" | "gzip:LEVEL", "chunk_rows": N} instead of the
        layout's choice.
        durability: "commit": committed steps survive a power cut. "none": they survive a kill, but nothing is
        synced to the disk.
        metadata: anything of the user's that is JSON, up to 1 MiB.
        keep_commits: at least so many of the newest commits can be opened and gone back to; older ones go,
            but those that have names (default 1000).
        keep_named: a ring keeps the rows of so many of its newest named commits (default 1). 2 for several
            that are checkpointed together: one may have a name that another did not get to.
        environment: what the steps are taken in, where a `Schema` says what they hold: an environment or
            vector environment of Gymnasium, the id of one, or what another buffer has as `environment`.
        overwrite: replace a store that is there. Anything else that is there is never replaced.
        token: as that of `open`.

    Raises:
        AlreadyExistsError, ArgumentError, UnsupportedError (a space or capacity that cannot be stored so),
        StorageError.
    """
    place = _with_token(parse(location), token)
    env = None if isinstance(schema_or_env, Schema) else schema_or_env
    schema = schema_or_env if isinstance(schema_or_env, Schema) else Schema.from_env(env)
    if capacity is not None:
        check_capacity(capacity)
        if not container_type(place).capabilities.gives_back_space:
            what = registry.entry("containers", place.container).what
            raise UnsupportedError(
                f"{place}: {what} cannot give space back, so it has no ring: use a .zarr location with "
                f"capacity={capacity}"
            )
    if durability not in ("commit", "none"):
        raise ArgumentError(f'durability is "commit" or "none", not {durability!r}')
    check_storage(schema.fields, layout, storage)
    check_kept(keep_commits, keep_named)
    if places_of(place).served_buffer() is not None:
        said: dict[str, Any] = {"schema": schema.to_json(), "layout": layout, "durability": durability}
        said |= {"capacity": capacity, "storage": storage, "metadata": metadata, "overwrite": overwrite}
        said |= {"keep_commits": keep_commits, "keep_named": keep_named}
        said |= {"environment": _environment(env, environment)}
        places_of(place).create_served(place, {key: one for key, one in said.items() if one is not None})
        return open(place, "r+")
    document = documents.new(
        schema,
        layout={
            "name": layout,
            "durability": durability,
            "overrides": {name: dict(setting) for name, setting in (storage or {}).items()},
        },
        ring=None if capacity is None else {"capacity": capacity},
        environment=_environment(env, environment),
        provenance=documents.provenance(provenance),
        user=metadata,
    )
    new = NewStore(place, document.to_json(), overwrite=overwrite)
    try:
        specs = array_specs(schema, layout, new.container.capabilities, capacity=capacity, storage=storage)
        durable = durability == "commit"
        ArrayStore.create(
            new.container, specs, NOTHING, durable=durable, commits=keep_commits, named=keep_named
        ).close()
        new.finish()
    except BaseException:
        new.discard()
        raise
    return open(place, "r+")


def _environment(env: Any, given: Any) -> dict[str, Any] | None:
    """What the document says of the environment. ArgumentError: two are given, or none of Gymnasium's."""
    if given is None:
        return None if env is None else environment_of(env)
    if env is not None:
        raise ArgumentError("create takes an environment once: as what says the schema, or as environment=")
    if isinstance(given, str):
        return {"id": given}
    if isinstance(given, Mapping):
        return dict(given)
    found = environment_of(given)
    if found is None:
        raise ArgumentError(
            "environment is an environment of Gymnasium, the id of one, or what another buffer has, not a "
            f"{type(given).__name__}"
        )
    return found


def open(  # noqa: A001  # as in other libraries that open files
    location: str | os.PathLike[str] | Location,
    mode: Literal["r", "r+"] = "r",
    *,
    commit: int | str | None = None,
    cache: int | None = None,
    keep_commits: int | None = None,
    keep_named: int | None = None,
    token: str | None = None,
) -> Buffer:
    """Open a buffer for reading ("r") or writing ("r+", one writer at a time; what a killed writer left is
    put in order).

    Args:
        commit: show it as of an older commit, given by its number or its name (reading only);
            `buffer.rollback` takes a writer back to one.
        cache: keep at most so many bytes of decoded chunks on the local disk, in a file without a name in the
            folder for temporary files (reading only). All columns and samplers of this buffer share it; raw
            fields of a store that is far away are then read a chunk at a time, and compared with checksums.
        keep_commits, keep_named: as those of `create`, from the next commit on (writing only).
        token: what is sent to the server of a replay:// address; otherwise REPLAYSTORE_TOKEN, or what a
            server on this machine has written for its user.

    Raises:
        NotFoundError: nothing there, or no such commit. FormatError: not a store. FormatVersionError,
        CorruptError, EvictedError. ConflictError: another writer has it. UnsupportedError: an archive, which
        is only read, or a zip file, is to be written to.
    """
    place = _with_token(parse(location), token)
    if mode not in ("r", "r+"):
        raise ArgumentError(f'mode is "r" or "r+", not {mode!r}')
    commit = None if commit is None else check_commit(commit)
    if mode == "r+" and commit is not None:
        raise ArgumentError(
            'an older commit is opened with mode "r"; to go back to it, open with "r+" and '
            "call rollback(commit)"
        )
    _check_cache(cache, mode)
    check_kept(keep_commits, keep_named, mode)
    if mode == "r":
        buffer = _open_for_reading(place, commit)
        buffer.store.cache = None if cache is None else ChunkCache(cache)
        return buffer
    served: type[Buffer] | None = places_of(place).served_buffer()
    if served is not None:
        if keep_commits is not None or keep_named is not None:
            raise UnsupportedError(f"{place}: how many commits are kept is said when the store is made there")
        return _open_for_reading(place, None, kind=served)
    container, lock = open_for_writing(place)
    try:
        sealing.check_metadata(container)
        document = documents.parse(container.document(), str(place))
        sealing.refuse_writing(place, container)
        document.check_writable(str(place))
        store = ArrayStore.open(container, durable=document.layout.durability == "commit")
        store.keep(commits=keep_commits, named=keep_named)
        return Buffer(place, store, document, lock=lock, reopen=open_column, open_commit=open_commit)
    except BaseException as error:
        container.close()
        lock.release()
        if isinstance(error, OSError) and not isinstance(error, ReplayStoreError):
            raise StorageError(f"{place} cannot be opened: {error.strerror or error}", error.errno) from error
        raise


def _with_token(place: Location, token: str | None) -> Location:
    return place if token is None else places_of(place).with_token(place, token)


def _check_cache(cache: object, mode: str) -> None:
    """ArgumentError: not a size of a cache, or none that goes with the mode."""
    if cache is None:
        return
    if isinstance(cache, bool) or not isinstance(cache, int) or cache < 1:
        raise ArgumentError(
            "cache is how many bytes of decoded chunks are kept on the local disk, such as 8 << 30, not "
            f"{cache!r}"
        )
    if mode != "r":
        raise ArgumentError('chunks are cached for reading: leave out cache, or open with mode "r"')


def open_column(location: str, commit: int, name: str) -> Column | RaggedColumn:
    """A column of a commit, as another process gets one that was sent to it."""
    found: Column | RaggedColumn = open(location, commit=commit)[name]
    return found


def open_commit(location: str, commit: int) -> Buffer:
    """A commit of which rows may have left a ring by now, which is told of those alone."""
    return _open_for_reading(parse(location), commit, whole=False)


def _open_for_reading(
    place: Location, commit: int | str | None, *, whole: bool = True, kind: type[Buffer] = Buffer
) -> Buffer:
    """Open once more where it failed because the store went on, or was replaced, meanwhile."""
    before: object = None
    for _ in range(ATTEMPTS):
        container = open_container(place, writable=False)
        try:
            with as_storage_errors(f"{place} cannot be opened"):
                return _look_at(place, container, commit, whole=whole, kind=kind)
        except BaseException as error:
            container.close()
            now = (
                _standing(place) if isinstance(error, (ConflictError, CorruptError, EvictedError)) else before
            )
            if now == before:
                raise
            before = now
    raise ConflictError(f"{place} changed {ATTEMPTS} times while it was opened; try again")


def _look_at(
    place: Location, container: Container, commit: int | str | None, *, whole: bool, kind: type[Buffer]
) -> Buffer:
    before = container.identity()
    far, fits = container.files.far, sealing.check_metadata(container)
    document = documents.parse(container.document(), str(place))
    store = StoreReader(container, StoreReader.load(container))
    if not far:
        store.check_arrays()
    if not far and not sealing.is_sealed(store.state):  # far away, reading tells what is missing
        # A base record is synced; and a store that somebody writes to has seen no power cut since.
        synced = (
            document.layout.durability == "commit"
            or store.state.commit == store.state.base
            or is_written(place)
        )
        if commit is None:
            store = _whole(store, synced=synced)
        elif not synced:  # names, too, are those of the newest commit that is there
            store, _ = newest_synced(store)
    if commit is not None:
        store = store.pin(commit, whole=whole)
        # A ring keeps the rows of a named commit, and moves those of tables to another segment of the log.
        for name in store.places.tables if whole and store.state.first else ():
            if name in store.state.arrays:
                store.table(name)
    store.keep_tails(look=not fits)
    if not (far and fits):  # then the manifest speaks for all that was read
        store.check_generation()
    if container.identity() != before:
        raise ConflictError(f"{place}: another store has taken its place; open it again")
    return kind(place, store, document, lock=None, reopen=open_column, open_commit=open_commit)


def _standing(place: Location) -> object:
    """Changes whenever the store does."""
    container = open_container(place, writable=False)
    try:
        state = StoreReader.load(container)
        return state.store, state.commit, state.identity, container.identity()
    except ReplayStoreError as error:
        return str(error)
    finally:
        container.close()


def _whole(store: StoreReader, *, synced: bool) -> StoreReader:
    """A reader of the newest commit that the files satisfy: a copy of a store in use may lack what its newest
    commit says, and so may one that was not synced, after a power cut."""
    found, lacking = store, ""
    if not synced:
        found, lacking = newest_synced(store)
    elif not store.container.capabilities.one_file:
        found, lacking = newest_whole(store)
    if lacking:
        known, newest = found.state.commit, store.state.commit
        text = (
            f"{store} is read as of commit {known}, not {newest}, its newest, since its files do not "
            f"have all of that ({lacking})"
        )
        warnings.warn(
            f"{text}; if it is not a copy of a store in use, run `replaystore verify`",
            ReplayStoreWarning,
            stacklevel=3,
        )
    return found
