"""What active_rlhf's own buffer gets wrong, and what cannot be loaded is said in one line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import pytest
import torch
from rlhf_buffers import (
    LENGTH,
    NAMES,
    STORES,
    Model,
    Teacher,
    assert_follows,
    filled,
    new,
    rows,
    spaces,
)

from replaystore.compat.active_rlhf import ReplayBuffer, TrajectoryInfo
from replaystore.errors import FormatError, NotFoundError, SchemaError, UnsupportedError

# --- what the original gets wrong


def test_rewards_and_dones_may_be_columns() -> None:
    one, two = new(10), new(10)
    obs, acts, rews, dones = rows(0, 4)

    one.add(obs, acts, rews, dones)
    two.add(obs.numpy(), acts, rews.unsqueeze(1), dones.unsqueeze(1).float())

    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in NAMES)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, torch.zeros(4, 3)),
        (1, torch.zeros(3, 1)),
        (2, torch.zeros(4, 2)),
        (3, torch.zeros(5)),
        (2, ["a"] * 4),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(place: int, value: Any) -> None:
    buffer, model = filled(10, 6), Model(10)
    model.add(6, "train")
    values: list[Any] = list(rows(0, 4))
    values[place] = value

    with pytest.raises(SchemaError, match=NAMES[place]):
        buffer.add(*values)

    assert_follows(buffer, model)


def test_more_rows_than_fit_are_refused_before_anything_is_written() -> None:
    buffer, model = filled(10, 6), Model(10)
    model.add(6, "train")

    with pytest.raises(SchemaError, match="add at most 14"):
        buffer.add(*rows(6, 15))

    assert_follows(buffer, model)


def test_priority_sampling_without_long_trajectories_samples_rows_of_the_split() -> None:
    buffer = new(20)
    for count, split in ((2, "train"), (2, "val"), (2, "train"), (1, "val")):
        buffer.add(*rows(buffer.global_step, count), split=split)

    batch = buffer.sample_by_on_policiness(50, Teacher())

    runs = {tuple(int(value) for value in fragment[:, 0]) for fragment in batch.obs}
    assert runs == {(1, 2, 5), (2, 5, 6), (5, 6, 1), (6, 1, 2)}
    with pytest.raises(ValueError, match="No trajectories found for split: test"):
        buffer.sample_by_on_policiness(3, Teacher(), split="test")


def test_statistics_of_an_empty_buffer_are_logged() -> None:
    logged: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *values: logged.append(values))

    new(5).log_trajectory_statistics(writer, 3)
    buffer = filled(5, 2)
    buffer.log_trajectory_statistics(writer, 4)

    names = ["num_trajectories", "num_train_trajectories", "num_val_trajectories", "mean_trajectory_length"]
    names += [f"{kind}_on_policiness_score" for kind in ("mean", "std", "min", "max")]
    assert [tag for tag, _, _ in logged] == [f"replay_buffer/{name}" for name in names] * 2
    assert logged[:8] == [(f"replay_buffer/{name}", 0, 3) for name in names]
    assert logged[8:12] == [
        (f"replay_buffer/{name}", value, 4) for name, value in zip(names, (1, 1, 0, 2.0), strict=False)
    ]


def test_a_bare_file_name_can_be_saved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    filled(5, 3).save("custom.pkl")

    assert ReplayBuffer.load("custom.pkl", device="cpu").fragment_length == LENGTH
    assert os.listdir() == ["custom.pkl"]
    assert ReplayBuffer.load("custom.pkl", fragment_length=2, device="cpu").fragment_length == 2


def test_a_rollout_is_one_trajectory_in_which_environments_take_turns() -> None:
    obs, acts, rews, dones = rows(0, 6)
    rollout = SimpleNamespace(
        obs=obs.reshape(3, 2, 2),
        actions=acts.reshape(3, 2, 1),
        rewards=rews.reshape(3, 2),
        dones=dones.reshape(3, 2),
    )
    buffer = new(10)

    buffer.add_rollout(rollout, "val")

    assert buffer.trajectories == [TrajectoryInfo(0, 6, "val", 0.0, 0)]
    assert torch.equal(buffer.obs[:6], obs)
    with pytest.raises(SchemaError, match="none of the attributes dones"):
        buffer.add_rollout(SimpleNamespace(**{**vars(rollout), "dones": None}))


# --- errors


def damage(tmp_path: Path, kind: str) -> Path:
    file = tmp_path / "b.pkl"
    buffer = filled(10, 4)
    buffer.save(file)
    if kind == "a half file":
        file.write_bytes(file.read_bytes()[:-30])
    elif kind == "an empty file":
        file.write_bytes(b"")
    elif kind == "another pickle":
        file.write_bytes(pickle.dumps({"capacity": 3}, protocol=4))
    elif kind == "a pickle that runs something":
        file.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    elif kind == "no file":
        file.unlink()
    elif kind == "no store":
        return tmp_path / "none.zarr"
    elif kind == "a folder that is no store":
        (tmp_path / "b.zarr").mkdir()
        return tmp_path / "b.zarr"
    elif kind == "a half store":
        buffer.save(tmp_path / "b.h5")
        (tmp_path / "b.h5").write_bytes((tmp_path / "b.h5").read_bytes()[:5000])
        return tmp_path / "b.h5"
    return file


class Canary:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


DAMAGE: dict[str, type[Exception]] = {
    "a half file": FormatError,
    "an empty file": FormatError,
    "another pickle": FormatError,
    "a pickle that runs something": FormatError,
    "no file": NotFoundError,
    "no store": NotFoundError,
    "a folder that is no store": FormatError,
    "a half store": FormatError,
}


@pytest.mark.parametrize(("kind", "error"), DAMAGE.items(), ids=DAMAGE)
def test_what_cannot_be_loaded_is_said_in_one_line(kind: str, error: type[Exception], tmp_path: Path) -> None:
    path = damage(tmp_path, kind)

    with pytest.raises(error) as caught:
        ReplayBuffer.load(path, device="cpu")

    assert "\n" not in str(caught.value)
    assert 20 < len(str(caught.value)) < 400
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("suffix", [".pkl", *STORES])
def test_another_environment_is_refused(suffix: str, tmp_path: Path) -> None:
    filled(10, 4).save(tmp_path / f"b{suffix}")

    with pytest.raises(
        SchemaError,
        match=("observations of 2 numbers and actions of 1, and envs has 3 and 1: pass the environment"),
    ):
        ReplayBuffer.load(tmp_path / f"b{suffix}", spaces(3), device="cpu")


def test_arguments_that_have_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="capacity must be a positive number"):
        new(0)
    with pytest.raises(SchemaError, match="fragment_length must be a positive number"):
        new(5, fragment_length=0)
    with pytest.raises(SchemaError, match="flatten it"):
        ReplayBuffer(SimpleNamespace(single_observation_space=gymnasium.spaces.Discrete(3)), 5, device="cpu")
    with pytest.raises(SchemaError, match="must be a vector environment"):
        ReplayBuffer(None, 5, device="cpu")
    with pytest.raises(SchemaError, match="split is a string"):
        new(5).add(*rows(0, 2), split=None)  # type: ignore[arg-type]
    filled(5, 2).save(tmp_path / "b.pkl")
    with pytest.raises(SchemaError, match="has no sense"):
        ReplayBuffer.load(tmp_path / "b.pkl", device="cpu", mode="r+")


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="there is such a device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    filled(5, 2).save(tmp_path / "b.zarr")

    with pytest.raises(UnsupportedError, match="pass device='cpu'"):
        ReplayBuffer.load(tmp_path / "b.zarr", device="cuda:7")
    with pytest.raises(UnsupportedError, match="pass device='cpu'"):
        new(5, device="cuda:7")
