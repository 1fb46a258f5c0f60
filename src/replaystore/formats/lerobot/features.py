"""The features of a dataset of LeRobot, as `meta/info.json` has them, and the fields that they are.

A feature is called as a path of keys joined by dots: `observation.images.top`. What belongs to a step's
result begins with `next.`: `next.reward`, `next.terminated`, `next.truncated`, by convention. Features of
shape (1,) are scalars in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from replaystore.errors import FormatError, SchemaError
from replaystore.formats.shared.table_names import role as role_of_name
from replaystore.schema.field import Field
from replaystore.schema.names import join_path
from replaystore.schema.spaces import DTYPES

__all__ = ["INDICES", "RESULTS", "Feature", "features_of", "field_name"]

INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""What LeRobot has beside the features of a dataset."""
RESULTS = {"next.reward": "reward", "next.terminated": "terminated", "next.truncated": "truncated"}
TEXTS = ("string", "large_string")
NESTED = ("observation", "action", "info")
"""Names whose dots are paths."""
CHANNELS = ("channel", "channels", "c")
MOST_NUMBERS = 1 << 28
"""Of a value of a feature."""


@dataclass(frozen=True)
class Feature:
    """One feature."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: Literal["values", "text", "image", "video", "unknown"]
    first: bool = False
    """Of pictures, whether the shape begins with the channels; in files they are last."""

    @property
    def picture(self) -> tuple[int, ...]:
        """The shape of a picture in a field: height, width, channels."""
        return (*self.shape[1:], self.shape[0]) if self.first else self.shape

    def field(self, called: str) -> Field | None:
        """The field that it is, under this name; None: there is none."""
        role = role_of_name(called)
        if self.kind == "text":
            return Field.of_text(role)
        if self.kind in ("image", "video"):
            return Field("uint8", self.picture, role)
        if self.kind == "unknown":
            return None
        scalar = self.shape == (1,) and role not in ("observation", "action")
        return Field(DTYPES[self.dtype], () if scalar else self.shape, role)


def features_of(info: Mapping[str, Any], path: str) -> dict[str, Feature]:
    """All features, by name. FormatError: the file says something that cannot be."""
    given = info.get("features")
    if not isinstance(given, dict) or not given:
        raise FormatError(f"{path} has no 'features': it is damaged, or not of LeRobot")
    found = {}
    for name, one in given.items():
        try:
            found[name] = _feature(name, one)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: the feature {name!r:.80} is not described: {error}") from None
    return found


def _feature(name: str, one: Any) -> Feature:
    dtype, shape, names = one["dtype"], one["shape"], one.get("names")
    shape = tuple(shape)
    if any(type(length) is not int or length < 1 for length in shape):
        raise SchemaError(f"its shape is {shape!r:.60}")
    if len(shape) > 32 or np.prod(shape, dtype=object) > MOST_NUMBERS:
        raise SchemaError(f"its shape {shape!r:.60} is too large")
    if dtype in ("image", "video"):
        if len(shape) != 3:
            raise SchemaError(f"a picture has three dimensions, not {shape!r:.60}")
        first = isinstance(names, list) and bool(names) and names[0] in CHANNELS
        return Feature(name, dtype, shape, dtype, first)
    if dtype in TEXTS:
        return Feature(name, dtype, shape, "text" if shape in ((), (1,)) else "unknown")
    return Feature(name, str(dtype), shape or (1,), "values" if dtype in DTYPES else "unknown")


def field_name(name: str, taken: Mapping[str, Any]) -> str:
    """What a feature is called as a field."""
    called = RESULTS.get(name, name)
    keys = called.split(".")
    if keys[0] in NESTED and all(keys):
        called = join_path(*keys)
    else:
        called = join_path(called)
    top = called.partition("/")[0]
    if top in RESULTS.values() and name not in RESULTS:
        called = f"{called}_"
    while called in taken:
        called = f"{called}_"
    return called
