"""Parts of environments that take turns row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stride_worlds import World, worlds

from replaystore.errors import CorruptError
from replaystore.trajectories.assembler import Assembler
from replaystore.trajectories.checks import check_parts
from replaystore.trajectories.columns import PARTS
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.pieces import NEVER, STEP, Piece


@given(worlds())
def test_the_rows_of_a_trajectory_come_in_the_order_of_its_steps(world: World) -> None:
    parts, rows = world.parts, world.rows

    parts.check()
    for trajectory in [*rows, 10**6]:
        assert [row for run in parts.rows_of(trajectory) for row in run] == rows.get(trajectory, [])
    some = [*reversed(rows), 10**6, *rows]
    assert parts.rows(some).tolist() == [row for trajectory in some for row in rows.get(trajectory, [])]


@given(worlds())
def test_each_row_knows_its_part_and_the_observation_that_follows(world: World) -> None:
    parts, count = world.parts, len(world.owner)

    part = parts.part_of(np.arange(-3, count + 9))
    owner: list[int | None] = [None] * 3 + world.owner + [None] * 9
    assert [parts.trajectory[at] if at >= 0 else None for at in part] == owner
    rows = np.array([row for row, trajectory in enumerate(world.owner) if trajectory is not None], np.int64)
    part = parts.part_of(rows)
    step = (rows - parts.start[part]) // parts.stride[part]
    assert [
        world.rows[t][s] for t, s in zip(parts.trajectory[part], parts.offset[part] + step, strict=True)
    ] == rows.tolist()

    following = {pair for steps in world.rows.values() for pair in zip(steps, [*steps[1:], -1], strict=True)}
    row, final = parts.next_observation(rows)
    assert set(zip(rows.tolist(), row.tolist(), strict=True)) == following
    ends = {world.rows[trajectory][-1]: number for trajectory, number in world.finals.items()}
    assert final.tolist() == [ends.get(row, -1) for row in rows.tolist()]


@given(worlds(), st.integers(0, 60))
def test_what_has_left_a_ring_is_cut_off(world: World, first: int) -> None:
    kept = world.parts.since(first)

    kept.check()
    left = World([*world.owner], [*world.stride], world.finals)
    left.owner[:first] = [None] * min(first, len(left.owner))
    expected = left.parts
    for name in set(PARTS) - {"offset"}:
        assert getattr(kept, name).tolist() == getattr(expected, name).tolist(), name
    for trajectory, rows in left.rows.items():
        steps = [world.rows[trajectory].index(run[0]) for run in kept.rows_of(trajectory)]
        assert kept.offset[kept.parts_of(trajectory)].tolist() == steps, rows


@given(worlds(), st.integers(0, 9), st.integers(0, 9))
def test_rows_side_by_side_and_rows_of_none_are_told(world: World, before: int, after: int) -> None:
    world.owner[:0], world.stride[:0] = [None] * before, [1] * before
    parts, count = world.parts, len(world.owner)

    start, length, part = parts.runs(parts.order)
    rows = [row for begin, size in zip(start, length, strict=True) for row in range(begin, begin + size)]
    assert rows == parts.rows(np.unique(parts.trajectory)).tolist()
    assert parts.part_of(start).tolist() == part.tolist()
    none = {row for row, owner in enumerate(world.owner) if owner is None} | {*range(count, count + after)}
    start, length = parts.between(0, count + after)
    assert [row for at, size in zip(start, length, strict=True) for row in range(at, at + size)] == sorted(
        none
    )
    assert (start[1:] > (start + length)[:-1]).all()
    begins, ends = parts.spans()
    assert (begins[1:] >= ends[:-1]).all()
    for begin, last in zip(parts.start, parts.last, strict=True):
        assert ((begins <= begin) & (last < ends)).sum() == 1


def crossing(columns: list[list[int]]) -> bool:
    """Whether a row is in two parts, or between the rows of another stride."""
    rows = [set(range(start, start + length * stride, stride)) for start, length, stride, *_ in columns]
    for one in range(len(columns)):
        for other in range(one):
            if rows[one] & rows[other]:
                return True
            between = min(rows[one]) < max(rows[other]) and min(rows[other]) < max(rows[one])
            if between and columns[one][2] != columns[other][2]:
                return True
    return False


@given(worlds(), st.data())
def test_parts_that_cross_each_other_are_refused(world: World, data: st.DataObject) -> None:
    columns = world.columns
    finals, most = len(world.finals), len(world.owner) + 8
    check_parts(list(np.array(columns, np.int64).reshape(-1, 6).T), rows=most, finals=finals, where="x")
    if not columns:
        return
    part = data.draw(st.integers(0, len(columns) - 1))
    at = data.draw(st.integers(0, 2))
    columns[part][at] = max(int(at > 0), columns[part][at] + data.draw(st.integers(-3, 3)))
    columns.sort()
    table = np.array(columns, np.int64).T
    outside = bool((table[0] + (table[1] - 1) * table[2] >= most).any())

    if not (outside or crossing(columns)):
        check_parts(list(table), rows=most, finals=finals, where="x")
        return
    with pytest.raises(CorruptError, match=r"overlaps|does not lie in rows"):
        check_parts(list(table), rows=most, finals=finals, where="x")
    if not outside:
        with pytest.raises(CorruptError, match="overlaps"):
            Parts(*table).check()


@given(worlds(), st.sets(st.integers(0, 40)))
def test_rows_of_any_stride_become_the_same_parts_however_they_are_cut_into_runs(
    world: World, cuts: set[int]
) -> None:
    """One run for the rows of an environment that lie a stride apart, and new ones wherever it is cut."""
    assembler, number_of = Assembler(), list[int]()
    runs: list[list[int]] = []  # rows of one trajectory each
    last: dict[int, list[int]] = {}
    for row, trajectory in enumerate(world.owner):
        if trajectory is not None:
            run, stride = last.get(trajectory), world.stride[row]
            between = set() if run is None else world.strides(run[-1], row)
            if run is None or row in cuts or run[-1] + stride != row or between != {stride}:
                run = last[trajectory] = []
                runs.append(run)
            run.append(row)
    for run in runs:  # in the order in which they begin
        trajectory = world.owner[run[0]]
        assert trajectory is not None
        rows = world.rows[trajectory]
        begins, ends = run[0] == rows[0], run[-1] == rows[-1]
        number_of += [trajectory] * begins
        known = Piece(
            trajectory,
            run[0],
            len(run),
            run[0] * STEP,
            begins=run[0] * STEP if begins else NEVER,
            ends=run[-1] * STEP + STEP - 1 if ends else NEVER,
            final={"x": np.zeros(1)} if ends and trajectory in world.finals else None,
            stride=world.stride[run[0]],
        )
        first = run[0]  # what is handed over together begins with the first row of this stride
        while first and world.strides(first - 1, run[0]) <= {known.stride}:
            first -= 1
        known.start -= first
        assembler.add_few(first, [known])
    assert not assembler.opened()
    found = np.concatenate([np.zeros((0, 6), np.int64), *assembler.pending.parts]).tolist()
    for part in found:
        part[3] = number_of[part[3]]
        part[5] = world.finals[part[3]] if part[5] >= 0 else -1
    assert sorted(found) == world.columns
