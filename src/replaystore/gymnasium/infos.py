"""From the info dictionaries of Gymnasium to columns of numbers.

A key `k` is recorded as the field `info/k`, a key `k` of a nested dict `a` as `info/a/k`. As soon as one row
has no value for a key, a bool field `info/_k` (`info/a/_k`; role "mask") says which rows have one, and the
others hold zeros. A key without such a field has a value in every row. Recorded are NumPy and Python numbers
and bools and numeric arrays; None is no value; anything else is left out. The first value that is recorded
says the dtype and the shape of the field: a later one that is of another shape, or that the dtype does not
hold exactly, is left out as well. What is left out is counted, with one warning a key: an info never ends a
recording. Fields are added to the buffer when a key is first seen.

Two habits of `gymnasium.vector.VectorEnv._add_info` shape this module. The presence of a key is the array
`_key` beside it. The dtype of a key's array is that of the first environment which has it, even if that one
has just reset and the value is from the info of the reset: the values of other environments were then cast to
this dtype, without a word. They are left out, because nobody can know them any more, as soon as the dtype is
another than that of the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.gymnasium.info_keys import TOO_MANY, InfoKeys, Key, named
from replaystore.schema.names import MAX_PARTS
from replaystore.schema.spaces import DTYPES
from replaystore.schema.values import exactly

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

__all__ = ["InfoColumns", "batch_of_one"]

_NUMBERS = (bool, int, float, complex)
_Mask = NDArray[np.bool_]


def batch_of_one(info: Any, _around: tuple[int, ...] = ()) -> Any:
    """The info of one environment as a vector environment of one would give it, without masks: all of it is
    there."""
    if type(info) is not dict and not isinstance(info, Mapping):
        return info
    batch: dict[Any, Any] = {}
    around = (*_around, id(info))
    for key, value in info.items():
        if type(value) in _NUMBERS or isinstance(value, np.generic):
            batch[key] = np.array([value])
        elif type(value) is np.ndarray:
            batch[key] = value[None]
        elif isinstance(value, np.ndarray):
            batch[key] = value[None] if isinstance(value, np.ma.MaskedArray) else np.asarray(value)[None]
        elif isinstance(value, Mapping) and id(value) not in around and len(around) < MAX_PARTS:
            batch[key] = batch_of_one(value, around)
        else:
            batch[key] = held = np.empty(1, dtype=object)
            held[0] = value
    return batch


@dataclass(slots=True)
class _Step:
    """What is known of one step. `rows`: the environments that the infos at hand are about (None: all)."""

    rows: _Mask | None
    found: dict[Key, tuple[NDArray[Any], _Mask | None]]  # values and where they are; None: in all rows
    same_step: bool = False
    # a value without a mask of its own was added after the reset, by a wrapper, and is about the step of all.
    wrappers: bool = False


class InfoColumns:
    """Makes the info columns of one vector of environments and adds their fields to the buffer.

    `selected`: True for all keys, False for none, or the keys wanted: "x_position", "episode" (all below it),
    "episode/r". `masks`: whether an array `_k` beside `k` says where `k` is, as in vector environments.
    `reserved`: keys that are no values. `left_out` counts the values that could not be recorded, by key.
    """

    def __init__(
        self,
        buffer: Buffer,
        num_envs: int,
        selected: bool | Sequence[str],
        *,
        masks: bool,
        reserved: Sequence[str] = (),
    ) -> None:
        if not hasattr(buffer, "rows_recorded"):  # such as a path, which no annotation keeps out
            raise ArgumentError(
                f"buffer is what replaystore.create(path, env) returns, or replaystore.open(path, 'r+'), not "
                f"{buffer!r:.80}"
            )
        self.keys = InfoKeys(buffer, num_envs, selected, masks=masks, reserved=reserved)
        self.left_out = self.keys.left_out
        self.wanted = self.keys.wanted
        """Whether any key may be recorded."""
        self._num_envs = num_envs
        self._masks = masks
        self._true = np.ones(num_envs, dtype=bool)
        self._false = np.zeros(num_envs, dtype=bool)
        self._true_bytes = self._true.tobytes()

    def usual(self, infos: Any) -> dict[str, Any] | None:
        """The columns of infos that have every recorded key, everywhere, and nothing else, as those of nearly
        all steps; None: others. Whether they are as their fields have them is for the writer to see."""
        keys, true, masks = self.keys, self._true_bytes, self._masks
        keys.look()
        if type(infos) is not dict:
            return None
        columns: dict[str, Any] = {**keys.alone}
        seen, tree = 0, keys.tree
        if not self.wanted:
            return None if keys.recorded else columns
        for key in keys.recorded:
            last = key.last
            if tree.get(last) is not key:
                return None
            own = infos.get(key.mask_key)
            if own is not None:
                if not masks or type(own) is not np.ndarray or own.tobytes() != true:
                    return None
                seen += 1
            seen += 1
            columns[key.name] = infos.get(last)
            if key.masked:
                columns[key.mask_name] = self._true
        return columns if seen == len(infos) else None

    def columns(
        self, infos: Any, resetting: _Mask | None = None, final: Any = None
    ) -> dict[str, NDArray[Any]]:
        """The values of all info fields in one step, each of shape (num_envs, *field shape).

        `resetting`: environments whose part of `infos` is of a reset; None for none. `final`: the infos of
        their step before the reset.
        """
        keys = self.keys
        keys.look()
        if type(infos) is dict and not infos and final is None and not keys.recorded:
            return keys.alone.copy()
        step = _Step(None, {}, same_step=final is not None)
        if self.wanted:
            if final is not None:
                step.rows = resetting
                self._look(final, step)
                step.wrappers = True
            if resetting is not None:
                step.rows = ~resetting
            self._look(infos, step)
        columns = keys.alone.copy()
        for key in keys.recorded:
            values, present = step.found.get(key, (key.zeros, self._false))
            if present is not None and not key.masked:
                self.keys.mask(key)
            columns[key.name] = values
            if key.masked:
                columns[key.mask_name] = self._true if present is None else present
        if self.keys.new:
            self.keys.add_fields()
        return columns

    # --- finding values

    def _look(self, infos: Any, step: _Step) -> None:
        """Find the values in the infos at hand."""
        if isinstance(infos, Mapping):
            self._walk(infos, self.keys.tree, (), None, step)
        else:
            remedy = "put the recorder inside of the wrapper that makes it of a dict"
            self.keys.leave_out("*", f"the infos came as a {type(infos).__name__}: {remedy}", step.rows)

    def _walk(
        self,
        infos: Mapping[str, Any],
        tree: dict[Any, Any],
        path: tuple[str, ...],
        outer: _Mask | None,
        step: _Step,
    ) -> None:
        """Find the values in `infos`, which are those of the environments in `outer` (None: all)."""
        whole = outer is None and step.rows is None
        for key, value in infos.items():
            node = tree.get(key)
            if node is False:
                continue
            if whole and type(node) is Key and type(value) is np.ndarray:  # beside others that are unusual
                own, zeros = infos.get(node.mask_key), node.zeros
                everywhere = own is None or (type(own) is np.ndarray and own.tobytes() == self._true_bytes)
                if everywhere and value.dtype == zeros.dtype and value.shape == zeros.shape:
                    step.found[node] = value, None
                    continue
            if node is None:
                node = self.keys.meet(infos, tree, path, key, value)
                if node is False:
                    continue
            mask = infos.get(f"_{key}") if self._masks else None
            own = (
                np.asarray(mask, dtype=bool)
                if isinstance(mask, np.ndarray) and mask.shape == (self._num_envs,)
                else None
            )
            among = own if outer is None else outer if own is None else own & outer
            if isinstance(node, dict) and isinstance(value, Mapping):
                self._walk(value, node, (*path, key), among, step)
                continue
            rows = None if step.wrappers and own is None else step.rows
            present = among if rows is None else rows if among is None else among & rows
            if present is not None and not present.any():
                continue
            if isinstance(node, str):
                self.keys.leave_out("*" if node is TOO_MANY else named((*path, key)), node, present)
            elif isinstance(value, Mapping):
                self.keys.leave_out(named((*path, key)), "it is a dict where it was a number", present)
            else:
                self._take(value, tree, (*path, key), own, rows, present, step)

    def _take(
        self,
        value: Any,
        tree: dict[Any, Any],
        path: tuple[str, ...],
        own: _Mask | None,
        rows: _Mask | None,
        present: _Mask | None,
        step: _Step,
    ) -> None:
        """Find the value of one key: `own` is its mask, `rows` says which environments are asked about,
        `present` those that have it."""
        numbers = self._numbers(value, tree.get(path[-1]), path, present)
        if numbers is None:
            return
        node = tree.get(path[-1]) or self.keys.create(tree, path, *numbers)
        if node is None:
            return
        by_reset = own is not None and rows is not None and not rows[own.argmax()]
        fitted, present = self._fit(*numbers, node, path, own, by_reset=by_reset)
        if present is not None and not present.any():
            return
        if node in step.found:  # of the final infos
            values, before = step.found[node]
            if before is None:
                return
            fitted = np.where(_over(before, values), values, fitted)
            present = None if present is None else present | before
        covered = self._true if step.same_step or rows is None else rows
        step.found[node] = fitted, None if present is None or (present | ~covered).all() else present

    def _numbers(
        self, value: Any, node: Any, path: tuple[str, ...], present: _Mask | None
    ) -> tuple[NDArray[Any], _Mask | None] | None:
        """Values as a numeric array (num_envs, ...) with zeros where they are not present, and where they
        are; None if there are none."""
        name = named(path)
        if isinstance(node, dict):
            self.keys.leave_out(name, "it is no dict where it was one", present)
        elif not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
            self.keys.leave_out(name, _no_numbers(value), present)
        elif value.ndim == 0 or value.shape[0] != self._num_envs:
            self.keys.leave_out(
                name,
                f"its shape {value.shape} does not begin with the number of environments, {self._num_envs}",
                present,
            )
        elif value.dtype == object:
            return self._unpack(value, node, path, present)
        elif value.dtype.name not in DTYPES or 0 in value.shape:
            self.keys.leave_out(name, f"it holds {value.dtype} of shape {value.shape[1:]}", present)
        elif present is None:
            return np.asarray(value), None
        else:
            kept = np.zeros_like(value, subok=False)
            kept[present] = value[present]
            return kept, present
        return None

    def _unpack(
        self, value: NDArray[Any], node: Key | None, path: tuple[str, ...], present: _Mask | None
    ) -> tuple[NDArray[Any], _Mask] | None:
        """The numbers in an array of objects, which Gymnasium makes of np.bool_, complex and whatever comes
        after a None."""
        values: NDArray[Any] | None = None if node is None else node.zeros.copy()
        there = self._false.copy()
        for place in range(self._num_envs) if present is None else np.flatnonzero(present):
            item = value[place]
            if item is None:
                continue
            array = (
                np.asarray(item)
                if type(item) in _NUMBERS or isinstance(item, np.generic | np.ndarray)
                else None
            )
            if array is None or array.dtype.name not in DTYPES or array.size == 0:
                self.keys.leave_out(named(path), _no_numbers(item), 1)
                continue
            if values is None:
                values = np.zeros((self._num_envs, *array.shape), array.dtype)
            fitted = exactly(array, values.dtype) if array.shape == values.shape[1:] else None
            if fitted is None:
                beside = f"{values.dtype} of shape {values.shape[1:]}"
                self.keys.leave_out(
                    named(path), (f"it holds {array.dtype} of shape {array.shape} beside {beside}"), 1
                )
            else:
                values[place], there[place] = fitted, True
        return None if values is None or not there.any() else (values, there)

    def _fit(
        self,
        values: NDArray[Any],
        present: _Mask | None,
        node: Key,
        path: tuple[str, ...],
        own: _Mask | None,
        *,
        by_reset: bool,
    ) -> tuple[NDArray[Any], _Mask | None]:
        """Values in the dtype of their field, zeros where there is none, and where they are.

        `own`: the mask of the key, if Gymnasium may have cast them to the dtype of the first one there;
        `by_reset`: which is of a reset."""
        given, dtype = values.dtype, node.zeros.dtype
        if given == dtype and values.shape == node.zeros.shape:
            return values, present
        asked = self._true if present is None else present
        kept = asked
        reason = (
            f"it is {given} of shape {values.shape[1:]} where it was {dtype} of shape {node.zeros.shape[1:]}"
        )
        if values.shape != node.zeros.shape:
            kept = self._false
        elif by_reset and np.can_cast(dtype, given, "safe"):
            with np.errstate(invalid="ignore"):
                back = values.astype(dtype)
            if np.array_equal(back.astype(given), values):
                return back, present
        elif own is not None and not np.can_cast(dtype, given, "safe"):
            whose = "a reset's info" if by_reset else "the first environment's"
            reason = (
                f"Gymnasium cast it to the {given} of {whose}, where it was {dtype}: give the same "
                "dtype everywhere and always"
            )
            kept = asked & (np.arange(self._num_envs) == (-1 if by_reset else own.argmax()))
        whole = exactly(values, dtype) if kept is asked else None
        if whole is not None:
            return whole, present
        fitted, there = node.zeros.copy(), self._false.copy()
        for place in np.flatnonzero(kept).tolist():
            one = exactly(values[place : place + 1], dtype)
            if one is not None:
                fitted[place], there[place] = one[0], True
        if (left := asked & ~there).any():
            self.keys.leave_out(named(path), reason, left)
        return fitted, None if present is None and there.all() else there


def _over(mask: _Mask, values: NDArray[Any]) -> _Mask:
    """`mask` in a shape that broadcasts along the rows of `values`."""
    return mask.reshape(-1, *(1,) * (values.ndim - 1))


def _no_numbers(value: object) -> str:
    """Why a value is not recorded."""
    if type(value) is int:
        return "it holds an integer that 64 bits do not hold"
    return f"it holds a {type(value).__name__}, not numbers"
