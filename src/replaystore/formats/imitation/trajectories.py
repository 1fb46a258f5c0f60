"""Trajectories of imitation, a dataset that Hugging Face's `save_to_disk` made: a folder with state.json,
dataset_info.json and tables of Arrow, a row each trajectory.

| in the files | in a buffer                                                                              |
|--------------|------------------------------------------------------------------------------------------|
| obs          | `observation`; the last of T+1 is the observation after the last step                    |
| acts, rews   | `action`, `reward`                                                                       |
| infos        | numbers that all steps have: `info/<key>`; the texts as they are, where there is more    |
| terminal     | the column `terminal`; `terminated`, or `truncated` if the last info has                 |
|              | `TimeLimit.truncated`                                                                    |

Trajectories that are not terminal were cut off. Files are opened only in the folder itself, under the names
that state.json gives.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError, ReplayStoreError
from replaystore.formats.format import Format
from replaystore.formats.imitation.infos import TEXTS, Infos, time_limit
from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.arrow.reading import opened_table, pyarrow
from replaystore.formats.shared.arrow.values import lists, numbers, ragged
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.source import Block, Source
from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged
from replaystore.schema.strict_json import MAX_BYTES, decoded
from replaystore.storage.local import read_all

__all__ = ["Imitation"]

STATE, INFO = "state.json", "dataset_info.json"
WANTED = ("obs", "acts", "infos", "terminal")
PLAIN = {"obs": "observation", "acts": "action", "rews": "reward"}
BATCH = 8 << 20


class Imitation(Format):
    """Such folders, as replaystore knows them."""

    example = "trajectories"
    folder = True

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """The trajectories of a folder."""
        pyarrow("a dataset of imitation")
        held = _looked_through(path)
        yield Source(
            held.schema(),
            held.blocks,
            columns={"terminal": np.dtype(np.bool_)},
            steps=held.steps,
            trajectories=held.trajectories,
            rest=held.rest(),
            remarks=held.remarks(),
        )

    def recognizes(self, path: str) -> bool:
        """Whether the folder has the two descriptions, and the columns of trajectories."""
        try:
            return bool(_files(path)) and _has_columns(path)
        except (ReplayStoreError, OSError):
            return False


def _json(path: str) -> Any:
    """What a small file holds. FormatError: it is no JSON."""
    with opened(path) as (descriptor, size):
        if size > MAX_BYTES:
            raise FormatError(f"{path} has {size} bytes, and more than {MAX_BYTES} are not read")
        data = read_all(descriptor, 0, size)
    try:
        return decoded(data)
    except ValueError as error:
        raise FormatError(f"{path} is not what Hugging Face's datasets write: {error}") from error


def _has_columns(path: str) -> bool:
    info = _json(os.path.join(path, INFO))
    features = info.get("features") if isinstance(info, dict) else None
    return isinstance(features, dict) and features.keys() >= set(WANTED)


def _files(path: str) -> list[str]:
    """The tables, in order. FormatError, NotFoundError: the folder is none of these."""
    if not os.path.lexists(path):
        raise NotFoundError(f"{path} does not exist: check the path")
    where = os.path.join(path, STATE)
    if not os.path.isfile(where):
        raise FormatError(f"{path} holds no {STATE}, as a folder does that imitation saved")
    state = _json(where)
    said = state.get("_data_files") if isinstance(state, dict) else None
    listed = said if isinstance(said, list) else []
    names: list[Any] = [one.get("filename") for one in listed if isinstance(one, dict)]
    if not names or not all(_plain(name) for name in names):
        raise FormatError(f"{where} names no tables that lie in the folder: it is damaged")
    return [os.path.join(path, name) for name in names]


def _plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


# --- what is in the tables


@dataclass
class _Held:
    """What a folder holds, as a look through it has shown."""

    paths: list[str]
    fields: dict[str, Field] = field(default_factory=dict)
    infos: Infos = field(default_factory=Infos)
    steps: int = 0
    trajectories: int = 0
    bare: int = 0
    """Trajectories without a step."""
    unlimited: int = 0
    """Those that are terminal, and nothing says whether that was a time limit."""
    others: set[str] = field(default_factory=set)
    """Further columns."""

    def schema(self) -> Schema:
        """The fields. FormatError: there are no trajectories that would say what they are."""
        flags = {name: Field("bool", (), name) for name in ("terminated", "truncated")}
        return Schema({**self.fields, **flags, **self.infos.fields()})

    def rest(self) -> dict[str, Fate]:
        found = {name: lost("a column that trajectories of imitation do not have") for name in self.others}
        if self.bare:
            found["trajectories"] = lost(f"{self.bare} have no step")
        return found

    def remarks(self) -> list[str]:
        if not self.unlimited:
            return []
        told = "trajectories are terminal, and their infos do not say whether that was a time limit"
        return [f"{self.unlimited} {told}: they are taken for terminated"]

    def blocks(self, most: int) -> Iterator[Block]:
        """All trajectories."""
        schema = self.schema()
        for path in self.paths:
            for rows in _rows(path, list(WANTED) + (["rews"] if "reward" in schema.fields else [])):
                for number in range(len(rows.terminal)):
                    yield from self._blocks_of(rows, number, schema, most)

    def _blocks_of(self, rows: _Rows, number: int, schema: Schema, most: int) -> Iterator[Block]:
        begin, end = rows.steps[number], rows.steps[number + 1]
        first = begin + number  # each trajectory before it has one observation more than steps
        fixed = sum(declared.row_bytes for declared in schema.fields.values())
        texts = (rows.infos.offsets[end] - rows.infos.offsets[begin]) / max(1, end - begin)
        each = max(1, int(most // (fixed + texts)))
        over = time_limit(rows.infos[end - 1]) if end > begin and rows.terminal[number] else None
        for start in range(begin, end, each):
            stop = min(start + each, end)
            columns: dict[str, Any] = {
                name: rows.arrays[key][start + (number if key == "obs" else 0) :][: stop - start]
                for key, name in PLAIN.items()
                if name in schema.fields
            }
            infos = rows.infos[start:stop]
            columns |= self.infos.columns(list(infos), rows.where)
            if TEXTS in schema.fields:
                columns[TEXTS] = infos
            ends = stop == end
            told: dict[str, Any] = {}
            if ends:
                final = rows.arrays["obs"][first + end - begin]
                terminal = bool(rows.terminal[number])
                told = {
                    "final": {"observation": final},
                    "terminated": terminal and not over,
                    "truncated": terminal and bool(over),
                }
            if start == begin:
                told["row"] = {"terminal": rows.terminal[number]}
            yield Block(columns, begins=start == begin, ends=ends, **told)


@dataclass
class _Rows:
    """Some rows of a table: trajectories, one behind another."""

    where: str
    steps: list[int]
    """Where the steps of each begin, and the last one's end."""
    arrays: dict[str, NDArray[Any]]
    infos: Ragged
    terminal: NDArray[np.bool_]


