"""What a buffer holds, as a digest: SHA-256 of each field and of each thing beside, whatever the container,
chunks, codecs, commits and environments in turn that it was stored with. The README has the definition.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.comparing.leaves import Crew
from replaystore.comparing.steps_in_blocks import BlockTally, with_flags
from replaystore.comparing.steps_in_rows import LaidRing, LaidStore, RowTally
from replaystore.comparing.tally import Tally, hash_of_json
from replaystore.converting.excerpt import chosen
from replaystore.converting.foreign import reading
from replaystore.errors import FormatError, SchemaError, UnsupportedError
from replaystore.formats import finding
from replaystore.formats.source import RingSource, Source
from replaystore.location import Location, expanded
from replaystore.trajectories.table import Trajectories
from replaystore.views.reader import BufferReader

__all__ = ["Digest", "digest", "digest_of", "digest_of_blocks", "digest_of_source"]

BLOCK_BYTES = 16 << 20
"""About how much of a file is read at a time."""


@dataclass(frozen=True, repr=False)
class Digest:
    """What is in a buffer. Digests are SHA-256, 64 hexadecimal digits."""

    content: str
    """Of all of it."""
    fields: Mapping[str, str]
    """Of the steps of all trajectories, by field."""
    rest: Mapping[str, str]
    """Of what is beside them: "final_observation", "terminated", "truncated", "seed", "split", "env", "open",
    "steps" (of no trajectory), "metadata", "environment", and columns of trajectories by their names."""
    steps: int
    """Those of no trajectory too, unless trajectories were chosen."""
    each: bytes = b""
    """Of each trajectory 32 bytes, in their order."""

    @property
    def trajectories(self) -> list[str]:
        """Of each trajectory: of its steps, of what followed them, and of how it ended. In the order of
        ending, open ones last."""
        return [self.each[at : at + 32].hex() for at in range(0, len(self.each), 32)]

    def __repr__(self) -> str:
        return (
            f"<Digest {self.content[:16]}… of {len(self.fields)} fields, {self.steps} steps in "
            f"{len(self.each) // 32} trajectories>"
        )

    def to_json(self, *, trajectories: bool = False) -> dict[str, Any]:
        """All of it, those of trajectories only if they are asked for."""
        counts = {"steps": self.steps, "trajectories": len(self.each) // 32}
        found = {"content": self.content, "fields": dict(self.fields), "rest": dict(self.rest), **counts}
        return {**found, "digests": self.trajectories} if trajectories else found


def digest(
    source: str | os.PathLike[str] | Location | Buffer,
    *,
    fields: Iterable[str] | None = None,
    split: str | None = None,
    where: str | None = None,
    commit: int | str | None = None,
    source_format: str | None = None,
) -> Digest:
    """The digest of what a store, an open buffer or a file of other software holds.

    Args:
        fields: only these, or what is below them.
        split, where: only these trajectories, as `trajectories.where` selects them.
        commit: as of this commit of a store, by its number or name.
        source_format: whose file it is, where that is not to be found out.

    Raises:
        NotFoundError, FormatError, CorruptError: it cannot be read. SchemaError: there are no such fields or
        trajectories. UnsupportedError: a part of a file of other software is asked for.
    """
    if isinstance(source, Buffer):
        return digest_of(source, fields=fields, trajectories=_chosen(source, split, where))
    name = None if isinstance(source, Location) else source_format or finding.find(source)
    if name is None:
        with open_buffer(source, commit=commit) as buffer:
            return digest_of(buffer, fields=fields, trajectories=_chosen(buffer, split, where))
    path = os.fspath(expanded(source))
    if split is not None or where is not None or commit is not None:
        raise UnsupportedError(
            f"{path} is a file of {name}, of which all trajectories are digested: convert it to a store first"
        )
    with reading(name, finding.named(name, "reads"), path, None) as found:
        return digest_of_source(found, path, fields=fields)


def _chosen(buffer: BufferReader, split: str | None, where: str | None) -> Trajectories | None:
    return None if split is None and where is None else chosen(buffer, where, split)


def digest_of(
    view: BufferReader,
    *,
    fields: Iterable[str] | None = None,
    trajectories: Trajectories | None = None,
    cut: bool = False,
    each: Collection[str] | None = None,
) -> Digest:
    """Of a view. `cut`: as if its open trajectories were cut off, in the order of the table; `each`: what is
    part of each trajectory's digest beside its fields."""
    schema = view.schema if fields is None else view.schema.select(fields)
    with Crew() as crew:
        laid = LaidStore(view, schema.fields, trajectories)
        rows = RowTally(laid, crew, cut=cut, loose=trajectories is None, each=each)
        return made(rows.tally, *rows.run(), view.document.user, view.environment)


def digest_of_source(
    source: Source | RingSource,
    path: str,
    *,
    fields: Iterable[str] | None = None,
    each: Collection[str] | None = None,
) -> Digest:
    """Of a file of other software, while it is open; `each` as for a view. FormatError: what is read of it
    does not fit its schema."""
    schema = source.schema if fields is None else source.schema.select(fields)
    with Crew() as crew:
        if isinstance(source, RingSource):
            rows = RowTally(LaidRing(source, schema.fields), crew, each=each)
            return made(rows.tally, *rows.run(), None, source.environment)
        blocks = BlockTally(schema.fields, source.columns, crew, each=each)
        for block in source.blocks(BLOCK_BYTES):
            whole = with_flags(block, source.schema)
            try:
                source.schema.check(whole.columns)
            except SchemaError as error:
                raise FormatError(f"{path}: {error}; what reads it is wrong, or it is damaged") from error
            blocks.add(whole)
        return digest_of_blocks(blocks, source)


def digest_of_blocks(blocks: BlockTally, source: Source) -> Digest:
    """Of all blocks of a source, which were counted."""
    return made(blocks.tally, *blocks.finish(), source.metadata, source.environment)


def made(
    tally: Tally, fields: dict[str, str], rest: dict[str, str], metadata: Any, environment: Any
) -> Digest:
    """The digest of what was counted. Of an environment that which is known of it counts."""
    known = {key: value for key, value in (environment or {}).items() if value is not None} or None
    rest = {**rest, "metadata": hash_of_json(dict(metadata or {})), "environment": hash_of_json(known)}
    fields, rest = dict(sorted(fields.items())), dict(sorted(rest.items()))
    content = hash_of_json({"fields": fields, "rest": rest})
    return Digest(content, fields, rest, tally.steps, bytes(tally.digests))
