"""What goes into a pickle beside what Stable-Baselines3 reads (notes.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.formats.shared.outgoing import Outgoing
from replaystore.formats.shared.pickles.writing import Streamed
from replaystore.formats.stable_baselines3.lanes import Lane
from replaystore.formats.stable_baselines3.notes import FINAL, TERMINATED, TRUNCATED
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["notes_for"]


def notes_for(
    out: Outgoing,
    lanes: list[Lane],
    order: NDArray[np.int64],
    position: list[int],
    stamp: int,
    fields: Mapping[str, Streamed],
) -> dict[str, Any]:
    """The value of the attribute, as notes.py says."""
    table, buffer = out.table, out.buffer
    user = [name for name in table.columns if name not in TRAJECTORIES and name != "open"]
    texts = table["split"].tolist()
    splits = list(dict.fromkeys(["", *texts]))
    codes = {name: code for code, name in enumerate(splits)}
    document = {
        "schema": buffer.schema.select(list(out.fields)).to_json(),
        "environment": buffer.environment,
        "metadata": buffer.document.user,
        "splits": splits,
        "columns": user,
    }
    lane = np.concatenate([np.full(len(one.trajectories), number) for number, one in enumerate(lanes)])
    place = np.argsort(np.concatenate([one.trajectories for one in lanes]))
    by_table = np.searchsorted(np.sort(order), order)
    known = np.concatenate([one.known for one in lanes])[place][by_table]
    flags = TERMINATED * table["terminated"][order] + TRUNCATED * table["truncated"][order] + FINAL * known
    columns = {
        "length": np.concatenate([one.lengths for one in lanes])[place][by_table],
        "lane": lane[place][by_table],
        "env": table["env"][order],
        "seed": table["seed"][order],
        "split": np.array([codes[texts[at]] for at in order.tolist()], np.int64),
        "flags": flags,
    }
    return {
        "format": 1,
        "position": position,
        "stamp": stamp,
        "document": json.dumps(document, allow_nan=False).encode(),
        **{name: np.asarray(values).astype("<i8") for name, values in columns.items()},
        "columns": {name: table[name][order] for name in user},
        "fields": dict(fields),
    }
