"""The replay buffers of diffusion_policy: a Zarr hierarchy, in a folder or in a zip file (`.zarr.zip`).

| in the file         | in a buffer                                                                         |
|---------------------|-------------------------------------------------------------------------------------|
| data/action         | `action`                                                                            |
| data/reward, …      | `reward`, `terminated`, `truncated`, if they are what these are in a buffer         |
| data/<other>        | `observation/<other>`, a single one `observation`; what is known to be none of the  |
|                     | observations (done, timestamp, …) keeps its name                                    |
| meta/episode_ends   | where trajectories end, neither terminated nor truncated: nobody knows              |
| meta/<other>        | a column of the table, if it has a number for each episode                          |
| replaystore         | what the format has no place for, if we wrote it (shared/zarr/kept.py)              |

A recording that was killed has made its arrays longer, but not said where the episode ends: what episode_ends
does not tell of is left out, and the report says so. Pictures in JPEG 2000 or JPEG XL are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, ReplayStoreError, SchemaError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Fate, Report, lost, refuse_losses
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.kept import Kept
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.shared.new_folder import NewFolder
from replaystore.formats.shared.zarr.kept import NewKept, kept_beside
from replaystore.formats.shared.zarr.tree import ZarrArray, ZarrTree, opened
from replaystore.formats.shared.zarr.writing import FolderSink, NewArray, Sink, ZipSink, put_group
from replaystore.formats.source import Block, Source
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import escape, join_path, split_path
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["DiffusionPolicy"]

DATA, META, ENDS = "data", "meta", "meta/episode_ends"
OWN = {"action": "action", "actions": "action", "reward": "reward", "terminated": "terminated"}
OWN |= {"truncated": "truncated"}
BESIDE = frozenset(
    ("done", "dones", "terminal", "terminals", "terminate", "timeout", "timeouts", "truncate", "success")
) | frozenset(
    (
        "rewards",
        "discount",
        "timestamp",
        "timestamps",
        "episode",
        "episode_index",
        "step",
        "index",
        "n_contacts",
    )
)
"""Keys that are none of the observations."""
FAR = 1 << 22
"""So many rows are not believed without looking whether any of them are stored."""
MOST_ARRAYS_BYTES = 64 << 20
"""Of the chunks of all arrays that are being written."""


class DiffusionPolicy(Format):
    """Such hierarchies, as replaystore knows them."""

    example = "replay_buffer.zarr"
    limits = (
        "final observations, seeds, splits: they lie beside it, where diffusion_policy does not look",
        "steps of no trajectory",
        "values of any length",
    )
    folder = True
    holds = (".z*", "data", "meta", "replaystore")

    def recognizes(self, path: str) -> bool:
        """By its groups, and where episodes end."""
        try:
            with opened(path) as tree:
                return tree.is_group() and tree.is_group(DATA) and tree.is_array(ENDS)
        except (ReplayStoreError, OSError):
            return False

    def read(self, path: str) -> AbstractContextManager[Source]:
        """The episodes, one behind the other."""
        return _read(path)

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """All fields are kept; what there is beside them lies beside them."""
        report = Chosen(buffer, options).report()
        if not report.trajectories:
            report.remarks.append("diffusion_policy itself opens no buffer without episodes")
        return report

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """A zip file if it is called one, otherwise a folder."""
        report, chosen = self.plan(buffer, path, options), Chosen(buffer, options)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        if not path.rstrip("/").endswith(".zip"):
            with NewFolder(path, overwrite=options.overwrite) as folder:
                _fill(FolderSink(folder.root), chosen)
            return report
        with NewFiles([path], overwrite=options.overwrite) as new, closing(ZipSink(new.files[0])) as sink:
            _fill(sink, chosen)
        return report


# --- writing


def _fill(sink: Sink, chosen: Chosen) -> None:
    keys = _keys(chosen.names)
    most = MOST_ARRAYS_BYTES // (2 * len(keys))
    arrays = {}
    for name, key in keys.items():
        declared = chosen.fields[name]
        arrays[name] = NewArray(sink, f"{DATA}/{key}", declared.dtype, declared.shape, chunk_bytes=most)
    put_group(sink, "")
    put_group(sink, DATA)
    put_group(sink, META)
    kept = NewKept(sink, chosen)
    for _, block in chosen.blocks():
        for name, array in arrays.items():
            array.append(block.columns[name])
        kept.add(block)
    last = NewArray(sink, ENDS, np.dtype("<i8"), (), compress=False)
    last.append(np.cumsum(chosen.lengths))
    for array in (*arrays.values(), last):
        array.close()
    kept.close(keys)


def _keys(names: list[str]) -> dict[str, str]:
    """What each field is called in `data`: observations by the rest of their names, others by all of them."""
    found = {}
    for name in names:
        first, *rest = map(escape, split_path(name))
        key = ".".join(rest if first == "observation" and rest else (first, *rest))
        found[name] = "state" if name == "observation" else key
    taken = list(found.values())
    for name, key in found.items():
        if taken.count(key) > 1 or (key in OWN and key != name):
            found[name] = ".".join(map(escape, split_path(name)))
    return found


# --- reading


@contextmanager
def _read(path: str) -> Iterator[Source]:
    with opened(path) as tree:
        if not (tree.is_group() and tree.is_group(DATA) and tree.is_array(ENDS)):
            raise FormatError(
                f"{path} is no replay buffer of diffusion_policy: it has no groups {DATA!r} and "
                f"{META!r} with {ENDS!r}"
            )
        try:
            yield _Contents(tree, path).source()
        except SchemaError as error:
            raise FormatError(f"{path}: {error}") from error


class _Contents:
    """What a hierarchy holds, checked."""

    def __init__(self, tree: ZarrTree, path: str) -> None:
        self.tree, self.path = tree, path
        self.fields: dict[str, Fate] = {}
        self.rest: dict[str, Fate] = {}
        self.remarks: list[str] = []
        arrays = {
            name[len(DATA) + 1 :]: tree.array(name) for name in tree.children(DATA) if tree.is_array(name)
        }
        others = [name for name in tree.children(DATA) if not tree.is_array(name)]
        self.rest |= {name: lost("a group, where an array is expected") for name in others}
        for key in [key for key, array in arrays.items() if not array.full_shape]:
            self.rest[f"{DATA}/{key}"] = lost("it has no row for each step")
            del arrays[key]
        self.stops = self._stops(arrays)
        self.kept: Kept | None = self._found_kept()
        self.arrays = self._named(arrays)

    # --- episodes

    def _stops(self, arrays: dict[str, ZarrArray]) -> NDArray[np.int64]:
        """Where the episodes end that all arrays have; those that do not have most of them leave."""
        told = self.tree.array(ENDS)
        if len(told.full_shape) != 1 or told.dtype.kind not in "iu":
            raise FormatError(f"{told.where}: it is no list of rows: {told.dtype} of shape {told.full_shape}")
        self._check_stored({"": told}, told.count)
        stops = told.read(0, told.count).astype(np.int64)
        used = int(np.flatnonzero(stops)[-1]) + 1 if stops.any() else 0
        if used < len(stops):
            self.remarks.append(
                f"{len(stops) - used} episodes at the end of {ENDS} end at row 0, as one does whose "
                "recording was killed: they were left out"
            )
        stops = stops[:used]
        if len(stops) and (int(stops[0]) < 0 or (np.diff(stops) < 0).any()):
            raise FormatError(f"{told.where}: an episode ends before the one that it follows: it is damaged")
        total = int(stops[-1]) if len(stops) else 0
        longest = max((array.count for array in arrays.values()), default=0)
        kept = _whole(stops, min(total, longest))
        for key in [key for key, array in arrays.items() if _whole(stops, array.count) < kept - 1]:
            self.fields[f"{DATA}/{key}"] = lost(f"it has {arrays[key].count} rows of {total}")
            del arrays[key]
        shortest = min((array.count for array in arrays.values()), default=0)
        self._note_cut(stops, shortest, longest)
        self._check_stored(arrays, min(total, shortest))
        return stops[: _whole(stops, shortest)]

    def _note_cut(self, stops: NDArray[np.int64], shortest: int, longest: int) -> None:
        """What is not whole, and was left out."""
        whole = _whole(stops, shortest)
        last = int(stops[whole - 1]) if whole else 0
        total = int(stops[-1]) if len(stops) else 0
        why = []
        if whole < len(stops):
            why.append(f"{len(stops) - whole} episodes of {total - last} steps, which not all arrays have")
        if longest > total:
            why.append(
                f"{longest - total} rows after the last episode, as a recording leaves them that is killed"
            )
        if why:
            self.rest["steps"] = lost("; ".join(why))

    def _check_stored(self, arrays: Mapping[str, ZarrArray], rows: int) -> None:
        """FormatError: it says that it has so many rows, and hardly any are stored."""
        if rows > FAR and not any(
            self.tree.stored(array.path) * array.chunks[0] >= rows >> 10 for array in arrays.values()
        ):
            raise FormatError(
                f"{self.path} says that it has {rows} rows, and stores hardly any: it is damaged"
            )

    # --- fields

    def _found_kept(self) -> Kept | None:
        found = kept_beside(self.tree, np.diff(self.stops, prepend=0))
        if isinstance(found, str):
            self.remarks.append(found)
            return None
        return found

    def _named(self, arrays: dict[str, ZarrArray]) -> dict[str, tuple[Field, ZarrArray]]:
        """{field: (what it is, its array)}"""
        if self.kept is not None:
            keys, fields = self.kept.places, self.kept.schema.fields
            if (
                isinstance(keys, dict)
                and all(isinstance(key, str) for key in keys.values())
                and keys.keys() == fields.keys()
                and set(keys.values()) == arrays.keys()
            ):
                found = {name: (declared, arrays[keys[name]]) for name, declared in fields.items()}
                if all((one.dtype, one.shape) == (two.dtype, two.shape) for one, two in found.values()):
                    return found
            self.remarks.append("the arrays are not those that replaystore wrote: they are taken as they are")
            self.kept = None
        found = {}
        seen = [key for key in arrays if key not in OWN and key not in BESIDE and "." not in key]
        for key, array in arrays.items():
            name = _name_of(key, array, alone=len(seen) == 1)
            role: Any = name.partition("/")[0]
            role = role if role in (*OWN.values(), "observation", "info") else "extra"
            found[name] = (Field(array.dtype, array.shape, role), array)
        return found

    def source(self) -> Source:
        """All of it."""
        if not self.arrays:
            raise FormatError(f"{self.path}: there is nothing in {DATA!r}")
        kept, lengths = self.kept, np.diff(self.stops, prepend=0)
        if kept is not None:
            source = kept.source(lambda most: (kept.told(*one) for one in self._blocks(most)), self.remarks)
            return replace(source, fields=self.fields, rest=self.rest)
        columns = self._columns()
        if not lengths.all():
            self.remarks.append(f"{int((lengths == 0).sum())} episodes have no steps, and were left out")

        def blocks(most: int) -> Iterator[Block]:
            for block, episode in self._blocks(most):
                row = {name: values[episode] for name, values in columns.items()} if block.begins else {}
                yield replace(block, row=row)

        return Source(
            Schema({name: declared for name, (declared, _) in self.arrays.items()}),
            blocks,
            metadata=self._metadata(),
            columns={name: values.dtype for name, values in columns.items()},
            steps=int(lengths.sum()),
            trajectories=int((lengths > 0).sum()),
            details={"keys": {name: array.path[len(DATA) + 1 :] for name, (_, array) in self.arrays.items()}},
            fields=self.fields,
            rest=self.rest,
            remarks=self.remarks,
        )

    def _metadata(self) -> dict[str, Any] | None:
        found = dict(self.tree.attributes())
        return {"attributes": found} if found else None

    def _columns(self) -> dict[str, NDArray[Any]]:
        """What `meta` has for each episode."""
        found = {}
        for path in self.tree.children(META):
            name = path[len(META) + 1 :]
            if path == ENDS:
                continue
            if not self.tree.is_array(path):
                self.rest[path] = lost("a group, where an array is expected")
                continue
            array = self.tree.array(path)
            if array.full_shape != (len(self.stops),):
                self.rest[path] = lost(f"it is no number for each episode: its shape is {array.full_shape}")
                continue
            name = f"meta_{name}" if name in TRAJECTORIES or name == "open" else name
            found[name] = array.read(0, array.count)
        return found

    # --- steps

    def _blocks(self, most: int) -> Iterator[tuple[Block, int]]:
        """All steps, and of which episodes they are."""
        arrays = {name: array for name, (_, array) in self.arrays.items()}
        step = max(1, most // max(1, sum(array.row_bytes for array in arrays.values())))
        total = int(self.stops[-1]) if len(self.stops) else 0
        begins = np.concatenate([[0], self.stops])
        for start in range(0, total, step):
            stop = min(total, start + step)
            rows = {name: array.read(start, stop) for name, array in arrays.items()}
            first = int(np.searchsorted(self.stops, start, side="right"))
            last = int(np.searchsorted(self.stops, stop, side="left"))
            for episode in range(first, last + 1):
                begin, end = int(begins[episode]), int(self.stops[episode])
                if begin == end:
                    continue
                low, high = max(begin, start), min(end, stop)
                block = {name: values[low - start : high - start] for name, values in rows.items()}
                yield Block(block, begins=low == begin, ends=high == end), episode


def _whole(stops: NDArray[np.int64], rows: int) -> int:
    """How many episodes lie in so many rows."""
    return int(np.searchsorted(stops, rows, side="right"))


def _name_of(key: str, array: ZarrArray, *, alone: bool) -> str:
    """What an array of `data` is called in a buffer. `alone`: it is the only observation, if it is one."""
    own = OWN.get(key)
    if own in ("action", "reward"):
        return own
    if own is not None:
        return own if array.dtype == np.bool_ and not array.shape else join_path(DATA, key)
    if key in BESIDE:
        return join_path(key)
    first, *rest = key.split(".")
    if first in ("action", "info", "observation") and rest:
        return join_path(first, *rest)
    return "observation" if alone else join_path("observation", key)
