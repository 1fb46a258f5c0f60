"""Which feature of a dataset is what in a buffer.

`steps/observation/…`, `action`, `reward` and all else of a step are fields of the same names (`discount`
too); `is_first`, `is_last` and `is_terminal` become boundaries and flags. Numbers of an episode are columns
of the table of trajectories, and one called `seed` is what its environment was reset with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from replaystore.errors import FormatError, ReplayStoreError
from replaystore.formats.report import Fate, lost
from replaystore.formats.rlds.features import Feature, Features
from replaystore.formats.rlds.own import OWN, Own
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import join_path
from replaystore.schema.roles import FLAGS, Role
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["MARKS", "Plan", "plan_of"]

MARKS = ("is_first", "is_last", "is_terminal")
_OF_A_STEP: tuple[Role, ...] = ("observation", "action", "reward", "info")


@dataclass
class Plan:
    """What becomes of the features."""

    schema: Schema
    fields: dict[str, Feature]
    """By the names of the fields, all of the schema but flags that are made of `marks`."""
    marks: dict[str, Feature]
    columns: dict[str, Feature]
    """By the names of the columns."""
    episode: dict[str, Feature]
    """What replaystore itself has written of an episode (`own.OWN`); of other datasets the seed, if there is
    one."""
    own: Own | None
    lost_fields: dict[str, Fate] = field(default_factory=dict)
    lost_columns: dict[str, Fate] = field(default_factory=dict)

    @property
    def observations(self) -> tuple[str, ...]:
        """The names of the fields of observations."""
        return self.schema.names("observation")


def plan_of(features: Features, own: Own | None, sizes: Mapping[str, tuple[int, int]], where: str) -> Plan:
    """What becomes of these features. `sizes`: heights and widths of pictures of features whose shape leaves
    them open, by key. FormatError: they cannot be a buffer."""
    steps = {feature.path: feature for feature in features.steps}
    marks = {
        name: steps[name,]
        for name in MARKS
        if (name,) in steps and steps[name,].shape == () and steps[name,].dtype.kind in "bi"
    }
    if own is not None:
        episode = {feature.path: feature for feature in features.episode}
        fields = {name: steps[own.features[name]] for name in own.schema.fields}
        columns = {name: episode[key,] for name, (key, _) in own.columns.items()}
        return Plan(own.schema, fields, marks, columns, {name: episode[name,] for name in OWN}, own)
    plan = Plan(Schema({"observation": Field("bool", (), "observation")}), {}, marks, {}, {}, None)
    declared: dict[str, Field] = {}
    for feature in features.steps:
        if feature.path not in {(name,) for name in marks}:
            _field(plan, declared, _sized(feature, sizes))
    declared |= {name: Field("bool", (), name) for name in FLAGS}
    try:
        plan.schema = Schema(declared)
    except ReplayStoreError as error:
        raise FormatError(f"{where}: the features of its steps cannot be fields: {error}") from error
    for feature in features.episode:
        _column(plan, feature)
    for key, why in features.skipped.items():
        top, _, name = key.partition("/")
        (plan.lost_fields if top == "steps" else plan.lost_columns)[name or top] = lost(why)
    return plan


def _sized(feature: Feature, sizes: Mapping[str, tuple[int, int]]) -> Feature:
    if feature.encoding != "image" or len(feature.shape) != 3:
        return feature
    height, width = sizes.get(feature.key, (None, None))
    shape = (feature.shape[0] or height, feature.shape[1] or width, feature.shape[2] or 3)
    return replace(feature, shape=shape)


def _field(plan: Plan, declared: dict[str, Field], feature: Feature) -> None:
    """Take a feature as a field, under a name that its role allows."""
    if feature.encoding == "image" and (None in feature.shape or len(feature.shape) != 3):
        plan.lost_fields["/".join(feature.path)] = lost("pictures of no known size")
        return
    top = feature.path[0]
    role = next((role for role in _OF_A_STEP if role == top), "extra")
    for path, given in ((feature.path, role), (("extra", *feature.path), "extra")):
        try:
            name = join_path(*path)
            made = _made(feature, given)
            Schema({name: made})
        except ReplayStoreError:
            continue
        if (name not in declared and top not in FLAGS) or path[0] == "extra":
            declared[name], plan.fields[name] = made, feature
            return
    plan.lost_fields["/".join(feature.path)] = lost("it cannot be a field")


def _made(feature: Feature, role: Any) -> Field:
    if feature.text:
        return Field.of_text(role)
    return Field(feature.dtype, (*feature.sequence, *feature.shape), role)


def _column(plan: Plan, feature: Feature) -> None:
    name = "/".join(feature.path)
    if feature.sequence or feature.shape:
        plan.lost_columns[name] = lost("the table of trajectories has one number in a place")
    elif feature.text or feature.encoding not in ("none", "bytes") or feature.dtype.kind not in "biuf":
        plan.lost_columns[name] = lost("the table of trajectories has numbers alone")
    elif feature.path == ("seed",) and feature.dtype.kind in "iu" and feature.dtype.name != "uint64":
        plan.episode["seed"] = feature
    else:
        taken = name in TRAJECTORIES or name in ("open", *plan.columns)
        plan.columns[f"episode_{name}" if taken else name] = feature
