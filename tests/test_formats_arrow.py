"""The door to files of Parquet and Arrow: what is written is read, in blocks, and a file is not believed."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replaystore.errors import FormatError, MissingDependencyError, NotFoundError, ReplayStoreError
from replaystore.formats.shared.arrow.reading import Kind, json_in, kind_of, opened_table
from replaystore.formats.shared.arrow.values import leaf_of, leaves_of, lists, members, numbers, ragged
from replaystore.formats.shared.arrow.writing import TableWriter, arrow_array, arrow_type
from replaystore.schema.ragged import Ragged

pa = pytest.importorskip("pyarrow", reason="it is the extra 'arrow'")
pq = pytest.importorskip("pyarrow.parquet")

KINDS: list[Kind] = ["parquet", "file", "stream"]
ROWS = 300


def columns() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "matrix": draw.random((ROWS, 3, 2)).astype(np.float32),
        "number": draw.integers(0, 9, ROWS),
        "flag": draw.random(ROWS) > 0.5,
        "half": draw.random((ROWS, 2)).astype(np.float16),
        "complex": draw.random(ROWS) + 1j,
        "points": Ragged.of([draw.random((at % 5, 2)) for at in range(ROWS)]),
        "text": Ragged.of(["é" * (at % 4) for at in range(ROWS)], text=True),
        "nested": {"x": draw.random(ROWS), "y": {"q": draw.integers(0, 9, (ROWS, 2), np.uint8)}},
    }


def type_of(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: type_of(part) for name, part in values.items()}
    return arrow_type(values.dtype, values.shape[1:], text=getattr(values, "text", False))


def rows_of(values: Any, start: int, stop: int) -> Any:
    if isinstance(values, dict):
        return {name: rows_of(part, start, stop) for name, part in values.items()}
    return values[start:stop]


def written(path: Path, kind: Kind, compression: str | None = "zstd", group_bytes: int = 1 << 13) -> str:
    values = columns()
    types = {name: type_of(part) for name, part in values.items()}
    with (
        path.open("wb") as file,
        TableWriter(
            file,
            types,
            kind=kind,
            metadata={"replaystore": '{"a":1}'},
            compression=compression,
            group_bytes=group_bytes,
        ) as writer,
    ):
        for start in range(0, ROWS, 7):
            writer.write({name: rows_of(part, start, start + 7) for name, part in values.items()})
    return str(path)


def check(path: str) -> None:
    values = columns()
    with opened_table(path) as table:
        found = list(table.batches(4000))
    assert len(found) > 4

    def whole(name: str) -> Any:
        return np.concatenate([numbers(batch[name], name) for batch in found])

    for name in ("matrix", "number", "flag", "half"):
        assert whole(name).dtype == values[name].dtype
        np.testing.assert_array_equal(whole(name), values[name])
    np.testing.assert_array_equal(whole("complex"), values["complex"].view("f8").reshape(-1, 2))
    for name in ("points", "text"):
        assert Ragged.concatenate([ragged(batch[name], name) for batch in found]) == values[name]
    inner = [members(members(batch["nested"], "nested")["y"], "nested.y")["q"] for batch in found]
    np.testing.assert_array_equal(
        np.concatenate([numbers(part, "q") for part in inner]), values["nested"]["y"]["q"]
    )


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_in_blocks(tmp_path: Path, kind: Kind, compression: str | None) -> None:
    path = written(tmp_path / "table", kind, compression)

    assert kind_of(path) == kind
    check(path)
    with opened_table(path) as table:
        assert json_in(table.metadata, "replaystore", path) == {"a": 1}
        assert json_in(table.metadata, "another", path) is None
        assert table.rows == (ROWS if kind == "parquet" else None)
        assert next(table.batches(1 << 30, ["text", "flag"])).schema.names == ["text", "flag"]
        assert [keys for keys, _ in leaves_of("nested", table.types["nested"])] == [
            ("nested", "x"),
            ("nested", "y", "q"),
        ]
        leaf = leaf_of(table.types["points"])
        assert leaf is not None
        assert (leaf.dtype, leaf.shape, leaf.plain, leaf.fixed) == (np.dtype("f8"), (None, 2), True, False)


def test_metadata_may_be_said_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with path.open("wb") as file, TableWriter(file, {"a": arrow_type(np.dtype("i4"), ())}) as writer:
        writer.write({"a": np.arange(3, dtype=np.int32)})
        writer.say({"found": [1, 2], "text": "as it is"})

    with opened_table(str(path)) as table:
        assert table.metadata["text"] == b"as it is"
        assert json_in(table.metadata, "found", str(path)) == [1, 2]


# --- columns of others


@pytest.mark.parametrize(
    ("array", "dtype", "shape"),
    [
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int16())), "int16", (2, 2)),
        (pa.array([[[1.0], [2.0]]], pa.large_list(pa.list_(pa.float32(), 1))), "float32", (1, 2, 1)),
        (pa.array([b"ab", b"cd"], pa.binary(2)), "uint8", (2, 2)),
        (pa.array([1, 1, 2]).dictionary_encode(), "int64", (3,)),
        (pa.array([1, 2], pa.timestamp("us")), "int64", (2,)),
        (pa.array([], pa.list_(pa.float32(), 3)), "float32", (0, 3)),
        (
            pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.int8(), (2, 3)),
                pa.array([[1, 2, 3, 4, 5, 6]], pa.list_(pa.int8(), 6)),
            ),
            "int8",
            (1, 2, 3),
        ),
    ],
)
def test_numbers_of_one_shape(array: Any, dtype: str, shape: tuple[int, ...]) -> None:
    found = numbers(array, "column")

    assert (found.dtype, found.shape) == (np.dtype(dtype), shape)
    leaf = leaf_of(array.type)
    assert leaf is not None
    assert leaf.dtype == np.dtype(dtype)
    assert len(leaf.shape) == len(shape) - 1


def test_slices_of_columns_are_their_rows() -> None:
    nested = pa.array([[[1, 2]], [], [[3, 4], [5, 6]], [[7, 8]]], pa.list_(pa.list_(pa.int64(), 2)))
    offsets, child = lists(nested[1:3], "column")

    assert offsets.tolist() == [0, 0, 2]
    assert numbers(child, "column").tolist() == [[3, 4], [5, 6]]
    assert ragged(nested[2:], "column").tolist() == [[[3, 4], [5, 6]], [[7, 8]]]
    assert ragged(pa.array(["a", "bc", "d"])[1:], "column").tolist() == ["bc", "d"]
    assert numbers(pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))[1:], "column").tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (pa.array([1, None, None]), "null"),
        (pa.array([[1, None]]), "null"),
        (pa.array([[1], None], pa.list_(pa.int64(), 1)), "null"),
        (pa.array([[1], [1, 2]]), "one shape"),
        (pa.array(["a"]), "expected numbers"),
        (pa.array([None]), "null|numbers"),
    ],
)
def test_what_is_no_array_is_refused(array: Any, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        numbers(array, "column")


def test_types_that_no_array_holds() -> None:
    assert leaf_of(pa.struct([("a", pa.int8())])) is None
    assert leaf_of(pa.null()) is None
    assert leaf_of(pa.decimal128(5)) is None
    assert leaf_of(pa.list_(pa.struct([("a", pa.int8())]))) is None


# --- files that are not whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_is_one_clear_line(tmp_path: Path, kind: Kind) -> None:
    whole = Path(written(tmp_path / "table", kind)).read_bytes()
    path = tmp_path / "cut"
    for size in [0, 3, 8, 11, 40, 100, *range(200, len(whole), len(whole) // 23), len(whole) - 9]:
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError) as told, opened_table(str(path)) as table:
            for _ in table.batches(1000):
                pass
        assert "\n" not in str(told.value)
    if kind == "parquet":
        assert "no footer" in str(told.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_wrong_bytes_is_an_error_or_read(tmp_path: Path, kind: Kind) -> None:
    whole = Path(written(tmp_path / "table", kind)).read_bytes()
    path, draw = tmp_path / "wrong", np.random.default_rng(1)
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(int(draw.integers(1, 4))):
            begin = len(data) - 4000 if draw.random() < 0.5 else 0
            data[int(draw.integers(begin, len(data)))] = int(draw.integers(256))
        path.write_bytes(data)
        try:
            with opened_table(str(path)) as table:
                for batch in table.batches(4000):
                    for name in batch.schema.names:
                        _any_values(batch[name])
        except ReplayStoreError as error:
            assert "\n" not in str(error)  # noqa: PT017


def _any_values(array: Any) -> None:
    if pa.types.is_struct(array.type):
        for part in members(array, "a struct").values():
            _any_values(part)
        return
    leaf = leaf_of(array.type)
    if leaf is not None and leaf.plain:
        (numbers if leaf.fixed else ragged)(array, "a column")


def test_something_else_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"\xff" * 100)

    assert kind_of(str(path)) is None
    with pytest.raises(FormatError, match="neither"), opened_table(str(path)):
        pass
    with pytest.raises(NotFoundError), opened_table(str(tmp_path / "nothing")):
        pass


@pytest.mark.parametrize("error", [MemoryError("of another"), OSError(5, "of another"), KeyError("another")])
def test_what_goes_wrong_elsewhere_is_not_the_fault_of_the_file(tmp_path: Path, error: Exception) -> None:
    path = written(tmp_path / "table", "parquet")

    def use() -> None:
        with opened_table(path) as table:
            next(table.batches(1000))
            raise error

    with pytest.raises(type(error)) as told:
        use()
    assert told.value is error


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(FormatError, match="two columns 'a'"), opened_table(str(tmp_path / "a.parquet")):
        pass


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "table", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(MissingDependencyError, match=r"replaystore\[arrow\]"), opened_table(path):
        pass
    with pytest.raises(MissingDependencyError, match=r"replaystore\[arrow\]"):
        arrow_array(np.zeros(3))


def test_formats_ask_one_door_for_pyarrow() -> None:
    formats = Path(__file__).parents[1] / "src" / "replaystore" / "formats"
    doors = {"reading.py", "values.py", "writing.py"}
    for file in formats.rglob("*.py"):
        if file.parent == formats / "shared" / "arrow" and file.name in doors:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        imports = {
            name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
        } | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        named = {str(one).split(".")[0] for one in texts | imports}
        assert "pyarrow" not in named, f"{file.name} asks for pyarrow itself"
