"""What there is to say of a buffer without reading its steps: `buffer.describe()`, `buffer.commits()`, and
what `replaystore info` prints.

Plain values only (numbers, texts, lists, dicts), so that `to_json` is what the command line and other
programs print.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from replaystore.containers.located import is_one_file, size_of_file
from replaystore.location import Location
from replaystore.schema import tree
from replaystore.storage.places import places_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replaystore.arrays.reading import StoreReader
    from replaystore.containers.array_spec import ArraySpec
    from replaystore.views.reader import BufferReader

__all__ = [
    "CommitDescription",
    "Description",
    "FieldDescription",
    "bytes_on_disk",
    "describe",
    "describe_commits",
]


@dataclass(frozen=True)
class FieldDescription:
    """A field, and how it is stored."""

    name: str
    dtype: str
    shape: list[int | None]
    """Of one step; None first: of any length."""
    ragged: bool
    """Whether its values are of any length."""
    text: bool
    """Whether they are texts, which are stored in UTF-8."""
    role: str
    mutable: bool
    """Whether its values can be set later."""
    codec: str
    """ "raw", or "zstd:LEVEL" or "gzip:LEVEL"."""
    chunk_rows: int
    """Steps of a chunk; of a field of any length values."""
    values: int | None
    """Of a field of any length: what is stored of values (rows of the inner shape), those of observations
    after the last steps among them, and such that nothing names any more: what those are would be known only
    after reading where the values of all steps lie. None: each step has one."""
    bytes: int
    """What its steps, and these values, take in memory."""
    stored_bytes: int
    """What they take where they are stored."""


@dataclass(frozen=True)
class CommitDescription:
    """A commit that can be opened: `replaystore.open(location, commit=N)`."""

    commit: int
    committed: str
    """When, in UTC: "2026-01-31T23:59:59Z"."""
    steps: int
    name: str | None = None
    """What it can be opened by as well: `replaystore.open(location, commit="epoch-12")`."""


@dataclass(frozen=True)
class Description:
    """What a buffer holds as of the commit that it shows, and how. Times are in UTC, sizes in bytes."""

    location: str
    id: str
    """As `buffer.id`."""
    backend: str
    """The container: "zarr" or "hdf5"."""
    storage: str
    """What it lies in: "local", "zip", "memory", "http" or "http-zip"."""
    format_version: str
    layout: str
    durability: str
    disk_bytes: int
    """What the files of the store take on the disk, as `du` says it; 0 in memory, and of a folder on a
    server, which does not tell."""
    apparent_bytes: int
    """The sizes of its files, as `ls` says them: files may have holes, and end within a block."""
    commit: int
    committed: str
    name: str | None
    """The name of that commit."""
    names: int
    """How many commits have names."""
    steps: int
    trajectories: dict[str, int]
    """How many there are ("count"), have "ended", or are "open"."""
    ends: dict[str, int]
    """How many were "terminated", "truncated", or "cut_off"."""
    length: dict[str, Any] | None
    """Mean, std, min and max of those that have ended; None: there are none."""
    returns: dict[str, Any] | None
    """The same of their returns; None, too, without rewards. "return" in JSON."""
    splits: dict[str, int]
    ring: dict[str, int] | None
    """The "capacity" of a ring, its "dropped_steps", and the "kept_for_names": steps that it has dropped and
    keeps for the newest named commits, and their "kept_bytes"."""
    fields: list[FieldDescription]
    hidden: dict[str, str]
    """Fields that this version cannot show, and a word of what each needs that it does not know."""
    environment: dict[str, Any] | None
    provenance: dict[str, Any]
    metadata: list[str]
    """The keys of the user's metadata."""

    def to_json(self) -> dict[str, Any]:
        """As `replaystore info --json` prints it."""
        return {"return" if key == "returns" else key: value for key, value in asdict(self).items()}


