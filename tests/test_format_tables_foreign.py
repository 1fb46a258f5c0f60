"""Tables of steps that others wrote: what their columns are, where trajectories end, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import FormatError
from replaystore.formats.finding import find
from replaystore.schema.fields import Schema

pa = pytest.importorskip("pyarrow", reason="it is the extra 'arrow'")
pq = pytest.importorskip("pyarrow.parquet")
ipc = pytest.importorskip("pyarrow.ipc")

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


def table(path: Path, /, **columns: Any) -> str:
    """A file with these columns; a list of pairs is in the order given."""
    pq.write_table(pa.table({name.replace("__", "."): values for name, values in columns.items()}), path)
    return str(path)


def read(path: str | Path, folder: Path) -> tuple[Any, list[Any], Any]:
    """The buffer, its trajectories, and the report."""
    report = convert(path, folder / "read.zarr", overwrite=True)
    buffer = rs.open(folder / "read.zarr")
    return buffer, [buffer.trajectory(at) for at in range(buffer.num_trajectories)], report


OBS = [[0.0, 1.0], [1.0, 2.0], [2.0, 3.0], [9.0, 9.0], [8.0, 8.0]]
NEXT = [[1.0, 2.0], [2.0, 3.0], [5.0, 5.0], [8.0, 8.0], [7.0, 7.0]]
FIVE: dict[str, Any] = {"obs": OBS, "action": [1, 2, 3, 4, 5], "rewards": [0.5, 1.0, 1.5, 2.0, 2.5]}


def test_names_of_others_become_ours_and_lists_of_one_length_arrays(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", **FIVE, episode=[7, 7, 7, 9, 9], dones=[0, 0, 1, 0, 1])

    assert find(path) == "parquet"
    buffer, (one, two), report = read(path, tmp_path)

    assert dict(buffer.schema.fields) == {
        "observation": rs.Field("float64", (2,), "observation"),
        "action": rs.Field("int64", (), "action"),
        "reward": rs.Field("float64", (), "reward"),
        "dones": rs.Field("int64", (), "extra"),
    }
    assert (len(one), len(two)) == (3, 2)
    assert buffer.trajectories["episode"].tolist() == [7, 9]
    np.testing.assert_array_equal(one["observation"], OBS[:3])
    assert two["action"].tolist() == [4, 5]
    assert not buffer.trajectories.terminated.any()
    assert report.fields["episode"].kind == "derived"


def test_flags_end_trajectories_where_no_column_tells_them_apart(tmp_path: Path) -> None:
    flags = {"terminateds": [False, False, True, False, False], "timeouts": [0, 0, 0, 0, 1]}
    buffer, found, report = read(table(tmp_path / "a.parquet", **FIVE, **flags), tmp_path)

    assert [len(one) for one in found] == [3, 2]
    assert buffer.trajectories.terminated.tolist() == [True, False]
    assert buffer.trajectories.truncated.tolist() == [False, True]
    assert buffer.schema.fields["truncated"] == rs.Field("bool", (), "truncated")
    assert report.remarks == []


def test_done_ends_them_where_there_are_no_such_flags(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", **FIVE, done=[False, False, True, False, False])
    buffer, found, _ = read(path, tmp_path)

    assert [len(one) for one in found] == [3, 2]
    assert "done" in buffer.schema.fields
    assert not (buffer.trajectories.terminated | buffer.trajectories.truncated).any()


def test_without_any_all_rows_are_one_and_it_is_said(tmp_path: Path) -> None:
    _, found, report = read(table(tmp_path / "a.parquet", **FIVE), tmp_path)

    assert [len(one) for one in found] == [5]
    assert "all rows are one trajectory" in report.remarks[0]


def test_next_observations_are_found_again_in_the_next_rows(tmp_path: Path) -> None:
    """And what followed a last step is its final observation; where the next row is another, it is kept."""
    torn = [*NEXT[:1], [4.0, 4.0], *NEXT[2:]]
    for given in (NEXT, torn):
        path = table(tmp_path / "a.parquet", **FIVE, next_obs=given, episode=[0, 0, 0, 1, 1])
        buffer, (one, two), report = read(path, tmp_path)

        assert "next_observation" not in buffer.schema.fields
        np.testing.assert_array_equal(one.final_observation, NEXT[2])
        np.testing.assert_array_equal(two.final_observation, NEXT[4])
        assert report.fields["next_observation"].kind == "derived"
        np.testing.assert_array_equal(one["next_observation"], given[:3])
        buffer.close()


def test_next_observations_of_another_form_are_a_field(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", **FIVE, next_obs=[[1], [2], [3], [4], [5]], episode=[0] * 5)
    buffer, _, _ = read(path, tmp_path)

    assert buffer.schema.fields["next_observation"].shape == (1,)


def test_structs_dots_and_slashes_are_nested(tmp_path: Path) -> None:
    columns = {
        "observation.state": pa.array(OBS, pa.list_(pa.float32(), 2)),
        "observation.wrist": [1, 2, 3, 4, 5],
        "info": pa.array([{"a": {"b": at}, "c": "x" * at} for at in range(5)]),
        "action/left": [1.0] * 5,
        "next.reward": [0.0] * 5,
        "trajectory_id": ["a", "a", "b", "b", "b"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    buffer, found, _ = read(tmp_path / "a.parquet", tmp_path)

    fields = buffer.schema.fields
    assert fields["observation/state"] == rs.Field("float32", (2,), "observation")
    assert fields["info/a/b"] == rs.Field("int64", (), "info")
    assert fields["info/c"].text
    assert fields["action/left"].role == "action"
    assert fields["next.reward"].role == "extra"
    assert fields["trajectory_id"].text
    assert [len(one) for one in found] == [2, 3]
    assert found[1]["info/c"].tolist() == ["xx", "xxx", "xxxx"]


def test_lists_of_several_lengths_are_values_of_any_length(tmp_path: Path) -> None:
    columns = {
        "tokens": [[1], [], [2, 3], [4], []],
        "image": [b"ab", b"", b"c", b"d", b"e"],
        "t": list("abcde"),
    }
    columns |= {"points": [[[1.0, 2.0]], [], [], [], []], "deep": [[[1], [2, 3]], [], [], [], []]}
    buffer, (one,), report = read(table(tmp_path / "a.parquet", **FIVE, **columns), tmp_path)

    assert buffer.schema.fields["tokens"] == rs.Field("int64", (None,), "extra")
    assert one["tokens"].tolist() == columns["tokens"]
    assert one["image"].lengths.tolist() == [2, 0, 1, 1, 1]
    assert one["t"].tolist() == list("abcde")
    assert one["points"].tolist() == columns["points"]
    assert report.fields["deep"].kind == "lost"


def test_what_no_field_holds_is_left_out_and_said(tmp_path: Path) -> None:
    columns = {
        "agent_id": pa.nulls(5),
        "calls": pa.array([[{"a": 1}]] * 5),
        "price": pa.nulls(5, pa.decimal128(20, 2)),
        "reward": pa.array([["x"]] * 5),
    }
    buffer, _, report = read(table(tmp_path / "a.parquet", **{**FIVE, **columns}), tmp_path)

    assert {name for name, fate in report.fields.items() if fate.kind == "lost"} == {
        "agent_id", "calls", "price", "reward",
    }  # fmt: skip
    assert "action" in buffer.schema.fields


def test_floats_that_are_not_there_are_nan_and_others_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", **FIVE, speed=[1.0, None, 2.0, 3.0, 4.0])
    _, (one,), _ = read(path, tmp_path)
    np.testing.assert_array_equal(one["speed"], [1.0, np.nan, 2.0, 3.0, 4.0])

    path = table(tmp_path / "b.parquet", **FIVE, count=[1, None, 2, 3, 4])
    with pytest.raises(FormatError, match=r"column 'count'.*null"):
        convert(path, tmp_path / "b.zarr")
    assert not (tmp_path / "b.zarr").exists()


def test_rows_of_a_trajectory_that_lie_apart_are_refused(tmp_path: Path) -> None:
    for told in ([0, 0, 1, 0, 0], [3, 1, 1, 3, 3], list("aabaa")):
        path = table(tmp_path / "a.parquet", **FIVE, episode_index=told)
        with pytest.raises(FormatError, match="do not lie together"):
            convert(path, tmp_path / "a.zarr", overwrite=True)
    path = table(tmp_path / "a.parquet", **FIVE, episode_index=[5, 5, 3, 4, 4])
    assert [len(one) for one in read(path, tmp_path)[1]] == [2, 1, 2]


def test_flags_that_are_neither_0_nor_1_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", **FIVE, terminated=[0, 2, 0, 0, 1])
    with pytest.raises(FormatError, match="neither 0 nor 1"):
        convert(path, tmp_path / "a.zarr")


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(pa.table({"obs": OBS[:2], "episode": [0, 0]}), folder / "part-0.parquet")
    pq.write_table(pa.table({"obs": OBS[2:], "episode": [0, 1, 1]}), folder / "part-1.parquet")
    (folder / "_SUCCESS").touch()

    assert find(folder) == "parquet"
    _, found, _ = read(folder, tmp_path)
    assert [len(one) for one in found] == [3, 2]

    pq.write_table(pa.table({"obs": [1, 2]}), folder / "part-2.parquet")
    with pytest.raises(FormatError, match="other columns"):
        convert(folder, tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_with_and_without_a_footer(tmp_path: Path, kind: str) -> None:
    made = pa.table({**FIVE, "episode": pa.array([0, 0, 0, 1, 1]).dictionary_encode()})
    path = tmp_path / "a.arrow"
    with path.open("wb") as file, getattr(ipc, f"new_{kind}")(file, made.schema) as writer:
        for batch in made.to_batches(2):
            writer.write_batch(batch)

    assert find(path) == "arrow"
    _, found, _ = read(path, tmp_path)
    assert [len(one) for one in found] == [3, 2]


def test_columns_of_the_same_meaning_do_not_meet(tmp_path: Path) -> None:
    columns = {"observation": OBS, "observation_": OBS, "obs": OBS, "reward": [1.0] * 5, "terminated": OBS}
    buffer, _, _ = read(table(tmp_path / "a.parquet", **columns, **{"next": OBS, "next/x": OBS}), tmp_path)

    assert set(buffer.schema.fields) == {
        "observation", "observation_", "obs", "reward", "terminated_", "next_", "next/x",
    }  # fmt: skip


# --- real files


def truth(name: str) -> list[dict[str, Any]]:
    """The rollouts that the samples hold, trajectory by trajectory; observations have one row more."""
    path = SAMPLES / "truth" / f"{name}.npz"
    if not path.exists():
        pytest.skip("the samples of other libraries' files are not here")
    known = dict(np.load(path))
    found, begin = [], 0
    for number, length in enumerate(known["ep_len"].tolist()):
        rows = slice(begin, begin + length)
        seen = slice(begin + number, begin + number + length + 1)
        one = {key: known[key][rows] for key in ("act", "rew", "terminated", "truncated")}
        found.append(one | {key: known[key][seen] for key in known if key.startswith("obs")})
        begin += length
    return found


def test_columns_of_rllib(tmp_path: Path) -> None:
    wanted = truth("dictobs")
    path = SAMPLES / "rllib-dictobs" / "columns" / "part-000000.parquet"
    buffer, found, report = read(path, tmp_path)

    assert len(found) == len(wanted)
    by_length = sorted(range(len(found)), key=lambda at: (len(found[at]), found[at]["observation/obs"][0, 0]))
    truths = sorted(wanted, key=lambda one: (len(one["act"]), one["obs.obs"][0, 0]))
    for at, one in zip(by_length, truths, strict=True):
        mine = found[at]
        np.testing.assert_array_equal(mine["observation/obs"], one["obs.obs"][:-1])
        np.testing.assert_array_equal(mine["observation/time"], one["obs.time"][:-1])
        np.testing.assert_array_equal(mine.final_observation["observation/obs"], one["obs.obs"][-1])
        np.testing.assert_array_equal(mine["action"], one["act"])
        np.testing.assert_array_equal(mine["terminated"], one["terminated"])
        np.testing.assert_array_equal(mine["truncated"], one["truncated"])
    assert buffer.schema.fields["observation/time"] == rs.Field("int32", (1,), "observation")
    assert report.fields["agent_id"].kind == "lost"
    assert isinstance(buffer.schema, Schema)
