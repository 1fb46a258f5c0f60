"""Rows, arrays of encoded chunks and checks for the tests of columns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from replaystore.columns import decoding_pool
from replaystore.columns.coded import CodedColumn
from replaystore.columns.mapped import MappedColumn, raw_column
from replaystore.columns.protocol import Rows, StoredColumn
from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.codecs import ChunkCodec, codec_for
from replaystore.containers.protocol import ChunkEntry
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles

DTYPES = ["bool", "u1", "i2", "f4", "i8", "f8", "c16"]
ROW = ArraySpec(np.dtype("f4"), (16,), 64)
"""64 bytes: 64 rows are a page."""
needs_maps = pytest.mark.skipif(
    not isinstance(raw_column(MemoryFiles("probe"), ROW), MappedColumn), reason="no mapping on this system"
)


def ints(*rows: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


def random_rows(spec: ArraySpec, count: int, seed: int = 0) -> Rows:
    data = np.random.default_rng(seed).integers(
        0, 2 if spec.dtype.kind == "b" else 256, (count, spec.row_bytes), np.uint8
    )
    if not spec.row_bytes:
        return np.empty((count, *spec.shape), spec.dtype)
    return data.reshape(-1).view(spec.dtype).reshape(count, *spec.shape)


def same(one: Rows, other: Rows) -> bool:
    """Equal to the bit, NaNs too."""
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@st.composite
def specs(draw: st.DrawFn, codec: str | None = None, least: int = 0) -> ArraySpec:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=least, max_side=6))
    return ArraySpec(dtype, shape, draw(st.integers(1, 9)), codec=codec)


def check_reads(column: StoredColumn, model: Rows, first: int, data: st.DataObject) -> None:
    """Whatever is asked of a column is what the model (all rows from 0 on) has."""
    stop = len(model)
    assert (column.first, column.stop) == (first, stop)
    low = data.draw(st.integers(first, stop))
    high = data.draw(st.integers(low, stop))
    assert same(column.read(low, high), model[low:high])
    view = column.rows(low, high)
    assert same(view, model[low:high])
    assert not view.flags.writeable
    numbers = data.draw(st.lists(st.integers(first, stop - 1), max_size=30)) if first < stop else []
    assert same(column.take(ints(*numbers)), model[ints(*numbers)])
    out = np.empty((len(numbers), *column.shape), column.dtype)
    assert column.take(ints(*numbers), out) is out
    assert same(out, model[ints(*numbers)])


class Coded:
    """Encoded chunks of some rows; the rows of the last chunk, if it is not full, are the tail."""

    def __init__(
        self, files: Files, kind: Literal["zarr", "hdf5"], spec: ArraySpec, rows: Rows, *, gap: int = 0
    ) -> None:
        self.files, self.spec, self.rows = files, spec, rows
        self.codec = codec_for(kind, spec)
        self.entries: dict[int, ChunkEntry] = {}
        self.checksums: dict[int, int | None] = {}
        self.full = len(rows) // spec.chunk_rows
        for chunk in range(self.full):
            self.store(chunk, rows[chunk * spec.chunk_rows : (chunk + 1) * spec.chunk_rows], gap)

    def store(self, chunk: int, rows: Rows, gap: int = 0) -> None:
        name = f"c/{chunk // 4}"
        if not self.files.exists(name):
            self.files.create(name)
        data, offset = self.codec.encode(rows), self.files.size(name) + gap
        self.files.write(name, offset, data)
        self.entries[chunk] = ChunkEntry(name, offset, len(data))
        self.checksums[chunk] = self.codec.checksum(data)

    def column(self, **options: Any) -> CodedColumn:
        codec = options.pop("codec", self.codec)
        column = CodedColumn(
            self.files, self.spec, codec, self.entries.get, self.checksums.get, name="steps/x", **options
        )
        column.set_tail(self.full * self.spec.chunk_rows, self.rows[self.full * self.spec.chunk_rows :])
        return column


class Counting:
    """A codec that counts."""

    def __init__(self, codec: ChunkCodec, before: Callable[[], None] = lambda: None) -> None:
        self.codec, self.before, self.decoded = codec, before, 0
        self.encode, self.checksum, self.decode_all = codec.encode, codec.checksum, codec.decode_all

    def decode(self, data: Any, out: NDArray[np.uint8], *, checked: bool = False) -> None:
        self.before()
        self.codec.decode(data, out, checked=checked)
        self.decoded += 1


def failing(*_: Any) -> Any:
    raise OSError(5, "Input/output error")


@pytest.fixture
def _fresh_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that another test has decoded is at hand."""
    monkeypatch.setattr(decoding_pool, "shared", decoding_pool.Shared())
