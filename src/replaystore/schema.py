"""What one step holds: named fields of fixed dtype and shape, made from Gymnasium spaces, to and from JSON.

Names. A field name is a path whose parts are joined by `/`: `reward`, `observation/camera`, `observation/joints/0` (item 0 of a Tuple).
Inside a part only `%` and `/` are written otherwise (`%25`, `%2F`), and the empty key is a lone `%`: `join_path` makes a name of keys,
`split_path` undoes it. Stores hold a field under `escape_path(name)`, where everything that a file system, Zarr or HDF5 might take
amiss is percent-encoded too. Names that differ in case only are distinct, so a store with both needs a case-sensitive file system.

Invariants:
1. A `Schema` and its `Field`s never change; equal schemas have equal JSON up to the order of the fields.
2. No name is both a field and the beginning of another's path.
3. Every dtype is one of `DTYPES`, little-endian. A big-endian dtype is an accepted declaration of the same values and is normalised.
4. `unescape(escape(key)) == key` and `space_from_json(space_to_json(space)) == space`, bounds to the last bit.
"""

from __future__ import annotations

import copy
import math
import operator
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from replaystore.errors import FormatError, SchemaError, UnsupportedError

if TYPE_CHECKING:
    import gymnasium
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "DTYPES",
    "LEAF_SPACES",
    "ROLES",
    "Field",
    "Schema",
    "escape",
    "escape_path",
    "flatten",
    "join_path",
    "space_from_json",
    "space_to_json",
    "split_path",
    "unescape",
    "unescape_path",
    "unflatten",
]

_NUMBERS = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
_NUMBERS += ["float16", "float32", "float64", "complex64", "complex128"]
DTYPES: Mapping[str, np.dtype[Any]] = MappingProxyType({"bool": np.dtype(bool)} | {n: np.dtype(n).newbyteorder("<") for n in _NUMBERS})
"""The dtypes that a field may have, by name."""
ROLES = ("observation", "action", "reward", "terminated", "truncated", "info", "mask", "extra")
"""What a field may be. The first part of a name decides, except for `mask` (bool: where an optional value is present) and `extra`."""
LEAF_SPACES = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
"""The Gymnasium spaces that are one array; Dict and Tuple are built of them."""

_FLAGS = ("terminated", "truncated")
_NAMED_ROLES = frozenset(ROLES[:5])
_PLAIN = re.compile(r"(?!__)[A-Za-z0-9_\-](?:[A-Za-z0-9_\- ]*[A-Za-z0-9_\-])?")
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])")  # names that Windows keeps for itself
_MAX_PART_BYTES = 200  # file systems allow 255; temporary files need some of them
_NON_FINITE = ("Infinity", "-Infinity", "NaN")
_BOUND_TYPES: Mapping[str, tuple[type, ...]] = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}
_ENDLESS: Mapping[str, tuple[str, ...]] = {"b": (), "i": ("Infinity", "-Infinity"), "u": (), "f": _NON_FINITE}


# --- names


def escape(key: str) -> str:
    """The name under which a store holds one path part; equal to `key` if that is plain: letters, digits, `_`, `-`, inner spaces.

    Letters outside ASCII stay readable while no file system can change them: only those of Unicode 3.2 (whose table is the same in every
    Python, so that the name is too), and only if the part is in normal form NFC. Distinct keys have distinct names.
    """
    if not key:
        return "%"
    if _PLAIN.fullmatch(key) and not _DEVICES.fullmatch(key):
        return key
    escaped = _encode(key, letters=True)
    if escaped.isascii() or (unicodedata.is_normalized("NFC", key) and unicodedata.is_normalized("NFC", escaped)):
        return escaped
    return _encode(key, letters=False)


def unescape(part: str) -> str:
    """The key that `escape` made this of; FormatError if it is not of its making."""
    try:
        key = "" if part == "%" else re.sub(r"(?:%[0-9A-F]{2})+", _decode, part)
    except UnicodeDecodeError:
        key = None
    if key is None or escape(key) != part:
        raise FormatError(f"{part!r} is not an escaped name; it was not written by replaystore: rename or remove it")
    return key


