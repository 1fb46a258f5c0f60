"""The drop-in buffer for active_rlhf follows the original's rules, in memory and in a store."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rlhf_buffers import (
    DATA,
    EXPECTED,
    LENGTH,
    NAMES,
    STORES,
    Model,
    Teacher,
    adding,
    assert_batch,
    assert_follows,
    filled,
    new,
    other,
    rows,
    spaces,
    splits,
    step,
)

from replaystore.compat.active_rlhf import ReplayBuffer, TrajectoryInfo
from replaystore.errors import FormatError, NotFoundError, SchemaError, UnsupportedError

# --- the rules


@settings(max_examples=60)
@given(capacity=st.integers(1, 12), operations=st.lists(adding | adding | other, max_size=10))
def test_a_buffer_in_memory_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, operations: list[tuple[str, int, str]]
) -> None:
    place = tmp_path_factory.mktemp("memory") / "b.pkl"
    buffer, model = new(capacity), Model(capacity)
    for operation in operations:
        step(buffer, model, *operation, place)
        assert_follows(buffer, model)
    buffer.save(place)
    assert_follows(ReplayBuffer.load(place, spaces(), device="cpu"), model)
    shutil.rmtree(place.parent)


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    operations=st.lists(adding | adding | other, max_size=9),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_saved_again_and_again_is_the_same_when_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    operations: list[tuple[str, int, str]],
    suffix: str,
) -> None:
    place = tmp_path_factory.mktemp("saved") / f"b{suffix}"
    buffer, model = new(capacity), Model(capacity)
    for operation in [*operations, ("save", 0, "")]:
        step(buffer, model, *operation, place)
        if operation[0] == "save":
            with ReplayBuffer.load(place, spaces(), device="cpu") as lazy:
                assert_follows(lazy, model)
    shutil.rmtree(place.parent)


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    before=st.lists(st.tuples(st.integers(0, 12), splits), max_size=4),
    operations=st.lists(adding | other, max_size=8),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_in_a_store_goes_on_as_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    before: list[tuple[int, str]],
    operations: list[tuple[str, int, str]],
    suffix: str,
) -> None:
    place = tmp_path_factory.mktemp("living") / f"b{suffix}"
    start, model = new(capacity), Model(capacity)
    for count, split in before:
        step(start, model, "add", min(count, capacity), split, place)
    start.save(place)
    with ReplayBuffer.load(place, spaces(), device="cpu", mode="r+") as lazy:
        for kind, count, split in operations:
            step(lazy, model, kind, max(1, min(count, capacity)), split, place)
            assert_follows(lazy, model)
            if kind == "add":
                with ReplayBuffer.load(place, device="cpu") as reader:  # what is added is safe at once
                    assert (reader.size, reader.global_step) == (model.size, model.step)
    with ReplayBuffer.load(place, device="cpu") as again:
        assert_follows(again, model)
    shutil.rmtree(place.parent)


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_the_likelier_fragments_are_those_above_the_mean(counts: list[int]) -> None:
    buffer, model = new(20), Model(20)
    for count in counts:
        step(buffer, model, "add", count, "train", Path())
    model.score()
    if any(known["length"] >= LENGTH for known in model.trajectories):
        assert_batch(
            lambda: buffer.sample_by_on_policiness(5, Teacher()),
            lambda: model.fragments(5, "train", by_score=True),
            model,
        )
        assert [vars(info) for info in buffer.trajectories] == model.trajectories


# --- files of the original


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


class Policy(torch.nn.Module):
    """The Gaussian policy that the samples were scored with."""

    def __init__(self, observation: int, action: int) -> None:
        super().__init__()
        self.critic = torch.nn.Sequential(*self._layers(observation, 1, 1.0))
        self.mean = torch.nn.Sequential(*self._layers(observation, action, 0.01))
        self.deviation = torch.zeros(1, action)

    @staticmethod
    def _layers(width: int, out: int, gain: float) -> Iterator[torch.nn.Module]:
        for inner, outer, scale in ((width, 64, 2**0.5), (64, 64, 2**0.5), (64, out, gain)):
            layer = torch.nn.Linear(inner, outer)
            torch.nn.init.orthogonal_(layer.weight, scale)
            torch.nn.init.constant_(layer.bias, 0.0)
            yield layer
            if outer == 64 and scale != gain:
                yield torch.nn.Tanh()

    def get_action_and_value(
        self, obs: torch.Tensor, acts: torch.Tensor
    ) -> tuple[Any, torch.Tensor, None, None]:
        mean = self.mean(obs)
        return (
            acts,
            torch.distributions.Normal(mean, torch.exp(self.deviation.expand_as(mean))).log_prob(acts).sum(1),
            None,
            None,
        )


def policy() -> Policy:
    torch.manual_seed(99)
    return Policy(17, 6)


def attempt(function: Callable[[], Any]) -> Any:
    """What the samples' facts say of a call."""
    torch.manual_seed(1234)
    np.random.seed(1234)
    try:
        batch = function()
    except (ValueError, RuntimeError) as error:
        return f"{'ValueError' if isinstance(error, ValueError) else 'RuntimeError'}: {error}"
    tensors = {name: getattr(batch, name) for name in NAMES}
    return {
        name: {"shape": list(t.shape), "dtype": str(t.dtype), "sha256": digest(t)}
        for name, t in tensors.items()
    }


def as_expected(found: Any, known: Any) -> bool:
    """Whether a call gave what it gave in the original; after what that said, an error may say what to do."""
    return bool(found.startswith(known) if isinstance(known, str) else found == known)


@pytest.mark.parametrize("suffix", ["", ".pkl", *STORES])
@pytest.mark.parametrize("name", EXPECTED)
def test_files_of_the_original_are_loaded_and_sampled_as_it_does(
    name: str, suffix: str, tmp_path: Path
) -> None:
    expected = EXPECTED[name]
    buffer = ReplayBuffer.load(DATA / expected["file"], device="cpu")
    if suffix:
        buffer.save(tmp_path / f"b{suffix}")
        buffer = ReplayBuffer.load(tmp_path / f"b{suffix}", device="cpu")

    for key in ("capacity", "size", "pos", "global_step", "fragment_length"):
        assert getattr(buffer, key) == expected[key]
    facts = [
        {key: value for key, value in known.items() if key != "content_sha256"}
        for known in expected["trajectories"]
    ]
    assert [vars(info) for info in buffer.trajectories] == facts
    assert {field: digest(getattr(buffer, field)[:]) for field in NAMES} == {
        f: expected["tensors"][f]["storage_sha256"] for f in NAMES
    }
    assert buffer.get_trajectory_statistics() == expected["statistics"]
    for split, known in expected["get_all_trajectories"].items():
        assert as_expected(
            attempt(lambda split=split: buffer.get_all_trajectories(None if split == "None" else split)),
            known,
        )
    seeded = expected["seeded"]
    assert as_expected(attempt(lambda: buffer.sample(6)), seeded["sample(6)"])
    for split in ("train", "val"):
        assert as_expected(
            attempt(lambda split=split: buffer.sample2(6, split)), seeded[f"sample2(6,'{split}')"]
        )
    if "scores_after_update" in expected:
        agent = policy()
        assert (
            attempt(lambda: buffer.sample_by_on_policiness(6, agent))
            == seeded["sample_by_on_policiness(6,agent(torch seed 99))"]
        )
        assert [info.on_policiness_score for info in buffer.trajectories] == expected["scores_after_update"]
        assert buffer.get_trajectory_statistics() == expected["statistics_after_update"]


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
