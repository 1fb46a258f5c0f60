"""The language of `Trajectories.where`, compared with Python's own reading of the same words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.errors import SchemaError
from replaystore.trajectories.compare import compare
from replaystore.trajectories.where import MAX_CHARACTERS, MAX_NESTING, equal, parse

COLUMNS = ["count", "large", "score", "terminated", "split", "label"]
NUMBERS = ["count", "large", "score"]
STRINGS = ["split", "label"]
BIG = 2**60
TABLE: dict[str, np.ndarray[Any, Any]] = {
    "count": np.array([-3, 0, 1, 2, 2, 50], np.int16),
    "large": np.array([BIG, BIG + 1, BIG - 1, 2**63 - 1, -(2**63), 2]),
    "score": np.array([0.5, math.nan, math.inf, -math.inf, 2.0, float(BIG)]),
    "terminated": np.array([True, False, True, False, False, True]),
    "split": np.array(["train", "", "val", 'it\'s "x"', "train", "Zürich"]),
    "label": np.array(["train", "val", "val", "\\", "a longer one", ""], object),
}


def mask_of(expression: str) -> list[bool]:
    return list(parse(expression).mask(TABLE, 6).tolist())


def python_mask(expression: str) -> list[bool]:
    """What Python itself makes of the expression, row by row, on its own numbers and strings."""
    rows = [
        dict(zip(TABLE, values, strict=True))
        for values in zip(*(column.tolist() for column in TABLE.values()), strict=True)
    ]
    names = {"true": True, "false": False, "inf": math.inf, "nan": math.nan}
    return [eval(expression, {"__builtins__": {}}, names | row) for row in rows]


def quoted(text: str) -> str:
    mark = "'" if '"' in text else '"'
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


numbers = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(
        [
            "0",
            "2",
            "+50",
            "-3",
            "2.5",
            "1e3",
            ".5",
            "2.",
            "inf",
            "-inf",
            "nan",
            f"{BIG}",
            f"{BIG + 1}",
            f"{BIG}.0",
            f"{2**70}",
            f"-{2**70}",
        ]
    ),
    st.integers(-(10**25), 10**25).map(str),
    st.floats().map(repr),
)
strings = st.one_of(
    st.sampled_from(STRINGS),
    st.sampled_from(["train", "", "val", "\\", "'", 'it\'s "x"']).map(quoted),
    st.text("ab\"'\\é").map(quoted),
)
# Python looks for the very object first, and so finds nan in a list that holds it.
number_literals, string_literals = (
    s.filter(lambda text: text not in [*COLUMNS, "nan"]) for s in (numbers, strings)
)


def chains(operand: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    sign = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    rest = st.lists(st.tuples(sign, operand).map(" ".join), min_size=1, max_size=3).map(" ".join)
    return st.tuples(operand, rest).map(" ".join)


def memberships(operand: st.SearchStrategy[str], literal: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    choices = st.lists(literal, min_size=1, max_size=4).map(lambda values: f"({', '.join(values)},)")
    return st.tuples(operand, st.sampled_from(["in", "not in"]), choices).map(" ".join)


comparisons = st.one_of(
    chains(numbers),
    chains(strings),
    memberships(numbers, number_literals),
    memberships(strings, string_literals),
)
conditions = st.recursive(
    comparisons
    | st.sampled_from(["terminated", "true", "false", "terminated == true", "terminated != false"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
        inner.map("not {}".format),
        inner.map("({})".format),
        st.tuples(inner, st.sampled_from(["==", "!="]), inner).map("({0[0]}) {0[1]} ({0[2]})".format),
    ),
    max_leaves=8,
)


@given(conditions)
def test_an_expression_means_what_it_means_in_python(expression: str) -> None:
    assert mask_of(expression) == python_mask(expression)


@given(chains(numbers))
def test_space_between_words_and_symbols_is_free(expression: str) -> None:
    assert (
        mask_of(f"\t(\n{expression}  )") == mask_of(expression.replace(" ", "\n \t")) == mask_of(expression)
    )


@given(st.text("ab<>=!()'\"\\,. -+0123enaotrdif`&", max_size=40))
def test_any_text_is_an_expression_or_a_schema_error_of_one_line(text: str) -> None:
    try:
        answer = mask_of(text)
    except SchemaError as error:
        message = str(error)
    else:
        message = "where: "
        assert len(answer) == 6

    assert message.startswith("where: ")
    assert "\n" not in message


def test_large_integers_do_not_pass_through_a_float() -> None:
    assert mask_of(f"large == {BIG + 1}") == [False, True, False, False, False, False]
    assert mask_of(f"large > {BIG}") == [False, True, False, True, False, False]
    assert mask_of(f"large in ({BIG - 1}, 1.5, {2**70})") == [False, False, True, False, False, False]
    assert mask_of("large == score") == python_mask("large == score")
    unsigned = {"big": np.array([2**64 - 1, 2**63], np.uint64), "signed": np.array([-1, 2**63 - 1])}
    assert parse("big > signed").mask(unsigned, 2).tolist() == [True, True]
    assert parse(f"big == {2**64 - 1} or big < 0").mask(unsigned, 2).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_a_decimal_fraction_is_found_in_a_column_of_any_float_type(dtype: type[np.floating[Any]]) -> None:
    column = {"score": np.array([0.1, 0.2, math.inf], dtype)}

    assert parse("score == 0.1").mask(column, 3).tolist() == [True, False, False]
    assert parse("score in (0.2, 0.3)").mask(column, 3).tolist() == [False, True, False]
    assert parse("0.1 < score").mask(column, 3).tolist() == [False, True, True]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_number_beyond_the_type_of_a_column_is_beyond_its_values_but_not_infinite(
    dtype: type[np.floating[Any]],
) -> None:
    column = {"score": np.array([1.0, np.finfo(dtype).max, math.inf, -math.inf], dtype)}

    for huge in [10**400, -(10**400)]:
        assert equal("score", column["score"], huge).tolist() == [False] * 4
        assert compare(column["score"], "<=", huge).tolist() == [huge > 0, huge > 0, False, True]  # type: ignore[union-attr]
    if dtype is not np.float64:
        assert parse("score < 1e300").mask(column, 4).tolist() == [True, True, False, True]
        assert parse("score >= 1e300").mask(column, 4).tolist() == [False, False, True, False]
        assert parse("-1e300 < score").mask(column, 4).tolist() == [True, True, True, False]
        assert parse("score == 1e300 or score == -1e300").mask(column, 4).tolist() == [False] * 4


def test_a_column_whose_name_is_no_identifier_or_a_word_of_the_language_goes_in_backticks() -> None:
    columns = {"on policy/score": np.array([1, 2]), "in": np.array([3, 4])}

    assert parse("`on policy/score` == 2 and `in` == 4").mask(columns, 2).tolist() == [False, True]


def test_nan_equals_nothing_and_is_in_no_list() -> None:
    for expression in ["nan in (nan, 1)", "score == nan", "count in (nan,)", "score < nan", "count >= nan"]:
        assert mask_of(expression) == [False] * 6
    assert mask_of("score not in (nan,) and count != nan") == [True] * 6


def test_an_empty_table_has_an_empty_mask() -> None:
    empty = {name: column[:0] for name, column in TABLE.items()}

    for expression in [
        "count > 1",
        "split == 'a'",
        "label in ('a', 'b')",
        "score in (1, 2)",
        "true",
        "not terminated",
    ]:
        assert parse(expression).mask(empty, 0).shape == (0,)


@pytest.mark.parametrize(
    ("expression", "position", "problem"),
    [
        ("", 1, "expected a column or a value, found the end"),
        ("count >", 8, "expected a column or a value, found the end"),
        ("count > 1 and", 14, "expected a column or a value, found the end"),
        ("count 1", 7, "found '1'"),
        ("count = 1", 7, "use == to compare"),
        ("count > 1 & terminated", 11, "write and"),
        ("count > 1 | terminated", 11, "write or"),
        ("!terminated", 1, "write not"),
        ("count + 1 > 2", 7, "there is no arithmetic here"),
        ("count > 1_000", 9, "no meaning here"),
        ("count > 0x10", 9, "no meaning here"),
        ("(count > 1", 11, 'expected ")", found the end'),
        ("count > 1)", 10, "found ')'"),
        ("split == 'train", 10, "a string is not closed"),
        (r"split == 'a\n'", 10, "only"),
        ("`count > 1", 1, "a column name is not closed"),
        ("split in 'train'", 10, 'expected "(" before a list of values'),
        ("split in ['train']", 10, "write a list in parentheses"),
        ("split in ()", 11, "expected a number, a string, true or false"),
        ("split in ('a' 'b')", 15, 'expected "," or ")"'),
        ("split in (label)", 11, "expected a number, a string, true or false"),
        ("split not ('a')", 11, 'expected "in" after "not"'),
        ("terminated and or true", 16, "expected a column or a value, found 'or'"),
        ("count > " + "9" * 301, 9, "a number of more than 300 characters"),
        (
            "missing > 1",
            1,
            'there is no column "missing"; the columns are count, large, score, terminated, split, label',
        ),
        ("count == 'three'", 10, "a number is compared with a string"),
        ("terminated == 1", 15, "a boolean is compared with a number"),
        ("count in (1, 'two')", 14, "a number is compared with a string"),
        ("terminated < true", 14, "true and false have no order"),
        ("terminated and count", 16, "a number stands where true or false is expected"),
        ("not split", 5, "a string stands where true or false is expected"),
        ("3", 1, "a number stands where true or false is expected"),
    ],
)
def test_a_mistake_is_named_with_its_place(expression: str, position: int, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        mask_of(expression)

    message = str(caught.value)
    assert f"at character {position} of " in message
    assert problem in message
    assert "an expression looks like return > 100" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (np.zeros((6, 3)), r"holds arrays of shape \(3,\), which cannot be compared"),
        (np.zeros(6, np.complex64), "holds complex64"),
        (np.array(["a", None, 3], object), "holds objects that are not all strings"),
    ],
)
def test_columns_that_cannot_be_compared_are_refused(column: np.ndarray[Any, Any], problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        parse("odd == 1").mask({"odd": column}, len(column))
    with pytest.raises(SchemaError, match=problem):
        equal("odd", column, 1)


def test_what_is_not_a_string_is_refused() -> None:
    with pytest.raises(SchemaError, match="an expression is a string such as"):
        parse(3)  # type: ignore[arg-type]


def test_size_and_nesting_are_limited() -> None:
    deep = "(" * MAX_NESTING + "true" + ")" * MAX_NESTING
    wide = " or ".join(["count == 1"] * 700)

    assert mask_of(deep) == [True] * 6
    assert mask_of("not " * MAX_NESTING + "true") == [True] * 6
    assert mask_of(wide) == mask_of("count == 1")
    for too_deep in [f"({deep})", "not " * (MAX_NESTING + 1) + "true"]:
        with pytest.raises(SchemaError, match="nested more than 100 deep"):
            parse(too_deep)
    with pytest.raises(SchemaError, match="too long"):
        parse("(" * (MAX_CHARACTERS + 1))


def test_equal_takes_one_value_or_several() -> None:
    assert equal("count", TABLE["count"], 2).tolist() == [False, False, False, True, True, False]
    assert equal("count", TABLE["count"], [np.int64(2), -3]).tolist() == [
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    assert equal("count", TABLE["count"], np.array([50])).tolist() == [False] * 5 + [True]
    assert equal("split", TABLE["split"], {"train", "val"}).tolist() == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    assert equal("label", TABLE["label"], np.str_("val")).tolist() == [False, True, True, False, False, False]
    assert equal("terminated", TABLE["terminated"], np.False_).tolist() == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    assert equal("split", TABLE["split"], []).tolist() == [False] * 6


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", "2"), ("count", True), ("split", 3), ("terminated", 1), ("split", None), ("count", [1, "2"])],
)
def test_equal_refuses_a_value_of_another_kind(name: str, value: object) -> None:
    with pytest.raises(
        SchemaError, match=(f'where: column "{name}" holds (number|string|boolean)s and cannot be equal to')
    ):
        equal(name, TABLE[name], value)
