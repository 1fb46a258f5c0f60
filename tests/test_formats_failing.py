"""A format of another package that fails: one error that names the package, and no half of a target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from stranger import installed

import replaystore as rs
from replaystore import errors
from replaystore.testing import samples

pytest_plugins = ["commands"]

POINTS = {"replaystore.formats toy": "toy_format:ENTRY"}
FAILED = r"the format 'toy' of the package stranger failed \(ZeroDivisionError: in the middle\): tell"


@pytest.fixture
def toy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    installed(tmp_path_factory.mktemp("site"), monkeypatch, POINTS)
    import toy_format

    return toy_format


@pytest.fixture
def store(toy: Any, tmp_path: Path) -> str:
    schema = samples.small()
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append(samples.columns(schema, 30, 1))
    rs.convert(str(tmp_path / "a.zarr"), tmp_path / "a.toy")
    return str(tmp_path / "a.zarr")


def fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("in the middle")


def test_reading_fails_in_the_middle(
    store: str, toy: Any, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(toy.np, "frombuffer", fail)

    for target in ("b.zarr", "b.h5", "b.pkl"):
        with pytest.raises(errors.PluginError, match=FAILED):
            rs.convert(tmp_path / "a.toy", tmp_path / target)
    code, _, err = run("convert", tmp_path / "a.toy", tmp_path / "b.zarr")
    assert (code, err.count("\n")) == (1, 1)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_writing_fails_in_the_middle(
    store: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    target = tmp_path / ("a.toy" if overwrite else "b.toy")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.setattr(toy.formats, "blocks_of", fail, raising=False)

    with pytest.raises(errors.PluginError, match=FAILED):
        rs.convert(store, target, overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_format_that_says_nothing_of_what_became_of_it(
    store: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Toy, "write", lambda *_: None)

    with pytest.raises(errors.PluginError, match="is a Report, not None"):
        rs.convert(store, tmp_path / "b.toy")


def test_files_of_others_are_none_of_its_business(
    store: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.Toy, "recognizes", fail)
    np.savez(tmp_path / "a.npz", a=np.zeros(3))

    with pytest.raises(errors.FormatError, match=r"an \.npz archive of NumPy"):
        rs.convert(tmp_path / "a.npz", tmp_path / "b.zarr")
    with pytest.raises(errors.AlreadyExistsError, match="something else than a file of the toy"):
        rs.convert(store, tmp_path / "a.toy", overwrite=True)


def test_errors_of_the_target_are_not_those_of_the_file(store: str, tmp_path: Path) -> None:
    """The `read` of the toy takes every ValueError for one of its file."""
    with pytest.raises(errors.SchemaError, match="all fields of an archive are coded"):
        rs.convert(tmp_path / "a.toy", tmp_path / "b.zarr", layout="archive", codec="raw")
    with pytest.raises(errors.AlreadyExistsError, match=r"a\.zarr exists"):
        rs.convert(tmp_path / "a.toy", store)


@pytest.mark.parametrize("target", ["b.zarr", "b.pkl"])
def test_what_progress_raises_ends_the_conversion_as_it_is(store: str, tmp_path: Path, target: str) -> None:
    def stop(done: int, total: int) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match=r"^enough$"):
        rs.convert(tmp_path / "a.toy", tmp_path / "b.zarr", progress=stop)
    with pytest.raises(ValueError, match=r"^enough$"):
        rs.convert(store, tmp_path / target, progress=stop)


def test_progress_of_values_of_any_length_ends_with_the_last_of_them(toy: Any, tmp_path: Path) -> None:
    tokens, told = rs.Schema({"tokens": rs.Field("int32", (None,), "extra")}), list[tuple[int, int]]()
    with rs.create("memory:a", tokens, overwrite=True) as buffer:
        for _ in range(4):
            buffer.append({"tokens": [np.arange(5000, dtype=np.int32)] * 3}, ends=[2])
    rs.convert("memory:a", tmp_path / "b.toy")

    rs.convert(tmp_path / "b.toy", "memory:c", overwrite=True, progress=lambda *now: told.append(now))

    assert [done == total for done, total in told] == [False, False, False, True]
    assert len({total for _, total in told}) == 1
