"""What a file of other software has no place for, kept beside what it has, where that software does not look:
which fields the arrays are, where trajectories begin and end and how, seeds, splits, environments, columns of
the user's, metadata. Arrays by name, which a format stores as it likes:

| name        | what                                                                            |
|-------------|---------------------------------------------------------------------------------|
| `about`     | JSON (uint8): version, schema, places of the fields, environment, metadata, …   |
| `length`    | of each trajectory, in the order of the file                                    |
| `how`       | bits: 1 terminated, 2 truncated, 4 its final observation is in the file         |
| `seed`, `env`, `split` | of each; `split` as a place in `about.splits`                        |
| `columns/…` | further columns of the table, by number as in `about.columns`                   |

A file whose rows are not those that this tells of any more was changed by others, and is read as theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.blocks import beside_fields, blocks_of, chosen_fields
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Fate, Report
from replaystore.formats.source import Block
from replaystore.schema.fields import Schema
from replaystore.schema.strict_json import decoded, strict
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["FINAL", "TERMINATED", "TRUNCATED", "Chosen", "Kept", "kept_of"]

VERSION = 1
TERMINATED, TRUNCATED, FINAL = 1, 2, 4
MOST = 1 << 27
"""Trajectories."""


@dataclass
class Kept:
    """What was kept."""

    schema: Schema
    places: dict[str, str]
    """Of each field, where it is in the file."""
    length: NDArray[np.int64]
    how: NDArray[np.uint8]
    seed: NDArray[np.int64]
    env: NDArray[np.int64]
    split: NDArray[np.int32]
    splits: list[str]
    columns: dict[str, NDArray[Any]]
    environment: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """What else the format has written into `about`."""

    def __len__(self) -> int:
        return len(self.length)

    @property
    def steps(self) -> int:
        """How many there are."""
        return int(self.length.sum())

    def begins(self, number: int) -> dict[str, Any]:
        """What the block says with which a trajectory begins."""
        return {
            "env": int(self.env[number]),
            "seed": int(self.seed[number]),
            "split": self.splits[self.split[number]],
            "row": {name: values[number] for name, values in self.columns.items()},
        }

    def ends(self, number: int) -> dict[str, Any]:
        """What the block says with which it ends."""
        how = int(self.how[number])
        return {"terminated": bool(how & TERMINATED), "truncated": bool(how & TRUNCATED)}

    def has_final(self, number: int) -> bool:
        """Whether the observation after its last step is in the file."""
        return bool(self.how[number] & FINAL)


class Chosen:
    """What is to be written of a buffer."""

    def __init__(self, buffer: BufferReader, options: Options) -> None:
        self.buffer, self.options = buffer, options
        self.names = chosen_fields(buffer, options)
        self.schema = buffer.schema.select(self.names)
        self.fields = self.schema.fields
        self.table = buffer.trajectories if options.trajectories is None else options.trajectories
        parts = buffer.parts
        order = parts.parts_of(self.table["trajectory"])
        owner = parts.trajectory[order]
        first = np.flatnonzero(np.append(True, owner[1:] != owner[:-1])[: len(order)])
        self.lengths: NDArray[np.int64] = (
            np.add.reduceat(parts.length[order], first) if len(first) else np.zeros(0, np.int64)
        )
        """Steps of each trajectory."""
        self.user = [name for name in self.table.columns if name not in TRAJECTORIES and name != "open"]
        self.row_bytes = sum(declared.row_bytes for declared in self.fields.values())
        self._done = 0
        self._finals = [False] * len(self.table)

    @property
    def steps(self) -> int:
        """How many there are of all."""
        return int(self.lengths.sum())

    @property
    def cut(self) -> NDArray[np.bool_]:
        """Which trajectories were neither terminated nor truncated."""
        found: NDArray[np.bool_] = ~(self.table["terminated"] | self.table["truncated"])
        return found

    def observations(self) -> tuple[str, ...]:
        """The fields of the observation."""
        return self.schema.names("observation")

    def report(self, fields: Mapping[str, Fate], *, lost: Collection[str] = ()) -> Report:
        """What becomes of it, if all is kept but these fields that are named, and what is `lost` beside
        them."""
        held = {
            "env",
            "seed",
            "split",
            "final_observation",
            "metadata",
            "environment",
            "terminated",
            "truncated",
        }
        rest = beside_fields(
            self.buffer, self.options, holds={*held, *self.user} - set(lost), fields=self.fields.keys()
        )
        became = {**dict.fromkeys(self.names, KEPT), **fields}
        return Report(self.steps, len(self.table), became, rest)

    def smallest(self) -> list[str]:
        """The field whose rows take least."""
        return [min(self.names, key=lambda name: self.fields[name].row_bytes)]

    def blocks(
        self, names: Sequence[str] | None = None, *, counted: bool = True
    ) -> Iterator[tuple[int, Block]]:
        """All steps in order, in blocks with the numbers of their trajectories; of these fields alone.
        `counted`: that is progress."""
        number, finals = -1, list[bool]()
        options = self.options if names is None else replace(self.options, fields=tuple(names))
        width = sum(self.fields[name].row_bytes for name in names or self.names) * counted
        for block in blocks_of(self.buffer, options):
            number += block.begins
            if block.ends:
                finals.append(bool(block.final))
            yield number, block
            self._done += len(block) * width
            if self.options.progress is not None:
                self.options.progress(self._done, self.steps * self.row_bytes)
        if names is None or set(self.observations()) & set(names):
            self._finals = finals

    def to_keep(self, places: Mapping[str, str], **more: Any) -> dict[str, NDArray[Any]]:
        """What is kept beside the arrays, when all blocks were asked for. `more`: strict JSON of the format's
        own."""
        table = self.table
        how = (table["terminated"] * TERMINATED | table["truncated"] * TRUNCATED).astype(np.uint8)
        how |= np.array(self._finals, np.uint8) * np.uint8(FINAL)
        names = [str(name) for name in table["split"].tolist()]
        splits = list(dict.fromkeys(["", *names]))
        codes = {name: code for code, name in enumerate(splits)}
        about = {
            "version": VERSION,
            "schema": self.schema.to_json(),
            "places": {name: places[name] for name in self.names},
            "splits": splits,
            "columns": {name: str(number) for number, name in enumerate(self.user)},
            "environment": self.buffer.environment,
            "metadata": self.buffer.document.user or None,
            "more": more,
        }
        text = json.dumps(strict(about), separators=(",", ":"), ensure_ascii=False).encode()
        return {
            "about": np.frombuffer(text, np.uint8),
            "length": self.lengths.astype(np.int64),
            "how": how,
            "seed": np.asarray(table["seed"], np.int64),
            "env": np.asarray(table["env"], np.int64),
            "split": np.array([codes[name] for name in names], np.int32),
            **{f"columns/{number}": np.asarray(table[name]) for number, name in enumerate(self.user)},
        }


def kept_of(read: Callable[[str], NDArray[Any] | None], where: str) -> Kept | None:
    """What was kept in a file; None: nothing. `read`: the array of a name; None: there is none. FormatError:
    it is damaged."""
    text = read("about")
    if text is None:
        return None
    try:
        about = decoded(text.astype(np.uint8, copy=False).tobytes())
        if about["version"] != VERSION:
            return None
        schema = Schema.from_json(about["schema"])
        splits = [str(name) for name in about["splits"]]
        places = {name: str(about["places"][name]) for name in schema.fields}
        columns = {str(name): _array(read, f"columns/{at}", None) for name, at in about["columns"].items()}
        length = _array(read, "length", np.dtype(np.int64))
        found = Kept(
            schema,
            places,
            length,
            _array(read, "how", np.dtype(np.uint8)),
            _array(read, "seed", np.dtype(np.int64)),
            _array(read, "env", np.dtype(np.int64)),
            _array(read, "split", np.dtype(np.int32)),
            splits,
            columns,
            about["environment"],
            about["metadata"],
            about.get("more") or {},
        )
        _check(found)
    except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
        raise FormatError(
            f"{where}: what replaystore has kept in it is damaged ({type(error).__name__}: {error}): copy "
            "the "
            "file again, or remove it"
        ) from error
    return found


def _array(
    read: Callable[[str], NDArray[Any] | None], name: str, dtype: np.dtype[Any] | None
) -> NDArray[Any]:
    found = read(name)
    if found is None or found.ndim < 1 or len(found) > MOST:
        raise ValueError(f"{name!r} is missing, or no list")
    if dtype is not None and (found.dtype != dtype or found.ndim != 1):
        raise ValueError(f"{name!r} has the dtype {found.dtype}")
    return found


def _check(found: Kept) -> None:
    count = len(found.length)
    of_each: list[NDArray[Any]] = [found.how, found.seed, found.env, found.split, *found.columns.values()]
    if any(len(values) != count for values in of_each):
        raise ValueError("its lists have different lengths")
    if count and (found.length.min() < 1 or found.length.max() > 1 << 48 or found.env.min() < 0):
        raise ValueError("a trajectory has no steps, or no environment")
    if count and not 0 <= int(found.split.min()) <= int(found.split.max()) < len(found.splits):
        raise ValueError("a split has no name")
    for part in (found.environment, found.metadata):
        if part is not None and not isinstance(part, dict):
            raise TypeError("the environment or the metadata are no dict")
    strict({"environment": found.environment, "metadata": found.metadata})
