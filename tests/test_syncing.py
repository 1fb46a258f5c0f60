"""Files are synced side by side: each once, by few jobs, and an error of one keeps none from its turn."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from replaystore.storage.sync_threads import SYNCING, side_by_side


@pytest.mark.parametrize("count", [0, 1, 2, SYNCING, 1000])
def test_each_is_synced_once_and_by_few_jobs(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, synced = list[Any](), list[str]()
    submit = ThreadPoolExecutor.submit

    def counted(pool: ThreadPoolExecutor, *given: Any) -> Any:
        jobs.append(given)
        return submit(pool, *given)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    names = [str(number) for number in range(count)]
    side_by_side(synced.append, names)
    assert sorted(synced) == sorted(names)
    assert len(jobs) <= SYNCING


def test_an_error_is_raised_when_all_have_had_their_turn() -> None:
    synced: list[str] = []

    def sync(name: str) -> None:
        synced.append(name)
        if int(name) % 3 == 0:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        side_by_side(sync, [str(number) for number in range(100)])
    assert len(synced) == 100


@pytest.mark.timeout(60)
def test_what_closes_a_buffer_while_jobs_are_handed_over_waits_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is collected at any time, also where the pool holds a lock that cannot be taken twice."""
    synced, inside = list[str](), list[str]()

    class Collecting(Future[Any]):
        def __init__(self) -> None:
            super().__init__()
            if not inside:
                side_by_side(inside.append, ["x", "y"])

    monkeypatch.setattr("concurrent.futures._base.Future", Collecting)
    side_by_side(synced.append, ["a", "b", "c"])

    assert inside == ["x", "y"]
    assert sorted(synced) == ["a", "b", "c"]
