"""Several buffers into one new store: their trajectories one source after another, each as one run of rows.

1. Whatever is known of a trajectory stays with it: seed, environment, split, columns of the user's. Numbers
   count anew; `source` and `source_trajectory` say which trajectory of which source it was, and the
   provenance has the sources, those of stores that were merged themselves in their place.
2. A trajectory that an earlier source has too, by its digest, is left out, unless both are known to have
   begun with different seeds. Within one source nothing is left out: what happened twice there, did.
3. The target appears when it is whole, or not at all. A trajectory that was still open is cut off.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore.arrays import sealing
from replaystore.arrays.array_store import ArrayStore
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.making import make, size_of
from replaystore.buffers.recorder import NOTHING
from replaystore.buffers.tables import put_tables
from replaystore.comparing.digest import digest
from replaystore.comparing.merged_rows import all_of, moved
from replaystore.comparing.merged_sources import (
    MERGED,
    NAME_ANOTHER,
    NUMBER,
    SOURCE,
    Common,
    blank,
    check_target,
    columns_of,
    common_schema,
    told_of,
    user_columns,
    was_merged,
)
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import parse_codec
from replaystore.containers.located import container_type, exists, same
from replaystore.containers.protocol import Container
from replaystore.converting.convert import convert, opened
from replaystore.converting.excerpt import Excerpt
from replaystore.converting.options import check_coded
from replaystore.converting.placing import between, tidy
from replaystore.converting.transfer import Transfer
from replaystore.errors import AlreadyExistsError, ArgumentError, SchemaError
from replaystore.formats import finding
from replaystore.formats.options import Progress
from replaystore.formats.report import KEPT, Fate, Report, changed, merged, rest_after
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location, expanded, parse
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.storage.places import places_of
from replaystore.trajectories.columns import PARTS, TRAJECTORIES
from replaystore.trajectories.opened import to_numbers
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.table import Trajectories
from replaystore.views.layout import array_specs, field_specs, fitted, table_spec

__all__ = ["merge"]

Place = str | os.PathLike[str] | Location
Column = NDArray[Any]


def merge(
    sources: Sequence[Place | Buffer],
    target: Place,
    *,
    keep_duplicates: bool = False,
    codec: str | None = None,
    layout: Literal["live", "archive"] = "live",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the trajectories of several buffers to one new store.

    Args:
        sources: locations of stores, open buffers (their last commits), and files of other software, in the
            order that their trajectories are to have. Their steps have the same fields.
        target: the new store.
        keep_duplicates: keep trajectories that an earlier source has too. By default they are left out, and
            the report counts them.
        codec, layout, overwrite, progress: as those of `convert`.

    Raises:
        ArgumentError: there are fewer than two sources, or the target is one of them, or lies in one, or is
        named as a file of other software. SchemaError: fields or
        columns of a name differ, and the message says how. NotFoundError, FormatError, CorruptError: a source
        cannot be read. AlreadyExistsError, UnsupportedError, StorageError: the target cannot be made. There
        is none then.
    """
    begin = time.perf_counter()
    if isinstance(sources, str | os.PathLike | Buffer | Location) or len(sources) < 2:
        raise ArgumentError("merge takes two sources or more, in a list, and then the target")
    sources, target = [expanded(source) for source in sources], expanded(target)
    formats = [None if isinstance(one, Buffer | Location) else finding.find(one) for one in sources]
    check_target(sources, formats, target, overwrite=overwrite)
    place = parse(target)
    replaced = _check(place, layout, overwrite=overwrite)
    tidy(place)
    with as_storage_errors(f"{place} cannot be made"), ExitStack() as stack:
        buffers, reports = [], list[Report]()
        for source, name in zip(sources, formats, strict=True):
            if name is not None:
                path = os.path.abspath(place.path) if places_of(place).on_disk else ""
                folder = stack.enter_context(between(path))
                reports.append(convert(source, os.path.join(folder, "buffer.zarr"), source_format=name))
                source = reports[-1].target  # noqa: PLW2901  # the store that it became
            buffers.append(stack.enter_context(opened(source)))
        for buffer in buffers:
            if same(buffer.whereabouts, place):
                raise ArgumentError(f"{place} is one of the sources: {NAME_ANOTHER}")
        named = [_named(source) for source in sources]
        job = _Merge(buffers, named, place, keep_duplicates, codec, layout, progress)
        job.remarks += replaced
        make(place, job, overwrite=overwrite)
        return job.report(reports, time.perf_counter() - begin)


def _check(place: Location, layout: str, *, overwrite: bool) -> list[str]:
    """Before anything is read. What is replaced, in words."""
    if layout not in ("live", "archive"):
        raise SchemaError(f"there is no layout {layout!r}: choose one of live, archive")
    if not exists(place):
        return []
    with opened(place) as there:
        held = f"{len(there)} steps in {there.num_trajectories} trajectories"
    if not overwrite:
        raise AlreadyExistsError(
            f"{place} exists, and holds {held}, which would be replaced: {NAME_ANOTHER}, or pass "
            "overwrite=True (--overwrite)"
        )
    return [f"what {place} held is replaced: {held}"]


