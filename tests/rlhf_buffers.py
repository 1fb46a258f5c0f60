"""Buffers of active_rlhf to test with, a model of the original, and what the original gave."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch
from hypothesis import strategies as st
from real_projects import checkout

from replaystore.buffers.create_open import open as open_buffer
from replaystore.compat.active_rlhf import ReplayBuffer

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


def original() -> Any:
    """The module `active_rlhf.data.buffers` of a checkout of that project, which ACTIVE_RLHF_SRC names: see
    `checkout`."""
    root = checkout("ACTIVE_RLHF_SRC", "active-rlhf", "active_rlhf/data/buffers.py")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return importlib.import_module("active_rlhf.data.buffers")


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

    def get_action_and_value(
        self, obs: torch.Tensor, acts: torch.Tensor
    ) -> tuple[Any, torch.Tensor, None, None]:
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
        info = {
            "start_pos": start,
            "length": count,
            "split": split,
            "on_policiness_score": 0.0,
            "last_updated_step": self.step,
        }
        self.trajectories = [*left, info]
        self.pos, self.size, self.step = (
            end % self.capacity,
            min(self.size + count, self.capacity),
            self.step + count,
        )

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
            flat = [
                self.rewards.get(place, self.places[place] * 3.0)
                for place in np.array(places, np.int64).reshape(-1)
            ]
            return torch.tensor(flat, dtype=torch.float32).reshape(*numbers.shape, 1)
        return (
            numbers.unsqueeze(-1) / 2
            if name == "acts"
            else ((numbers % 4 == 0) & (numbers > 0)).unsqueeze(-1)
        )

    def sample(self, count: int) -> Any:
        starts = torch.randint(0, self.size, (count,)).tolist()
        return [[(start + step) % self.size for step in range(self.length)] for start in starts]

    def fragments(self, count: int, split: str, *, by_score: bool) -> Any:
        eligible = [
            known for known in self.trajectories if known["split"] == split and known["length"] >= self.length
        ]
        likely = None
        if by_score:
            scores = np.array([known["on_policiness_score"] for known in eligible])
            if scores.std() > 0:
                above = np.maximum(0, (scores - scores.mean()) / scores.std())
                likely = above / above.sum()
            else:
                likely = np.full(len(scores), 1 / len(scores))
        chosen = (
            np.random.choice(len(eligible), size=count, p=likely)
            if by_score
            else np.random.choice(len(eligible), size=count)
        )
        found = []
        for number in chosen:
            known = eligible[number]
            offset = np.random.randint(0, known["length"] - self.length + 1)
            found.append(
                [(known["start_pos"] + offset + step) % self.capacity for step in range(self.length)]
            )
        return found


def assert_follows(buffer: ReplayBuffer, model: Model) -> None:
    """The state, and batches of equal seeds."""
    assert (buffer.size, buffer.pos, buffer.global_step, buffer.capacity) == (
        model.size,
        model.pos,
        model.step,
        model.capacity,
    )
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
            assert_batch(
                lambda split=split: buffer.sample2(4, split),
                lambda split=split: model.fragments(4, split, by_score=False),
                model,
            )
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
