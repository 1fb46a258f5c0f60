"""The infos of steps: texts in which jsonpickle has written a dict each.

They are read as JSON and as nothing else: what jsonpickle would make objects of (`py/object`, `py/reduce`)
stays what is written there. A key that has a number of one kind in each step becomes a field of its own.
Where that is not all that the infos hold, they are a field of texts beside it, as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, SchemaError
from replaystore.schema.field import Field
from replaystore.schema.names import join_path

__all__ = ["TEXTS", "Infos"]

TEXTS = "infos"
"""The field of the texts themselves."""
TIME_LIMIT = "TimeLimit.truncated"
MOST_BYTES = 1 << 20
MOST_KEYS = 256
_KINDS: dict[type, str] = {bool: "bool", int: "int64", float: "float64"}


def _parsed(text: str) -> dict[str, Any] | None:
    """The dict in a text; None: it is no dict of JSON, or too large to be looked at."""
    if len(text) > MOST_BYTES:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Infos:
    """What all infos of a dataset have in common. They are looked at once before they are read."""

    def __init__(self) -> None:
        self.keys: dict[str, str] | None = None
        """By key the dtype, of those that each step so far has a number of."""
        self.more = False
        """Whether there is anything else in them."""

    def look_at(self, texts: Iterable[str]) -> None:
        """Take account of the infos of some steps."""
        before, kinds = "", dict[str, str]()
        for text in texts:
            if text != before or not kinds:
                found = _parsed(text)
                kinds = {} if found is None else _kinds(found)
                self.more |= found is None or len(kinds) < len(found)
                before = text
            if self.keys is None:
                self.keys = dict(kinds)
            elif kinds != self.keys:
                common = {key: kind for key, kind in kinds.items() if self.keys.get(key) == kind}
                self.more |= len(common) < max(len(kinds), len(self.keys))
                self.keys = common

    def fields(self) -> dict[str, Field]:
        """What they become."""
        found = {}
        for key, dtype in (self.keys or {}).items():
            try:
                found[join_path("info", key)] = Field(dtype, (), "info")
            except SchemaError:
                self.more = True
        return found | ({TEXTS: Field.of_text("extra")} if self.more else {})

    def columns(self, texts: Sequence[str], where: str) -> dict[str, NDArray[Any]]:
        """The fields of numbers of some steps. FormatError: the infos are not what they were."""
        keys = self.keys or {}
        if not keys:
            return {}
        dicts = [_parsed(text) for text in texts]
        found = {}
        for key, dtype in keys.items():
            values = [None if each is None else each.get(key) for each in dicts]
            if any(_KINDS.get(type(value)) != dtype for value in values):
                raise FormatError(f"{where} has other infos than before: it was written to meanwhile")
            found[join_path("info", key)] = np.array(values, dtype)
        return found


def time_limit(text: str) -> bool | None:
    """Whether the info of a last step says that there was a time limit; None: it says nothing of it."""
    found = _parsed(text)
    value = None if found is None else found.get(TIME_LIMIT)
    return value if isinstance(value, bool) else None


def _kinds(found: dict[str, Any]) -> dict[str, str]:
    """The keys with numbers that fit into a field."""
    if len(found) > MOST_KEYS:
        return {}
    kinds = {key: _KINDS[type(value)] for key, value in found.items() if type(value) in _KINDS}
    return {key: kind for key, kind in kinds.items() if kind != "int64" or -(1 << 63) <= found[key] < 1 << 63}
