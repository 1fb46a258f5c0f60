"""Arrays on the wire: what is packed is unpacked, other software reads it, and no body is believed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaystore import wire
from replaystore.errors import ArgumentError, FormatError
from replaystore.schema.ragged import Ragged
from replaystore.schema.spaces import DTYPES


def body_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (4, 3)])
def test_arrays_of_every_dtype_are_unpacked_as_they_were(
    dtype: np.dtype[Any], shape: tuple[int, ...]
) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)

    found, said = wire.unpack(wire.pack({"info/a%2Fb": array, "b": array.astype(dtype.newbyteorder(">"))}))

    assert said == {}
    for name in ("info/a%2Fb", "b"):
        assert found[name].dtype == dtype
        assert found[name].shape == shape
        np.testing.assert_array_equal(found[name], array)


def test_values_of_any_length_are_unpacked_as_they_were() -> None:
    texts = Ragged.of(["a", "", "größe"], text=True)
    numbers = Ragged.of([np.ones((2, 3), np.complex128), np.zeros((0, 3), np.complex128)])
    arranged = Ragged(np.arange(6), [0, 1, 1, 3, 6], (2, 2))

    found, said = wire.unpack(wire.pack({"text": texts[1:], "a": numbers, "b": arranged}, {"env": [1, 2]}))

    assert found["text"].tolist() == ["", "größe"]
    assert found["a"] == numbers
    assert found["b"] == arranged
    assert found["b"].lead == (2, 2)
    assert said == {"env": [1, 2]}


def test_safetensors_reads_what_is_packed() -> None:
    load = pytest.importorskip("safetensors.numpy").load
    arrays = {"flag": np.array([True, False, True]), "x": np.arange(5.0), "n": np.arange(3, dtype=np.int16)}

    found = load(wire.pack(arrays, {"what": {"ever": 1}}))

    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_what_is_unpacked_is_a_view_that_is_aligned() -> None:
    body = wire.pack({"flag": np.array([True]), "x": np.arange(5.0), "n": np.arange(3, dtype=np.int16)})

    found, _ = wire.unpack(memoryview(body))

    assert all(array.flags.aligned and array.base is not None for array in found.values())


def test_what_no_step_holds_is_refused() -> None:
    with pytest.raises(ArgumentError, match="no step does"):
        wire.pack({"a": np.array(["text"])})
    with pytest.raises(ArgumentError, match="no step does"):
        wire.pack({"a": np.array([None])})


WHOLE = {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        (1 << 63).to_bytes(8, "little") + b"{}",
        (50 << 20).to_bytes(8, "little") + b"{}",
        body_of(b"{"),
        body_of(b"[]"),
        body_of(b'{"a": 1, "a": 2}'),
        body_of({"a": 1}),
        body_of({"a": []}),
        body_of({"a": WHOLE}),
        body_of({"a": WHOLE}, b"\0" * 9),
        body_of({"a": WHOLE, "b": WHOLE}, b"\0" * 8),
        body_of({"a": {**WHOLE, "data_offsets": [8, 16]}}, b"\0" * 16),
        body_of({"a": {**WHOLE, "shape": [3]}}, b"\0" * 8),
        body_of({"a": {**WHOLE, "shape": [-2]}}, b"\0" * 8),
        body_of({"a": {**WHOLE, "shape": [True, 2]}}, b"\0" * 8),
        body_of({"a": {**WHOLE, "shape": [1] * 40}}, b"\0" * 8),
        body_of({"a": {**WHOLE, "dtype": "F4"}}, b"\0" * 8),
        body_of({"a": {**WHOLE, "dtype": ["I32"]}}, b"\0" * 8),
        body_of({"a": {"dtype": "I8", "shape": [0, 1 << 61], "data_offsets": [0, 0]}}),
        body_of({"__metadata__": {"a": 1}}),
        body_of({"__metadata__": {"a": "{"}}),
        body_of({"__metadata__": {"%ragged": '{"a": {"text": false, "lead": [1]}}'}}),
        body_of({"__metadata__": {"%ragged": '{"a": 1}'}}),
        body_of({"a%complex": WHOLE}, b"\0" * 8),
    ],
)
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(FormatError, match="the body"):
        wire.unpack(body)


@given(st.data())
def test_a_changed_body_gives_arrays_or_a_format_error(data: st.DataObject) -> None:
    body = bytearray(
        wire.pack({"a": np.arange(4.0), "t": Ragged.of(["x", "yz"], text=True)}, {"env": 1, "ends": [1]})
    )
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    try:
        found, _ = wire.unpack(bytes(body[: data.draw(st.integers(0, len(body)))]))
    except FormatError:
        return
    assert all(isinstance(array, np.ndarray | Ragged) for array in found.values())
