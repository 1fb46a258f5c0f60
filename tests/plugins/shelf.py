"""A container of a stranger: a folder with one file for the rows of each array, one for its encoded chunks
and one for where they lie, and `shelf.json` for all that describes them. Registered as
`shelf = shelf:ENTRY`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.filed import FiledContainer
from replaystore.containers.protocol import Capabilities, ChunkEntry, Extent
from replaystore.errors import CorruptError, FormatError
from replaystore.registry import Entry
from replaystore.schema.tree import is_journal

ENTRY = Entry("shelf", "shelf:Shelf", "a shelf", suffixes=(".shelf",), members=("shelf.json",))


class Shelf(FiledContainer):
    metadata_name = "shelf.json"
    capabilities = Capabilities(
        gives_back_space=False, knows_its_chunks=True, runs_of_shards=False, shows_at_once=True
    )

    @classmethod
    def create(cls, files: Any, _: str, document: Mapping[str, Any]) -> Self:
        made = cls(files, writable=True)
        made._write("shelf.json", json.dumps({"document": document, "arrays": {}, "shown": {}}).encode())
        made._note_folders("")
        return made

    @classmethod
    def open(cls, files: Any, _: str, *, writable: bool) -> Self:
        if not files.exists("shelf.json"):
            raise FormatError(f"{files.path('')} is no shelf: it has no shelf.json; check the path")
        return cls(files, writable=writable)

    def _known(self) -> dict[str, Any]:
        self.files.forget("shelf.json")
        return dict(json.loads(self.files.read("shelf.json")))

    def _save(self, **changed: Any) -> None:
        self.files.replace("shelf.json", json.dumps(self._known() | changed).encode())

    def document(self) -> dict[str, Any]:
        return dict(self._known()["document"])

    def replace_document(self, document: Mapping[str, Any]) -> None:
        self._save(document=document)

    def specs(self) -> dict[str, ArraySpec]:
        return {name: ArraySpec.from_json(values) for name, values in self._known()["arrays"].items()}

    def create_arrays(self, specs: Mapping[str, ArraySpec]) -> None:
        for file in [f"{name}.{kind}" for name in specs for kind in ("rows", "chunks", "places")]:
            self.files.create(file)
            self._touch(file)
        new = {name: spec.to_json() for name, spec in specs.items()}
        self._save(arrays={**self._known()["arrays"], **new})

    def write_rows(self, name: str, start: int, rows: memoryview) -> None:
        self._touch(f"{name}.rows")
        self.files.write(f"{name}.rows", start * self.specs()[name].row_bytes, rows)

    def extents(self, name: str, start: int, stop: int) -> Sequence[Extent]:
        width, file = self.specs()[name].row_bytes, f"{name}.rows"
        if not self.files.exists(file) or self.files.size(file) < stop * width:
            raise CorruptError(f"{self.files.path(file)} is too short; run `replaystore verify`")
        return [Extent(file, start * width, (stop - start) * width)]

    def write_chunks(self, chunks: Mapping[str, Mapping[int, bytes]]) -> dict[str, dict[int, ChunkEntry]]:
        placed: dict[str, dict[int, ChunkEntry]] = {}
        for name, numbered in chunks.items():
            for kind in ("chunks", "places"):
                self._touch(f"{name}.{kind}")
            for number, data in numbered.items():
                entry = ChunkEntry(f"{name}.chunks", self.files.size(f"{name}.chunks"), len(data))
                self.files.write(entry.object, entry.offset, data)
                place = entry.offset.to_bytes(8, "little") + entry.length.to_bytes(8, "little")
                self.files.write(f"{name}.places", 16 * number, place)
                placed.setdefault(name, {})[number] = entry
        return placed

    def entry(self, name: str, chunk: int, *, complete: int = 0) -> ChunkEntry | None:
        place = self.files.read(f"{name}.places", 16 * chunk, 16)
        offset, length = int.from_bytes(place[:8], "little"), int.from_bytes(place[8:], "little")
        return ChunkEntry(f"{name}.chunks", offset, length) if length else None

    def publish(self, lengths: Mapping[str, int], entries: Mapping[str, Mapping[int, ChunkEntry]]) -> None:
        self.sync()
        self._save(shown=dict(lengths))

    def published(self) -> dict[str, int]:
        return dict(self._known()["shown"])

    def fork(self, rows: Mapping[str, int]) -> None:
        for file in [f"{name}.{kind}" for name in rows for kind in ("rows", "chunks", "places")]:
            self.files.replace(file, self.files.read(file))

    def trim(self, rows: Mapping[str, int]) -> None:
        known = self._known()["arrays"]
        self._save(arrays={name: spec for name, spec in known.items() if name in rows or is_journal(name)})
