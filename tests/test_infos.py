"""Infos of one environment become columns: keys, masks, dtypes and shapes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from info_tables import Table, columns_of, fields, record

from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium.infos import batch_of_one
from replaystore.schema.values import exactly

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
