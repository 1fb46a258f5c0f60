"""What one step holds: named fields of fixed dtype, and of fixed shape or any length, made from Gymnasium
spaces, to and from JSON.

Invariants:
1. A `Schema` and its `Field`s never change; equal schemas have equal JSON up to the order of the fields.
2. No name is both a field and the beginning of another's path; every name is one that
   `replaystore.schema.names` can take apart.
3. Every dtype is one of `DTYPES`, little-endian. A big-endian dtype is an accepted declaration of the same
   values and is normalised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from replaystore.errors import FormatError, SchemaError, UnsupportedError
from replaystore.schema.dtypes import field_dtype
from replaystore.schema.field import Field
from replaystore.schema.names import (
    GRAPH,
    Named,
    check_name,
    flatten,
    listed,
    members,
    paths_above,
    unflatten,
    unknown,
)
from replaystore.schema.ragged_spaces import field_of
from replaystore.schema.roles import FLAGS, Role, check_role
from replaystore.schema.rows import check_rows
from replaystore.schema.spaces import (
    nested_space,
    reason,
    space_from_json,
    space_leaves,
    space_to_json,
)

if TYPE_CHECKING:
    import gymnasium
    from numpy.typing import DTypeLike, NDArray

__all__ = ["Field", "Schema"]

GRAPHS = (frozenset(GRAPH), frozenset(GRAPH[:1]))
"""What a graph consists of."""


@dataclass(frozen=True, eq=False, repr=False)
class Schema:
    """The fields of a step, in the order given: immutable, hashable, picklable.

    `tuples` names the paths that are tuples in nested values (`observation` if that is a Tuple of spaces),
    `graphs` those that are graphs, of fields `nodes` and, both or neither, `edges` and `edge_links`; all
    others are dicts. SchemaError: no fields, a bad name, a name that is both a field and a path, a role
    that does not fit the name.
    """

    fields: Mapping[str, Field]
    tuples: frozenset[str] = frozenset()
    graphs: frozenset[str] = frozenset()
    ragged: Mapping[str, Field] = field(init=False)
    """The fields of values of any length."""
    _expected: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]] = field(init=False)
    _rewards: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        fields = dict(self.fields)
        if not fields:
            raise SchemaError("a schema needs at least one field")
        for name, declared in fields.items():
            check_name(name)
            if not isinstance(declared, Field):
                raise SchemaError(
                    f"field {name!r}: expected a replaystore Field, came a {type(declared).__name__}"
                )
            check_role(name, declared.role)
        tuples, inside = frozenset(self.tuples), members(fields)
        if both := inside.keys() & fields.keys():
            raise SchemaError(
                f"{min(both)!r} is a field and also the path of other fields: rename one of them"
            )
        for path in sorted(tuples):
            items = inside.get(path, set())
            if not items or items != set(map(str, range(len(items)))):
                raise SchemaError(
                    f"tuple {path!r} must have the items 0, 1, 2 and so on, and has "
                    f"{listed(items)}: declare all of them"
                )
        graphs = frozenset(self.graphs)
        for path in sorted(graphs):
            if frozenset(inside.get(path, ())) not in GRAPHS or not all(
                fields[f"{path}/{n}"].ragged for n in inside[path]
            ):
                raise SchemaError(
                    f"graph {path!r} must have the fields {listed(GRAPH)} of any "
                    f"length, or 'nodes' alone, and has {listed(inside.get(path, ()))}"
                )
        if twice := graphs & tuples:
            raise SchemaError(f"{min(twice)!r} is a tuple and also a graph: leave it out of one of them")
        object.__setattr__(self, "fields", MappingProxyType(Named(fields)))
        object.__setattr__(self, "tuples", tuples)
        object.__setattr__(self, "graphs", graphs)
        ragged = {name: f for name, f in fields.items() if f.ragged}
        object.__setattr__(self, "ragged", MappingProxyType(ragged))
        object.__setattr__(self, "_rewards", tuple(name for name, f in fields.items() if f.role == "reward"))
        object.__setattr__(self, "_expected", {name: (f.dtype, f.shape) for name, f in fields.items()})

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Schema)
            and self.fields == other.fields
            and (self.tuples, self.graphs) == (other.tuples, other.graphs)
        )

    def __hash__(self) -> int:
        return hash((frozenset(self.fields.items()), self.tuples, self.graphs))

    def __repr__(self) -> str:
        told = (f"{name}: {'text' if f.text else _told(f)}" for name, f in self.fields.items())
        return f"Schema({', '.join(told)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema, (dict(self.fields), self.tuples, self.graphs)

    # --- from and to Gymnasium

    @classmethod
    def from_spaces(
        cls,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        *,
        reward_dtype: DTypeLike = np.float64,
        extra: Mapping[str, Field] | None = None,
    ) -> Schema:
        """The schema of steps in an environment with these spaces: observations, actions, reward, terminated,
        truncated, then `extra`.

        A Text is a field of texts, a Sequence one of arrays of any length, a Graph the fields `nodes`,
        `edges` and `edge_links`. UnsupportedError: a space, at any depth, whose values are none of these,
        and no arrays.
        """
        leaves: dict[str, tuple[str, gymnasium.Space[Any]]] = {}
        tuples, graphs = set[str](), set[str]()
        for role, space in (("observation", observation_space), ("action", action_space)):
            space_leaves(space, role, role, leaves, tuples, graphs)
        fields = {}
        for name, (role, leaf) in leaves.items():
            try:
                described = space_to_json(leaf)  # first, because it refuses spaces without dtype or shape
                dtype, shape, text = field_of(leaf)
                fields[name] = Field(dtype, shape, cast("Role", role), described, text=text)
            except (SchemaError, UnsupportedError) as error:
                raise type(error)(f"{name}: {error}") from None
        fields |= {"reward": Field(field_dtype(reward_dtype), (), "reward")} | {
            name: Field(np.dtype(bool), (), name) for name in FLAGS
        }
        given: Any = extra  # what the annotation says is what is checked
        if given is not None and not isinstance(given, Mapping):
            raise SchemaError(
                f"extra is a dict from names to fields, not {type(given).__name__} {given!r:.40}: "
                "extra={'logprob': replaystore.Field('float32', (), 'extra')}"
            )
        if twice := fields.keys() & (extra or {}).keys():
            raise SchemaError(f"extra field {min(twice)!r} is already there: choose another name")
        return cls(fields | dict(extra or {}), frozenset(tuples), frozenset(graphs))

    @classmethod
    def from_env(
        cls, env: Any, *, reward_dtype: DTypeLike = np.float64, extra: Mapping[str, Field] | None = None
    ) -> Schema:
        """The schema of a Gymnasium environment, or of one environment of a vector environment."""
        single = "single_" if hasattr(env, "single_observation_space") else ""
        try:
            observation, action = (
                getattr(env, single + "observation_space"),
                getattr(env, single + "action_space"),
            )
        except AttributeError:
            raise SchemaError(
                f"expected a Schema or an environment of Gymnasium, came {_neither(env)}"
            ) from None
        return cls.from_spaces(observation, action, reward_dtype=reward_dtype, extra=extra)

    def observation_space(self) -> gymnasium.Space[Any] | None:
        """The space of observations; None if a field does not say its space, or there are no observations."""
        return self._space("observation")

    def action_space(self) -> gymnasium.Space[Any] | None:
        """The space of actions; None if a field does not say its space, or there are no actions."""
        return self._space("action")

    def _space(self, role: str) -> gymnasium.Space[Any] | None:
        leaves = {name: self.fields[name].space for name in self.names(role)}
        if not leaves or None in leaves.values():
            return None
        return nested_space(
            unflatten(
                {name: space_from_json(space) for name, space in leaves.items() if space},
                role,
                self.tuples,
                self.graphs,
            )
        )

    # --- use

    def check(self, columns: Mapping[str, Any]) -> int:
        """How many rows these columns have: one array for each field, of shape (rows, *field shape) and
        exactly the field's dtype; a `Ragged` for each of values of any length.

        SchemaError names the field, what was expected, what came and what to do. Nothing is converted:
        neither dtypes nor byte order.
        """
        return check_rows(self._expected, columns, self.ragged)

    def names(self, role: str) -> tuple[str, ...]:
        """The names of the fields with this role, in order."""
        return tuple(name for name, declared in self.fields.items() if declared.role == role)

    @property
    def return_shape(self) -> tuple[int, ...]:
        """The shape of a return: that of the reward; of several that of each, or () if they differ."""
        shapes = {self.fields[name].shape for name in self.names("reward")}
        return shapes.pop() if len(shapes) == 1 else ()

    def total_reward(self, columns: Mapping[str, Any]) -> NDArray[Any] | None:
        """What the returns of these rows are summed of, (rows, *return_shape): the reward, or the sum of all
        of them; None without any."""
        names = self._rewards
        if len(names) < 2:
            return columns[names[0]] if names else None
        rows, shape = len(columns[names[0]]), self.return_shape
        total = np.zeros((rows, *shape))
        for name in names:
            total += (
                columns[name]
                if self.fields[name].shape == shape
                else columns[name].reshape(rows, -1).sum(axis=1, dtype=np.float64)
            )
        return total

    def flatten(self, value: Any, prefix: str) -> dict[str, Any]:
        """{field name: leaf} of a nested value as Gymnasium gives it, or of a dict that is by field name
        already."""
        if isinstance(value, Mapping) and value and all(name in self.fields for name in value):
            begin = prefix + "/"
            if all(name == prefix or name.startswith(begin) for name in value):
                return dict(value)  # while an observation may have keys such as "reward"
        return flatten(value, prefix, self.ragged, self.graphs)

    def unflatten(self, columns: Mapping[str, Any], prefix: str) -> Any:
        """The nested value under `prefix` ("observation", "action", …) as Gymnasium gives it; `flatten` is
        the inverse."""
        return unflatten(columns, prefix, self.tuples, self.graphs)

    def with_field(self, name: str, declared: Field) -> Schema:
        """This schema with one more field, the last."""
        return self.with_fields({name: declared})

    def with_fields(self, declared: Mapping[str, Field]) -> Schema:
        """This schema with more fields, the last ones."""
        if twice := self.fields.keys() & declared.keys():
            raise SchemaError(f"there is a field {min(twice)!r} already: choose another name")
        return Schema({**self.fields, **declared}, self.tuples, self.graphs)

    def select(self, names: Iterable[str]) -> Schema:
        """The schema of some fields, in this schema's order; a path such as "observation" stands for all
        fields below it.

        A tuple that loses items becomes a dict of its items' numbers, because what is left has other places;
        and a graph that loses some of it a dict.
        """
        if isinstance(names, str):
            raise SchemaError(f"select takes a list of names: [{names!r}]")
        chosen: set[str] = set()
        below: dict[str, list[str]] = {}
        for name in self.fields:
            for path in paths_above(name):
                below.setdefault(path, []).append(name)
        for wanted in names:
            found = [wanted] if wanted in self.fields else below.get(wanted)
            if not found:
                raise unknown(wanted, self.fields)
            chosen.update(found)
        inside, left = members(self.fields), members(chosen)
        if not chosen:
            raise SchemaError(f"no field is selected: name some of {listed(self.fields)}")
        tuples, graphs = (
            frozenset(path for path in paths if inside[path] == left.get(path))
            for paths in (self.tuples, self.graphs)
        )
        fields = {name: declared for name, declared in self.fields.items() if name in chosen}
        return Schema(fields, tuples, graphs)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: fields (a list, because their order matters), tuples, and graphs if there are any."""
        graphs = {"graphs": sorted(self.graphs)} if self.graphs else {}
        return {
            "fields": [{"name": name, **f.to_json()} for name, f in self.fields.items()],
            "tuples": sorted(self.tuples),
            **graphs,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`; FormatError if that is impossible."""
        try:
            fields: dict[str, Field] = {}
            for item in data["fields"]:
                if item["name"] in fields:
                    raise SchemaError(f"field {item['name']!r} is declared twice")
                fields[item["name"]] = Field.from_json(item)
            return cls(fields, frozenset(data.get("tuples", ())), frozenset(data.get("graphs", ())))
        except FormatError as error:
            raise FormatError(f"this does not describe a schema: field {item['name']!r}: {error}") from error
        except (KeyError, TypeError, SchemaError) as error:
            raise FormatError(f"this does not describe a schema: {reason(error)}") from error


def _told(declared: Field) -> str:
    """The dtype and the shape of a field, for a message."""
    return f"{declared.dtype}[{', '.join('*' if n is None else str(n) for n in declared.shape)}]"


def _neither(given: Any) -> str:
    """What came instead of a schema or an environment, and what to give."""
    if isinstance(given, str):
        return f"the text {given!r:.60}: make the environment, gymnasium.make({given!r:.60})"
    if isinstance(given, Mapping) and given and all(isinstance(value, Field) for value in given.values()):
        return "a dict of fields: make it a schema, replaystore.Schema(fields)"
    if isinstance(given, type):
        return f"the class {given.__name__}: make an instance of it"
    if isinstance(getattr(given, "schema", None), Schema):
        return f"a {type(given).__name__}: give its .schema"
    if hasattr(given, "sample") and hasattr(given, "contains"):
        return "a space: replaystore.Schema.from_spaces takes those of observations and actions"
    which = (
        " without observation_space and action_space"
        if hasattr(given, "reset") and hasattr(given, "step")
        else ""
    )
    text = " ".join(repr(given).split())
    text = text if len(text) <= 60 else text[:57] + "..."
    return (
        f"a {type(given).__name__}{which} ({text}): give what gymnasium.make or make_vec returns, "
        "or a schema, replaystore.Schema({'observation': replaystore.Field('float32', (3,), "
        "'observation'), ...})"
    )
