"""Parts are found by their rows, against a plain dict: in lanes and one behind the other, while they are
added, whatever blocks they are found by."""

from __future__ import annotations

import numpy as np
import pytest

from replaystore.sampling import finding
from replaystore.sampling.finding import Finder


class Plain:
    """Which part each row lies in, and which of its steps it is."""

    def __init__(self, rng: np.random.Generator, first: int) -> None:
        self.rng, self.first, self.stop = rng, first, first
        self.of: dict[int, tuple[int, int]] = {}
        self.added: list[tuple[int, int]] = []
        """First rows and strides of parts that the finder does not know yet."""
        self.count = 0

    def turns(self, stride: int, steps: int, mean: int) -> None:
        """Environments take turns; some of their rows are in no part."""
        lanes: list[tuple[int, int] | None] = [None] * stride
        for _ in range(steps):
            for _ in range(stride):
                row, lane = self.stop, self.stop % stride
                self.stop += 1
                known = lanes[lane]
                if known is None or self.rng.random() < 1 / mean:
                    lanes[lane] = None
                    if self.rng.random() < 0.1:
                        continue
                    known = self.count, 0
                    self.added.append((row, stride))
                    self.count += 1
                self.of[row] = known
                lanes[lane] = known[0], known[1] + 1

    def tell(self, finder: Finder) -> None:
        """Add what it does not know, and compare what it finds."""
        if self.added:
            start, stride = np.array(self.added).T
            finder.add(start, stride)
            self.added.clear()
        finder.reach(self.stop)
        rows = self.rng.permutation(np.arange(self.first, self.stop))
        part, place = finder.find(rows)
        for row, found in zip(rows.tolist(), zip(part.tolist(), place.tolist(), strict=True), strict=True):
            if row in self.of:
                assert found == self.of[row], row
            else:  # in no part: behind what the one before it has, or before all
                ended = [place for part, place in self.of.values() if part == found[0]]
                assert found[1] < 0 or not ended or found[1] > max(ended), row


@pytest.mark.parametrize(("blocks", "each", "spare"), [(1, 1, 1), (1, 2, 4), (16, 4, 2), (1 << 15, 2, 64)])
@pytest.mark.parametrize("strides", [(1,), (3,), (8,), (1, 4, 1), (5, 2)])
def test_parts_are_found_while_they_are_added(
    blocks: int, each: int, spare: int, strides: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("BLOCKS", blocks), ("EACH", each), ("SPARE", spare)):
        monkeypatch.setattr(finding, name, value)
    rng = np.random.default_rng(0)
    for first in (0, 1000):
        plain, finder = Plain(rng, first), Finder()
        for stride in strides:
            for mean in (1, 3, 30, 200):
                for _ in range(4):
                    plain.turns(stride, int(rng.integers(1, 30)), mean)
                    plain.tell(finder)
