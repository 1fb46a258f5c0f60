"""Which rows belong to which trajectory, and the table of trajectories."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.errors import CorruptError, SchemaError
from replaystore.trajectories.parts import Parts
from replaystore.trajectories.table import Trajectories

# One entry per run of adjacent rows: the trajectory that it continues, or None for rows of no trajectory, and
# its length.
runs = st.lists(st.tuples(st.none() | st.integers(0, 5), st.integers(1, 4)), max_size=25)
Model = dict[int, list[int]]


def parts_and_model(runs: list[tuple[int | None, int]]) -> tuple[Parts, Model, dict[int, int]]:
    """Parts as a writer makes them; the rows of each trajectory; and the `final` row of each part that has
    one, by the part's last row.

    Trajectories with an odd id have a known final observation.
    """
    model: Model = {}
    columns: list[list[int]] = []  # start, length, trajectory, offset, final
    row = 0
    for trajectory, length in runs:
        if trajectory is not None:
            rows = model.setdefault(trajectory, [])
            if columns and rows and columns[-1][2] == trajectory and rows[-1] == row - 1:
                columns[-1][1] += length
            else:
                columns.append([row, length, trajectory, len(rows), -1])
            rows.extend(range(row, row + length))
        row += length
    finals = {}
    for number, trajectory in enumerate(t for t in model if t % 2):
        last = max((part for part in columns if part[2] == trajectory), key=lambda part: part[3])
        last[4] = number
        finals[model[trajectory][-1]] = number
    start, lengths, ids, offset, final = np.array(columns, np.int64).reshape(-1, 5).T
    return Parts(start, lengths, np.ones_like(start), ids, offset, final), model, finals


@given(runs)
def test_the_rows_of_a_trajectory_come_in_the_order_of_its_steps(runs: list[tuple[int | None, int]]) -> None:
    parts, model, _ = parts_and_model(runs)

    parts.check()
    for trajectory in range(6):
        expected = model.get(trajectory, [])
        assert [row for rows in parts.rows_of(trajectory) for row in rows] == expected
        assert parts.rows([trajectory]).tolist() == expected
    some = [5, 0, 99, 3, 0]
    assert parts.rows(some).tolist() == [row for trajectory in some for row in model.get(trajectory, [])]
    assert parts.rows([]).tolist() == []


@given(runs)
def test_each_row_knows_its_part_and_the_observation_that_follows(runs: list[tuple[int | None, int]]) -> None:
    parts, model, finals = parts_and_model(runs)

    total = sum(length for _, length in runs)
    owner = {row: trajectory for trajectory, rows in model.items() for row in rows}
    part = parts.part_of(np.arange(total + 2))
    assert [parts.trajectory[p] if p >= 0 else None for p in part] == [
        owner.get(row) for row in range(total + 2)
    ]

    rows = np.array(sorted(owner), np.int64)
    following = dict(pair for steps in model.values() for pair in zip(steps, [*steps[1:], -1], strict=True))
    row, final = parts.next_observation(rows)
    assert row.tolist() == [following[r] for r in rows]
    assert final.tolist() == [finals.get(r, -1) for r in rows]


@given(runs, st.integers(0, 60))
def test_what_has_left_a_ring_is_cut_off(runs: list[tuple[int | None, int]], first: int) -> None:
    parts, model, _ = parts_and_model(runs)

    kept = parts.since(first)

    kept.check()
    for trajectory, steps in model.items():
        rows = np.array([row for row in steps if row >= first], np.int64)
        assert kept.rows([trajectory]).tolist() == rows.tolist()
        part = kept.part_of(rows)
        assert (kept.offset[part] + rows - kept.start[part]).tolist() == [steps.index(row) for row in rows]


def test_rows_of_no_trajectory_have_no_next_observation() -> None:
    parts = Parts([2], [3], [1], [0], [0], [-1])

    with pytest.raises(SchemaError, match="row 1 belongs to no trajectory"):
        parts.next_observation(np.array([[2, 3], [1, 4]]))
    row, final = parts.next_observation(np.array([[2, 3], [3, 4]]))
    assert row.tolist() == [[3, 4], [4, -1]]
    assert final.tolist() == [[-1, -1], [-1, -1]]


def test_no_parts_hold_no_rows() -> None:
    parts = Parts([], [], [], [], [], [])

    parts.check()
    assert len(parts) == 0
    assert parts.rows_of(0) == []
    assert parts.part_of(np.array([0, 5])).tolist() == [-1, -1]
    assert len(parts.since(3)) == 0


def test_parts_cannot_be_written_to_and_leave_their_source_writable() -> None:
    source = np.array([0, 3])
    parts = Parts(source, [3, 2], [1, 1], [0, 1], [0, 0], [0, -1])

    with pytest.raises(ValueError, match="read-only"):
        parts.start[0] = 1
    source[0] = 0
    assert repr(parts) == "Parts(2 parts, 5 rows)"


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (([0, 3], [3, 0], [0, 1], [0, 0], [-1, -1]), "part 1 holds no rows"),
        (([-1, 3], [3, 1], [0, 1], [0, 0], [-1, -1]), "part 0 has a negative start"),
        (([0, 2], [3, 1], [0, 1], [0, 0], [-1, -1]), "part 0 overlaps the next one, or comes after it"),
        (([5, 0], [1, 1], [0, 1], [0, 0], [-1, -1]), "part 0 overlaps the next one, or comes after it"),
        (
            ([0, 3, 5], [3, 1, 1], [7, 1, 7], [0, 0, 4], [-1, -1, -1]),
            "part 0 is not continued by the next part of its trajectory",
        ),
        (
            ([0, 3, 5], [3, 1, 1], [7, 1, 7], [1, 0, 0], [-1, -1, -1]),
            "part 2 lies behind the next part of its trajectory",
        ),
    ],
)
def test_parts_that_break_an_invariant_are_found(columns: tuple[list[int], ...], problem: str) -> None:
    start, length, *rest = columns
    with pytest.raises(CorruptError, match=problem):
        Parts(start, length, [1] * len(start), *rest).check()


def test_columns_of_parts_are_integers_of_one_length() -> None:
    with pytest.raises(SchemaError, match="different lengths"):
        Parts([0], [1], [1], [0], [0], [])
    with pytest.raises(SchemaError, match='"length" must be one-dimensional and of integers, not float64'):
        Parts([0], [1.5], [1], [0], [0], [-1])


def table(rows: int = 4) -> Trajectories:
    return Trajectories(
        {
            "trajectory": np.arange(rows),
            "length": np.arange(rows) * 30 + 40,
            "terminated": np.arange(rows) % 2 == 0,
            "return": np.linspace(0, 200, rows),
            "split": np.array(["train", "val"] * (rows // 2)),
            "index": np.arange(rows) + 10,
            "open": np.arange(rows) == rows - 1,
        }
    )


def test_columns_are_read_by_name_and_by_attribute() -> None:
    trajectories = table()

    assert len(trajectories) == 4
    assert trajectories["return"].tolist() == trajectories.columns["return"].tolist()
    assert trajectories.length is trajectories["length"]
    assert trajectories.open.tolist() == [False, False, False, True]
    assert trajectories.index.tolist() == [0, 1, 2, 3]
    assert trajectories["index"].tolist() == [10, 11, 12, 13]
    assert {"length", "terminated", "where", "columns"} <= set(dir(trajectories))
    with pytest.raises(
        SchemaError,
        match=(
            r'no column "reward" .* the columns are trajectory, length, terminated, return, '
            r"split, index, open"
        ),
    ):
        trajectories["reward"]
    with pytest.raises(AttributeError, match="no attribute or column 'reward'"):
        trajectories.reward  # noqa: B018  # reading it is the point


def test_nothing_in_a_table_can_be_changed() -> None:
    trajectories = table()

    with pytest.raises(ValueError, match="read-only"):
        trajectories["length"][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        trajectories.where("length > 50").index[0] = 1
    with pytest.raises(TypeError):
        trajectories.columns["length"] = np.zeros(4)  # type: ignore[index]
    with pytest.raises(AttributeError):
        trajectories.length = np.zeros(4)  # type: ignore[misc, attr-defined, unused-ignore]


def test_rows_are_dicts_of_plain_values() -> None:
    vectors = Trajectories(
        {"length": [3, 4], "return": np.arange(6.0).reshape(2, 3), "name": np.array(["a", "b"], object)}
    )

    first, second = vectors
    assert first["return"].tolist() == [0, 1, 2]
    del first["return"], second["return"]
    assert [first, second] == [
        {"length": 3, "name": "a", "open": False},
        {"length": 4, "name": "b", "open": False},
    ]
    assert type(first["length"]) is int
    assert vectors[np.int64(-1)]["length"] == 4
    with pytest.raises(IndexError):
        vectors[2]


def test_rows_are_chosen_by_equality_and_by_expressions() -> None:
    trajectories = table()

    assert trajectories.where(split="train").index.tolist() == [0, 2]
    assert trajectories.where("return > 100 and length >= 50").index.tolist() == [2, 3]
    assert trajectories.where("return > 100 and length >= 50", split="train").index.tolist() == [2]
    assert trajectories.where(split=["train", "val"], terminated=False).index.tolist() == [1, 3]
    assert trajectories.where("not open").index.tolist() == [0, 1, 2]
    assert trajectories.where().index.tolist() == [0, 1, 2, 3]
    assert len(trajectories.where("length > 1000")) == 0


def test_selections_compose_and_keep_their_place_in_the_full_table() -> None:
    trajectories = table(100)

    chained = trajectories.where(split="val").where("length > 1000")[::-1].where(terminated=False)

    assert isinstance(chained, Trajectories)
    both = trajectories.where("length > 1000", split="val", terminated=False)
    assert chained.index.tolist() == both.index.tolist()[::-1]
    assert chained["length"].tolist() == trajectories["length"][chained.index].tolist()


def test_rows_are_chosen_by_slices_positions_and_masks() -> None:
    trajectories = table().where("length > 40")

    assert trajectories[1:].index.tolist() == [2, 3]
    assert trajectories[[2, 0, 0]].index.tolist() == [3, 1, 1]
    assert trajectories[trajectories["return"] > 100].index.tolist() == [2, 3]
    assert trajectories[[]].index.tolist() == []
    assert len(trajectories[[]].where(split="val")) == 0
    for wrong in [np.ones(4, np.bool_), np.array([0.5]), np.zeros((2, 2), np.int64), np.array(1.0)]:
        with pytest.raises(
            SchemaError, match=("choose rows of a table of 3 by positions or a mask of that length, not by")
        ):
            trajectories[wrong]
    with pytest.raises(IndexError):
        trajectories[[3]]


@pytest.mark.parametrize(("expression", "equals"), [("reward > 1", {}), (None, {"reward": 1})])
def test_an_unknown_column_is_an_error_that_lists_the_columns(
    expression: str | None, equals: dict[str, Any]
) -> None:
    with pytest.raises(
        SchemaError,
        match=(
            r'there is no column "reward".*the columns are trajectory, length, terminated, '
            r"return, split, index, open"
        ),
    ):
        table().where(expression, **equals)


def test_a_return_of_several_objectives_cannot_be_compared() -> None:
    trajectories = Trajectories({"return": np.ones((3, 2))})

    with pytest.raises(
        SchemaError,
        match=(
            r'column "return" holds arrays of shape \(2,\), which cannot be '
            r"compared"
        ),
    ):
        trajectories.where("return > 0")
    with pytest.raises(
        SchemaError,
        match=(
            r'column "return" holds arrays of shape \(2,\), which cannot be '
            r"compared"
        ),
    ):
        trajectories.where(**{"return": 1})
    assert len(trajectories[trajectories["return"][:, 0] > 0]) == 3


def test_columns_have_one_length() -> None:
    with pytest.raises(SchemaError, match="different lengths"):
        Trajectories({"length": [1, 2], "return": [1.0]})
    with pytest.raises(SchemaError, match="different lengths"):
        Trajectories({"length": [1, 2], "return": 1.0})
    with pytest.raises(SchemaError, match="different lengths"):
        Trajectories({"length": [1, 2]}, index=[0])
    assert len(Trajectories({})) == 0


def test_a_table_is_copied_and_pickled_whole() -> None:
    selection = table().where(split="val")

    for twin in [copy.copy(selection), copy.deepcopy(selection), pickle.loads(pickle.dumps(selection))]:
        assert twin.index.tolist() == [1, 3]
        assert list(twin) == list(selection)


def test_the_repr_is_a_short_table() -> None:
    lines = repr(table(1000).where("index >= 11")).splitlines()

    assert lines[0] == "999 trajectories, 1 of them open"
    assert lines[1].split() == ["trajectory", "length", "terminated", "return", "split", "index", "open"]
    assert lines[2].split() == ["1", "1", "70", "False", "0.2002", "val", "11", "False"]
    assert lines[7].split() == ["..."] * 8
    assert lines[12].split() == ["999", "999", "30010", "False", "200", "val", "1009", "True"]
    assert len(lines) == 13
    assert len({len(line) for line in lines[1:]}) == 1
    wide = repr(Trajectories({"note": np.array(["line\n" * 100], object), "return": np.zeros((1, 50))}))
    assert max(map(len, wide.splitlines())) < 80
    assert repr(Trajectories({})).splitlines() == ["0 trajectories, 0 of them open", "  open"]
