"""Which fields a dataset has, where their values lie in its episodes, and what cannot be read of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as made

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.minari.beside import GROUP, Beside
from replaystore.formats.minari.episodes import Episodes, Leaf
from replaystore.formats.minari.metadata import Metadata
from replaystore.formats.minari.spaces import is_image
from replaystore.formats.report import Fate, changed, lost
from replaystore.formats.shared.spaces import Space, declared
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import check_name, join_path, split_path
from replaystore.schema.roles import FLAGS
from replaystore.schema.spaces import DTYPES

__all__ = ["Column", "Columns", "columns_of", "known_shapes"]

ROLES = {"observation": "observations", "action": "actions"}
PLAIN = {"reward": "rewards", "terminated": "terminations", "truncated": "truncations"}
ITEM = {"hdf5": "_index_", "arrow": "", "parquet": ""}
"""What comes before the number of an item of a tuple."""


@dataclass(frozen=True)
class Column:
    """A field, and where it lies."""

    name: str
    field: Field
    path: str
    final: bool = False
    """Whether a row after the last step's is the observation after it."""
    shift: int = 0
    """So many rows come before that of the first step, which are no step's."""
    image: bool = False
    """Whether values are JPEG images."""
    encoded: bool = False
    """Whether values are bytes of arrays of any length."""
    also: str = ""
    """Of texts: where they lie as bytes, in some episodes."""


@dataclass
class Columns:
    """All of them."""

    schema: Schema
    columns: list[Column]
    lengths: NDArray[np.int64]
    """How many steps each episode has."""
    flags: dict[str, str]
    """Where the flags lie that are no fields."""
    resets: dict[str, str] = made(default_factory=dict)
    """Columns of trajectories that are the first rows of infos: where they lie."""
    fields: dict[str, Fate] = made(default_factory=dict)
    rest: dict[str, Fate] = made(default_factory=dict)


def path_of(name: str, tuples: Collection[str], container: str) -> str:
    """Where a field of observations or actions lies, as its name says."""
    first, *parts = name.split("/")
    found = [ROLES[first]]
    for place, part in enumerate(parts):
        above = "/".join([first, *parts[:place]])
        key = split_path(part)[0]
        if container != "hdf5":
            key = key.replace("/", "%2F")
        found.append(f"{ITEM[container]}{part}" if above in tuples else key)
    return "/".join(found)


def known_shapes(metadata: Metadata, beside: Beside | None) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """The shapes of values that are told of, by where they lie; and what has a row more than there are
    steps."""
    shapes: dict[str, tuple[int, ...]] = {}
    longer: set[str] = set()
    if beside is not None:
        for name, field in beside.schema.fields.items():
            if not field.ragged:
                shapes[beside.places[name].path] = field.shape
            if field.role == "observation":
                longer.add(beside.places[name].path)
        return shapes, longer
    for role, space in (("observation", metadata.observation), ("action", metadata.action)):
        fields, tuples = ({}, frozenset[str]()) if space is None else declared(space, role)
        for name, field in fields.items():
            if not field.ragged:
                shapes[path_of(name, tuples, metadata.container)] = field.shape
    return shapes, longer


def columns_of(metadata: Metadata, beside: Beside | None, episodes: Episodes, where: str) -> Columns:
    """What a dataset has. FormatError: it is none of Minari, or damaged."""
    if not episodes.count:
        return _without_episodes(metadata, beside)
    leaves = episodes.leaves
    lengths = _steps(leaves, where)
    builder = _Builder(metadata, beside, leaves, lengths, where)
    if beside is not None:
        builder.add_told(beside)
    else:
        builder.add_observed("observation", metadata.observation)
        builder.add_observed("action", metadata.action)
        for name, path in PLAIN.items():
            known = Field(leaves[path].dtype, leaves[path].row, name)  # type: ignore[arg-type]
            builder.add(Column(name, known, path))
        builder.add_infos()
    return builder.built(lengths)


