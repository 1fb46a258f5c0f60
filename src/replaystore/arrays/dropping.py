"""What leaves a ring with its oldest steps: the values of fields of any length that lie before those of the
oldest step that is kept. Where that begins is where they begin, since the begins of steps never decrease.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from replaystore.schema import tree

__all__ = ["values_first"]


class Store(Protocol):
    """What is asked of the store."""

    def next_row(self, group: str) -> int: ...

    def read_raw(self, name: str, start: int, stop: int) -> bytes: ...


def values_first(
    store: Store, names: Iterable[str], known: Mapping[str, int], first: Mapping[str, int]
) -> dict[str, int]:
    """What a commit keeps of each of these arrays that holds values, if it says from which step on a ring
    keeps any, and does not say it himself. `known`: of the commit before."""
    found = dict(first)
    row, rows = first.get("steps"), store.next_row("steps")
    for name in names if row is not None else ():
        if tree.is_values(name) and name not in first and row is not None:
            oldest, stop = known.get(name, 0), store.next_row(name)
            if row < rows:
                begin = int(np.frombuffer(store.read_raw(tree.spans_of(name), row, row + 1), "<i8")[0])
            else:
                begin = oldest  # what follows a reset may be there before the first step is
            found[name] = begin if oldest <= begin <= stop else oldest
    return found
