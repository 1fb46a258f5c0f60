"""The drop-in buffer for active_rlhf follows the original's rules, in memory and in a store."""

from __future__ import annotations

import copy
import hashlib
import importlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
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

from replaystore.buffer import create
from replaystore.buffer import open as open_buffer
from replaystore.compat.active_rlhf import ReplayBuffer, TrajectoryInfo
from replaystore.compat.lazy import LazyTensor
from replaystore.errors import ConflictError, FormatError, NotFoundError, SchemaError, UnsupportedError
from replaystore.schema import Field, Schema

DATA = Path(__file__).parent / "data" / "active_rlhf"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())["samples"]
NAMES = ("obs", "acts", "rews", "dones")
STORES = (".zarr", ".h5")
LENGTH = 3
"""Of the fragments in most tests."""


def spaces(observation: int = 2, action: int = 1) -> Any:
    """As much of a vector environment as a buffer looks at."""
    boxes = [gymnasium.spaces.Box(-1, 1, (width,)) for width in (observation, action)]
    return SimpleNamespace(single_observation_space=boxes[0], single_action_space=boxes[1])


def new(capacity: int, **options: Any) -> ReplayBuffer:
    return ReplayBuffer(spaces(), capacity, **{"fragment_length": LENGTH, "device": "cpu", **options})


def rows(first: int, count: int) -> tuple[torch.Tensor, ...]:
    """Rows whose numbers say which they are, from 1 on."""
    numbers = torch.arange(first + 1.0, first + count + 1)
    return torch.stack([numbers, -numbers], dim=1), numbers.unsqueeze(1) / 2, numbers * 3, numbers % 4 == 0


def filled(capacity: int, *counts: int, split: str = "train") -> ReplayBuffer:
    buffer = new(capacity)
    for count in counts:
        buffer.add(*rows(buffer.global_step, count), split=split)
    return buffer


def commit_of(path: Path) -> int:
    with open_buffer(path) as store:
        return store.commit_id


class Teacher:
    """An agent whose log-probabilities are easy to tell."""

    def get_action_and_value(self, obs: torch.Tensor, acts: torch.Tensor) -> tuple[Any, torch.Tensor, None, None]:
        return acts, torch.sin(obs[:, 0]) + acts[:, 0] / 100, None, None


class Model:
    """The rules, plainly: what is at each place of the ring is the number of a row, 0 for none."""

    def __init__(self, capacity: int, length: int = LENGTH) -> None:
        self.capacity, self.length = capacity, length
        self.places = [0] * capacity
        self.rewards: dict[int, float] = {}
        self.size = self.pos = self.step = 0
        self.trajectories: list[dict[str, Any]] = []

    def add(self, count: int, split: str) -> None:
        start, end = self.pos, self.pos + count
        left = []
        for known in self.trajectories:
            begin, stop = known["start_pos"], known["start_pos"] + known["length"]
            if end <= self.capacity:
                gone = begin < end and stop > start
            else:
                gone = stop > start or begin < end - self.capacity
            if not gone:
                left.append(known)
        for number in range(count):
            self.places[(start + number) % self.capacity] = self.step + number + 1
            self.rewards.pop((start + number) % self.capacity, None)
        info = {"start_pos": start, "length": count, "split": split, "on_policiness_score": 0.0, "last_updated_step": self.step}
        self.trajectories = [*left, info]
        self.pos, self.size, self.step = end % self.capacity, min(self.size + count, self.capacity), self.step + count

    def score(self) -> None:
        for known in self.trajectories:
            obs, acts = self.column("obs", self.of(known)), self.column("acts", self.of(known))
            known["on_policiness_score"] = Teacher().get_action_and_value(obs, acts)[1].sum().item()
            known["last_updated_step"] = self.step

    def of(self, known: dict[str, Any]) -> list[int]:
        return [(known["start_pos"] + number) % self.capacity for number in range(known["length"])]

    def column(self, name: str, places: Any) -> torch.Tensor:
        numbers = torch.tensor(np.array(self.places, np.float32)[np.array(places, np.int64)])
        if name == "obs":
            return torch.stack([numbers, -numbers], dim=-1)
        if name == "rews":
            flat = [self.rewards.get(place, self.places[place] * 3.0) for place in np.array(places, np.int64).reshape(-1)]
            return torch.tensor(flat, dtype=torch.float32).reshape(*numbers.shape, 1)
        return numbers.unsqueeze(-1) / 2 if name == "acts" else ((numbers % 4 == 0) & (numbers > 0)).unsqueeze(-1)

    def sample(self, count: int) -> Any:
        starts = torch.randint(0, self.size, (count,)).tolist()
        return [[(start + step) % self.size for step in range(self.length)] for start in starts]

    def fragments(self, count: int, split: str, *, by_score: bool) -> Any:
        eligible = [known for known in self.trajectories if known["split"] == split and known["length"] >= self.length]
        likely = None
        if by_score:
            scores = np.array([known["on_policiness_score"] for known in eligible])
            if scores.std() > 0:
                above = np.maximum(0, (scores - scores.mean()) / scores.std())
                likely = above / above.sum()
            else:
                likely = np.full(len(scores), 1 / len(scores))
        chosen = np.random.choice(len(eligible), size=count, p=likely) if by_score else np.random.choice(len(eligible), size=count)
        found = []
        for number in chosen:
            known = eligible[number]
            offset = np.random.randint(0, known["length"] - self.length + 1)
            found.append([(known["start_pos"] + offset + step) % self.capacity for step in range(self.length)])
        return found


