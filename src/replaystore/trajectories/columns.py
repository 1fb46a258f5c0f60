"""The columns of the two tables that every buffer has: names and dtypes, in the order in which rows are made
and shown.

There is this list and no other: the arrays of a new store, the rows that a recording adds, and the checks of
what a store holds are made of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["CHANGING", "PARTS", "RETURN", "TRAJECTORIES"]

PARTS = ("start", "length", "stride", "trajectory", "offset", "final")
"""Columns of `parts`, int64."""
RETURN = "return"
"""The column that only buffers with rewards have; its rows have the shape of a return."""
TRAJECTORIES: dict[str, np.dtype[Any]] = {
    "trajectory": np.dtype("<i8"),
    "env": np.dtype("<i8"),
    "length": np.dtype("<i8"),
    "terminated": np.dtype("?"),
    "truncated": np.dtype("?"),
    "seed": np.dtype("<i8"),
    RETURN: np.dtype("<f8"),
    "split": np.dtype("<i4"),
}
"""Columns of `trajectories/`; a buffer may have further ones, of its user."""
CHANGING = frozenset({"split"})
"""Those of them that may be set anew; the others are what was recorded."""
