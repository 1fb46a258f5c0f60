"""What we write opens in TorchRL's own ReplayBuffer, and we read what it writes: every layout, rings that
were written over, several environments, and the files of tensordicts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.testing import difficult, samples

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    data = pytest.importorskip("torchrl.data", reason="TorchRL is not installed")
    checkpointers = pytest.importorskip("torchrl.data.replay_buffers.checkpointers", reason="TorchRL is old")
    tensordict = pytest.importorskip("tensordict", reason="tensordict is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
LAYOUTS = {
    "memmap": None,
    "flat": "FlatStorageCheckpointer",
    "nested": "NestedStorageCheckpointer",
    "h5": "H5StorageCheckpointer",
}


def episodes(count: int, seed: int, first: int = 0) -> Any:
    """So many transitions in episodes, the last of which goes on, as TorchRL collects them."""
    generator, lengths, left = np.random.default_rng(seed), [], count
    while left:
        lengths.append(min(left, int(generator.integers(1, 9))))
        left -= lengths[-1]
    observed = [generator.normal(size=(length + 1, 3)).astype(np.float32) for length in lengths]
    done = np.zeros((count, 1), np.bool_)
    done[np.cumsum(lengths)[:-1] - 1] = True
    terminated = done & (generator.random((count, 1)) < 0.5)
    flags = {"done": done, "terminated": terminated, "truncated": done & ~terminated}
    made = {
        "observation": np.concatenate([rows[:-1] for rows in observed]),
        "action": generator.normal(size=(count, 2)),
        **{name: np.zeros_like(done) for name in flags},
        "collector": {"traj_ids": np.repeat(np.arange(first, first + len(lengths)), lengths)},
        "next": {
            "observation": np.concatenate([rows[1:] for rows in observed]),
            "reward": generator.normal(size=(count, 1)).astype(np.float32),
            **flags,
        },
    }
    return tensordict.TensorDict.from_dict(made, batch_size=[count])


def dumped(path: Path, layout: str, rows: Any, capacity: int, **more: Any) -> Any:
    """The checkpoint of a buffer that these rows were put into, ten at a time."""
    name = LAYOUTS[layout]
    checkpointer = {} if name is None else {"checkpointer": getattr(checkpointers, name)()}
    storage = data.LazyMemmapStorage(capacity, ndim=rows.ndim)
    buffer = data.ReplayBuffer(storage=storage, batch_size=4, dim_extend=0, **checkpointer, **more)
    for some in rows.split(10):
        buffer.extend(some)
    buffer.dumps(str(path))
    return buffer


def told(location: Path) -> Iterator[tuple[int, dict[str, Any], Any]]:
    """(environment, steps, final observation) of each trajectory of a store."""
    with rs.open(location) as buffer:
        for number in range(buffer.num_trajectories):
            row, columns = buffer.trajectories[number], buffer.trajectory(number).columns
            final = buffer.final_observation(row["trajectory"])
            yield row["env"], {name: np.asarray(values) for name, values in columns.items()}, final


def check(location: Path, lanes: list[Any]) -> None:
    """A store has, lane after lane, the episodes of these rows."""
    found = list(told(location))
    for env, rows in enumerate(lanes):
        ids = rows["collector", "traj_ids"].numpy()
        mine = [(columns, final) for of, columns, final in found if of == env]
        stops = np.append(np.flatnonzero(np.diff(ids)) + 1, len(ids))
        assert [len(columns["action"]) for columns, _ in mine] == np.diff(stops, prepend=0).tolist()
        for (columns, final), start, stop in zip(mine, np.append(0, stops[:-1]), stops, strict=True):
            episode = rows[int(start) : int(stop)]
            for name in ("observation", "action"):
                np.testing.assert_array_equal(columns[name], episode[name].numpy())
            for name in ("reward", "terminated", "truncated"):
                np.testing.assert_array_equal(columns[name], episode["next", name].numpy()[:, 0])
            np.testing.assert_array_equal(final["observation"], episode["next", "observation"][-1].numpy())


# --- what it writes


@pytest.mark.parametrize("count", [30, 50, 73])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_ring_in_any_layout(layout: str, count: int, tmp_path: Path) -> None:
    """Not full, just full, and written over."""
    rows = episodes(count, 1)
    dumped(tmp_path / "a", layout, rows, 50)
    report = rs.convert(tmp_path / "a", tmp_path / "b.zarr")
    assert report.rest.keys() == {"prefetch.pkl", "open"}
    check(tmp_path / "b.zarr", [rows[-50:]])


@pytest.mark.parametrize("count", [12, 27])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_several_environments_in_any_layout(layout: str, count: int, tmp_path: Path) -> None:
    lanes = [episodes(count, seed, 1000 * seed) for seed in range(3)]
    dumped(tmp_path / "a", layout, torch.stack(lanes, 1), 60)
    rs.convert(tmp_path / "a", tmp_path / "b.zarr")
    check(tmp_path / "b.zarr", [rows[-20:] for rows in lanes])


def test_environments_that_took_turns_in_one_ring(tmp_path: Path) -> None:
    """A collector's batches, one environment behind the other: trajectories lie in pieces."""
    lanes = [episodes(30, seed, 1000 * seed) for seed in range(3)]
    pieces = [lane[start : start + 5] for start in range(0, 30, 5) for lane in lanes]
    dumped(tmp_path / "a", "memmap", torch.cat(pieces), 200)
    rs.convert(tmp_path / "a", tmp_path / "b.zarr")
    assert rs.verify(tmp_path / "b.zarr").problems == []
    expected = sum(len(np.unique(lane["collector", "traj_ids"].numpy())) for lane in lanes)
    found = list(told(tmp_path / "b.zarr"))
    assert len(found) == expected
    by_first = {columns["observation"][0].tobytes(): (columns, final) for _, columns, final in found}
    for lane in lanes:
        ids = lane["collector", "traj_ids"].numpy()
        for number in np.unique(ids):
            episode = lane[torch.from_numpy(ids == number)]
            columns, final = by_first[episode["observation"][0].numpy().tobytes()]
            np.testing.assert_array_equal(columns["observation"], episode["observation"].numpy())
            np.testing.assert_array_equal(final["observation"], episode["next", "observation"][-1].numpy())


