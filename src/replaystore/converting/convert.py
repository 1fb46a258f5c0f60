"""Convert a buffer: to another container, another layout, or to a part of it.

1. The source is only read. The target appears under its name when it is complete and durable, or not at all.
   (A buffer of durability "none" makes one that is not synced either.)
2. What is not changed on purpose is copied bit for bit: raw rows and encoded chunks as they are stored, where
   the target stores them in the same way (`replaystore.arrays.copying`), so that nothing is decoded that
   need not be. All of it is compared with the checksums it was committed with.
3. A few blocks of rows are in memory at a time, however large the buffer is; tables are whole.

Older commits are not carried over: the target begins with the commit that the source shows.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from replaystore import formats
from replaystore.arrays import sealing
from replaystore.arrays.commits import ArrayStore
from replaystore.arrays.copying import append_rows
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.making import make, size_of
from replaystore.buffers.opened import open as open_buffer
from replaystore.containers.codecs import parse_codec
from replaystore.containers.protocol import ArraySpec, Capabilities, Container
from replaystore.converting.excerpt import PARTS, Excerpt, chosen, selection, whole
from replaystore.converting.transfer import Transfer
from replaystore.errors import SchemaError, UnsupportedError
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location, parse
from replaystore.schema import document as documents
from replaystore.schema.fields import Schema
from replaystore.schema.names import escape_path
from replaystore.views.layout import LAYOUTS, array_specs, field_specs, table_spec
from replaystore.views.reader import BufferReader
from replaystore.views.ring import carried

__all__ = ["Progress", "Report", "convert", "opened"]

HISTORY = 16
"""Earlier conversions that the provenance goes back to."""

Progress = Callable[[int, int], None]
"""Called with (bytes of rows done, bytes of rows in all)."""


@dataclass(frozen=True)
class Report:
    """What `convert` did."""

    source: str
    target: str
    steps: int
    trajectories: int
    bytes_read: int
    """Of rows, as they are stored in the source."""
    bytes_written: int
    """The size of the target."""
    seconds: float
    copied: list[str]
    """Fields whose bytes were copied as they were."""
    recoded: list[str]
    """Fields that were decoded, or encoded, or both."""
    notes: list[str]
    """What is not as it was in the source."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def convert(
    source: str | os.PathLike[str] | Location | Buffer,
    target: str | os.PathLike[str] | Location,
    *,
    fields: Iterable[str] | None = None,
    split: str | None = None,
    where: str | None = None,
    codec: str | None = None,
    layout: Literal["live", "archive"] | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a buffer, or a part of it, to a new place; or a buffer of other software to a new store, or a
    store to a file of that.

    Files of other software (`replaystore.formats`) are known by their names: "replay_buffer.pkl" is a pickle
    of active_rlhf, "buffer_state.safetensors" (or a folder with it) a buffer of velora, whose metadata lie
    beside it.

    Without `split` and `where` rows and trajectories keep their order and numbers, and all else is carried
    over too: parts, splits, final observations, columns of the user's, open trajectories (which can be
    continued in the target), metadata, environment. A ring is written as its window.

    Args:
        source: a location, or an open buffer (its last commit is converted).
        target: a location; "a.zarr.zip" makes a zip file, which is read in place.
        fields: names, or beginnings of paths ("observation"); None for all.
        split, where: only these trajectories, as `trajectories.where` selects them: in the order of the
            table, each as one run of rows. They keep their numbers; those still open are cut off.
        codec: "raw", "zstd:LEVEL" or "gzip:LEVEL" for all fields that are coded. By default as they are;
            where a field has the default codec of its container, it gets that of the target's (Zarr zstd:1,
            HDF5 gzip:1, which all software reads).
        layout: "live" or "archive" (all fields coded in large chunks, sealed, with a manifest): all fields
            are stored as that layout has it. None: as they are in the source.
        overwrite: replace a store that is there, or a file of the same format.
        strict: refuse what a file of other software cannot hold exactly. Without it, the notes of the report
        say what was lost or made up.
        progress: called with (bytes done, bytes in all) after each block; an exception from it ends the
        conversion.

    Raises:
        NotFoundError, FormatError, CorruptError: the source cannot be read, or its rows have changed since
        they were committed. AlreadyExistsError, SchemaError, UnsupportedError, StorageError: the target
        cannot be made. There is none then.
    """
    with as_storage_errors(f"{source} cannot be converted to {target}"):
        begin = time.perf_counter()
        if codec is not None and codec != "raw":
            codec = ":".join(map(str, parse_codec(codec)))
        if formats.of(source) or formats.of(target):
            from replaystore.converting import imports as foreign

            selected = foreign.Selected(fields, split, where)
            return foreign.convert(
                source, target, selected, codec, layout, overwrite=overwrite, strict=strict, progress=progress
            )
        place = parse(target)
        with opened(source) as buffer:
            if _same(buffer, place):
                raise SchemaError(f"{place} is the source itself: choose another target")
            job = _Conversion(
                buffer,
                place,
                fields=fields,
                split=split,
                where=where,
                codec=codec,
                layout=layout,
                progress=progress,
            )
            make(place, job, overwrite=overwrite)
            return job.report(time.perf_counter() - begin)


@contextlib.contextmanager
def opened(source: str | os.PathLike[str] | Location | Buffer) -> Iterator[Buffer]:
    """The buffer at a location, closed in the end; an open one is left open."""
    if isinstance(source, Buffer):
        yield source
        return
    buffer = open_buffer(source)
    try:
        yield buffer
    finally:
        buffer.close()


def _same(buffer: BufferReader, place: Location) -> bool:
    known = buffer._place
    if "memory" in (known.backend, place.backend):
        return known == place
    return os.path.realpath(known.path) == os.path.realpath(place.path)


class _Conversion:
    """One conversion, decided on and then carried out."""

    def __init__(
        self,
        buffer: BufferReader,
        place: Location,
        *,
        fields: Iterable[str] | None,
        split: str | None,
        where: str | None,
        codec: str | None,
        layout: str | None,
        progress: Progress | None,
    ) -> None:
        self.buffer, self.place, self.codec, self.progress = buffer, place, codec, progress
        self.schema: Schema = (
            buffer.schema
            if fields is None
            else buffer.schema.select([fields] if isinstance(fields, str) else list(fields))
        )
        self.layout, self.as_it_was = layout or buffer.layout, layout is None
        if self.layout not in LAYOUTS:
            raise SchemaError(f"there is no layout {self.layout!r}: choose one of {', '.join(LAYOUTS)}")
        if self.layout == "archive" and codec == "raw":
            raise SchemaError("all fields of an archive are coded: choose another codec, or layout='live'")
        observations = self.schema.names("observation")
        if split is None and where is None:
            self.excerpt: Excerpt = whole(buffer, observations)
        else:
            self.excerpt = selection(buffer, chosen(buffer, where, split), observations)
        self.selected = {
            "fields": None if fields is None else list(self.schema.fields),
            "split": split,
            "where": where,
        }
        self.extensions, lost = carried(
            buffer, buffer._document.extensions, whole=split is None and where is None
        )
        self.notes = self.excerpt.notes + lost
        self.transfer: Transfer | None = None
        self._note_fields()

    def _note_fields(self) -> None:
        left_out = [name for name in self.buffer.schema.fields if name not in self.schema.fields]
        if left_out:
            self.notes.append(f"fields left out: {', '.join(left_out)}")
        if set(left_out) & set(self.buffer.schema.names("reward")):
            if self.schema.return_shape != self.buffer.schema.return_shape and self.schema.names("reward"):
                raise UnsupportedError(
                    "returns are the sums of all rewards, whose shapes differ: take all "
                    "fields of rewards, or none"
                )
            kept = (
                "returns are those of all rewards"
                if self.schema.names("reward")
                else ("returns are left out with the reward")
            )
            self.notes.append(kept)
        if isinstance(self.buffer, Buffer) and self.buffer.mode == "r+":
            waiting = self.buffer.rows_recorded - self.buffer._stop
            if waiting:
                self.notes.append(f"{waiting} steps that are not committed are not in it")

    # --- what the target is

    def document(self) -> documents.Document:
        """The target's document."""
        known = self.buffer._document
        overrides: dict[str, dict[str, Any]] = {}
        if self.as_it_was:
            given = documents.to_plain(known.layout.overrides)
            overrides = {
                name: _given(setting) for name, setting in given.items() if name in self.schema.fields
            }
        if self.codec is not None:
            for name in self._coded_fields():
                kept = {} if self.codec == "raw" else overrides.get(name, {})
                overrides[name] = {**kept, "codec": self.codec}
        durability = "commit" if self.layout == "archive" else known.layout.durability
        return documents.new(
            self.schema,
            layout={"name": self.layout, "durability": durability, "overrides": overrides},
            environment=None if known.environment is None else documents.to_plain(known.environment),
            provenance=documents.provenance(self._source()),
            user=known.user,
            extensions=self.extensions,
        )

    def _coded_fields(self) -> list[str]:
        if not self.as_it_was:
            specs: Mapping[str, ArraySpec] = field_specs(
                self.schema.fields, self.layout, self._capabilities()
            )
        else:
            specs = self.buffer._store.container.specs()
        return [name for name in self.schema.fields if specs[f"steps/{escape_path(name)}"].codec is not None]

    def _capabilities(self) -> Capabilities:
        """As far as the choice of codecs goes."""
        return Capabilities(default_codec="gzip:1") if self.place.backend == "hdf5" else Capabilities()

    def _source(self) -> dict[str, Any]:
        """What the provenance says of the source."""
        earlier = self.buffer.provenance
        before = earlier.get("source") or {}
        history = before.pop("history", []) if isinstance(before, dict) else []
        return {
            "format": "replaystore",
            "location": self.buffer.location,
            "container": self.buffer._store.container.capabilities.chunk_format,
            "commit": self.buffer.commit_id,
            "steps": len(self.buffer),
            "trajectories": self.buffer.num_trajectories,
            "selection": {key: value for key, value in self.selected.items() if value is not None},
            "ring": None if self.buffer.capacity is None else {"capacity": self.buffer.capacity},
            "history": [earlier, *history][:HISTORY],
        }

    def specs(self, container: Container, document: documents.Document) -> dict[str, ArraySpec]:
        """The target's arrays."""
        known, capabilities = self.buffer._store.specs(), container.capabilities
        storage = {
            name: _given(setting) for name, setting in documents.to_plain(document.layout.overrides).items()
        }
        if self.as_it_was:
            for name in self.schema.fields:
                codec = self._codec(known[f"steps/{escape_path(name)}"], capabilities, storage.get(name, {}))
                storage[name] = {**storage.get(name, {}), "codec": codec or "raw"}
        chosen = array_specs(self.schema, self.layout, capabilities, capacity=None, storage=storage)
        if self.as_it_was:
            final = {
                name: self._codec(known[name], capabilities, {})
                for name, spec in chosen.items()
                if name.startswith("final/") and spec.codec
            }
        else:
            final = {
                name: self.codec
                for name, spec in chosen.items()
                if name.startswith("final/") and spec.codec and self.codec
            }
        chosen |= {
            name: replace(chosen[name], codec=codec)
            for name, codec in final.items()
            if codec not in (None, "raw")
        }
        # Of a ring, chunks and shards were made small for it.
        if self.as_it_was and self.buffer.capacity is None:
            for name, spec in known.items():
                if name in chosen and (spec.codec is None) == (chosen[name].codec is None):
                    chosen[name] = replace(spec, codec=chosen[name].codec)
        user = {
            name: spec
            for name, spec in known.items()
            if name.startswith("trajectories/") and spec.mutable and name not in chosen
        }
        return chosen | {
            name: table_spec(spec.dtype, shape=spec.shape, mutable=True) for name, spec in user.items()
        }

    def _codec(self, known: ArraySpec, capabilities: Capabilities, override: Mapping[str, Any]) -> str | None:
        """How an array is coded in the target if its layout stays."""
        if known.codec is None:
            return None
        if self.codec is not None:
            return None if self.codec == "raw" else self.codec
        if override.get("codec", "raw") != "raw":
            return str(override["codec"])
        default = self.buffer._store.container.capabilities.default_codec
        return capabilities.default_codec if known.codec == default else known.codec

    # --- making it

    def fill(self, container: Container, document: documents.Document) -> None:
        """Bring everything to the target, and make it durable."""
        specs, excerpt = self.specs(container, document), self.excerpt
        extra = {"open": [], "next": 0, "splits": [""], "finals": 0}
        store = ArrayStore.create(container, specs, extra, durable=document.layout.durability == "commit")
        try:
            self.transfer = Transfer(self.buffer, store, excerpt, self.progress)
            self.transfer.rows(list(self.schema.fields))
            self.transfer.final_observations(list(self.schema.names("observation")))
            for name in PARTS:
                append_rows(store, f"parts/{name}", getattr(excerpt.parts, name))
            for name, column in excerpt.table.items():
                if name in specs:
                    append_rows(store, name, np.asarray(column, specs[name].dtype))
            attachments = excerpt.attachments(self.schema.names("observation"))
            if self.layout == "archive":
                sealing.commit_sealed(store, excerpt.extra, attachments)
            else:
                store.commit(excerpt.extra, attachments=attachments)
                store.publish()
                store.tidy()
        finally:
            store.close()

    def report(self, seconds: float) -> Report:
        assert self.transfer is not None
        transfer = self.transfer
        return Report(
            source=self.buffer.location,
            target=str(self.place),
            steps=self.excerpt.rows,
            trajectories=self.excerpt.trajectories,
            bytes_read=transfer.bytes_read,
            bytes_written=size_of(self.place),
            seconds=round(seconds, 3),
            copied=transfer.copied,
            recoded=transfer.recoded,
            notes=self.notes + transfer.notes,
        )


def _given(setting: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that are not set."""
    return {key: value for key, value in setting.items() if value is not None}
