"""Values of any length in memory are what lists of arrays are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, CorruptError, SchemaError, UnsupportedError
from replaystore.schema.ragged import Ragged

KINDS: list[tuple[str, tuple[int, ...]]] = [
    ("int32", ()),
    ("float64", (3,)),
    ("uint8", (2, 2)),
    ("bool", ()),
    ("float16", (70,)),  # which are copied one by one
]


@st.composite
def arrays(draw: st.DrawFn, most: int = 9) -> list[NDArray[Any]]:
    dtype, inner = draw(st.sampled_from(KINDS))
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=most))
    numbers = iter(range(1, 10_000))
    return [
        np.array([next(numbers) % 251 for _ in range(length * int(np.prod(inner, dtype=int)))])
        .reshape(length, *inner)
        .astype(dtype)
        for length in lengths
    ]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[list[NDArray[Any]], Ragged]:
    """A list, and a Ragged of the same, whose offsets begin and end somewhere in its values."""
    known = draw(arrays())
    before, after = (
        np.ones((draw(st.integers(0, 3)), *known[0].shape[1:]), known[0].dtype) for _ in range(2)
    )
    whole = np.concatenate([before, *known, after])
    offsets = len(before) + np.cumsum([0, *map(len, known)])
    return known, Ragged(whole, offsets)


def same(ragged: Ragged, known: list[NDArray[Any]]) -> bool:
    return len(ragged) == len(known) and all(
        one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)
        for one, other in zip(ragged, known, strict=True)
    )


class TestAsAList:
    @given(pairs())
    def test_it_has_the_same_values(self, pair: tuple[list[NDArray[Any]], Ragged]) -> None:
        known, ragged = pair

        assert same(ragged, known)
        assert ragged.lengths.tolist() == [len(one) for one in known]
        assert ragged.lengths.dtype == ragged.offsets.dtype == np.int64
        assert ragged.shape == (len(known), None, *known[0].shape[1:])
        assert ragged.tolist() == [one.tolist() for one in known]
        assert ragged.nbytes == sum(one.nbytes for one in known) + 8 * (len(known) + 1)
        assert Ragged.of(known) == ragged
        assert all(np.array_equal(ragged[place], one) for place, one in enumerate(known))
        assert all(np.array_equal(ragged[place - len(known)], one) for place, one in enumerate(known))

    @given(pairs(), st.data())
    def test_slices_are_views_of_the_same(
        self, pair: tuple[list[NDArray[Any]], Ragged], data: st.DataObject
    ) -> None:
        known, ragged = pair
        chosen = data.draw(st.slices(len(known)))

        assert same(ragged[chosen], known[chosen])
        if chosen.step in (None, 1):
            assert ragged[chosen].values is ragged.values

    @given(pairs(), st.data())
    def test_rows_and_masks_are_copies_of_the_same(
        self, pair: tuple[list[NDArray[Any]], Ragged], data: st.DataObject
    ) -> None:
        known, ragged = pair
        rows = data.draw(st.lists(st.integers(-len(known), len(known) - 1), max_size=12))
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(known), max_size=len(known))))

        found = ragged[rows]
        assert same(found, [known[row] for row in rows])
        assert found == ragged.take(rows) == ragged[np.array(rows, dtype=np.int64)]
        assert not np.shares_memory(found.values, ragged.values)
        assert same(ragged[mask], [one for one, wanted in zip(known, mask, strict=True) if wanted])
        assert found.offsets[0] == 0
        assert len(found.values) == found.offsets[-1]

    @given(pairs(), st.integers(1, 3))
    def test_arranged_in_two_dimensions(self, pair: tuple[list[NDArray[Any]], Ragged], width: int) -> None:
        known, ragged = pair
        batch = len(known) // width
        if not batch:
            return
        known, ragged = known[: batch * width], ragged[: batch * width]
        square = ragged.reshape(batch, width)

        assert square.lead == (batch, width) == square.lengths.shape
        assert square == ragged.reshape(-1, width) != ragged
        assert square.reshape(-1) == ragged
        for place in range(batch):
            assert same(square[place], known[place * width : (place + 1) * width])
            assert np.array_equal(square[place, width - 1], known[(place + 1) * width - 1])
        backwards = [one for place in reversed(range(batch)) for one in known[place * width :][:width]]
        assert same(square[::-1].reshape(-1), backwards)
        assert same(square[:, 0], known[::width])
        assert same(square[1:].reshape(-1), known[width:])
        assert square.take([0, 0]) == Ragged.concatenate([square[:1], square[:1]])
        assert square.tolist() == [
            [one.tolist() for one in known[place * width :][:width]] for place in range(batch)
        ]

    @given(pairs(), st.integers(0, 9))
    def test_concatenated_it_is_whole_again(self, pair: tuple[list[NDArray[Any]], Ragged], cut: int) -> None:
        known, ragged = pair
        parts = [ragged[:cut], ragged[cut:cut], ragged[cut:]]

        assert Ragged.concatenate(parts) == ragged
        assert Ragged.concatenate([ragged, ragged]) == Ragged.of(known + known)

    @given(pairs())
    def test_pickled_it_is_the_same_and_no_larger(self, pair: tuple[list[NDArray[Any]], Ragged]) -> None:
        known, ragged = pair

        for other in (pickle.loads(pickle.dumps(ragged)), copy.copy(ragged), copy.deepcopy(ragged)):
            assert other == ragged
            assert other.lead == ragged.lead
            assert len(other.values) == sum(map(len, known))

    @given(pairs(), st.sampled_from(["end", "start"]), st.sampled_from([0, 1]))
    def test_padded(self, pair: tuple[list[NDArray[Any]], Ragged], side: Any, fill: int) -> None:
        known, ragged = pair
        if ragged.dtype == bool:
            fill = bool(fill)

        array, mask = ragged.to_padded(fill, side)

        longest = max(map(len, known))
        assert array.shape == (len(known), longest, *ragged.inner)
        assert array.dtype == ragged.dtype
        assert mask.shape == (len(known), longest)
        for row, there, one in zip(array, mask, known, strict=True):
            assert np.array_equal(row[there], one)
            assert (row[~there] == fill).all()
            assert there.tolist() == sorted(there.tolist(), reverse=side == "end")

    def test_two_leading_dimensions_are_padded_too(self) -> None:
        array, mask = Ragged([1, 2, 3], [0, 1, 1, 3, 3], (2, 2)).to_padded(-1)

        assert array.tolist() == [[[1, -1], [-1, -1]], [[2, 3], [-1, -1]]]
        assert mask.tolist() == [[[True, False], [False, False]], [[True, True], [False, False]]]


class TestTexts:
    TEXTS = ("", "hi", "Grüße", "\0", "日本語", "🙂" * 300)

    @given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
    def test_they_come_back(self, texts: list[str]) -> None:
        ragged = Ragged.of(texts, text=True)

        assert ragged.tolist() == list(ragged) == texts
        assert ragged.dtype == np.uint8
        assert ragged[::-1].tolist() == texts[::-1]
        assert pickle.loads(pickle.dumps(ragged)).text

    def test_a_text_is_not_its_bytes(self) -> None:
        ragged = Ragged.of(self.TEXTS, text=True)

        assert ragged != Ragged(ragged.values, ragged.offsets)
        assert ragged[1:3].tolist() == ["hi", "Grüße"]
        assert ragged.reshape(2, 3).tolist() == [list(self.TEXTS[:3]), list(self.TEXTS[3:])]
        with pytest.raises(ArgumentError, match="no other dtype"):
            ragged.astype(np.int32)

    def test_what_is_no_text_is_told(self) -> None:
        ragged = Ragged(np.frombuffer("aé".encode(), np.uint8), [0, 2, 3], text=True)

        with pytest.raises(CorruptError, match="text 0, of 2 bytes, is not UTF-8"):
            ragged[0]
        with pytest.raises(CorruptError, match="text 1, of 1 bytes"):
            ragged[1]
        with pytest.raises(CorruptError, match="text 0"):
            ragged.tolist()

    @pytest.mark.parametrize(
        ("value", "said"), [(b"hi", "decode"), (3, "give a str"), ("\ud800", "half a character")]
    )
    def test_others_are_refused(self, value: Any, said: str) -> None:
        with pytest.raises(SchemaError, match=f"value 1: .*{said}"):
            Ragged.of(["fine", value], text=True)


class TestRefused:
    def test_it_is_no_array(self) -> None:
        ragged = Ragged.of([np.arange(3)])

        with pytest.raises(TypeError, match="to_padded"):
            np.asarray(ragged)
        with pytest.raises(TypeError, match="unhashable"):
            hash(ragged)
        assert ragged != [[0, 1, 2]]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (([1, 2], [0, 3]), "nor end beyond the 2 values"),
            (([1, 2], [0, 2, 1]), "nor decrease"),
            (([1, 2], [-1, 2]), "must not be negative"),
            (([1, 2], [0.0, 2.0]), "integers of shape"),
            (([1, 2], []), "integers of shape"),
            (([1, 2], [[0, 2]]), "integers of shape"),
            ((1, [0, 1]), "values are one array"),
            (([None], [0, 1]), "values are one array"),
            (([1, 2], [0, 1, 2], (3,)), "cannot be arranged as"),
            (([1, 2], [0, 2], ()), "cannot be arranged as"),
        ],
    )
    def test_parts_that_do_not_agree(self, arguments: Any, said: str) -> None:
        with pytest.raises(ArgumentError, match=said):
            Ragged(*arguments)

    def test_texts_of_other_dtypes(self) -> None:
        with pytest.raises(ArgumentError, match="uint8"):
            Ragged([1, 2], [0, 2], text=True)

    @pytest.mark.parametrize("key", [3, -4, [3], np.array([True, False])])
    def test_what_is_not_there(self, key: Any) -> None:
        with pytest.raises(IndexError):
            Ragged([1, 2, 3], [0, 1, 2, 3])[key]

    def test_values_that_differ(self) -> None:
        with pytest.raises(SchemaError, match=r"value 1: expected int64 of shape \(length,\)"):
            Ragged.of([np.arange(3), np.ones(2)])
        with pytest.raises(SchemaError, match=r"value 0: expected float32 of shape \(length, 3\)"):
            Ragged.of([np.ones((2, 2))], np.float32, (3,))
        with pytest.raises(ArgumentError, match="give dtype and inner"):
            Ragged.of([])
        with pytest.raises(ArgumentError, match="do not fit"):
            Ragged.concatenate([Ragged.of([[1]]), Ragged.of([[1.0]])])
        with pytest.raises(ArgumentError, match="at least one"):
            Ragged.concatenate([])

    def test_paddings(self) -> None:
        ragged = Ragged.of([np.arange(3, dtype=np.uint8)])

        for fill in (-1, 256, 0.5, "a"):
            with pytest.raises(SchemaError, match="fill: expected uint8"):
                ragged.to_padded(fill)
        with pytest.raises(ArgumentError, match="'end' or 'start'"):
            ragged.to_padded(side="left")  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="cannot be arranged"):
            ragged.reshape(2, 2)


def test_nothing_at_all() -> None:
    for ragged in (Ragged.empty(0), Ragged.empty(2, np.int16, (3,)), Ragged.empty((2, 3), text=True)):
        assert ragged.to_padded()[0].shape == (*ragged.lead, 0, *ragged.inner)
        assert ragged[:0].tolist() == []
        assert ragged[[]].lead[0] == ragged.take([]).lead[0] == 0
        assert pickle.loads(pickle.dumps(ragged)) == ragged
    assert Ragged.empty(2, text=True).tolist() == ["", ""]


def test_equal_are_bits() -> None:
    def of(*values: float) -> Ragged:
        return Ragged.of([np.array(values)])

    assert of(np.nan) == of(np.nan)
    assert of(0.0) != of(-0.0)
    assert of(1.0) != of(1.0).astype(np.float32)
    assert Ragged([1, 2], [0, 1, 2]) != Ragged([1, 2], [0, 2, 2])
    assert Ragged([9, 1, 2], [1, 2, 3]) == Ragged([1, 2], [0, 1, 2])


@pytest.mark.torch
class TestTensors:
    @given(pairs(), st.data())
    def test_of_tensors_it_is_the_same(
        self, pair: tuple[list[NDArray[Any]], Ragged], data: st.DataObject
    ) -> None:
        import torch

        known, ragged = pair
        tensors = ragged.to("cpu")
        rows = data.draw(st.lists(st.integers(0, len(known) - 1), max_size=12))

        assert isinstance(tensors.values, torch.Tensor)
        assert tensors == ragged
        assert [one.tolist() for one in tensors] == ragged.tolist() == tensors.tolist()
        assert tensors[rows] == ragged[rows] == tensors[torch.tensor(rows, dtype=torch.int64)]
        assert tensors[1:] == ragged[1:]
        assert pickle.loads(pickle.dumps(tensors[1:])) == ragged[1:]
        for one, other in zip(tensors.to_padded(side="start"), ragged.to_padded(side="start"), strict=True):
            assert isinstance(one, torch.Tensor)
            assert np.array_equal(one.numpy(), other)

    @given(pairs())
    def test_nested_tensors_have_the_same(self, pair: tuple[list[NDArray[Any]], Ragged]) -> None:
        known, ragged = pair

        nested = ragged.to_torch_jagged()

        assert nested.layout is __import__("torch").jagged
        assert [one.tolist() for one in nested.unbind()] == [one.tolist() for one in known]
        padded = nested.to_padded_tensor(0) if ragged.dtype != bool and ragged.values.ndim < 3 else None
        if padded is not None and len(ragged.named):
            assert np.array_equal(padded.numpy(), ragged.to_padded()[0])

    def test_a_text_of_tensors_is_a_text(self) -> None:
        assert Ragged.of(["hi", "Grüße"], text=True).to("cpu").tolist() == ["hi", "Grüße"]

    def test_memory_that_is_not_to_be_written_is_copied(self) -> None:
        values = np.arange(3)
        values.flags.writeable = False

        tensors = Ragged(values, [0, 3]).to("cpu")
        tensors.values[0] = 9

        assert values.tolist() == [0, 1, 2]


class TestArrow:
    @given(pairs())
    def test_lists_have_the_same(self, pair: tuple[list[NDArray[Any]], Ragged]) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        known, ragged = pair

        made = ragged.to_arrow()
        made.validate(full=True)

        assert pyarrow.types.is_large_list(made.type)
        assert made.to_pylist() == [one.tolist() for one in known]

    def test_texts_and_fragments(self) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        texts = Ragged.of(TestTexts.TEXTS, text=True)

        made = texts[1:].to_arrow()
        made.validate(full=True)

        assert made.type == pyarrow.large_string()
        assert made.to_pylist() == list(TestTexts.TEXTS[1:])
        assert texts.reshape(2, 3).to_arrow().to_pylist() == texts.reshape(2, 3).tolist()
        with pytest.raises(UnsupportedError, match="complex"):
            Ragged.of([np.ones(2, np.complex64)]).to_arrow()
