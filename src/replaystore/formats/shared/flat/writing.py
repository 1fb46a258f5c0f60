"""Steps of a buffer on their way into flat arrays: one row a step, one trajectory behind the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.source import Block
from replaystore.schema.names import escape, split_path
from replaystore.schema.roles import FLAGS

__all__ = [
    "PLURALS",
    "Following",
    "Target",
    "fill_flat",
    "flat_arrays",
    "flat_places",
    "next_of",
    "path_of",
    "with_flags",
]


class Target(Protocol):
    """An array that rows are appended to."""

    def append(self, values: NDArray[Any]) -> None:
        """The next rows."""


def with_flags(block: Block) -> dict[str, NDArray[Any]]:
    """The rows of a block, and of both flags. A trajectory that was only cut off is truncated there: readers
    that know nothing but flags would take the next one for its going on."""
    columns: dict[str, Any] = {name: np.zeros(len(block), np.bool_) for name in FLAGS} | dict(block.columns)
    if block.ends:
        for name in FLAGS:
            columns[name] = np.append(columns[name][:-1], bool(getattr(block, name)))
        if not (block.terminated or block.truncated):
            columns["truncated"][-1] = True
    return columns


def fill_flat(
    chosen: Chosen, rows: Mapping[str, Target], following: Mapping[str, Target], done: Target | None = None
) -> None:
    """Append all steps: of fields (and of both flags) to `rows`, of what was observed after them to
    `following`; to `done`, whether either flag is set."""
    after = Following(following)
    for _, block in chosen.blocks():
        columns = with_flags(block)
        for name, target in rows.items():
            target.append(columns[name])
        if done is not None:
            done.append(columns["terminated"] | columns["truncated"])
        after.add(block)


class Following:
    """Writes what was observed after each step: the next row, and at the end the final observation, or the
    last one again where nobody knows."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self._targets = targets

    def add(self, block: Block) -> None:
        """The next steps."""
        for name, target in self._targets.items():
            values = block.columns[name]
            rows = values[1:] if block.begins else values
            if block.ends:
                final = values[-1] if not block.final else block.final[name]
                rows = np.concatenate([rows, np.asarray(final, values.dtype)[None]])
            target.append(rows)


# --- one array after the other


def path_of(name: str, taken: Collection[str], names: Mapping[str, str]) -> str:
    """The path of the dataset for a field: its own name, with another one for the first part where `names`
    says so, and none that is `taken`."""
    first, *rest = split_path(name)
    parts = [names.get(first, _part(first)), *map(_part, rest)]
    while any(_clash("/".join(parts), other) for other in taken):
        parts[0] += "_"
    return "/".join(parts)


def _clash(path: str, other: str) -> bool:
    return path == other or path.startswith(other + "/") or other.startswith(path + "/")


def _part(key: str) -> str:
    return key if key.isprintable() and key not in ("", ".", "..") and "/" not in key else escape(key)


PLURALS = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "terminated": "terminals",
    "truncated": "timeouts",
    "info": "infos",
}
"""What D4RL, and most others, call them."""
NEXT = "next_observations"


def next_of(path: str) -> str:
    """Of the array of an observation, that of what follows."""
    first, slash, rest = path.partition("/")
    return NEXT + first.removeprefix(PLURALS["observation"]) + slash + rest


def flat_places(chosen: Chosen) -> dict[str, str]:
    """What the array of each field is called."""
    taken = {PLURALS["terminated"], PLURALS["truncated"], "metadata", "replaystore", NEXT}
    places: dict[str, str] = {}
    for name in chosen.names:
        if name in FLAGS:
            places[name] = PLURALS[name]
            continue
        places[name] = path_of(name, taken, PLURALS)
        taken.add(places[name])
        if chosen.fields[name].role == "observation":
            taken.add(next_of(places[name]))
    return places


def flat_arrays(
    chosen: Chosen, places: Mapping[str, str]
) -> Iterator[tuple[str, np.dtype[Any], tuple[int, ...], Iterator[NDArray[Any]]]]:
    """All arrays: (what it is called, dtype, shape of a row, its rows in blocks), each to be read to its end
    before the next. The buffer is read once for each."""
    for name, declared in chosen.fields.items():
        if name not in FLAGS:
            rows = (block.columns[name] for _, block in chosen.blocks([name]))
            yield places[name], declared.dtype, declared.shape, rows
        if declared.role == "observation":
            yield next_of(places[name]), declared.dtype, declared.shape, _followed(chosen, name)
    for name in FLAGS:
        one = [name] if name in chosen.fields else chosen.smallest()
        flags = (with_flags(block)[name] for _, block in chosen.blocks(one, counted=name in chosen.fields))
        yield PLURALS[name], np.dtype(np.bool_), (), flags


def _followed(chosen: Chosen, name: str) -> Iterator[NDArray[Any]]:
    for _, block in chosen.blocks([name], counted=False):
        collected = _Collected()
        Following({name: collected}).add(block)
        yield from collected.rows


class _Collected:
    def __init__(self) -> None:
        self.rows: list[NDArray[Any]] = []

    def append(self, values: NDArray[Any]) -> None:
        """The next rows."""
        self.rows.append(values)