def assert_follows(buffer: ReplayBuffer, model: Model) -> None:
    """The state, and batches of equal seeds."""
    assert (buffer.size, buffer.pos, buffer.global_step, buffer.capacity) == (model.size, model.pos, model.step, model.capacity)
    assert [vars(info) for info in buffer.trajectories] == model.trajectories
    for name in NAMES:
        expected = model.column(name, range(model.capacity))
        assert getattr(buffer, name).dtype == expected.dtype
        assert torch.equal(getattr(buffer, name)[:], expected), name
    if not model.size:
        return
    assert_batch(lambda: buffer.sample(4), lambda: model.sample(4), model)
    for split in ("train", "val"):
        if any(known["split"] == split and known["length"] >= model.length for known in model.trajectories):
            assert_batch(lambda split=split: buffer.sample2(4, split), lambda split=split: model.fragments(4, split, by_score=False), model)
    everything = buffer.get_all_trajectories()
    places = [place for known in model.trajectories for place in model.of(known)]
    assert all(torch.equal(getattr(everything, name), model.column(name, places)) for name in NAMES)


def assert_batch(ours: Callable[[], Any], places: Callable[[], Any], model: Model) -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    batch = ours()
    torch.manual_seed(7)
    np.random.seed(7)
    expected = places()
    for name in NAMES:
        assert torch.equal(getattr(batch, name), model.column(name, expected)), name


splits = st.sampled_from(["train", "val", "train", "test"])
adding = st.tuples(st.just("add"), st.integers(0, 25), splits)
other = st.tuples(st.sampled_from(["score", "save", "save", "reward"]), st.just(0), st.just(""))


