"""Damage of every kind to the files of a store: bits, cuts, pieces of other places, exchanged files."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

SMALL = 3 << 10
"""Files up to this size are cut at every length, and a bit of each of their bytes is flipped; of others
some."""
SAMPLED = 400
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Damage:
    """Something that happens to a file."""

    kind: str
    name: str
    at: int = 0
    other: str = ""

    def of(self, files: Files, others: Files) -> dict[str, bytes | None]:
        """The files that are changed, and their new content; None: it is gone. `others`: those of another
        store of the same schema."""
        data, at = files[self.name], self.at
        if self.kind == "foreign":
            return {self.name: others[self.name]}
        if self.kind == "swapped":
            return {self.name: files[self.other], self.other: data}
        if self.kind == "removed":
            return {self.name: None}
        if self.kind == "cut":
            return {self.name: data[:at]}
        if self.kind == "extended":
            return {self.name: data + random.Random(at).randbytes(at)}
        if self.kind == "zeroed":
            return {self.name: data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]}
        return {
            self.name: data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]
            if data
            else data
        }


def certain(files: Files, others: Files) -> list[Damage]:
    """What is done to every file. (Metadata of another store of the same schema fit, and so does a whole
    store.)"""
    found = [
        Damage("foreign", name)
        for name in files
        if name in others and name and not name.endswith("zarr.json")
    ]
    for name, data in files.items():
        half = len(data) // 2
        found += [
            Damage("removed", name),
            Damage("cut", name, 0),
            Damage("cut", name, half),
            Damage("cut", name, max(0, len(data) - 1)),
        ]
        found += [
            Damage("extended", name, 1),
            Damage("extended", name, 200),
            Damage("flipped", name, 8 * half + 3),
            Damage("zeroed", name, 0),
        ]
    return found


def possible(files: Files, draw: random.Random) -> list[Damage]:
    """What else there is to choose from."""
    found = []
    for name, data in files.items():
        size = len(data)
        whole = size <= SMALL
        used = range(size) if whole else np.flatnonzero(np.frombuffer(data, np.uint8)).tolist()
        share = 10 if len(files) == 1 else 1
        cuts = (
            range(size) if whole else [*draw.sample(range(size), SAMPLED * share), *range(4096, size, 4096)]
        )
        flips = used if len(used) <= SAMPLED * share else draw.sample(used, SAMPLED * share)
        found += [Damage("cut", name, length) for length in cuts]
        found += [Damage("flipped", name, 8 * byte + draw.randrange(8)) for byte in flips]
        found += [] if whole else [Damage("zeroed", name, byte // 512 * 512) for byte in flips[::8]]
    return found + swaps(files, draw)


def swaps(files: Files, draw: random.Random) -> list[Damage]:
    """Pairs of files that differ: those of one kind, and any."""
    kinds: dict[str, list[str]] = {}
    for name in files:
        kinds.setdefault(
            "zarr.json" if name.endswith("zarr.json") else "log" if "journal/log" in name else "data", []
        ).append(name)
    pairs = [
        tuple(draw.sample(names, 2))
        for names in [*kinds.values(), list(files)]
        if len(names) > 1
        for _ in range(2 * len(names))
    ]
    return [Damage("swapped", left, other=right) for left, right in pairs if files[left] != files[right]]


def choose(files: Files, others: Files, count: int, seed: int) -> list[Damage]:
    """So many damages that change something, in any order."""
    draw = random.Random(seed)
    chosen, more = certain(files, others), possible(files, draw)
    chosen += draw.sample(more, min(max(0, count - len(chosen)), len(more)))
    draw.shuffle(chosen)
    return [
        damage
        for damage in dict.fromkeys(chosen)
        if any(files[name] != data for name, data in damage.of(files, others).items())
    ]
