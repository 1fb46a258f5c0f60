"""In which order the steps of several environments are stored, decided for one call after the other."""

from __future__ import annotations

__all__ = ["PlainLanes"]


class PlainLanes:
    """Row r is for the environment whose lane is r modulo their number. Who has a lane without a row takes
    that of one that is absent, and gives its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.lanes = list(range(count))
        self.stop = -1

    def begin(self) -> None:
        """All begin anew with the next step."""
        self.stop = -1

    def order(self, first: int, there: list[int]) -> list[int]:
        """These environments in the order of their rows, from row `first` on; where other rows lie between,
        all begin anew."""
        count, lanes = self.count, self.lanes
        if first != self.stop:
            lanes[:] = [(first + env) % count for env in range(count)]
        rows = [(first + place) % count for place in range(len(there))]
        moved = [env for env in there if lanes[env] not in rows]
        absent = [env for env in range(count) if env not in there and lanes[env] in rows]
        for one, other in zip(moved, absent, strict=True):
            lanes[one], lanes[other] = lanes[other], lanes[one]
        self.stop = first + len(there)
        return sorted(there, key=lambda env: rows.index(lanes[env]))