def describe(buffer: BufferReader) -> Description:
    """What is said of a buffer. The table of trajectories is read, and where coded chunks lie, but no
    steps."""
    document, store = buffer.document, buffer.store
    names = store.places.names
    disk, apparent = _stored_bytes(buffer.whereabouts)
    trajectories = buffer.trajectories
    ended = trajectories[~trajectories.open]
    splits = {str(name) for name in trajectories["split"].tolist() if name}
    return Description(
        location=buffer.where,
        id=document.id,
        backend=buffer.whereabouts.container,
        storage=buffer.whereabouts.storage,
        format_version=document.format_version,
        layout=buffer.layout,
        durability=document.layout.durability,
        disk_bytes=disk,
        apparent_bytes=apparent,
        commit=buffer.commit_id,
        committed=_moment(store.state.time),
        name=next((name for name, named in names.items() if named.commit == buffer.commit_id), None),
        names=len(names),
        steps=len(buffer),
        trajectories={"count": len(trajectories), "ended": len(ended), "open": int(trajectories.open.sum())},
        ends={
            "terminated": int(ended["terminated"].sum()),
            "truncated": int(ended["truncated"].sum()),
            "cut_off": int((~(ended["terminated"] | ended["truncated"])).sum()),
        },
        length=_summary(ended["length"]),
        returns=_summary(ended["return"]) if "return" in ended.columns else None,
        splits={name: int((trajectories["split"] == name).sum()) for name in sorted(splits)},
        ring=None
        if buffer.capacity is None
        else {"capacity": buffer.capacity, "dropped_steps": store.first("steps")} | _kept(buffer),
        fields=[_field(buffer, name) for name in buffer.schema.fields],
        hidden=document.hidden,
        environment=buffer.environment,
        provenance=buffer.provenance,
        metadata=sorted(document.user),
    )


def _kept(buffer: BufferReader) -> dict[str, int]:
    """What a ring keeps for named commits."""
    newest = buffer.store.places
    kept = newest.first.get("steps", 0) - newest.needed("steps")
    size = kept * sum(field.row_bytes for field in buffer.schema.fields.values())
    for name in buffer.schema.ragged:
        values = tree.values(name)
        rows = newest.first.get(values, 0) - newest.needed(values)
        size += rows * buffer.store.container.specs()[values].row_bytes
    return {"kept_for_names": kept, "kept_bytes": size}


def describe_commits(store: StoreReader) -> list[CommitDescription]:
    """The commits that can be opened, oldest first."""
    return [
        CommitDescription(found.commit, _moment(found.time), found.rows("steps"), found.name)
        for found in store.commits()
    ]


def _stored_bytes(place: Location) -> tuple[int, int]:
    places = places_of(place)
    if places.only_read and is_one_file(place):
        size = size_of_file(place)
        return size, size
    return bytes_on_disk(place.path) if places.on_disk else (0, 0)


def bytes_on_disk(location: str) -> tuple[int, int]:
    """What the files of a store, and their folders, take on the disk, and the sizes of its files."""
    names = [location]
    for folder, folders, files in os.walk(location):
        names += [os.path.join(folder, name) for name in (*folders, *files)]
    taken = apparent = 0
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # a writer has removed it meanwhile
            status = os.lstat(name)
            file = stat.S_ISREG(status.st_mode)
            apparent += status.st_size if file else 0
            if file or stat.S_ISDIR(status.st_mode):
                taken += 512 * getattr(status, "st_blocks", -(-status.st_size // 512))
    return taken, apparent


def _summary(values: NDArray[Any]) -> dict[str, Any] | None:
    """Of ended trajectories; None if there are none."""
    if not len(values):
        return None
    found = {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
    }
    return {name: value.tolist() for name, value in found.items()}


def _field(buffer: BufferReader, name: str) -> FieldDescription:
    store, declared, stored = buffer.store, buffer.schema.fields[name], tree.steps(name)
    spec = store.container.specs()[stored]
    plain = len(buffer) * declared.row_bytes
    size, values = plain if spec.codec is None else _coded_bytes(store, stored, spec), None
    if declared.ragged:  # the values, and where those of each step lie
        stored = tree.values(name)
        spec, values = store.container.specs()[stored], store.rows(stored) - store.first(stored)
        plain += values * spec.row_bytes
        size += values * spec.row_bytes if spec.codec is None else _coded_bytes(store, stored, spec)
    return FieldDescription(
        name=name,
        dtype=declared.dtype.name,
        shape=list(declared.shape),
        ragged=declared.ragged,
        text=declared.text,
        role=declared.role,
        mutable=declared.mutable,
        codec=spec.codec or "raw",
        chunk_rows=spec.chunk_rows,
        values=values,
        bytes=plain,
        stored_bytes=size,
    )


def _coded_bytes(store: StoreReader, name: str, spec: ArraySpec) -> int:
    """Bytes of the encoded chunks of a field, and of the rows of its unfinished chunk."""
    first, rows = store.first(name) // spec.chunk_rows, store.rows(name)
    entries = (store.locate(name, chunk) for chunk in range(first, rows // spec.chunk_rows))
    return (
        sum(entry.length for entry in entries if entry is not None) + rows % spec.chunk_rows * spec.row_bytes
    )


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
