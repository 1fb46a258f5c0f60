"""New tables in files of Parquet and of Arrow, group of rows by group of rows.

About `group_bytes` of rows are in memory at a time, and become a group of Parquet, or a batch of Arrow. What
is known only in the end may be said in the end: the metadata of a file of Parquet are behind its rows. Those
of Arrow are before them.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError
from replaystore.extras import require
from replaystore.formats.shared.arrow.reading import Kind, pyarrow
from replaystore.schema.ragged import Ragged
from replaystore.schema.ragged_forms import offsets_of

__all__ = [
    "GROUP_BYTES",
    "TableWriter",
    "arrow_array",
    "arrow_type",
    "bytes_type",
    "sparse_array",
    "sparse_type",
]

GROUP_BYTES = 16 << 20
"""Of the rows that are written together."""


def arrow_type(dtype: np.dtype[Any], shape: tuple[int | None, ...], *, text: bool = False) -> Any:
    """The type of a column of such values: lists of a fixed size, or of any (large ones: `large_list`), in
    lists; texts (`large_string`). Of complex numbers two floats each."""
    arrow = pyarrow("writing a file of Parquet or Arrow")
    if text:
        return arrow.large_string()
    if 0 in shape:
        raise UnsupportedError("Arrow has no lists that all have the length 0: leave out that dimension")
    if dtype.kind == "c":
        type_ = arrow.list_(arrow.from_numpy_dtype(np.dtype(f"f{dtype.itemsize // 2}")), 2)
    else:
        type_ = arrow.from_numpy_dtype(dtype.newbyteorder("="))
    for length in reversed(shape):
        type_ = arrow.large_list(type_) if length is None else arrow.list_(type_, length)
    return type_


def bytes_type(count: int | None) -> Any:
    """The type of bytes: so many in each row, or any number of them (`large_binary`)."""
    arrow = pyarrow("writing a file of Parquet or Arrow")
    return arrow.large_binary() if count is None else arrow.binary(count)


def alias_type(name: str | Mapping[str, str], levels: int = 0) -> Any:
    """A type by the name that Arrow has for it ("string"), in so many levels of lists; a dict is a struct."""
    arrow = pyarrow("writing a file of Parquet or Arrow")
    if isinstance(name, Mapping):
        return arrow.struct([arrow.field(key, alias_type(inner)) for key, inner in name.items()])
    type_ = arrow.type_for_alias(name)
    for _ in range(levels):
        type_ = arrow.list_(type_)
    return type_


def listed(values: Sequence[Any], type_: Any) -> Any:
    """A column of Python's own numbers, texts, and lists of them."""
    return pyarrow("writing a file of Parquet or Arrow").array(values, type_)


def arrow_array(values: NDArray[Any] | Ragged | Mapping[str, Any], type_: Any = None) -> Any:
    """A column of these values: rows first. A dict is a struct. `type_`: one that differs from `arrow_type`
    in how lists are called, or in how large they may be."""
    arrow = pyarrow("writing a file of Parquet or Arrow")
    if isinstance(values, Mapping):
        parts = {
            name: arrow_array(part, None if type_ is None else type_.field(name).type)
            for name, part in values.items()
        }
        made = arrow.StructArray.from_arrays(list(parts.values()), list(parts))
    elif type_ is not None and _of_bytes(type_):
        made = _as_bytes(values, type_)
    elif isinstance(values, Ragged):
        made = _of_ragged(values)
    else:
        made = _of_array(values)
    return made if type_ is None or made.type == type_ else made.cast(type_)


def _of_bytes(type_: Any) -> bool:
    types = pyarrow("writing a file of Parquet or Arrow").types
    return bool(types.is_fixed_size_binary(type_) or types.is_large_binary(type_) or types.is_binary(type_))


def _as_bytes(values: NDArray[Any] | Ragged, type_: Any) -> Any:
    """Rows of uint8 as bytes."""
    arrow = pyarrow("writing a file of Parquet or Arrow")
    if isinstance(values, Ragged):
        parts = values.to_numpy().compact()
        buffers = [np.ascontiguousarray(part) for part in (parts.offsets, parts.values)]
        large = arrow.large_binary()
        made = arrow.Array.from_buffers(large, len(parts), [None, *map(arrow.py_buffer, buffers)])
        return made if type_ == large else made.cast(type_)
    data = arrow.py_buffer(np.ascontiguousarray(values))
    return arrow.Array.from_buffers(type_, len(values), [None, data])


def _of_ragged(values: Ragged) -> Any:
    if values.dtype.kind != "c":
        return values.to_arrow()
    arrow = pyarrow("writing a file of Parquet or Arrow")
    parts = values.to_numpy().compact()
    return arrow.LargeListArray.from_arrays(arrow.array(parts.offsets), _of_array(parts.values))


def _of_array(values: NDArray[Any]) -> Any:
    arrow = pyarrow("writing a file of Parquet or Arrow")
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if values.dtype.kind == "c":
        values = values.view(f"f{values.itemsize // 2}").reshape(*values.shape, 2)
    if sys.byteorder == "big":  # what the format has is little-endian, and pyarrow turns it
        values = values.astype(values.dtype.newbyteorder("="))
    made = arrow.array(values.reshape(-1))
    for length in reversed(values.shape[1:]):
        made = arrow.FixedSizeListArray.from_arrays(made, length)
    return made


def sparse_type(dtype: np.dtype[Any], shape: tuple[int | None, ...], *, text: bool = False) -> Any:
    """The type of a column that has such values in some rows only, and takes no room in the others: an array
    is a list of all its numbers."""
    if text or None in shape:
        return arrow_type(dtype, shape, text=text)
    return arrow_type(dtype, (None,) if shape or dtype.kind == "c" else ())


