"""Damage of every kind, at every place of small stores: flipped bits, cut, extended, zeroed, missing,
swapped, foreign files."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from functools import partial
from unittest.mock import patch

import numpy as np

from replaystore.testing.campaigns import Tally
from replaystore.testing.specimens import KINDS, Change, Specimen, in_children, look, make

__all__ = ["PROMISE", "control", "run"]

PROMISE = "a damaged store shows what it held, or says that it does not"
WAYS = (
    "flipped",
    "flipped",
    "flipped",
    "cut",
    "extended",
    "zeroed",
    "noise",
    "removed",
    "emptied",
    "swapped",
    "foreign",
    "moved",
)
"""What happens to a file."""

Files = Mapping[str, bytes]


def damage(files: Files, others: Files, draw: random.Random) -> tuple[str, Change]:
    """What has happened, and the files that are changed by it; bytes that nobody uses are seldom chosen."""
    name = draw.choice([name for name, data in files.items() if data] or list(files))
    way = draw.choice(WAYS) if len(files) > 1 else draw.choice(WAYS[:7])
    data, at = files[name], 0
    if data:
        used = np.flatnonzero(np.frombuffer(data, np.uint8)) if draw.random() < 0.9 else np.arange(len(data))
        at = int(used[draw.randrange(len(used))]) if len(used) else 0
    told = f"{way} {name or 'the file'} at {at}"
    if way == "flipped":
        return told, {name: data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]}
    if way == "cut":
        return told, {name: data[:at]}
    if way == "extended":
        return told, {
            name: data + (draw.randbytes(draw.randrange(1, 600)) if draw.random() < 0.7 else bytes(4096))
        }
    if way == "zeroed":
        begin = at // 512 * 512
        return told, {name: data[:begin] + bytes(len(data[begin : begin + 512])) + data[begin + 512 :]}
    if way == "noise":
        length = draw.choice((2, 4, 8, 16, 100))
        return told, {name: (data[:at] + draw.randbytes(length) + data[at + length :])[: len(data)]}
    if way == "removed":
        return told, {name: None}
    if way == "emptied":
        return told, {name: b""}
    other = draw.choice([other for other in files if other != name])
    if way == "swapped":
        return f"swapped {name} and {other}", {name: files[other], other: data}
    if way == "moved":
        return f"{name} is a copy of {other}", {name: files[other]}
    return f"{name} of another store", {name: others.get(name, b"")}


def _attempt(
    seed: int, stores: Mapping[str, Specimen], others: Mapping[str, Specimen], number: int
) -> list[str]:
    store = stores[KINDS[number % len(KINDS)]]
    told, change = damage(store.files, others[store.kind].files, random.Random(f"{seed}/{number}"))  # noqa: S311  # to be had again
    if all(store.files.get(name) == data for name, data in change.items()):
        return []
    store.spoil(change)
    findings = look(store, strict=True)
    store.mend(change)
    return [f"{store.kind}: {told}: {finding}" for finding in findings]


def run(folder: str, *, count: int, seed: int) -> Tally:
    """So many damages, of all kinds of stores in turn."""
    tally = Tally()
    for name in ("one", "other"):
        os.mkdir(os.path.join(folder, name))
    stores, others = (
        make(os.path.join(folder, "one"), seed=seed),
        make(os.path.join(folder, "other"), seed=seed + 1),
    )
    for number in range(count):
        tally.count(KINDS[number % len(KINDS)])
    for number, finding in in_children(range(count), partial(_attempt, seed, stores, others)):
        tally.failures.append(f"{number}: {finding}")
    return tally


def control(folder: str, *, seed: int) -> Tally:
    """Damage while `verify` compares no rows with their checksums."""
    with patch("replaystore.checking.verify.check_raw", lambda *_: None):
        return run(folder, count=120, seed=seed)
