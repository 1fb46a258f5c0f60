"""Datasets of Minari in Arrow and Parquet that are damaged, or lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import FormatError, NotFoundError, ReplayStoreError, UnsupportedError
from replaystore.formats.minari import plan
from replaystore.schema.fields import Field, Schema
from replaystore.testing.samples import columns

pyarrow = pytest.importorskip("pyarrow", reason="Arrow and Parquet need pyarrow")

SCHEMA = Schema(
    {
        "observation/image": Field("uint8", (4, 3, 2), "observation"),
        "observation/odd": Field("complex64", (2,), "observation"),
        "action": Field("int32", (), "action"),
        "reward": Field("float32", (), "reward"),
        "terminated": Field("bool", (), "terminated"),
        "truncated": Field("bool", (), "truncated"),
        "info/a%2Fb/c": Field("float16", (2, 3), "info"),
        "info/n": Field("int64", (), "info"),
        "weight": Field("complex128", (), "extra"),
    }
)


@pytest.fixture(params=["arrow", "parquet"])
def container(request: pytest.FixtureRequest) -> str:
    """What the data of a dataset are in."""
    return str(request.param)


def store(path: Path, lengths: list[int]) -> Path:
    with rs.create(path, SCHEMA) as buffer:
        for number, steps in enumerate(lengths):
            buffer.append(columns(SCHEMA, steps, number, ends=0.0), ends=[steps - 1])
    return path


@pytest.fixture
def written(tmp_path: Path, container: str) -> Path:
    """A dataset of three episodes."""
    convert(store(tmp_path / "a.zarr", [5, 1, 8]), tmp_path / "a-v0", format=f"minari_{container}")
    return tmp_path / "a-v0"


def test_all_dtypes_shapes_and_names_come_back(tmp_path: Path, written: Path) -> None:
    report = convert(written, tmp_path / "b.zarr", strict=True)

    assert report.exact
    with rs.open(tmp_path / "a.zarr") as before, rs.open(tmp_path / "b.zarr") as after:
        assert after.schema == before.schema
        for name in SCHEMA.fields:
            assert after[name][:].tobytes() == before[name][:].tobytes(), name


def test_a_dataset_without_what_lies_beside_is_as_minari_reads_it(tmp_path: Path, written: Path) -> None:
    (written / "data" / "replaystore.json").unlink()

    report = convert(written, tmp_path / "b.zarr")

    with rs.open(tmp_path / "a.zarr") as before, rs.open(tmp_path / "b.zarr") as after:
        assert "observation/odd" not in after.schema.fields
        assert after.schema.fields["observation/image"].shape == (4, 3, 2)
        for name in ("observation/image", "action", "reward", "info/n"):
            assert after[name][:].tobytes() == before[name][:].tobytes(), name
    assert "reset_info/n" not in report.rest


def said(folder: Path, episode: int, **changed: object) -> None:
    path = folder / "data" / str(episode) / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


CASES: dict[str, Callable[[Path, Path], object]] = {
    "longer": lambda folder, _: said(folder, 1, total_steps=7),
    "bomb": lambda folder, _: said(folder, 1, total_steps=1 << 60),
    "negative": lambda folder, _: said(folder, 1, total_steps=-1),
    "no number": lambda folder, _: said(folder, 1, total_steps="1"),
    "no json": lambda folder, _: (folder / "data" / "1" / "metadata.json").write_text("{"),
    "a list": lambda folder, _: (folder / "data" / "1" / "metadata.json").write_text("[]"),
    "too deep": lambda folder, _: (folder / "data" / "1" / "metadata.json").write_text("[" * 99999),
    "two files": lambda _, file: shutil.copy(file, file.with_name("part-1" + file.suffix)),
    "no file": lambda _, file: file.unlink(),
    "cut off": lambda _, file: file.write_bytes(file.read_bytes()[:-30]),
    "empty": lambda _, file: file.write_bytes(b""),
    "another's": lambda _, file: file.write_bytes(b"something else\n" * 9),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_damaged_or_lies_is_one_error(
    tmp_path: Path, written: Path, container: str, case: str
) -> None:
    CASES[case](written, written / "data" / "1" / f"part-0.{container}")

    with pytest.raises((FormatError, NotFoundError)) as raised:
        convert(written, tmp_path / "b.zarr", source_format="minari")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "b.zarr").exists()


def test_episodes_of_other_columns_are_refused(tmp_path: Path, written: Path, container: str) -> None:
    file = written / "data" / "1" / f"part-0.{container}"
    with rs.create(
        tmp_path / "c.zarr", Schema({**SCHEMA.fields, "reward": Field("float64", (), "reward")})
    ) as c:
        c.append(columns(c.schema, 1, 0, ends=0.0), ends=[0])
    convert(tmp_path / "c.zarr", tmp_path / "c-v0", format=f"minari_{container}")
    shutil.copy(tmp_path / "c-v0" / "data" / "0" / f"part-0.{container}", file)

    with pytest.raises(FormatError, match="have Minari write the dataset in HDF5"):
        convert(written, tmp_path / "b.zarr", source_format="minari")


def test_episodes_that_minari_could_not_read_are_refused(
    tmp_path: Path, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MOST_STEPS", 6)
    store(tmp_path / "a.zarr", [5, 6])

    with pytest.raises(UnsupportedError, match="at most 5 steps"):
        convert(tmp_path / "a.zarr", tmp_path / "a-v0", format=f"minari_{container}")
    assert not (tmp_path / "a-v0").exists()


def test_bytes_turned_over_anywhere_give_one_error_or_rows(
    tmp_path: Path, written: Path, container: str
) -> None:
    file = written / "data" / "0" / f"part-0.{container}"
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    for number in range(20):
        data = bytearray(whole)
        at = int(generator.integers(len(data)))
        data[at : at + 4] = generator.integers(0, 256, 4, np.uint8).tobytes()
        file.write_bytes(bytes(data))
        try:
            convert(written, tmp_path / f"{number}.zarr", source_format="minari")
        except ReplayStoreError as error:
            assert "\n" not in str(error)  # noqa: PT017  # most of them are errors, and some are not
