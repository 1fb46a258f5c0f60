"""The arrays and groups of a Zarr hierarchy, and its document, as their metadata (zarr.json) say it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.checks import MOST_JSON, is_count, load_json
from replaystore.containers.filed import FiledContainer
from replaystore.containers.zarr.metadata import (
    CHECKSUM,
    CONVENTION,
    GROUP,
    MANIFEST,
    SHOWN,
    array_metadata,
    as_json,
    document_checksum,
    group_metadata,
    spec_of,
)
from replaystore.containers.zarr.segments import SEGMENTS
from replaystore.errors import CorruptError, FormatError
from replaystore.schema.tree import LOG
from replaystore.storage.protocol import FIRST_BYTES, Reads

__all__ = ["LOG_SPEC", "Hierarchy"]

LOG_SPEC = ArraySpec(np.dtype(np.uint8), (), chunk_rows=1 << 20, dimension="byte")


class Hierarchy(FiledContainer):
    """The metadata of a hierarchy in `files`."""

    def __init__(self, files: Reads, *, writable: bool) -> None:
        super().__init__(files, writable=writable)
        self._specs: dict[str, ArraySpec] | None = None
        self._shown: dict[str, int] = {}
        """The rows that the metadata of arrays are known to say."""
        self._root: dict[str, Any] | None = None
        """The metadata of the root, where reading them again is a request."""

    def learn(self, specs: Mapping[str, ArraySpec]) -> None:
        if self.files.far:
            self._specs = {LOG: LOG_SPEC, **(self._specs or {}), **specs}

    def specs(self) -> Mapping[str, ArraySpec]:
        if self._specs is None and self.files.far:
            self.learn({})
        if self._specs is None:
            sealed = not self.writable and self.files.exists(MANIFEST)
            self._specs = dict((sealed and self._consolidated()) or self._walk("", {}))
        return self._specs

    def _consolidated(self) -> list[tuple[str, ArraySpec]]:
        """All arrays of a sealed store, by the copies that the root's metadata have of theirs; nothing if it
        has none. One request instead of one for each array and group."""
        copies = self._metadata("").get("consolidated_metadata")
        nodes = copies.get("metadata") if isinstance(copies, dict) else None
        found = nodes.items() if isinstance(nodes, dict) else ()
        return [
            self._described(name, metadata)
            for name, metadata in found
            if isinstance(metadata, dict) and metadata.get("node_type") == "array"
        ]

    def _described(self, name: str, metadata: Mapping[str, Any]) -> tuple[str, ArraySpec]:
        spec = spec_of(metadata, self.files.path(f"{name}/zarr.json"))
        self._shown[name] = metadata["shape"][0]
        return name, spec

    def _walk(
        self, folder: str, understood: dict[bytes, tuple[ArraySpec, int]]
    ) -> Iterator[tuple[str, ArraySpec]]:
        """The arrays below a folder. Metadata of equal text are understood once: many fields are alike."""
        for entry in self.files.list(folder):
            name = f"{folder}/{entry}" if folder else entry
            if entry == "zarr.json" or entry.endswith(".new"):
                continue
            try:
                text = self.files.read_whole(f"{name}/zarr.json", MOST_JSON)
            except FileNotFoundError:
                continue
            if (known := understood.get(text)) is not None:
                spec, self._shown[name] = known
                yield name, spec
                continue
            metadata = self._understood(name, text)
            if metadata.get("node_type") == "array":
                found = self._described(name, metadata)
                understood[text] = found[1], self._shown[name]
                yield found
            else:
                yield from self._walk(name, understood)

    def _metadata(self, name: str) -> dict[str, Any]:
        """zarr.json of a folder, which has to have one."""
        try:
            return self._read_metadata(name)
        except FileNotFoundError:
            file = f"{name}/zarr.json" if name else "zarr.json"
            raise self._not_ours(
                name, (f"{self.files.path('')} is not a replaystore store: it has no {file}")
            ) from None

    def _read_metadata(self, name: str) -> dict[str, Any]:
        file = f"{name}/zarr.json" if name else "zarr.json"
        return self._understood(name, self.files.read_whole(file, MOST_JSON))

    def _understood(self, name: str, text: bytes) -> dict[str, Any]:
        """What zarr.json of a folder says."""
        file = f"{name}/zarr.json" if name else "zarr.json"
        found = load_json(text, self.files.path(file))
        if not isinstance(found, dict) or found.get("zarr_format") != 3:
            raise self._not_ours(name, f"{self.files.path(file)}: not Zarr v3 metadata")
        return found

    def _not_ours(self, name: str, what: str) -> FormatError:
        """Where there is a commit log there was a store."""
        if name or (self._named is None and self.files.exists(LOG)):
            return CorruptError(f"{what}; restore it from a copy")
        return FormatError(f"{what}; check the path, or choose another name")

    def create_arrays(self, specs: Mapping[str, ArraySpec]) -> None:
        known = dict(self.specs())
        self._remove(specs)
        groups = dict.fromkeys(group for name in specs for group in _above(name))
        made = {group: as_json(GROUP) for group in groups if not self.files.exists(f"{group}/zarr.json")} | {
            name: as_json(array_metadata(spec, 0, name)) for name, spec in specs.items()
        }
        files = {f"{name}/zarr.json": data for name, data in made.items()}
        if self._segment is None:
            for file, data in files.items():
                self._write(file, data)
        else:  # a store that others may open: whole or not at all
            self.files.replace_files(files)
        for name in made:
            self._note_folders(name)
        self._shown |= dict.fromkeys(specs, 0)
        self._specs = {**known, **specs}

    def _remove(self, names: Collection[str]) -> None:
        """Remove arrays; the metadata of one, which make it one, last."""
        for name in names:
            self.files.clear(name)
        gone = set(names)
        for known in (self._made, self._ends, self._dirty):
            for file in [file for file in known if not gone.isdisjoint(_above(file))]:
                known.discard(file) if isinstance(known, set) else known.pop(file)
        self._folders = {
            folder: None for folder in self._folders if folder not in gone and gone.isdisjoint(_above(folder))
        }

    def document(self) -> dict[str, Any]:
        root = self._root or self._metadata("")
        if self.files.far:
            self._root = root
        attributes = root.get("attributes")
        if not isinstance(attributes, dict) or not isinstance(attributes.get("replaystore"), dict):
            raise self._not_ours(
                "",
                (
                    f"{self.files.path('')} is a Zarr hierarchy, but not a replaystore "
                    "store: no attribute `replaystore`"
                ),
            )
        if SHOWN in attributes and self.files.lists and not self.files.exists(LOG):
            raise FormatError(
                f"{self.files.path('')} is a copy of what a zarr_store() showed, and no store: open it with "
                "Zarr, or copy the store itself with `replaystore convert`"
            )
        return dict(attributes["replaystore"])

    def replace_document(self, document: Mapping[str, Any]) -> None:
        self.files.replace("zarr.json", as_json(group_metadata(document)))

    def _announce(self, names: Iterable[str]) -> None:
        """The metadata of these arrays and groups are going to be read."""
        self.files.fetch_ahead([(f"{name}/zarr.json", 0, FIRST_BYTES) for name in names])

    def published(self) -> Mapping[str, int]:
        self._announce(self.specs())
        return {name: self._rows_said(name, self._metadata(name)) for name in self.specs()}

    def _rows_said(self, name: str, metadata: Mapping[str, Any]) -> int:
        """The rows that the metadata of an array say. CorruptError: they are those of none."""
        spec_of(metadata, self.files.path(f"{name}/zarr.json"))
        return int(metadata["shape"][0])

    def metadata_problems(self) -> Iterator[tuple[str, str]]:
        root = self._metadata("")["attributes"]
        if root.get(CHECKSUM) != document_checksum(root["replaystore"]):
            yield self.files.path("zarr.json"), "the document does not match its checksum"
        if root.get("zarr_conventions") != [CONVENTION]:
            yield self.files.path("zarr.json"), "zarr_conventions is not what was written"
        if LOG not in self.specs():
            yield self.files.path(f"{LOG}/zarr.json"), "the metadata of the commit log are missing"
        yield from self.naming_problems()
        groups = {group for name in self.specs() for group in _above(name)}
        self._announce([*sorted(groups), *self.specs()])
        for group in sorted(groups):
            if self._metadata(group) != GROUP:
                yield (
                    self.files.path(f"{group}/zarr.json"),
                    "the metadata of this group is not what was written",
                )
        for name, spec in self.specs().items():
            found = self._metadata(name)
            try:
                right = found == array_metadata(spec, self._rows_said(name, found), name)
            except CorruptError:
                right = False
            if not right:
                yield (
                    self.files.path(f"{name}/zarr.json"),
                    "the metadata of this array is not what was written",
                )

    def restore(self, specs: Mapping[str, ArraySpec], rows: Mapping[str, int]) -> list[str]:
        groups = {group for name in (LOG, *specs) for group in _above(name)}
        wanted: dict[str, dict[str, Any]] = {group: dict(GROUP) for group in groups}
        specs = {LOG: LOG_SPEC, **specs}
        wanted |= {name: array_metadata(spec, rows.get(name, 0), name) for name, spec in specs.items()}
        restored = []
        for name, metadata in sorted(wanted.items()):
            try:
                found = self._metadata(name)
                if name in specs and name not in rows and is_count(found["shape"][0]):
                    metadata["shape"][0] = found["shape"][0]
                right = found == metadata
            except (FormatError, LookupError, TypeError):
                right = False
            if not right:
                self._write(f"{name}/zarr.json", as_json(metadata))
                restored.append(name)
        self._specs = None
        return [*restored, SEGMENTS] if self._name_segments(self._listed()) else restored


def _above(name: str) -> list[str]:
    """The folders that a file, an array or a folder lies in, the outermost first."""
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]