def _named(source: Place | Buffer) -> str:
    return source.where if isinstance(source, Buffer) else str(source)


class _Merge:
    """A store that is made of several."""

    def __init__(
        self,
        buffers: Sequence[Buffer],
        named: Sequence[str],
        place: Location,
        keep_duplicates: bool,
        codec: str | None,
        layout: str,
        progress: Progress | None,
    ) -> None:
        self.buffers, self.named, self.place, self.layout = buffers, named, place, layout
        self.remarks: list[str] = []
        sides = list(zip(named, buffers, strict=True))
        self.schema = common_schema(sides, self.remarks)
        self.columns = user_columns(sides, self.remarks)
        self.codec = codec if codec in (None, "raw") else ":".join(map(str, parse_codec(codec)))
        check_coded(layout, codec)
        common = Common(sides)
        self.common, self.rest = common, dict(common.rest)
        self.remarks += common.remarks
        self.left_out = [0] * len(buffers)
        self.without_loose = [False] * len(buffers)
        chosen = [buffer.trajectories for buffer in buffers]
        self.chosen = chosen if keep_duplicates else self._without_duplicates(chosen)
        self.sources, self._numbers = self._where_from()
        self._progress, self._transfers = progress, list[Transfer]()
        self.steps = 0

    def _without_duplicates(self, tables: Sequence[Trajectories]) -> list[Trajectories]:
        """Those that no earlier source has."""
        seen: dict[str, set[int]] = {}
        loose, found = set[str](), []
        for at, (buffer, table) in enumerate(zip(self.buffers, tables, strict=True)):
            known, seeds = digest(buffer), table["seed"].tolist()
            digests, of_none = known.trajectories, known.rest.get("steps", "")
            self.without_loose[at] = of_none in loose
            loose.add(of_none)
            twice = [
                d in seen and (seed < 0 or seed in seen[d] or -1 in seen[d])
                for d, seed in zip(digests, seeds, strict=True)
            ]
            for of, seed in zip(digests, seeds, strict=True):
                seen.setdefault(of, set()).add(seed)
            self.left_out[at] = sum(twice)
            found.append(table[~np.array(twice, np.bool_)] if any(twice) else table)
            if any(twice):
                self.remarks.append(
                    f"{self.named[at]}: {sum(twice)} of {len(table)} trajectories are left out, because an "
                    "earlier source has them too"
                )
        return found

    def _where_from(self) -> tuple[list[dict[str, Any]], list[tuple[Column, Column]]]:
        """What the provenance says of all sources; for the trajectories of each buffer which of these they
        come from, and the numbers that they had there. Of a store that was merged, its sources are meant."""
        sources: list[dict[str, Any]] = []
        numbers = []
        for buffer, table, left, name in zip(
            self.buffers, self.chosen, self.left_out, self.named, strict=True
        ):
            base = len(sources)
            if was_merged(buffer):
                sources += [dict(source) for source in buffer.provenance["source"]["sources"]]
                numbers.append((base + table[SOURCE].astype(np.int32), table[NUMBER].astype(np.int64)))
            else:
                sources.append({**told_of(buffer, left), "location": name})
                own = np.full(len(table), base, np.int32), table["trajectory"].astype(np.int64)
                numbers.append(own)
        return sources, numbers

    # --- what the target is

    def document(self) -> documents.Document:
        """The target's document."""
        overrides = {} if self.codec is None else {name: {"codec": self.codec} for name in self._coded()}
        return documents.new(
            self.schema,
            layout={"name": self.layout, "durability": "commit", "overrides": overrides},
            environment=self.common.environment,
            provenance=documents.provenance({"format": MERGED, "sources": self.sources}),
            user=self.common.metadata,
        )

    def _coded(self) -> list[str]:
        specs = field_specs(self.schema.fields, self.layout, container_type(self.place).capabilities)
        told = {
            name: (tree.values if name in self.schema.ragged else tree.steps)(name)
            for name in self.schema.fields
        }
        return [name for name, stored in told.items() if specs[stored].codec is not None]

    def specs(self, container: Container, document: documents.Document) -> dict[str, ArraySpec]:
        """The target's arrays."""
        storage = {name: {"codec": setting.codec} for name, setting in document.layout.overrides.items()}
        specs = array_specs(self.schema, self.layout, container.capabilities, capacity=None, storage=storage)
        if self._tagged:
            specs[tree.trajectories(SOURCE)] = table_spec("<i4", mutable=True)
            specs[tree.trajectories(NUMBER)] = table_spec("<i8", mutable=True)
        for name, spec in self.columns.items():
            specs[tree.trajectories(name)] = table_spec(spec.dtype, shape=spec.shape, mutable=True)
        if self._grows:
            return specs
        rows = {
            "steps": sum(map(len, self.buffers)),
            "final": sum(b.store.state.extra["finals"] for b in self.buffers),
        }
        tables = sum(len(b.parts) for b in self.buffers)
        most = {name: rows.get(tree.group_of(name), tables) for name in specs}
        values = {
            tree.values(name): sum(b.store.rows(tree.values(name)) for b in self.buffers)
            for name in self.schema.ragged
        }
        return fitted(specs, most | values)

    @property
    def _grows(self) -> bool:
        return self.layout != "archive" and not places_of(self.place).packed_from

    # --- making it

    def fill(self, container: Container, document: documents.Document) -> None:
        """Bring everything to the target, and make it durable."""
        names, observed = list(self.schema.fields), list(self.schema.names("observation"))
        splits = [""]
        store = ArrayStore.create(
            container, self.specs(container, document), NOTHING, durable=True, sealed=not self._grows
        )
        try:
            parts, tables = list[Parts](), list[dict[str, Column]]()
            rows = finals = count = 0
            for at, buffer in enumerate(self.buffers):
                excerpt = all_of(buffer, self.chosen[at], observed, self.without_loose[at])
                transfer = Transfer(buffer, store, excerpt, self._told(at))
                transfer.rows(names)
                transfer.final_observations(observed)
                self._transfers.append(transfer)
                order = np.sort(excerpt.table["trajectory"])
                parts.append(moved(excerpt.parts, order, rows, finals, count))
                tables.append(self._table(at, excerpt, buffer, splits, count))
                rows, finals = rows + excerpt.rows, finals + excerpt.extra["finals"]
                count += len(order)
            self._finish(store, parts, tables, splits, finals)
            self.steps = rows
        finally:
            store.close()

    def _finish(
        self,
        store: ArrayStore,
        parts: Sequence[Parts],
        tables: Sequence[dict[str, Column]],
        splits: list[str],
        finals: int,
    ) -> None:
        joined = Parts(*(np.concatenate([getattr(some, name) for some in parts]) for name in PARTS))
        table = {name: np.concatenate([some[name] for some in tables]) for name in tables[0]}
        put_tables(store, joined, table)
        count = len(table["trajectory"])
        extra = {"open": to_numbers(()), "next": count, "splits": splits, "finals": finals}
        if self.layout == "archive":
            sealing.commit_sealed(store, extra, {})
        else:
            store.commit(extra, attachments={})
            store.publish()
            store.tidy()

    def _table(
        self, at: int, excerpt: Excerpt, buffer: Buffer, splits: list[str], count: int
    ) -> dict[str, Column]:
        """The rows of the table of trajectories of one source."""
        held = excerpt.table
        table = {name: held[name] for name in TRAJECTORIES if name in held}
        order = np.sort(held["trajectory"])
        table["trajectory"] = count + np.searchsorted(order, held["trajectory"])
        splits += [name for name in excerpt.splits if name not in splits]
        codes = np.array([splits.index(name) for name in excerpt.splits], np.int32)
        table["split"] = codes[held["split"]]
        theirs = columns_of(buffer)
        for name, spec in self.columns.items():
            table[name] = held[name] if name in theirs else blank(spec, len(order))
        own = dict(zip((SOURCE, NUMBER), self._numbers[at], strict=True))
        return own | table if self._tagged else table

    @property
    def _tagged(self) -> bool:
        """Whether columns say where trajectories come from: none of the user's has their name."""
        return not {SOURCE, NUMBER} & self.columns.keys()

    def _told(self, at: int) -> Progress | None:
        """Progress of one source, as that of all."""
        tell = self._progress
        if tell is None:
            return None
        sizes = [len(buffer) for buffer in self.buffers]
        before, total = sum(sizes[:at]), max(1, sum(sizes))

        def told(done: int, of: int) -> None:
            scale = of / max(1, sizes[at])
            tell(int(done + before * scale), int(total * scale))

        return told

    def report(self, reports: Sequence[Report], seconds: float) -> Report:
        """What was done."""
        became = merged(*(report.fields for report in reports))
        fields: dict[str, Fate] = {**dict.fromkeys(self.schema.fields, KEPT), **became}
        rest = rest_after(merged(*(report.rest for report in reports)), self.rest)
        cut = sum(int(np.count_nonzero(table.open)) for table in self.chosen)
        if cut:
            rest["open"] = changed(f"{cut} trajectories that were still open are cut off")
        notes = [remark for report in reports for remark in report.remarks]
        if not self._tagged:
            notes.append(
                f"the sources have columns {SOURCE} and {NUMBER} of their own: the provenance alone says "
                "where trajectories come from"
            )
        return Report(
            steps=self.steps,
            trajectories=sum(map(len, self.chosen)),
            fields=fields,
            rest=rest,
            remarks=[*self.remarks, *notes],
            source=", ".join(self.named),
            target=str(self.place),
            bytes_read=sum(transfer.bytes_read for transfer in self._transfers),
            bytes_written=size_of(self.place),
            seconds=round(seconds, 3),
            copied=_common([transfer.copied for transfer in self._transfers]),
            recoded=sorted({name for transfer in self._transfers for name in transfer.recoded}),
        )


def _common(several: Sequence[Sequence[str]]) -> list[str]:
    return [name for name in several[0] if all(name in others for others in several[1:])]