def escape_path(name: str) -> str:
    """The stored path of a field name."""
    return "/".join(map(escape, split_path(name)))


def unescape_path(path: str) -> str:
    """The field name of a stored path."""
    return join_path(*map(unescape, path.split("/")))


def join_path(*keys: str) -> str:
    """The field name of nested keys: `join_path("info", "a/b") == "info/a%2Fb"`."""
    return "/".join(map(_part, keys))


def split_path(name: str) -> tuple[str, ...]:
    """The keys of a field name; SchemaError if a part is empty or has a `%` that is not followed by 25 or 2F."""
    keys = []
    for part in name.split("/"):
        if part == "%":
            keys.append("")
        elif not part:
            raise SchemaError(f"field name {name!r} has an empty part: name every part, or write '%' for an empty key")
        elif re.search("%(?!25|2F)", part):
            raise SchemaError(
                f"field name {name!r} has a bare '%': make names of keys with replaystore.schema.join_path, which writes '%25'"
            )
        else:
            keys.append(part.replace("%2F", "/").replace("%25", "%"))
    return tuple(keys)


def _part(key: str) -> str:
    return key.replace("%", "%25").replace("/", "%2F") if key else "%"


def _decode(run: re.Match[str]) -> str:
    return bytes.fromhex(run[0].replace("%", "")).decode("utf-8", "surrogatepass")


