"""From one store to another: another container, another layout, or a part of it.

What is not changed on purpose is copied bit for bit: raw rows and encoded chunks as they are stored, where
the target stores them in the same way (`replaystore.arrays.copying`), so that nothing is decoded that need
not be. All of it is compared with the checksums it was committed with.

Older commits are not carried over: the target begins with the commit that the source shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replaystore.arrays import sealing
from replaystore.arrays.array_store import ArrayStore
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.making import size_of
from replaystore.buffers.recorder import NOTHING
from replaystore.buffers.tables import put_tables
from replaystore.comparing.digest import digest_of
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.located import container_type
from replaystore.containers.protocol import Capabilities, Container
from replaystore.converting.excerpt import Excerpt, chosen, selection, whole
from replaystore.converting.grouping import WINDOW_BYTES, grouped
from replaystore.converting.options import How, Selected, check_coded
from replaystore.converting.proof import prove_store
from replaystore.converting.transfer import Transfer
from replaystore.converting.values import mean_bytes, number_of_values
from replaystore.errors import EvictedError, SchemaError, UnsupportedError
from replaystore.formats.report import KEPT, Fate, Proof, Report, as_provenance, lost, unseen
from replaystore.location import Location
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.fields import Schema
from replaystore.storage.places import places_of
from replaystore.trajectories.table import Trajectories
from replaystore.views.foreign_ring import carried, state_of
from replaystore.views.layout import LAYOUTS, array_specs, field_specs, fitted, table_spec
from replaystore.views.reader import BufferReader

__all__ = ["Conversion"]

HISTORY = 16
"""Earlier conversions that the provenance goes back to."""


class Conversion:
    """One conversion, decided on and then carried out."""

    def __init__(self, buffer: BufferReader, place: Location, selected: Selected, how: How) -> None:
        fields, split, where = selected
        self.buffer, self.place, self.codec, self.progress = buffer, place, how.codec, how.progress
        self.schema: Schema = (
            buffer.schema
            if fields is None
            else buffer.schema.select([fields] if isinstance(fields, str) else list(fields))
        )
        self.moved = False
        """Whether rows have other numbers, though all of them are taken."""
        self.layout, self.as_it_was = how.layout or buffer.layout, how.layout is None
        if self.layout not in LAYOUTS:
            raise SchemaError(f"there is no layout {self.layout!r}: choose one of {', '.join(LAYOUTS)}")
        check_coded(self.layout, how.codec)
        observations = self.schema.names("observation")
        self.trajectories: Trajectories | None = None
        """Those that are taken; None: all."""
        self.proof: Proof | None = None
        if split is None and where is None:
            self.excerpt: Excerpt = whole(buffer, observations)
        else:
            self.trajectories = chosen(buffer, where, split)
            self.excerpt = selection(buffer, self.trajectories, observations)
        self._group(how, some=split is not None or where is not None)
        self.selected = {
            "fields": None if fields is None else list(self.schema.fields),
            "split": split,
            "where": where,
        }
        self.extensions, lost = carried(
            buffer, buffer.document.extensions, whole=split is None and where is None and not self.moved
        )
        self.notes = self.excerpt.notes + lost
        self.transfer: Transfer | None = None
        self._note_fields()

    def _group(self, how: How, *, some: bool) -> None:
        """Lay the rows of each trajectory side by side, if that is wanted."""
        ring = state_of(self.buffer.document.extensions) is not None
        if some or not (how.grouped or (how.grouped is None and how.layout == "archive" and not ring)):
            return
        widest = max(mean_bytes(self.buffer, name) for name in self.schema.fields)
        found = grouped(self.excerpt, max(1, WINDOW_BYTES // widest))
        self.moved, self.excerpt = found is not self.excerpt, found

    def _note_fields(self) -> None:
        left_out = [name for name in self.buffer.schema.fields if name not in self.schema.fields]
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
        unknown = sorted(filter(tree.is_unknown, self.buffer.store.state.arrays))
        if unknown:
            self.notes.append(
                f"arrays that this replaystore does not know are not in it: {', '.join(unknown)}"
            )
        if isinstance(self.buffer, Buffer) and self.buffer.mode == "r+":
            waiting = self.buffer.rows_recorded - self.buffer.first_row - len(self.buffer)
            if waiting:
                self.notes.append(f"{waiting} steps that are not committed are not in it")

    # --- what the target is

    def document(self) -> documents.Document:
        """The target's document."""
        known = self.buffer.document
        overrides: dict[str, dict[str, Any]] = {}
        if self.as_it_was:
            given = documents.to_plain(known.layout.overrides, whole=False)
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
            environment=None
            if known.environment is None
            else documents.to_plain(known.environment, whole=False),
            provenance=documents.provenance(self._source()),
            user=known.user,
            extensions=self.extensions,
            like=known,
        )

    def _coded_fields(self) -> list[str]:
        if not self.as_it_was:
            specs: Mapping[str, ArraySpec] = field_specs(
                self.schema.fields, self.layout, container_type(self.place).capabilities
            )
        else:
            specs = self.buffer.store.container.specs()
        return [name for name in self.schema.fields if specs[self._told(name)].codec is not None]

    def _told(self, name: str) -> str:
        """The array that settings of a field are about."""
        return tree.values(name) if name in self.schema.ragged else tree.steps(name)

    def _source(self) -> dict[str, Any]:
        """What the provenance says of the source."""
        earlier = self.buffer.provenance
        before = earlier.get("source") or {}
        history = before.pop("history", []) if isinstance(before, dict) else []
        return {
            "format": "replaystore",
            "location": self.buffer.where,
            "container": self.buffer.whereabouts.container,
            "commit": self.buffer.commit_id,
            "steps": len(self.buffer),
            "trajectories": self.buffer.num_trajectories,
            "selection": {key: value for key, value in self.selected.items() if value is not None},
            "grouped": self.moved,
            "ring": None if self.buffer.capacity is None else {"capacity": self.buffer.capacity},
            **as_provenance(self._fates(), {}, self.notes),
            "history": [earlier, *history][:HISTORY],
        }

    def specs(self, container: Container, document: documents.Document) -> dict[str, ArraySpec]:
        """The target's arrays."""
        known, capabilities = self.buffer.store.specs(), container.capabilities
        storage = {
            name: _given(setting)
            for name, setting in documents.to_plain(document.layout.overrides, whole=False).items()
        }
        if self.as_it_was:
            for name in self.schema.fields:
                codec = self._codec(known[self._told(name)], capabilities, storage.get(name, {}))
                storage[name] = {**storage.get(name, {}), "codec": codec or "raw"}
        chosen = array_specs(self.schema, self.layout, capabilities, capacity=None, storage=storage)
        spans = {tree.steps(name) for name in self.schema.ragged}
        beside = {
            name: self._codec(known[name], capabilities, {}) if self.as_it_was else self.codec
            for name, spec in chosen.items()
            if spec.codec and (tree.is_final(name) or name in spans)
        }
        chosen |= {
            name: replace(chosen[name], codec=codec)
            for name, codec in beside.items()
            if codec not in (None, "raw")
        }
        # Of a ring, chunks and shards were made small for it; of what was never to grow, too.
        small = any(
            spec.journaled and spec.chunk_rows < chosen[name].chunk_rows
            for name, spec in known.items()
            if name in chosen
        )
        if self.as_it_was and self.buffer.capacity is None and not (small and self._grows):
            for name, spec in known.items():
                if name in chosen and (spec.codec is None) == (chosen[name].codec is None):
                    chosen[name] = replace(spec, codec=chosen[name].codec)
        user = {
            name: spec
            for name, spec in known.items()
            if tree.is_trajectories(name) and spec.mutable and name not in chosen
        }
        chosen |= {
            name: table_spec(spec.dtype, shape=spec.shape, mutable=True) for name, spec in user.items()
        }
        if self._grows:
            return chosen
        rows = self._rows
        return fitted(chosen, {name: rows[tree.group_of(name)] for name in chosen})

    @property
    def _grows(self) -> bool:
        """Whether somebody may append to the target."""
        return self.layout != "archive" and not places_of(self.place).packed_from

    @property
    def _rows(self) -> dict[str, int]:
        """How many rows the arrays of each group will have."""
        excerpt = self.excerpt
        values = {
            tree.values(name): number_of_values(self.buffer, name, excerpt) for name in self.schema.ragged
        }
        return values | {
            "steps": excerpt.rows,
            "parts": len(excerpt.parts),
            "final": excerpt.extra["finals"],
            "trajectories": max(map(len, excerpt.table.values()), default=0),
        }

    def _codec(self, known: ArraySpec, capabilities: Capabilities, override: Mapping[str, Any]) -> str | None:
        """How an array is coded in the target if its layout stays."""
        if known.codec is None:
            return None
        if self.codec is not None:
            return None if self.codec == "raw" else self.codec
        if override.get("codec", "raw") != "raw":
            return str(override["codec"])
        default = self.buffer.store.container.capabilities.codec_for(self.layout)
        return capabilities.codec_for(self.layout) if known.codec == default else known.codec

    # --- making it

    def fill(self, container: Container, document: documents.Document) -> None:
        """Bring everything to the target, and make it durable."""
        specs, excerpt = self.specs(container, document), self.excerpt
        store = ArrayStore.create(
            container,
            specs,
            NOTHING,
            durable=document.layout.durability == "commit",
            sealed=not self._grows,
            more=self.buffer.store.state.more,
        )
        try:
            self.transfer = Transfer(self.buffer, store, excerpt, self.progress)
            self.transfer.rows(list(self.schema.fields))
            self.transfer.final_observations(list(self.schema.names("observation")))
            known = {
                name: column for name, column in excerpt.table.items() if tree.trajectories(name) in specs
            }
            put_tables(store, excerpt.parts, known)
            opened = self.transfer.opened(self.schema.names("observation"))
            attachments = replace(excerpt, opened=opened).attachments(self.schema.names("observation"))
            if self.layout == "archive":
                sealing.commit_sealed(store, excerpt.extra, attachments)
            else:
                store.commit(excerpt.extra, attachments=attachments)
                store.publish()
                store.tidy()
        finally:
            store.close()

    def planned(self, seconds: float) -> Report:
        """What would be done. SchemaError, UnsupportedError: it cannot be."""
        self.document()
        return replace(self._report(seconds), dry_run=True)

    def prove(self, place: Location) -> None:
        """ProofError: what was made does not hold what the source does."""
        selected = any(self.selected[key] is not None for key in ("split", "where"))
        try:
            given = digest_of(
                self.buffer,
                fields=self.schema.fields,
                trajectories=self.trajectories,
                cut=selected,
            )
        except EvictedError:
            self.proof = Proof(not_proved={"everything": "rows of the source have left its ring meanwhile"})
            return
        self.proof = prove_store(given, place, self.place)

    def report(self, seconds: float) -> Report:
        """What was done."""
        assert self.transfer is not None
        transfer = self.transfer
        return replace(
            self._report(seconds),
            remarks=self.notes + transfer.notes,
            bytes_read=transfer.bytes_read,
            bytes_written=size_of(self.place),
            copied=transfer.copied,
            recoded=transfer.recoded,
            proof=self.proof,
        )

    def _fates(self) -> dict[str, Fate]:
        fields = {name: KEPT if name in self.schema.fields else lost() for name in self.buffer.schema.fields}
        return fields | unseen(self.buffer.document.hidden)

    def _report(self, seconds: float) -> Report:
        return Report(
            steps=self.excerpt.rows,
            trajectories=self.excerpt.trajectories,
            fields=self._fates(),
            remarks=self.notes,
            source=self.buffer.where,
            target=str(self.place),
            seconds=round(seconds, 3),
        )


def _given(setting: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that are not set."""
    return {key: value for key, value in setting.items() if value is not None}
