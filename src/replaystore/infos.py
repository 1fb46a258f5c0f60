"""From the info dictionaries of Gymnasium to columns of numbers.

A key `k` is recorded as the field `info/k`, a key `k` of a nested dict `a` as `info/a/k`. As soon as one row has no value for a key, a bool
field `info/_k` (`info/a/_k`; role "mask") says which rows have one, and the others hold zeros. A key without such a field has a value in
every row. Recorded are NumPy and Python numbers and bools and numeric arrays of one shape; None is no value; anything else is left out
with one warning a key. Fields are added to the buffer when a key is first seen.

Two habits of `gymnasium.vector.VectorEnv._add_info` shape this module. The presence of a key is the array `_key` beside it. The dtype of a
key's array is that of the first environment which has it, even if that one has just reset and the value is from the info of the reset: the
values of other environments were then cast to this dtype, without a word. They are left out, because nobody can know them any more.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ReplayStoreWarning, SchemaError, UnsupportedError
from replaystore.names import join_path, split_path
from replaystore.schema import Field
from replaystore.spaces import DTYPES

if TYPE_CHECKING:
    from replaystore.buffer import Buffer

__all__ = ["InfoColumns", "batch_of_one", "exactly"]

_NUMBERS = (bool, int, float, complex)
_Mask = NDArray[np.bool_]


def exactly(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The same values in another dtype; None if one would change, or if floats would lose precision or become integers."""
    given = values.dtype
    if given == dtype:
        return values
    if given.kind in "iu" and dtype.kind in "iufc" and values.size:
        if dtype.kind in "iu":
            low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        else:
            high = 2 ** (int(np.finfo(dtype).nmant) + 1)
            low = -high
        exact = low <= int(values.min()) and int(values.max()) <= high
    else:
        exact = np.can_cast(given, dtype, "safe")
    return values.astype(dtype) if exact else None


def batch_of_one(info: Mapping[Any, Any]) -> dict[Any, Any]:
    """The info of one environment as a vector environment of one would give it, without masks: all of it is there."""
    batch: dict[Any, Any] = {}
    for key, value in info.items():
        if type(value) in _NUMBERS or isinstance(value, np.generic):
            batch[key] = np.array([value])
        elif isinstance(value, np.ndarray):
            batch[key] = value[None]
        elif isinstance(value, Mapping):
            batch[key] = batch_of_one(value)
        else:
            batch[key] = held = np.empty(1, dtype=object)
            held[0] = value
    return batch


@dataclass(eq=False, slots=True)
class _Key:
    """A recorded key. `zeros`: a step's values where nobody has one; `masked`: the buffer has the mask field."""

    name: str
    mask_name: str
    mask_key: str
    zeros: NDArray[Any]
    masked: bool


@dataclass(slots=True)
class _Step:
    """What is known of one step. `rows`: the environments that the infos at hand are about (None: all)."""

    rows: _Mask | None
    found: dict[_Key, tuple[NDArray[Any], _Mask | None]]  # values and where they are; None: in all rows
    same_step: bool = False
    wrappers: bool = False  # a value without a mask of its own was added after the reset, by a wrapper, and is about the step of all


