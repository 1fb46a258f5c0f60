"""The drop-in buffer for active_rlhf on a store: lazy, and like one in memory."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rlhf_buffers import (
    NAMES,
    STORES,
    Model,
    Teacher,
    assert_follows,
    commit_of,
    filled,
    rows,
    spaces,
)

from replaystore.buffers.create_open import create
from replaystore.buffers.create_open import open as open_buffer
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.compat.lazy import LazyTensor
from replaystore.errors import ConflictError, SchemaError, UnsupportedError
from replaystore.schema.fields import Field, Schema

# --- lazy buffers


@pytest.fixture
def lazy(tmp_path: Path) -> Iterator[ReplayBuffer]:
    buffer = filled(10, 4, 5, 3)
    buffer.save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr", device="cpu", mode="r+") as loaded:
        yield loaded


INDICES: dict[str, Any] = {
    "a number": 3,
    "a negative number": -1,
    "a slice": slice(2, 9, 3),
    "a slice backwards by list": [7, 2, 2, -1],
    "a tensor": torch.tensor([[0, 9], [4, 4]]),
    "an array": np.array([1, 8]),
    "a mask": torch.arange(10) % 3 == 0,
    "an array mask": np.arange(10) % 2 == 0,
    "nothing": [],
    "an ellipsis": ...,
    "a row and a column": (3, 1),
    "rows and a column": (slice(1, 4), 0),
    "a mask and columns": (torch.arange(10) > 6, slice(0, 1)),
    "a new axis": (None, 2),
    "an ellipsis and a column": (..., 1),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_lazy_tensor_is_indexed_as_a_tensor(index: Any, lazy: ReplayBuffer) -> None:
    expected = filled(10, 4, 5, 3).obs
    key = index.copy() if isinstance(index, np.ndarray) else index

    assert torch.equal(lazy.obs[key], expected[key])


def test_a_lazy_tensor_does_what_a_tensor_does(lazy: ReplayBuffer) -> None:
    obs, expected = lazy.obs, filled(10, 4, 5, 3).obs

    assert isinstance(obs, LazyTensor)
    assert (len(obs), obs.shape, obs.size(), obs.size(1), obs.ndim, obs.dim(), obs.numel()) == (
        10,
        (10, 2),
        (10, 2),
        2,
        2,
        2,
        20,
    )
    assert (obs.dtype, obs.device) == (torch.float32, torch.device("cpu"))
    for function in (
        lambda x: x.cpu(),
        lambda x: x.to(torch.float64),
        torch.as_tensor,
        lambda x: torch.from_numpy(x.numpy()),
        lambda x: torch.from_numpy(np.asarray(x)),
        lambda x: torch.stack(list(x)),
        lambda x: x + 1,
        lambda x: 2 * x - x / 3,
        lambda x: x @ x.T,
        lambda x: x == 1,
        lambda x: x.mean(dim=0),
        lambda x: torch.cat([x, x]),
        torch.nn.functional.relu,
    ):
        assert torch.equal(function(obs), function(expected))
    with pytest.raises(IndexError, match="index 10 is out of bounds"):
        obs[10]
    with pytest.raises(IndexError, match="indexed by integers"):
        obs[torch.zeros(3)]
    with pytest.raises(UnsupportedError, match="set rows with"):
        obs.zero_()
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = obs.colour


def test_copies_of_a_lazy_tensor_are_tensors_and_the_buffer_is_not_copied(lazy: ReplayBuffer) -> None:
    stream = io.BytesIO()
    torch.save(lazy.acts, stream)
    stream.seek(0)
    for copied in (copy.deepcopy(lazy.obs), copy.copy(lazy.obs), pickle.loads(pickle.dumps(lazy.obs))):
        assert type(copied) is torch.Tensor
        assert torch.equal(copied, lazy.obs.materialize())
    assert torch.equal(torch.load(stream), lazy.acts.materialize())
    for refused in (lambda: copy.deepcopy(lazy), lambda: pickle.dumps(lazy)):
        with pytest.raises(UnsupportedError, match="neither copied nor pickled: load it where it is needed"):
            refused()


def test_what_is_set_in_a_lazy_tensor_reaches_the_store(tmp_path: Path) -> None:
    buffer = filled(10, 4, 5, 3)
    buffer.save(tmp_path / "b.zarr")

    with ReplayBuffer.load(tmp_path / "b.zarr", device="cpu", mode="r+") as lazy:
        for changed in (buffer, lazy):
            changed.rews[torch.tensor([1, 8])] = torch.tensor([[5.0], [6.0]])
            changed.obs[2:4, 1] = 0.5
            changed.dones = ~changed.dones[:]
            changed.trajectories[0].split = "val"
        assert torch.equal(lazy.rews[:], buffer.rews)

    with ReplayBuffer.load(tmp_path / "b.zarr", device="cpu") as again:
        assert all(torch.equal(getattr(again, name)[:], getattr(buffer, name)) for name in NAMES)
        assert again.trajectories == buffer.trajectories
        with pytest.raises(ConflictError, match=r"load it with mode='r\+'"):
            again.rews[0] = 1.0


@pytest.mark.parametrize("suffix", STORES)
def test_a_buffer_for_reading_refuses_what_would_change_it(suffix: str, tmp_path: Path) -> None:
    filled(10, 4).save(tmp_path / f"b{suffix}")

    with ReplayBuffer.load(tmp_path / f"b{suffix}", device="cpu") as lazy:
        with pytest.raises(ConflictError, match=r"load it with mode='r\+'"):
            lazy.add(*rows(4, 2))
        with pytest.raises(ConflictError, match=r"load it with mode='r\+'"):
            lazy.save(tmp_path / f"b{suffix}")
        with pytest.raises(SchemaError, match="follows from its rows"):
            lazy.pos = 3
        assert lazy.global_step == 4
        assert len(lazy.trajectories) == 1
        lazy.update_on_policiness_scores(Teacher())
        lazy.save(tmp_path / "copy.pkl")
        assert ReplayBuffer.load(tmp_path / "copy.pkl", device="cpu").trajectories == lazy.trajectories


def test_a_trajectory_without_rows_is_not_added_to_a_store(lazy: ReplayBuffer) -> None:
    before = list(lazy.trajectories)

    with pytest.raises(UnsupportedError, match="no rows"):
        lazy.add(*rows(12, 0))

    assert lazy.trajectories == before


def test_saving_again_writes_only_what_is_new(tmp_path: Path) -> None:
    buffer, place = filled(50_000, 2000, 2000), tmp_path / "b.zarr"
    buffer.save(place)
    with open_buffer(place) as store:
        made = store.provenance

    for _ in range(3):
        buffer.add(*rows(buffer.global_step, 500), split="val")
        buffer.update_on_policiness_scores(Teacher())
        buffer.save(place)

    with open_buffer(place) as store:
        assert (store.provenance, len(store), store.num_trajectories) == (made, 5500, 5)
        assert store.trajectories["split"].tolist() == ["train"] * 2 + ["val"] * 3
        assert store.trajectories["on_policiness_score"].tolist() == [
            info.on_policiness_score for info in buffer.trajectories
        ]


def test_a_store_that_was_recorded_can_be_sampled_but_not_added_to(tmp_path: Path) -> None:
    flags = {name: Field(np.dtype(bool), (), name) for name in ("terminated", "truncated")}
    shapes = {"observation": (2,), "action": (1,), "reward": ()}
    schema = Schema(
        {name: Field(np.dtype(np.float32), shape, name) for name, shape in shapes.items()} | flags
    )
    obs, acts, rews, _ = (values.numpy() for values in rows(0, 30))
    ends = np.arange(30) % 10 == 9
    with create(tmp_path / "b.zarr", schema) as store:
        columns = {
            "observation": obs,
            "action": acts,
            "reward": rews,
            "terminated": ends,
            "truncated": np.zeros(30, bool),
        }
        store.append(columns, split="train", final_observation=np.zeros((3, 2), np.float32))

    with ReplayBuffer.load(tmp_path / "b.zarr", spaces(), device="cpu") as lazy:
        # The last observation is a row of its own.
        assert [info.length for info in lazy.trajectories] == [11] * 3
        assert lazy.dones[:, 0].nonzero().flatten().tolist() == [10, 21, 32]
        lazy.fragment_length = 5
        assert lazy.sample2(4).obs.shape == (4, 5, 2)
    with pytest.raises(UnsupportedError, match="was not saved as a ring"):
        ReplayBuffer.load(tmp_path / "b.zarr", device="cpu", mode="r+")


@pytest.mark.parametrize("suffix", STORES)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_score_is_committed_together_with_when_it_was_updated(
    in_place: bool, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / ("a" + suffix)
    buffer = filled(20, 4, 5)
    buffer.save(path)
    before = commit_of(path)
    if in_place:
        buffer = ReplayBuffer.load(path, device="cpu", mode="r+")
    for number, info in enumerate(buffer.trajectories):
        info.on_policiness_score, info.last_updated_step, info.split = -5.0 - number, 9, "val"
    buffer.save(path)
    buffer.close()

    seen = []
    for commit in range(before, commit_of(path) + 1):
        with open_buffer(path, commit=commit) as store:
            table = store.trajectories
            names = ("on_policiness_score", "last_updated_step", "split")
            seen.append([tuple(row) for row in zip(*(table[name].tolist() for name in names), strict=True)])
    assert seen[0] == [(0.0, 0, "train"), (0.0, 4, "train")]
    assert seen[-1] == [(-5.0, 9, "val"), (-6.0, 9, "val")]
    assert all(rows in (seen[0], seen[-1]) for rows in seen), "a kill leaves the old ones or the new ones"


def test_a_killed_writer_leaves_all_that_was_added(tmp_path: Path) -> None:
    program = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from rlhf_buffers import new, rows, Teacher
        buffer = new(20)
        for number in range(8):
            buffer.add(*rows(buffer.global_step, 4), split="val" if number % 2 else "train")
            buffer.update_on_policiness_scores(Teacher())
            buffer.save({str(tmp_path / "b.zarr")!r})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=120)

    model = Model(20)
    for number in range(8):
        model.add(4, "val" if number % 2 else "train")
        model.score()
    with ReplayBuffer.load(tmp_path / "b.zarr", device="cpu") as lazy:
        assert_follows(lazy, model)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("suffix", STORES)
def test_sampling_from_a_store_takes_no_memory_of_its_size(suffix: str, tmp_path: Path) -> None:
    width, count, blocks = 256, 8192, 16  # 8 MiB a block, 128 MiB of observations
    big = spaces(width, 1)
    buffer = ReplayBuffer(big, count, fragment_length=50, device="cpu")
    buffer.add(torch.rand(count, width), torch.zeros(count, 1), torch.zeros(count), torch.zeros(count))
    buffer.save(tmp_path / f"b{suffix}")
    with open_buffer(tmp_path / f"b{suffix}") as store:
        schema = store.schema
        columns = store.read(slice(None))
        document = {**store._document.extensions["ring"]}
    document |= {
        "capacity": count * blocks,
        "size": 0,
        "position": 0,
        "rows": 0,
        "global_step": 0,
        "trajectories": 0,
        "irregular": [],
    }
    with create(tmp_path / f"big{suffix}", schema) as store:
        store._replace_document(extensions={"ring": document})
        for _ in range(blocks):
            store.append(columns, ends=[count - 1], split="train")
    program = f"""
        from pathlib import Path
        from replaystore.compat.active_rlhf import ReplayBuffer
        def anonymous():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) >> 10
        before = anonymous()
        buffer = ReplayBuffer.load({str(tmp_path / f"big{suffix}")!r}, device="cpu")
        for _ in range(200):
            assert buffer.sample2(32).obs.shape == (32, 50, {width})
            buffer.sample(32)
        assert buffer.size == {count * blocks}
        print(anonymous() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
    )

    assert int(done.stdout) < 60
