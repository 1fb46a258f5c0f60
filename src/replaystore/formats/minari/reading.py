"""The trajectories of a dataset, in blocks: many short episodes are read at once and cut apart, long ones in
slices.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.minari.beside import FILE as BESIDE
from replaystore.formats.minari.beside import Beside
from replaystore.formats.minari.columns import Column, Columns, columns_of, known_shapes
from replaystore.formats.minari.episodes import Episodes
from replaystore.formats.minari.images import decoded
from replaystore.formats.minari.metadata import MAIN, Metadata
from replaystore.formats.report import Fate, changed, lost
from replaystore.formats.source import Block, Source
from replaystore.schema.ragged import Ragged
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["read"]

DERIVED = frozenset(
    ["id", "total_steps", *(f"rewards_{name}" for name in ("sum", "mean", "std", "max", "min"))]
)
"""Attributes of episodes that follow from their steps."""
RESERVED = frozenset([*TRAJECTORIES, "open"])
MOST_EPISODES = 4096
"""In one run."""
WINDOW = 1 << 16
"""Steps whose values' lengths are looked at together."""


@contextmanager
def read(path: str) -> Iterator[Source]:
    """A dataset while it is open. NotFoundError, StorageError; FormatError: it is something else, or
    damaged."""
    metadata = Metadata.read(path)
    beside = Beside.read(metadata.folder)
    with _opened(metadata, beside) as episodes:
        yield _source(metadata, beside, episodes)


@contextmanager
def _opened(metadata: Metadata, beside: Beside | None) -> Iterator[Episodes]:
    if metadata.container == "hdf5":
        from replaystore.formats.minari.hdf5_reading import opened_episodes

        main = os.path.join(metadata.folder, MAIN)
        if os.path.isfile(main) and not os.path.getsize(main) and not metadata.count("total_episodes"):
            yield _NoEpisodes()
            return
        with opened_episodes(main) as episodes:
            yield episodes
        return
    from replaystore.formats.minari.arrow_reading import ArrowEpisodes

    shapes, longer = known_shapes(metadata, beside)
    yield ArrowEpisodes(metadata.folder, metadata.container, shapes, longer)


class _NoEpisodes:
    """Those of a dataset to which none was added."""

    count = 0
    leaves: Mapping[str, Any] = {}
    attributes: Mapping[str, Any] = {}

    def whole(self, path: str, begin: int, end: int) -> Any:
        """There is none."""
        raise KeyError(path)

    def part(self, path: str, episode: int, start: int, stop: int) -> Any:
        """There is none."""
        raise KeyError(path)

    def sizes(self, path: str, episode: int, start: int, stop: int) -> Any:
        """There is none."""
        raise KeyError(path)


@dataclass
class _Table:
    """What is known of each episode."""

    seed: NDArray[np.int64]
    env: NDArray[np.int64]
    split: list[str]
    known: NDArray[np.bool_]
    """Whether the observation after its last step is one."""
    columns: dict[str, NDArray[Any]]


def _source(metadata: Metadata, beside: Beside | None, episodes: Episodes) -> Source:
    where, remarks = metadata.folder, list[str]()
    columns = columns_of(metadata, beside, episodes, where)
    if beside is not None and not np.array_equal(beside.lengths, columns.lengths):
        remarks.append(
            f"{BESIDE} is about other episodes than there are: what it says of trajectories is left out"
        )
        beside.resets.clear()
    told = beside if not remarks else None
    fates = dict(columns.rest)
    table = _table(told, columns, episodes, fates)
    environment, some = metadata.environment()
    user, more = metadata.user()
    if beside is not None:
        environment, user, some, more = beside.environment, beside.metadata, {}, {}
    _compare_counts(metadata, columns, remarks)
    if any(column.image for column in columns.columns):
        remarks.append("images are stored as JPEG, which is not exact: they are as they are decoded here")
    empty = int((columns.lengths == 0).sum())
    if empty:
        fates["trajectories"] = lost(f"{empty} episodes have no steps")
    reader = _Reader(episodes, columns, table)
    return Source(
        columns.schema,
        reader.blocks,
        environment=environment,
        metadata=user or None,
        splits=[name for name in (beside.splits if beside is not None else []) if name],
        columns={name: values.dtype for name, values in table.columns.items()} | reader.reset_dtypes(),
        steps=int(columns.lengths.sum()),
        trajectories=len(columns.lengths) - empty,
        details={"container": metadata.container},
        fields=columns.fields,
        rest={**fates, **some, **more},
        remarks=remarks,
    )