@pytest.mark.parametrize("kind", ["folder", "a.tdz", "a.td", "a.h5", "a.zarr"])
@pytest.mark.parametrize("batch", [(40,), (4, 40)])
def test_files_of_tensordicts(kind: str, batch: tuple[int, ...], tmp_path: Path) -> None:
    """Of one environment, and of a rollout of four, whose last axis is time."""
    lanes = [episodes(40, seed, 1000 * seed) for seed in range(4 if len(batch) > 1 else 1)]
    rows, path = (torch.stack(lanes) if len(batch) > 1 else lanes[0]), str(tmp_path / kind)
    if kind == "folder":
        rows.memmap(path)
    elif kind == "a.td":
        rows.consolidate(path)
    elif kind == "a.h5":
        if len(batch) > 1:
            pytest.skip("HDF5 does not say how many axes are those of the batch")
        rows.to_h5(path)
    elif kind == "a.zarr":
        pytest.importorskip("zarr", minversion="3", reason="tensordict needs Zarr 3")
        rows.to_zarr(path)
    else:
        rows.memmap(path)
    if not Path(path).exists():
        pytest.skip(f"this tensordict writes no {kind}")
    assert rs.convert(path, tmp_path / "b.zarr").rest.keys() == {"open"}
    check(tmp_path / "b.zarr", lanes)


def test_counters_bfloat16_what_is_no_tensor_and_several_steps_in_one(tmp_path: Path) -> None:
    rows = episodes(40, 1)
    rows["step_count"] = torch.arange(40)[:, None]
    rows["next", "step_count"] = torch.arange(1, 41)[:, None]
    rows["logits"] = torch.randn(40, 2).to(torch.bfloat16)
    rows["note"] = tensordict.NonTensorData("a text", batch_size=[40])
    rows["next", "observation"] = torch.randn(40, 3)
    rows.memmap(str(tmp_path / "a"))

    report = rs.convert(tmp_path / "a", tmp_path / "b.zarr")

    assert any("several steps are one" in remark for remark in report.remarks)
    with rs.open(tmp_path / "b.zarr") as buffer:
        for field in ("step_count", "next/step_count"):
            key = tuple(field.split("/"))
            np.testing.assert_array_equal(buffer[field][:], rows[key].numpy())
        np.testing.assert_array_equal(buffer["logits"][:], rows["logits"].float().numpy())
        np.testing.assert_array_equal(buffer["next/observation"][:], rows["next", "observation"].numpy())


