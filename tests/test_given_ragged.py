"""What a field of any length takes, and what it refuses in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore.errors import SchemaError
from replaystore.schema.field import Field
from replaystore.schema.given_ragged import joined, ragged_of, stacked
from replaystore.schema.ragged import MOST_BYTES, Ragged

TOKENS, POINTS = Field("int32", (None,), "extra"), Field("float32", (None, 3), "extra")
TEXTS = Field.of_text("extra")


def strided(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same, of which each second row of some memory is a part."""
    return np.repeat(array, 2, axis=0)[::2]


FORMS: dict[str, Any] = {
    "arrays": lambda lists: [np.array(one, np.int32) for one in lists],
    "tuples of lists": lambda lists: tuple(map(tuple, lists)),
    "an array of objects": lambda lists: np.array([*(np.array(one) for one in lists), None], object)[:-1],
    "strided arrays": lambda lists: [strided(np.array(one, np.int32)) for one in lists],
    "arrays of other dtypes": lambda lists: [
        np.array(one, "int8" if max(one, default=0) < 100 and min(one, default=0) > -100 else ">i8")
        for one in lists
    ],
    "a Ragged": lambda lists: Ragged.of(lists, "int32", ()),
    "a Ragged of another dtype": lambda lists: Ragged.of([[7], *lists], "int64", ())[1:],
    "empty arrays of floats": lambda lists: [np.array(one, np.int32 if one else float) for one in lists],
}


@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4), max_size=6))
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_are_the_same(form: str, lists: list[list[int]]) -> None:
    found = ragged_of("action", TOKENS, FORMS[form](lists), len(lists))

    assert found.tolist() == lists
    assert found.dtype == np.int32
    assert found.lead == (len(lists),)


def test_an_array_of_objects_may_have_two_dimensions() -> None:
    """NumPy makes one of lists of one length, and one of one dimension of others."""
    for lists in ([[1, 2], [3, 4]], [[1, 2], [3]]):
        assert ragged_of("tokens", TOKENS, np.array(lists, object), 2).tolist() == lists
    assert len(ragged_of("tokens", TOKENS, np.array([]), 0)) == 0
    with pytest.raises(SchemaError, match="decode them"):
        ragged_of("text", Field.of_text("extra"), np.array([b"a", b"b"]), 2)


@given(st.integers(0, 3), st.integers(0, 3))
def test_an_array_is_values_of_one_length(count: int, length: int) -> None:
    array = np.arange(count * length * 3, dtype=np.float32).reshape(count, length, 3)

    found = ragged_of("info/points", POINTS, array, None)

    assert found == Ragged.of(list(array), np.float32, (3,))
    assert ragged_of("info/points", POINTS, array.astype(float), count) == found


def test_values_are_rounded_as_those_of_other_fields() -> None:
    assert ragged_of("x", POINTS, [[(0.1, 0.2, 0.3)]], 1).values.dtype == np.float32
    with pytest.raises(SchemaError, match=r"field 'x', value 1: .*nothing is cast"):
        ragged_of("x", POINTS, [np.ones((2, 3)), np.full((1, 3), 0.1)], 2)
    with pytest.raises(SchemaError, match=r"field 'x', value 0: .*nothing is cast"):
        ragged_of("x", POINTS, [(np.array([0.1, 0.2, 0.3]),)], 1)  # an array has a dtype, in a tuple too
    with pytest.raises(SchemaError, match="field 'x', value 0: expected int32"):
        ragged_of("x", TOKENS, [[2**31]], 1)
    with pytest.raises(SchemaError, match="field 'x': expected int32"):
        ragged_of("x", TOKENS, Ragged.of([[0.5]]), 1)


@pytest.mark.parametrize(
    ("declared", "value", "said"),
    [
        (TOKENS, np.arange(3), r"an array of shape \(steps, length\), came int64 of shape \(3,\)"),
        (POINTS, np.zeros((2, 3)), r"an array of shape \(steps, length, 3\)"),
        (POINTS, [np.zeros(3)], r"value 0: expected float32 of shape \(length, 3\), came float64 of shape"),
        (TOKENS, [3], r"value 0: expected int32 of shape \(length,\), came int64 of shape \(\)"),
        (TOKENS, ["abc"], "value 0: .* came a str: give numbers, or declare a field of texts"),
        (TOKENS, [None], "value 0: .* came a NoneType: give numbers"),
        (TOKENS, None, "expected a list with an array for each step, came a NoneType"),
        (TOKENS, {"a": 1}, "came a dict"),
        (TOKENS, 3, "came int64 of shape"),
        (TOKENS, {1, 2}, "came object of shape"),
        (TOKENS, Ragged.of(["a"], text=True), "expected numbers, came texts"),
        (TOKENS, Ragged.of([[1], [2]]).reshape(2, 1), "reshape"),
        (TOKENS, [[1]] * 2, "has 2 values, not 1"),
        (TOKENS, Ragged.of([[1], [2]]), "has 2 values, not 1"),
        (TOKENS, np.ones((2, 2), np.int32), "has 2 values, not 1"),
        (TOKENS, [np.ma.masked_array([1], [True])], "value 0: .*masked"),
        (TEXTS, "hi", r"expected a list with a text for each step, came a str: a single one is \[value\]"),
        (TEXTS, [b"hi"], "value 0: expected a text, came bytes: decode"),
        (TEXTS, ["\udc80"], "value 0: .*half a character"),
        (TEXTS, [np.zeros(3, np.uint8)], "value 0: expected a text, came a ndarray"),
        (TEXTS, np.zeros((1, 3), np.uint8), "expected a list of texts, came uint8"),
        (TEXTS, Ragged.of([np.zeros(3, np.uint8)]), "expected texts, came numbers"),
        (TEXTS, Ragged(np.array([0xC3], np.uint8), [0, 1], text=True), "value 0: its bytes are not UTF-8"),
    ],
)
def test_what_is_refused(declared: Field, value: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=f"^field 'prompt'.*{said}") as caught:
        ragged_of("prompt", declared, value, 1)
    assert "\n" not in str(caught.value)


