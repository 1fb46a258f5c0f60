"""The values of one list in the record of an episode, step after step.

1. They are taken in order, some steps at a time, and no more than those are in memory; of a small record all.
2. A list that has fewer values than were asked for, or values that its feature cannot have, is an error of
   its record; nothing is cut to fit.
"""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.rlds.features import Feature
from replaystore.formats.rlds.records import Record
from replaystore.formats.rlds.wire import Values

__all__ = ["WINDOW", "Rows"]

WINDOW = 1 << 16
"""So many bytes of a large record are read at once, where more than are asked for."""


class Rows:
    """Values of one list. `take` gives those of the next steps."""

    def __init__(self, record: Record, values: Values, feature: Feature) -> None:
        self.record, self.feature = record, feature
        self.begin, self.stop = values.begin, values.stop
        self.width = math.prod(length or 1 for length in feature.shape)
        self.inner = tuple(length for length in feature.shape if length is not None)

    def count(self) -> int:
        """Of how many steps there are values."""
        raise NotImplementedError

    def take(self, count: int) -> Any:
        """Those of the next steps: an array, or a Ragged."""
        raise NotImplementedError

    def left(self) -> bool:
        """Whether there are values that were not taken."""
        return self.begin != self.stop

    def last(self) -> NDArray[Any] | None:
        """The value of the last step, whatever was taken; None: it would have to be looked for."""
        return None

    def bytes_of(self, _steps: int) -> int:
        """About how many bytes all steps take in memory."""
        return self.stop - self.begin

    def error(self, what: str) -> FormatError:
        return self.record.error(f"{self.feature.key!r:.100}: {what}")

    def too_few(self) -> FormatError:
        """For a list that has less than was asked for."""
        return self.error("it has values of fewer steps than others have")
