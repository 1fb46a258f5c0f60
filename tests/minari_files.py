"""Datasets as Minari itself writes them: by h5py, without Minari."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["box", "episode", "write_dataset"]

Values = Mapping[str, Any]
"""Of an episode, by the names that Minari has for them; tuples and dicts nested."""


def box(dtype: str, shape: Sequence[int], low: float = -1, high: float = 1) -> dict[str, Any]:
    """A Box, as metadata.json has it."""
    bounds = {"low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}
    return {"type": "Box", "dtype": dtype, "shape": list(shape), **bounds}


def episode(seed: int, steps: int, **more: Any) -> dict[str, Any]:
    """Steps with observations of three numbers, and actions of two."""
    generator = np.random.default_rng(seed)
    ends = np.arange(steps) == steps - 1
    values = {
        "observations": generator.normal(size=(steps + 1, 3)).astype("f4"),
        "actions": generator.normal(size=(steps, 2)),
        "rewards": generator.normal(size=steps),
        "terminations": ends & (seed % 2 == 0),
        "truncations": ends & (seed % 3 == 0),
        "infos": {},
    }
    return {**values, **more}


def write_dataset(
    path: Path,
    episodes: Sequence[Values],
    *,
    observation: Any = None,
    action: Any = None,
    seeds: Sequence[int] | None = None,
    attributes: Values | None = None,
    **metadata: Any,
) -> Path:
    """A dataset in HDF5; its folder."""
    data = path / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "a", track_order=True) as file:
        for number, values in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"] = number
            if seeds is not None:
                group.attrs["seed"] = seeds[number]
            group.attrs["total_steps"] = len(values["rewards"])
            _fill(group, values)
            group.attrs.update(attributes or {})
    told = {
        "total_episodes": len(episodes),
        "total_steps": sum(len(values["rewards"]) for values in episodes),
        "data_format": "hdf5",
        "jpeg_encoding": True,
        "observation_space": json.dumps(observation or box("float32", [3], -np.inf, np.inf)),
        "action_space": json.dumps(action or box("float64", [2])),
        "dataset_id": f"{path.name}",
        "minari_version": "0.5.4",
        **metadata,
    }
    (data / "metadata.json").write_text(json.dumps(told))
    return path


def _fill(group: h5py.Group, values: Values) -> None:
    for name, value in values.items():
        if isinstance(value, tuple):
            value = {f"_index_{place}": item for place, item in enumerate(value)}  # noqa: PLW2901
        if isinstance(value, Mapping):
            _fill(group.require_group(name), value)
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            data = np.empty(len(value), object)
            for place, item in enumerate(value):
                data[place] = np.frombuffer(item, np.uint8)
            group.create_dataset(name, data=data, dtype=h5py.vlen_dtype(np.uint8), chunks=True)
        else:
            texts = isinstance(value, list) and value and isinstance(value[0], str)
            kind = h5py.string_dtype("utf-8") if texts else None
            shape = np.shape(value)[1:]
            group.create_dataset(name, data=value, dtype=kind, chunks=True, maxshape=(None, *shape))