class TestTexts:
    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
    def test_all_forms_are_the_same(self, texts: list[str]) -> None:
        for form in (list, tuple, lambda some: Ragged.of(some, text=True)):
            found = ragged_of("prompt", TEXTS, form(texts), len(texts))
            assert found.text
            assert found.tolist() == texts

    def test_arrays_of_texts(self) -> None:
        for dtype in ("U5", object):
            assert ragged_of("prompt", TEXTS, np.array(["a", "Grüße"], dtype), 2).tolist() == ["a", "Grüße"]

    @given(
        st.lists(st.text("aé日🙂", max_size=3), min_size=1, max_size=4),
        st.data(),
    )
    def test_the_first_that_is_none_is_named(self, texts: list[str], data: st.DataObject) -> None:
        """A text that is cut in the middle of a character, with its rest in the next one, is found too."""
        whole = bytearray("".join(texts).encode())
        if whole and data.draw(st.booleans()):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from(b"a\x80\xc3\xff"))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        values = np.frombuffer(b"\x80" + whole, np.uint8)
        ragged = Ragged(values, 1 + np.array([0, *cuts, len(whole)]), text=True)
        bad = [
            place
            for place, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(whole)], strict=True))
            if not is_text(whole[begin:end])
        ]

        if not bad:
            assert ragged_of("prompt", TEXTS, ragged, None) == ragged
            return
        with pytest.raises(SchemaError, match=f"value {bad[0]}: its bytes are not UTF-8"):
            ragged_of("prompt", TEXTS, ragged, None)


def is_text(some: bytes) -> bool:
    try:
        some.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_value_may_be_large_and_no_larger() -> None:
    numbers = np.broadcast_to(np.int32(0), (MOST_BYTES // 4 + 1,))

    assert ragged_of("x", TOKENS, Ragged(numbers, [0, 1, MOST_BYTES // 4 + 1]), 2).values is numbers
    with pytest.raises(
        SchemaError, match=r"value 1: its length is 268435457, and a value has at most 268435456"
    ):
        ragged_of("x", TOKENS, Ragged(numbers, [0, 0, MOST_BYTES // 4 + 1]), 2)


def test_blocks_are_put_together() -> None:
    ragged = joined([Ragged.of([[1]]), Ragged.of([[2, 3], []], int, ())])
    array = joined([np.arange(2), np.arange(3)])
    plain = Field("int64", (2,), "extra")

    assert isinstance(ragged, Ragged)
    assert ragged.tolist() == [[1], [2, 3], []]
    assert isinstance(array, np.ndarray)
    assert array.tolist() == [0, 1, 0, 1, 2]
    assert stacked(TOKENS, [np.arange(2, dtype=np.int32), np.zeros(0, np.int32)]).tolist() == [[0, 1], []]
    assert stacked(TEXTS, [np.frombuffer(b"hi", np.uint8)]).tolist() == ["hi"]
    assert stacked(plain, [np.arange(2), np.arange(2)]).tolist() == [[0, 1], [0, 1]]


@pytest.mark.torch
def test_tensors_are_arrays() -> None:
    import torch

    lists = [[1, 2], [], [3]]
    tensors = [torch.tensor(one, dtype=torch.int64) for one in lists]
    halves = [torch.tensor([[0.5, 1, 2]], dtype=torch.bfloat16, requires_grad=True)]

    assert ragged_of("x", TOKENS, tensors, 3).tolist() == lists
    assert ragged_of("x", TOKENS, Ragged.of(lists, int, ()).to("cpu"), 3).tolist() == lists
    assert ragged_of("x", TOKENS, torch.tensor([[1, 2], [3, 4]]), 2).tolist() == [[1, 2], [3, 4]]
    jagged = torch.nested.nested_tensor(tensors, layout=torch.jagged)
    assert ragged_of("x", TOKENS, jagged, 3).tolist() == lists
    assert ragged_of("x", POINTS, halves, 1).tolist() == [[[0.5, 1.0, 2.0]]]
    assert ragged_of("x", POINTS, Ragged(halves[0], torch.tensor([0, 1])), 1).tolist() == [[[0.5, 1.0, 2.0]]]
