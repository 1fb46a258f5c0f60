"""A nested space, and columns that fit a schema."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from replaystore.schema.fields import Schema

NESTED = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (4, 4, 3), np.uint8),
        "joints": spaces.Tuple(
            [
                spaces.Box(-1, 1, (2,)),
                spaces.Dict({"a/b": spaces.Discrete(5, start=-2), "50%": spaces.MultiBinary(3)}),
            ]
        ),
    }
)


def columns(schema: Schema, rows: int = 3) -> dict[str, Any]:
    return {
        name: np.zeros((rows, *declared.shape), declared.dtype) for name, declared in schema.fields.items()
    }