def step(buffer: ReplayBuffer, model: Model, kind: str, count: int, split: str, place: Path) -> None:
    if kind == "add":
        if model.pos + count <= 2 * model.capacity:
            buffer.add(*rows(model.step, count), split=split)
            model.add(count, split)
    elif kind == "score":
        buffer.update_on_policiness_scores(Teacher())
        model.score()
    elif kind == "reward":
        buffer.rews[model.capacity // 2] = 99.0
        model.rewards[model.capacity // 2] = 99.0
    else:
        buffer.save(place)


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
@given(capacity=st.integers(1, 12), operations=st.lists(adding | adding | other, max_size=9), suffix=st.sampled_from(STORES))
def test_a_buffer_saved_again_and_again_is_the_same_when_loaded(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, operations: list[tuple[str, int, str]], suffix: str
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
        assert_batch(lambda: buffer.sample_by_on_policiness(5, Teacher()), lambda: model.fragments(5, "train", by_score=True), model)
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

    def get_action_and_value(self, obs: torch.Tensor, acts: torch.Tensor) -> tuple[Any, torch.Tensor, None, None]:
        mean = self.mean(obs)
        return acts, torch.distributions.Normal(mean, torch.exp(self.deviation.expand_as(mean))).log_prob(acts).sum(1), None, None


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
    return {name: {"shape": list(t.shape), "dtype": str(t.dtype), "sha256": digest(t)} for name, t in tensors.items()}


def as_expected(found: Any, known: Any) -> bool:
    """Whether a call gave what it gave in the original; after what that said, an error may say what to do."""
    return bool(found.startswith(known) if isinstance(known, str) else found == known)


@pytest.mark.parametrize("suffix", ["", ".pkl", *STORES])
@pytest.mark.parametrize("name", EXPECTED)
def test_files_of_the_original_are_loaded_and_sampled_as_it_does(name: str, suffix: str, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    buffer = ReplayBuffer.load(DATA / expected["file"], device="cpu")
    if suffix:
        buffer.save(tmp_path / f"b{suffix}")
        buffer = ReplayBuffer.load(tmp_path / f"b{suffix}", device="cpu")

    for key in ("capacity", "size", "pos", "global_step", "fragment_length"):
        assert getattr(buffer, key) == expected[key]
    facts = [{key: value for key, value in known.items() if key != "content_sha256"} for known in expected["trajectories"]]
    assert [vars(info) for info in buffer.trajectories] == facts
    assert {field: digest(getattr(buffer, field)[:]) for field in NAMES} == {f: expected["tensors"][f]["storage_sha256"] for f in NAMES}
    assert buffer.get_trajectory_statistics() == expected["statistics"]
    for split, known in expected["get_all_trajectories"].items():
        assert as_expected(attempt(lambda split=split: buffer.get_all_trajectories(None if split == "None" else split)), known)
    seeded = expected["seeded"]
    assert as_expected(attempt(lambda: buffer.sample(6)), seeded["sample(6)"])
    for split in ("train", "val"):
        assert as_expected(attempt(lambda split=split: buffer.sample2(6, split)), seeded[f"sample2(6,'{split}')"])
    if "scores_after_update" in expected:
        agent = policy()
        assert attempt(lambda: buffer.sample_by_on_policiness(6, agent)) == seeded["sample_by_on_policiness(6,agent(torch seed 99))"]
        assert [info.on_policiness_score for info in buffer.trajectories] == expected["scores_after_update"]
        assert buffer.get_trajectory_statistics() == expected["statistics_after_update"]


def original() -> Any:
    """The module of the original, from the checkout that ACTIVE_RLHF_SRC names."""
    source = os.environ.get("ACTIVE_RLHF_SRC")
    if not source:
        pytest.skip("ACTIVE_RLHF_SRC does not name a checkout of active_rlhf")
    for folder in (source, os.path.join(source, "src")):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return importlib.import_module("active_rlhf.data.buffers")


def test_the_original_goes_on_as_ours_does(tmp_path: Path) -> None:
    module = original()
    ours, real = new(10), module.ReplayBuffer(spaces(), capacity=10, fragment_length=LENGTH, device="cpu")
    for count, split in ((4, "train"), (5, "val"), (3, "train"), (7, "train")):
        for buffer in (ours, real):
            buffer.add(*rows(ours.global_step if buffer is ours else real.global_step, count), split=split)
        ours.save(tmp_path / "ours.pkl")
        loaded = module.ReplayBuffer.load(str(tmp_path / "ours.pkl"), spaces(), LENGTH, "cpu")
        for other_ in (real, loaded):
            assert [vars(info) for info in other_.trajectories] == [vars(info) for info in ours.trajectories]
            assert all(torch.equal(getattr(other_, name), getattr(ours, name)) for name in NAMES)
            assert (other_.size, other_.pos, other_.global_step) == (ours.size, ours.pos, ours.global_step)
            assert as_expected(attempt(lambda: ours.sample(5)), attempt(lambda other_=other_: other_.sample(5)))
            assert as_expected(attempt(lambda: ours.sample2(5)), attempt(lambda other_=other_: other_.sample2(5)))


# --- what the original gets wrong


def test_rewards_and_dones_may_be_columns() -> None:
    one, two = new(10), new(10)
    obs, acts, rews, dones = rows(0, 4)

    one.add(obs, acts, rews, dones)
    two.add(obs.numpy(), acts, rews.unsqueeze(1), dones.unsqueeze(1).float())

    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in NAMES)


@pytest.mark.parametrize(
    ("place", "value"), [(0, torch.zeros(4, 3)), (1, torch.zeros(3, 1)), (2, torch.zeros(4, 2)), (3, torch.zeros(5)), (2, ["a"] * 4)]
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
    assert logged[8:12] == [(f"replay_buffer/{name}", value, 4) for name, value in zip(names, (1, 1, 0, 2.0), strict=False)]


def test_a_bare_file_name_can_be_saved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    filled(5, 3).save("custom.pkl")

    assert ReplayBuffer.load("custom.pkl", device="cpu").fragment_length == LENGTH
    assert os.listdir() == ["custom.pkl"]
    assert ReplayBuffer.load("custom.pkl", fragment_length=2, device="cpu").fragment_length == 2


def test_a_rollout_is_one_trajectory_in_which_environments_take_turns() -> None:
    obs, acts, rews, dones = rows(0, 6)
    rollout = SimpleNamespace(
        obs=obs.reshape(3, 2, 2), actions=acts.reshape(3, 2, 1), rewards=rews.reshape(3, 2), dones=dones.reshape(3, 2)
    )
    buffer = new(10)

    buffer.add_rollout(rollout, "val")

    assert buffer.trajectories == [TrajectoryInfo(0, 6, "val", 0.0, 0)]
    assert torch.equal(buffer.obs[:6], obs)
    with pytest.raises(SchemaError, match="none of the attributes dones"):
        buffer.add_rollout(SimpleNamespace(**{**vars(rollout), "dones": None}))


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
    assert (len(obs), obs.shape, obs.size(), obs.size(1), obs.ndim, obs.dim(), obs.numel()) == (10, (10, 2), (10, 2), 2, 2, 2, 20)
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


def test_more_rows_than_the_ring_has_are_not_added_to_a_store(lazy: ReplayBuffer) -> None:
    before = list(lazy.trajectories)

    with pytest.raises(UnsupportedError, match="in smaller pieces"):
        lazy.add(*rows(12, 11))
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
        assert store.trajectories["on_policiness_score"].tolist() == [info.on_policiness_score for info in buffer.trajectories]


def test_a_store_that_was_recorded_can_be_sampled_but_not_added_to(tmp_path: Path) -> None:
    flags = {name: Field(np.dtype(bool), (), name) for name in ("terminated", "truncated")}
    shapes = {"observation": (2,), "action": (1,), "reward": ()}
    schema = Schema({name: Field(np.dtype(np.float32), shape, name) for name, shape in shapes.items()} | flags)
    obs, acts, rews, _ = (values.numpy() for values in rows(0, 30))
    ends = np.arange(30) % 10 == 9
    with create(tmp_path / "b.zarr", schema) as store:
        columns = {"observation": obs, "action": acts, "reward": rews, "terminated": ends, "truncated": np.zeros(30, bool)}
        store.append(columns, split="train", final_observation=np.zeros((3, 2), np.float32))

    with ReplayBuffer.load(tmp_path / "b.zarr", spaces(), device="cpu") as lazy:
        assert [info.length for info in lazy.trajectories] == [11] * 3  # the last observation is a row of its own
        assert lazy.dones[:, 0].nonzero().flatten().tolist() == [10, 21, 32]
        lazy.fragment_length = 5
        assert lazy.sample2(4).obs.shape == (4, 5, 2)
    with pytest.raises(UnsupportedError, match="was not saved as a ring"):
        ReplayBuffer.load(tmp_path / "b.zarr", device="cpu", mode="r+")


@pytest.mark.parametrize("suffix", STORES)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_score_is_committed_together_with_when_it_was_updated(in_place: bool, suffix: str, tmp_path: Path) -> None:
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
        from test_compat_active_rlhf import new, rows, Teacher
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
        document = {**store._document.extensions["active_rlhf"]}
    document |= {"capacity": count * blocks, "size": 0, "position": 0, "rows": 0, "global_step": 0, "trajectories": 0, "irregular": []}
    with create(tmp_path / f"big{suffix}", schema) as store:
        store._replace_document(extensions={"active_rlhf": document})
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
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True, timeout=250)

    assert int(done.stdout) < 60


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

    with pytest.raises(SchemaError, match="observations of 2 numbers and actions of 1, and envs has 3 and 1: pass the environment"):
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
