"""Rows that are chosen beforehand, where an error, or Ctrl-C, keeps some from being decoded: what is shown
after it is what the array has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from columns import ints, same
from test_chosen_rows import taken, two

from replaystore.columns import chosen, decoding_pool


class Failing:
    """A pool whose calls of `submit` from one on fail, before or after what was handed over may run."""

    def __init__(self, after: int, *, queued: bool) -> None:
        self._pool, self._left, self._queued = decoding_pool.shared.pool(), after, queued

    def submit(self, *call: Any) -> Any:
        self._left -= 1
        if self._left >= 0:
            return self._pool.submit(*call)
        if self._queued:
            self._pool.submit(*call)
        raise (KeyboardInterrupt if self._left % 2 else RuntimeError("can't start new thread"))


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("after", range(8))
def test_rows_are_right_after_an_error_that_kept_them_from_being_begun(
    after: int, queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chosen, "JOB_BYTES", 200)
    monkeypatch.setattr(decoding_pool.shared, "workers", 3)
    slab, models, _ = two(4 * 50 + 3, 3000)
    rng = np.random.default_rng(after)
    groups = [rng.integers(0, 203, (30, 2)) for _ in range(8)]
    pool = Failing(after, queued=queued)
    failed = 0

    def attempt(call: Any, *arguments: Any) -> None:
        nonlocal failed
        try:
            call(*arguments)
        except (KeyboardInterrupt, RuntimeError):
            failed += 1

    for number, group in enumerate(groups):
        with monkeypatch.context() as patch:
            if number != 5:
                patch.setattr(decoding_pool.shared, "pool", lambda: pool)
            attempt(slab.choose, group)
            attempt(slab.choose_next, groups[(number + 1) % 8])
            for some in np.split(group, 6):
                rows = np.concatenate([some.reshape(-1), rng.integers(0, 203, 4)])
                outs = {"x": np.empty((len(rows), 3), "f4"), "y": np.empty(len(rows), "i8")}
                before = failed
                attempt(slab.take, rows, outs)
                if failed == before:
                    assert all(same(outs[name], models[name][rows]) for name in models)
                attempt(slab.chosen.used, len(some))
        found = taken(slab, ints(*range(203)))
        assert all(same(found[name], models[name]) for name in models)
    assert failed