def _rows(path: str, columns: list[str]) -> Iterator[_Rows]:
    """All rows of a table, some at a time. FormatError: it does not fit itself."""
    with opened_table(path) as table:
        if missing := set(columns) - table.types.keys():
            raise FormatError(f"{path} has no column {min(missing)!r}: it is not of trajectories")
        for batch in table.batches(BATCH, columns):
            terminal = numbers(batch["terminal"], f"{path}, 'terminal'")
            if terminal.dtype != np.bool_ or terminal.ndim != 1:
                raise FormatError(f"{path}: 'terminal' is {terminal.dtype}, and no bool")
            offsets, acts = lists(batch["acts"], f"{path}, 'acts'")
            arrays = {"acts": numbers(acts, f"{path}, 'acts'")}
            infos: Any = None
            for name in ("obs", "infos", *(["rews"] if "rews" in columns else [])):
                where = f"{path}, {name!r}"
                found, values = lists(batch[name], where)
                wanted = offsets + (np.arange(len(offsets)) if name == "obs" else 0)
                if not np.array_equal(found, wanted):
                    raise FormatError(
                        f"{where}: there are not as many as there are acts, or one more of obs: it is damaged"
                    )
                if name == "infos":
                    infos = ragged(values, where)
                else:
                    arrays[name] = numbers(values, where)
            if not isinstance(infos, Ragged) or not infos.text:
                raise FormatError(f"{path}: 'infos' are no texts, as jsonpickle writes them")
            yield _Rows(path, offsets.tolist(), arrays, infos, terminal)


def _looked_through(path: str) -> _Held:
    """What a folder holds. FormatError: it is none of trajectories, or they do not fit each other."""
    held = _Held(_files(path))
    for file in held.paths:
        with opened_table(file) as table:
            columns = [*WANTED, *(["rews"] if "rews" in table.types else [])]
            held.others |= table.types.keys() - set(columns)
        for rows in _rows(file, columns):
            _take(held, rows)
    if not held.fields:
        raise FormatError(f"{path} has no trajectories, and so nothing says what they consist of")
    return held


def _take(held: _Held, rows: _Rows) -> None:
    steps = np.array(rows.steps)
    lengths = np.diff(steps)
    held.steps += int(lengths.sum())
    held.trajectories += int((lengths > 0).sum())
    held.bare += int((lengths == 0).sum())
    for number in np.flatnonzero(rows.terminal & (lengths > 0)).tolist():
        held.unlimited += time_limit(rows.infos[rows.steps[number + 1] - 1]) is None
    held.infos.look_at(rows.infos)
    if not lengths.any():
        return
    found = {}
    for key, name in PLAIN.items():
        if key in rows.arrays:
            array = rows.arrays[key]
            role: Any = name
            found[name] = Field(array.dtype, array.shape[1:], role)
    if held.fields and found != held.fields:
        raise FormatError(
            f"{rows.where}: its trajectories have other shapes than those before: it is damaged"
        )
    held.fields = found
