"""Where each field of a buffer is going to lie in a dataset, and what becomes of all else.

Minari gets what it has a name for: observations and actions of spaces that it knows, rewards, flags, infos.
All other fields lie beside, in each episode's part that it does not look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError
from replaystore.formats.blocks import beside_fields, planned_counts
from replaystore.formats.minari.beside import GROUP, Place
from replaystore.formats.minari.metadata import dataset_id
from replaystore.formats.minari.spaces import text_space
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Fate, Report, made_up
from replaystore.formats.shared.spaces import Space, nested, space_of
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import escape_path, listed
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.trajectories.table import Trajectories
from replaystore.views.reader import BufferReader

__all__ = ["Placed", "Plan", "planned"]

ROLES = {"observation": "observations", "action": "actions"}
PLAIN = {"reward": "rewards", "terminated": "terminations", "truncated": "truncations"}
MOST_STEPS = 1 << 17
"""As many rows pyarrow has in a batch, which Minari takes for an episode."""
HOLDS = ("env", "seed", "split", "final_observation", "metadata", "environment", "terminated", "truncated")


@dataclass(frozen=True)
class Placed:
    """A field, and where its values go."""

    name: str
    field: Field
    path: str
    encoded: bool = False
    """Whether each value is written as its bytes."""
    also: str = ""
    """Of texts: where they are written as bytes too, where Minari's container cannot hold them."""

    @property
    def final(self) -> bool:
        """Whether the observation after the last step follows."""
        return self.field.role == "observation"

    @property
    def shifted(self) -> bool:
        """Whether a row comes before that of the first step, as infos have one of the reset."""
        return self.path.startswith("infos/")

    @property
    def place(self) -> Place:
        """As it is told beside."""
        return Place(self.path, self.encoded, self.also)


@dataclass
class Plan:
    """What is going to be written."""

    report: Report
    schema: Schema
    placed: list[Placed]
    spaces: dict[str, Space]
    """Of observations and actions."""
    table: Trajectories
    lengths: NDArray[np.int64]
    """How many steps each trajectory has."""
    known: NDArray[np.bool_]
    """Whether the observation after its last step is known."""
    resets: dict[str, str]
    """Columns of the table that are infos of resets: where these lie."""
    id: str
    missing: tuple[str, ...]
    """What Minari needs and no field is: of "reward", "terminated", "truncated"."""

    def user_columns(self) -> dict[str, NDArray[Any]]:
        """Columns of the table that are the user's, and no infos of resets."""
        return {
            name: self.table[name]
            for name in self.table.columns
            if name not in TRAJECTORIES and name != "open" and name not in self.resets
        }


def planned(buffer: BufferReader, path: str, options: Options, container: str) -> Plan:
    """What a buffer becomes. UnsupportedError: Minari has no place for what is most of it."""
    schema = buffer.schema if options.fields is None else buffer.schema.select(options.fields)
    placed = _placed(schema, path, container)
    spaces = {role: _space(schema, placed, role) for role in ROLES}
    table = buffer.trajectories if options.trajectories is None else options.trajectories
    lengths, known = _ends(buffer, table)
    fields: dict[str, Fate] = dict.fromkeys(schema.fields, KEPT)
    user = [name for name in table.columns if name not in TRAJECTORIES and name != "open"]
    rest = beside_fields(buffer, options, holds=(*HOLDS, *user), fields=fields)
    remarks: list[str] = []
    if container != "hdf5" and len(lengths) and int(lengths.max()) >= MOST_STEPS:
        raise UnsupportedError(
            f"{path}: Minari reads at most {MOST_STEPS - 1} steps of a trajectory from {container}, and one "
            f"has {int(lengths.max())}: write HDF5, with target_format='minari' (--to minari)"
        )
    missing = tuple(name for name in PLAIN if all(one.path != PLAIN[name] for one in placed))
    if "reward" not in schema.fields:
        fields["reward"] = made_up("zeros, since there are no rewards")
    unknown = int((~known).sum())
    if unknown:
        rest["final_observation"] = made_up(
            f"of {unknown} trajectories that are cut off the last observation is written twice"
        )
    beside = [one.name for one in placed if one.path.startswith(GROUP + "/")]
    if beside:
        remarks.append(f"Minari does not look at {listed(beside)}, which lie beside")
    id_, found = dataset_id(options.place or path)
    if not found:
        remarks.append(f"Minari finds it as {id_!r} when it lies there in its folder of datasets")
    steps, trajectories = planned_counts(buffer, options)
    report = Report(steps, trajectories, fields, rest, remarks)
    return Plan(report, schema, placed, spaces, table, lengths, known, _resets(table, placed), id_, missing)


