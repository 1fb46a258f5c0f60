"""Buffers of other software: into a new store, and out of a store into a new file.

Rows are brought over in blocks, so that a file may be larger than memory; tables are whole. What a new file
holds is decided before it is begun, and so is whether that is exact enough.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore import formats
from replaystore.arrays import sealing
from replaystore.arrays.commits import ArrayStore
from replaystore.arrays.copying import append_rows
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.making import make, size_of
from replaystore.containers.protocol import ArraySpec, Container
from replaystore.converting.convert import Progress, Report, opened
from replaystore.converting.excerpt import PARTS, chosen
from replaystore.errors import AlreadyExistsError, SchemaError, StorageError, UnsupportedError
from replaystore.formats.shared.export import Options, refuse_losses
from replaystore.formats.shared.tensors import BLOCK_BYTES
from replaystore.formats.source import Source
from replaystore.location import Location, parse
from replaystore.schema import document as documents
from replaystore.schema.names import escape, escape_path
from replaystore.views.layout import array_specs, field_specs, table_spec

__all__ = ["Import", "Selected", "convert"]

_KEPT = ("trajectory", "length", "split")


class Selected(NamedTuple):
    """Which part of a buffer is wanted."""

    fields: Iterable[str] | None
    split: str | None
    where: str | None

    def __bool__(self) -> bool:
        return any(wanted is not None for wanted in self)


def convert(
    source: str | os.PathLike[str] | Location | Buffer,
    target: str | os.PathLike[str] | Location,
    selected: Selected,
    codec: str | None,
    layout: Literal["live", "archive"] | None,
    *,
    overwrite: bool,
    strict: bool,
    progress: Progress | None,
) -> Report:
    """`replaystore.converting.convert.convert`, of what is or becomes a file of other software."""
    known, wanted = formats.of(source), formats.of(target)
    if wanted is not None and (codec is not None or layout is not None):
        raise SchemaError(
            f"{target} is a file of {wanted[0]}, which has neither codecs nor layouts: leave them out"
        )
    if known is None:
        with opened(source) as buffer:
            return _export(buffer, target, selected, overwrite=overwrite, strict=strict, progress=progress)
    if wanted is None:
        if selected:
            raise UnsupportedError(
                f"{source} can only be converted to a store as a whole: do that first, "
                "and then select from the store"
            )
        return _import(
            source, parse(target), codec, layout, overwrite=overwrite, strict=strict, progress=progress
        )
    folder = os.path.dirname(os.fspath(target)) or "."  # type: ignore[arg-type]  # a path
    with _between(folder) as between:
        place = Location("zarr", os.path.join(between, "buffer.zarr"))
        first = _import(source, place, None, None, overwrite=False, strict=strict, progress=None)
        with opened(place) as buffer:
            second = _export(buffer, target, selected, overwrite=overwrite, strict=strict, progress=progress)
    return replace(
        second,
        source=first.source,
        seconds=round(first.seconds + second.seconds, 3),
        notes=first.notes + second.notes,
    )


@contextlib.contextmanager
def _between(folder: str) -> Iterator[str]:
    """A temporary folder in a folder that is made if it is not there. StorageError: it cannot be made."""
    try:
        os.makedirs(folder, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".converting-", dir=folder)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise StorageError(
            f"{folder} cannot be written to: {reason}; choose another place", error.errno
        ) from error
    with made as between:
        yield between


# --- out of a store


def _export(
    buffer: Buffer,
    target: object,
    selected: Selected,
    *,
    overwrite: bool,
    strict: bool,
    progress: Progress | None,
) -> Report:
    begin = time.perf_counter()
    found, path = formats.of(target), os.fspath(target)  # type: ignore[call-overload]
    assert found is not None
    _, module = found
    if os.path.isdir(path):
        raise AlreadyExistsError(
            f"{path} is a folder: name the file, such as {os.path.join(path, module.EXAMPLE)}"
        )
    if overwrite and os.path.lexists(path) and not module.replaceable(path):
        raise AlreadyExistsError(
            f"{path} is something else than such a buffer, and is not replaced: move "
            "it away, or choose another name"
        )
    trajectories = None
    if selected.split is not None or selected.where is not None:
        trajectories = chosen(buffer, selected.where, selected.split)
    fields = selected.fields
    names = None if fields is None else tuple([fields] if isinstance(fields, str) else fields)
    options = Options(trajectories, names, strict=strict, overwrite=overwrite, progress=progress)
    written = module.write(buffer, path, options)
    notes = list(written.lost)
    if os.path.basename(path) != module.EXAMPLE:
        notes.insert(0, f"written as {module.NAME}, because of the suffix; name a store .zarr or .h5")
    if buffer.mode == "r+" and buffer.rows_recorded > buffer._stop:
        notes.append(f"{buffer.rows_recorded - buffer._stop} steps that are not committed are not in it")
    return Report(
        source=buffer.location,
        target=path,
        steps=written.steps,
        trajectories=written.trajectories,
        bytes_read=len(buffer) * sum(declared.row_bytes for declared in buffer.schema.fields.values()),
        bytes_written=sum(os.path.getsize(name) for name in written.paths),
        seconds=round(time.perf_counter() - begin, 3),
        copied=[],
        recoded=list(written.fields),
        notes=notes,
    )


# --- into a store


def _import(
    source: object,
    place: Location,
    codec: str | None,
    layout: Literal["live", "archive"] | None,
    *,
    overwrite: bool,
    strict: bool,
    progress: Progress | None,
) -> Report:
    begin = time.perf_counter()
    found, path = formats.of(source), os.fspath(source)  # type: ignore[call-overload]
    assert found is not None
    with found[1].read(path) as read:
        refuse_losses(read.lost, str(place), strict=strict)
        job = Import(read, place, codec, layout or "live", progress)
        make(place, job, overwrite=overwrite)
        return Report(
            source=path,
            target=str(place),
            steps=read.rows,
            trajectories=len(read.table["trajectory"]),
            bytes_read=job.total,
            bytes_written=size_of(place),
            seconds=round(time.perf_counter() - begin, 3),
            copied=[],
            recoded=list(read.schema.fields),
            notes=read.lost + read.notes,
        )


class Import:
    """A store that is made of a foreign buffer."""

    def __init__(
        self, source: Source, place: Location, codec: str | None, layout: str, progress: Progress | None
    ) -> None:
        if layout == "archive" and codec == "raw":
            raise SchemaError("all fields of an archive are coded: choose another codec, or layout='live'")
        self.source, self.place, self.codec, self.layout, self.progress = (
            source,
            place,
            codec,
            layout,
            progress,
        )
        living = layout == "live" and place.backend in ("zarr", "memory")
        self.capacity = source.capacity if living else None
        self.total = source.rows * sum(declared.row_bytes for declared in source.schema.fields.values())
        self.done = 0

    def document(self) -> documents.Document:
        source = self.source
        return documents.new(
            source.schema,
            layout={"name": self.layout, "durability": "commit", "overrides": {}},
            ring=None if self.capacity is None else {"capacity": self.capacity, "position": source.position},
            environment=source.environment,
            provenance=documents.provenance(source.details),
            extensions=source.extensions,
        )

    def specs(self, container: Container) -> dict[str, ArraySpec]:
        source, capabilities = self.source, container.capabilities
        coded = [
            name
            for name, spec in field_specs(source.schema.fields, self.layout, capabilities).items()
            if spec.codec is not None
        ]
        names = {f"steps/{escape_path(name)}": name for name in source.schema.fields}
        storage = {} if self.codec is None else {names[stored]: {"codec": self.codec} for stored in coded}
        specs = array_specs(source.schema, self.layout, capabilities, capacity=self.capacity, storage=storage)
        for name, column in source.table.items():
            if name not in _KEPT:
                specs[f"trajectories/{escape(name)}"] = table_spec(column.dtype, mutable=True)
        return specs

    def fill(self, container: Container, document: documents.Document) -> None:
        source, specs = self.source, self.specs(container)
        count = len(source.table["trajectory"])
        store = ArrayStore.create(
            container, specs, {"open": [], "next": 0, "splits": [""], "finals": 0}, durable=True
        )
        try:
            returns = self._rows(store, specs)
            self._final_observations(store)
            for name in PARTS:
                append_rows(store, f"parts/{name}", getattr(source.parts, name))
            blank = {
                "env": np.zeros(count),
                "terminated": np.zeros(count),
                "truncated": np.zeros(count),
                "seed": np.full(count, -1),
            }
            for name, column in {**blank, "return": returns, **source.table}.items():
                append_rows(
                    store,
                    f"trajectories/{escape(name)}",
                    np.asarray(column, specs[f"trajectories/{escape(name)}"].dtype),
                )
            extra = {"open": [], "next": count, "splits": source.splits, "finals": len(source.finals)}
            if self.layout == "archive":
                sealing.commit_sealed(store, extra, {})
            else:
                store.commit(extra)
                store.publish()
                store.tidy()
        finally:
            store.close()

    def _rows(self, store: ArrayStore, specs: Mapping[str, ArraySpec]) -> NDArray[np.float64]:
        """All rows; the return of each trajectory."""
        source, returns = self.source, _Returns(self.source)
        raw = {f"steps/{escape_path(name)}" for name in source.schema.fields} & {
            name for name, spec in specs.items() if spec.codec is None
        }
        with store.storage("make room"):
            store.container.reserve(dict.fromkeys(raw, source.rows))
        for name, declared in source.schema.fields.items():
            step = max(1, BLOCK_BYTES // declared.row_bytes)
            for start in range(0, source.rows, step):
                rows = source.read(name, start, min(start + step, source.rows))
                append_rows(store, f"steps/{escape_path(name)}", rows)
                if name == "reward":
                    returns.add(start, rows)
                self.done += rows.nbytes
                if self.progress is not None:
                    self.progress(self.done, self.total)
        return returns.found

    def _final_observations(self, store: ArrayStore) -> None:
        source = self.source
        if source.read_finals is None or not len(source.finals):
            return
        step = max(1, BLOCK_BYTES // source.schema.fields["observation"].row_bytes)
        for start in range(0, source.rows, step):
            first, last = np.searchsorted(source.finals, [start, start + step]).tolist()
            if last > first:
                rows = source.read_finals(start, min(start + step, source.rows))[
                    source.finals[first:last] - start
                ]
                append_rows(store, "final/observation", rows)


class _Returns:
    """The sums of rewards of trajectories of one part each, step after step; unknown where first steps are
    gone."""

    def __init__(self, source: Source) -> None:
        self.parts = source.parts
        self.stop = self.parts.start + self.parts.length
        order = np.argsort(source.table["trajectory"])
        self.at = order[np.searchsorted(source.table["trajectory"], self.parts.trajectory, sorter=order)]
        self.found = np.zeros(len(order))
        self.found[self.at[self.parts.offset > 0]] = np.nan

    def add(self, start: int, rewards: NDArray[Any]) -> None:
        """Rewards from row `start` on; blocks come in order."""
        stop, values = start + len(rewards), rewards.astype(np.float64)
        first = int(np.searchsorted(self.stop, start, side="right"))
        last = int(np.searchsorted(self.parts.start, stop, side="left"))
        for part in range(first, last):
            begin, end = (
                max(int(self.parts.start[part]), start) - start,
                min(int(self.stop[part]), stop) - start,
            )
            at = self.at[part]
            self.found[at] = np.add.accumulate(np.concatenate([self.found[at : at + 1], values[begin:end]]))[
                -1
            ]
