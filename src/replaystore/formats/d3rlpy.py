"""The HDF5 files of d3rlpy: `ReplayBuffer.dump` of version 2, four datasets an episode.

| in the file            | in a buffer                                                                    |
|------------------------|--------------------------------------------------------------------------------|
| observations_<i>       | `observation`; observations_<i>_<j> are a Tuple of them                        |
| actions_<i>            | `action`                                                                       |
| rewards_<i>            | `reward`, one number a step                                                    |
| terminated_<i>         | `terminated` at the last step; an episode that is not may have been truncated, |
|                        | or cut off: it has neither flag                                                |

d3rlpy does not store what was observed after the last step, and loses the last transition of an episode that
was not terminated. That, and all else that it has no place for, lies in the group `replaystore`, at which
d3rlpy does not look: further fields, row by row, and final observations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, UnsupportedError
from replaystore.formats.report import Report
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.names import own_name
from replaystore.formats.shared.flat.writing import path_of
from replaystore.formats.shared.hdf5.columns import fits
from replaystore.formats.shared.hdf5.format import Hdf5Format
from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.hdf5.kept import kept_in, put_kept
from replaystore.formats.shared.hdf5.writing import NewGroup, NewRows
from replaystore.formats.shared.kept import Kept
from replaystore.formats.source import Block, Source
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema

__all__ = ["D3rlpy"]

KEPT_IN = "replaystore"
COLUMNS = ("observations", "actions", "rewards", "terminated")
VERSION, VERSIONS = "2.1", ("2.0", "2.1")
NAMES = {"observations": "observation", "actions": "action", "rewards": "reward"}
MOST_ITEMS = 256
"""Of a Tuple."""


class D3rlpy(Hdf5Format):
    """The format, as `replaystore.formats` knows it."""

    example = "dataset.h5"
    limits = (*Hdf5Format.limits, "buffers without actions")

    def source(self, held: Group, path: str) -> Source:
        return _Episodes(held, path).source()

    def is_one(self, held: Group) -> bool:
        return all(held.may_have(name) for name in ("columns", "num_episodes", "version"))

    def told(self, chosen: Chosen, path: str) -> Report:
        if not chosen.schema.names("action") or not chosen.observations():
            raise UnsupportedError(
                f"{path}: d3rlpy's episodes have observations and actions: choose another format"
            )
        report = chosen.report()
        if not chosen.schema.names("reward"):
            report.remarks.append("there are no rewards: d3rlpy sees zeros")
        if len(chosen.schema.names("action")) > 1:
            report.remarks.append("d3rlpy sees the actions side by side, as one array")
        if len(chosen.schema.names("reward")) > 1:
            report.remarks.append("d3rlpy sees the first of the rewards")
        if "observation" not in chosen.fields:
            report.remarks.append("d3rlpy sees the arrays of an observation as a tuple of them")
        return report

    def put(self, root: NewGroup, chosen: Chosen) -> None:
        _fill(root, chosen)


# --- reading


class _Episodes:
    """The episodes of a file."""

    def __init__(self, root: Group, path: str) -> None:
        self._root, self._path = root, path
        version = (root.dataset("version").texts() or [""])[0]
        if version not in VERSIONS:
            raise FormatError(
                f"{path} is of version {version!r:.20} of d3rlpy's files, and {VERSIONS} are known"
            )
        self._columns = root.dataset("columns").texts()
        count = root.dataset("num_episodes").read()
        if count.shape != () or count.dtype.kind not in "iu" or not 0 <= int(count) <= len(root):
            raise FormatError(f"{path}: num_episodes is no number of the episodes in it: the file is damaged")
        self._count = int(count)
        if set(COLUMNS) - set(self._columns):
            raise FormatError(
                f"{path}: its columns are {self._columns!r:.80}, and some of {COLUMNS} are missing"
            )
        self._remarks: list[str] = []
        self._kept = kept_in(root, KEPT_IN)

    def source(self) -> Source:
        kept = self._kept
        if kept is not None:
            found = self._as_kept(kept)
            if found is not None:
                return found
            self._remarks.append("it was changed by other software: what was kept beside it is left out")
        if not self._count:
            raise FormatError(f"{self._path} has no episodes in it")
        places = self._places()
        fields = {}
        for name, (column, item) in places.items():
            rows = self._rows(column, 0, item)
            shape = () if name == "reward" and rows.shape[1:] == (1,) else rows.shape[1:]
            top = name.partition("/")[0]
            role = top if top in ("observation", "action", "reward") else "extra"
            fields[name] = Field(rows.dtype, shape, role)  # type: ignore[arg-type]
        fields["terminated"] = Field(np.bool_, (), "terminated")
        tuples = frozenset({"observation"}) if "observation/0" in fields else frozenset[str]()
        schema = Schema(fields, tuples)
        return Source(schema, lambda most: self._blocks(most, places, schema), remarks=self._remarks)

    def _rows(self, column: str, number: int, item: int | None) -> Dataset:
        name = f"{column}_{number}" if item is None else f"{column}_{number}_{item}"
        rows = self._root.dataset(name)
        if rows.kind != "numbers":
            raise FormatError(f"{rows.where} has no numbers: the file is damaged")
        return rows

    def _places(self) -> dict[str, tuple[str, int | None]]:
        """Of each field the column, and the item of its tuples."""
        found: dict[str, tuple[str, int | None]] = {}
        for column in self._columns:
            if column == "terminated":
                continue
            name = NAMES.get(column) or own_name(column)
            if f"{column}_0" in self._root:
                found[name] = (column, None)
                continue
            for item in range(MOST_ITEMS):
                if f"{column}_0_{item}" not in self._root:
                    break
                found[f"{name}/{item}"] = (column, item)
        return found

    def _blocks(
        self, max_bytes: int, places: Mapping[str, tuple[str, int | None]], schema: Schema
    ) -> Iterator[Block]:
        width = sum(declared.row_bytes for declared in schema.fields.values())
        step = max(1, max_bytes // max(1, width))
        for number in range(self._count):
            arrays = {name: self._rows(*(place[0], number, place[1])) for name, place in places.items()}
            count = next(iter(arrays.values())).rows
            for name, rows in arrays.items():
                declared = schema.fields[name]
                if rows.rows != count or rows.dtype != declared.dtype:
                    raise FormatError(
                        f"{rows.where} has {rows.rows} rows of {rows.dtype}, where there should be "
                        f"{count} of "
                        f"{declared.dtype}"
                    )
            terminated = bool(self._root.dataset(f"terminated_{number}").read().any())
            for start in range(0, count, step):
                stop = min(start + step, count)
                columns = {
                    name: rows.read(start, stop).reshape(stop - start, *schema.fields[name].shape)
                    if _same(rows.shape[1:], schema.fields[name].shape)
                    else self._refuse(rows)
                    for name, rows in arrays.items()
                }
                ends = stop == count
                yield Block(
                    columns, begins=not start, ends=ends, terminated=terminated and ends, truncated=False
                )

    def _refuse(self, rows: Dataset) -> NDArray[Any]:
        raise FormatError(
            f"{rows.where} has rows of shape {rows.shape[1:]}, and those of other episodes differ"
        )

    # --- what we wrote

    def _as_kept(self, kept: Kept) -> Source | None:
        """What was written by replaystore, exactly; None: it was changed."""
        if len(kept) != self._count:
            return None
        flat: dict[str, Dataset] = {}
        finals: dict[str, Dataset] = {}
        ended = int((kept.final >= 0).sum())
        for name, declared in kept.schema.fields.items():
            place = kept.places[name]
            if place.startswith(KEPT_IN + "/"):
                rows = self._root.get(place)
                if not isinstance(rows, Dataset) or not fits(
                    rows, kept.steps, declared.dtype, declared.shape
                ):
                    return None
                flat[name] = rows
            if declared.role == "observation":
                rows = self._root.get(f"{KEPT_IN}/final/{len(finals)}")
                if not isinstance(rows, Dataset) or not fits(rows, ended, declared.dtype, declared.shape):
                    return None
                finals[name] = rows
        kept.finals = finals
        return kept.source(lambda most: self._kept_blocks(most, kept, flat))

    def _kept_blocks(self, max_bytes: int, kept: Kept, flat: Mapping[str, Dataset]) -> Iterator[Block]:
        fields = kept.schema.fields
        width = sum(declared.row_bytes for declared in fields.values())
        step = max(1, max_bytes // max(1, width))
        beside, row = _Ahead(flat, step), 0
        for number, count in enumerate(kept.length.tolist()):
            own: dict[str, Dataset] = {}
            for name in fields.keys() - flat.keys():
                column, _, item = kept.places[name].partition(".")
                own[name] = self._rows(column, number, int(item) if item else None)
                if own[name].rows != count or own[name].dtype != fields[name].dtype:
                    raise FormatError(f"{own[name].where} has not {count} rows of {fields[name].dtype}")
            for start in range(0, count, step):
                stop = min(start + step, count)
                columns = {
                    name: rows.read(start, stop).reshape(stop - start, *fields[name].shape)
                    if _same(rows.shape[1:], fields[name].shape)
                    else self._refuse(rows)
                    for name, rows in own.items()
                } | beside.rows(row + start, row + stop)
                yield kept.told(Block(columns, begins=not start, ends=stop == count), number)
            row += count


def _same(stored: tuple[int, ...], shape: tuple[Any, ...]) -> bool:
    """Whether rows of one shape are those of the other, but that single numbers may be rows of one."""
    return stored == shape or (stored == (1,) and shape == ())


class _Ahead:
    """Rows of several datasets, read in runs from which small slices are cut."""

    def __init__(self, datasets: Mapping[str, Dataset], step: int) -> None:
        self._datasets, self._step, self._start = datasets, step, 0
        self._rows: dict[str, NDArray[Any]] = {}
        self._stop = 0

    def rows(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """Rows [start, stop); asked for in order."""
        if not self._datasets:
            return {}
        if stop > self._stop:
            self._start, self._stop = start, max(stop, start + self._step)
            self._rows = {name: rows.read(start, self._stop) for name, rows in self._datasets.items()}
        low, high = start - self._start, stop - self._start
        return {name: rows[low:high] for name, rows in self._rows.items()}


# --- writing


def _fill(root: NewGroup, chosen: Chosen) -> None:
    places = _places(chosen)
    root.texts("columns", COLUMNS)
    root.values("num_episodes", np.array(len(chosen.table), np.int64))
    beside = {
        name: root.rows(place, chosen.fields[name].dtype, chosen.fields[name].shape, chosen.steps)
        for name, place in places.items()
        if place.startswith(KEPT_IN + "/")
    }
    finals = {}
    for number, name in enumerate(chosen.observations()):
        place, declared = f"{KEPT_IN}/final/{number}", chosen.fields[name]
        finals[name] = root.rows(place, declared.dtype, declared.shape, None, about=len(chosen.table))
    episode: _NewEpisode | None = None
    for number, block in chosen.blocks():
        if block.begins or episode is None:
            episode = _NewEpisode(root, chosen, places, number)
        episode.add(block)
        for name, target in beside.items():
            target.append(block.columns[name])
        if block.ends:
            episode.finish(terminated=bool(block.terminated))
            for name, target in finals.items():
                if block.final:
                    target.append(np.asarray(block.final[name], target.dtype)[None])
    root.text("version", VERSION)
    put_kept(root.group(KEPT_IN), chosen.kept(places))


def _places(chosen: Chosen) -> dict[str, str]:
    """Of each field its column, with the item of a tuple behind a dot; or where it lies beside them."""
    observed, acted, rewarded = (chosen.schema.names(role) for role in ("observation", "action", "reward"))
    places: dict[str, str] = {}
    for item, name in enumerate(observed):
        places[name] = "observations" if observed == ("observation",) else f"observations.{item}"
    if len(acted) == 1:
        places[acted[0]] = "actions"
    if len(rewarded) == 1:
        places[rewarded[0]] = "rewards"
    taken: set[str] = set()
    for name in chosen.names:
        if name not in places:
            path = path_of(name, taken, {})
            taken.add(path)
            places[name] = f"{KEPT_IN}/fields/{path}"
    return places


class _NewEpisode:
    """An episode that is written."""

    def __init__(self, root: NewGroup, chosen: Chosen, places: Mapping[str, str], number: int) -> None:
        self._root, self._number = root, number
        self._count = int(chosen.lengths[number])
        self._rows: dict[str, NewRows] = {}
        for name, place in places.items():
            if not place.startswith(KEPT_IN + "/"):
                column, _, item = place.partition(".")
                declared = chosen.fields[name]
                path = f"{column}_{number}" + (f"_{item}" if item else "")
                self._rows[name] = root.rows(path, declared.dtype, declared.shape or (1,), self._count)
        self._acted = chosen.schema.names("action")
        self._joined = self._rewards = None
        if len(self._acted) > 1:
            dtype = np.result_type(*(chosen.fields[name].dtype for name in self._acted))
            width = sum(int(np.prod(chosen.fields[name].shape)) for name in self._acted)
            self._joined = root.rows(f"actions_{number}", dtype, (width,), self._count)
        self._rewarded = chosen.schema.names("reward")
        if len(self._rewarded) != 1:
            self._rewards = root.rows(f"rewards_{number}", np.dtype(np.float32), (1,), self._count)

    def add(self, block: Block) -> None:
        """The next steps."""
        for name, target in self._rows.items():
            target.append(block.columns[name].reshape(-1, *target.shape))
        if self._joined is not None:
            parts = [block.columns[name].reshape(len(block), -1) for name in self._acted]
            with np.errstate(invalid="ignore"):  # a NaN that signals becomes one that does not
                joined = np.concatenate(parts, axis=1).astype(self._joined.dtype, copy=False)
            self._joined.append(joined)
        if self._rewards is not None:
            values = np.zeros((len(block), 1), np.float32)
            if self._rewarded:
                first = block.columns[self._rewarded[0]].reshape(len(block), -1)
                with np.errstate(all="ignore"):  # what is beyond float32 becomes infinite
                    values = first[:, :1].astype(np.float32)
            self._rewards.append(values)

    def finish(self, *, terminated: bool) -> None:
        """All steps were given."""
        self._root.values(f"terminated_{self._number}", np.array(terminated))
        rows = [*self._rows.values(), self._joined, self._rewards]
        self._root.finish([one for one in rows if one is not None])
