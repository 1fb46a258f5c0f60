"""The keys of infos: which are recorded, under which field, and what is left out.

Keys stand in a tree as the infos are nested. What stands there for a key is a `Key`; a dict, for a nested
one; False, if nobody wants it; or a text that says why it cannot be recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, ReplayStoreWarning, SchemaError, UnsupportedError
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import join_path, split_path

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

__all__ = ["MASK", "TOO_MANY", "InfoKeys", "Key", "named"]

MAX_KEYS = 1000
"""So many keys are told apart; an environment that makes a new one in each step would make a field of
each."""
MASK = Field(np.dtype(bool), (), "mask")
TOO_MANY = f"there are over {MAX_KEYS} keys: name those to record with info=[...]"
_Mask = NDArray[np.bool_]


@dataclass(eq=False, slots=True)
class Key:
    """A recorded key. `zeros`: a step's values where nobody has one; `masked`: the buffer has the mask
    field."""

    name: str
    last: str
    mask_name: str
    mask_key: str
    zeros: NDArray[Any]
    masked: bool


class InfoKeys:
    """The keys of one vector of environments; it adds their fields to the buffer."""

    def __init__(
        self,
        buffer: Buffer,
        num_envs: int,
        selected: bool | Sequence[str],
        *,
        masks: bool,
        reserved: Sequence[str] = (),
    ) -> None:
        if isinstance(selected, str):
            raise ArgumentError(f"info takes a list of keys: info=[{selected!r}]")
        self.left_out: dict[str, int] = {}
        self._buffer = buffer
        self._num_envs = num_envs
        self._selected = selected if isinstance(selected, bool) else frozenset(selected)
        self.wanted = self._selected is not False
        """Whether any key may be recorded."""
        self._masks = masks
        self._reserved = tuple(reserved)
        self.schema = buffer.schema
        self.new: dict[str, tuple[Field, Literal[0, 1]]] = {}
        """Fields that the infos at hand ask for, and what earlier rows have there."""
        self.read_schema()

    def look(self) -> None:
        """Begin anew if another recorder has added a field."""
        if self._buffer.schema is not self.schema:
            self.read_schema()

    def mask(self, key: Key) -> None:
        """A key is missing in a row, for the first time: every row before has a value."""
        self.new[key.mask_name] = MASK, 1
        key.masked = True

    def meet(
        self, infos: Mapping[Any, Any], tree: dict[Any, Any], path: tuple[str, ...], key: Any, value: Any
    ) -> Any:
        """What stands in the tree for a key seen for the first time: False if nobody wants it, a text if it
        cannot be recorded, and why."""
        node: Any = None
        if not isinstance(key, str):
            node = f"its name is a {type(key).__name__}, not a string"
        elif key[:1] == "_" and key[1:] in infos:
            node = False if self._masks else f"this name is kept for the mask of {key[1:]!r}"
        elif not self._is_wanted((*path, key), below=isinstance(value, Mapping)):
            node = False
        elif isinstance(value, Mapping):
            node = {}
        if self._met >= MAX_KEYS:
            return False if node is False else TOO_MANY
        self._met += 1
        if node is not None:
            tree[key] = node
        return node

    def _is_wanted(self, path: tuple[str, ...], *, below: bool) -> bool:
        if isinstance(self._selected, bool):
            return self._selected
        name = "/".join(path)
        return any(
            name == wanted or name.startswith(f"{wanted}/") or (below and wanted.startswith(f"{name}/"))
            for wanted in self._selected
        )

    def create(
        self, tree: dict[Any, Any], path: tuple[str, ...], values: NDArray[Any], present: _Mask | None
    ) -> Key | None:
        """Add the field of a new key; None if there can be none."""
        last = path[-1]
        node = self._node(path, np.zeros((self._num_envs, *values.shape[1:]), values.dtype.newbyteorder("=")))
        added = {name: field for name, (field, _) in self.new.items()}
        known = {**self.schema.fields, **added, **{key.mask_name: MASK for key in self.recorded}}
        try:
            if {node.name, node.mask_name} & known.keys():
                raise SchemaError("a leading '_' is for masks: its name, or that of its mask, is taken")
            declared = Field(values.dtype, values.shape[1:], "info")
            near = {name: known[name] for name in known if _on_one_path(name, node.name, node.mask_name)}
            Schema({**near, node.name: declared, node.mask_name: MASK})
        except (SchemaError, UnsupportedError) as error:
            self.leave_out(named(path), str(error), present)
            tree[last] = str(error)
            return None
        self.new[node.name] = declared, 0
        if self._buffer.rows_recorded:
            self.new[node.mask_name] = MASK, 0
            node.masked = True
        self.recorded.append(node)
        tree[last] = node
        return node

    def add_fields(self) -> None:
        """Add the new fields to the buffer, all at once: each time costs as much as a commit."""
        new, self.new = self.new, {}
        try:
            self._buffer.add_fields(
                {name: declared for name, (declared, _) in new.items()},
                fill={name: fill for name, (_, fill) in new.items()},
            )
        except BaseException:
            self.read_schema()  # none of them is there
            raise
        self.schema = self._buffer.schema

    def _node(self, path: tuple[str, ...], zeros: NDArray[Any]) -> Key:
        mask_key = f"_{path[-1]}"
        mask_name = join_path("info", *path[:-1], mask_key)
        return Key(join_path("info", *path), path[-1], mask_name, mask_key, zeros, False)

    def read_schema(self) -> None:
        """Begin with the fields that the buffer has."""
        self.schema = self._buffer.schema
        self.tree: dict[Any, Any] = dict.fromkeys(
            (*self._reserved, *(f"_{key}" for key in self._reserved)), False
        )
        self.recorded: list[Key] = []
        self.alone: dict[str, NDArray[Any]] = {}
        fields = self.schema.fields
        for name, declared in fields.items():
            path = split_path(name)[1:]
            if name.startswith("info/") and declared.role == "mask":
                self.alone[name] = np.zeros((self._num_envs, *declared.shape), bool)
            if declared.role != "info" or not path:
                continue
            if declared.ragged:
                raise SchemaError(
                    f"field {name!r} is of any length, and of infos numbers of one shape are recorded: add a "
                    "field of the role 'extra' for it, and give its values with each step, "
                    "step(actions, extra={…})"
                )
            node = self._node(path, np.zeros((self._num_envs, *declared.shape), declared.dtype))
            node.masked = node.mask_name in fields
            if node.masked and (fields[node.mask_name].role, fields[node.mask_name].shape) != ("mask", ()):
                raise SchemaError(
                    f"field {node.mask_name!r} has the name of the mask of {name!r}: declare it with role "
                    "'mask', or rename it"
                )
            self.recorded.append(node)
            if self._is_wanted(path, below=False):
                tree = self.tree
                for key in path[:-1]:
                    tree = tree.setdefault(key, {})
                tree[path[-1]] = node
        self._met = len(self.recorded)

    def leave_out(self, name: str, reason: str, where: _Mask | int | None) -> None:
        """Count values that are not recorded, and warn the first time. `where`: how many, or of which
        environments (None: of all)."""
        if name not in self.left_out and len(self.left_out) >= MAX_KEYS:
            name, reason = "*", TOO_MANY
        if name not in self.left_out:
            what = "an info key" if name == "*" else f"info key {name!r}"
            warnings.warn(
                f"{what} is not recorded, or not in every row: {reason}", ReplayStoreWarning, stacklevel=2
            )
        count = self._num_envs if where is None else where if isinstance(where, int) else int(where.sum())
        self.left_out[name] = self.left_out.get(name, 0) + count


def named(path: tuple[Any, ...]) -> str:
    """What a key is called in warnings and in `left_out`."""
    return "/".join(key if isinstance(key, str) else repr(key) for key in path)


def _on_one_path(name: str, *others: str) -> bool:
    """Whether a name is the beginning of the path of one of the others, or one of them of its own."""
    return any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in others)
