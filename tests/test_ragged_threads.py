"""Values of any length while another thread goes on: a commit that comes between two looks at the store is
seen as a whole or not at all, and is no damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import EvictedError
from replaystore.testing.samples import shards_of
from replaystore.views.shown import Shown

SCHEMA = rs.Schema(
    {
        "observation": rs.Field("int32", (None,), "observation"),
        "number": rs.Field("int64", (), "extra"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
CAPACITY, LENGTH = 40, 700


def steps(first: int, count: int) -> dict[str, Any]:
    numbers = np.arange(first, first + count)
    values = [np.full(LENGTH, number, np.int32) for number in numbers]
    return {"observation": values, "number": numbers, "truncated": numbers % 10 == 9}


class Between:
    """Calls a function once, when values are going to be looked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.function: Callable[[], object] | None = None
        known = Shown.values_of

        def values_of(view: Shown, name: str) -> Any:
            function, self.function = self.function, None
            if function is not None:
                function()
            return known(view, name)

        monkeypatch.setattr(Shown, "values_of", values_of)


@pytest.fixture(params=["same", "reader"])
def ring(request: Any, tmp_path: Path) -> Iterator[tuple[rs.Buffer, rs.Buffer]]:
    """A ring that is written to, and a buffer that shows it."""
    with shards_of(2):
        made = rs.create(
            tmp_path / "a.zarr", SCHEMA, capacity=CAPACITY, storage={"observation": {"chunk_rows": 1024}}
        )
    with made:
        made.append(steps(0, CAPACITY), final_observation=[np.array([-1])] * 4)
        made.commit()
        shown = made if request.param == "same" else rs.open(tmp_path / "a.zarr")
        yield made, shown
        shown.close()


READS: dict[str, Callable[[rs.Buffer], Any]] = {
    "read slice": lambda b: b.read(slice(0, 3)),
    "read rows": lambda b: b.read([2, 0]),
    "column slice": lambda b: b["observation"][0:3],
    "column rows": lambda b: b["observation"][[2, 0]],
    "column row": lambda b: [b["observation"][0]],
    "trajectory": lambda b: b.trajectory(0).columns,
    "next": lambda b: [value - 1 for value in b.trajectory(0)["next_observation"][:1]],
}


@pytest.mark.parametrize("read", READS)
def test_a_commit_between_rows_and_values_is_no_damage(
    ring: tuple[rs.Buffer, rs.Buffer], monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    made, shown = ring
    between, at = Between(monkeypatch), made.rows_recorded

    def go_on() -> None:
        made.append(steps(at, CAPACITY), final_observation=[np.array([-1])] * 4)
        made.commit()
        shown.refresh()

    between.function = go_on
    found = READS[read](shown)
    assert between.function is None
    values = found["observation"] if isinstance(found, dict) else found
    numbers = [int(value[0]) for value in values]
    assert all((value == value[0]).all() and len(value) == LENGTH for value in values)
    oldest = shown.first_row
    assert set(numbers) <= {oldest, oldest + 1, oldest + 2, *range(oldest, oldest + 10)}
    if isinstance(found, dict):
        assert numbers == found["number"].tolist()


def test_a_number_that_left_the_ring_in_between_is_told_so(
    ring: tuple[rs.Buffer, rs.Buffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, shown = ring
    between = Between(monkeypatch)

    def go_on() -> None:
        made.append(steps(CAPACITY, CAPACITY), final_observation=[np.array([-1])] * 4)
        made.commit()
        shown.refresh()

    between.function = go_on
    with pytest.raises(EvictedError, match="left the ring"):
        shown.read(index=[0, 3])


def test_values_stay_what_they_are_while_their_column_goes_on(ring: tuple[rs.Buffer, rs.Buffer]) -> None:
    made, shown = ring
    values, spans = shown.values_of("observation"), shown.rows("observation", slice(0, 3))
    for at in range(CAPACITY, 5 * CAPACITY, CAPACITY):
        made.append(steps(at, CAPACITY), final_observation=[np.array([-1])] * 4)
        made.commit()
        shown.refresh()
        shown["observation"][:]
        assert [int(value[0]) for value in values.take(spans)] == [0, 1, 2]


def test_parts_of_the_commit_before_are_not_kept_for_the_next(
    ring: tuple[rs.Buffer, rs.Buffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made of several things is made while the commit stays."""
    _, shown = ring
    for what in ("parts", "trajectories"):
        held = list[bool]()
        known = Shown._table if what == "trajectories" else Shown.opened

        def look(view: Shown, known: Any = known, held: list[bool] = held) -> Any:
            held.append(view.turn._is_owned())  # type: ignore[attr-defined]
            return known(view)

        with monkeypatch.context() as patch:
            patch.setattr(Shown, known.__name__, look)
            shown._moved()
            assert len(getattr(shown, what)) == 4
        assert held
        assert all(held)
