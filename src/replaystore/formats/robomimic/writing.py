"""A buffer on its way into an HDF5 file of robomimic (demos.py says what is what)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.writing import Following, path_of
from replaystore.formats.shared.hdf5.kept import put_kept
from replaystore.formats.shared.hdf5.writing import NewGroup
from replaystore.formats.source import Block
from replaystore.schema.names import escape

__all__ = ["KEPT_IN", "fill", "next_of"]

KEPT_IN = "replaystore"
NAMES = {"observation": "obs", "action": "action_dict", "reward": "rewards"}
FLAT = "obs/flat"
"""The one array of an observation that is no Dict, as robomimic names it."""
GYM = 2
"""The type of environments of Gymnasium."""


def next_of(path: str) -> str:
    """Of the dataset of an observation, that of what follows."""
    return f"next_{path}"


def _places(chosen: Chosen) -> dict[str, str]:
    """The dataset of each field, in its demonstration."""
    taken = {"dones", "next_obs"}
    places = {}
    for name in chosen.names:
        if name in ("observation", "action"):
            path = FLAT if name == "observation" else "actions"
        elif name == "dones" and chosen.fields[name].shape == ():
            path = "dones"
        else:
            path = path_of(name, taken, NAMES)
        places[name] = path
        taken.add(path)
    return places


def fill(root: NewGroup, chosen: Chosen) -> None:
    """Write all of it."""
    places, data = _places(chosen), root.group("data")
    data.attribute("total", chosen.steps)
    data.attribute("env_args", json.dumps(_env_args(chosen), indent=4))
    demo: _NewDemo | None = None
    for number, block in chosen.blocks():
        if block.begins or demo is None:
            demo = _NewDemo(data.group(f"demo_{number}"), chosen, places, int(chosen.lengths[number]))
        demo.add(block)
        if block.ends:
            root.finish()
    masks: dict[str, list[bytes]] = {}
    called: dict[str, str] = {}
    for number, split in enumerate(chosen.table["split"].tolist()):
        if split:
            name = escape(split)
            called[name] = split
            masks.setdefault(name, []).append(f"demo_{number}".encode())
    for name, members in masks.items():
        root.group("mask").values(name, np.array(members, np.bytes_))
    put_kept(root.group(KEPT_IN), chosen.kept(places, masks=called))


def _env_args(chosen: Chosen) -> dict[str, Any]:
    """What robomimic makes the environment of."""
    known = (chosen.buffer.document.user or {}).get("env_args")
    if isinstance(known, dict):
        return known
    name = (chosen.buffer.environment or {}).get("id") or "unknown"
    return {"env_name": name, "type": GYM, "env_kwargs": {}}


class _NewDemo:
    """A demonstration that is written."""

    def __init__(self, group: NewGroup, chosen: Chosen, places: Mapping[str, str], count: int) -> None:
        group.attribute("num_samples", count)
        self._rows = {}
        following = {}
        for name, declared in chosen.fields.items():
            shape = declared.shape or ((1,) if name == "action" else ())
            self._rows[name] = group.rows(places[name], declared.dtype, shape, count)
            if declared.role == "observation":
                following[name] = group.rows(next_of(places[name]), declared.dtype, shape, count)
        self._following = Following(following)
        self._dones = None
        if "dones" not in places.values():
            self._dones = group.rows("dones", np.dtype(np.int64), (), count)

    def add(self, block: Block) -> None:
        """The next steps."""
        for name, target in self._rows.items():
            target.append(block.columns[name].reshape(-1, *target.shape))
        self._following.add(block)
        if self._dones is not None:
            dones = np.zeros(len(block), np.int64)
            dones[-1:] = block.ends
            self._dones.append(dones)
