"""The stores that are read: the same steps in every container and layout."""

from __future__ import annotations

from pathlib import Path

from measuring import Context
from measuring.data import BLOCK, FIELDS, Columns, cheetah_steps, write

import replaystore as rs

__all__ = ["KINDS", "files_of", "material", "steps_of"]

KINDS = {
    "Zarr, live": "live.zarr",
    "HDF5, live": "live.h5",
    "Zarr, archive": "archive.zarr",
    "zip, archive": "archive.zarr.zip",
}
SHARDS = 8
"""Files of each field of the live Zarr store: forty in all."""


def steps_of(context: Context) -> int:
    return BLOCK * context.choose(10, 2)


def material(context: Context) -> tuple[Path, Columns]:
    """A folder with all stores, and the steps that they hold again and again."""
    folder, columns = context.shared / "stores", cheetah_steps(BLOCK)[0]
    if not folder.exists():
        folder.mkdir()
        context.say(f"writing {steps_of(context)} steps in {len(KINDS)} ways")
        rows = max(1024, steps_of(context) // (128 * SHARDS) // 1024 * 1024)
        storage = {name: {"chunk_rows": 4096 if rows < 4096 and name in FLAGS else rows} for name in FIELDS}
        write(folder / "live.zarr", steps_of(context), columns, storage=storage)
        write(folder / "live.h5", steps_of(context), columns)
        for name in ("archive.zarr", "archive.zarr.zip"):
            rs.convert(folder / "live.zarr", folder / name, layout="archive")
    return folder, columns


FLAGS = ("terminated", "truncated")
"""Of one byte, so that a page is 4096 of them."""


def files_of(folder: Path, kind: str) -> list[tuple[str, int]]:
    """The files of a store that hold rows, and their sizes."""
    place = folder / KINDS[kind]
    if place.is_file():
        return [(place.name, place.stat().st_size)]
    files = sorted(file for file in place.rglob("*") if file.is_file() and file.parent.name != "log")
    return [(str(file.relative_to(folder)), file.stat().st_size) for file in files if "steps" in file.parts]
