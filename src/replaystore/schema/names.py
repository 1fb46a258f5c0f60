"""Names of fields: paths made of nested keys, the names that stores give them, and nested values taken apart
by them.

A field name is a path whose parts are joined by `/`: `reward`, `observation/camera`, `observation/joints/0`
(item 0 of a Tuple). Inside a part only `%` and `/` are written otherwise (`%25`, `%2F`), and the empty key is
a lone `%`: `join_path` makes a name of keys, `split_path` undoes it. Stores hold a field under
`escape_path(name)`, where everything that a file system, Zarr or HDF5 might take amiss is percent-encoded
too. Names that differ in case only are distinct, so a store with both needs a case-sensitive file system.

Invariants:
1. `unescape(escape(key)) == key` and, for one or more keys, `split_path(join_path(*keys)) == keys`: distinct
   keys have distinct names.
2. What `escape` makes of a key never changes, whatever the version of Python: stores have been written with
   it.
3. `unflatten` undoes `flatten`, if it is told which paths are tuples.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Never, TypeVar

from replaystore.errors import FormatError, SchemaError, UnknownFieldError

__all__ = [
    "GRAPH",
    "MAX_PARTS",
    "Named",
    "check_name",
    "escape",
    "escape_path",
    "flatten",
    "join_path",
    "listed",
    "members",
    "paths_above",
    "split_path",
    "unescape",
    "unescape_path",
    "unflatten",
    "unknown",
]

Value = TypeVar("Value")

_PLAIN = re.compile(r"(?!__)[A-Za-z0-9_\-](?:[A-Za-z0-9_\- ]*[A-Za-z0-9_\-])?")
_DEVICES = re.compile(r"(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])")  # names that Windows keeps for itself
_MAX_PART_BYTES = 200  # file systems allow 255; temporary files need some of them
_MAX_NAME_BYTES = 2000  # paths have at most 4096, those of the folder that the store lies in included
MAX_PARTS = 64
GRAPH = ("nodes", "edges", "edge_links")
"""What the graphs of Gymnasium are made of; without a space of edges of nodes alone."""


def escape(key: str) -> str:
    """The name under which a store holds one path part; equal to `key` if that is plain: letters, digits,
    `_`, `-`, inner spaces.

    Letters outside ASCII stay readable while no file system can change them: only those of Unicode 3.2 (whose
    table is the same in every Python, so that the name is too), and only if the part is in normal form NFC.
    Distinct keys have distinct names.
    """
    if not key:
        return "%"
    if _PLAIN.fullmatch(key) and not _DEVICES.fullmatch(key):
        return key
    escaped = _encode(key, letters=True)
    if escaped.isascii() or (
        unicodedata.is_normalized("NFC", key) and unicodedata.is_normalized("NFC", escaped)
    ):
        return escaped
    return _encode(key, letters=False)


def unescape(part: str) -> str:
    """The key that `escape` made this of; FormatError if it is not of its making."""
    try:
        key = "" if part == "%" else re.sub(r"(?:%[0-9A-F]{2})+", _decode, part)
    except UnicodeDecodeError:
        key = None
    if key is None or escape(key) != part:
        raise FormatError(
            f"{part!r} is not an escaped name; it was not written by replaystore: rename or remove it"
        )
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
    """The keys of a field name; SchemaError if a part is empty or has a `%` that is not followed by 25 or
    2F."""
    keys = []
    for part in name.split("/"):
        if part == "%":
            keys.append("")
        elif not part:
            raise SchemaError(
                f"field name {name!r} has an empty part: name every part, or write '%' for an empty key"
            )
        elif "%" in part and re.search("%(?!25|2F)", part):
            raise SchemaError(
                f"field name {name!r} has a bare '%': make names of keys with "
                "replaystore.schema.names.join_path, "
                "which writes '%25'"
            )
        else:
            keys.append(part.replace("%2F", "/").replace("%25", "%"))
    return tuple(keys)


def check_name(name: object) -> None:
    """SchemaError if a field cannot have this name."""
    if not isinstance(name, str):
        raise SchemaError(f"a field name must be a string, not {type(name).__name__} {name!r}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SchemaError(f"field name {name!r} is not valid Unicode text: choose another") from None
    if len(name) > _MAX_NAME_BYTES or name.count("/") >= MAX_PARTS:
        raise SchemaError(
            f"field name {name!r:.80} has over {_MAX_NAME_BYTES} letters or {MAX_PARTS} "
            "parts: choose a shorter one"
        )
    for key in split_path(name):
        if len(escape(key).encode()) > _MAX_PART_BYTES:
            raise SchemaError(
                f"field name {name!r}: a part takes over {_MAX_PART_BYTES} bytes in a store: "
                "choose a shorter one"
            )


def listed(names: Iterable[str]) -> str:
    """Names for a message, which must stay one readable line."""
    known = [repr(name) for name in names]
    return (
        ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "") if known else "none"
    )


def unknown(name: object, known: Iterable[str], what: str = "field", where: str = "") -> UnknownFieldError:
    """The error for a name that nothing has: it names one that is nearly the same, or what lies below it, and
    those there are."""
    import difflib

    names = list(known)
    below = [other for other in names if isinstance(name, str) and other.startswith(f"{name}/")]
    if below:
        advice = f"; it is the beginning of {len(below)} names: write one of them out"
    elif what == "field" and isinstance(name, str) and name.split("/")[0] == "next_observation":
        advice = "; it is derived: trajectory[...] and the batches of a sampler have it with the observations"
    else:
        near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else []
        advice = f": did you mean {near[0]!r}?" if near else ": check the name"
    return UnknownFieldError(
        f"{where and where + ': '}there is no {what} {name!r} among {listed(below or names)}{advice}"
    )


class Named(dict[str, Value]):
    """A dict by name in which an unknown name is an `UnknownFieldError` that lists those there are."""

    def __missing__(self, name: object) -> Never:
        raise unknown(name, self)


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
            keep = (char.isalnum() or char in "_-" or (char == " " and inner)) and not (
                reserved and place == 0
            )
        else:
            category = unicodedata.ucd_3_2_0.category(char) if letters else ""
            # a leading mark joins what is before.
            keep = category[:1] == "L" or category == "Nd" or (category[:1] == "M" and place > 0)
        parts.append(
            char if keep else "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        )
    return "".join(parts)


# --- nested values


def flatten(
    value: Any, prefix: str, leaves: Collection[str] = (), graphs: Collection[str] = ()
) -> dict[str, Any]:
    """{field name: leaf} of a nested observation or action as Gymnasium gives it; a value that is no dict or
    tuple is itself a leaf.

    Key `k` of a dict becomes `prefix/k`, item `i` of a tuple `prefix/i`. What has its name in `leaves` is
    not taken apart, whatever it is; what has it in `graphs`, a GraphInstance or several of them, into its
    arrays. SchemaError: an empty dict or tuple, a key that is not a string.
    """
    found: dict[str, Any] = {}
    _flatten_into(found, value, prefix, leaves, graphs)
    return found


def _flatten_into(
    found: dict[str, Any], value: Any, name: str, leaves: Collection[str], graphs: Collection[str]
) -> None:
    if name in leaves:
        found[name] = value
        return
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif name in graphs:
        found.update(_parts_of_graphs(name, value, leaves))
        return
    elif isinstance(value, tuple):
        items = ((str(place), item) for place, item in enumerate(value))
    else:
        found[name] = value
        return
    if not value:
        raise SchemaError(
            f"{name!r} is an empty {type(value).__name__}: there is nothing to store, leave it out"
        )
    for key, item in items:
        if not isinstance(key, str):
            raise SchemaError(f"{name!r} has the key {key!r}, a {type(key).__name__}: keys must be strings")
        _flatten_into(found, item, f"{name}/{_part(key)}", leaves, graphs)


def _parts_of_graphs(name: str, value: Any, leaves: Collection[str]) -> dict[str, Any]:
    """The arrays of one graph, or lists of those of several. Edges that are None are none, and are left out
    where there are no fields of them."""
    single = hasattr(value, GRAPH[0])
    graphs = [value] if single else list(value) if isinstance(value, Iterable) else [None]
    odd = next((graph for graph in graphs if not all(hasattr(graph, part) for part in GRAPH)), graphs)
    if odd is not graphs:
        raise SchemaError(
            f"{name!r}: expected a GraphInstance of Gymnasium, came a {type(odd).__name__}: give one with "
            f"{', '.join(GRAPH)}"
        )
    found: dict[str, Any] = {}
    for part in GRAPH:
        given = [getattr(graph, part) for graph in graphs]
        if f"{name}/{part}" in leaves or any(one is not None for one in given):
            arrays = [() if one is None else one for one in given]
            found[f"{name}/{part}"] = arrays[0] if single else arrays
    return found


def unflatten(
    columns: Mapping[str, Any], prefix: str, tuples: Collection[str] = (), graphs: Collection[str] = ()
) -> Any:
    """The inverse of `flatten`: the value under `prefix`, nested as the names say.

    `tuples` are the paths that are tuples (see `Schema.tuples`), `graphs` those that are graphs, all others
    are dicts. SchemaError: there is no such field.
    """
    if prefix in columns:
        return columns[prefix]
    begin = prefix + "/"
    parts = dict.fromkeys(name[len(begin) :].partition("/")[0] for name in columns if name.startswith(begin))
    if not parts:
        raise unknown(prefix, columns)
    if prefix in graphs:
        from gymnasium.spaces import GraphInstance

        nodes, *edges = [columns.get(f"{begin}{part}", ()) for part in GRAPH]
        # An array without edges is what Gymnasium has None for.
        return GraphInstance(nodes, *(None if _is_empty(part) else part for part in edges))
    if prefix in tuples:
        return tuple(unflatten(columns, f"{begin}{place}", tuples, graphs) for place in range(len(parts)))
    return {split_path(part)[0]: unflatten(columns, begin + part, tuples, graphs) for part in parts}


def _is_empty(part: Any) -> bool:
    return part == () if isinstance(part, tuple) else hasattr(part, "ndim") and not len(part)


# --- paths


def paths_above(name: str) -> list[str]:
    """The paths above a name."""
    parts = name.split("/")
    return ["/".join(parts[:place]) for place in range(1, len(parts))]


def members(names: Iterable[str]) -> dict[str, set[str]]:
    """What lies directly below each path."""
    found: dict[str, set[str]] = {}
    for name in names:
        for path in paths_above(name):
            found.setdefault(path, set()).add(name[len(path) + 1 :].partition("/")[0])
    return found