def _placed(schema: Schema, path: str, container: str) -> list[Placed]:
    placed = []
    native = {name for name, field in schema.fields.items() if _is_native(name, field, container)}
    for role, what in ROLES.items():
        if not native & set(schema.names(role)):
            raise UnsupportedError(
                f"{path}: a dataset of Minari has {what} of numbers of one shape, or texts, and there are no "
                "such fields: convert it to a store, name.zarr or name.h5"
            )
    tuples = schema.select([name for name in schema.fields if name in native]).tuples
    for name, field in schema.fields.items():
        beside = f"{GROUP}/{escape_path(name)}"
        if name in native:
            also = beside if field.text and container == "hdf5" else ""
            placed.append(Placed(name, field, _path(name, tuples, container), also=also))
        else:
            encoded = field.ragged or (field.dtype.kind == "c" and container != "hdf5")
            placed.append(Placed(name, field, beside, encoded=encoded))
    return placed


def _is_native(name: str, field: Field, container: str) -> bool:
    """Whether Minari has a place for a field."""
    parts = name.split("/")
    if name in PLAIN:
        return field.dtype.kind != "c" or container == "hdf5"
    if any(part in (".", "..") or "\0" in part for part in parts):
        return False
    if field.role in ROLES and parts[0] == field.role:
        return field.text or space_of(field) is not None
    if field.role != "info" or parts[0] != "info" or len(parts) < 2 or field.ragged:
        return field.role == "info" and parts[0] == "info" and len(parts) > 1 and field.text
    return field.dtype.kind != "c" or container == "hdf5"


def _path(name: str, tuples: frozenset[str], container: str) -> str:
    if name in PLAIN:
        return PLAIN[name]
    first, *parts = name.split("/")
    found = [ROLES.get(first, "infos")]
    for place, part in enumerate(parts):
        above = "/".join([first, *parts[:place]])
        item = "_index_" if container == "hdf5" else ""
        found.append(f"{item}{part}" if above in tuples else part)
    return "/".join(found)


def _space(schema: Schema, placed: list[Placed], role: str) -> Space:
    spaces = {}
    for one in placed:
        if one.field.role == role and not one.path.startswith(GROUP + "/"):
            spaces[one.name] = space_of(one.field) or text_space()
    return nested(schema, role, spaces)


def _ends(buffer: BufferReader, table: Trajectories) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How long trajectories are, and of which it is known what was seen in the end."""
    parts = buffer.parts
    taken = parts.parts_of(table["trajectory"])
    if not len(taken):
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    owner = parts.trajectory[taken]
    first = np.append(True, owner[1:] != owner[:-1])
    last = np.append(first[1:], True)
    lengths = np.add.reduceat(parts.length[taken], np.flatnonzero(first))
    known = parts.final[taken][last] >= 0
    opened = [entry.trajectory for entry in buffer.open_trajectories() if entry.following is not None]
    return lengths, known | np.isin(owner[last], opened)


def _resets(table: Trajectories, placed: list[Placed]) -> dict[str, str]:
    """The columns of the table that are infos of resets, which have a place in infos."""
    found: dict[str, str] = {}
    for one in placed:
        column = f"reset_{one.name}"
        known = table.columns.get(column)
        if one.shifted and known is not None and not one.field.shape and known.dtype == one.field.dtype:
            found[column] = one.path
    return found
