"""Plain tensors as blocks: those that replaystore wrote (writing.py), and those of others, which have a row a
step, and flags or numbers that say where trajectories end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.report import Fate, changed, derived, lost
from replaystore.formats.safetensors.header import Tensor, rows_of
from replaystore.formats.safetensors.writing import KEY, VERSION, stored
from replaystore.formats.shared.cutting import Run, begins_of_ends, begins_of_numbers, cut
from replaystore.formats.shared.file_rows import FileRows
from replaystore.formats.shared.table_names import ENDS, NEXT, NUMBERS, named, role
from replaystore.formats.source import Source
from replaystore.schema import strict_json
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema
from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS
from replaystore.schema.spaces import DTYPES
from replaystore.trajectories.columns import TRAJECTORIES

__all__ = ["Foreign", "Own", "said_in"]

MOST_ROWS = 1 << 16
"""That are read at once."""


def said_in(metadata: Mapping[str, str], path: str) -> dict[str, Any] | None:
    """What replaystore said of a file; None: others wrote it. FormatError: it is damaged."""
    if KEY not in metadata:
        return None
    try:
        said = strict_json.decoded(metadata[KEY])
    except ValueError as error:
        raise FormatError(f"{path}: its metadata {KEY!r} are no JSON ({error}): it is damaged") from None
    numbers = {name for name, dtype in DTYPES.items() if dtype.kind != "c"}
    if isinstance(said, dict) and type(said.get("version")) is int and said["version"] > VERSION:
        raise FormatError(f"{path} is of version {said['version']}: upgrade replaystore")
    sound = (
        isinstance(said, dict)
        and said.get("version") == VERSION
        and isinstance(said.get("schema"), dict)
        and isinstance(said.get("columns"), dict)
        and all(isinstance(dtype, str) and dtype in numbers for dtype in said["columns"].values())
        and isinstance(said.get("splits"), list)
        and all(isinstance(split, str) for split in said["splits"])
        and isinstance(said.get("environment", 0), dict | None)
        and isinstance(said.get("metadata"), dict)
        and all(type(said.get(key)) is int for key in ("steps", "trajectories"))
    )
    if not sound:
        raise FormatError(f"{path}: its metadata {KEY!r} are nothing that replaystore writes: it is damaged")
    return dict(said)


class _Tensors:
    """The tensors of an open file."""

    def __init__(self, descriptor: int, tensors: Mapping[str, Tensor], path: str) -> None:
        self.descriptor, self.tensors, self.path = descriptor, tensors, path

    def rows(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], count: int | None) -> FileRows:
        """A tensor of this dtype and shape of a row, and so many rows. FormatError: it is another."""
        tensor = self.tensors.get(name)
        if (
            tensor is None
            or not tensor.known
            or tensor.kind == "BF16"
            or tensor.dtype != dtype
            or tensor.shape[1:] != shape
            or len(tensor.shape) < 1
            or (count is not None and tensor.shape[0] != count)
        ):
            found = "is missing" if tensor is None else f"is {tensor.kind} of shape {tensor.shape}"
            wanted = f"{dtype} of shape {(count, *shape)}".replace("None", "…")
            raise FormatError(f"{self.path}: the tensor {name!r:.80} {found}, and should be {wanted}")
        return rows_of(self.descriptor, tensor, self.path)


class _Column:
    """The rows of a field, whatever it is stored as."""

    def __init__(self, tensors: _Tensors, name: str, declared: Field, count: int) -> None:
        self.declared, self.where = declared, f"{tensors.path}: the tensor {name!r}"
        dtype, shape = stored(declared)
        self._offsets = None
        if declared.ragged:
            self._offsets = tensors.rows(f"{name}.offsets", np.dtype("<i8"), (), count + 1)
            self._rows = tensors.rows(f"{name}.values", dtype, shape, None)
        else:
            self._rows = tensors.rows(name, dtype, shape, count)

    def spans(self, start: int, stop: int) -> NDArray[np.int64]:
        """Where the values of these rows begin, and the last ends. FormatError: there are no such values."""
        assert self._offsets is not None, "it is of any length"
        offsets = self._offsets.read(start, stop + 1).astype(np.int64)
        if offsets[0] < 0 or offsets[-1] > self._rows.count or (offsets[1:] < offsets[:-1]).any():
            raise FormatError(f"{self.where}: its offsets lie beyond its values: the file is damaged")
        return offsets

    def read(self, start: int, stop: int) -> Any:
        """Rows."""
        if self._offsets is None:
            return self._numbers(self._rows.read(start, stop))
        offsets = self.spans(start, stop)
        values = self._numbers(self._rows.read(int(offsets[0]), int(offsets[-1])))
        return Ragged(values, offsets - offsets[0], text=self.declared.text)

    def bytes_of(self, start: int, stop: int) -> NDArray[np.int64]:
        """How many bytes each of these rows takes, if it is of any length."""
        return np.diff(self.spans(start, stop)) * self._rows.row_bytes

    def _numbers(self, rows: NDArray[Any]) -> NDArray[Any]:
        if self.declared.dtype.kind != "c":
            return rows
        return np.ascontiguousarray(rows).view(self.declared.dtype)[..., 0]


class Own:
    """A file that replaystore wrote."""

    def __init__(
        self, descriptor: int, tensors: Mapping[str, Tensor], said: Mapping[str, Any], path: str
    ) -> None:
        self.path, self.said, self._tensors = path, said, _Tensors(descriptor, tensors, path)
        self.schema = Schema.from_json(said["schema"])
        self.steps = self._count()
        self.columns = {
            name: _Column(self._tensors, name, declared, self.steps)
            for name, declared in self.schema.fields.items()
        }
        self.table = self._table()
        lengths = self.table["length"]
        if (lengths < 1).any() or int(lengths.sum()) != self.steps:
            raise FormatError(f"{path}: the lengths of trajectories do not add up to {self.steps} steps")
        self.final_rows = np.zeros(0, np.int64)
        self.finals: dict[str, _Column] = {}
        if "final.row" in tensors:
            rows = self._tensors.rows("final.row", np.dtype("<i8"), (), None)
            self.final_rows = rows.read(0, rows.count).astype(np.int64)
            ordered = (np.diff(self.final_rows, prepend=-1, append=self.steps) > 0).all()
            if not ordered:
                raise FormatError(f"{path}: the rows of final observations are not in order: it is damaged")
            self.finals = {
                name: _Column(self._tensors, f"final.{name}", self.schema.fields[name], rows.count)
                for name in self.schema.names("observation")
            }

    def _count(self) -> int:
        for name, declared in self.schema.fields.items():
            tensor = self._tensors.tensors.get(f"{name}.offsets" if declared.ragged else name)
            if tensor is not None and tensor.shape:
                return max(0, tensor.shape[0] - declared.ragged)
        raise FormatError(f"{self.path} has none of the tensors of its fields: it is damaged")

    def _table(self) -> dict[str, NDArray[Any]]:
        dtypes: dict[str, np.dtype[Any]] = dict.fromkeys(("length", "seed", "env", "split"), np.dtype("<i8"))
        dtypes |= dict.fromkeys(FLAGS, np.dtype("?"))
        dtypes |= {f"column.{name}": DTYPES[dtype] for name, dtype in self.said["columns"].items()}
        length = self._tensors.tensors.get("trajectory.length")
        count = length.shape[0] if length is not None and length.shape else None
        found = {}
        for name, dtype in dtypes.items():
            rows = self._tensors.rows(f"trajectory.{name}", dtype, (), count)
            found[name] = rows.read(0, rows.count)
        codes = found["split"]
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(self.said["splits"]):
            raise FormatError(f"{self.path}: a trajectory is of a split that there is not: it is damaged")
        return found

    def source(self) -> Source:
        """As a format gives it."""
        said = self.said
        return Source(
            self.schema,
            lambda most: cut(self._runs(most)),
            environment=said["environment"],
            metadata=said["metadata"] or None,
            splits=[split for split in said["splits"] if split],
            columns=said["columns"],
            steps=self.steps,
            trajectories=len(self.table["length"]),
        )

    def _runs(self, max_bytes: int) -> Iterator[Run]:
        table, bounds = self.table, np.cumsum(self.table["length"])
        splits = np.array(self.said["splits"], object)
        flags = [name for name in FLAGS if name not in self.schema.fields]
        for start, stop in self._blocks(max_bytes):
            each = np.searchsorted(bounds, np.arange(start, stop), side="right")
            begins = np.zeros(stop - start, np.bool_)
            first = bounds - table["length"]
            low, high = np.searchsorted(first, [start, stop]).tolist()
            begins[first[low:high] - start] = True
            some, last = np.searchsorted(self.final_rows, [start, stop]).tolist()
            told: dict[str, Any] = {name: table[name][each] for name in ("seed", "env", *flags)}
            yield Run(
                {name: column.read(start, stop) for name, column in self.columns.items()},
                begins,
                self.final_rows[some:last] - start,
                {name: column.read(some, last) for name, column in self.finals.items()},
                told=told | {"split": splits[table["split"][each]]},
                table={name: table[f"column.{name}"][each] for name in self.said["columns"]},
            )

    def _blocks(self, max_bytes: int) -> Iterator[tuple[int, int]]:
        """From which row to which, so that they take about so many bytes."""
        fixed = sum(declared.row_bytes for declared in self.schema.fields.values())
        step = max(1, min(MOST_ROWS, max_bytes // max(1, fixed)))
        ragged = [column for column in self.columns.values() if column.declared.ragged]
        for low in range(0, self.steps, step):
            high = min(self.steps, low + step)
            sizes = np.full(high - low, fixed, np.int64)
            for column in ragged:
                sizes += column.bytes_of(low, high)
            ends, start = np.cumsum(sizes), 0
            while ragged and start < high - low:
                before = int(ends[start - 1]) if start else 0
                until = max(start + 1, int(np.searchsorted(ends, before + max_bytes, side="right")))
                yield low + start, low + until
                start = until
            if not ragged:
                yield low, high


class Foreign:
    """A file that others wrote."""

    def __init__(self, descriptor: int, tensors: Mapping[str, Tensor], path: str) -> None:
        self.path, self.fields, self.remarks = path, dict[str, Fate](), list[str]()
        names = {keys[0]: name for keys, name in named([name] for name in tensors).items()}
        observed = [one for one in tensors.values() if one.shape and role(names[one.name]) == "observation"]
        if not observed:
            raise FormatError(f"{path} has no tensor of observations: it does not hold steps that are known")
        self.steps = observed[0].shape[0]
        self.columns: dict[str, tuple[FileRows, Tensor, Field]] = {}
        for one in tensors.values():
            name = names[one.name]
            fitting = one.known and one.shape[:1] == (self.steps,) and 0 not in one.shape[1:]
            if not fitting or len(one.shape) > 32:
                self.fields[name] = lost(
                    f"it is {one.kind} of shape {one.shape}, and there are {self.steps} steps"
                )
                continue
            flag = name in FLAGS and one.shape[1:] in ((), (1,)) and one.dtype.kind in "biuf"
            called = name if flag or role(name) not in FLAGS else f"{name}_"
            declared = (
                Field("bool", (), role(called)) if flag else Field(one.dtype, one.shape[1:], role(called))
            )
            if one.kind == "BF16":
                self.fields[called] = changed("bfloat16 as float32, which holds each of its values", 0.0)
            self.columns[called] = rows_of(descriptor, one, path), one, declared
        self.next = self._next()
        self.number = next((name for name in NUMBERS if name in self.columns and self._tells(name)), None)
        if self.number is None and not any(name in self.columns for name in (*FLAGS, *ENDS)):
            self.remarks.append("all rows are one trajectory: no tensor says where trajectories end")
        if self.number is not None:
            self.fields[self.number] = derived("a column of the table of trajectories")

    def _tells(self, name: str) -> bool:
        _, tensor, _ = self.columns[name]
        return len(tensor.shape) == 1 and tensor.dtype.kind in "iu"

    def _next(self) -> dict[str, str]:
        """Next observations, by the observation that they are of."""
        found = {
            "observation" + name.removeprefix(NEXT): name
            for name in self.columns
            if name == NEXT or name.startswith(NEXT + "/")
        }
        same = {name for name, (_, _, declared) in self.columns.items() if declared.role == "observation"}
        forms = {name: self.columns[name][2] for name in self.columns}
        alike = found.keys() == same and all(
            (forms[mine].dtype, forms[mine].shape) == (forms[other].dtype, forms[other].shape)
            for mine, other in found.items()
        )
        if not alike:
            return {}
        told = derived("the observation of the next step, or what followed the last")
        self.fields |= dict.fromkeys(found.values(), told)
        return found

    def source(self) -> Source:
        """As a format gives it."""
        hidden = {*self.next.values(), *([self.number] if self.number else [])}
        schema = Schema(
            {name: declared for name, (_, _, declared) in self.columns.items() if name not in hidden}
        )
        columns = {} if self.number is None else {self._column: self.columns[self.number][1].dtype.name}
        return Source(
            schema,
            lambda most: cut(self._runs(schema, most)),
            columns=columns,
            steps=self.steps,
            fields=self.fields,
            remarks=self.remarks,
        )

    @property
    def _column(self) -> str:
        return f"{self.number}_id" if self.number in (*TRAJECTORIES, "open") else str(self.number)

    def _runs(self, schema: Schema, max_bytes: int) -> Iterator[Run]:
        width = sum(rows.row_bytes for rows, _, _ in self.columns.values())
        step = max(1, min(MOST_ROWS, max_bytes // max(1, width)))
        before: Any = None
        ended, seen = True, set[int]()
        for start in range(0, self.steps, step):
            stop = min(self.steps, start + step)
            columns = {name: self._read(name, start, stop) for name in schema.fields}
            table: dict[str, Any] = {}
            if self.number is not None:
                number = self._read(self.number, start, stop)
                begins = begins_of_numbers(number, before)
                before, table = number[-1], {self._column: number}
                new = number[begins].tolist()
                if len(set(new)) < len(new) or not seen.isdisjoint(new):
                    raise FormatError(
                        f"{self.path}: the rows of a trajectory do not lie together (of {self.number!r}, at "
                        f"row {start} or after): sort them"
                    )
                seen.update(new)
            else:
                ends = self._ends(columns, stop - start)
                begins, ended = begins_of_ends(ends, before=ended), bool(ends[-1])
            following = {mine: self._read(other, start, stop) for mine, other in self.next.items()}
            yield Run(columns, begins, following=following or None, table=table)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        rows, tensor, declared = self.columns[name]
        values = rows.read(start, stop)
        if tensor.kind == "BF16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        if declared.dtype == values.dtype and declared.shape == values.shape[1:]:
            return values
        flags: NDArray[np.bool_] = (values != 0).reshape(len(values))
        if not np.array_equal(flags, values.reshape(len(values))):
            raise FormatError(f"{self.path}: the tensor {name!r} has values that are neither 0 nor 1")
        return flags

    def _ends(self, columns: Mapping[str, NDArray[Any]], count: int) -> NDArray[np.bool_]:
        names = [name for name in FLAGS if name in columns] or [name for name in ENDS if name in columns][:1]
        ends = np.zeros(count, np.bool_)
        for name in names:
            if columns[name].size == count:
                ends |= columns[name].reshape(count) != 0
        return ends
