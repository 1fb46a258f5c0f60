"""Files of other software: how one plugs in, and which is which.

A format is a subclass of `Format` in a module or folder of its own, and an `Entry` in `replaystore.registry`
that says by what its files are recognised. It knows views and schemas; it knows no other format, and neither
buffers nor containers. Nobody else knows a format by name.

* `read` gives a `Source`: the schema, what is known of the whole, and `blocks`: steps of one trajectory, all
  fields together, with what is known of its beginning and its end. They are recorded as those of an
  environment are, so that nothing a format gives can make a store that is not sound.
* Or it gives a `RingSource`: a ring of rows with a position that is to come out again exactly as it was.
* `plan` gets the view of a buffer, and says what would become of each field and of all else: a dry run.
* `write` gets the view of a buffer and makes a file, from `blocks` of it or as it likes, and answers with a
  `Report`: what became of each field and of all else. What is not in the report was kept.

How a field is named: as in Gymnasium (`observation`, `action`, `reward`) where it means the same. Where it
means nearly the same (`dones`) it keeps its own name and its dtype, as an extra field, so that it is not
misread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replaystore.formats.blocks import beside_fields, blocks_of, chosen_fields, planned_counts
    from replaystore.formats.finding import find, find_target, named
    from replaystore.formats.format import Format
    from replaystore.formats.options import Options
    from replaystore.formats.report import (
        KEPT,
        Fate,
        Proof,
        Report,
        changed,
        derived,
        lost,
        made_up,
        refuse_losses,
    )
    from replaystore.formats.shared.new_files import NewFiles
    from replaystore.formats.source import Block, RingSource, Source
    from replaystore.views.reader import BufferReader

__all__ = [
    "KEPT",
    "Block",
    "BufferReader",
    "Fate",
    "Format",
    "NewFiles",
    "Options",
    "Proof",
    "Report",
    "RingSource",
    "Source",
    "beside_fields",
    "blocks_of",
    "changed",
    "chosen_fields",
    "derived",
    "find",
    "find_target",
    "lost",
    "made_up",
    "named",
    "planned_counts",
    "refuse_losses",
]

_HOMES = {
    "KEPT": "formats.report",
    "Block": "formats.source",
    "BufferReader": "views.reader",
    "Fate": "formats.report",
    "Format": "formats.format",
    "NewFiles": "formats.shared.new_files",
    "Options": "formats.options",
    "Proof": "formats.report",
    "Report": "formats.report",
    "RingSource": "formats.source",
    "Source": "formats.source",
    "beside_fields": "formats.blocks",
    "blocks_of": "formats.blocks",
    "chosen_fields": "formats.blocks",
    "changed": "formats.report",
    "derived": "formats.report",
    "find": "formats.finding",
    "find_target": "formats.finding",
    "lost": "formats.report",
    "made_up": "formats.report",
    "named": "formats.finding",
    "planned_counts": "formats.blocks",
    "refuse_losses": "formats.report",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(
                f"module 'replaystore.formats' has no attribute {name!r}; its public names "
                f"are {', '.join(__all__)}"
            )
        return getattr(import_module(f"replaystore.{_HOMES[name]}"), name)