def _encode(key: str, *, letters: bool) -> str:
    reserved = key.startswith("__") or _DEVICES.fullmatch(key) is not None
    parts = []
    for place, char in enumerate(key):
        inner = 0 < place < len(key) - 1
        if char.isascii():
            keep = (char.isalnum() or char in "_-" or (char == " " and inner)) and not (reserved and place == 0)
        else:
            category = unicodedata.ucd_3_2_0.category(char) if letters else ""
            keep = category[:1] == "L" or category == "Nd" or (category[:1] == "M" and place > 0)  # a leading mark joins what is before
        parts.append(char if keep else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass")))
    return "".join(parts)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise SchemaError(f"a field name must be a string, not {type(name).__name__} {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SchemaError(f"field name {name!r} is not valid Unicode text: choose another") from None
    for key in split_path(name):
        if len(escape(key).encode()) > _MAX_PART_BYTES:
            raise SchemaError(f"field name {name!r}: a part takes over {_MAX_PART_BYTES} bytes in a store: choose a shorter one")


# --- nested values


def flatten(value: Any, prefix: str) -> dict[str, Any]:
    """{field name: leaf} of a nested observation or action as Gymnasium gives it; a value that is no dict or tuple is itself a leaf.

    Key `k` of a dict becomes `prefix/k`, item `i` of a tuple `prefix/i`. SchemaError: an empty dict or tuple, a key that is not a string.
    """
    leaves: dict[str, Any] = {}
    _flatten_into(leaves, value, prefix)
    return leaves


def _flatten_into(leaves: dict[str, Any], value: Any, name: str) -> None:
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, tuple):
        items = ((str(place), item) for place, item in enumerate(value))
    else:
        leaves[name] = value
        return
    if not value:
        raise SchemaError(f"{name!r} is an empty {type(value).__name__}: there is nothing to store, leave it out")
    for key, item in items:
        if not isinstance(key, str):
            raise SchemaError(f"{name!r} has the key {key!r}, a {type(key).__name__}: keys must be strings")
        _flatten_into(leaves, item, f"{name}/{_part(key)}")


def unflatten(columns: Mapping[str, Any], prefix: str, tuples: Collection[str] = ()) -> Any:
    """The inverse of `flatten`: the value under `prefix`, nested as the names say.

    `tuples` are the paths that are tuples (see `Schema.tuples`), all others are dicts. SchemaError: there is no such field.
    """
    if prefix in columns:
        return columns[prefix]
    begin = prefix + "/"
    parts = dict.fromkeys(name[len(begin) :].partition("/")[0] for name in columns if name.startswith(begin))
    if not parts:
        raise SchemaError(f"there is no field {prefix!r} among {_listed(columns)}: check the name")
    if prefix in tuples:
        return tuple(unflatten(columns, f"{begin}{place}", tuples) for place in range(len(parts)))
    return {split_path(part)[0]: unflatten(columns, begin + part, tuples) for part in parts}


# --- fields


def _field_dtype(dtype: DTypeLike | None) -> np.dtype[Any]:
    if dtype is None:  # NumPy would take it for float64
        raise SchemaError("a field needs a dtype, not None")
    try:
        given = np.dtype(dtype)
    except TypeError as error:
        raise SchemaError(f"{dtype!r} is not a dtype ({error}): name one of {', '.join(DTYPES)}") from None
    known = DTYPES.get(given.name)
    if known is not None:
        return known
    if given.kind == "O":
        remedy = "objects would have to be pickled; encode them as numbers of a fixed size"
    elif given.kind in "SUT":
        remedy = "text has no fixed size; encode it as integers, such as character codes or indices of a list of words"
    elif given.names is not None:
        remedy = "declare one field for each of its members"
    elif given.kind in "Mm":
        remedy = "store values.view('int64')"
    else:
        remedy = f"store a view of it as an integer dtype, or convert it to one of {', '.join(DTYPES)}"
    raise UnsupportedError(f"dtype {given} cannot be stored: {remedy}")


@dataclass(frozen=True)
class Field:
    """One named value of a step.

    `dtype` may be given as anything that NumPy takes for one, in either byte order. `space` is the description by `space_to_json` of the
    Gymnasium space (one of `LEAF_SPACES`) or None; it documents the field, values are not checked against its bounds, and its dtype may
    differ from the field's. Do not change it. SchemaError: a wrong shape, role or space; UnsupportedError: a dtype that cannot be stored.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    role: str
    space: dict[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _field_dtype(self.dtype))
        try:
            shape = tuple(map(operator.index, self.shape))
        except TypeError:
            raise SchemaError(f"a field's shape must be a tuple of integers, not {self.shape!r}; that of one number is ()") from None
        if any(length < 1 for length in shape):
            raise SchemaError(f"a field of shape {shape} has rows without values: leave it out")
        object.__setattr__(self, "shape", shape)
        if self.role not in ROLES:
            raise SchemaError(f"there is no role {self.role!r}: give one of {', '.join(ROLES)}")
        if self.role == "mask" and self.dtype != bool:
            raise SchemaError(f"a mask must be of dtype bool, not {self.dtype}: True where the value is present")
        if self.role in _FLAGS and (self.dtype != bool or shape):
            raise SchemaError(
                f"{self.role} must be one bool for each step, not {self.dtype} of shape {shape}: keep other flags as extra fields"
            )
        space: Any = self.space  # what the annotation says is what is checked
        if space is not None:
            if not isinstance(space, dict) or space.get("type") not in LEAF_SPACES:
                raise SchemaError(f"a field's space must be None or what space_to_json makes of a {', '.join(LEAF_SPACES)}")
            object.__setattr__(self, "space", copy.deepcopy(space))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: dtype (name), shape, role, space."""
        return {"dtype": self.dtype.name, "shape": list(self.shape), "role": self.role, "space": copy.deepcopy(self.space)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Field:
        """The inverse of `to_json`; FormatError if that is impossible."""
        try:
            if data["dtype"] not in DTYPES:
                raise SchemaError(f"unknown dtype {data['dtype']!r}")
            return cls(data["dtype"], tuple(data["shape"]), data["role"], data.get("space"))
        except (KeyError, TypeError, SchemaError) as error:
            raise FormatError(f"this does not describe a field: {_reason(error)}") from error


# --- schemas


@dataclass(frozen=True, eq=False, repr=False)
class Schema:
    """The fields of a step, in the order given: immutable, hashable, picklable.

    `tuples` names the paths that are tuples in nested values (`observation` if that is a Tuple of spaces); all others are dicts.
    SchemaError: no fields, a bad name, a name that is both a field and a path, a role that does not fit the name.
    """

    fields: Mapping[str, Field]
    tuples: frozenset[str] = frozenset()
    _expected: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...] = field(init=False)

    def __post_init__(self) -> None:
        fields = dict(self.fields)
        if not fields:
            raise SchemaError("a schema needs at least one field")
        for name, declared in fields.items():
            _check_name(name)
            if not isinstance(declared, Field):
                raise SchemaError(f"field {name!r}: expected a replaystore Field, came a {type(declared).__name__}")
            _check_role(name, declared.role)
        inner = {name[:place] for name in fields for place in range(len(name)) if name[place] == "/"}
        if both := inner & fields.keys():
            raise SchemaError(f"{min(both)!r} is a field and also the path of other fields: rename one of them")
        tuples = frozenset(self.tuples)
        for path in sorted(tuples):
            items = _items(fields, path)
            if not items or items != set(map(str, range(len(items)))):
                raise SchemaError(f"tuple {path!r} must have the items 0, 1, 2 and so on, and has {_listed(items)}: declare all of them")
        object.__setattr__(self, "fields", MappingProxyType(fields))
        object.__setattr__(self, "tuples", tuples)
        object.__setattr__(self, "_expected", tuple((name, f.dtype, f.shape) for name, f in fields.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fields == other.fields and self.tuples == other.tuples

    def __hash__(self) -> int:
        return hash((frozenset(self.fields.items()), self.tuples))

    def __repr__(self) -> str:
        return f"Schema({', '.join(f'{name}: {f.dtype}{list(f.shape)}' for name, f in self.fields.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Schema, (dict(self.fields), self.tuples)

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
        """The schema of steps in an environment with these spaces: observations, actions, reward, terminated, truncated, then `extra`.

        UnsupportedError: a space, at any depth, whose values are not arrays of a fixed shape.
        """
        leaves: dict[str, tuple[str, gymnasium.Space[Any]]] = {}
        tuples: set[str] = set()
        for role, space in (("observation", observation_space), ("action", action_space)):
            _space_leaves(space, role, role, leaves, tuples)
        fields = {}
        for name, (role, leaf) in leaves.items():
            try:
                described = space_to_json(leaf)  # first, because it refuses spaces without dtype or shape
                fields[name] = Field(np.dtype(leaf.dtype), leaf.shape or (), role, described)
            except (SchemaError, UnsupportedError) as error:
                raise type(error)(f"{name}: {error}") from None
        fields |= {"reward": Field(_field_dtype(reward_dtype), (), "reward")} | {name: Field(np.dtype(bool), (), name) for name in _FLAGS}
        if twice := fields.keys() & (extra or {}).keys():
            raise SchemaError(f"extra field {min(twice)!r} is already there: choose another name")
        return cls(fields | dict(extra or {}), frozenset(tuples))

    @classmethod
    def from_env(cls, env: Any, *, reward_dtype: DTypeLike = np.float64, extra: Mapping[str, Field] | None = None) -> Schema:
        """The schema of a Gymnasium environment, or of one environment of a vector environment."""
        single = "single_" if hasattr(env, "single_observation_space") else ""
        try:
            observation, action = getattr(env, single + "observation_space"), getattr(env, single + "action_space")
        except AttributeError:
            came = f"{type(env).__name__} {env!r:.60}"
            raise SchemaError(f"expected a Gymnasium environment, came a {came}: pass what gymnasium.make or make_vec returns") from None
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
        return _nested_space(unflatten({name: space_from_json(space) for name, space in leaves.items() if space}, role, self.tuples))

    # --- use

    def check(self, columns: Mapping[str, NDArray[Any]]) -> int:
        """How many rows these columns have: one array for each field, of shape (rows, *field shape) and exactly the field's dtype.

        SchemaError names the field, what was expected, what came and what to do. Nothing is converted: neither dtypes nor byte order.
        """
        if len(columns) == len(self._expected):  # the way taken by every append: a few comparisons a field
            rows = -1
            for name, dtype, shape in self._expected:
                array = columns.get(name)
                if type(array) is not np.ndarray or (array.dtype is not dtype and array.dtype != dtype):
                    break
                came = array.shape
                if came[1:] != shape or not came:
                    break
                if rows < 0:
                    rows = came[0]
                elif came[0] != rows:
                    break
            else:
                return rows
        return self._check_one_by_one(columns)

    def _check_one_by_one(self, columns: Mapping[str, Any]) -> int:
        """`check` for subclasses of ndarray, and for whatever is wrong."""
        if missing := self.fields.keys() - columns.keys():
            name = next(name for name in self.fields if name in missing)
            raise SchemaError(f"field {name!r} is missing among {_listed(columns)}: every field of the schema needs a value in every row")
        if unknown := [name for name in columns if name not in self.fields]:
            raise SchemaError(
                f"there is no field {unknown[0]!r} in the schema ({_listed(self.fields)}): leave it out, or add it as a field"
            )
        rows, first = -1, ""
        for name, dtype, shape in self._expected:
            array = columns[name]
            _check_column(name, array, dtype, shape)
            if rows < 0:
                rows, first = array.shape[0], name
            elif array.shape[0] != rows:
                raise SchemaError(
                    f"field {name!r} has {array.shape[0]} rows, but {first!r} has {rows}: give one row of each for every step"
                )
        return rows

    def names(self, role: str) -> tuple[str, ...]:
        """The names of the fields with this role, in order."""
        return tuple(name for name, declared in self.fields.items() if declared.role == role)

    def unflatten(self, columns: Mapping[str, Any], prefix: str) -> Any:
        """The nested value under `prefix` ("observation", "action", …) as Gymnasium gives it; `flatten` is the inverse."""
        return unflatten(columns, prefix, self.tuples)

    def with_field(self, name: str, declared: Field) -> Schema:
        """This schema with one more field, the last."""
        if name in self.fields:
            raise SchemaError(f"there is a field {name!r} already: choose another name")
        return Schema({**self.fields, name: declared}, self.tuples)

    def select(self, names: Iterable[str]) -> Schema:
        """The schema of some fields, in this schema's order; a path such as "observation" stands for all fields below it.

        A tuple that loses items becomes a dict of its items' numbers, because what is left has other places.
        """
        if isinstance(names, str):
            raise SchemaError(f"select takes a list of names: [{names!r}]")
        chosen: set[str] = set()
        for wanted in names:
            found = {name for name in self.fields if name == wanted or name.startswith(f"{wanted}/")}
            if not found:
                raise SchemaError(f"there is no field {wanted!r} among {_listed(self.fields)}: check the name")
            chosen |= found
        whole = {path for path in self.tuples if _items(self.fields, path) == _items(chosen, path)}
        return Schema({name: declared for name, declared in self.fields.items() if name in chosen}, frozenset(whole))

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: fields (a list, because their order matters), tuples."""
        return {"fields": [{"name": name, **f.to_json()} for name, f in self.fields.items()], "tuples": sorted(self.tuples)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Schema:
        """The inverse of `to_json`; FormatError if that is impossible."""
        try:
            fields: dict[str, Field] = {}
            for item in data["fields"]:
                if item["name"] in fields:
                    raise SchemaError(f"field {item['name']!r} is declared twice")
                fields[item["name"]] = Field.from_json(item)
            return cls(fields, frozenset(data.get("tuples", ())))
        except FormatError as error:
            raise FormatError(f"this does not describe a schema: field {item['name']!r}: {error}") from error
        except (KeyError, TypeError, SchemaError) as error:
            raise FormatError(f"this does not describe a schema: {_reason(error)}") from error


def _check_role(name: str, role: str) -> None:
    top = name.partition("/")[0]
    if top in _NAMED_ROLES or role in _NAMED_ROLES:
        if top != role:
            raise SchemaError(f"field {name!r} has the role {role!r}, but its name begins with {top!r}: they must agree")
        if role in _FLAGS and name != role:
            raise SchemaError(f"field {name!r}: {role} is one field, without further parts")
    elif (top == "info") != (role == "info") and role != "mask":
        raise SchemaError(f"field {name!r} has the role {role!r}: the role 'info' (or 'mask') belongs to names below 'info/'")


def _check_column(name: str, array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray):
        came = f"a {type(array).__name__}: pass numpy.asarray(values, dtype={dtype.name!r})"
        raise SchemaError(f"field {name!r}: expected a NumPy array of {dtype}, came {came}")
    if isinstance(array, np.ma.MaskedArray):
        raise SchemaError(f"field {name!r}: expected a plain NumPy array, came a masked one, whose mask would be lost: use .filled(value)")
    if array.dtype != dtype:
        came = f"{array.dtype.newbyteorder('=')} in big-endian byte order" if array.dtype.name == dtype.name else str(array.dtype)
        raise SchemaError(f"field {name!r}: expected dtype {dtype}, came {came}: nothing is cast, use .astype({dtype.name!r})")
    if array.ndim == 0 or array.shape[1:] != shape:
        wanted = f"(rows, {', '.join(map(str, shape))})" if shape else "(rows,)"
        remedy = (
            "a single step needs a first dimension of 1: value[None]" if array.shape == shape else "the first dimension counts the steps"
        )
        raise SchemaError(f"field {name!r}: expected shape {wanted}, came {array.shape}: {remedy}")


def _items(names: Iterable[str], path: str) -> set[str]:
    return {name[len(path) + 1 :].partition("/")[0] for name in names if name.startswith(path + "/")}


def _listed(names: Iterable[str]) -> str:
    """Names for a message, which must stay one readable line."""
    known = [repr(name) for name in names]
    return ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "") if known else "none"


def _reason(error: Exception) -> str:
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)


# --- Gymnasium spaces


def space_to_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """A Gymnasium space as strict JSON.

    Bounds that are the same everywhere are written once, others as nested lists; bounds that are not finite are the strings "Infinity" and
    "-Infinity". UnsupportedError: Text, Sequence, Graph, OneOf and other spaces whose values are not arrays of a fixed shape.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):  # pairs keep the order
        return {"type": "Dict", "spaces": [[_key(key), space_to_json(item)] for key, item in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [space_to_json(item) for item in space.spaces]}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.n)}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "dtype": _dtype_to_json(space.dtype), "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        counts = {"nvec": _bounds_to_json(space.nvec), "start": _bounds_to_json(space.start)}
        return {"type": "MultiDiscrete", "dtype": _dtype_to_json(space.dtype), "shape": list(space.shape)} | counts
    if isinstance(space, spaces.Box):
        low, high = _bounds_to_json(space.low, space.bounded_below), _bounds_to_json(space.high, space.bounded_above, "Infinity")
        return {"type": "Box", "dtype": _dtype_to_json(space.dtype), "shape": list(space.shape), "low": low, "high": high}
    if not isinstance(space, spaces.Space):
        raise SchemaError(f"expected a Gymnasium space, came a {type(space).__name__}: pass an object of gymnasium.spaces")
    remedy = "encode its values as arrays of a fixed size with a wrapper (gymnasium.wrappers.TransformObservation, TransformAction)"
    raise UnsupportedError(f"the values of a {type(space).__name__} space have no fixed shape and dtype: {remedy}")


def space_from_json(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    """The inverse of `space_to_json`; FormatError if that is impossible."""
    try:
        return _space_from_json(data)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise FormatError(f"this does not describe a Gymnasium space: {_reason(error)}") from error


def _space_from_json(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    from gymnasium import spaces

    kind = data["type"]
    if kind == "Dict":
        return spaces.Dict([(key, _space_from_json(item)) for key, item in data["spaces"]])  # pairs, because a dict would be sorted
    if kind == "Tuple":
        return spaces.Tuple([_space_from_json(item) for item in data["spaces"]])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    if kind not in LEAF_SPACES:
        raise ValueError(f"unknown type {kind!r}")
    dtype = np.dtype(data["dtype"])
    if dtype.name not in DTYPES:
        raise ValueError(f"unknown dtype {data['dtype']!r}")
    if kind == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"], dtype=dtype.str)
    shape = tuple(data["shape"])
    if kind == "MultiDiscrete":
        (counts, counted), (start, started) = (_bounds_from_json(data[key], dtype, shape) for key in ("nvec", "start"))
        if not (counted.all() and started.all()):
            raise ValueError("nvec and start must be numbers")
        return spaces.MultiDiscrete(counts, dtype=dtype.str, start=start)
    low, below = _bounds_from_json(data["low"], dtype, shape)
    high, above = _bounds_from_json(data["high"], dtype, shape)
    box: spaces.Box[Any] = spaces.Box(low, high, dtype=dtype)
    if dtype.kind in "iu":  # an integer cannot be infinite, so the array alone does not say that a bound is missing, and sampling asks
        box.bounded_below, box.bounded_above = below, above
    return box


def _nested_space(nested: Any) -> gymnasium.Space[Any]:
    from gymnasium import spaces

    if isinstance(nested, dict):
        return spaces.Dict([(key, _nested_space(item)) for key, item in nested.items()])
    if isinstance(nested, tuple):
        return spaces.Tuple([_nested_space(item) for item in nested])
    leaf: gymnasium.Space[Any] = nested
    return leaf


def _space_leaves(
    space: gymnasium.Space[Any], name: str, role: str, leaves: dict[str, tuple[str, gymnasium.Space[Any]]], tuples: set[str]
) -> None:
    """Add the leaves of `space` to `leaves` by field name, and the paths of tuples to `tuples`."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        items = [(_key(key), item) for key, item in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        items = [(str(place), item) for place, item in enumerate(space.spaces)]
        tuples.add(name)
    else:
        leaves[name] = (role, space)
        return
    if not items:
        raise SchemaError(f"{name}: an empty {type(space).__name__} space has nothing to store: leave it out with a wrapper")
    for key, item in items:
        _space_leaves(item, f"{name}/{_part(key)}", role, leaves, tuples)


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise UnsupportedError(f"a Dict space with the key {key!r}, a {type(key).__name__}, cannot be stored: rename its keys to strings")
    return key


def _dtype_to_json(dtype: np.dtype[Any]) -> str:
    if dtype.name not in DTYPES:
        raise UnsupportedError(f"a space of dtype {dtype} cannot be stored: make it of one of {', '.join(DTYPES)}")
    return dtype.name if dtype.isnative else dtype.str


def _bounds_to_json(array: NDArray[Any], bounded: NDArray[np.bool_] | None = None, missing: str = "-Infinity") -> Any:
    values = array.astype(object)  # Python numbers, whose JSON is exact
    if array.dtype.kind == "f":
        for text, found in zip(_NON_FINITE, (np.isposinf(array), np.isneginf(array), np.isnan(array)), strict=True):
            values[found] = text
    elif bounded is not None:
        values[~bounded] = missing
    flat = values.ravel().tolist()
    return flat[0] if flat and all(repr(value) == repr(flat[0]) for value in flat) else values.tolist()  # repr tells 0.0 from -0.0


def _bounds_from_json(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The array, and where it is bounded."""
    given = np.array(value, dtype=object).reshape(shape) if 0 in shape else np.array(value, dtype=object)
    flat = given.ravel().tolist()
    for number in flat:
        if number not in _ENDLESS.get(dtype.kind, ()) and type(number) not in _BOUND_TYPES.get(dtype.kind, ()):
            raise ValueError(f"{number!r} is not a bound of dtype {dtype}")
    bounded = np.array([not isinstance(number, str) for number in flat], dtype=bool).reshape(given.shape)
    if dtype.kind == "f":
        flat = [float(number) for number in flat]
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
        extremes = {"-Infinity": int(limits.min), "Infinity": int(limits.max)}
        flat = [extremes[number] if isinstance(number, str) else number for number in flat]
    array = np.array(flat, dtype=dtype).reshape(given.shape)
    if isinstance(value, list) and array.shape != shape:
        raise ValueError(f"bounds of shape {array.shape} for a space of shape {shape}")
    return np.broadcast_to(array, shape).copy(), np.broadcast_to(bounded, shape).copy()
