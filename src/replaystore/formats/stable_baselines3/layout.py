"""The fields that the steps of a pickle of Stable-Baselines3 have, and where their numbers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.errors import FormatError, SchemaError
from replaystore.formats.report import Fate, derived, lost
from replaystore.formats.stable_baselines3.contents import Contents, Steps
from replaystore.formats.stable_baselines3.notes import Notes
from replaystore.schema.fields import Field
from replaystore.schema.names import check_name, join_path, split_path
from replaystore.schema.roles import FLAGS
from replaystore.schema.spaces import space_to_json

__all__ = ["fields_of", "key_of", "noted_steps", "steps_after"]

_OWN = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_DERIVED = {"ep_start": "from where trajectories begin", "ep_length": "from where trajectories end"}
_RESERVED = ("observation", "action", "reward", "terminated", "truncated", "info")


def fields_of(found: Contents, fates: dict[str, Fate]) -> tuple[dict[str, Field], dict[str, Steps]]:
    """The fields that the steps of a file have, and where their numbers are."""
    fields, steps = dict[str, Field](), dict[str, Steps]()
    others = dict(found.steps)
    for key in list(others):
        top, _, inner = key.partition("/")
        if top == "observations":
            name = join_path("observation", inner) if inner else "observation"
            space = found.spaces.get("observation")
            spaces = getattr(space, "spaces", None)
            _add(fields, steps, name, others.pop(key), spaces.get(inner) if inner and spaces else space)
        elif top in _OWN and top not in ("actions", "rewards"):
            del others[key]
    _add(fields, steps, "action", others.pop("actions"), found.spaces.get("action"))
    _add(fields, steps, "reward", others.pop("rewards"), None)
    if not found.rollout:
        fields |= {name: Field("bool", (), name) for name in FLAGS}
    for name, numbers in others.items():
        if name in _DERIVED and "dones" in found.steps:
            fates[name] = derived(_DERIVED[name])
        elif name.partition("/")[0] in _RESERVED or not _is_name(name):
            fates[name] = lost("its name means something else here")
        else:
            fields[name], steps[name] = Field(numbers.dtype, numbers.shape, "extra"), numbers
    return fields, steps


def _add(fields: dict[str, Field], steps: dict[str, Steps], name: str, numbers: Steps, space: Any) -> None:
    """Numbers of the shape that the space says, if that is as many."""
    role: Any = name.partition("/")[0]
    shape, described = numbers.shape, None
    if space is not None and space.shape is not None and hasattr(space, "dtype"):
        count = int(np.prod(numbers.shape, dtype=np.int64))
        if int(np.prod(space.shape, dtype=np.int64)) == count:
            shape, described = tuple(space.shape), space_to_json(space)
    fields[name] = Field(numbers.dtype, shape, role, described)
    steps[name] = numbers.as_shape(shape)


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except SchemaError:
        return False
    return True


def noted_steps(found: Contents, notes: Notes) -> dict[str, Any]:
    """Where the numbers of the fields that are declared are. FormatError: they are not there."""
    steps: dict[str, Any] = dict(notes.fields)
    for name, declared in notes.schema.fields.items():
        if name in steps or (declared.role in FLAGS and name not in steps):
            continue
        numbers = found.steps.get(_place_of(name, declared.role))
        count = -1 if numbers is None else int(np.prod(numbers.shape, dtype=np.int64))
        if (
            numbers is None
            or numbers.dtype != declared.dtype
            or count != np.prod(declared.shape, dtype=np.int64)
        ):
            raise FormatError(f"{found.where}: the field {name!r:.60} is not as it is declared: damaged")
        steps[name] = numbers.as_shape(declared.shape)
    return steps


def steps_after(found: Contents, steps: Mapping[str, Steps], names: list[str]) -> dict[str, Steps]:
    if found.rollout or found.dense:
        return {}
    after = {}
    for name in names:
        numbers = found.steps.get("next_" + _place_of(name, "observation"))
        mine = steps[name]
        if numbers is None or numbers.dtype != mine.dtype or numbers.row_bytes != mine.row_bytes:
            raise FormatError(
                f"{found.where}: the next observations are not as the observations ({name}): it is damaged"
            )
        after[name] = numbers.as_shape(mine.shape)
    return after


def _place_of(name: str, role: str) -> str:
    """The array that a field is in."""
    if role == "observation" and (key := key_of(name)):
        return f"observations/{key}"
    return {"observation": "observations", "action": "actions", "reward": "rewards"}.get(role, name)


def key_of(name: str) -> str:
    """The key of a field in a Dict of observations; "" for the one that has none."""
    return "/".join(split_path(name)[1:])