def _compare_counts(metadata: Metadata, columns: Columns, remarks: list[str]) -> None:
    for key, there in (("total_episodes", len(columns.lengths)), ("total_steps", int(columns.lengths.sum()))):
        said = metadata.count(key)
        if said is not None and said != there:
            remarks.append(f"its metadata say that {key} is {said}, and there are {there}, which are read")


def _table(beside: Beside | None, columns: Columns, episodes: Episodes, fates: dict[str, Fate]) -> _Table:
    count = len(columns.lengths)
    seed = _seeds(episodes, count, fates)
    if beside is not None:
        split = [beside.splits[at] for at in beside.columns["split"].tolist()]
        own = {
            name.removeprefix("user/"): values
            for name, values in beside.columns.items()
            if name.startswith("user/")
        }
        return _Table(seed, beside.columns["env"], split, beside.columns["known"], own)
    own = {}
    for name, attribute in episodes.attributes.items():
        if name in DERIVED or name == "seed" or not count:
            continue
        if name in RESERVED:
            fates[name] = lost("a column of every buffer has this name")
        elif attribute.values is None or attribute.values.dtype.kind not in "biuf":
            fates[name] = lost("columns of trajectories are numbers of one dtype")
        elif attribute.there.all():
            own[name] = attribute.values
        elif attribute.values.dtype.kind == "f":
            own[name] = np.where(attribute.there, attribute.values, np.nan).astype(attribute.values.dtype)
        else:
            fates[name] = lost("some episodes have none")
    return _Table(seed, np.zeros(count, np.int64), [""] * count, np.ones(count, np.bool_), own)


def _seeds(episodes: Episodes, count: int, fates: dict[str, Fate]) -> NDArray[np.int64]:
    known = episodes.attributes.get("seed")
    found = np.full(count, -1, np.int64)
    if known is None or not count:
        return found
    if known.values is None or known.values.dtype.kind not in "iuO":
        fates["seed"] = lost("seeds are whole numbers")
        return found
    values = known.values.astype(object) if known.values.dtype.kind == "O" else known.values
    fits = known.there & (values >= 0) & (values <= np.iinfo(np.int64).max)
    found[fits] = values[fits].astype(np.int64)
    left = int((known.there & ~fits).sum())
    if left:
        fates["seed"] = changed(f"{left} are not below 2**63, and are left out")
    return found