def sparse_array(
    values: NDArray[Any] | Ragged, rows: NDArray[np.int64], count: int, type_: Any = None
) -> Any:
    """A column of `count` rows that has these values in these rows, and none (null) in the others, of the
    type that `sparse_type` gives, or of bytes."""
    arrow = pyarrow("writing a file of Parquet or Arrow")
    there = np.zeros(count, np.bool_)
    there[rows] = True
    if not isinstance(values, Ragged):
        if values.ndim == 1 and values.dtype.kind != "c":
            whole = np.zeros(count, values.dtype)
            whole[rows] = values
            return arrow.array(whole, mask=~there)
        width = math.prod(values.shape[1:])
        values = Ragged(values.reshape(-1), np.arange(len(values) + 1) * width)
    compact = arrow_array(values, type_)
    lengths = np.zeros(count, np.int64)
    lengths[rows] = values.lengths
    valid = arrow.py_buffer(np.packbits(there, bitorder="little"))
    buffers = [valid, arrow.py_buffer(offsets_of(lengths))]
    if compact.type.num_fields == 0:
        return arrow.Array.from_buffers(compact.type, count, [*buffers, compact.buffers()[2]])
    return arrow.Array.from_buffers(compact.type, count, buffers, children=[compact.values])


class _Sink:
    """An open file, until it is given up; it stays open."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.given_up = False

    def write(self, data: Any) -> int:
        """Take bytes."""
        return len(data) if self.given_up else self.file.write(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def tell(self) -> int:
        """Where the next byte goes."""
        return self.file.tell()

    def close(self) -> None:
        """Whoever opened the file closes it."""


class TableWriter:
    """A table that is written to an open file. `with` it: leaving without an exception completes it.

    Args:
        file: takes bytes.
        types: the type of each column, as `arrow_type` gives them; a dict of them is a struct.
        kind: Parquet, Arrow's file, or Arrow's stream.
        metadata: of the schema, as texts.
        compression: what both know: "zstd", "lz4", or None; of Parquet "snappy" too.
        group_bytes: how many bytes of rows are written together.
        statistics: whether Parquet has the smallest and largest value of each group of rows.
        nullable: columns that have no value (null) in some rows.
    """

    def __init__(
        self,
        file: IO[bytes],
        types: Mapping[str, Any],
        *,
        kind: Kind = "parquet",
        metadata: Mapping[str, str] | None = None,
        compression: str | None = "zstd",
        group_bytes: int = GROUP_BYTES,
        statistics: bool = False,
        nullable: Collection[str] = (),
    ) -> None:
        arrow = pyarrow("writing a file of Parquet or Arrow")
        self.schema = arrow.schema(
            [arrow.field(name, _struct(type_), nullable=name in nullable) for name, type_ in types.items()],
            metadata=dict(metadata or {}) or None,
        )
        self.rows = 0
        self._sink = _Sink(file)
        self._kind, self._group_bytes = kind, group_bytes
        self._waiting: list[Any] = []
        self._waiting_bytes = 0
        if kind == "parquet":
            parquet = require("pyarrow.parquet", "writing a file of Parquet", "arrow")
            self._writer = parquet.ParquetWriter(
                arrow.PythonFile(self._sink, "w"),
                self.schema,
                compression=compression or "none",
                write_statistics=statistics,
                write_page_checksum=True,
            )
        else:
            ipc = require("pyarrow.ipc", "writing a file of Arrow", "arrow")
            options = ipc.IpcWriteOptions(compression=compression)
            new = ipc.new_file if kind == "file" else ipc.new_stream
            self._writer = new(arrow.PythonFile(self._sink, "w"), self.schema, options=options)

    def write(self, columns: Mapping[str, Any]) -> None:
        """Rows: arrays of NumPy and Ragged, dicts of them for structs; or arrays of pyarrow."""
        arrow = pyarrow("writing a file of Parquet or Arrow")
        arrays = [
            columns[one.name]
            if isinstance(columns[one.name], arrow.Array)
            else arrow_array(columns[one.name], one.type)
            for one in self.schema
        ]
        batch = arrow.RecordBatch.from_arrays(arrays, schema=self.schema)
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._waiting_bytes >= self._group_bytes:
            self.flush()

    def flush(self) -> None:
        """Have what waits written, as a group of its own."""
        if not self._waiting:
            return
        arrow = pyarrow("writing a file of Parquet or Arrow")
        table = arrow.Table.from_batches(self._waiting, self.schema).combine_chunks()
        self._waiting, self._waiting_bytes = [], 0
        if not table.num_rows:
            return
        if self._kind == "parquet":
            self._writer.write_table(table, row_group_size=table.num_rows)
        else:
            self._writer.write_table(table)

    def say(self, metadata: Mapping[str, Any]) -> None:
        """Metadata of a file of Parquet that are known only now; what is no text becomes JSON."""
        texts = {
            key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            for key, value in metadata.items()
        }
        self._writer.add_key_value_metadata(texts)

    def close(self) -> None:
        """Complete the file."""
        self.flush()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        self._sink.given_up = True
        with contextlib.suppress(Exception):  # what is written now goes nowhere
            self._writer.close()


def _struct(type_: Any) -> Any:
    """A type; a dict of types as a struct."""
    if not isinstance(type_, Mapping):
        return type_
    arrow = pyarrow("writing a file of Parquet or Arrow")
    return arrow.struct([arrow.field(name, _struct(inner)) for name, inner in type_.items()])
