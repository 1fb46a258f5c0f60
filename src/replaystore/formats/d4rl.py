"""D4RL's layout of HDF5 files: one array a name, one row a step, one trajectory behind the other.

| in the file                | in a buffer                                                                   |
|----------------------------|-------------------------------------------------------------------------------|
| observations, actions      | `observation`, `action`; a group of them is a Dict                            |
| rewards                    | `reward`                                                                      |
| terminals, timeouts        | `terminated`, `truncated`, which are where trajectories end                   |
| next_observations          | the next row, and at ends the final observation; if it is neither, a field    |
| infos/qpos                 | `info/qpos`                                                                   |
| metadata/…, attributes     | the metadata, where they are texts, numbers, or short lists of them           |

Without `timeouts` trajectories end where the next observation is not the next row, if there are next
observations; if there are none, nobody can know, and the report says so. Other spellings (obs, acts, dones,
…) are read too.

What D4RL has no place for lies in `metadata/replaystore`: its own functions leave `metadata` alone. A
trajectory that was only cut off has a timeout there, so that no reader takes the next one for its going on;
here it is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.formats.report import Fate, Report, lost
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.names import has_steps
from replaystore.formats.shared.flat.reading import as_json, flat_source
from replaystore.formats.shared.flat.writing import PLURALS, fill_flat, flat_places, next_of
from replaystore.formats.shared.hdf5.columns import column_of, small_values
from replaystore.formats.shared.hdf5.format import Hdf5Format
from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.hdf5.kept import kept_in, put_kept
from replaystore.formats.shared.hdf5.writing import NewGroup, NewRows
from replaystore.formats.source import Source
from replaystore.schema.roles import FLAGS

__all__ = ["D4rl"]

KEPT_IN = "metadata/replaystore"
FOREIGN = ("num_episodes", "ep_offset", "_meta", "data", "mask")
"""What other layouts have at their root."""


class D4rl(Hdf5Format):
    """The format, as `replaystore.formats` knows it."""

    example = "halfcheetah_medium-v2.hdf5"

    def source(self, held: Group, path: str) -> Source:
        return _source(held, path)

    def is_one(self, held: Group) -> bool:
        if isinstance(held.get(KEPT_IN), Group):
            return True
        return has_steps(list(held)) and not any(name in held for name in FOREIGN)

    def told(self, chosen: Chosen, path: str) -> Report:
        report = chosen.report()
        if "observation" not in chosen.fields:
            report.remarks.append("D4RL's own functions want one array of observations")
        return report

    def put(self, root: NewGroup, chosen: Chosen) -> None:
        _fill(root, chosen)


# --- reading


def _source(root: Group, path: str) -> Source:
    kept = kept_in(root, KEPT_IN)
    datasets = {
        name: rows
        for name, rows in root.walk()
        if not name.startswith(KEPT_IN + "/") and rows.kind != "empty"
    }
    arrays = {
        name: column_of(rows) for name, rows in datasets.items() if rows.kind == "numbers" and rows.shape
    }
    source, left = flat_source(arrays, kept, path)
    if left is not None:
        metadata, fates = _metadata(root, datasets, {*left, *(datasets.keys() - arrays.keys())})
        source.metadata, source.fields = metadata or None, fates
    return source


def _metadata(
    root: Group, datasets: dict[str, Dataset], names: set[str]
) -> tuple[dict[str, Any], dict[str, Fate]]:
    found: dict[str, Any] = {name: as_json(value) for name, value in root.attributes.items()}
    fates = {}
    for name in sorted(names):
        value = small_values(datasets[name])
        if value is None:
            fates[name] = lost("it has no row for each step")
        else:
            found[name] = value
    return {name: value for name, value in found.items() if value is not None}, fates


# --- writing


def _fill(root: NewGroup, chosen: Chosen) -> None:
    """All datasets."""
    places, count = flat_places(chosen), chosen.steps
    rows: dict[str, NewRows] = {}
    following: dict[str, NewRows] = {}
    for name, declared in chosen.fields.items():
        rows[name] = root.rows(places[name], declared.dtype, declared.shape, count, compressed=True)
        if declared.role == "observation":
            path = next_of(places[name])
            following[name] = root.rows(path, declared.dtype, declared.shape, count, compressed=True)
    for name in FLAGS:
        if name not in rows:
            rows[name] = root.rows(PLURALS[name], np.dtype(np.bool_), (), count, compressed=True)
    fill_flat(chosen, rows, following)
    put_kept(root.group(KEPT_IN), chosen.kept(places))