def _without_episodes(metadata: Metadata, beside: Beside | None) -> Columns:
    nothing = np.zeros(0, np.int64)
    if beside is not None:
        schema = beside.schema
    else:
        fields: dict[str, Field] = {}
        tuples: set[str] = set()
        for role, space in (("observation", metadata.observation), ("action", metadata.action)):
            if space is not None:
                some, more = declared(space, role)
                fields, tuples = fields | some, tuples | more
        flags: dict[str, Field] = {name: Field("bool", (), name) for name in FLAGS}
        reward = {"reward": Field("float64", (), "reward")}
        schema = Schema(fields | reward | flags, frozenset(tuples))
    return Columns(schema, [], nothing, {})


def _steps(leaves: Mapping[str, Leaf], where: str) -> NDArray[np.int64]:
    for path in PLAIN.values():
        leaf = leaves.get(path)
        if leaf is None or (leaf.rows < 0).any():
            episode = "" if leaf is None else f" in episode {int(np.flatnonzero(leaf.rows < 0)[0])}"
            raise FormatError(f"{where}: there are no {path}{episode}: it is none of Minari, or damaged")
        if leaf.mixed or leaf.kind != "numbers":
            raise FormatError(f"{where}: the {path} cannot be read: {leaf.mixed or f'they are {leaf.kind}'}")
        if path != "rewards" and (leaf.dtype != np.bool_ or leaf.row):
            raise FormatError(f"{where}: {path} are one bool for each step, not {leaf.dtype} of {leaf.row}")
    lengths = leaves["rewards"].rows
    for path in PLAIN.values():
        wrong = np.flatnonzero(leaves[path].rows != lengths)
        if len(wrong):
            raise FormatError(
                f"{where}: episode {int(wrong[0])} has {int(lengths[wrong[0]])} rewards and "
                f"{int(leaves[path].rows[wrong[0]])} {path}: it is damaged"
            )
    return lengths