# --- what we write


@pytest.mark.parametrize("storage", ["LazyMemmapStorage", "LazyTensorStorage"])
def test_its_own_buffer_opens_what_we_write(storage: str, tmp_path: Path) -> None:
    schema = samples.small().select(("observation", "action", "reward", "terminated", "truncated"))
    lengths = (7, 1, 12)
    given = [samples.columns(schema, length, length, ends=0.0) for length in lengths]
    finals = [samples.columns(schema, 1, 100 + length, ends=0.0) for length in lengths]
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        for columns, final in zip(given, finals, strict=True):
            columns["truncated"][-1] = True
            after = {name: final[name][0] for name in schema.names("observation")}
            last = len(columns["action"]) - 1
            buffer.append(columns, final_observation=schema.unflatten(after, "observation"), ends=[last])
    rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="torchrl")

    real = data.ReplayBuffer(storage=getattr(data, storage)(20), batch_size=2)
    real.loads(str(tmp_path / "b"))

    assert (len(real), real.writer._cursor, real.write_count) == (20, 0, 20)
    rows = real[:]
    assert rows["collector", "traj_ids"].tolist() == np.repeat(range(3), lengths).tolist()
    for name, declared in schema.fields.items():
        key = ("next", name) if name in ("reward", "terminated", "truncated") else tuple(name.split("/"))
        whole = np.concatenate([columns[name] for columns in given])
        shown = rows[key].numpy()
        assert shown.dtype == declared.dtype
        np.testing.assert_array_equal(shown.reshape(whole.shape), whole)
    assert rows["next", "done"].flatten().nonzero().flatten().tolist() == [6, 7, 19]
    for name in schema.names("observation"):
        after = np.concatenate(
            [
                np.concatenate([columns[name][1:], final[name]])
                for columns, final in zip(given, finals, strict=True)
            ]
        )
        np.testing.assert_array_equal(rows["next", *name.split("/")].numpy(), after)
    assert real.sample(5).batch_size == torch.Size([5])
    real.extend(rows[:3].clone())  # the ring goes on
    assert real.writer._cursor == 3


@pytest.mark.parametrize("name", ["everything", "empty", "integers", "nested", "unflagged", "wide"])
def test_difficult_stores_open_in_it(name: str, tmp_path: Path) -> None:
    difficult.made(str(tmp_path / "a.zarr"), name, 0)
    report = rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="torchrl")
    real = data.ReplayBuffer(storage=data.LazyMemmapStorage(max(1, report.steps)), batch_size=2)
    real.loads(str(tmp_path / "b"))
    assert len(real) == report.steps
    ids = real[:]["collector", "traj_ids"].numpy() if report.steps else np.zeros(0)
    assert len(np.unique(ids)) == report.trajectories


def test_it_goes_on_with_what_we_wrote_and_saves_it_there(tmp_path: Path) -> None:
    """Then what lies beside it is of another buffer, and is left out."""
    schema = samples.small().select(("observation", "action", "reward", "terminated", "truncated"))
    with rs.create(tmp_path / "a.zarr", schema, capacity=32) as buffer:
        buffer.append(samples.columns(schema, 9, 0, ends=0.0), ends=[8], split="train")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="torchrl")
    real = data.ReplayBuffer(storage=data.LazyMemmapStorage(32), batch_size=2)
    real.loads(str(tmp_path / "b"))
    more = real[:4].clone()
    more["collector", "traj_ids"] += 7
    real.extend(more)
    real.dumps(str(tmp_path / "b"))

    report = rs.convert(tmp_path / "b", tmp_path / "c.zarr")

    assert any("gone on with" in remark for remark in report.remarks)
    with rs.open(tmp_path / "c.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == [9, 4]
        assert buffer.trajectories["traj_ids"].tolist() == [0, 7]
