"""Info dictionaries become columns: what is recorded, as what, where it is missing, and what is refused."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import infos as infos_module
from replaystore.gymnasium.infos import InfoColumns, batch_of_one
from replaystore.schema.fields import Field, Schema
from replaystore.schema.values import exactly

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

Rows = dict[str, list[Any]]


class Table:
    """What InfoColumns needs of a buffer, and the rows that it was given."""

    def __init__(self, fields: Mapping[str, Field] | None = None) -> None:
        self.schema = Schema({"reward": Field(np.dtype(float), (), "reward"), **(fields or {})})
        self.rows: Rows = {name: [] for name in self.schema.fields}

    @property
    def rows_recorded(self) -> int:
        return len(self.rows["reward"])

    def add_field(self, name: str, declared: Field, *, fill: int = 0) -> None:
        self.schema = self.schema.with_field(name, declared)
        self.rows[name] = [np.full(declared.shape, fill, declared.dtype) for _ in range(self.rows_recorded)]

    def add(
        self, columns: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_] | None = None, rows: int = 1
    ) -> None:
        columns = {**columns, "reward": np.zeros(len(next(iter(columns.values()), range(rows))))}
        assert columns.keys() == self.schema.fields.keys()
        for name, values in columns.items():
            declared = self.schema.fields[name]
            assert values.dtype == declared.dtype
            assert values.shape[1:] == declared.shape
            self.rows[name].extend(np.array(values if mask is None else values[mask]))

    def column(self, name: str) -> list[Any]:
        return [value.tolist() for value in self.rows[name]]


def columns_of(table: Table, num_envs: int = 1, selected: Any = True, *, masks: bool = True) -> InfoColumns:
    return InfoColumns(
        cast("Buffer", table), num_envs, selected, masks=masks, reserved=("final_obs", "final_info")
    )


def record(*infos: Mapping[Any, Any], selected: Any = True, table: Table | None = None) -> Table:
    """Record the infos of one environment, step after step."""
    table = Table() if table is None else table
    columns = columns_of(table, selected=selected, masks=False)
    for info in infos:
        table.add(columns.columns(batch_of_one(info)))
    return table


def vector(*infos: Mapping[str, Any]) -> dict[str, Any]:
    """The infos of a vector environment, as Gymnasium makes them."""
    env = gymnasium.vector.VectorEnv[Any, Any, Any]()
    env.num_envs = len(infos)
    batch: dict[str, Any] = {}
    for place, info in enumerate(infos):
        batch = env._add_info(batch, dict(info), place)
    return batch


def fields(table: Table) -> dict[str, str]:
    return {name: str(declared.dtype) for name, declared in table.schema.fields.items() if name != "reward"}


# --- one environment


def test_numbers_and_arrays_keep_their_dtype() -> None:
    info = {
        "flag": True, "count": 3, "speed": 0.5, "phase": 1j, "small": np.int8(4), "half": np.float16(2),
        "bit": np.bool_(True), "vector": np.arange(3, dtype="u2"), "big_endian": np.arange(2, dtype=">f4"),
    }  # fmt: skip

    table = record(info, info)

    assert fields(table) == {
        "info/flag": "bool", "info/count": "int64", "info/speed": "float64", "info/phase": "complex128",
        "info/small": "int8", "info/half": "float16", "info/bit": "bool", "info/vector": "uint16",
        "info/big_endian": "float32",
    }  # fmt: skip
    assert table.column("info/vector") == [[0, 1, 2]] * 2
    assert table.column("info/big_endian") == [[0, 1]] * 2
    assert table.column("info/phase") == [1j, 1j]


def test_a_key_of_a_nested_dict_is_a_path() -> None:
    table = record({"episode": {"r": 1.5, "a/b": 2}})

    assert fields(table) == {"info/episode/r": "float64", "info/episode/a%2Fb": "int64"}


def test_a_key_that_appears_late_is_zero_and_masked_before() -> None:
    table = record({"x": 1}, {"x": 2, "late": 5.0}, {"x": 3})

    assert table.column("info/late") == [0, 5, 0]
    assert table.column("info/_late") == [False, True, False]
    assert "info/_x" not in table.schema.fields


def test_a_key_that_is_missing_for_the_first_time_gets_a_mask_that_is_true_before() -> None:
    table = record({"x": 1, "n": {"y": 1}}, {"x": 2, "n": {"y": 2}}, {}, {"x": 4})

    assert table.column("info/x") == [1, 2, 0, 4]
    assert table.column("info/_x") == [True, True, False, True]
    assert table.column("info/n/_y") == [True, True, False, False]
    assert table.schema.fields["info/_x"].role == "mask"


def test_none_is_no_value() -> None:
    table = record({"x": None}, {"x": 2.0}, {"x": None})

    assert table.column("info/_x") == [False, True, False]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("text", "a str"),
        ([1, 2], "a list"),
        (object(), "a object"),
        (np.array(["a"]), "<U1"),
        (np.array([], dtype=float), r"of shape \(0,\)"),
        (np.datetime64("2020-01-01"), "datetime64"),
        (2**70, "int"),
        (np.ma.masked_array([1.0], [True]), "a MaskedArray"),
    ],
)
def test_what_is_no_number_is_left_out_with_one_warning(value: Any, reason: str) -> None:
    table = Table()
    columns = columns_of(table, masks=False)

    info = batch_of_one({"n": {"x": value}, "y": 1})
    with pytest.warns(ReplayStoreWarning, match=rf"info key 'n/x' is not recorded.*{reason}"):
        table.add(columns.columns(info))
    for _ in range(2):  # without a warning, which would be an error
        table.add(columns.columns(info))

    assert columns.left_out == {"n/x": 3}
    assert fields(table) == {"info/y": "int64"}


def test_a_key_whose_name_is_no_string_is_left_out() -> None:
    with pytest.warns(ReplayStoreWarning, match="info key '7' is not recorded.*a int, not a string"):
        assert fields(record({7: 1.0}, {7: 1.0})) == {}


def test_a_name_that_no_store_can_hold_is_left_out() -> None:
    with pytest.warns(ReplayStoreWarning, match="choose a shorter one"):
        assert fields(record({"x" * 300: 1.0}, {"x" * 300: 1.0})) == {}


def test_a_number_that_becomes_text_is_missing_there() -> None:
    with pytest.warns(ReplayStoreWarning, match="or not in every row"):
        table = record({"x": 1}, {"x": "one"}, {"x": 3})

    assert table.column("info/_x") == [True, False, True]


def test_a_number_that_becomes_a_dict_is_missing_there_and_the_reverse() -> None:
    with pytest.warns(ReplayStoreWarning, match="'x'.*it is a dict where it was a number"):
        assert record({"x": 1}, {"x": {"y": 1}}).column("info/_x") == [True, False]
    with pytest.warns(ReplayStoreWarning, match="'x'.*it is no dict where it was one"):
        assert record({"x": {"y": 1}}, {"x": 1}).column("info/x/_y") == [True, False]


def test_names_that_begin_with_an_underscore_are_recorded_unless_they_are_taken() -> None:
    assert fields(record({"_x": 1})) == {"info/_x": "int64"}
    with pytest.warns(ReplayStoreWarning, match="'_x' is not recorded.*kept for the mask of 'x'"):
        assert fields(record({"_x": 1, "x": 2.0}, {"x": 1.0})) == {"info/x": "float64"}
    with pytest.warns(ReplayStoreWarning, match="'x' is not recorded.*is taken"):
        assert fields(record({"_x": 1}, {"x": 2.0})) == {"info/_x": "int64", "info/__x": "bool"}
    with pytest.warns(ReplayStoreWarning, match="'_x' is not recorded.*is taken"):
        assert fields(record({"x": 1.0}, {"_x": 2})) == {"info/x": "float64", "info/_x": "bool"}


def test_only_selected_keys_are_recorded() -> None:
    info = {"x": 1, "y": "text", "episode": {"r": 1.0, "l": 2}, "other": {"z": 1}}

    assert set(fields(record(info, selected=["x", "episode/r"]))) == {"info/x", "info/episode/r"}
    assert set(fields(record(info, selected=("episode",)))) == {"info/episode/r", "info/episode/l"}
    assert fields(record(info, info, selected=False)) == {}
    with pytest.raises(SchemaError, match=r"info=\['x'\]"):
        record(info, selected="x")


def test_fields_of_the_buffer_that_nobody_gives_are_missing() -> None:
    table = record({"x": 1}, {"x": 2})

    record({"y": 1}, table=table, selected=False)
    record({"y": 1, "x": 4}, table=table, selected=["y"])

    assert table.column("info/_x") == [True, True, False, False]
    assert table.column("info/_y") == [False, False, False, True]


def test_two_recorders_of_one_buffer_see_each_others_fields() -> None:
    table = Table()
    first, second = columns_of(table, masks=False), columns_of(table, masks=False)
    table.add(first.columns(batch_of_one({"x": 1})))
    table.add(second.columns(batch_of_one({"y": 2})))
    table.add(first.columns(batch_of_one({"x": 3})))

    assert table.column("info/x") == [1, 0, 3]
    assert table.column("info/_x") == [True, False, True]
    assert table.column("info/_y") == [False, True, False]


# --- changes of dtype and shape


def test_integers_become_the_floats_of_their_field_if_that_is_exact() -> None:
    table = record({"x": 0.5}, {"x": 2**53}, {"x": True}, {"x": np.float32(0.25)})

    assert table.column("info/x") == [0.5, 2.0**53, 1.0, 0.25]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (0.5, 2**53 + 1),
        (1, 0.5),
        (np.float32(1), 0.1),
        (np.int8(1), 200),
        (True, 1),
        (np.zeros(2), np.zeros(3)),
        (1.0, np.zeros(1)),
        (1.0, 1j),
    ],
)
def test_a_value_that_its_field_does_not_hold_is_left_out_with_one_warning(first: Any, then: Any) -> None:
    table = Table()
    columns = columns_of(table, masks=False)
    info = batch_of_one({"n": {"x": first}})
    table.add(columns.columns(info))

    with pytest.warns(
        ReplayStoreWarning,
        match=("info key 'n/x' is not recorded, or not in every row: it is .* where it was "),
    ):
        table.add(columns.columns(batch_of_one({"n": {"x": then}})))
    for other in (then, first):
        table.add(columns.columns(batch_of_one({"n": {"x": other}})))

    assert table.column("info/n/_x") == [True, False, False, True]
    assert np.array_equal(table.column("info/n/x")[3], first)
    assert columns.left_out == {"n/x": 2}


def test_a_float_that_its_field_holds_exactly_is_recorded() -> None:
    with pytest.warns(ReplayStoreWarning, match="it is float64 of shape .* where it was float32"):
        table = record({"x": np.float32(1)}, {"x": 0.5}, {"x": 0.1}, {"x": np.float16(2)})

    assert table.column("info/x") == [1, 0.5, 0, 2]
    assert table.column("info/_x") == [True, True, False, True]


numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.integers(-300, 300), st.floats(width=32), st.floats(), st.booleans()
)
dtypes = st.sampled_from(["bool", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", "c16"])


@given(numbers, dtypes, dtypes)
def test_a_conversion_changes_no_value(number: Any, given_dtype: str, dtype: str) -> None:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            values = np.array([number, 1]).astype(given_dtype)
        except OverflowError:
            return
    converted = exactly(values, np.dtype(dtype))

    if converted is None:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            back = values.astype(dtype).tolist()
        kinds = values.dtype.kind, np.dtype(dtype).kind
        other_kind = kinds[1] == "b" or kinds in (("f", "i"), ("f", "u"), ("c", "f"), ("c", "i"), ("c", "u"))
        assert other_kind or any(
            not (a == b or (a != a and b != b)) for a, b in zip(back, values.tolist(), strict=True)
        )
    else:
        assert converted.dtype == dtype
        kept = [
            a == b or (a != a and b != b) for a, b in zip(converted.tolist(), values.tolist(), strict=True)
        ]
        assert all(kept)


# --- vectors of environments


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


# --- an info never ends a recording


class Odd(dict[str, Any]):
    """A mapping of its own kind."""


def nested(depth: int) -> dict[str, Any]:
    return {"y": nested(depth - 1)} if depth else {"y": 1.0}


def cycle() -> dict[str, Any]:
    info: dict[str, Any] = {"y": 1.0}
    return info | {"again": info, "self": info.setdefault("self", info)}


ODD: dict[str, Any] = {
    "nothing": None, "bool": True, "int": 3, "large int": 2**40, "huge int": 2**70, "float": 0.1,
    "exact float": 0.5, "nan": float("nan"), "complex": 1j, "np.bool": np.bool_(True), "int8": np.int8(1),
    "uint64": np.uint64(2**64 - 1), "float16": np.float16(0.5), "float32": np.float32(0.1),
    "longdouble": np.longdouble(1), "text": "text", "bytes": b"b", "np.str": np.str_("a"), "list": [1, 2],
    "ragged": [[1], [1, 2]], "tuple": (1.0,), "set": {1}, "object": object(), "class": dict,
    "date": np.datetime64("2020-01-01"), "record": np.zeros(1, [("a", "i4")])[0], "0-d": np.array(1.5),
    "vector": np.zeros(2), "longer": np.zeros(3), "float32 vector": np.ones(2, "f4"), "matrix": np.zeros((2,
    2)), "subclass": np.zeros(2).view(np.recarray), "empty": np.zeros(0), "objects": np.array([1, "a", None],
    dtype=object), "masked": np.ma.masked_array([1.0, 2.0], [True, False]), "big endian": np.arange(2,
    dtype=">i4"), "not in order": np.zeros((2, 3), "f4").T, "backwards": np.arange(4.0)[::-2],
    "read-only": np.broadcast_to(1.0, 2), "words": np.array(["a", "b"]), "dict": {"y": 1}, "empty dict": {},
    "odd dict": Odd(y=2.0), "numbers as keys": {7: 1.0, None: 2}, "deep": nested(100), "cycle": cycle(),
    "tensor": torch.zeros(2), "tensor with a graph": torch.ones(2, requires_grad=True) * 2,
    "meta": torch.zeros(2, device="meta"), "bfloat16": torch.zeros(2, dtype=torch.bfloat16),
}  # fmt: skip


@pytest.mark.parametrize("first", ODD)
def test_whatever_a_key_becomes_the_recording_goes_on_and_holds_no_other_value(first: str) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for then in ODD.values():
            given = [{"x": ODD[first], "z": 1}, {"x": then, "z": 2}, {"z": 3}, {"x": ODD[first], "z": 4}]
            table = Table()
            columns = columns_of(table, masks=False)
            for info in given:
                table.add(columns.columns(batch_of_one(info)))
            assert table.column("info/z") == [1, 2, 3, 4]
            known = table.schema.fields.get("info/x")
            for row, info in enumerate(given):
                there = known is not None and (
                    "info/_x" not in table.schema.fields or table.column("info/_x")[row]
                )
                if there:
                    np.testing.assert_array_equal(table.rows["info/x"][row], np.asarray(info["x"]))
                elif info.get("x") is not None and not isinstance(info["x"], Mapping):
                    assert columns.left_out["x"] > 0


@pytest.mark.parametrize("first", ODD)
def test_whatever_a_key_becomes_vectors_go_on_as_well(first: str) -> None:
    """Of an environment that has just reset, of a final info, and of others."""
    ended = np.array([True, False])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for then in ODD:
            for one, other in ((first, then), (then, first)):
                infos: list[dict[str, Any]] = []
                with contextlib.suppress(Exception):  # where Gymnasium itself ends
                    infos = [
                        vector({"x": ODD[a]}, {"x": ODD[b]})
                        for a, b in ((first, first), (one, other), (other, other))
                    ]
                table = Table()
                columns = columns_of(table, 2)
                for info in infos:
                    table.add(columns.columns(info), rows=2)
                    table.add(columns.columns(info, ended), ~ended, rows=2)
                    table.add(
                        columns.columns(
                            {**info, "final_info": infos[0], "_final_info": ended}, ended, infos[0]
                        ),
                        rows=2,
                    )
                assert table.rows_recorded == 5 * len(infos)


@pytest.mark.parametrize("infos", [None, [{}], (), "text", 3, np.zeros(2)])
def test_infos_that_are_no_dict_are_left_out(infos: Any) -> None:
    table, ended = Table({"info/x": Field(np.dtype(float), (), "info")}), np.array([True, False])
    columns = columns_of(table, 2)

    with pytest.warns(
        ReplayStoreWarning,
        match=(
            r"an info key is not recorded.*the infos came as a .*inside "
            r"of the wrapper"
        ),
    ):
        table.add(columns.columns(infos), rows=2)
    if infos is not None:  # which says that there are no final infos
        table.add(columns.columns(vector({"x": 1.0}, {"x": 2.0}), ended, infos), rows=2)

    assert table.column("info/_x") == [False, False, False, True][: table.rows_recorded]
    assert columns.left_out == {"*": 2 if infos is None else 3}
    assert record({"x": 1.0}, selected=False).rows_recorded == 1


def test_a_new_key_in_each_step_does_not_make_fields_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infos_module, "MAX_KEYS", 5)
    table = Table()
    columns = columns_of(table, masks=False)

    def go_on(steps: range) -> None:
        for step in steps:
            table.add(columns.columns(batch_of_one({f"step {step}": 1.0, "x": step})))

    with pytest.warns(ReplayStoreWarning, match="over 1000 keys") as caught:  # one in all
        go_on(range(20))

    keys = ["info/step 0", "info/x", "info/step 1", "info/step 2", "info/step 3"]
    assert [name for name in fields(table) if not name.startswith("info/_")] == keys
    assert table.column("info/x") == list(range(20))
    assert columns.left_out == {"*": 16}
    assert len(caught) == 1
    # What is not recorded takes no memory.
    assert len(columns._tree) == len(columns_of(Table(), masks=False)._tree) + 5


def test_masks_are_free_for_the_keys_that_need_them() -> None:
    """Whatever is recorded first, each key can be missing later."""
    long = "x" * 200  # its mask would have a longer name than a store can hold
    odd: list[dict[str, Any]] = [
        {"x": 1},
        {"_x": {"y": 1}},
        {"_x": 2},
        {"__x": 3},
        {long: 1.0},
        {"x": {"y": 1}},
        {},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in odd:
            for other in odd:
                table = record(one, other, {}, one)
                assert table.rows_recorded == 4


def test_a_field_that_stands_where_a_mask_belongs_is_refused_at_once() -> None:
    number = Field(np.dtype(float), (), "info")
    with pytest.raises(
        SchemaError, match=("'info/_x' has the name of the mask of 'info/x': declare it with role 'mask'")
    ):
        columns_of(Table({"info/x": number, "info/_x": number}))


def test_a_mask_of_a_key_that_nobody_records_is_false() -> None:
    table = record({"y": 1}, {"y": 2}, table=Table({"info/_x": Field(np.dtype(bool), (), "mask")}))

    assert table.column("info/_x") == [False, False]


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
