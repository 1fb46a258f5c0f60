"""Several fields are added at once, by a caller and by a recorder that meets many keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.containers.hdf5.library import Hdf5File
from replaystore.errors import SchemaError, StorageError
from replaystore.gymnasium.infos import InfoColumns, batch_of_one
from replaystore.schema import Field, Schema

REWARD = Schema({"reward": Field("float64", (), "reward")})
LATE = {
    "info/a": Field("float32", (2,), "info"),
    "info/_a": Field("bool", (), "mask"),
    "info/b/c": Field("int16", (), "info"),
}


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_several_fields_are_added_with_the_rows_that_they_lack(tmp_path: Path, suffix: str) -> None:
    location = tmp_path / f"a{suffix}"
    with rs.create(location, REWARD) as buffer:
        buffer.append({"reward": np.arange(3.0)})
        buffer.add_fields(LATE, fill={"info/_a": 1})
        late = {name: np.ones((2, *field.shape), field.dtype) for name, field in LATE.items()}
        buffer.append({"reward": np.ones(2), **late})
    with rs.open(location) as buffer:
        assert buffer["info/a"][:].tolist() == [[0.0, 0.0]] * 3 + [[1.0, 1.0]] * 2
        assert buffer["info/_a"][:].tolist() == [True] * 5
        assert buffer["info/b/c"][:].tolist() == [0, 0, 0, 1, 1]


def test_none_is_added_if_one_is_there_already(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", REWARD) as buffer:
        with pytest.raises(SchemaError, match="there is a field 'reward' already"):
            buffer.add_fields({**LATE, "reward": REWARD.fields["reward"]})
        assert list(buffer.schema.fields) == ["reward"]


class Watched:
    """A buffer that counts how often fields are added to it, and refuses to where it is told so."""

    def __init__(self, buffer: rs.Buffer) -> None:
        self.buffer = buffer
        self.times = 0
        self.full = False

    @property
    def schema(self) -> Schema:
        return self.buffer.schema

    @property
    def rows_recorded(self) -> int:
        return self.buffer.rows_recorded

    def add_fields(self, declared: Mapping[str, Field], *, fill: Mapping[str, Any]) -> None:
        if self.full:
            raise StorageError("the disk is full")
        self.times += 1
        self.buffer.add_fields(declared, fill=fill)


@pytest.fixture
def watched() -> Any:
    with rs.create("memory:adding", REWARD, overwrite=True) as buffer:
        yield Watched(buffer)


def record(watched: Any, columns: InfoColumns, info: Mapping[str, Any]) -> None:
    watched.buffer.append({"reward": np.zeros(1), **columns.columns(batch_of_one(info))})


def test_all_keys_that_a_step_brings_are_added_at_once(watched: Any) -> None:
    columns = InfoColumns(watched, 1, True, masks=False)
    many = {f"k{number}": float(number) for number in range(100)}
    record(watched, columns, {"first": 1})
    record(watched, columns, {"first": 2, **many})
    record(watched, columns, many)  # which adds the mask of the first key
    assert watched.times == 3
    watched.buffer.commit()
    assert watched.buffer["info/k7"][:].tolist() == [0.0, 7.0, 7.0]
    assert watched.buffer["info/_k7"][:].tolist() == [False, True, True]
    assert watched.buffer["info/_first"][:].tolist() == [True, True, False]


def test_keys_whose_fields_could_not_be_added_are_met_anew(watched: Any) -> None:
    columns = InfoColumns(watched, 1, True, masks=False)
    watched.full = True
    with pytest.raises(StorageError):
        columns.columns(batch_of_one({"x": 1}))
    watched.full = False
    record(watched, columns, {"x": 2})
    watched.buffer.commit()
    assert watched.buffer["info/x"][:].tolist() == [2]


def test_many_fields_take_as_many_transactions_as_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = []
    change = Hdf5File.change

    def counted(file: Hdf5File, *given: Any, **options: Any) -> Any:
        changes.append(given)
        return change(file, *given, **options)

    monkeypatch.setattr(Hdf5File, "change", counted)
    taken = []
    with rs.create(tmp_path / "a.h5", REWARD) as buffer:
        buffer.append({"reward": np.zeros(3)})
        for count in (2, 20):
            changes.clear()
            buffer.add_fields({f"info/{count}/{n}": Field("float32", (), "info") for n in range(count)})
            taken.append(len(changes))
    assert taken[0] == taken[1]


@pytest.mark.parametrize("given", [["info/x"], "info/x", None])
def test_what_is_no_dict_is_refused(tmp_path: Path, given: Any) -> None:
    with rs.create(tmp_path / "a.zarr", REWARD) as buffer:
        with pytest.raises(SchemaError, match="declared must be a dict from names, not"):
            buffer.add_fields(given)
        with pytest.raises(SchemaError, match="fill must be a dict from names, not"):
            buffer.add_fields({"info/x": Field("float32", (), "info")}, fill=1)  # type: ignore[arg-type]
        assert list(buffer.schema.fields) == ["reward"]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        ({"info/x": [7]}, "must be one number that float32 holds, not .7."),
        ({"info/x": 1e300}, "must be one number that float32 holds, not 1e.300"),
        ({"info/x": 1j}, "must be one number that float32 holds, not 1j"),
        ({"info/x": "x"}, "must be one number that float32 holds, not 'x'"),
        ({"info/x": None}, "must be one number that float32 holds, not None"),
        ({"info/other": 1}, "fill names 'info/other', which is none of"),
    ],
)
@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_fill_that_cannot_be_loses_no_steps(tmp_path: Path, name: str, fill: Any, message: str) -> None:
    with rs.create(tmp_path / name, REWARD) as buffer:
        buffer.append({"reward": np.ones(3)})
        with pytest.raises(SchemaError, match=message):
            buffer.add_fields({"info/x": Field("float32", (), "info")}, fill=fill)
        assert list(buffer.schema.fields) == ["reward"]
        buffer.add_fields({"info/x": Field("bool", (), "info")}, fill={"info/x": True})
        buffer.commit()
        assert buffer["info/x"][:].tolist() == [True] * 3
