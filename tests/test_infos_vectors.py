"""Infos of vectors of environments become the columns that their environments' infos do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from info_tables import Table, columns_of, fields, vector

from replaystore.errors import ReplayStoreWarning
from replaystore.gymnasium.info_keys import MASK
from replaystore.gymnasium.infos import batch_of_one
from replaystore.schema.fields import Field


def test_a_vector_is_recorded_as_its_environments_are() -> None:
    infos = [
        {"x": 1.0, "bit": np.bool_(True), "n": {"v": np.arange(2)}},
        {"x": 2.0, "bit": np.bool_(False), "n": {"v": np.arange(2) + 5}},
    ]
    table = Table()

    table.add(columns_of(table, 2).columns(vector(*infos)))

    assert fields(table) == {"info/x": "float64", "info/bit": "bool", "info/n/v": "int64"}
    assert table.column("info/bit") == [True, False]
    assert table.column("info/n/v") == [[0, 1], [5, 6]]


def test_arrays_that_are_all_there_are_passed_on_uncopied() -> None:
    table = Table()
    columns = columns_of(table, 2)
    columns.columns(vector({"x": 1.0}, {"x": 2.0}))
    infos = vector({"x": 3.0}, {"x": 4.0})

    assert columns.columns(infos)["info/x"] is infos["x"]


def test_a_key_that_only_some_environments_have_is_masked() -> None:
    table = Table()
    columns = columns_of(table, 3)
    for infos in (
        vector({}, {"x": 2}, {"n": {"y": 1.0}}),
        vector({"x": 1}, {"x": 2}, {"x": 3}),
        vector({}, {}, {}),
    ):
        table.add(columns.columns(infos))

    assert table.column("info/x") == [0, 2, 0, 1, 2, 3, 0, 0, 0]
    assert table.column("info/_x") == [False, True, False, True, True, True, False, False, False]
    assert table.column("info/n/_y") == [False, False, True] + [False] * 6


def test_values_behind_a_mask_are_not_recorded() -> None:
    table = Table()

    table.add(columns_of(table, 2).columns({"x": np.array([7.0, 8.0]), "_x": np.array([False, True])}))

    assert table.column("info/x") == [0, 8]


def test_infos_of_a_reset_are_not_recorded() -> None:
    table = Table()
    columns = columns_of(table, 2)
    resetting = np.array([True, False])

    table.add(columns.columns(vector({"x": 1.0, "only_reset": 1}, {"x": 2.0}), resetting), ~resetting)

    assert table.column("info/x") == [2]
    assert fields(table) == {"info/x": "float64"}


def test_what_gymnasium_cast_to_the_dtype_of_a_resets_info_is_left_out() -> None:
    table = Table()
    columns = columns_of(table, 2)
    table.add(columns.columns(vector({"prob": 0.5, "count": 1}, {"prob": 0.25, "count": 2})))
    # Env 0 was reset: 0.25 became 0, and 3 became 3.0.
    infos = vector({"prob": 1, "count": 0.0}, {"prob": 0.25, "count": 3})
    resetting = np.array([True, False])

    with pytest.warns(ReplayStoreWarning, match="'prob'.*Gymnasium cast it to the int64 of a reset's info"):
        table.add(columns.columns(infos, resetting), ~resetting)

    assert table.column("info/_prob") == [True, True, False]
    assert table.column("info/count") == [1, 2, 3]
    with pytest.warns(ReplayStoreWarning, match="'count'.*it is float64 of shape .* where it was int64"):
        table.add(columns.columns(vector({"count": 0.0}, {"count": 3})))
    table.add(columns.columns(vector({"count": 0.0}, {"count": 3.5}), resetting), ~resetting)
    assert table.column("info/_count") == [True, True, True, False, False, False]
    assert columns.left_out == {"prob": 1, "count": 3}


def test_what_gymnasium_cast_to_the_dtype_of_the_first_environment_is_left_out() -> None:
    table = Table()
    columns = columns_of(table, 3)
    table.add(columns.columns(vector({"dist": 0.5}, {"dist": 0.25}, {"dist": 0.0})))

    with pytest.warns(
        ReplayStoreWarning, match=("'dist'.*Gymnasium cast it to the int64 of the first environment's")
    ):
        table.add(columns.columns(vector({}, {"dist": 2}, {"dist": 0.75})))  # the last became 0

    assert table.column("info/dist") == [0.5, 0.25, 0, 0, 2, 0]
    assert table.column("info/_dist") == [True, True, True, False, True, False]
    assert columns.left_out == {"dist": 1}


def test_of_several_environments_those_whose_values_fit_are_recorded() -> None:
    table = Table()
    columns = columns_of(table, 3)
    table.add(columns.columns(vector(*({"n": np.int8(place)} for place in range(3)))))
    table.add(columns.columns(vector(*({"f": np.float32(place)} for place in range(3)))))

    with pytest.warns(ReplayStoreWarning):
        table.add(columns.columns(vector({"n": 200, "f": 0.5}, {"n": 2, "f": 0.1}, {"n": -300, "f": 1.0})))

    assert table.column("info/n")[6:] == [0, 2, 0]
    assert table.column("info/_n")[6:] == [False, True, False]
    assert table.column("info/f")[6:] == [0.5, 0, 1]
    assert table.column("info/_f")[6:] == [True, False, True]
    assert columns.left_out == {"n": 2, "f": 1}


def test_the_info_of_an_ended_environment_is_its_final_info() -> None:
    table = Table()
    columns = columns_of(table, 3)
    ended = np.array([True, False, True])
    infos = vector({"x": -1.0, "reset": 1}, {"x": 2.0, "only": 5}, {"x": -1.0})
    final = vector({"x": 1.0, "won": True}, {}, {"x": 3.0, "won": False})

    table.add(
        columns.columns(
            {**infos, "final_obs": np.zeros(3), "final_info": final, "_final_info": ended}, ended, final
        )
    )

    assert table.column("info/x") == [1, 2, 3]
    assert table.column("info/_won") == [True, False, True]
    assert table.column("info/only") == [0, 5, 0]
    assert "info/reset" not in table.schema.fields


def test_what_a_wrapper_adds_without_masks_is_about_the_step_of_ended_environments_too() -> None:
    table = Table()
    columns = columns_of(table, 3)
    ended = np.array([True, False, False])
    infos = {"episode": {"r": np.array([5.0, 0, 0])}, "_episode": ended, "time": np.array([1, 2, 3])}

    table.add(columns.columns(infos, ended, {"time": np.array([9, 0, 0]), "_time": ended}))

    assert table.column("info/episode/r") == [5, 0, 0]
    assert table.column("info/episode/_r") == [True, False, False]
    assert table.column("info/time") == [9, 2, 3]

    ended = np.array([True, True, True])
    table.add(
        columns.columns({"time": np.array([1, 2, 3])}, ended, {"time": np.array([7, 8, 9]), "_time": ended})
    )
    assert table.column("info/time")[3:] == [7, 8, 9]


def test_a_value_is_there_if_it_and_all_dicts_around_it_are() -> None:
    table = Table()
    inner, outer = np.array([True, True, False]), np.array([False, True, True])

    table.add(columns_of(table, 3).columns({"n": {"x": np.array([1, 2, 3]), "_x": inner}, "_n": outer}))

    assert table.column("info/n/x") == [0, 2, 0]
    assert table.column("info/n/_x") == [False, True, False]


def test_objects_among_the_environments_are_left_out_one_by_one() -> None:
    table = Table()
    columns = columns_of(table, 4)
    infos: dict[str, Any] = {"x": np.array([None, np.float32(1), "text", np.float32(2)], dtype=object)}

    with pytest.warns(ReplayStoreWarning, match="'x'.*a str"):
        table.add(columns.columns(infos))
    infos = {"ragged": np.array([None, np.zeros(2), np.ones(3), None], dtype=object)}
    with pytest.warns(ReplayStoreWarning, match=r"'ragged'.*shape \(3,\) beside"):
        table.add(columns.columns(infos))

    assert table.column("info/_x") == [False, True, False, True] + [False] * 4
    assert table.column("info/_ragged") == [False] * 4 + [False, True, False, False]
    assert fields(table)["info/x"] == "float32"


def test_an_array_that_has_no_row_for_each_environment_is_left_out() -> None:
    with pytest.warns(
        ReplayStoreWarning,
        match=(
            r"its shape \(3,\) does not begin with the number of "
            r"environments, 2"
        ),
    ):
        columns_of(Table(), 2).columns({"x": np.zeros(3)})
    with pytest.warns(ReplayStoreWarning, match="it holds a float"):
        columns_of(Table(), 2).columns({"x": 1.0})


KEYS: dict[str, Callable[[int], Any]] = {
    "a": float,
    "b": bool,
    "c": lambda n: np.full(2, n, "f4"),
    "d": np.bool_,
    "e": lambda n: {"x": n, "y": {}},
}


@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(
            st.lists(st.sets(st.sampled_from(sorted(KEYS))), min_size=n, max_size=n), max_size=6
        )
    )
)
def test_any_presence_of_keys_is_recorded_alike_in_single_environments_and_vectors(
    steps: list[list[set[str]]],
) -> None:
    def info(step: int, env: int, keys: set[str]) -> dict[str, Any]:
        return {key: KEYS[key](step + 10 * env) for key in sorted(keys)}

    many, one = Table(), Table()
    vectors, singles = columns_of(many, len(steps[0]) if steps else 1), columns_of(one, masks=False)
    for step, envs in enumerate(steps):
        many.add(
            vectors.columns(vector(*(info(step, env, keys) for env, keys in enumerate(envs)))), rows=len(envs)
        )
        for env, keys in enumerate(envs):
            one.add(singles.columns(batch_of_one(info(step, env, keys))))

    def present(table: Table) -> dict[str, list[Any]]:
        """For each key its values with None where it is missing."""
        names = [name for name, declared in table.schema.fields.items() if declared.role == "info"]
        masks = {name: name.rpartition("/")[0] + "/_" + name.rpartition("/")[2] for name in names}
        return {
            name: [
                value if there else None
                for value, there in zip(table.column(name), table.column(masks[name]), strict=True)
            ]
            if masks[name] in table.schema.fields
            else table.column(name)
            for name in names
        }

    assert present(many) == present(one)
    for name, column in present(many).items():
        key = name.split("/")[1]
        assert [value is not None for value in column] == [key in envs for step in steps for envs in step]


# --- the way that nearly all steps take

ONE_MORE: list[dict[str, Any]] = [
    {},
    {"text": "odd"},
    {"late": 1.0},
    {"_x": True},
    {"x": np.float32(2)},
    {"n": {"y": 3}},
    {"final_obs": 1.0},
]
"""What the infos of an environment have beside `x` and `y`, or instead."""


@pytest.mark.parametrize("selected", [True, ["y"]])
@pytest.mark.parametrize("masks", [True, False])
@example(steps=[({}, False, False), ({"_x": True}, False, False)])
@given(steps=st.lists(st.tuples(st.sampled_from(ONE_MORE), st.booleans(), st.booleans()), max_size=6))
def test_infos_that_are_as_usual_are_recorded_as_others_are(
    masks: bool, selected: Any, steps: list[tuple[dict[str, Any], bool, bool]]
) -> None:
    """Each step: something odd, whether its second environment has no `x`, and whether it is a reset's.
    `BothWays` compares."""
    table = Table({"info/x": Field(np.dtype(float), (), "info"), "info/_x": MASK})
    count = 2 if masks else 1
    columns = columns_of(table, count, selected, masks=masks)
    for _ in range(2):  # the second of which is as usual
        table.add(columns.columns({"x": np.full(count, 5.0), "y": np.full(count, 5)}), rows=count)
    assert columns.quick == (selected is True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReplayStoreWarning)
        for number, (odd, lacks, resets) in enumerate(steps):
            one = {"x": 1.0 + number, "y": number, **odd}
            other = {key: value for key, value in one.items() if not (lacks and key == "x")}
            infos, reset = (
                (vector(one, other), np.array([False, resets]))
                if masks
                else (batch_of_one(other), np.array([resets]))
            )
            table.add(columns.columns(infos, reset if resets else None), rows=len(reset))