class _Reader:
    """Blocks of the steps of all episodes."""

    def __init__(self, episodes: Episodes, columns: Columns, table: _Table) -> None:
        self.episodes, self.columns, self.table = episodes, columns, table
        self.flags: Mapping[str, str] = columns.flags
        leaves = episodes.leaves
        self.of_any_length = [c for c in columns.columns if leaves[c.path].kind != "numbers" or c.image]
        self.width = max(1, sum(c.field.row_bytes for c in columns.columns))

    def reset_dtypes(self) -> dict[str, Any]:
        """Of the columns that are first rows of infos."""
        return {name: self.episodes.leaves[path].dtype for name, path in self.columns.resets.items()}

    def blocks(self, max_bytes: int) -> Iterator[Block]:
        """All steps."""
        lengths = self.columns.lengths
        most = max(1, max_bytes // self.width)
        begin, count = 0, len(lengths)
        ends = np.cumsum(lengths)
        while begin < count:
            before = int(ends[begin - 1]) if begin else 0
            end = int(np.searchsorted(ends, before + most, side="right"))
            end = min(end, begin + MOST_EPISODES)
            if end > begin and not self.of_any_length:
                yield from self._run(begin, end)
            else:
                end = begin + 1
                yield from self._long(begin, max_bytes)
            begin = end

    # --- many short ones

    def _run(self, begin: int, end: int) -> Iterator[Block]:
        lengths = self.columns.lengths[begin:end].tolist()
        read = {c.name: self.episodes.whole(c.path, begin, end) for c in self.columns.columns}
        flags = {name: self.episodes.whole(path, begin, end) for name, path in self.flags.items()}
        resets = {name: self.episodes.whole(path, begin, end) for name, path in self.columns.resets.items()}
        plain = [(c.name, read[c.name]) for c in self.columns.columns if not (c.final or c.shift)]
        longer = [
            (c.name, read[c.name], c.shift, c.final) for c in self.columns.columns if c.final or c.shift
        ]
        at = 0
        for place, count in enumerate(lengths):
            episode, stop, more = begin + place, at + count, at + place
            if count:
                cut = {name: rows[at:stop] for name, rows in plain}
                final = {}
                for name, rows, shift, last in longer:
                    cut[name] = rows[more + shift : more + shift + count]
                    if last:
                        final[name] = rows[more + count]
                row = {name: rows[more] for name, rows in resets.items()}
                ends = {name: bool(rows[stop - 1]) for name, rows in flags.items()}
                yield self._block(episode, cut, final or None, ends, row)
            at = stop

    def _block(
        self,
        episode: int,
        columns: dict[str, Any],
        final: dict[str, Any] | None,
        flags: dict[str, bool],
        row: dict[str, Any],
    ) -> Block:
        """A whole episode."""
        table = self.table
        for name, values in table.columns.items():
            row[name] = values[episode]
        return Block(
            self._in_order(columns),
            env=int(table.env[episode]),
            seed=int(table.seed[episode]),
            split=table.split[episode],
            row=row,
            final=final if table.known[episode] else None,
            **flags,
        )

    def _in_order(self, columns: dict[str, Any]) -> dict[str, Any]:
        return {name: columns[name] for name in self.columns.schema.fields}

    # --- long ones, and those with values of any length

    def _long(self, episode: int, max_bytes: int) -> Iterator[Block]:
        count = int(self.columns.lengths[episode])
        final: dict[str, Any] | None = None
        for start, stop in self._slices(episode, count, max_bytes):
            columns = {c.name: self._rows(c, episode, start, stop) for c in self.columns.columns}
            first, last = start == 0, stop == count
            known: dict[str, Any] = {}
            if first:
                row = {name: values[episode] for name, values in self.table.columns.items()}
                for name, path in self.columns.resets.items():
                    row[name] = self.episodes.part(path, episode, 0, 1)[0]
                known = {
                    "seed": int(self.table.seed[episode]),
                    "split": self.table.split[episode],
                    "row": row,
                }
            if last:
                final = self._final(episode, count)
                known |= {
                    name: bool(self.episodes.part(path, episode, count - 1, count)[0])
                    for name, path in self.flags.items()
                }
            env = int(self.table.env[episode])
            yield Block(columns, env=env, begins=first, ends=last, final=final if last else None, **known)

    def _final(self, episode: int, count: int) -> dict[str, Any] | None:
        if not self.table.known[episode]:
            return None
        found = {}
        for column in self.columns.columns:
            if column.final:
                rows = self._rows(column, episode, count, count + 1)
                found[column.name] = rows.named if isinstance(rows, Ragged) else rows[0]
        return found or None

    def _slices(self, episode: int, count: int, max_bytes: int) -> Iterator[tuple[int, int]]:
        """From where to where about so many bytes go."""
        if not self.of_any_length:
            step = max(1, max_bytes // self.width)
            yield from ((start, min(count, start + step)) for start in range(0, count, step))
            return
        for low in range(0, count, WINDOW):
            sizes = self._sizes(episode, low, min(count, low + WINDOW))
            ends, done = np.cumsum(sizes), 0
            while done < len(ends):
                before = int(ends[done - 1]) if done else 0
                until = max(done + 1, int(np.searchsorted(ends, before + max_bytes, side="right")))
                yield low + done, low + until
                done = until

    def _sizes(self, episode: int, start: int, stop: int) -> NDArray[np.int64]:
        """How many bytes each of some steps takes."""
        sizes = np.full(stop - start, self.width, np.int64)
        for column in self.of_any_length:
            path = column.also if self._also(column, episode) else column.path
            if not column.image:
                sizes += self.episodes.sizes(path, episode, start + column.shift, stop + column.shift)
        return sizes

    def _also(self, column: Column, episode: int) -> bool:
        """Whether the texts of an episode lie as bytes, too."""
        return bool(column.also) and int(self.episodes.leaves[column.also].rows[episode]) >= 0

    def _rows(self, column: Column, episode: int, start: int, stop: int) -> Any:
        """Rows of a field. FormatError: they are damaged."""
        start, stop = start + column.shift, stop + column.shift
        if self._also(column, episode):
            return _typed(column, self.episodes.part(column.also, episode, start, stop), column.also)
        rows = self.episodes.part(column.path, episode, start, stop)
        if column.image:
            return decoded(rows, column.field.shape, column.path)
        return _typed(column, rows, column.path) if column.encoded else rows


def _typed(column: Column, rows: Ragged, path: str) -> Any:
    """Values of their bytes. FormatError: they are of other lengths."""
    known = column.field
    shape = known.inner if known.ragged else known.shape
    width, offsets = known.dtype.itemsize * math.prod(shape), np.asarray(rows.offsets)
    lengths = np.diff(offsets)
    if (lengths % width).any() or (not known.ragged and (lengths != width).any()):
        raise FormatError(f"{path}: values of {width} bytes have other lengths: it is damaged")
    data = np.ascontiguousarray(rows.named).view(known.dtype).reshape(-1, *shape)
    if not known.ragged:
        return data
    return Ragged(data, (offsets - offsets[0]) // width, text=known.text)
