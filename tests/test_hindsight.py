"""Goals that are relabelled in hindsight, checked by a plain loop: which, by what, how often, and what steps
earn then."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError

numbers = itertools.count()
ROBOT = {"storage": {"observation/achieved_goal": {"codec": "zstd:1", "chunk_rows": 16}}}
KINDS: dict[str, dict[str, Any]] = {
    "a.zarr": {},
    "a.h5": {},
    "coded.zarr": ROBOT,
    "ring.zarr": {"capacity": 90},
}
SCHEMA = rs.Schema(
    {
        "observation/observation": rs.Field("i8", (), "observation"),
        "observation/achieved_goal": rs.Field("f8", (2,), "observation"),
        "observation/desired_goal": rs.Field("f8", (2,), "observation"),
        "action": rs.Field("i8", (), "action"),
        "reward": rs.Field("f8", (), "reward"),
        "terminated": rs.Field("?", (), "terminated"),
        "info/scale": rs.Field("f8", (), "info"),
    }
)


def compute_reward(achieved: Any, desired: Any, info: Any) -> Any:
    """What a step earns, as the environment says it."""
    return -np.abs(achieved - desired).sum(axis=-1) * info["scale"]


def compute_terminated(achieved: Any, desired: Any, info: Any) -> Any:
    assert set(info) == {"scale"}
    return (achieved == desired).all(axis=-1)


class Walks:
    """Environments that walk: the goal that is achieved says which trajectory and step it is."""

    def __init__(self, buffer: rs.Buffer, envs: int = 3) -> None:
        self.writer, self.envs = buffer.writer(envs), envs
        self.random = np.random.default_rng(0)
        self.walk, self.at = np.arange(envs), np.zeros(envs, "i8")
        self.count = envs
        self.rows: list[tuple[int, int]] = []
        self.lengths: Counter[int] = Counter()
        self.writer.reset(self.seen())

    def seen(self) -> dict[str, Any]:
        return {
            "observation": self.walk * 1000 + self.at,
            "achieved_goal": np.stack([self.walk, self.at], axis=1).astype("f8"),
            "desired_goal": np.stack([self.walk, self.walk * 0 - 5], axis=1).astype("f8"),
        }

    def step(self) -> None:
        self.rows += zip(self.walk.tolist(), self.at.tolist(), strict=True)
        self.lengths.update(self.walk.tolist())
        self.at = self.at + 1
        ends = self.random.random(self.envs) < 0.12
        info = {"info/scale": np.full(self.envs, 2.0)}
        seen = self.seen()
        reward = compute_reward(seen["achieved_goal"], seen["desired_goal"], {"scale": 2.0})
        self.writer.step(self.at.copy(), reward, ends, None, seen, info)
        if ends.any():
            fresh = np.arange(self.count, self.count + ends.sum())
            self.walk = self.walk.copy()
            self.walk[ends], self.at = fresh, np.where(ends, 0, self.at)
            self.count += len(fresh)
            self.writer.reset(self.seen(), mask=ends)


def check(batch: dict[str, Any], walks: Walks, *, flagged: bool) -> list[tuple[int, int, int]]:
    """Each entry is what a plain loop makes of its step; (walk, step, step whose goal it got)."""
    found = []
    for number, row in enumerate(batch["index"].tolist()):
        walk, at = walks.rows[row]
        assert batch["observation/observation"][number] == walk * 1000 + at
        assert batch["next_observation/observation"][number] == walk * 1000 + at + 1
        assert batch["observation/achieved_goal"][number].tolist() == [walk, at]
        achieved = batch["next_observation/achieved_goal"][number]
        assert achieved.tolist() == [walk, at + 1]
        goal = batch["observation/desired_goal"][number]
        assert np.array_equal(goal, batch["next_observation/desired_goal"][number])
        assert goal[0] == walk
        assert batch["reward"][number] == compute_reward(achieved, goal, {"scale": 2.0})
        if batch["relabelled"][number]:
            assert at + 1 <= goal[1] <= walks.lengths[walk]
            assert not flagged or batch["terminated"][number] == (goal[1] == at + 1)
        else:
            assert goal[1] == -5
        found.append((walk, at, int(goal[1])))
    return found


@pytest.mark.parametrize("order", ["uniform", "trajectory", "epoch", "prioritized"])
@pytest.mark.parametrize("name", KINDS)
def test_goals_are_those_of_a_plain_loop(tmp_path: Path, name: str, order: Any) -> None:
    with rs.create(tmp_path / name, SCHEMA, durability="none", **KINDS[name]) as buffer:
        walks = Walks(buffer)
        for number in range(60):
            walks.step()
            if number % 7 == 6:
                buffer.commit()
        walks.writer.flush()
        buffer.commit()
        chosen: dict[str, Any] = {"relabel": "future", "reward": compute_reward, "order": order, "seed": 1}
        sampler = buffer.sampler(64, terminated=compute_terminated, prefetch=0, **chosen)
        plain = buffer.sampler(64, order=order, seed=1, prefetch=0)
        shares = []
        for batch, other in itertools.islice(zip(sampler, plain, strict=True), 20):
            check(batch, walks, flagged=True)
            assert np.array_equal(batch["index"], other["index"])
            shares.append(batch["relabelled"].mean())
            kept = ~batch["relabelled"]
            for field, values in other.items():
                assert np.array_equal(batch[field][kept], values[kept])
        assert abs(np.mean(shares) - 0.8) < 0.12
        assert "relabelled: observation/desired_goal of 80% of the steps" in sampler.explain()
        again = buffer.sampler(64, terminated=compute_terminated, prefetch=0, **chosen)
        if order != "epoch":
            state = sampler.state_dict()
            again.load_state_dict(state)
            out = again.sample()
            expected = sampler.sample()
            assert all(np.array_equal(out[field], values) for field, values in expected.items())
            filled = again.sample(out=out)
            assert filled["relabelled"] is out["relabelled"]
            check(filled, walks, flagged=True)


def test_every_later_goal_is_as_likely(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        walks = Walks(buffer, 1)
        while walks.count < 12:
            walks.step()
        buffer.commit()
        sampler = buffer.sampler(4096, relabel="future", goals=1, reward=compute_reward, seed=0)
        longest = max(walks.lengths, key=lambda walk: walks.lengths[walk])
        length, seen, kept = walks.lengths[longest], Counter[tuple[int, int]](), 0
        for _ in range(25):
            batch = sampler.sample()
            kept += int((~batch["relabelled"]).sum())
            for walk, at, goal in check(batch, walks, flagged=False):
                if walk == longest and goal >= 0:
                    seen[at, goal] += 1
    assert length > 8
    assert abs(kept / (25 * 4096) - 0.5) < 0.01
    assert set(seen) == {(at, goal) for at in range(length) for goal in range(at + 1, length + 1)}
    first = np.array([seen[0, goal] for goal in range(1, length + 1)])
    assert abs(((first - first.mean()) ** 2 / first.mean()).sum() - length) < 6 * np.sqrt(2 * length)


@pytest.mark.parametrize("name", ["a.zarr", "ring.zarr"])
def test_goals_of_what_no_commit_has(tmp_path: Path, name: str) -> None:
    with rs.create(tmp_path / name, SCHEMA, durability="none", **KINDS[name]) as buffer:
        walks = Walks(buffer)
        walks.step()
        sampler = buffer.sampler(32, relabel="future", reward=compute_reward, live=True, seed=0)
        buffer.commit()
        with rs.open(tmp_path / name) as reader:
            other = reader.sampler(32, relabel="future", reward=compute_reward, seed=0, prefetch=0)
            for number in range(80):
                walks.step()
                batch = sampler.sample()
                check(batch, walks, flagged=False)
                if number % 20 == 19:
                    buffer.commit()
                    other.refresh()
                    other.load_state_dict(other.state_dict() | {"batch": number})
                    again = other.sample()
                    assert all(np.array_equal(again[field], values) for field, values in batch.items())


def test_goals_of_several_stores(tmp_path: Path) -> None:
    buffers = [rs.create(tmp_path / f"{number}.zarr", SCHEMA) for number in range(2)]
    both = []
    for buffer in buffers:
        both.append(Walks(buffer, 2))
        for _ in range(20):
            both[-1].step()
        buffer.commit()
    batch = rs.concat(buffers).sampler(128, relabel="future", reward=compute_reward, seed=0).sample()
    assert 0.6 < batch["relabelled"].mean() < 0.95
    for store, walks in enumerate(both):
        mine = batch["store"] == store
        check({name: values[mine] for name, values in batch.items()}, walks, flagged=False)


def test_what_cannot_be_is_one_clear_error(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        walks = Walks(buffer)
        for _ in range(20):
            walks.step()
        buffer.commit()
        future: dict[str, Any] = {"relabel": "future", "reward": compute_reward}
        cases: list[tuple[dict[str, Any], str]] = [
            ({"relabel": "final"}, 'relabel is "future" or None'),
            ({"relabel": "future"}, "give reward=env.unwrapped.compute_reward"),
            ({"reward": compute_reward}, "leave them out"),
            (future | {"goals": 0}, "goals is how many steps"),
            (future | {"fragment_length": 3}, "leave out fragment_length, frame_stack and n_step"),
            (future | {"n_step": 3}, "leave out fragment_length, frame_stack and n_step"),
            (future | {"next_observation": False}, "needs next_observation=True"),
            (future | {"fields": ["reward", "observation/achieved_goal"]}, "called 'desired_goal'"),
            (future | {"fields": ["observation"]}, "computes one reward; batches have 0"),
            (future | {"terminated": 1}, "terminated is a function"),
        ]
        for chosen, message in cases:
            with pytest.raises(ArgumentError) as caught:
                buffer.sampler(4, **chosen)
            assert message in str(caught.value), str(caught.value)
        wrong = buffer.sampler(64, relabel="future", reward=lambda *_: 1.0)
        with pytest.raises(ArgumentError, match=r"reward= returned float64 \(\) for"):
            wrong.sample()


@pytest.mark.torch
def test_data_loaders_relabel_too(tmp_path: Path) -> None:
    from replaystore.torch import BatchDataset, ItemDataset

    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        walks = Walks(buffer)
        for _ in range(20):
            walks.step()
        buffer.commit()
        chosen: dict[str, Any] = {"relabel": "future", "reward": compute_reward}
        batch = next(iter(BatchDataset(buffer, 16, seed=0, **chosen)))
        check({name: values.numpy() for name, values in batch.items()}, walks, flagged=False)
        with pytest.raises(ArgumentError, match="use BatchDataset"):
            ItemDataset(buffer, **chosen)
