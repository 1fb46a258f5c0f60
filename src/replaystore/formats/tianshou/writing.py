"""A buffer on its way into an HDF5 file of Tianshou (buffers.py says what is what)."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.writing import fill_flat, path_of
from replaystore.formats.shared.hdf5.kept import put_kept
from replaystore.formats.shared.hdf5.writing import NewGroup, NewRows
from replaystore.schema.roles import FLAGS

__all__ = ["KEPT_IN", "NAMES", "NEXT", "fill"]

KEPT_IN = "replaystore"
NAMES = {"observation": "obs", "action": "act", "reward": "rew"}
NEXT = "obs_next"
ARRAY: dict[str, Any] = {"__data_type__": "ndarray"}
"""What Tianshou asks each dataset for."""


def _places(chosen: Chosen) -> dict[str, str]:
    """The dataset of each field in `_meta`."""
    taken = {*FLAGS, NEXT, "done", *(NAMES.values() - chosen.fields.keys())}
    places: dict[str, str] = {}
    for name, declared in chosen.fields.items():
        if name in FLAGS:
            places[name] = name
            continue
        own = declared.role in (*NAMES, "info")
        places[name] = path_of(name, taken - set(NAMES.values()) if own else taken, NAMES)
        taken.add(places[name])
    return places


class _Sum:
    """A checksum of rows as they are written."""

    def __init__(self, target: NewRows) -> None:
        self._target, self.found = target, 0

    def append(self, values: NDArray[Any]) -> None:
        """The next rows."""
        self._target.append(values)
        self.found = zlib.crc32(values.tobytes(), self.found)


def fill(root: NewGroup, chosen: Chosen) -> None:
    """Write all of it."""
    places, count = _places(chosen), chosen.steps
    meta = root.group("_meta")
    meta.attribute("__data_type__", "Batch")
    rows: dict[str, Any] = {}
    following: dict[str, NewRows] = {}
    for name, declared in chosen.fields.items():
        rows[name] = meta.rows(places[name], declared.dtype, declared.shape, count, **ARRAY)
        if declared.role == "observation":
            path = NEXT + places[name].removeprefix(NAMES["observation"])
            following[name] = meta.rows(path, declared.dtype, declared.shape, count, **ARRAY)
    sums = {}
    for name in FLAGS:
        if name not in rows:
            rows[name] = meta.rows(name, np.dtype(np.bool_), (), count, **ARRAY)
        sums[name] = rows[name] = _Sum(rows[name])
    fill_flat(chosen, rows, following, meta.rows("done", np.dtype(np.bool_), (), count, **ARRAY))
    if not chosen.schema.names("reward"):
        meta.values("rew", np.zeros(count), **ARRAY)
    if not any(name.partition("/")[0] == "info" for name in places):
        meta.group("info")
    _state(root, chosen)
    put_kept(root.group(KEPT_IN), chosen.kept(places, sum=[sums[name].found for name in FLAGS]), **ARRAY)


def _state(root: NewGroup, chosen: Chosen) -> None:
    """The rest of a ReplayBuffer: one that is full, and goes on at its beginning."""
    count = chosen.steps
    room = max(1, count)
    root.values("_indices", np.arange(room), **ARRAY)
    root.values("last_index", np.array([max(0, count - 1)]), **ARRAY)
    options = {"ignore_obs_next": False, "sample_avail": False, "save_only_last_obs": False, "stack_num": 1}
    for option, chosen_value in options.items():
        root.group("options").attribute(option, chosen_value)
    known: dict[str, int | float] = {
        "maxsize": room,
        "stack_num": 1,
        "_size": count,
        "_insertion_idx": count % room,
        "_ep_len": 0,
        "_ep_return": 0.0,
        "_ep_start_idx": count % room,
        "_save_obs_next": True,
        "_save_only_last_obs": False,
        "_sample_avail": False,
    }
    for name, value in known.items():
        root.attribute(name, value)
