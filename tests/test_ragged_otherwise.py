"""Ragged, of what people give who know arrays, tensors or lists of other libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from replaystore.errors import ArgumentError, SchemaError, UnsupportedError
from replaystore.schema.ragged import Ragged


def test_it_is_compared_with_arrays() -> None:
    ragged = Ragged.of([[1], [2, 3]])
    for other in (np.arange(3), [1, 2], None):
        assert (ragged == other) is False
        assert (other == ragged) is False
        assert ragged != other


def test_an_empty_list_says_no_dtype() -> None:
    for values in ([[], [1, 2]], [np.empty(0), np.array([1, 2])]):
        assert Ragged.of(values).dtype == np.int64
    assert Ragged.of(iter([[1], [2, 3]])).tolist() == [[1], [2, 3]]
    assert Ragged.concatenate(iter([Ragged.of([[1]]), Ragged.of([[2]])])).tolist() == [[1], [2]]
    assert Ragged.of([[1], [2]]).reshape((2, 1)).lead == (2, 1)
    assert Ragged([1, 2, 3], [0, 1, 3], 2).lead == (2,)


@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
def test_parts_are_looked_at(tensors: bool) -> None:
    if tensors:
        pytest.importorskip("torch")
    known = Ragged.of([[1], [2, 3]], "int32")
    values = known.to("cpu").values if tensors else known.values
    for offsets in ([0, 4, 3], [0, 9], [-1, 2], [0.0, 3.0], []):
        with pytest.raises(ArgumentError, match="offsets"):
            Ragged(values, offsets)
    assert Ragged(values, [0, 1, 3]).to_numpy() == known
    for lead in ((-1, -2), "ab", (2.0,), (3,), ()):
        with pytest.raises(ArgumentError, match="arranged"):
            Ragged(values, [0, 1, 3], lead)  # type: ignore[arg-type]


@pytest.mark.parametrize("tensors", [False, True], ids=["arrays", "tensors"])
@pytest.mark.parametrize("fill", [0.5, float("nan"), 2**40, None, "a"])
def test_fills_that_would_be_changed(tensors: bool, fill: Any) -> None:
    if tensors:
        pytest.importorskip("torch")
    known = Ragged.of([[1], [2, 3]], "int32")
    with pytest.raises(SchemaError, match="fill"):
        (known.to("cpu") if tensors else known).to_padded(fill)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64", "bool", "float16", "complex64"])
def test_tensors_of_all_dtypes_are_padded(dtype: str) -> None:
    pytest.importorskip("torch")
    known = Ragged(np.array([1, 0, 1], dtype), [0, 1, 3, 3])
    tensors = known.to("cpu")
    array, mask = tensors.to_padded(side="start")
    wanted, where = known.to_padded(side="start")
    assert np.array_equal(array.numpy(), wanted)
    assert np.array_equal(mask.numpy(), where)
    joined = Ragged.concatenate([tensors, tensors[:2]])
    assert type(joined.values) is type(tensors.values) is type(joined.offsets)
    assert joined.to_numpy() == Ragged.concatenate([known, known[:2]])


def test_memory_that_tensors_cannot_share_is_copied() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pyarrow")
    for values in (
        np.arange(4, dtype=">i4"),
        np.arange(4, dtype="i4")[::-1],
        np.arange(8, dtype="i4")[::2],
    ):
        ragged = Ragged(values, [0, 1, 4])
        assert ragged.to("cpu").tolist() == ragged.tolist()
        assert [row.tolist() for row in ragged.to_torch_jagged().unbind()] == ragged.tolist()
        assert ragged.to_arrow().to_pylist() == ragged.tolist()
    for empty in (Ragged.empty((2, 0)), Ragged.empty(2, inner=(0,))):
        with pytest.raises(UnsupportedError, match="length 0"):
            empty.to_arrow()


def test_dtypes_of_either_library() -> None:
    torch = pytest.importorskip("torch")
    known = Ragged.of([[1], [2, 3]], "int32")
    for ragged in (known, known.to("cpu")):
        for dtype in ("float32", np.float32, np.dtype("float32"), torch.float32):
            assert str(ragged.astype(dtype).dtype).endswith("float32")
        with pytest.raises(ArgumentError, match="dtype"):
            ragged.astype("nothing")
    registered = pytest.importorskip("ml_dtypes").bfloat16  # from its import on NumPy has dtypes of that name
    for dtype in (torch.bfloat16, "bfloat16", registered, "S3", object, "M8[s]"):
        with pytest.raises(ArgumentError, match="none that ndarray has"):
            known.astype(dtype)
    assert np.asarray(known.astype(">f4").values).dtype == np.dtype("<f4")
    assert known.to("cpu").astype(torch.bfloat16).to_padded(0.5)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("given", ["ab", b"ab", {"a": 1}, None, 3])
def test_a_single_one_is_no_list(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"\[value\]"):
        Ragged.of(given, text=True)