class _Builder:
    def __init__(
        self,
        metadata: Metadata,
        beside: Beside | None,
        leaves: Mapping[str, Leaf],
        lengths: NDArray[np.int64],
        where: str,
    ) -> None:
        self.metadata, self.leaves, self.lengths, self.where = metadata, leaves, lengths, where
        self.columns: list[Column] = []
        self.tuples: set[str] = set()
        self.graphs: frozenset[str] = frozenset()
        self.flags = dict(PLAIN)
        self.resets: dict[str, str] = {}
        self.fields: dict[str, Fate] = {}
        self.rest: dict[str, Fate] = {}
        self.known = [] if beside is None else [GROUP]
        """Groups of which nothing more is to be said."""

    # --- as Minari has them

    def add_observed(self, role: str, space: Space | None) -> None:
        """The fields of observations or actions."""
        if space is None:
            self._add_below(role, ROLES[role])
            return
        fields, tuples = declared(space, role)
        self.tuples |= tuples
        for name, known in fields.items():
            self._add_leaf(role, name, known, path_of(name, self.tuples, self.metadata.container))

    def _add_leaf(self, role: str, name: str, known: Field, path: str) -> None:
        leaf = self._leaf(path)
        final = role == "observation"
        space = known.space
        if space is not None and self.metadata.jpeg and is_image(space):
            if leaf.kind not in ("arrays", "numbers") or leaf.dtype != np.uint8:
                raise FormatError(f"{self.where}: {path} are no JPEG images, and should be: it is damaged")
            self.add(Column(name, known, path, final=final, image=True))
        elif known.text:
            self.add(Column(name, known, path, final=final))
        else:
            if leaf.kind != "numbers":
                raise FormatError(f"{self.where}: {path} are {leaf.kind}, and should be numbers")
            self.add(Column(name, Field(leaf.dtype, leaf.row, known.role, space), path, final=final))

    def _add_below(self, role: str, begin: str) -> None:
        """What lies below a path, of which no space tells."""
        paths = [path for path in self.leaves if path == begin or path.startswith(begin + "/")]
        if not paths:
            raise FormatError(f"{self.where}: there are no {begin}, and no space says what they are")
        for path in paths:
            name = self._named(role, path)
            leaf = self._leaf(path)
            known = Field.of_text(role) if leaf.kind == "texts" else Field(leaf.dtype, leaf.row, role)  # type: ignore[arg-type]
            self._add_leaf(role, name, known, path)

    def _named(self, role: str, path: str) -> str:
        """The name of a field of which only the path is known."""
        parts = path.split("/")
        name = role
        for place, part in enumerate(parts[1:], 1):
            above = "/".join(parts[:place]) + "/"
            beside = {other[len(above) :].split("/")[0] for other in self.leaves if other.startswith(above)}
            item = ITEM[self.metadata.container]
            if beside == {f"{item}{at}" for at in range(len(beside))}:
                self.tuples.add(name)
                name = f"{name}/{part.removeprefix(item)}"
            else:
                name = f"{name}/{join_path(part)}"
        return name

    def add_infos(self) -> None:
        """All infos of one kind in all episodes."""
        for path, leaf in self.leaves.items():
            if not path.startswith("infos/"):
                continue
            name = self._named("info", path)
            why, shift = self._unfit(name, leaf)
            if why:
                self.rest[name] = lost(why)
                continue
            if leaf.kind == "texts":
                known = Field.of_text("info")
            elif leaf.kind == "arrays":
                known = Field(leaf.dtype, (None,), "info")
            else:
                known = Field(leaf.dtype, leaf.row, "info")
            self.add(Column(name, known, path, shift=shift))
            if shift:
                self._add_reset(name, path, leaf)

    def _unfit(self, name: str, leaf: Leaf) -> tuple[str, int]:
        """(why infos cannot be a field, how many rows are before those of steps)."""
        missing = int((leaf.rows < 0).sum())
        if missing:
            return f"{missing} of {len(self.lengths)} episodes have none", 0
        if leaf.mixed or leaf.kind == "other":
            return leaf.mixed or "values of a kind that is not read", 0
        if leaf.kind != "texts" and leaf.dtype.name not in DTYPES:
            return f"values of {leaf.dtype}", 0
        if leaf.kind == "numbers" and 0 in leaf.row:
            return "they are empty", 0
        try:
            check_name(name)
        except ValueError as error:
            return str(error), 0
        for shift in (1, 0):
            if (leaf.rows == self.lengths + shift).all():
                return "", shift
        return "they have other numbers of rows than there are steps", 0

    def _add_reset(self, name: str, path: str, leaf: Leaf) -> None:
        column = f"reset_{name}"
        if self._is_number(leaf):
            self.resets[column] = path
        else:
            self.rest[column] = lost("infos of resets are kept if they are one number")

    @staticmethod
    def _is_number(leaf: Leaf) -> bool:
        """Whether each row is one number, as columns of trajectories have them."""
        return leaf.kind == "numbers" and not leaf.mixed and not leaf.row and leaf.dtype.kind in "biuf"

    # --- as they were written here

    def add_told(self, beside: Beside) -> None:
        """The fields that are told of, which are where it says; of what is not there it is said that it is
        lost."""
        schema = beside.schema
        self.tuples, self.graphs = set(schema.tuples), schema.graphs
        for name, known in schema.fields.items():
            place = beside.places[name]
            leaf = self.leaves.get(place.path)
            observed = known.role == "observation"
            if leaf is None or (leaf.rows < 0).any() or leaf.mixed:
                self.fields[name] = lost("some episodes have none, or others")
                continue
            column = Column(name, known, place.path, final=observed, encoded=place.encoded)
            if place.also in self.leaves:
                column = replace(column, also=place.also)
            if place.path.startswith("infos/"):
                column = replace(column, shift=1)
            self.add(column)
        for column_name in beside.resets:
            known_place = beside.places.get(column_name.removeprefix("reset_"))
            path = "" if known_place is None else known_place.path
            leaf = self.leaves.get(path)
            if leaf is None or not path.startswith("infos/") or not self._is_number(leaf):
                continue
            if (leaf.rows == self.lengths + 1).all():
                self.resets[column_name] = path

    # --- all

    def _leaf(self, path: str) -> Leaf:
        leaf = self.leaves.get(path)
        if leaf is None or (leaf.rows < 0).any():
            episode = "" if leaf is None else f" in episode {int(np.flatnonzero(leaf.rows < 0)[0])}"
            raise FormatError(f"{self.where}: {path!r} is not there{episode}: it is damaged")
        if leaf.mixed:
            raise FormatError(f"{self.where}: {path!r} cannot be read: {leaf.mixed}")
        return leaf

    def add(self, column: Column) -> None:
        """A field, if its rows are as many as there are steps. FormatError: they are not, or are others."""
        leaf, known = self._leaf(column.path), column.field
        if column.image:
            fits = True
        elif column.encoded:
            fits = leaf.kind == "arrays" and leaf.dtype == np.uint8
        elif known.text:
            fits = leaf.kind == "texts"
        elif known.ragged:
            fits = leaf.kind == "arrays" and leaf.dtype == known.dtype and not known.inner
        else:
            fits = leaf.kind == "numbers" and (leaf.dtype, leaf.row) == (known.dtype, known.shape)
        if not fits:
            raise FormatError(
                f"{self.where}: {column.path!r} has {leaf.kind} ({leaf.dtype} of shape {leaf.row}), which do "
                f"not fit the field {column.name!r}"
            )
        final = column.final and bool((leaf.rows == self.lengths + 1).all())
        wanted = self.lengths + (column.shift or int(final))
        wrong = np.flatnonzero(leaf.rows != wanted)
        if len(wrong):
            raise FormatError(
                f"{self.where}: episode {int(wrong[0])} has {int(self.lengths[wrong[0]])} steps and "
                f"{int(leaf.rows[wrong[0]])} rows of {column.path!r}: it is damaged"
            )
        if leaf.cast:
            self.fields[column.name] = changed(
                f"cast to {leaf.dtype.name}, since episodes have {leaf.cast}", 0.0
            )
        self.columns.append(replace(column, final=final))
        self.flags.pop(column.name, None)

    def built(self, lengths: NDArray[np.int64]) -> Columns:
        """All of it."""
        observed = [column for column in self.columns if column.field.role == "observation"]
        if len({column.final for column in observed}) > 1:
            raise FormatError(f"{self.where}: some observations have a row more than others: it is damaged")
        schema = Schema({c.name: c.field for c in self.columns}, *self._paths())
        unread = [
            path
            for path in self.leaves
            if path not in {c.path for c in self.columns}
            and path.split("/")[0] not in ("infos", *self.known, *PLAIN.values())
        ]
        for path in unread:
            self.rest[path] = lost("Minari has no such values")
        flags = {name: path for name, path in self.flags.items() if name != "reward"}
        return Columns(schema, self.columns, lengths, flags, self.resets, self.fields, self.rest)

    def _paths(self) -> tuple[frozenset[str], frozenset[str]]:
        """The tuples and graphs that are whole."""
        left: dict[str, set[str]] = {}
        for column in self.columns:
            parts = column.name.split("/")
            for place in range(1, len(parts)):
                left.setdefault("/".join(parts[:place]), set()).add(parts[place])
        tuples = {
            path for path in self.tuples if left.get(path) == set(map(str, range(len(left.get(path, ())))))
        }
        graphs = {path for path in self.graphs if "nodes" in left.get(path, ()) and len(left[path]) in (1, 3)}
        return frozenset(tuples), frozenset(graphs)
