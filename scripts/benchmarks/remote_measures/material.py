"""The stores that are read: the same steps in every container and layout."""

from __future__ import annotations

from pathlib import Path

from measuring import Context
from measuring.data import BLOCK, FIELDS, Columns, cheetah_steps, write

import replaystore as rs

__all__ = ["KINDS", "LONG", "files_of", "material", "steps_of"]

KINDS = {
    "Zarr, live": "live.zarr",
    "HDF5, live": "live.h5",
    "Zarr, archive": "archive.zarr",
    "zip, archive": "archive.zarr.zip",
}
SHARDS = 8
"""Files of each field of the live Zarr store: forty in all."""


LONG = 4
"""How many times as long the stores for scans are: a second of reading, beside which the first rounds are
little."""


def steps_of(context: Context, times: int = 1) -> int:
    return BLOCK * context.choose(10, 2) * times


def material(context: Context, times: int = 1) -> tuple[Path, Columns]:
    """A folder with all stores, and the steps that they hold again and again."""
    folder, columns = context.shared / f"stores{times}", cheetah_steps(BLOCK)[0]
    if not folder.exists():
        folder.mkdir()
        steps = steps_of(context, times)
        context.say(f"writing {steps} steps in {len(KINDS)} ways")
        rows = max(1024, steps // (128 * SHARDS) // 1024 * 1024)
        storage = {name: {"chunk_rows": 4096 if rows < 4096 and name in FLAGS else rows} for name in FIELDS}
        write(folder / "live.zarr", steps, columns, storage=storage)
        write(folder / "live.h5", steps, columns)
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