class InfoColumns:
    """Makes the info columns of one vector of environments and adds their fields to the buffer.

    `selected`: True for all keys, False for none, or the keys wanted: "x_position", "episode" (all below it), "episode/r".
    `masks`: whether an array `_k` beside `k` says where `k` is, as in vector environments. `reserved`: keys that are no values.
    `left_out` counts the values that could not be recorded, by key.
    """

    def __init__(self, buffer: Buffer, num_envs: int, selected: bool | Sequence[str], *, masks: bool, reserved: Sequence[str] = ()) -> None:
        if isinstance(selected, str):
            raise SchemaError(f"info takes a list of keys: info=[{selected!r}]")
        self.left_out: dict[str, int] = {}
        self._buffer = buffer
        self._num_envs = num_envs
        self._selected = selected if isinstance(selected, bool) else frozenset(selected)
        self._masks = masks
        self._reserved = tuple(reserved)
        self._true = np.ones(num_envs, dtype=bool)
        self._false = np.zeros(num_envs, dtype=bool)
        self._true_bytes = self._true.tobytes()
        self._steps = 0
        self._schema = buffer.schema
        self._read_schema()

    @property
    def wanted(self) -> bool:
        """Whether any key may be recorded."""
        return self._selected is not False

    def columns(
        self, infos: Mapping[str, Any], resetting: _Mask | None = None, final: Mapping[str, Any] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The values of all info fields in one step, each of shape (num_envs, *field shape).

        `resetting`: environments whose part of `infos` is of a reset; None for none. `final`: the infos of their step before the reset.
        SchemaError: a key has changed its dtype or shape.
        """
        if self._buffer.schema is not self._schema:  # another recorder has added a field
            self._read_schema()
        self._steps += 1
        step = _Step(None, {}, same_step=final is not None)
        if self.wanted:
            if final is not None:
                step.rows = resetting
                self._walk(final, self._tree, (), None, step)
                step.wrappers = True
            if resetting is not None:
                step.rows = ~resetting
            self._walk(infos, self._tree, (), None, step)
        columns: dict[str, NDArray[Any]] = {}
        for key in self._keys:
            values, present = step.found.get(key, (key.zeros, self._false))
            if present is not None and not key.masked:
                self._buffer.add_field(key.mask_name, Field(np.dtype(bool), (), "mask"), fill=1)  # every row before has a value
                key.masked, self._schema = True, self._buffer.schema
            columns[key.name] = values
            if key.masked:
                columns[key.mask_name] = self._true if present is None else present
        return columns

    # --- finding values

    def _walk(self, infos: Mapping[str, Any], tree: dict[Any, Any], path: tuple[str, ...], outer: _Mask | None, step: _Step) -> None:
        """Find the values in `infos`, which are those of the environments in `outer` (None: all)."""
        whole = outer is None and step.rows is None
        for key, value in infos.items():
            node = tree.get(key)
            if node is False:
                continue
            if whole and type(node) is _Key and type(value) is np.ndarray:  # the way taken by nearly every step
                own, zeros = infos.get(node.mask_key), node.zeros
                everywhere = own is None or (type(own) is np.ndarray and own.tobytes() == self._true_bytes)
                if everywhere and value.dtype == zeros.dtype and value.shape == zeros.shape:
                    step.found[node] = value, None
                    continue
            if node is None and not self._meet(infos, tree, path, key, value):
                continue
            mask = infos.get(f"_{key}") if self._masks else None
            own = np.asarray(mask, dtype=bool) if isinstance(mask, np.ndarray) and mask.shape == (self._num_envs,) else None
            present = own if outer is None else outer if own is None else own & outer
            if not isinstance(value, Mapping):
                self._take(value, tree, (*path, key), own, present, step)
            elif isinstance(tree[key], _Key):
                self._leave_out((*path, key), "it is a dict where it was a number")
            else:
                self._walk(value, tree[key], (*path, key), present, step)

    def _take(self, value: Any, tree: dict[Any, Any], path: tuple[str, ...], own: _Mask | None, present: _Mask | None, step: _Step) -> None:
        """Find the value of one key, whose presence according to its own mask and to all masks is given."""
        rows = None if step.wrappers and own is None else step.rows
        if rows is not None:
            present = rows if present is None else present & rows
        if present is not None and not present.any():
            return
        numbers = self._numbers(value, tree.get(path[-1]), path, present)
        if numbers is None:
            return
        values, present = numbers
        node = tree.get(path[-1]) or self._create(tree, path, values)
        if node is None:
            return
        by_reset = own is not None and rows is not None and not rows[own.argmax()]
        fitted = self._fit(values, node, path, by_reset)
        if fitted is None:
            return
        if node in step.found:  # of the final infos
            values, before = step.found[node]
            if before is None:
                return
            fitted = np.where(_over(before, values), values, fitted)
            present = None if present is None else present | before
        covered = self._true if step.same_step or rows is None else rows
        step.found[node] = fitted, None if present is None or (present | ~covered).all() else present

    def _numbers(self, value: Any, node: Any, path: tuple[str, ...], present: _Mask | None) -> tuple[NDArray[Any], _Mask | None] | None:
        """Values as a numeric array (num_envs, ...) with zeros where they are not present, and where they are; None if there are none."""
        if isinstance(node, dict):
            self._leave_out(path, "it is no dict where it was one")
        elif not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            self._leave_out(path, f"it holds a {type(value).__name__}, not numbers")
        elif value.ndim == 0 or value.shape[0] != self._num_envs:
            self._leave_out(path, f"its shape {value.shape} does not begin with the number of environments, {self._num_envs}")
        elif value.dtype == object:
            return self._unpack(value, node, path, present)
        elif value.dtype.name not in DTYPES or 0 in value.shape:
            self._leave_out(path, f"it holds {value.dtype} of shape {value.shape[1:]}")
        elif present is None:
            return np.asarray(value), None
        else:
            kept = np.zeros_like(value, subok=False)
            kept[present] = value[present]
            return kept, present
        return None

    def _unpack(
        self, value: NDArray[Any], node: _Key | None, path: tuple[str, ...], present: _Mask | None
    ) -> tuple[NDArray[Any], _Mask] | None:
        """The numbers in an array of objects, which Gymnasium makes of np.bool_, complex and whatever comes after a None."""
        values: NDArray[Any] | None = None if node is None else node.zeros.copy()
        there = self._false.copy()
        for place in range(self._num_envs) if present is None else np.flatnonzero(present):
            item = value[place]
            if item is None:
                continue
            array = np.asarray(item) if type(item) in _NUMBERS or isinstance(item, np.generic | np.ndarray) else None
            if array is None or array.dtype.name not in DTYPES or array.size == 0:
                self._leave_out(path, f"it holds a {type(item).__name__}, not numbers")
                continue
            if values is None:
                values = np.zeros((self._num_envs, *array.shape), array.dtype)
            fitted = exactly(array, values.dtype) if array.shape == values.shape[1:] else None
            if fitted is None:
                self._leave_out(path, f"it holds {array.dtype} of shape {array.shape} beside {values.dtype} of shape {values.shape[1:]}")
            else:
                values[place], there[place] = fitted, True
        return None if values is None or not there.any() else (values, there)

    def _fit(self, values: NDArray[Any], node: _Key, path: tuple[str, ...], by_reset: bool) -> NDArray[Any] | None:
        """Values in the dtype of their field. `by_reset`: Gymnasium took their dtype from the info of a reset."""
        given, dtype = values.dtype, node.zeros.dtype
        if values.shape != node.zeros.shape:
            fitted = None
        elif not by_reset or given == dtype:
            fitted = exactly(values, dtype)
        elif np.can_cast(dtype, given, "safe"):
            with np.errstate(invalid="ignore"):
                back = values.astype(dtype)
            fitted = back if np.array_equal(back.astype(given), values) else None
        else:
            self._leave_out(path, f"Gymnasium cast it to the {given} that a reset's info has: let reset and step give the same dtype")
            return None
        if fitted is None:
            came, wanted = f"{given} of shape {values.shape[1:]}", f"{dtype} of shape {node.zeros.shape[1:]}"
            remedy = "name the keys to record with info=[...], or record none with info=False"
            raise SchemaError(f"info key {'/'.join(path)!r} is {came} in step {self._steps} of this recording, not {wanted}: {remedy}")
        return fitted

    # --- keys

    def _meet(self, infos: Mapping[Any, Any], tree: dict[Any, Any], path: tuple[str, ...], key: Any, value: Any) -> bool:
        """Place a key seen for the first time; False if it is not to be recorded."""
        if not isinstance(key, str):
            self._leave_out((*path, repr(key)), f"its name is a {type(key).__name__}, not a string")
            tree[key] = False
            return False
        if key[:1] == "_" and key[1:] in infos:
            if not self._masks:
                self._leave_out((*path, key), f"this name is kept for the mask of {key[1:]!r}")
            tree[key] = False
        elif not self._is_wanted((*path, key), below=isinstance(value, Mapping)):
            tree[key] = False
        elif isinstance(value, Mapping):
            tree[key] = {}
        return tree.get(key) is not False

    def _is_wanted(self, path: tuple[str, ...], *, below: bool) -> bool:
        if isinstance(self._selected, bool):
            return self._selected
        name = "/".join(path)
        return any(
            name == wanted or name.startswith(f"{wanted}/") or (below and wanted.startswith(f"{name}/")) for wanted in self._selected
        )

    def _create(self, tree: dict[Any, Any], path: tuple[str, ...], values: NDArray[Any]) -> _Key | None:
        """Add the field of a new key; None if there can be none."""
        before, last = self._buffer.schema, path[-1]
        node = self._node(path, np.zeros((self._num_envs, *values.shape[1:]), values.dtype.newbyteorder("=")))
        try:
            declared = Field(values.dtype, values.shape[1:], "info")
            before.with_field(node.name, declared)
            if node.mask_name in before.fields or (last[:1] == "_" and join_path("info", *path[:-1], last[1:]) in before.fields):
                raise SchemaError("a leading '_' is for masks: its name, or that of its mask, is taken")
        except (SchemaError, UnsupportedError) as error:
            self._leave_out(path, str(error))
            tree[last] = tree[node.mask_key] = False
            return None
        self._buffer.add_field(node.name, declared)
        if self._buffer.rows_recorded:
            self._buffer.add_field(node.mask_name, Field(np.dtype(bool), (), "mask"), fill=0)
            node.masked = True
        self._keys.append(node)
        tree[last] = node
        self._schema = self._buffer.schema
        return node

    def _node(self, path: tuple[str, ...], zeros: NDArray[Any]) -> _Key:
        mask_key = f"_{path[-1]}"
        mask_name = join_path("info", *path[:-1], mask_key)
        return _Key(join_path("info", *path), mask_name, mask_key, zeros, False)

    def _read_schema(self) -> None:
        self._schema = self._buffer.schema
        self._tree: dict[Any, Any] = dict.fromkeys((*self._reserved, *(f"_{key}" for key in self._reserved)), False)
        self._keys: list[_Key] = []
        for name, declared in self._schema.fields.items():
            path = split_path(name)[1:]
            if declared.role != "info" or not path:
                continue
            node = self._node(path, np.zeros((self._num_envs, *declared.shape), declared.dtype))
            node.masked = node.mask_name in self._schema.fields
            self._keys.append(node)
            if self._is_wanted(path, below=False):
                tree = self._tree
                for key in path[:-1]:
                    tree = tree.setdefault(key, {})
                tree[path[-1]] = node

    def _leave_out(self, path: tuple[str, ...], reason: str) -> None:
        name = "/".join(path)
        if name not in self.left_out:
            warnings.warn(f"info key {name!r} is not recorded, or not in every row: {reason}", ReplayStoreWarning, stacklevel=2)
        self.left_out[name] = self.left_out.get(name, 0) + 1


def _over(mask: _Mask, values: NDArray[Any]) -> _Mask:
    """`mask` in a shape that broadcasts along the rows of `values`."""
    return mask.reshape(-1, *(1,) * (values.ndim - 1))
