"""Trajectories of imitation: what it wrote, what its infos become, and folders that are damaged, or do
harm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore import errors
from replaystore.formats import find
from replaystore.formats.finding import named

arrow = pytest.importorskip("pyarrow", reason="tables of Arrow are read by pyarrow, an extra")

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
COLUMNS = ("obs", "acts", "infos", "terminal", "rews")


def folder(
    path: Path, rows: Sequence[Mapping[str, Any]], files: int = 1, types: Mapping[str, Any] | None = None
) -> Path:
    """As `save_to_disk` makes it: some rows in each file."""
    path.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    columns = list(rows[0]) if rows else list(COLUMNS)
    for number, name in enumerate(names):
        some = rows[number::files]
        arrays = {key: arrow.array([row[key] for row in some], (types or {}).get(key)) for key in columns}
        table = arrow.table(arrays)
        with arrow.OSFile(str(path / name), "wb") as file, arrow.ipc.new_stream(file, table.schema) as out:
            out.write_table(table, max_chunksize=2)
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (path / "dataset_info.json").write_text(json.dumps({"features": {key: {} for key in columns}}))
    return path


def trajectory(
    length: int, seed: int = 0, infos: Sequence[Any] | None = None, *, terminal: bool = True
) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {
        "obs": generator.normal(size=(length + 1, 3)).tolist(),
        "acts": generator.integers(0, 9, length).tolist(),
        "infos": [json.dumps(info) for info in (infos or [{}] * length)],
        "terminal": terminal,
        "rews": generator.normal(size=length).tolist(),
    }


def read(path: Path, tmp_path: Path) -> tuple[rs.Report, rs.Buffer]:
    report = rs.convert(path, tmp_path / "read.zarr", source_format="imitation")
    assert rs.verify(tmp_path / "read.zarr").problems == []
    return report, rs.open(tmp_path / "read.zarr")


def test_a_folder_of_imitation_is_what_was_recorded(tmp_path: Path) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    path = SAMPLES / "imitation" / "cartpole"
    assert find(path) == "imitation"
    _, buffer = read(path, tmp_path)
    truth = np.load(SAMPLES / "truth" / "cartpole.npz")

    assert buffer.trajectories["length"].tolist() == truth["ep_len"].tolist()
    ends = np.cumsum(truth["ep_len"]) - 1
    assert buffer.trajectories["terminated"].tolist() == truth["terminated"][ends].tolist()
    assert buffer["observation"][:].dtype == truth["obs"].dtype
    assert (buffer["action"][:] == truth["act"]).all()
    assert (buffer["reward"][:] == truth["rew"]).all()
    for number, length in enumerate(truth["ep_len"]):
        first = truth["ep_len"][:number].sum() + number
        found = buffer.trajectory(number)
        assert (found.columns["observation"] == truth["obs"][first : first + length]).all()
        assert (found.final_observation == truth["obs"][first + length]).all()
        assert found.columns["info/t"].tolist() == list(range(length))
        assert set(found.columns["info/ep"].tolist()) == {number}


def test_numbers_that_all_steps_have_are_fields(tmp_path: Path) -> None:
    infos = [{"x": 1, "y": 0.5, "on": True}, {"x": 2, "y": float("nan"), "on": False}]
    _, buffer = read(folder(tmp_path / "a", [trajectory(2, 0, infos)]), tmp_path)

    assert buffer["info/x"][:].tolist() == [1, 2]
    assert buffer["info/y"][:].dtype == np.float64
    assert np.isnan(buffer["info/y"][1])
    assert buffer["info/on"][:].tolist() == [True, False]
    assert "infos" not in buffer.schema.fields


@pytest.mark.parametrize(
    "more",
    [
        {"text": "a"},
        {"array": {"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch harmed"]}]}},
        {"py/object": "subprocess.Popen"},
        {"large": 1 << 70},
        {"x": 1.5},
        {f"k{number}": number for number in range(1000)},
    ],
    ids=str,
)
def test_what_is_no_number_stays_as_it_is_written(more: Any, tmp_path: Path) -> None:
    infos = [{"z": 0, "x": 1}, {"z": 1, "x": 2, **more}]
    _, buffer = read(folder(tmp_path / "a", [trajectory(2, 0, infos)]), tmp_path)

    assert [json.loads(text) for text in buffer["infos"][:]] == infos
    assert not Path("harmed").exists()
    assert "info/text" not in buffer.schema.fields


@pytest.mark.parametrize("text", ["", "[" * 100_000, "nothing", "[1]", "null", '{"a": 1'])
def test_infos_that_are_no_dicts(text: str, tmp_path: Path) -> None:
    given = trajectory(2) | {"infos": ["{}", text]}
    _, buffer = read(folder(tmp_path / "a", [given]), tmp_path)

    assert buffer["infos"][:].tolist() == ["{}", text]


def test_a_time_limit_truncates(tmp_path: Path) -> None:
    limit = "TimeLimit.truncated"
    rows = [
        trajectory(2, 0, [{limit: False}, {limit: True}]),
        trajectory(1, 1, [{limit: False}]),
        trajectory(3, 2, [{limit: False}] * 3, terminal=False),
    ]
    report, buffer = read(folder(tmp_path / "a", rows), tmp_path)

    table = buffer.trajectories
    assert table["terminated"].tolist() == [False, True, False]
    assert table["truncated"].tolist() == [True, False, False]
    assert table["terminal"].tolist() == [True, True, False]
    assert report.exact
    assert report.remarks == []


def test_several_files_many_shapes_and_no_rewards(tmp_path: Path) -> None:
    rows = []
    for number in range(7):
        row = trajectory(number, number)
        row["obs"] = np.full((number + 1, 2, 3), number).tolist()
        row["acts"] = np.full((number, 2), 0.5).tolist()
        del row["rews"]
        rows.append(row)
    nested = arrow.list_(arrow.list_(arrow.list_(arrow.int16())))
    acts = arrow.list_(arrow.list_(arrow.float32()))
    types = {"obs": nested, "acts": acts, "infos": arrow.list_(arrow.string())}
    report, buffer = read(folder(tmp_path / "a", rows, 2, types), tmp_path)

    assert buffer.trajectories["length"].tolist() == [2, 4, 6, 1, 3, 5]
    assert buffer.schema.fields["observation"].shape == (2, 3)
    assert buffer.schema.fields["observation"].dtype == np.int16
    assert buffer.schema.fields["action"].dtype == np.float32
    assert "reward" not in buffer.schema.fields
    assert (buffer.trajectory(2).final_observation == 6).all()
    assert report.rest["trajectories"].how == "1 have no step"


def test_a_long_trajectory_is_cut_into_blocks(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", [trajectory(5000, 0, [{"t": t} for t in range(5000)])])
    with named("imitation").read(str(path)) as source:
        blocks = list(source.blocks(1 << 14))
    assert len(blocks) > 10
    assert [block.begins for block in blocks] == [True] + [False] * (len(blocks) - 1)
    assert np.concatenate([block.columns["info/t"] for block in blocks]).tolist() == list(range(5000))
    assert all(block.final is None for block in blocks[:-1])


# --- what it is not, and what does harm


def refused(path: Path, tmp_path: Path, match: str) -> None:
    with pytest.raises(errors.ReplayStoreError, match=match):
        rs.convert(path, tmp_path / "target.zarr", source_format="imitation")
    assert not (tmp_path / "target.zarr").exists()


@pytest.mark.parametrize("name", ["../a/data-00000-of-00001.arrow", "/etc/passwd", "..", "", 3, None])
def test_a_file_elsewhere_is_not_opened(name: Any, tmp_path: Path) -> None:
    path = folder(tmp_path / "a", [trajectory(2)])
    (path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    refused(path, tmp_path, "names no tables")


@pytest.mark.parametrize("key", ["obs", "infos", "rews", "acts"])
def test_columns_of_other_lengths(key: str, tmp_path: Path) -> None:
    row = trajectory(3)
    row[key] = row[key][:-1]
    refused(folder(tmp_path / "a", [trajectory(2), row]), tmp_path, "not as many")


OTHERS: list[dict[str, Any]] = [
    {"terminal": 3},
    {"infos": [1, 2]},
    {"obs": ["a", "b", "c"]},
    {"obs": [[1, 2], [1], [2]]},
    {"acts": 3},
]


@pytest.mark.parametrize("change", OTHERS, ids=str)
def test_columns_of_other_kinds(change: dict[str, Any], tmp_path: Path) -> None:
    refused(folder(tmp_path / "a", [trajectory(2) | change]), tmp_path, str(tmp_path / "a"))


def test_no_columns_and_no_rows(tmp_path: Path) -> None:
    refused(folder(tmp_path / "x", [{"obs": [1]}]), tmp_path, "no column")
    refused(folder(tmp_path / "empty", []), tmp_path, "no trajectories|damaged|expected lists|no bool")


def test_files_that_are_damaged_give_an_error_or_a_sound_store(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", [trajectory(n + 1, n) for n in range(5)])
    generator = np.random.default_rng(0)
    files = {file: file.read_bytes() for file in sorted(path.iterdir())}
    for number in range(60):
        file = list(files)[number % len(files)]
        data = bytearray(files[file])
        at = int(generator.integers(len(data)))
        if number % 4:
            data[at] ^= 1 << int(generator.integers(8))
        else:
            del data[at:]
        file.write_bytes(data)
        target = tmp_path / f"{number}.zarr"
        try:
            rs.convert(path, target, source_format="imitation")
        except errors.ReplayStoreError:
            assert not target.exists()
        else:
            assert rs.verify(target).problems == []
        file.write_bytes(files[file])


def test_other_folders_are_none(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "state.json").write_text("{}")

    assert not named("imitation").recognizes(str(tmp_path / "b"))
    assert not named("imitation").recognizes(str(tmp_path / "nothing"))
    refused(tmp_path / "b", tmp_path, "names no tables")
    refused(tmp_path / "nothing", tmp_path, "does not exist")
    (tmp_path / "c").mkdir()
    refused(tmp_path / "c", tmp_path, r"holds no state\.json")
