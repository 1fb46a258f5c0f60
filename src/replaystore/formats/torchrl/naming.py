"""What the tensors of a buffer of TorchRL are called in a buffer of ours.

| key                                        | field                                                       |
|--------------------------------------------|-------------------------------------------------------------|
| observation, if it is the only one         | `observation`                                               |
| observation/a, pixels, …, and next/the same | `observation/a`, `observation/pixels`; after ends: finals  |
| action, action/a                           | `action`, `action/a`                                        |
| next/reward of shape (1,)                  | `reward`, one number                                        |
| next/terminated, next/truncated            | `terminated`, `truncated`                                   |
| next/done                                  | nothing, where it is one of those; otherwise its own field  |
| collector/traj_ids (traj_ids, episode)     | a column of the table of trajectories                       |
| done, terminated, truncated                | nothing, where they are False throughout                    |
| step_count and the like, all else          | their own names                                             |
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from replaystore.formats.torchrl.grids import FLAGS, Held
from replaystore.formats.torchrl.leaves import Rows
from replaystore.formats.torchrl.trees import Key
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import join_path
from replaystore.schema.roles import ROLES

__all__ = ["Naming", "Taken", "named"]

IDS: tuple[Key, ...] = (("collector", "traj_ids"), ("traj_ids",), ("episode",))
COUNTERS = frozenset(("step_count", "is_init", "reward_sum", "episode_reward", "traj_ids", "index", "mask"))
"""What environments of TorchRL count beside what they observe."""
OBSERVED = ("observation", "pixels", "obs", "state")
"""Where nothing is said of what follows, these are observations."""
ROOT = "root"
"""Before names of what would be taken for something that it is not."""


@dataclass(frozen=True)
class Taken:
    """Where the rows of a field come from."""

    key: Key
    after: bool = False
    """It is what follows the step, of a pair."""


@dataclass
class Naming:
    """The fields, where each comes from, and what tells where trajectories end."""

    fields: dict[str, Field] = field(default_factory=dict)
    taken: dict[str, Taken] = field(default_factory=dict)
    observed: dict[str, Key] = field(default_factory=dict)
    """Of the observations, those of which it is known what follows."""
    ids: Key | None = None
    done: Key | None = None
    flags: dict[str, Key] = field(default_factory=dict)
    """`terminated`, `truncated`"""

    @property
    def schema(self) -> Schema:
        """SchemaError: there is none of these names."""
        return Schema(self.fields)


def named(held: Held, *, keep: Iterable[Key] = (), shifted: bool = True) -> Naming:
    """What the tensors are called. `keep`: flags that are fields of their own, since they do not follow from
    others; `shifted`: what follows each step is the observation of the next one."""
    naming = Naming()
    columns = dict(held.columns)
    _flags(naming, columns, set(keep))
    _observations(naming, held, columns, shifted=shifted)
    for key in list(columns):
        _other(naming, key, columns[key])
    return naming


def _flags(naming: Naming, columns: dict[Key, Rows], keep: set[Key]) -> None:
    """Take what tells of ends away from the columns."""
    for name in FLAGS:
        root = columns.get((name,))
        if root is not None and (name,) not in keep and _is_flag(root):
            del columns[name,]
        key: Key = ("next", name)
        rows = columns.get(key)
        if rows is None or not _is_flag(rows):
            continue
        if name == "done":
            naming.done = key
            if key not in keep:
                del columns[key]
            continue
        naming.flags[name] = key
        naming.fields[name] = Field("bool", (), name)  # type: ignore[arg-type]  # one of the roles
        del columns[key]
    if "truncated" not in naming.fields and "terminated" in naming.flags and naming.done is not None:
        naming.fields["truncated"] = Field("bool", (), "truncated")
    naming.ids = next((key for key in IDS if key in columns and _is_number(columns[key])), None)
    if naming.ids is not None:
        del columns[naming.ids]


def _is_flag(rows: Rows) -> bool:
    return rows.dtype.kind == "b" and math.prod(rows.shape) == 1


def _is_number(rows: Rows) -> bool:
    return rows.dtype.kind in "iu" and math.prod(rows.shape) == 1


def _observations(naming: Naming, held: Held, columns: dict[Key, Rows], *, shifted: bool) -> None:
    known = {
        key: rows[0] for key, rows in held.pairs.items() if key[-1] not in COUNTERS and key[0] != "action"
    }
    if not held.pairs:
        known = {key: rows for key, rows in columns.items() if key[0] in OBSERVED}
    for name, key in _paths(list(known)).items():
        rows = known[key]
        naming.fields[name] = Field(rows.dtype, rows.shape, "observation")
        naming.taken[name] = Taken(key)
        if key in held.pairs:
            naming.observed[name] = key
        else:
            del columns[key]
        if key in held.pairs and not shifted:
            _extra(naming, ("next", *key), rows, Taken(key, after=True))
    for key, (rows, _) in held.pairs.items():
        if key not in known:
            _extra(naming, key, rows, Taken(key))
            _extra(naming, ("next", *key), rows, Taken(key, after=True))


def _paths(keys: list[Key]) -> dict[str, Key]:
    """What observations of these keys are called."""
    if keys == [("observation",)]:
        return {"observation": keys[0]}
    short = {join_path("observation", *(key[1:] if key[0] == "observation" else key)): key for key in keys}
    clash = len(short) < len(keys) or ("observation",) in keys
    beginnings = {name.rpartition("/")[0] for name in short}
    if clash or beginnings & short.keys():
        return {join_path("observation", *key): key for key in keys}
    return short


def _other(naming: Naming, key: Key, rows: Rows) -> None:
    if key in (("next", "reward"), ("reward",)) and "reward" not in naming.fields:
        shape = () if rows.shape == (1,) else rows.shape
        naming.fields["reward"] = Field(rows.dtype, shape, "reward")
        naming.taken["reward"] = Taken(key)
    elif key[0] == "action":
        name = join_path(*key)
        naming.fields[name] = Field(rows.dtype, rows.shape, "action")
        naming.taken[name] = Taken(key)
    else:
        _extra(naming, key, rows, Taken(key))


def _extra(naming: Naming, key: Key, rows: Rows, taken: Taken) -> None:
    role: Any = "info" if key[0] == "info" and len(key) > 1 else "extra"
    name = join_path(*key)
    if role == "extra" and key[0] in ROLES:
        name = join_path(ROOT, *key)
    naming.fields[name] = Field(rows.dtype, rows.shape, role)
    naming.taken[name] = taken
