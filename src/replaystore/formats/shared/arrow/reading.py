"""Tables in files of Parquet and of Arrow, a few rows at a time: the one door to pyarrow for formats, with
`arrow_values` (what is in a column) and `arrow_writing` (new files) beside it.

1. Nothing is mapped into memory: a mapped file that becomes shorter ends the process.
2. What pyarrow raises at a file that is damaged, or lies, is a FormatError of one line.
3. Rows are read in blocks of about the size that is asked for, whatever the sizes of row groups are. Columns
   that are not asked for are not read.
4. Every array that is handed on is sound: its offsets lie within its values, its texts are UTF-8.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from replaystore.errors import FormatError, ReplayStoreError, StorageError
from replaystore.extras import require
from replaystore.formats.shared.arrow.values import decoded, leaf_of, leaves_of
from replaystore.formats.shared.file_rows import opened
from replaystore.schema import strict_json
from replaystore.storage.local import read_all

__all__ = ["Kind", "Table", "damaged", "json_in", "kind_of", "opened_table", "pyarrow"]

Kind = Literal["parquet", "file", "stream"]
"""A file of Parquet; Arrow's file with a footer (Feather is the same); Arrow's stream of batches."""

PARQUET, ARROW = b"PAR1", b"ARROW1"
CONTINUES = b"\xff\xff\xff\xff"
"""What each message of a stream begins with."""
BUFFER_BYTES = 1 << 20
MOST_METADATA = 64 << 20
"""Of strings in the footer of Parquet, and of the list of its row groups."""
FIRST_ROWS = 64
"""Of values of any length, before it is known how wide they are."""
MOST_ROWS = 1 << 17
"""Of a block, however narrow they are."""


def pyarrow(purpose: str) -> Any:
    """The library. MissingDependencyError: it is not installed. `purpose`: what needs it, the subject of a
    sentence."""
    return require("pyarrow", purpose, "arrow")


@contextmanager
def damaged(path: str) -> Iterator[None]:
    """Around what pyarrow does with a file. FormatError: it is damaged, or no such file; StorageError."""
    arrow = pyarrow(f"a file of Parquet or Arrow ({path})")
    try:
        yield
    except ReplayStoreError:
        raise
    except (arrow.ArrowException, MemoryError, EOFError, OSError, UnicodeDecodeError) as error:
        number = getattr(error, "errno", None)
        reason = " ".join(str(error).split())[:200].rstrip(". ") or type(error).__name__
        if isinstance(error, OSError) and number:
            raise StorageError(f"{path} cannot be read: {error.strerror or reason}", number) from error
        if "magic bytes not found in footer" in reason:
            reason = "it has no footer: whoever wrote it did not finish, or it was cut off"
        raise FormatError(f"{path} is damaged: {reason}; restore it from a copy, or write it again") from None


def kind_of(path: str) -> Kind | None:
    """What kind of table a file is, as its first bytes say; None: none. NotFoundError, FormatError (a folder,
    or no regular file), StorageError."""
    with opened(path) as (descriptor, size):
        begin = read_all(descriptor, 0, min(64, size))
        if begin.startswith(PARQUET):
            return "parquet"
        if begin.startswith(ARROW):
            return "file"
        return "stream" if _begins_stream(begin, size) else None


def _begins_stream(begin: bytes, size: int) -> bool:
    """Whether these are the first bytes of a message that says a schema."""
    if len(begin) < 64 or not begin.startswith(CONTINUES):
        return False
    length = int.from_bytes(begin[4:8], "little")
    root = int.from_bytes(begin[8:12], "little")
    return 48 <= length <= min(MOST_METADATA, size - 8) and length % 8 == 0 and 4 <= root < 64


@dataclass
class Table:
    """A file that is open."""

    path: str
    kind: Kind
    types: Mapping[str, Any]
    """The type of each column, as pyarrow has it, in order."""
    metadata: Mapping[str, bytes]
    """What whoever wrote the file says of the whole."""
    rows: int | None
    """None: nobody knows before all are read."""
    schema: Any
    """That of pyarrow."""
    _file: Any

    @property
    def groups(self) -> int:
        """How many groups of rows there are in a file of Parquet."""
        return int(self._file.metadata.num_row_groups) if self.kind == "parquet" else 0

    def batches(
        self, max_bytes: int, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
    ) -> Iterator[Any]:
        """All rows, or those of some groups, in RecordBatches of pyarrow of about `max_bytes`, one row at
        least. FormatError: something is damaged."""
        wanted = list(self.types) if columns is None else list(columns)
        with damaged(self.path):
            read = self._parquet if self.kind == "parquet" else self._arrow
            for batch in read(max_bytes, wanted, groups):
                yield from _cut(batch, max_bytes)

    def _parquet(self, max_bytes: int, wanted: list[str], groups: Sequence[int] | None) -> Iterator[Any]:
        """Rows of groups, so many at a time as fit. How wide rows of any length are is seen as they come:
        where they get wider, a group is read once more from there on with fewer rows at a time."""
        width = max(1.0, sum(_least_width(self.types[name]) for name in wanted))
        seen = all(_is_fixed(self.types[name]) for name in wanted)
        for group in range(self.groups) if groups is None else groups:
            done, again = 0, True
            while again:
                rows = max(1, min(MOST_ROWS if seen else FIRST_ROWS, int(max_bytes / width)))
                again = False
                for batch in _from(self._file.iter_batches(rows, [group], wanted, use_threads=False), done):
                    done += batch.num_rows
                    width = max(width, batch.nbytes / max(1, batch.num_rows))
                    yield batch
                    again = not seen or (batch.nbytes > 4 * max_bytes and rows > 1)
                    seen = True
                    if again:
                        break

    def _arrow(self, max_bytes: int, wanted: list[str], groups: Sequence[int] | None) -> Iterator[Any]:
        with _arrow_file(self.path, self.kind) as reader:
            count = reader.num_record_batches if self.kind == "file" else None
            for number in itertools.count():
                if number == count:
                    return
                try:
                    batch = reader.get_batch(number) if self.kind == "file" else reader.read_next_batch()
                except StopIteration:
                    return
                yield batch.select(wanted)


def _cut(batch: Any, max_bytes: int) -> Iterator[Any]:
    """A batch in pieces of about so many bytes, sound, without dictionaries."""
    batch.validate(full=True)
    if not batch.num_rows:
        return
    size = sum(_size(column) for column in batch.columns)
    pieces = max(1, min(batch.num_rows, math.ceil(size / max_bytes)))
    step = math.ceil(batch.num_rows / pieces)
    for start in range(0, batch.num_rows, step):
        yield decoded(batch.slice(start, step))


def _size(column: Any) -> float:
    """About how many bytes the values of a column take, without a dictionary."""
    return float(column.nbytes)


@contextmanager
def opened_table(path: str) -> Iterator[Table]:
    """A file of Parquet or of Arrow, while it is open. NotFoundError, StorageError; FormatError: it is
    neither, or damaged; MissingDependencyError."""
    kind = kind_of(path)
    if kind is None:
        raise FormatError(f"{path} is neither a file of Parquet nor one of Arrow: check which file it is")
    arrow = pyarrow("reading a file of Parquet" if kind == "parquet" else "reading a file of Arrow")
    with ExitStack() as stack:
        with damaged(path):
            source = stack.enter_context(arrow.OSFile(path))
            table = _table(path, kind, source)
        yield table  # what goes wrong in there is nothing that the file did


def _table(path: str, kind: Kind, source: Any) -> Table:
    """What an open file holds."""
    file = None
    if kind == "parquet":
        parquet = require("pyarrow.parquet", "reading a file of Parquet", "arrow")
        file = parquet.ParquetFile(
            source,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            thrift_string_size_limit=MOST_METADATA,
            thrift_container_size_limit=MOST_METADATA,
            page_checksum_verification=True,
        )
        schema, rows = file.schema_arrow, file.metadata.num_rows
        said = {**(file.metadata.metadata or {}), **(schema.metadata or {})}
    else:
        with _arrow_file(path, kind) as reader:
            schema = reader.schema
        rows, said = None, schema.metadata or {}
    _check_names(schema, path)
    return Table(
        path,
        kind,
        {name: schema.field(name).type for name in schema.names},
        {key.decode("utf-8", "replace"): value for key, value in said.items()},
        rows,
        schema,
        file,
    )


@contextmanager
def _arrow_file(path: str, kind: Kind) -> Iterator[Any]:
    ipc = require("pyarrow.ipc", "reading a file of Arrow", "arrow")
    open_ = ipc.open_file if kind == "file" else ipc.open_stream
    with pyarrow("reading a file of Arrow").OSFile(path) as source, open_(source) as reader:
        yield reader


def _is_fixed(type_: Any) -> bool:
    leaf = leaf_of(type_)
    return leaf is not None and leaf.fixed


def _least_width(type_: Any) -> float:
    """Bytes that a row of a type takes at least."""
    total = 0
    for _, inner in leaves_of("", type_):
        leaf = leaf_of(inner)
        if leaf is None:
            continue
        shape = [length for length in leaf.shape if length is not None]
        total += leaf.dtype.itemsize * (math.prod(shape) if leaf.fixed else 1) + 4 * (not leaf.fixed)
    return total


def _from(batches: Iterator[Any], row: int) -> Iterator[Any]:
    """What comes from a row on."""
    for batch in batches:
        if row < batch.num_rows:
            yield batch.slice(row) if row else batch
        row = max(0, row - batch.num_rows)


def _check_names(schema: Any, path: str) -> None:
    names = schema.names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(f"{path} has two columns {twice!r:.80}: rename one of them")


def json_in(metadata: Mapping[str, bytes], key: str, path: str) -> Any:
    """What the metadata of a file say in JSON under a key; None: nothing. FormatError: it is none."""
    if key not in metadata:
        return None
    try:
        return strict_json.decoded(metadata[key])
    except (ValueError, json.JSONDecodeError) as error:
        raise FormatError(
            f"{path}: its metadata {key!r} are no JSON ({error}): restore it from a copy"
        ) from None
