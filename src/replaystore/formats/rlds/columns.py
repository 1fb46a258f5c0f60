"""The values of a feature, whatever it is stored as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.formats.rlds.features import Feature
from replaystore.formats.rlds.items import FixedRows, ItemRows, Picture
from replaystore.formats.rlds.numbers import FloatRows, IntRows
from replaystore.formats.rlds.records import Record
from replaystore.formats.rlds.rows import Rows
from replaystore.formats.rlds.wire import Values
from replaystore.schema.ragged import Ragged
from replaystore.schema.ragged_forms import offsets_of

__all__ = ["first_item", "rows_of"]


def rows_of(
    record: Record, lists: Mapping[str, Values], feature: Feature, picture: Picture | None = None
) -> Rows:
    """The values of a feature. FormatError: they are not there, or of another kind."""
    key, names = feature.key, ("", "")
    if feature.sequence:
        key, names = f"{key}/ragged_flat_values", (key, f"{key}/ragged_row_lengths_0")
    values, wanted = lists.get(key), _kind(feature)
    if values is None or values.kind != wanted:
        held = "nothing" if values is None else values.kind
        raise record.error(f"it holds {held} of {key!r:.100}, which is {wanted} as features.json says")
    if feature.sequence:
        if (lengths := lists.get(names[1])) is None or lengths.kind != "ints":
            raise record.error(f"it has no lengths of {names[0]!r:.100}")
        inner = Feature(feature.path, key, feature.dtype, feature.shape, "none")
        return _SequenceRows(record, lengths, feature, _numbers(record, values, inner))
    if wanted != "bytes":
        return _numbers(record, values, feature)
    if feature.encoding == "bytes" and None not in feature.shape:
        return FixedRows(record, values, feature)
    return ItemRows(record, values, feature, picture)


def _kind(feature: Feature) -> str:
    if feature.encoding != "none":
        return "bytes"
    return "floats" if feature.dtype.kind == "f" else "ints"


def _numbers(record: Record, values: Values, feature: Feature) -> Rows:
    return (FloatRows if values.kind == "floats" else IntRows)(record, values, feature)


class _SequenceRows(Rows):
    """Sequences in steps: the numbers of all of them, and how many each has."""

    def __init__(self, record: Record, lengths: Values, feature: Feature, flat: Rows) -> None:
        super().__init__(record, lengths, feature)
        one = Feature(feature.path, feature.key, np.dtype("<i8"), (), "none")
        self._lengths, self._flat = IntRows(record, lengths, one), flat
        self._most = flat.stop - flat.begin + 1  # each number has a byte at least

    def count(self) -> int:
        return self._lengths.count()

    def left(self) -> bool:
        return self._lengths.left() or self._flat.left()

    def bytes_of(self, steps: int) -> int:
        return self._flat.bytes_of(0) or self._flat.stop - self._flat.begin + 8 * steps

    def take(self, count: int) -> Any:
        lengths, (length,) = self._lengths.take(count), self.feature.sequence
        most = self._most
        if count and (int(lengths.min()) < 0 or int(lengths.max()) > most or int(lengths.sum()) > most):
            raise self.error("a length of it is none")
        values = self._flat.take(int(lengths.sum()))
        if length is None:
            return Ragged(values, offsets_of(lengths))
        if (lengths != length).any():
            raise self.error(f"a sequence of it has not the length {length}")
        return values.reshape(count, length, *self.feature.shape)


def first_item(record: Record, lists: Mapping[str, Values], feature: Feature) -> bytes | None:
    """The bytes of the first value of a feature; None: it has none."""
    values = lists.get(feature.key)
    if values is None or values.kind != "bytes" or values.begin == values.stop:
        return None
    return ItemRows(record, values, feature, None).bytes_of_next()
