"""Stores of strangers: every decoder is given what has the right checksum and the wrong content.

Metadata of Zarr and HDF5, documents, records of the log, cells of tables, indexes of shards, heads and
journals, manifests, the directory of zip files, objects of HDF5, and files that are links, pipes, folders, or
as large as they say and empty.

What is mended so that all checksums are right may be another store that is as good: then only the manner of
reading it is judged. A change that a checksum speaks of (of rows, or by the log) has to be noticed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

from replaystore.testing.campaigns import Tally
from replaystore.testing.crafting import CRAFTS, LOOSE
from replaystore.testing.crafting_hdf5 import HDF5_CRAFTS, HDF5_LOOSE
from replaystore.testing.specimens import KINDS, Specimen, in_children, look, make, write

__all__ = ["PROMISE", "control", "run"]

PROMISE = (
    "a stranger's store is read as it is, or is one error of ours: no traceback, hang or death, in "
    "bounded memory"
)
ACTIONS = ("append", "repair", "convert", "show")


def _attempt(seed: int, stores: Mapping[str, Specimen], number: int) -> list[str]:
    store = stores[KINDS[number % len(KINDS)]]
    draw = random.Random(f"{seed}/{number}")  # noqa: S311  # to be had again
    crafts = CRAFTS | HDF5_CRAFTS
    craft = draw.choice(
        [name for name, (kinds, _) in crafts.items() if any(part in store.kind for part in kinds)]
    )
    made = crafts[craft][1](store, draw)
    if made is None:
        return []
    told, change = made
    store.spoil(change)
    findings = look(store, strict=craft not in LOOSE | HDF5_LOOSE)
    # Copies of it would fill the disk.
    large = any(isinstance(new, int) and new > 1 << 28 for new in change.values())
    if number // len(KINDS) % 2 and not large:
        findings += write(store, draw.choice(ACTIONS))
        store.renew()
    store.mend(change)
    return [f"{store.kind}: {craft}: {told}: {finding}" for finding in findings]


def run(folder: str, *, count: int, seed: int) -> Tally:
    """So many stores, of all kinds in turn."""
    tally = Tally()
    for number in range(count):
        tally.count(KINDS[number % len(KINDS)])
    for number, finding in in_children(range(count), partial(_attempt, seed, make(folder, seed=seed))):
        tally.failures.append(f"{number}: {finding}")
    return tally


def control(folder: str, *, seed: int) -> Tally:
    """Records of the log are believed as they are."""
    with (
        patch("replaystore.arrays.records.check_record", lambda *_: None),
        patch("replaystore.arrays.records.check_step", lambda *_: None),
        patch("replaystore.arrays.records.sound", nullcontext),
    ):
        return run(folder, count=400, seed=seed)
