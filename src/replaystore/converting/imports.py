"""Into a store: what a file of other software gives, in blocks, so that it may be larger than memory.

The steps of a `Source` go through a `Recorder`, as those of an environment do. A ring of rows (`RingSource`)
is laid down as it is; its tables are whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays import sealing
from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.copying import append_rows
from replaystore.buffers.making import make, size_of
from replaystore.buffers.recorder import NOTHING, Recorder
from replaystore.buffers.replacing import Replacement
from replaystore.buffers.tables import put_tables
from replaystore.comparing.digest import Digest, digest_of_blocks, digest_of_source
from replaystore.comparing.leaves import Crew
from replaystore.comparing.steps_in_blocks import BlockTally, with_flags
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.located import container_type
from replaystore.containers.protocol import Container
from replaystore.converting.foreign import reading
from replaystore.converting.options import How, check_coded
from replaystore.converting.proof import prove_store
from replaystore.errors import FormatError, SchemaError, UnsupportedError
from replaystore.formats import finding
from replaystore.formats.report import KEPT, Proof, Report, as_provenance, refuse_losses
from replaystore.formats.source import Block, RingSource, Source
from replaystore.location import Location
from replaystore.registry import entry, recognizing
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.storage.places import places_of
from replaystore.trajectories.opened import to_numbers
from replaystore.views.foreign_ring import EXTENSION
from replaystore.views.layout import array_specs, field_specs, table_spec

__all__ = ["RingImport", "SourceImport", "bring"]

BLOCK_BYTES = 4 << 20
"""About how much of a file is in memory at a time."""
MOST_OF_NONE = 16 << 20
"""So many bytes a step may have of which none is there."""
TRAJECTORIES = 16384
"""So many that have ended are handed to the store at once."""


def bring(path: str, name: str, place: Location, how: How) -> Report:
    """Make a store of a file of the format of this name."""
    begin, format_ = time.perf_counter(), finding.named(name)
    if not format_.reads():
        raise UnsupportedError(
            f"{path}: {entry('formats', name).what or name} can only be written: choose another source"
        )
    with reading(name, format_, path, how.progress) as source:
        refuse_losses(source.fields, source.rest, str(place), strict=how.strict)
        _check_rows(path, source)
        source.details = {"format": name, "location": path, **source.details}
        job: RingImport | SourceImport
        if isinstance(source, RingSource):
            job = RingImport(source, place, how)
        else:
            job = SourceImport(source, path, place, how)
        if how.dry_run:
            return _planned(source, job, path, place, begin, how)
        make(place, job, overwrite=how.overwrite, prove=job.prove if how.proof else None)
        return Report(
            steps=job.steps,
            trajectories=job.trajectories,
            fields={**dict.fromkeys(source.schema.fields, KEPT), **source.fields},
            rest=source.rest,
            remarks=[*source.remarks, *_part_of(path, name)],
            source=path,
            target=str(place),
            bytes_read=job.done,
            bytes_written=size_of(place),
            seconds=round(time.perf_counter() - begin, 3),
            recoded=list(source.schema.fields),
            proof=job.proof,
        )


def _planned(
    source: Source | RingSource,
    job: RingImport | SourceImport,
    path: str,
    place: Location,
    begin: float,
    how: How,
) -> Report:
    """What would be made of a file, of which no steps are read."""
    Replacement.check(place, overwrite=how.overwrite)
    job.document()
    counted: Source | RingImport | SourceImport = source if isinstance(source, Source) else job
    return Report(
        steps=counted.steps,
        trajectories=counted.trajectories,
        fields={**dict.fromkeys(source.schema.fields, KEPT), **source.fields},
        rest=source.rest,
        remarks=[*source.remarks, *_part_of(path, source.details["format"])],
        source=path,
        target=str(place),
        seconds=round(time.perf_counter() - begin, 3),
        dry_run=True,
    )


def _part_of(path: str, name: str) -> list[str]:
    """That something is only a part of a dataset, which lies in folders above it."""
    found = recognizing.around(path)
    if found is None:
        return []
    folder, known = found
    if known.name == name and (os.path.isfile(path) or os.path.basename(path) in known.members):
        return []  # it stands for the whole, such as the folder of data of a dataset of Minari
    what = known.what or known.name
    return [f"{path} is only a part of {what}, which lies in {folder}: convert that folder for the whole"]


def _check_rows(path: str, source: Source | RingSource) -> None:
    """FormatError: it says that it has large rows, and has none: a store of them would take as much memory as
    anybody says."""
    steps = source.rows if isinstance(source, RingSource) else source.steps
    for name, declared in source.schema.fields.items():
        if steps == 0 and declared.row_bytes > MOST_OF_NONE:
            raise FormatError(
                f"{path}: field {name!r} has steps of {declared.row_bytes} bytes, and none of them is there: "
                "it is damaged"
            )


class _Making:
    """What stores that are made of files have in common."""

    def __init__(
        self,
        schema: Schema,
        how: How,
        capacity: int | None,
        columns: Mapping[str, Any],
    ) -> None:
        check_coded(how.layout, how.codec)
        self.schema, self.capacity, self._columns = schema, capacity, columns
        self.layout, self.codec, self.progress = how.layout or "live", how.codec, how.progress
        self.proof: Proof | None = None

    def _document(self, source: Source | RingSource, **sections: Any) -> documents.Document:
        return documents.new(
            self.schema,
            layout={"name": self.layout, "durability": "commit", "overrides": {}},
            environment=source.environment,
            provenance=documents.provenance(
                {**source.details, **as_provenance(source.fields, source.rest, source.remarks)}
            ),
            **sections,
        )

    def specs(self, container: Container) -> dict[str, ArraySpec]:
        """The arrays of the store."""
        schema, capabilities = self.schema, container.capabilities
        storage: dict[str, dict[str, str]] = {}
        if self.codec is not None:
            specs = field_specs(schema.fields, self.layout, capabilities)
            coded = [name for name in schema.fields if specs[tree.steps(name)].codec is not None]
            storage = {name: {"codec": self.codec} for name in coded}
        specs = array_specs(schema, self.layout, capabilities, capacity=self.capacity, storage=storage)
        for name, dtype in self._columns.items():
            specs[tree.trajectories(name)] = table_spec(dtype, mutable=True)
        return specs

    def _reserve(self, store: ArrayStore, specs: Mapping[str, ArraySpec], rows: int) -> None:
        names = [tree.steps(name) for name in self.schema.fields]
        with store.storage("make room"):
            store.container.reserve({name: rows for name in names if specs[name].codec is None})

    def _finish(self, store: ArrayStore, extra: dict[str, Any], attachments: dict[str, bytes]) -> None:
        if self.layout == "archive":
            sealing.commit_sealed(store, extra, attachments)
        else:
            store.commit(extra, attachments=attachments)
            store.publish()
            store.tidy()


class SourceImport(_Making):
    """A store that is made of trajectories, each as if it had just been recorded."""

    def __init__(
        self,
        source: Source,
        path: str,
        place: Location,
        how: How,
    ) -> None:
        super().__init__(source.schema, how, None, source.columns)
        self.source, self.path, self.place = source, path, place
        self.done = self.steps = self.trajectories = 0
        self.proving = how.proof
        self.tally: BlockTally | None = None
        self.given: Digest | None = None
        """What the source has given, while it was recorded."""

    def document(self) -> documents.Document:
        """The store's document."""
        return self._document(self.source, user=self.source.metadata)

    def fill(self, container: Container, document: documents.Document) -> None:
        """All trajectories. FormatError: what the source gives fits neither its schema nor itself."""
        with Crew() as crew:
            if self.proving:
                self.tally = BlockTally(self.schema.fields, self.source.columns, crew)
            self._fill(container)
            if self.tally is not None:
                self.given = digest_of_blocks(self.tally, self.source)

    def prove(self, place: Location) -> None:
        """ProofError: what was made does not hold what was given."""
        assert self.given is not None
        self.proof = prove_store(self.given, place, self.place)

    def _fill(self, container: Container) -> None:
        specs, source = self.specs(container), self.source
        store = ArrayStore.create(container, specs, NOTHING, durable=True)
        try:
            if source.steps is not None:
                self._reserve(store, specs, source.steps)
            recorder = Recorder(store, self.schema)
            for split in source.splits:
                recorder.split_code(split)
            for block in source.blocks(BLOCK_BYTES):
                self._record(recorder, block)
            recorder.cut_all()
            extra, attachments = recorder.hand_over()
            self.steps, self.trajectories = recorder.rows, recorder.assembler.next_trajectory
            self._finish(store, extra, attachments)
        finally:
            store.close()

    def _record(self, recorder: Recorder, block: Block) -> None:
        try:
            block = with_flags(block, self.schema)
            recorder.record(block)
        except SchemaError as error:
            number = recorder.assembler.next_trajectory
            raise FormatError(
                f"{self.path}, at trajectory {number}: {error}; what reads it is wrong, or it is damaged"
            ) from error
        if self.tally is not None:
            self.tally.add(block)
        if recorder.assembler.pending.ended >= TRAJECTORIES:
            recorder.hand_over()
        self.done += sum(rows.nbytes for rows in block.columns.values())
        self.steps += len(block)
        if self.progress is not None:  # of values of any length it is supposed that the rest are as long
            known = max(self.steps, self.source.steps or 0)
            self.progress(self.done, self.done * known // max(1, self.steps))


class RingImport(_Making):
    """A store that is made of a foreign ring, row by row as it lies there."""

    def __init__(
        self,
        source: RingSource,
        place: Location,
        how: How,
    ) -> None:
        rings = container_type(place).capabilities.gives_back_space and not places_of(place).packed_from
        living = how.layout != "archive" and rings
        columns = {name: column.dtype for name, column in source.table.items() if name not in _TABLE}
        super().__init__(source.schema, how, source.capacity if living else None, columns)
        self.source, self.place = source, place
        self.done, self.steps, self.trajectories = 0, source.rows, len(source.table["trajectory"])

    def document(self) -> documents.Document:
        """The store's document."""
        source = self.source
        ring = None if self.capacity is None else {"capacity": self.capacity, "position": source.position}
        return self._document(source, ring=ring, extensions={EXTENSION: source.ring})

    def fill(self, container: Container, document: documents.Document) -> None:
        """All rows, and the tables."""
        source, specs = self.source, self.specs(container)
        count = self.trajectories
        store = ArrayStore.create(container, specs, NOTHING, durable=True)
        try:
            returns = self._rows(store, specs)
            self._final_observations(store)
            blank = {
                "env": np.zeros(count),
                "terminated": np.zeros(count),
                "truncated": np.zeros(count),
                "seed": np.full(count, -1),
            }
            put_tables(store, source.parts, {**blank, "return": returns, **source.table})
            extra = {
                "open": to_numbers(()),
                "next": count,
                "splits": source.splits,
                "finals": len(source.finals),
            }
            self._finish(store, extra, {})
        finally:
            store.close()

    def prove(self, place: Location) -> None:
        """ProofError: what was made does not hold what the ring does."""
        self.proof = prove_store(digest_of_source(self.source, str(self.place)), place, self.place)

    def _rows(self, store: ArrayStore, specs: Mapping[str, ArraySpec]) -> NDArray[np.float64]:
        """All rows; the return of each trajectory."""
        source, returns = self.source, _Returns(self.source)
        total = source.rows * sum(declared.row_bytes for declared in self.schema.fields.values())
        self._reserve(store, specs, source.rows)
        for name, start, stop in _blocks(source):
            rows = source.read(name, start, stop)
            append_rows(store, tree.steps(name), rows)
            if name == "reward":
                returns.add(start, rows)
            self.done += rows.nbytes
            if self.progress is not None:
                self.progress(self.done, total)
        return returns.found

    def _final_observations(self, store: ArrayStore) -> None:
        source = self.source
        if source.read_finals is None or not len(source.finals):
            return
        step = max(1, BLOCK_BYTES // source.schema.fields["observation"].row_bytes)
        for start in range(0, source.rows, step):
            first, last = np.searchsorted(source.finals, [start, start + step]).tolist()
            if last > first:
                rows = source.read_finals(start, min(start + step, source.rows))
                append_rows(store, tree.final("observation"), rows[source.finals[first:last] - start])


_TABLE = ("trajectory", "length", "split")


def _blocks(source: RingSource) -> Iterator[tuple[str, int, int]]:
    """All rows: (field, start, stop), one field after another."""
    for name, declared in source.schema.fields.items():
        step = max(1, BLOCK_BYTES // declared.row_bytes)
        for start in range(0, source.rows, step):
            yield name, start, min(start + step, source.rows)


class _Returns:
    """The sums of rewards of trajectories of one part each, step after step; unknown where first steps are
    gone."""

    def __init__(self, source: RingSource) -> None:
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
